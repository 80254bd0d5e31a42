"""Processes that are attacked: forked from one that has imported everything, each the leader of a session of its own.

A fork costs milliseconds where a start of Python with torch costs seconds, and runs the command line's own `main`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import detdistill

OURS = Path(detdistill.__file__).parent
HANGS_AFTER_S = 120.0
ORPHANS_END_WITHIN_S = 20.0
_IMPORTED = ("cli", "demo", "jobs.run", "jobs.evaluate", "jobs.predict", "jobs.pictures", "jobs.data", "jobs.profile")
_IMPORTED += ("papers.reproduce", "scenes.write", "report.curves", "report.qualitative")
_FOREIGN = ("matplotlib.pyplot", "hotcoco", "lightning_fabric", "torch.distributed.run", "timm", "yaml", "cyclopts")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def import_everything() -> None:
    """Imports what commands import, draws and builds once, so that no fork has to; no thread may be left behind."""
    for name in (*(f"detdistill.{one}" for one in _IMPORTED), *_FOREIGN):
        importlib.import_module(name)
    figure = importlib.import_module("matplotlib.figure").Figure()
    figure.subplots().plot([0, 1], label="warm")
    figure.savefig(os.devnull, format="png")
    importlib.import_module("detdistill").build_detector("fcos/test_resnet", ("a", "b"))
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"a process that forks must have one thread, got {threads}")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code, minus the signal's number, or None for one that hung."""

    code: int | None
    said: str
    seconds: float

    @property
    def fault(self) -> str | None:
        """What no command may do, however it is attacked; None where it ended as promised."""
        if self.code is None:
            return "hang"
        if self.code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL):
            return "crash"
        return "traceback" if "Traceback (most recent call last)" in self.said else None

    @property
    def traces_ours(self) -> bool:
        """Whether a call of the library's own is traced; a warning that names one of its files is no traceback."""
        return f'File "{OURS}{os.sep}' in self.said


class Forked:
    """A process that does `work`, whose standard streams go to a file, in a session of its own."""

    def __init__(self, work: Callable[[], int], said: Path, *, cwd: Path | None = None) -> None:
        self.said, self.began = said, time.monotonic()
        said.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(work, cwd, parent)

    def _live(self, work: Callable[[], int], cwd: Path | None, parent: int) -> None:
        code = 1
        try:
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            os.setsid()
            with contextlib.suppress(OSError):  # Linux counts a process's niceness only within its session
                Path("/proc/self/autogroup").write_text(str(os.nice(0)))
            nothing = os.open(os.devnull, os.O_RDONLY)
            file = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            for descriptor, target in ((nothing, 0), (file, 1), (file, 2)):
                os.dup2(descriptor, target)
            os.close(nothing)
            os.close(file)
            if cwd is not None:
                os.chdir(cwd)
            code = work()
        except BaseException:  # noqa: BLE001  this process has no caller that could report it
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if not hasattr(self, "_code"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return None
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, seconds: float = HANGS_AFTER_S) -> Ended:
        """How it ended; one that does not within so many seconds is killed with its session."""
        while (code := self.poll()) is None and time.monotonic() - self.began < seconds:
            time.sleep(0.005)
        if code is None:
            self.kill_session()
        text = self.said.read_text(encoding="utf-8", errors="replace")
        return Ended(code, text, time.monotonic() - self.began)

    def kill(self) -> None:
        """SIGKILL for this process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def kill_session(self) -> None:
        """SIGKILL for it and all that it started."""
        for pid in [self.pid, *members(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.002)

    def orphans(self, seconds: float = ORPHANS_END_WITHIN_S) -> list[int]:
        """Processes of its session that still run after so many seconds; these are then killed."""
        until = time.monotonic() + seconds
        while (left := members(self.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def members(session: int) -> list[int]:
    """Living processes of a session, but the one that leads it."""
    return [pid for pid, number, state in _processes() if number == session and pid != session and state not in "ZX"]


def children(parent: int) -> list[int]:
    """The living processes that a process started."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        return [int(word) for word in found.read_text().split()]
    except OSError:
        return []


def _processes() -> Iterator[tuple[int, int, str]]:
    """Number, session and state of every process."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                yield int(entry), int(fields[3]), fields[0]


def undrawn(work: Callable[[], int]) -> Callable[[], int]:
    """The work with empty figures and an empty page, which would take half of its time; they are written as others are.

    What a detector costs is timed once; a loader's worker sees in a second, not in five, that its process was killed.
    """

    def plain() -> int:
        part = importlib.import_module
        part("matplotlib.figure").Figure.draw = lambda _figure, _renderer: None
        palette, blank = part("detdistill.report.palette"), part("PIL.Image").new("RGB", (1, 1))
        pixel = palette.png_of(blank, "")
        for picture in ("confusion", "sheet"):
            part(f"detdistill.report.{picture}").png_of = lambda _picture, kind: palette.png_of(blank, kind)
        made, files = part("detdistill.report.page.render").MADE, part("detdistill.files")
        part("detdistill.jobs.measuring").learning_curves = lambda _runs, out, **_: files.write_bytes(out, pixel)
        layout, run = part("detdistill.store.layout"), part("detdistill.jobs.run")
        for job in (run, part("detdistill.jobs.prove"), part("detdistill.demo")):
            job.write_page = lambda folder, **_: files.write_bytes(layout.RunFolder(folder).page, made)
        run._ROUNDS = part("detdistill.detectors.complexity")._WARM_UP = 1
        part("torch.utils.data._utils.worker").MP_STATUS_CHECK_INTERVAL = 1.0
        return work()

    return plain


def command(words: Sequence[str]) -> Callable[[], int]:
    """A run of the command line, as work for a process."""

    def work() -> int:
        from detdistill.cli import main

        return main(list(words))

    return work
