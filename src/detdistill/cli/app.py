"""The table of commands, and what each way to end says to the shell."""

from __future__ import annotations

import functools
import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError
from cyclopts.exceptions import UnknownOptionError

import detdistill
from detdistill.cli import commands
from detdistill.cli.imports import spare_imports
from detdistill.errors import ConfigError, DistillError, OutsideError, suggestion
from detdistill.output import GONE, LOST, OUTPUT, unfailing
from detdistill.outside import telling
from detdistill.threads import quiet_threads
from detdistill.training.world import says

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
# Of a message that quotes what is longer than anybody reads, so much of its beginning and of its end.
_FIRST, _LAST = 2500, 1000
TRUST, TRACEBACK = "--trust-code", "--traceback"
# The commands that take settings.
TRAINING = {"train", "distill", "doctor", "prove", "tune"}


@functools.cache
def build_app() -> App:
    """The application with all its commands, built once a process."""
    app = App(
        name="detdistill",
        help="Make a small object detector better by distilling a large one into it.\n\n"
        "First demo; then, on data of yours: data check, train (teacher, and student alone), doctor, distill, prove, "
        "export. docs/my_data.md has these commands one after the other.\n\n"
        f"{TRUST}, with any command: import the code that checkpoints and runs name for detectors of your own.\n\n"
        f"{TRACEBACK}, with any command: show the calls that led to an error before its sentence.",
        version=lambda: detdistill.__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    data = App(
        name="data",
        help="Make a data set, check one, find its wrong labels, or write one in another format.",
        help_format="plaintext",
    )
    make = App(name="make", help="Draw a data set, or take a part of one.", help_format="plaintext")
    data.command(make)
    app.command(data)
    for place, name, function in (
        (app, "demo", commands.demo),
        (app, "train", detdistill.train),
        (app, "distill", detdistill.distill),
        (app, "doctor", detdistill.doctor),
        (app, "prove", detdistill.prove),
        (app, "tune", detdistill.tune),
        (app, "evaluate", detdistill.evaluate),
        (app, "predict", detdistill.predict),
        (app, "methods", detdistill.describe_methods),
        (app, "settings", detdistill.describe_settings),
        (app, "profile", detdistill.profile),
        (app, "reproduce", commands.reproduce),
        (app, "pictures", detdistill.pictures),
        (app, "report", detdistill.write_report),
        (app, "push", detdistill.push),
        (app, "diagnose", detdistill.diagnose),
        (app, "export", detdistill.export_detector),
        (make, "scenes", commands.make_scenes),
        (make, "coco-traffic", commands.make_coco_traffic),
        (data, "check", detdistill.check_data),
        (data, "convert", detdistill.convert_data),
        (data, "audit", detdistill.audit_data),
    ):
        within = "" if place is app else "data " if place is data else "data make "
        place.command(commands.Command(within + name, function), name=name)
    app.command(_completion(app), name="--install-completion")
    return app


def _completion(app: App) -> Callable[..., None]:
    def install(*, shell: Literal["bash", "zsh", "fish"] | None = None) -> None:
        """Teach your shell to complete these commands and their options.

        Args:
            shell: Which one; by default the one that this is typed in.
        """
        from cyclopts.completion import ShellDetectionError

        try:
            path = app.install_completion(shell=shell)
        except ShellDetectionError as unknown:
            raise ConfigError(
                "The shell that completes must be bash, zsh or fish, got one that does not tell its name. "
                "Write --install-completion --shell bash."
            ) from unknown
        print(f"completion is in {path}, which new shells read")

    return install


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default with the process's own arguments, and returns the exit code."""
    with unfailing():
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        if code != DONE or LOST.get(OUTPUT, GONE) == GONE:
            return code
        return _said(
            f"error: {OUTPUT} must be writable, got: {LOST[OUTPUT]}. What was to be printed is lost, all else is done.",
            BAD_INPUT,
        )


def _run(arguments: list[str]) -> int:
    quiet_threads()
    spare_imports()
    # What is imported stays: at Python's own 700 objects it is looked through often enough to be a tenth of a start.
    gc.set_threshold(10_000)
    # Data-parallel training would warn once per process that all parameters were used.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    tokens = [token for token in _trusting(_help_as_option(arguments)) if token != TRACEBACK]
    code = BAD_INPUT
    try:
        command, bound, _ = build_app().parse_args(tokens, exit_on_error=False, print_error=False)
        with telling(lambda error: error):
            if isinstance(command, commands.Command):
                command(bound)
            else:  # --help or --version
                command(*bound.args, **bound.kwargs)
        return DONE
    except UnknownCommandError as error:
        message = f"error: {_unknown_command(error)}"
    except UnknownOptionError as error:
        message = f"error: {_unknown_option(error)}"
    except CycloptsError as error:
        message = f"error: {' '.join(str(error).split())} Add --help to see what there is."
    except DistillError as error:
        message = _failed(error, traced=TRACEBACK in arguments)
    except UnicodeEncodeError as error:
        message = (
            f"error: The name {error.object!a} must be one that this process can write, got the encoding "
            f"{error.encoding}. Start it with PYTHONUTF8=1 in its environment."
        )
    except OSError as error:
        if error.filename is None:
            raise
        # Of a file that could not be put in its place, that place is what was asked for.
        path = error.filename2 or error.filename
        message = f"error: {path} must be a path that can be used, got: {error.strerror}. Check the path."
    except KeyboardInterrupt as stopped:
        message, code = str(stopped) or "interrupted", INTERRUPTED
    return _said(message, code)


def _failed(error: DistillError, *, traced: bool) -> str:
    """What is said of an error, behind the calls that led there where these are asked for."""
    if traced:
        print(error.trace if isinstance(error, OutsideError) else traceback.format_exc(), file=sys.stderr)
    return f"error: {error}{f' {TRACEBACK} shows the calls.' if isinstance(error, OutsideError) and not traced else ''}"


def _trusting(tokens: list[str]) -> list[str]:
    """What is left but for the word, of any command, that code which checkpoints name may be imported."""
    if TRUST in tokens:
        detdistill.trust_code()
    return [token for token in tokens if token != TRUST]


def _help_as_option(tokens: list[str]) -> list[str]:
    """`help`, `help COMMAND` and `COMMAND help` as `--help` says them, where nothing is called help."""
    words = all(not token.startswith("-") for token in tokens)
    if "help" not in (tokens[:1] + tokens[-1:]) or not words or Path("help").exists():
        return tokens
    tokens.remove("help")
    return [*tokens, "--help"]


def _said(message: str, code: int) -> int:
    if len(message) > _FIRST + _LAST:
        message = f"{message[:_FIRST]} ... {message[-_LAST:]}"
    if says(message):
        print(message, file=sys.stderr)
    return code


def _unknown_option(error: UnknownOptionError) -> str:
    from detdistill.jobs.synonyms import key_called

    said, key = " ".join(str(error).split()), None
    if {*(error.command_chain or ())} & TRAINING and "Did you mean" not in said:
        key = key_called((error.token.keyword or error.token.value).partition("=")[0].lstrip("-"))
    return f"{said} {'Add --help to see what there is.' if key is None else f'Write it as the setting {key}=VALUE.'}"


def _unknown_command(error: UnknownCommandError) -> str:
    word = error.unused_tokens[0] if error.unused_tokens else ""
    chain = " ".join(error.command_chain or ())
    known = [name for name in (error.app or build_app()) if not name.startswith("-")]
    what = f"command after '{chain}'" if chain else "command"
    return f"The {what} must be one of {', '.join(known)}, got '{word}'. {suggestion(word, known, listed=True)}"
