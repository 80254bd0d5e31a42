"""Seeds that depend on nothing but what they are made from."""

from __future__ import annotations

import hashlib


def draw_seed(*numbers: int) -> int:
    """A seed that depends on nothing but `numbers`: the same on every machine, in every process and version.

    Args:
        numbers: any integers; their order and their count matter.

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
