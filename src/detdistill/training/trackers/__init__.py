"""What a run's figures are told to beside its files: one tracker a file, imported only when it is named."""
