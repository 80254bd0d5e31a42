"""Between which values the numbers of settings may lie: said in their types, checked here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin

from detdistill.errors import ConfigError
from detdistill.settings.trees import Path, hints_of


@dataclass(frozen=True, slots=True)
class Within:
    """Marks a type's numbers as lying from `low` to `high`, both included: ``Annotated[int, Within(0, 64)]``."""

    low: float
    high: float

    def text(self) -> str:
        """The range in words."""
        return f"from {_plain(self.low)} to {_plain(self.high)}"

    def remedy(self, value: float) -> str:
        """What to do about a value outside."""
        return f"Give at least {_plain(self.low)}." if value < self.low else f"Give at most {_plain(self.high)}."


def _plain(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


_SHOWN = 80

UNSAID = Within(-1e9, 1e9)
"""Where the numbers lie whose type says nothing."""

Share = Annotated[float, Within(0, 1)]
Factor = Annotated[float, Within(0, 1000)]
Gain = Annotated[float, Within(0, 1e9)]
Temperature = Annotated[float, Within(1e-6, 1e6)]
Steps = Annotated[int, Within(0, 1e9)]
Images = Annotated[int, Within(1, 65536)]
Side = Annotated[int, Within(1, 16384)]
Pixels = Annotated[float, Within(0, 16384)]


def within(hint: Any) -> Within | None:
    """Where the numbers of a type, or of what it is a list or an option of, lie; None where it does not say."""
    if isinstance(hint, Within):
        return hint
    return next((found for member in get_args(hint) if (found := within(member)) is not None), None)


def bare(hint: Any) -> Any:
    """A number's type without its bounds; any other as it is."""
    return get_args(hint)[0] if get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Within) else hint


def outside(value: Any, hint: Any = Any, path: Path = ()) -> Iterator[tuple[Path, float, Within]]:
    """Every number in settings, however deep, that lies outside its bounds, NaN included: place, value and bounds."""
    if is_dataclass(value) and not isinstance(value, type):
        hints = hints_of(type(value))
        for one in fields(value):
            yield from outside(getattr(value, one.name), hints[one.name], (*path, one.name))
    elif isinstance(value, (tuple, list)):
        for at, one in enumerate(value):
            yield from outside(one, hint, (*path, at))
    elif type(value) in (int, float):
        bounds = within(hint) or UNSAID
        if not bounds.low <= value <= bounds.high:
            yield path, value, bounds


def require_bounds(settings: Any, *, where: str) -> None:
    """Refuses settings with a number outside its bounds, which messages call ``WHERE.KEY``.

    Raises:
        ConfigError: names the first.
    """
    for path, value, bounds in outside(settings):
        place = ".".join(map(str, (where, *path)))
        raise ConfigError(f"{place} must be {bounds.text()}, got {shortened(value)}. {bounds.remedy(value)}")


def shortened(value: Any, text: Callable[[Any], str] = repr) -> str:
    """A value for a message: of a long one the beginning, of a number too long for text that it is one."""
    try:
        said = text(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
