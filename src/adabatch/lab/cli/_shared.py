"""What all commands share: output and errors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from typer.models import ArgumentInfo

import adabatch
from adabatch._errors import AdabatchError, ArgumentError

if TYPE_CHECKING:
    from rich.table import Table

    from adabatch.lab.training import RunConfig

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR: Final = 2
DIVERGED: Final = 3
BY_SIGNAL: Final = 128  # and the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP
SIGNALS: Final = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))
_PACKAGE: Final = str(Path(__file__).parents[2])
_ALSO: Final = {"maximum": "max_batch_size", "folder": "out"}  # what schedules and pages call it, and the option
_FAULT: Final = (
    "\nThis is a fault of adabatch, not yours: please report it, with the lines above and `adabatch --version`."
)
_BACKTICKED: Final = re.compile(r"`([a-z_]+)`")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(adabatch.__version__)
        raise typer.Exit


def callback(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Grow the batch size while a network trains, exactly. To start: `adabatch compare digits`."""


def console(*, as_json: bool = False) -> Console:
    """Where tables and pictures of progress go; it is silent when JSON is asked for. Colours only on a terminal."""
    return Console(quiet=as_json, soft_wrap=not sys.stdout.isatty(), highlight=False, emoji=False)


def print_table(table: Table) -> None:
    """Prints a table with every figure whole: lines break on a narrow terminal, elsewhere the table is plain text."""
    from adabatch.lab.report.terminal import plain, whole_width

    shown = console()
    if shown.is_terminal:
        shown.width = max(shown.width, whole_width(table))
        shown.print(table)
    else:
        print(plain(table), end="\n\n")


def print_json(values: Any) -> None:
    """Prints JSON for machines."""
    print(json.dumps(values, indent=2, allow_nan=False))


def with_preset(name: str | None, task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings on top of those of a preset for the task and the network that was chosen.

    Args:
        name: of the preset; None for none.
        task: data set by name.
        settings: fields of `training.RunConfig` that the user gave.

    Raises:
        ValueError: if there is no such preset, or none for the task or the network, or the network is not here.
    """
    from adabatch import _checks
    from adabatch.lab import models, planner, tasks
    from adabatch.lab.training import on_top

    if name is None:
        return settings
    tasks.get(task)
    found = planner.find(name, task=task, model=settings.get("model"))
    _checks.one_of("model", found.model, models.names(), remedy=f"{name} is for adabatch plan alone")
    merged = on_top(found.settings(), settings, task=task)
    return {key: value for key, value in merged.items() if value is not None or key == "max_batch_size"}


def with_file(file: Path | None, task: str | None, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task and settings on top of those of a file.

    Args:
        file: what the user gave as `config`; None for none.
        task: data set by name; None for the file's.
        settings: fields of `training.RunConfig` that the user gave.

    Raises:
        OSError: if there is no such file.
        ValueError: if the file is none of settings, or no task is given.
    """
    if file is None:
        if task is None:
            raise ArgumentError(None, "Missing argument 'TASK'", remedy="--help shows what there is")
        return task, settings
    from adabatch.lab import tasks
    from adabatch.lab.training import on_top, read_settings

    base = read_settings(file)
    named = base.pop("task", None)
    task = named if task is None else task
    if task is None:
        raise ArgumentError("task", "must be given where the file has none", got=f"none in {file}")
    tasks.get(task)
    return task, on_top(base, settings, task=task)


def run_config(task: str, settings: dict[str, Any], *, file: Path | None) -> RunConfig:
    """The settings of a run; what is wrong with those of a file is said with its name."""
    from adabatch.lab.training import RunConfig

    try:
        return RunConfig.for_task(task, **settings)
    except AdabatchError as error:
        if file is None:
            raise
        raise error.and_then(f"what is not given is as in `config` {file}") from None


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def fail(message: str, *, as_json: bool, argument: str | None = None) -> NoReturn:
    """Prints one line, or JSON, and exits with code 2.

    Args:
        message: argument, rule, value, remedy.
        as_json: whether the user asked for JSON.
        argument: the option at fault; None takes the first one in backticks.
    """
    raise typer.Exit(_report(message, as_json=as_json, argument=argument))


def loudly(head: str, message: str) -> None:
    """Prints one line on standard error, its head in red on a terminal; where it is closed, the exit code tells."""
    with contextlib.suppress(OSError, ValueError):
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"{head}:", style="bold red", end=" ")
        print(message, file=sys.stderr)


def interrupted(message: str, *, as_json: bool, number: int = signal.SIGINT) -> NoReturn:
    """Prints what was interrupted and how to go on, and exits with 128 and the signal's number, as shells have it.

    Args:
        message: in words.
        as_json: whether the user asked for JSON.
        number: of the signal.
    """
    handle(dict.fromkeys(SIGNALS, signal.SIG_IGN))  # the command is ending: a traceback would hide what it says
    with contextlib.suppress(OSError):  # where the terminal is gone, the exit code tells
        if as_json:
            print_json({"interrupted": {"message": message}})
        else:
            print(message, file=sys.stderr)
    raise typer.Exit(BY_SIGNAL + number)


def handle(handlers: Mapping[int, Any]) -> None:
    """Sets handlers of signals, where that can be done: in the main thread.

    Args:
        handlers: for each signal its own.
    """
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def unheard(tell: Callable[P, None]) -> Callable[P, None]:
    """The same, but where the terminal or the pipe that it writes to is gone, nothing is told and all goes on.

    Args:
        tell: writes to standard output or error.
    """

    @functools.wraps(tell)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with contextlib.suppress(OSError):
            tell(*args, **kwargs)

    return run


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turns errors that this package raises itself, and those of the file system, into one line and exit code 2.

    Arguments in backticks become the options that the user types. A fault of the program keeps its traceback.

    Args:
        command: with an option `as_json`.
    """
    options = _typed_names(command)

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.get("as_json"))
        try:
            with _plain_warnings():
                return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt as error:
            interrupted(str(error) or "interrupted", as_json=as_json, number=getattr(error, "number", signal.SIGINT))
        except OSError as error:
            message = _system_words(error)
        except AdabatchError as error:
            message = str(error)
        except Exception as error:
            error.add_note(_FAULT)
            raise
        message = _BACKTICKED.sub(lambda found: f"`{options.get(found[1], found[1])}`", message)
        fail(" ".join(message.split()), as_json=as_json)

    return run


def _typed_names(command: Callable[..., Any]) -> dict[str, str]:
    """What the user types for each argument, by the name that errors give it."""
    names = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        noted = getattr(parameter.annotation, "__metadata__", ())
        positional = any(isinstance(each, ArgumentInfo) for each in noted)
        names[name] = name.upper() if positional else "--" + name.replace("_", "-")
    for said, typed in _ALSO.items():
        if typed in names:
            names.setdefault(said, names[typed])
    return names


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of this package as one line, without the place in the source that a library's user wants."""
    before = warnings.showwarning

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if filename.startswith(_PACKAGE):
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def report_system(error: OSError, *, as_json: bool) -> int:
    """Prints an error of the file system; returns the exit code."""
    return _report(_system_words(error), as_json=as_json, argument=None)


def _system_words(error: OSError) -> str:
    where = error.filename or "standard output; what was written elsewhere is there"
    return str(error) if error.errno is None else f"{error.strerror}: {where}"


def report_usage(error: Any, *, as_json: bool) -> int:
    """Prints an error in what the user typed; returns the exit code.

    Args:
        error: of typer's.
        as_json: whether the user asked for JSON.
    """
    parameter = getattr(error, "param", None)
    argument = parameter.opts[0] if parameter is not None and parameter.opts else getattr(error, "option_name", None)
    message = " ".join(error.format_message().split()).rstrip(".")
    if not message:  # nothing was asked for, and the help is printed already
        return USER_ERROR
    return _report(f"{message}; --help shows what there is", as_json=as_json, argument=argument)


def _report(message: str, *, as_json: bool, argument: str | None) -> int:
    if argument is None:
        found = re.search(r"`([^`]+)`", message)
        argument = found[1] if found else None
    if as_json:
        with contextlib.suppress(OSError):  # where standard output itself is full, the exit code tells
            print_json({"error": {"message": message, "argument": argument}})
    else:
        loudly("error", message)
    return USER_ERROR
