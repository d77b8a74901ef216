"""Output and errors of all commands."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer
from rich import progress
from rich.console import Console, RenderableType
from typer.models import ArgumentInfo

import adabatch
from adabatch._errors import AdabatchError, needing_torch
from adabatch.lab.training.interrupt import SIGNALS

if TYPE_CHECKING:
    from rich.table import Table

    from adabatch.lab.training import Progress
    from adabatch.lab.training.records import Evaluation

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR: Final = 2
DIVERGED: Final = 3
BY_SIGNAL: Final = 128  # and the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP
_FIRST_SECONDS: Final = 1.5
_GONE_SECONDS: Final = 5.0
_MANY_EPOCHS: Final = 100_000  # seconds of sampling
_PACKAGE: Final = str(Path(__file__).parents[2])
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


def console() -> Console:
    """Standard output for tables and sentences; colours only on a terminal."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, emoji=False)


def print_table(table: Table) -> None:
    """Prints a table without cutting figures: wide lines wrap on a terminal; elsewhere it is plain text."""
    from adabatch.lab.report.terminal import plain, whole_width

    shown = console()
    if shown.is_terminal:
        shown.width = max(shown.width, whole_width(table))
        shown.print(table)
    else:
        print(plain(table), end="\n\n")


def print_json(values: Any) -> None:
    """Prints JSON."""
    print(json.dumps(values, indent=2, allow_nan=False))


def loudly(head: str, message: str) -> None:
    """Prints one line on standard error, its head in red on a terminal."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"{head}:", style="bold red", end=" ")
    print(message, file=sys.stderr)


def say(line: str) -> None:
    """Prints a line on standard error at once."""
    print(line, file=sys.stderr, flush=True)


def tell_if_long(epochs: int) -> None:
    """Prints that an LR schedule is sampled at every epoch, if that takes long."""
    if epochs >= _MANY_EPOCHS:
        say(f"note: the LR schedule is sampled at {epochs:,} epochs, which takes a while")


def evaluation_line(now: Progress, *, seconds_left: float | None) -> str:
    """The evaluation in `now` as a line of a log; `seconds_left` is None while it is not known."""
    found = now.evaluation
    assert found is not None
    epoch = f"{now.samples * now.epochs / now.total_samples:.2f}".rstrip("0").rstrip(".")
    losses = ["not finite" if loss is None else f"{loss:.4g}" for loss in (found.test_loss, found.train_loss)]
    parts = [
        f"epoch {epoch}/{now.epochs}",
        f"test {100 * found.test_accuracy:.2f} %",
        f"test loss {losses[0]}",
        f"training loss {losses[1]}",
        f"batch {found.batch_size:,}",
        f"LR {found.lr:.3g}",
        f"{now.samples_per_second:,.0f}/s",
    ]
    if noise := noise_words(found):
        parts.append(f"noise scale {noise}")
    if now.wants is not None:
        parts.append(wants(now.wants))
    if seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(seconds_left))} left")
    return "  ".join(parts)


def noise_words(found: Evaluation) -> str:
    """The noise scale with its interval of 95 %, in samples; empty where none was measured."""
    if found.noise_low is None:
        return ""
    middle = "inf" if found.noise_scale is None else f"{found.noise_scale:.3g}"
    return f"{middle} [{found.noise_low:.3g}, {'inf' if found.noise_high is None else f'{found.noise_high:.3g}'}]"


def wants(world_size: int) -> str:
    """The words for a number of processes that the batch size asks for."""
    return f"wants {world_size:,} {'process' if world_size == 1 else 'processes'}"


class Bars(progress.Progress):
    """Progress bars on standard error, only on a terminal; elsewhere the caller prints lines.

    Args:
        *columns: of each bar; rich's own if there are none.
        show: whether to show anything.

    Attributes:
        lines: whether the caller prints lines instead.
        table: shown above the bars; None for nothing.
    """

    def __init__(self, *columns: progress.ProgressColumn, show: bool) -> None:
        console = Console(stderr=True, highlight=False)
        self.lines = show and not console.is_terminal
        self.table: RenderableType | None = None
        disable = not (show and console.is_terminal)
        super().__init__(*columns, console=console, transient=True, refresh_per_second=4, disable=disable)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table and the bars."""
        if self.table is not None:
            yield self.table
        yield from super().get_renderables()


def interrupted(message: str, *, as_json: bool, number: int = signal.SIGINT) -> NoReturn:
    """Prints what was interrupted and how to go on; exits with 128 plus the signal's number, as shells do."""
    handle(dict.fromkeys(SIGNALS, signal.SIG_IGN))  # the command is ending: a traceback would hide the message
    with contextlib.suppress(OSError):  # without a terminal the exit code tells
        if rank_here() > 0:
            pass  # the first one tells
        elif as_json:
            print_json({"interrupted": {"message": message}})
        else:
            print(message, file=sys.stderr)
    raise typer.Exit(BY_SIGNAL + number)


def handle(handlers: Mapping[int, Any]) -> None:
    """Sets the handler of each signal, in the main thread only: elsewhere that is impossible."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Makes a command print the package's own errors, and those of the file system, in one line with exit code 2.

    Arguments in backticks become the options that the user types. Any other error keeps its traceback, with a line that
    asks for a report. If the command's `as_json` is set, errors are JSON.
    """
    options, named = _typed_names(command), f"adabatch {command.__module__.rpartition('.')[2]}"

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.get("as_json"))
        try:
            with _plain_warnings(), needing_torch(named):
                return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt as error:
            interrupted(str(error) or "interrupted", as_json=as_json, number=getattr(error, "number", signal.SIGINT))
        except AdabatchError as error:
            message, argument = str(error), error.argument
        except OSError as error:
            message, argument = _system_words(error), None
        except Exception as error:
            if _is_of_another_rank(error):
                raise typer.Exit(1) from None
            error.add_note(_FAULT)
            raise
        if (rank := rank_here()) > 0:  # what all ranks find wrong the first one says, and torchrun ends the others
            time.sleep(_FIRST_SECONDS)
            message = f"rank {rank}: {message}"
        message = _BACKTICKED.sub(lambda found: f"`{options.get(found[1], found[1])}`", " ".join(message.split()))
        raise typer.Exit(_report(message, as_json=as_json, argument=options.get(argument or "", argument)))

    return run


def rank_here() -> int:
    """The rank that torchrun gave this process; 0 without torchrun."""
    value = os.environ.get("RANK", "")
    return int(value) if value.isdecimal() else 0


def _is_of_another_rank(error: Exception) -> bool:
    """Whether another process caused the error and reports it; if it is gone, waits for torchrun to end this one."""
    if "RANK" not in os.environ:
        return False
    from adabatch._distributed import RankError, is_of_peer

    if isinstance(error, RankError):
        return True
    if not is_of_peer(error):
        return False
    time.sleep(_GONE_SECONDS)
    say(f"error: rank {rank_here()} ended, since another process of the run is gone")
    return True


def _typed_names(command: Callable[..., Any]) -> dict[str, str]:
    """The option or argument that the user types, by its name in errors."""
    names = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        noted = getattr(parameter.annotation, "__metadata__", ())
        positional = any(isinstance(each, ArgumentInfo) for each in noted)
        names[name] = name.upper() if positional else "--" + name.replace("_", "-")
    return names


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints this package's warnings in one line, without file and line number."""
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
    """Prints typer's error about what the user typed; returns the exit code."""
    parameter = getattr(error, "param", None)
    argument = parameter.opts[0] if parameter is not None and parameter.opts else getattr(error, "option_name", None)
    message = " ".join(error.format_message().split()).rstrip(".")
    if not message:  # without a command the help is printed already
        return USER_ERROR
    return _report(f"{message}; --help shows what there is", as_json=as_json, argument=argument)


def _report(message: str, *, as_json: bool, argument: str | None) -> int:
    if argument is None:
        found = re.search(r"`([^`]+)`", message)
        argument = found[1] if found else None
    if as_json:
        with contextlib.suppress(OSError):  # standard output itself may be full
            print_json({"error": {"message": message, "argument": argument}})
            sys.stdout.flush()
            return USER_ERROR
    loudly("error", message)
    return USER_ERROR
