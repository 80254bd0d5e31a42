"""Programs in a process of their own, which takes over what is imported of other packages; torch takes seconds."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from tiny_training import fork

PACKAGE = "detdistill"


def ran_afresh(program: str, *words: str, cwd: Path, paths: Sequence[Path] = ()) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that imports detdistill anew, without the tests' checks of shapes.

    Args:
        program: Python, as after `python -c`.
        words: the rest of its command line.
        cwd: where it runs.
        paths: where modules are found before all others.
    """
    said = [cwd / f".{name}.said" for name in ("out", "err")]

    def work() -> None:
        for number, file in enumerate(said, start=1):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(cwd)
        sys.argv = ["-c", *words]
        sys.path[:0] = ["", *map(str, paths)]
        sys.meta_path = [finder for finder in sys.meta_path if type(finder).__module__ != "checked_shapes"]
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
        warnings.resetwarnings()
        code = 1
        try:
            exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001  as a process of Python's ends
            traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    process = fork(work)
    process.join(300)
    output, errors = (file.read_text(encoding="utf-8") for file in said)
    for file in said:
        file.unlink()
    assert process.exitcode is not None
    return process.exitcode, output, errors
