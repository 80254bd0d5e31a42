"""How much a test goes through: less in `make test`, all of it in `make test-all`."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("DETDISTILL_THOROUGH") == "1"


def cases(few: int, many: int) -> int:
    """So many drawn cases: `few`, or `many` where there is time."""
    return many if THOROUGH else few
