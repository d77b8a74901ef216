"""The options of the commands, each written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

# Groups of options in the help.
RUN, GROWTH, OPTIMIZER, SPEED, OUTPUT = "Run", "Growing batch", "Optimizer", "Speed", "Output"

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="digits, mnist, cifar10 and more; see adabatch list.")
]
TaskOrFile = Annotated[
    str | None,
    typer.Argument(metavar="TASK", help="digits, mnist, cifar10 and more; see adabatch list. --config has one too."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Initial weights and order of samples.", rich_help_panel=RUN)]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where to train; auto: a CUDA GPU if there is one, else the CPU.",
        rich_help_panel=RUN,
    ),
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


def _named(text: str | None) -> str | None:
    """The name of a folder or a file, which must not be blank.

    Raises:
        ValueError: if it is.
    """
    if text is not None and not text.strip():
        raise typer.BadParameter(f"must name a folder or a file, got {text!r}; leave it out or write a name")
    return text


def path_of(text: str | Path) -> Path:
    """Reads a path that was typed.

    Raises:
        ValueError: if it is blank.
    """
    _named(str(text) if isinstance(text, str) else None)
    return Path(text)


DataFolder = Annotated[
    str | None,
    typer.Option(
        "--data",
        callback=_named,
        metavar="DIR",
        help="Folder with Parquet files of the data set, else ADABATCH_DATA, else a download.",
        rich_help_panel=RUN,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", parser=path_of, metavar="DIR", help="Folder for what is found.", rich_help_panel=OUTPUT),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, also for errors.", rich_help_panel=OUTPUT)]
Telling = Annotated[
    bool | None,
    typer.Option(
        "--progress/--quiet",
        help="Say on standard error how it goes: a bar, or in a log a line for each evaluation; else unless --json.",
        rich_help_panel=OUTPUT,
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        parser=path_of,
        metavar="FILE",
        help="Settings as in this JSON file or run folder (its config.json); flags go on top.",
        rich_help_panel=RUN,
    ),
]
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
        "--every",
        metavar="DURATION",
        help="The interval: 4, '4 epochs', '9 updates'; of text '1M tokens'.",
        rich_help_panel=GROWTH,
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
GhostBatchSize = Annotated[
    int | None,
    typer.Option(
        "--ghost-batch-size", help="Samples over which batch norm takes its statistics.", rich_help_panel=GROWTH
    ),
]
LR = Annotated[
    float | None, typer.Option("--lr", help="Learning rate at the first batch size.", rich_help_panel=OPTIMIZER)
]
TaskLR = Annotated[
    float | None,
    typer.Option(
        "--lr",
        help="Learning rate at the first batch size; else by task, of SGD and of Adam: digits 0.006, 0.002; mnist and "
        "fashion_mnist 0.02, 0.001; cifar10 and cifar100 0.01, 0.001; imagenet 0.1, 0.001; gpt-tiny 0.03, 0.001.",
        rich_help_panel=OPTIMIZER,
    ),
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
EvaluateEvery = Annotated[
    str | None,
    typer.Option(
        "--evaluate-every",
        metavar="DURATION",
        help="Evaluate the test set after each: '2 epochs', '500 updates'.",
        rich_help_panel=OUTPUT,
    ),
]
SaveEvery = Annotated[
    str | None,
    typer.Option(
        "--save-every",
        metavar="TIME|DURATION",
        help="Save after each: '5 min', '2 epochs', '500 updates'; else with each evaluation and epoch.",
        rich_help_panel=OUTPUT,
    ),
]

SETTINGS: Final[dict[str, Any]] = {
    "model": Model,
    "batch_size": BatchSize,
    "growth": Growth,
    "every": Every,
    "max_batch_size": MaxBatchSize,
    "rule": Rule,
    "drop_last": DropLast,
    "coupling": Coupling,
    "micro_batch_size": MicroBatchSize,
    "ghost_batch_size": GhostBatchSize,
    "lr": TaskLR,
    "lr_schedule": LRSchedule,
    "momentum": Momentum,
    "weight_decay": WeightDecay,
    "optimizer": Optimizer,
    "epochs": Epochs,
    "seed": Seed,
    "device": Device,
    "threads": Threads,
    "workers": Workers,
    "precision": Precision,
    "channels_last": ChannelsLast,
    "compile": Compile,
    "cuda_graphs": CudaGraphs,
    "data": DataFolder,
    "evaluate_every": EvaluateEvery,
    "save_every": SaveEvery,
}
"""The options that are settings of a run, `training.RunConfig`, by name."""


def of_a_run(*names: str, **own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command options for settings of a run in place of its parameter `settings`.

    The command gets the settings that the user gave, by name.

    Args:
        *names: of the settings; all of them if none is named.
        **own: options of the command's own in place of some of them.
    """
    options = {name: SETTINGS[name] for name in names or SETTINGS} | own

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in options}
            command(settings={name: value for name, value in values.items() if value is not None}, **given)

        hints = get_type_hints(command, include_extras=True)
        parameters = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name == "settings":
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters += [inspect.Parameter(n, kind, default=None, annotation=o) for n, o in options.items()]
            else:
                parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
