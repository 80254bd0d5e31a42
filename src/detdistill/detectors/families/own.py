"""own: a user's own class, or a function that gives a detector, by its import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from torch import nn

from detdistill.detectors.base import Detector
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.catalogue import Family, Naming
from detdistill.detectors.own_code import OwnCode, imported, names_code, taken_apart
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError, suggestion
from detdistill.outside import STOPPED, place_of

_NAMES, _SETTINGS = "class_names", "settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSettings(DetectorSettings):
    """What a detector of one's own is built from.

    Attributes:
        source: its import path and the arguments of its class, such as ``"my.py:MyDetector(width=24)"``.
    """

    family: Literal["own"] = "own"
    source: str

    named_by: ClassVar[tuple[str, ...]] = ("family", "source")
    says_pixels: ClassVar[bool] = False

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        code = self.code
        if _NAMES in code.keywords():
            raise ConfigError(
                f"The classes of {code.place} must be the data's, got {_NAMES} among its arguments. Leave it out; "
                "data.classes chooses among the data's."
            )

    @property
    def name(self) -> str:
        """See `DetectorSettings.name`."""
        return self.source

    @property
    def code(self) -> OwnCode:
        """The source, taken apart."""
        return taken_apart(self.source)

    def to_dict(self, *, place: Callable[[str], str] = str) -> dict[str, Any]:
        """See `DetectorSettings.to_dict`."""
        return DetectorSettings.to_dict(self, place=place) | {"source": moved(self.source, place)}


def parse_own(text: str) -> OwnSettings:
    """The settings that an import path stands for.

    Raises:
        ConfigError: it says where weights lie, which a detector that is to be built has none of.
    """
    if (code := taken_apart(text)).weights:
        raise ConfigError(
            f"A student of one's own must be written without weights, got '{text}'. Leave ={code.weights} out; --init "
            "takes weights to start from."
        )
    return OwnSettings(source=code.text())


def moved(text: str, change: Callable[[str], str]) -> str:
    """An import path with the paths of files in it changed."""
    return taken_apart(text).moved(change).text() if names_code(text) else text


def build_own(settings: OwnSettings, class_names: Sequence[str]) -> Detector:
    """The detector that the named class or function gives for these classes.

    It is called with `class_names` and the arguments by name, and with `settings` where it takes them.

    Raises:
        ConfigError: it may not or cannot be imported, does not take these arguments, or gives something else.
    """
    code, names = settings.code, tuple(class_names)
    make, arguments = imported(code), {_NAMES: names, **code.keywords()}
    takes, takes_any = _parameters(make, code)
    if not takes_any and (unknown := [key for key in arguments if key not in takes]):
        others = [one for one in takes if one not in (_NAMES, _SETTINGS)]
        remedy = f"Give it the parameter {_NAMES}." if unknown[0] == _NAMES else "Leave it out."
        if unknown[0] != _NAMES and others:
            remedy = suggestion(unknown[0], others)
        raise ConfigError(f"{code.place} must take every argument that it is given, got {unknown[0]}. {remedy}")
    missing = [key for key, needed in takes.items() if needed and key not in {*arguments, _SETTINGS}]
    if missing:
        raise ConfigError(
            f"{code.place} must be given all the arguments that it needs, got no {missing[0]}. Write "
            f"{code.place}({missing[0]}=VALUE), or give it a default."
        )
    if _SETTINGS in takes:
        arguments[_SETTINGS] = settings
    else:
        _require_defaults(settings)
    try:
        detector = make(**arguments)
    except ConfigError:
        raise
    except STOPPED as error:
        raise ConfigError(f"{code.text()} must give a detector, got {place_of(error)}. Repair it.") from error
    if not isinstance(detector, Detector):
        raise ConfigError(
            f"{code.place} must give a detdistill.Detector, got {type(detector).__name__}. Derive it from "
            "detdistill.Detector, or give what detdistill.wrap makes of it."
        )
    spec = getattr(detector, "spec", None)
    said = getattr(spec, _NAMES, None)
    if said != names:
        raise ConfigError(
            f"The spec of {code.place} must have the class names that it is given, {list(names)}, got "
            f"{list(said) if said is not None else 'no spec'}. Give DetectorSpec the class_names as they come."
        )
    detector.settings = settings
    return detector


def _parameters(make: Any, code: OwnCode) -> tuple[dict[str, bool], bool]:
    """The parameters of a class or function, with whether they have no default; and whether it takes any others."""
    if not callable(make) or isinstance(make, nn.Module):
        remedy = "Distil from it by --method boxes." if isinstance(make, BoxesAlone) else "Name another."
        raise ConfigError(f"{code.place} must be a class or a function, got {type(make).__name__}. {remedy}")
    found = inspect.signature(make).parameters.values()
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {one.name: one.default is one.empty for one in found if one.kind not in several}
    return named, any(one.kind is one.VAR_KEYWORD for one in found)


def _require_defaults(settings: OwnSettings) -> None:
    """Refuses settings that nobody reads."""
    for one in fields(DetectorSettings):
        if one.name != "family" and getattr(settings, one.name) != one.default:
            raise ConfigError(
                f"student.{one.name} must be left out for {settings.code.place}, which does not take settings, got "
                f"{getattr(settings, one.name)}. Leave it out, or give its __init__ the parameter {_SETTINGS}."
            )


_NAMING = Naming("MODULE:CLASS", names_code, parse_own, moved)
FAMILY = Family("own", OwnSettings, presets={}, build=build_own, naming=_NAMING)
