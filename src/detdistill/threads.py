"""Keeps waiting threads from burning a core that somebody else could use."""

from __future__ import annotations

import os


def quiet_threads() -> None:
    """Asks OpenMP's threads to sleep while they wait; call it before torch is imported.

    By default they spin at every barrier, which makes a training step up to nine times slower as soon as another
    process uses a core of the same machine. A value that the user has set stays.

    Example:
        >>> detdistill.quiet_threads()
        >>> import torch
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
