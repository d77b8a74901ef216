"""`adabatch advise`: whether growth pays on a task here, by which schedule, and how sure that is."""

from __future__ import annotations

import importlib.util
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.progress import TextColumn, TimeElapsedColumn

from adabatch import _files
from adabatch._errors import ArgumentError, MissingPackageError, naming
from adabatch.lab import tasks
from adabatch.lab.cli import _folders, _options, _shared
from adabatch.lab.cli._studied import PATIENCE
from adabatch.lab.training import saving
from adabatch.lab.training.config import RUN, SETTINGS, RunConfig

if TYPE_CHECKING:
    from adabatch.lab.advice import Advice

Budget = Annotated[
    str,
    typer.Option("--budget", metavar="TIME", help="For all of it, such as 1h, 20min or 90s.", rich_help_panel=RUN),
]
TrainSamples = Annotated[
    int | None, typer.Option("--train-samples", help="The first of the training set; else all.", rich_help_panel=RUN)
]
TestSamples = Annotated[
    int | None, typer.Option("--test-samples", help="The first of the test set; else all.", rich_help_panel=RUN)
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Then train as long as a whole training, by the schedule and by each constant batch size, with three "
        "seeds that the advice had not seen: how did its forecast do?",
        rich_help_panel=RUN,
    ),
]
# Options that say nothing about the training that is advised.
_OWN = ("lr", "epochs", "batch_size", "seed")


@_shared.guarded
@_options.of_a_run(
    *("model", "batch_size", "lr", "momentum", "weight_decay", "optimizer", "decay_biases", "label_smoothing"),
    *("zero_init", "ghost_batch_size", "epochs", "seed", "device", "threads", "data", "workers", "precision"),
    "channels_last",
    batch_size=_options.option("batch_size", help="The smallest, from which growth begins."),
    lr=_options.option("lr", help="The middle of those that are tried; else the task's."),
    epochs=_options.option("epochs", help="Of a whole training; else the task's."),
    seed=_options.option("seed", help="The first of the seeds."),
)
def command(
    task: _options.TaskArgument,
    *,
    budget: Budget = "1h",
    train_samples: TrainSamples = None,
    test_samples: TestSamples = None,
    check: Check = False,
    settings: dict[str, Any],
    out: _options.Out = None,
    progress: _options.Telling = None,
    as_json: _options.AsJson = False,
) -> None:
    """Advise whether growth pays on TASK here, by which schedule, and how sure that is: the short answer of a study.

    Measures throughput; ends there if four times the batch trains fewer than 1.1 times the samples per second. Then it
    finds the LR, trains three constant batch sizes and two growing schedules over seeds, and forecasts how many times
    as fast growth is, to the same loss, with an interval. The folder gets advice.json, schedule.json for adabatch train
    --growth-file, and a page. The same command again goes on where it stopped.

    Examples:
        adabatch advise digits --budget 3min

        adabatch advise digits --model mlp --budget 90s --check --out runs/advise-mlp

        adabatch advise fashion_mnist --data ../data --train-samples 10000
    """
    if importlib.util.find_spec("scipy") is None:
        raise MissingPackageError(None, "advice needs SciPy", remedy="run: pip install 'adabatch[study]'")
    from adabatch.lab.study.advise import Question, advise
    from adabatch.lab.study.advise import check as measure_outcome
    from adabatch.lab.training import pick_device
    from adabatch.lab.training.interrupt import Interrupts

    folder = out or Path("runs") / f"advise-{task}"
    _folders.check_free(folder, "piece of advice")
    base = RunConfig.for_task(task, **{**settings, "lr_schedule": "constant"})
    pick_device(base.device)
    question = Question(
        base=base, budget_seconds=_seconds(budget), train_samples=train_samples, test_samples=test_samples
    )
    data = tasks.get(task).load(base.data)
    show = not as_json if progress is None else progress
    checked = check or _has_outcome(folder)
    with Interrupts(waiting=True):
        try:
            with _Stage(budget, show=show) as stage:
                found = advise(question, data, folder, tell=stage.tell)
                if checked and found.choice is not None:
                    if not _has_outcome(folder):
                        _write(found, folder)  # before the long part
                    found = measure_outcome(question, data, folder, found, tell=stage.tell)
            try:
                names = _write(found, folder)
            except OSError:
                if not as_json:
                    _show(found, [])  # it is measured, and a full disk hides nothing
                raise
        except KeyboardInterrupt as error:
            where = shlex.quote(str(folder))
            message = f"interrupted; what is measured is kept, and the same command goes on in {where}"
            _shared.interrupted(message, as_json=as_json, number=getattr(error, "number", signal.SIGINT))
    if as_json:
        _shared.print_json(found.to_json())
    else:
        notes = ["There is no forecast to check."] if check and found.choice is None else []
        notes += [f"Written to {folder}: {', '.join(names)}.", f"To train by it: {_how(found, folder, settings)}"]
        _show(found, notes)


def _seconds(budget: str) -> float:
    rule, remedy = "must be a number above 0, in digits, and one unit", "write for example 1h, 20min or 90s"
    try:
        found = saving.time_of(budget)
    except ValueError:
        found = None
    if not found:
        raise ArgumentError("budget", rule, value=budget, remedy=remedy)
    return found


def _has_outcome(folder: Path) -> bool:
    """Whether an advice in the folder has an outcome, which costs nothing then."""
    try:
        return bool(_files.json_of(folder / "advice.json").get("outcome"))
    except (OSError, ValueError, AttributeError):
        return False


class _Stage:
    """Shows on stderr what is done: a line with the time on a terminal, in a log a line for each.

    Args:
        budget: as the user typed it.
        show: whether to show anything.
    """

    def __init__(self, budget: str, *, show: bool) -> None:
        columns = (TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn(f"of about {budget}"))
        self._bars = _shared.Bars(*columns, show=show)
        self._row = self._bars.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def tell(self, words: str) -> None:
        """Shows what is done next."""
        self._bars.update(self._row, description=words)
        if self._bars.lines:
            _shared.say(words)


def _write(found: Advice, out: Path) -> list[str]:
    """Writes all files of an advice; returns their names."""
    from adabatch.lab.advice import GROW
    from adabatch.lab.report import page
    from adabatch.lab.training import lock, writing
    from adabatch.lab.training.folder import write_json

    names = ["advice.json"]
    with writing(out), naming(folder="out"), lock.held(out, patience=PATIENCE):
        write_json(out / "advice.json", found.to_json())
        if found.verdict == GROW:
            write_json(out / "schedule.json", found.schedule)
            names.append("schedule.json")
        return [*names, page.write(out).name]


def _how(found: Advice, out: Path, settings: Mapping[str, Any]) -> str:
    """The command that trains as advised."""
    from adabatch.lab.advice import GROW
    from adabatch.lab.study.grid import COOLDOWN, WARM_UP

    words, epochs = ["adabatch", "train", found.task], found.whole_epochs
    down = max(1, round(COOLDOWN * epochs))
    schedule = f"wsd:{down}" if down < epochs else "constant"
    if found.verdict == GROW and found.choice is not None:
        words += ["--growth-file", str(out / "schedule.json"), "--coupling", found.choice.coupling]
        words += ["--lr", f"{found.lr:g}"]
    else:
        best = next((row for row in found.fixed if row.batch_size == found.best_fixed), None)
        size, lr = (settings.get("batch_size"), found.lr) if best is None else (best.batch_size, best.lr)
        words += ["--batch-size", str(size)] if size else []
        words += ["--lr", f"{lr:g}"]
        if lr > found.lr and (warm := round(WARM_UP * epochs)):
            schedule = f"warmup:{warm}:{found.lr / lr:g}+{schedule}"
    words += ["--lr-schedule", schedule, "--epochs", str(epochs), "--drop-last"]
    for name, value in settings.items():
        flags = SETTINGS[name].flags or f"--{name.replace('_', '-')}"
        if name not in _OWN:
            words += [flags.split("/")[0 if value else 1]] if isinstance(value, bool) else [flags, str(value)]
    return shlex.join(words)


def _show(found: Advice, notes: list[str]) -> None:
    from adabatch.lab.report.advising.terminal import tables
    from adabatch.lab.report.advising.words import sentences, verdict
    from adabatch.lab.report.words import typed

    console = _shared.console()
    for table in tables(found):
        _shared.print_table(table)
    console.print(typed(verdict(found)), markup=False, style="bold")
    for sentence in [*sentences(found), *notes]:
        console.print(typed(sentence), markup=False)
