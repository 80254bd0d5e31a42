"""What no command needs is not imported, though a package that one needs would."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, final

# By what would import it: timm would load wandb, where it is installed, to tell of trainings of its own, half of what
# timm itself takes; torch's compiler a way of sharing parameters out among GPUs, to know it where it meets it.
_UNASKED = {"wandb": "timm", "torch.distributed.fsdp": "torch._dynamo"}
_MACHINERY = "importlib"


@final
class _Unasked(MetaPathFinder):
    """Refuses to import what a package tries to import for purposes of its own that no command has."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """See `MetaPathFinder`: none is found here."""
        if name in _UNASKED and f"{_importer()}.".startswith(f"{_UNASKED[name]}."):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return None


def _importer() -> str:
    """The module that imports another one now."""
    frame = sys._getframe(2)
    while frame.f_back is not None and _MACHINERY in str(frame.f_globals.get("__name__")):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def spare_imports() -> None:
    """For the process of a command alone: packages no longer import what no command asks them for."""
    if not any(isinstance(one, _Unasked) for one in sys.meta_path):
        sys.meta_path.insert(0, _Unasked())
