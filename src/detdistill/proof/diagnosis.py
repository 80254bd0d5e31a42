"""Why a distillation gained nothing: every rule is asked, and the causes that are found are ranked.

A cause weighs 3 where it explains a missing gain by itself, 2 where it explains much of it, and 1 where it may have
cost something; of equal weight the rule that stands first in `RULES` comes first. The weights are fixed: nothing is
fitted to a run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from detdistill.proof.causes import RULES, Cause
from detdistill.proof.evidence import Evidence, Interval, shown


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a distillation gained nothing.

    Attributes:
        gain: AP of the distilled student minus that of the student alone.
        causes: the likeliest first.
        checked: the causes that were looked for.
        unknown: those for which the figures are missing.
    """

    gain: Interval
    causes: tuple[Cause, ...]
    checked: tuple[str, ...]
    unknown: tuple[str, ...]

    def lines(self) -> list[str]:
        """In words: what is explained, and a line for each cause; without any, what was looked for."""
        what = f"why distillation did not help ({shown(self.gain)})"
        if self.gain.low > 0:
            what = f"why distillation did not help over the same time (over the same steps {shown(self.gain)})"
        left = f" Not known: {', '.join(self.unknown)}." if self.unknown else ""
        if not self.causes:
            return [f"{what}: nothing that was looked for explains it ({', '.join(self.checked)}).{left}"]
        causes = [
            f"  {number}. {one.name}: {one.evidence}. {one.action}" for number, one in enumerate(self.causes, start=1)
        ]
        return [f"{what}, likeliest cause first:", *causes, *([f"  {left.strip()}"] if left else [])]

    def table(self) -> list[str]:
        """The lines, as a command prints them."""
        return self.lines()

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        gain = {"mean": self.gain.mean, "low": self.gain.low, "high": self.gain.high}
        causes = [asdict(one) for one in self.causes]
        return {"gain": gain, "causes": causes, "checked": list(self.checked), "unknown": list(self.unknown)}


def diagnose(known: Evidence) -> Diagnosis | None:
    """The causes of a missing gain, ranked; None where there is a gain, or nobody knows whether there is."""
    gain, same_time = known.gain, known.same_time
    if gain is None or (gain.low > 0 and (same_time is None or same_time.low > 0)):
        return None
    asked = [rule for rule in RULES if rule.known(known)]
    found = [replace(cause, name=rule.name) for rule in asked if (cause := rule.find(known)) is not None]
    causes = tuple(sorted(found, key=lambda one: -one.weight))
    names = tuple(rule.name for rule in asked)
    return Diagnosis(gain, causes, names, tuple(rule.name for rule in RULES if rule.name not in names))
