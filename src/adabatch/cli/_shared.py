"""What all commands share: options, output and errors."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console

import adabatch

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR: Final = 2
INTERRUPTED: Final = 130
_PACKAGE: Final = str(Path(__file__).parents[1])
_BACKTICKED: Final = re.compile(r"`([a-z_]+)`")

# Groups of options in the help.
RUN, GROWTH, OPTIMIZER, SPEED, OUTPUT = "Run", "Growing batch", "Optimizer", "Speed", "Output"

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="digits, mnist, cifar10 and more; see adabatch list.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Initial weights and order of samples.", rich_help_panel=RUN)]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu or cuda; auto: a GPU if there is one.", rich_help_panel=RUN),
]
Threads = Annotated[int | None, typer.Option("--threads", help="Of torch on the CPU.", rich_help_panel=RUN)]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes that read samples; else one for each core where they are read from disk.",
        rich_help_panel=RUN,
    ),
]
DataFolder = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with Parquet files of the data set, else ADABATCH_DATA, else a download.",
        rich_help_panel=RUN,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder for what is found.", rich_help_panel=OUTPUT)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, also for errors.", rich_help_panel=OUTPUT)]
Model = Annotated[str | None, typer.Option("--model", help="The network; see adabatch list.", rich_help_panel=RUN)]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the data.", rich_help_panel=RUN)]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Batch size, the first one if it grows.", rich_help_panel=GROWTH)
]
Growth = Annotated[
    float | None,
    typer.Option(
        "--growth", metavar="FACTOR", help="Multiply the batch by it after each interval.", rich_help_panel=GROWTH
    ),
]
Every = Annotated[
    str | None,
    typer.Option(
        "--every", metavar="DURATION", help="The interval: 4, '4 epochs', '9 updates'.", rich_help_panel=GROWTH
    ),
]
MaxBatchSize = Annotated[
    int | None, typer.Option("--max-batch-size", help="Grow no further than this.", rich_help_panel=GROWTH)
]
Coupling = Annotated[
    str | None,
    typer.Option("--coupling", help="How the LR follows: linear, sqrt, none, 'power(0.75)'.", rich_help_panel=GROWTH),
]
MicroBatchSize = Annotated[
    int | None,
    typer.Option("--micro-batch-size", help="Samples per forward and backward pass.", rich_help_panel=GROWTH),
]
LR = Annotated[
    float | None, typer.Option("--lr", help="Learning rate at the first batch size.", rich_help_panel=OPTIMIZER)
]
LRSchedule = Annotated[
    str | None,
    typer.Option(
        "--lr-schedule",
        metavar="TEXT",
        help="By epochs: constant, step:0.5:4, milestones:0.2:60,120, exponential:0.95, cosine, onecycle, wsd:5; "
        "warmup:5+... in front.",
        rich_help_panel=OPTIMIZER,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A training of a paper; flags go on top. adabatch list names them.",
        rich_help_panel=RUN,
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        help="Grow where the LR schedule would let the LR fall: smith, 'hybrid(1)', 'power(0.75)', seesaw (Adam).",
        rich_help_panel=GROWTH,
    ),
]
DropLast = Annotated[
    bool | None,
    typer.Option(
        "--drop-last/--keep-last", help="Leave out the short batch at the end of an epoch.", rich_help_panel=GROWTH
    ),
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="float32, or bf16 for autocast.", rich_help_panel=SPEED)
]
ChannelsLast = Annotated[
    bool | None,
    typer.Option(
        "--channels-last/--channels-first",
        help="Layout of images; else the faster one.",
        rich_help_panel=SPEED,
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="torch.compile, for every batch size before the first.", rich_help_panel=SPEED
    ),
]
CudaGraphs = Annotated[
    bool | None,
    typer.Option(
        "--cuda-graphs/--no-cuda-graphs", help="On a GPU, with --compile: replay it as graphs.", rich_help_panel=SPEED
    ),
]
Momentum = Annotated[float | None, typer.Option("--momentum", help="Of SGD.", rich_help_panel=OPTIMIZER)]
WeightDecay = Annotated[
    float | None, typer.Option("--weight-decay", help="As the optimizer defines it.", rich_help_panel=OPTIMIZER)
]
Optimizer = Annotated[
    str | None, typer.Option("--optimizer", help="sgd, nesterov, adam or adamw.", rich_help_panel=OPTIMIZER)
]


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
    return Console(quiet=as_json, soft_wrap=not sys.stdout.isatty(), highlight=False)


def print_json(values: Any) -> None:
    """Prints JSON for machines."""
    print(json.dumps(values, indent=2))


def with_preset(name: str | None, task: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings on top of those of a preset for the task and the network that was chosen.

    Args:
        name: of the preset; None for none.
        task: data set by name.
        settings: fields of `training.RunConfig` that the user gave.

    Raises:
        ValueError: if there is no such preset, or none for the task or the network, or the network is not here.
    """
    from adabatch import _checks, models, planner, tasks

    if name is None:
        return settings
    tasks.get(task)
    found = planner.find(name, task=task, model=settings.get("model"))
    _checks.one_of("model", found.model, models.names(), remedy=f"{name} is for adabatch plan alone")
    base = found.settings()
    if "growth" in settings or "rule" in settings:  # one way to grow takes the place of the other
        base |= {"growth": None, "rule": None}
    return {key: value for key, value in {**base, **settings}.items() if value is not None or key == "max_batch_size"}


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


def interrupted(message: str, *, as_json: bool) -> NoReturn:
    """Prints what was interrupted and how to go on, and exits with code 130."""
    if as_json:
        print_json({"interrupted": {"message": message}})
    else:
        print(message, file=sys.stderr)
    raise typer.Exit(INTERRUPTED)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turns errors that this package raises itself, and those of the file system, into one line and exit code 2.

    Arguments in backticks become the options that the user types. A fault of the program keeps its traceback.

    Args:
        command: with an option `as_json`.
    """
    options = {
        name: name.upper() if name == "task" else "--" + name.replace("_", "-")
        for name in inspect.signature(command).parameters
    }

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.get("as_json"))
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt as error:
            interrupted(str(error) or "interrupted", as_json=as_json)
        except OSError as error:
            message = str(error) if error.errno is None else f"{error.strerror}: {error.filename or 'no file'}"
        except (ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
            if not _ours(error):
                raise
            message = str(error)
        message = _BACKTICKED.sub(lambda found: f"`{options.get(found[1], found[1])}`", message)
        fail(" ".join(message.split()), as_json=as_json)

    return run


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
        print_json({"error": {"message": message, "argument": argument}})
    else:
        Console(stderr=True, soft_wrap=True, highlight=False).print("error:", style="bold red", end=" ")
        print(message, file=sys.stderr)
    return USER_ERROR


def _ours(error: BaseException) -> bool:
    """Whether this package raised the error itself."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_PACKAGE)
