"""One module per detector family: its settings, its presets, and the adapter that shows what it saw."""
