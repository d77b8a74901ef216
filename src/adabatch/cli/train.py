"""`adabatch train`: one run, with a constant or a growing batch."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from adabatch.cli import _folders, _shared
from adabatch.cli._bar import Bar
from adabatch.cli._options import GROWTH, OUTPUT, AsJson, Out, Preset, TaskArgument, of_a_run

if TYPE_CHECKING:
    from adabatch.training import RunConfig, RunResult

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; its settings are known.", rich_help_panel=OUTPUT)
]

MicroBatchSize = Annotated[
    str | None,
    typer.Option(
        "--micro-batch-size",
        metavar="N|auto",
        help="Samples per forward and backward pass; auto measures the fastest.",
        rich_help_panel=GROWTH,
    ),
]


@_shared.guarded
@of_a_run(micro_batch_size=MicroBatchSize)
def command(
    task: TaskArgument,
    *,
    preset: Preset = None,
    settings: dict[str, Any],
    out: Out = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train one network on TASK, with a constant batch or a growing one.

    What is not given is as the preset or the task has it. The run folder holds settings, versions, metrics, decisions,
    checkpoints, the result and report.html. Ctrl-C saves; --resume goes on to the very same result.

    Examples:
        adabatch train digits

        adabatch train digits --growth 2 --every 4 --max-batch-size 256 --out runs/mine

        adabatch train digits --out runs/mine --resume

        adabatch train mnist --data ../data --growth 2 --every '2 epochs' --optimizer adam --coupling sqrt

        adabatch train cifar10 --preset adabatch --model resnet20
    """
    micro_batch_size = settings.pop("micro_batch_size", None)
    settings |= _micro_batch_size(micro_batch_size)
    config, folder = _config(task, settings, preset=preset, out=out, resume=resume)
    if micro_batch_size == "auto" and not resume:  # a resumed run keeps its own
        from adabatch.training import with_fastest_micro_batch

        config = with_fastest_micro_batch(config)
    with _folders.new(folder) if out is None else nullcontext(folder) as own:
        _train(config, own, resume=resume, as_json=as_json)


def _micro_batch_size(given: str | None) -> dict[str, int]:
    """The setting; nothing where none is given, or where it is to be measured."""
    if given is None or given == "auto":
        return {}
    if not given.strip().lstrip("+-").isdigit():
        raise ValueError(f"`micro_batch_size` must be a whole number or auto, got {given!r}; auto measures the fastest")
    return {"micro_batch_size": int(given)}


def _config(
    task: str, settings: dict[str, Any], *, preset: str | None, out: Path | None, resume: bool
) -> tuple[RunConfig, Path]:
    """Settings and folder of the run: the saved ones with what is given on top, or the task's."""
    from dataclasses import replace

    from adabatch.training import RunConfig, saved_config

    settings = _shared.with_preset(preset, task, settings)
    if resume:
        if out is None:
            raise ValueError("`resume` must come with `out`, the folder of the run, got none")
        return replace(saved_config(out), task=task, **settings), out
    check_growth(settings, preset)
    return RunConfig.for_task(task, **settings), out or Path("runs") / f"train-{task}-{datetime.now():%Y%m%d-%H%M%S}"


def check_growth(settings: dict[str, Any], preset: str | None) -> None:
    """Raises where settings of growth would go unnoticed.

    Args:
        settings: fields of `training.RunConfig`, those of the preset included.
        preset: its name; None for none.

    Raises:
        ValueError: if one of them comes without growth.
    """
    if preset is not None or "growth" in settings:
        return
    needing, reason = ["every", "max_batch_size", "coupling"], "without it the batch is constant"
    if "rule" in settings:
        needing, reason = ["every"], "a rule grows where the LR falls"
    for name in needing:
        if name in settings:
            raise ValueError(f"`{name}` must come with `growth`, got it alone; {reason}")


def _train(config: RunConfig, out: Path, *, resume: bool, as_json: bool) -> None:
    from adabatch.training import Interrupted, train

    if resume and not (out / "checkpoints" / "last.pt").exists() and not (out / "result.json").exists():
        print(f"no checkpoint was saved in {out} yet; the run starts from its beginning", file=sys.stderr)
    try:
        with Bar(config.task, show=not as_json) as bar:
            result = train(config, out, resume=resume, progress=bar.show)
    except Interrupted:
        again = shlex.join(["adabatch", "train", config.task, "--out", str(out), "--resume"])
        _shared.interrupted(f"interrupted; the run is saved in {out}; to go on: {again}", as_json=as_json)
    if config.grows and len(result.batch_sizes) == 1:
        print("note: the batch did not grow: nothing larger was due before the end of the training", file=sys.stderr)
    page = _page(out)
    if as_json:
        _shared.print_json({"task": config.task, "out": str(out), "config": config.to_json(), **result.to_json()})
    else:
        console = _shared.console()
        console.print(summary(config, result))
        console.print(f"run folder: {out}", page, sep="\n", markup=False)  # brackets in a path are no markup


def _page(out: Path) -> str:
    """Writes the page of a run; returns what to say about it. The run is finished either way."""
    from adabatch.report import page

    if (reason := page.missing()) is not None:
        return f"no page: {reason.replace('`', '')}"
    try:
        return f"page: {page.write(out)}"
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return f"no page: {str(error).replace('`', '')}"


def summary(config: RunConfig, result: RunResult) -> Table:
    """The table at the end of a run."""
    table = Table(title=f"{config.task}, {config.model}", title_justify="left", show_header=False)
    table.add_row("test accuracy", f"{100 * result.test_accuracy:.2f} % (best {100 * result.best_accuracy:.2f} %)")
    table.add_row("batch sizes", " ".join(f"{size:,}" for size in result.batch_sizes))
    table.add_row("updates", f"{result.updates:,}")
    table.add_row("samples", f"{result.samples:,} in {_epochs(result.epochs)}")
    table.add_row("training", f"{result.train_seconds:.2f} s")
    rates = [f"{size:,}: {rate:,.0f}" for size, rate in result.samples_per_second.items()]
    table.add_row("samples per second", ", ".join(rates))
    if (found := result.diverged_at) is not None:
        words = f"the loss was not finite {found.updates:,} updates after the start; a lower --lr may help"
        table.add_row("[bold red]diverged[/]", words)
    aim = f"{100 * result.target:.4g} % test accuracy"
    if result.updates_to_target is None:
        table.add_row(aim, "not reached")
    else:
        table.add_row(aim, f"after {result.updates_to_target:,} updates, {result.seconds_to_target:.2f} s")
    return table


def _epochs(count: int) -> str:
    return f"{count:,} epoch" if count == 1 else f"{count:,} epochs"
