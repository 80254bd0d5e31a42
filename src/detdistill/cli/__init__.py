"""The command line: thin functions over `detdistill.jobs`; exit 0 done, 2 bad input, 130 interrupted and saved.

This package imports neither torch nor a job before a command runs, so that `--help` answers at once and the threads'
settings are made before torch loads.
"""

from detdistill.cli.app import main

__all__ = ["main"]
