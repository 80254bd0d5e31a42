"""The run-time checker of every annotation: beartype, for which an int is a float too, as for a type checker."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
