"""A public function as a command: its words become options, its progress the screen's, its result a table.

The commands of the packages on top, which no library user needs, are written here in the same form: each takes a
`progress` and returns an outcome.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    final,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from cyclopts import Parameter

from detdistill.errors import ConfigError, DataError, DiskError
from detdistill.settings.meanings import OPTION_NAMES, PYTHON_ALONE
from detdistill.training.world import leads, watched_by_leader

if TYPE_CHECKING:
    from detdistill.demo import DemoOutcome
    from detdistill.jobs.data import DataOutcome
    from detdistill.papers.coco_traffic import TrafficOutcome
    from detdistill.papers.table import ReproduceOutcome
    from detdistill.progress import Progress

# How the command line writes a word of Python, where it is not the option of the same name.
_WRITTEN = {"settings": Parameter(name="CONFIG.yaml KEY=VALUE")}
_WRITTEN |= {word: Parameter(name=f"--{name}") for word, name in OPTION_NAMES.items()}
# Several places after one word.
_WRITTEN |= dict.fromkeys(("runs", "against", "student_args", "detector_args"), Parameter(consume_multiple=True))
_FILE = Annotated[Path | None, Parameter(help="Also write the figures to this file, as JSON.")]
_JSON = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_FILE)


class Outcome(Protocol):
    """What a command found out."""

    def table(self) -> Sequence[str]:
        """Lines of text for people."""

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON: numbers, text, lists and dictionaries; what is unknown is None."""


@runtime_checkable
class Failing(Protocol):
    """What may be found out in part alone: the command ends as on bad input, after it has told the rest."""

    @property
    def failure(self) -> str | None:
        """What went wrong; None for nothing."""


@final
class Command:
    """A function as the command line runs it, with a signature and documentation for cyclopts to read.

    Its parameter `progress`, where it has one, is the screen's; every other one is an option, but for Python's own.
    """

    def __init__(self, name: str, function: Callable[..., Outcome]) -> None:
        self.name, self.function = name, function
        given = inspect.signature(function).parameters
        names = [name for name in given if name not in PYTHON_ALONE]
        self.watched = "progress" in given
        written = SimpleNamespace(__annotations__={name: given[name].annotation for name in names})
        hints = get_type_hints(written, globalns=inspect.unwrap(function).__globals__)
        words = [given[name].replace(annotation=_option(name, hints[name])) for name in names]
        self.__doc__ = function.__doc__
        self.__annotations__: dict[str, object] = {}
        self.__signature__ = inspect.Signature([*words, _JSON])

    def __call__(self, bound: inspect.BoundArguments) -> None:
        """Runs the function under the eyes of the screen, writes its figures where asked to, and prints its table."""
        from detdistill.files import figures_of, require_own, write_figures
        from detdistill.progress import ScreenProgress
        from detdistill.training.signals import Interrupted

        options, progress = dict(bound.kwargs), watched_by_leader(ScreenProgress())
        json = options.pop("json", None)
        if json is not None and json.is_dir():
            raise ConfigError(f"--json must be a file, got the folder {json}. Write --json {json / 'figures.json'}.")
        if json is not None and leads():
            require_own(json, "--json", figures_of(self.name))
        try:
            outcome = self.function(*bound.args, **options, **({"progress": progress} if self.watched else {}))
        except Interrupted as stopped:
            raise KeyboardInterrupt(str(stopped)) from stopped
        finally:
            progress.finish()
        failures = [outcome.failure] if isinstance(outcome, Failing) else []
        if leads():
            try:
                if json is not None:
                    write_figures(json, outcome.as_dict(), command=self.name, option="--json")
            except DiskError as error:
                had = "all else was done, and the figures are printed."
                failures.append(f"{error.said} {error.remedy} to have the file another time; {had}")
            for line in outcome.table():
                print(line)
        for failure in failures:
            if failure is not None:
                raise DataError(failure)


def _option(name: str, hint: Any) -> Any:
    """An argument's type as the command line reads it: the first kind of several, a list where it may be one."""
    kinds = get_args(hint)
    if Path in kinds and str in kinds:
        first: Any = list[kinds[0]] if any(get_origin(kind) is Sequence for kind in kinds) else kinds[0]  # type: ignore[valid-type]
        hint = first | None if NoneType in kinds else first
    written = [_WRITTEN[name]] if name in _WRITTEN else []
    # A flag that is not given is off, a list empty.
    flag = [Parameter(show_default=False)] if hint is bool or get_origin(hint) is Sequence else []
    return Annotated[(hint, *written, *flag)] if written or flag else hint


def demo(*, out: Path = Path("runs/demo"), seed: int = 0, progress: Progress | None = None) -> DemoOutcome:
    """Draw scenes, train a teacher, a student alone and a distilled one, and compare them.

    Args:
        out: Folder of the run.
        seed: Decides the scenes, the weights and the order of the images.
    """
    from detdistill.demo import demo_job

    return demo_job(out=out, seed=seed, progress=progress)


def reproduce(
    paper: Literal["aid", "frs", "ssim", "ikd"],
    /,
    *,
    row: str | None = None,
    data: Path | None = None,
    scale: Literal["smoke", "full"] = "smoke",
    plan: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> ReproduceOutcome:
    """Train a paper's rows and print our figures beside the published ones.

    Args:
        paper: Whose tables.
        row: One row alone, and the one it is measured against; without it all rows.
        data: Folder of the data sets: kitti and coco at full scale, small ones at smoke scale.
        scale: smoke tests the code in minutes; full is the paper's own size and needs its data and a GPU.
        plan: At full scale: check the data, estimate time and disk, and stop.
        out: Folder of runs and table; runs/reproduce-SCALE by default. What is finished there is not trained again.
    """
    from detdistill.papers.reproduce import reproduce_job

    return reproduce_job(paper, row=row, data=data, scale=scale, out=out, plan_only=plan, progress=progress)


def make_scenes(
    *,
    out: Path,
    train: int = 3000,
    val: int = 300,
    seed: int = 0,
    kitti: bool = False,
    progress: Progress | None = None,
) -> DataOutcome:
    """Draw street scenes with cars, trucks, pedestrians, cyclists and traffic lights.

    Args:
        out: Folder for train.json, val.json and images/.
        train: Training scenes.
        val: Validation scenes.
        seed: Decides every scene.
        kitti: Also write KITTI's layout.
    """
    from detdistill.scenes.write import make_scenes_job

    return make_scenes_job(out, train=train, val=val, seed=seed, kitti=kitti, progress=progress)


def make_coco_traffic(*, coco: Path, out: Path, progress: Progress | None = None) -> TrafficOutcome:
    """Take the part of COCO that shows traffic, with AID's 13 classes; images are linked, not copied.

    Args:
        coco: COCO's folder, with annotations/instances_train2017.json, train2017 and the same of val2017.
        out: A new or empty folder; one made of the same files is left as it is.
    """
    from detdistill.papers.coco_traffic import make_coco_traffic_job

    return make_coco_traffic_job(coco, out, progress=progress)
