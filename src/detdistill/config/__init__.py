"""Config files and `key.sub=value` settings, checked and turned into the plain settings that jobs take."""

from detdistill.config.run_file import read_run_config, run_schema

__all__ = ["read_run_config", "run_schema"]
