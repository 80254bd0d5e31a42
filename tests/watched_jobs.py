"""Jobs under observation: what they said, what their trainings began with and were fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from detdistill.jobs import stages
from detdistill.types import Batch

real_train = stages.train


@dataclass
class Watcher:
    """Everything a job said."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        self.lines.append(f"{what}: {total}")

    def advance(self, done: int, note: str = "") -> None:
        pass

    def finish(self) -> None:
        pass

    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass
class Witness:
    """What trainings began with and were fed, by the name of the run's folder."""

    begun: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    fed: dict[str, list[Batch]] = field(default_factory=dict)

    def train(self, step: nn.Module, settings: Any, **options: Any) -> Any:
        name, loader = options["folder"].name, options["loader"]
        self.begun[name] = {key: tensor.clone() for key, tensor in step.student.state_dict().items()}
        self.fed[name] = []

        def noted(start: int, rank: int, ranks: int) -> Iterator[Batch]:
            batches: Iterable[Batch] = loader(start, rank, ranks)
            for batch in batches:
                self.fed[name].append(batch)
                yield batch

        return real_train(step, settings, **{**options, "loader": noted})
