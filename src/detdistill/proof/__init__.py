"""Whether distillation helped: figures in, words and figures out; nothing here trains or reads files."""
