"""The towers of dense heads: what their convolutions say, and how they begin behind some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def heard(owner: nn.Module, name: str) -> Iterator[list[list[Tensor]]]:
    """What each block of a tower says within, of every map that the tower reads."""
    whole = getattr(owner, name)
    said: list[list[Tensor]] = [[] for _ in block_ends(whole)]

    def listen(at: list[Tensor]) -> Any:
        return lambda module, given, out: at.append(out)

    hooks = [whole[end - 1].register_forward_hook(listen(at)) for end, at in zip(block_ends(whole), said, strict=True)]
    try:
        yield said
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def begun(owner: nn.Module, name: str, after: int) -> Iterator[None]:
    """Within, a tower begins behind its first `after` blocks."""
    whole = getattr(owner, name)
    setattr(owner, name, whole[([0, *block_ends(whole)])[after] :])
    try:
        yield
    finally:
        setattr(owner, name, whole)


def block_ends(whole: nn.Sequential) -> list[int]:
    """Behind which layers of a tower a convolution with its norm and activation ends."""
    return [at for at, layer in enumerate(whole, start=1) if isinstance(layer, (nn.ReLU, nn.Sequential))]
