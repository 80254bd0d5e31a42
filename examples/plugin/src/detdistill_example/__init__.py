"""A method, a detector family and a data format for detdistill; `pyproject.toml` says where each is."""
