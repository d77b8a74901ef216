"""`adabatch train`: one run, with a constant or a growing batch."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from adabatch._errors import ArgumentError
from adabatch.lab.cli import _folders, _options, _shared, _speed
from adabatch.lab.training import growth
from adabatch.lab.training.config import OUTPUT, SETTINGS, RunConfig

if TYPE_CHECKING:
    from adabatch.lab.training import Progress, RunResult

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; its settings are known.", rich_help_panel=OUTPUT)
]
ResumeFrom = Annotated[
    str | None,
    typer.Option(
        "--resume-from",
        metavar="previous|best",
        help="Go on from the one before it, or the best one, where the last checkpoint in --out is lost.",
        rich_help_panel=OUTPUT,
    ),
]
_RUNS: Final = Path("runs")
_COLUMNS: Final = (
    TextColumn("[bold]{task.description}"),
    BarColumn(bar_width=None),
    TextColumn("{task.completed:,.0f}/{task.total:,.0f} samples"),
    TextColumn("{task.fields[state]}"),
    TimeRemainingColumn(),
)
MicroBatchSize = _options.option(
    "micro_batch_size",
    kind=str,
    metavar="N|auto",
    help="Samples per forward and backward pass; auto measures the fastest.",
)


@_shared.guarded
@_options.of_a_run(micro_batch_size=MicroBatchSize)
def command(
    task: _options.TaskOrFile = None,
    *,
    preset: _options.Preset = None,
    config: _options.SettingsFile = None,
    settings: dict[str, Any],
    tune: _speed.Tune = False,
    out: _options.Out = None,
    resume: Resume = False,
    resume_from: ResumeFrom = None,
    progress: _options.Telling = None,
    as_json: _options.AsJson = False,
) -> None:
    """Train one network on TASK, with a constant batch or a growing one.

    Settings that are not given come from the preset, the file or the task. The run folder holds settings, versions,
    metrics, decisions, checkpoints, the result and report.html. Ctrl-C, SIGTERM and a closed connection save and end
    the run, with exit code 130, 143 or 129; --resume goes on to the very same result, with more --epochs beyond it. A
    loss that is not finite ends the run with exit code 3.

    Examples:
        adabatch train digits

        adabatch train digits --growth 2 --every 4 --max-batch-size 256 --out runs/mine

        adabatch train digits --out runs/mine --resume

        adabatch train mnist --data ../data --growth 2 --every '2 epochs' --optimizer adam --coupling sqrt

        adabatch train cifar10 --preset adabatch --model resnet20

        adabatch train digits --policy noise-scale:1
        adabatch train digits --policy branch:0.02,every=0.3,pairs=4

        adabatch train digits --growth 2 --every 4 --tune

        adabatch train --config runs/mine --seed 1
    """
    micro_batch_size = settings.pop("micro_batch_size", None)
    settings |= _micro_batch_size(micro_batch_size)
    resume = resume or resume_from is not None
    run, folder = _config(task, settings, preset=preset, file=config, out=out, resume=resume)
    given = settings if resume else _options.merged_settings(task, settings, preset=preset, file=config)[1]
    from adabatch.lab.training.ranks import joined

    show = not as_json if progress is None else progress
    source = (resume_from or "last") if resume else None
    with joined(run.device, command="train") as ranks:
        again = None if resume else ranks.from_first(lambda: _begun_before(run.task, out, ranks.world))
        if micro_batch_size == "auto" and not resume:  # a run that goes on keeps its own
            from adabatch.lab.training import saved_config, with_fastest_micro_batch

            if again is None:
                run = with_fastest_micro_batch(run)
            else:
                found = ranks.from_first(lambda: saved_config(again))
                run = replace(run, micro_batch_size=found.micro_batch_size)
        speed = _speed.Choice(
            wanted=tune,
            fixed=given if tune or config is None else SETTINGS,
            ranks=ranks,
            as_json=as_json,
            show=show and ranks.is_first,
        )
        run = speed.for_run(run, out, begun=again or (out if resume else None))
        with ExitStack() as around:
            own = again or ranks.from_first(lambda: out or around.enter_context(_folders.new(folder)))
            result = _train(run, speed, own, resume_from=source)
            if ranks.is_first:
                _tell_result(run, result, own, speed)
    if result.diverged:
        raise typer.Exit(_shared.DIVERGED)


def _micro_batch_size(given: str | None) -> dict[str, int]:
    """The setting; empty if it is not given or will be measured."""
    if given is None or given == "auto":
        return {}
    if not given.strip().lstrip("+-").isdigit():
        rule, remedy = "must be a whole number or auto", "auto measures the fastest"
        raise ArgumentError("micro_batch_size", rule, value=given, remedy=remedy)
    return {"micro_batch_size": int(given)}


def _config(
    task: str | None, settings: dict[str, Any], *, preset: str | None, file: Path | None, out: Path | None, resume: bool
) -> tuple[RunConfig, Path]:
    """Settings and folder of the run: the given settings on top of the saved ones or the task's."""
    from adabatch.lab.training import saved_config

    if resume:
        if file is not None:
            remedy = "the settings of a run that goes on are in `out`"
            raise ArgumentError("config", "must come without `resume`", got="both", remedy=remedy)
        if out is None:
            raise ArgumentError("resume", "must come with `out`, the folder of the run", got="none")
        saved = saved_config(out)
        task = saved.task if task is None else task
        task, merged = _options.merged_settings(task, settings, preset=preset, file=None)
        merged = {**growth.start_of(merged.get("growth_file")), **merged}  # so that all differences are told
        return replace(saved, task=task, **merged), out
    task, merged = _options.merged_settings(task, settings, preset=preset, file=file)
    _options.check_growth(settings, merged, preset)
    folder = out or _RUNS / f"train-{task}-{datetime.now():%Y%m%d-%H%M%S}"
    return _options.run_config(task, merged, file=file), folder


def _begun_before(task: str, out: Path | None, world: int) -> Path | None:
    """The folder of the run that this torchrun job has begun, before it restarted its processes; None for none."""
    from adabatch.lab.training import job

    found = job.folder_of(_RUNS, f"train-{task}-*") if out is None else out if job.goes_on(out) else None
    if found is not None:
        print(f"torchrun has started the processes again: the run in {found} goes on with {world}", file=sys.stderr)
    return found


def _train(config: RunConfig, speed: _speed.Choice, out: Path, *, resume_from: str | None) -> RunResult:
    from adabatch.lab.training import Interrupted, train
    from adabatch.lab.training.folder import CHECKPOINTS
    from adabatch.lab.training.interrupt import Interrupts

    resume, left = resume_from is not None, (*(f"checkpoints/{name}.pt" for name in CHECKPOINTS), "result.json")
    if resume and _shared.rank_here() == 0 and not any((out / name).exists() for name in left):
        print(f"no checkpoint was saved in {out} yet; the run starts from its beginning", file=sys.stderr)
    with Interrupts(waiting=True):  # so a key held down does not cut off the last message
        try:
            with _shared.Bars(*_COLUMNS, show=speed.show) as bars:
                tell = partial(_tell, bars, bars.add_task(config.task, total=1, state="starting"))
                how: dict[str, Any] = {"resume": resume, "resume_from": resume_from or "last", "tuning": speed.kept()}
                return train(config, out, **how, progress=tell)
        except Interrupted as error:
            again = shlex.join(["adabatch", "train", config.task, "--out", str(out), "--resume"])
            message = f"interrupted; the run is saved in {out}; to go on: {again}"
            _shared.interrupted(message, as_json=speed.as_json, number=error.number)


def _tell_result(config: RunConfig, result: RunResult, out: Path, speed: _speed.Choice) -> None:
    """Prints what was found, and writes the page."""
    if config.grows and len(result.batch_sizes) == 1 and not result.diverged and not result.decisions:
        why = "nothing larger was due before the end of the training"
        print(f"note: the batch did not grow: {result.history[-1].decided or why}", file=sys.stderr)
    _warn(config, result, out)
    page = _page(out)
    if speed.as_json:
        found = {"task": config.task, "out": str(out), "config": config.to_json(), **result.to_json()}
        _shared.print_json(speed.with_tuning(found))
    else:
        console = _shared.console()
        console.print(summary(config, result))
        console.print(f"run folder: {out}", page, sep="\n", markup=False)  # brackets in a path are no markup


def _tell(bars: _shared.Bars, row: TaskID, now: Progress) -> None:
    """Shows the progress of a run; notes of work beside the training are lines without a terminal too."""
    if now.note is not None:
        bars.update(row, state=now.note)
        if bars.lines:
            _shared.say(now.note)
        return
    if bars.lines and now.evaluation is not None:
        _shared.say(_shared.evaluation_line(now, seconds_left=now.seconds_left))
    state = f"batch {now.batch_size:,}  LR {now.lr:.3g}  {now.samples_per_second:,.0f}/s"
    if now.test_accuracy is not None:
        state += f"  test {100 * now.test_accuracy:.1f} %"
    if now.wants is not None:
        state += f"  {_shared.wants(now.wants)}"
    bars.update(row, total=now.total_samples, completed=now.samples, state=state)


def _warn(config: RunConfig, result: RunResult, out: Path) -> None:
    """Prints a loud warning if a run diverged or is no better than chance."""
    if (found := result.diverged_at) is not None:
        _shared.loudly(
            "diverged",
            f"the loss was not finite {found.updates:,} updates after the start, so the training ended in epoch "
            f"{result.epochs:,} of {config.epochs:,}; what it found is in {out}; take a lower --lr than {config.lr:g}, "
            "or warmup:5+ in front of the --lr-schedule",
        )
    elif result.at_chance and result.chance is not None:
        _shared.loudly(
            "no better than chance",
            f"{100 * result.test_accuracy:.2f} % test accuracy, less than three standard errors above the "
            f"{100 * result.chance:.2f} % of always answering the most frequent class; take another --lr than "
            f"{config.lr:g}, or train longer",
        )


def _page(out: Path) -> str:
    """Writes the page of a run; returns a line about it. An error leaves the run finished."""
    from adabatch.lab.report import page
    from adabatch.lab.training import writing

    try:
        with writing(out):
            return f"page: {page.write(out)}"
    except (OSError, ValueError) as error:
        return f"no page: {str(error).replace('`', '')}"


def summary(config: RunConfig, result: RunResult) -> Table:
    """The table at the end of a run."""
    table = Table(title=f"{config.task}, {config.model}", title_justify="left", show_header=False)
    table.add_row("test accuracy", f"{100 * result.test_accuracy:.2f} % (best {100 * result.best_accuracy:.2f} %)")
    table.add_row("batch sizes", " ".join(f"{size:,}" for size in result.batch_sizes))
    table.add_row("updates", f"{result.updates:,}")
    table.add_row("samples", f"{result.samples:,} in {result.epochs:,} {'epoch' if result.epochs == 1 else 'epochs'}")
    table.add_row("training", f"{result.train_seconds:.2f} s")
    rates = ", ".join(f"{size:,}: {rate:,.0f}" for size, rate in result.samples_per_second.items())
    table.add_row("samples per second", rates)
    if result.noise_from is not None:
        told = _shared.noise_words(result.history[-1]) or "not measured yet"
        table.add_row("noise scale", f"{told}, from {result.noise_from}")
    if (found := result.diverged_at) is not None:
        words = f"the loss was not finite {found.updates:,} updates after the start; a lower --lr may help"
        table.add_row("[bold red]diverged[/]", words)
    elif result.at_chance and result.chance is not None:
        words = f"always answering the most frequent class gets {100 * result.chance:.2f} %"
        table.add_row("[bold red]no better than chance[/]", words)
    aim = f"{100 * result.target:.4g} % test accuracy"
    if result.updates_to_target is None:
        table.add_row(aim, "not reached")
    else:
        table.add_row(aim, f"after {result.updates_to_target:,} updates, {result.seconds_to_target:.2f} s")
    return table
