"""`adabatch study`: what each batch size needs to a target loss, and where a larger batch stops paying."""

from __future__ import annotations

import shlex
import signal
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import typer
from rich.progress import BarColumn, TextColumn
from rich.table import Table

from adabatch._errors import ArgumentError, naming
from adabatch.lab import tasks
from adabatch.lab.cli import _folders, _options, _shared, _studied
from adabatch.lab.training.config import GROWTH, OPTIMIZER, OUTPUT, RUN, RunConfig

if TYPE_CHECKING:
    from adabatch.lab.scaling import BranchFindings, Study
    from adabatch.lab.study.branch import Branching
    from adabatch.lab.study.grid import Grid
    from adabatch.lab.study.sweep import View

SIZES_AT_MOST = 7
JOBS_OF_A_CORE = 8
LONGER = 4  # times the epochs of a study, to which trainings go on that have not arrived
EPOCHS_AT_MOST = 8
LINE_SECONDS = 30.0  # between lines in a log
_Value = TypeVar("_Value")

BatchSizes = Annotated[
    str | None,
    typer.Option("--batch-sizes", metavar="LIST", help="Such as 16,64,256; else doublings.", rich_help_panel=GROWTH),
]
Models = Annotated[
    str | None,
    typer.Option("--models", metavar="LIST", help="Networks; else the task's first.", rich_help_panel=RUN),
]
Rules = Annotated[
    str | None,
    typer.Option(
        "--lr-rules",
        metavar="LIST",
        help="How the LR follows the batch size: constant, linear, sqrt, tuned (LR and momentum searched at each); "
        "else linear, with --branch the best of constant, sqrt and linear.",
        rich_help_panel=OPTIMIZER,
    ),
]
Fractions = Annotated[
    str,
    typer.Option("--fractions", metavar="LIST", help="Shares of the training set, such as 1,0.5.", rich_help_panel=RUN),
]
Seeds = Annotated[
    int,
    typer.Option("--seeds", help="How many, from --seed on; intervals need two or more.", rich_help_panel=RUN),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        "--max-epochs",
        help="Trainings that have not arrived after --epochs go on up to this; else four times as many.",
        rich_help_panel=RUN,
    ),
]
TargetRule = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="best|paper",
        help="The loss to reach: best, which the best batch size reaches with every seed within --epochs; paper, the "
        "lower quartile of the largest batch's losses.",
        rich_help_panel=RUN,
    ),
]
TrainSamples = Annotated[
    int | None, typer.Option("--train-samples", help="The first of the training set; else all.", rich_help_panel=RUN)
]
TestSamples = Annotated[
    int | None, typer.Option("--test-samples", help="The first of the test set; else all.", rich_help_panel=RUN)
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Of Optuna, for many machines: postgresql+psycopg://..., or a path that ends in .journal; "
        "else study.db in --out.",
        rich_help_panel=OUTPUT,
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="Of the study in --storage; else the name of --out.", rich_help_panel=OUTPUT),
]
Branch = Annotated[
    bool,
    typer.Option("--branch", help="Measure by short branches from one ordinary run instead.", rich_help_panel=RUN),
]
Forks = Annotated[
    str | None,
    typer.Option(
        "--forks",
        metavar="LIST",
        help="With --branch: where, as shares of the training; else 0.05,0.15,0.35,0.65.",
        rich_help_panel=RUN,
    ),
]
Windows = Annotated[
    str | None,
    typer.Option(
        "--windows",
        metavar="LIST",
        help="With --branch: lengths of branches, as shares of the training; else 1/64, 1/32 and 1/16.",
        rich_help_panel=RUN,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="With --branch: of the loss, in the schedule that is written; else 0.01.",
        rich_help_panel=RUN,
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", help="Trainings at once on this machine.", rich_help_panel=RUN)]


@_shared.guarded
@_options.of_a_run(
    *("batch_size", "lr", "momentum", "weight_decay", "optimizer", "decay_biases", "label_smoothing", "zero_init"),
    *("ghost_batch_size", "epochs", "seed", "device", "threads", "data", "workers", "precision", "channels_last"),
    batch_size=_options.option("batch_size", help="The smallest, from which the LR rules begin."),
    lr=_options.option("lr", help="At the smallest batch size; else the task's."),
    epochs=_options.option("epochs", help="The budget in which the target is set; else the task's, at most 8."),
    seed=_options.option("seed", help="The first of the seeds."),
)
def command(
    task: _options.TaskArgument,
    *,
    batch_sizes: BatchSizes = None,
    models: Models = None,
    lr_rules: Rules = None,
    fractions: Fractions = "1",
    seeds: Seeds = 3,
    max_epochs: MaxEpochs = None,
    target: TargetRule = "best",
    train_samples: TrainSamples = None,
    test_samples: TestSamples = None,
    settings: dict[str, Any],
    branch: Branch = False,
    forks: Forks = None,
    windows: Windows = None,
    tolerance: Tolerance = None,
    storage: Storage = None,
    name: Name = None,
    jobs: Jobs = 1,
    out: _options.Out = None,
    progress: _options.Telling = None,
    as_json: _options.AsJson = False,
) -> None:
    """Find where a larger batch stops paying on TASK: updates, samples and seconds to a target loss by batch size.

    Trains every batch size at a constant LR over seeds, takes each loss after a cooldown of its own, and fits how many
    updates each batch size needs: the critical batch size, the borders of perfect scaling and of stagnation, with
    intervals. The folder gets study.json. The same command again goes on; given with the same --storage on other
    machines, it joins in.

    With --branch one ordinary run is trained for each seed, and short branches at larger batch sizes go off from it:
    how much larger a batch may be at that moment. The folder gets branch.json, and schedule.json for adabatch train
    --growth-file. It goes without --fractions, --max-epochs, --target, --storage, --name and --jobs.

    Examples:
        adabatch study digits --batch-sizes 16,64,256 --seeds 2 --out runs/study-few

        adabatch study digits --lr-rules constant,linear,tuned --jobs 2

        adabatch study fashion_mnist --data ../data --train-samples 20000 --fractions 1,0.5,0.25

        adabatch study digits --branch --batch-sizes 16,32,64,128 --epochs 14

        adabatch study digits --storage runs/studies.journal --name digits --jobs 2
    """
    show = not as_json if progress is None else progress
    sizes, rules = _listed("batch_sizes", batch_sizes, int), _listed("lr_rules", lr_rules, str)
    places = {"forks": _listed("forks", forks, float), "windows": _listed("windows", windows, float)}
    folder = out or Path("runs") / f"{'branch' if branch else 'study'}-{task}"
    _folders.check_free(folder, "branch" if branch else "study")
    if branch:
        unused = {"fractions": fractions != "1", "max_epochs": max_epochs is not None, "target": target != "best"}
        unused |= {"storage": storage is not None, "name": name is not None, "jobs": jobs != 1}
        if beside := [each for each, value in unused.items() if value]:
            alike = ", ".join(f"`{each}`" for each in beside[1:])
            rule = "must come without `branch`" + (alike and f", and so must {alike}")
            raise ArgumentError(beside[0], rule, got="both", remedy="leave out the one or the other")
        _branch(
            task,
            dict(settings),
            folder,
            sizes=sizes,
            rules=rules,
            models=_listed("models", models, str),
            seeds=seeds,
            tolerance=0.01 if tolerance is None else tolerance,
            show=show,
            as_json=as_json,
            **places,
            train_samples=train_samples,
            test_samples=test_samples,
        )
        return
    for useless in (each for each, value in {**places, "tolerance": tolerance}.items() if value is not None):
        raise ArgumentError(useless, "must come with `branch`", got="it alone")
    _check_jobs(jobs, settings.get("threads"))
    grid = _grid(
        task,
        dict(settings),
        batch_sizes=sizes,
        models=_listed("models", models, str),
        rules=rules or ("linear",),
        fractions=_listed("fractions", fractions, float) or (),
        seeds=seeds,
        max_epochs=max_epochs,
        target=target,
        train_samples=train_samples,
        test_samples=test_samples,
    )
    found, notes = _study(grid, folder, storage=storage, name=name, jobs=jobs, show=show, as_json=as_json)
    if as_json:
        _shared.print_json(found.to_json())
    else:
        _show(found, notes)


def _check_jobs(jobs: int, threads: int | None) -> None:
    from adabatch import _checks
    from adabatch.lab.tasks import decode

    cores, remedy = decode.cores(), "more would only take memory and wait for each other"
    _checks.whole("jobs", jobs)
    _checks.whole("jobs", jobs, maximum=JOBS_OF_A_CORE * cores, remedy=remedy)
    if jobs * (threads or 1) > max(cores, threads or 1):
        each = "" if threads is None else f" of {threads} threads each"
        where = f"{cores} {'core' if cores == 1 else 'cores'}"
        warnings.warn(
            f"{jobs} trainings at once{each} on {where} slow each other down: their seconds are not those of one alone",
            stacklevel=2,
        )


def _listed(name: str, text: str | None, kind: Callable[[str], _Value]) -> tuple[_Value, ...] | None:
    """The values of a list that the user typed; None for none."""
    if text is None:
        return None
    try:
        return tuple(kind(item.strip()) for item in text.split(","))
    except ValueError:
        words = {int: "whole numbers", float: "numbers"}[kind]  # type: ignore[index]
        raise ArgumentError(name, f"must be {words} with commas between", value=text) from None


def _grid(task: str, settings: dict[str, Any], **given: Any) -> Grid:
    """The checked settings of a study."""
    from adabatch import _checks
    from adabatch.lab.study.grid import Grid

    given["seeds"] = tuple(
        range(settings.get("seed", 0), settings.get("seed", 0) + _checks.whole("seeds", given["seeds"]))
    )
    sizes = given["batch_sizes"]
    if sizes:
        if "batch_size" in settings:
            raise ArgumentError("batch_size", "must come without `batch_sizes`", got="both", remedy="leave one out")
        settings["batch_size"] = min(_checks.whole("batch_sizes", size) for size in sizes)
    found = tasks.get(task)
    models = given.pop("models") or (found.default_model,)
    for model in models:
        _checks.one_of("models", model, found.models)
    lrs = {model: found.settings(settings.get("optimizer"), model)["lr"] for model in models}
    if "lr" not in settings and set(given["rules"]) != {"tuned"} and len(set(lrs.values())) > 1:
        got = ", ".join(f"{model} with {lr:g}" for model, lr in lrs.items())
        remedy = "or study one after the other; adabatch report shows several studies together"
        raise ArgumentError("lr", "must be given or tuned for networks of different LRs", got=got, remedy=remedy)
    settings.setdefault("epochs", min(EPOCHS_AT_MOST, found.settings(settings.get("optimizer"))["epochs"]))
    base = RunConfig.for_task(task, **{"model": models[0], **settings, "lr_schedule": "constant"})
    if sizes is None:
        given["batch_sizes"] = _doublings(base, given["train_samples"], min(given["fractions"], default=1.0))
    epochs, most = base.epochs, given.pop("max_epochs")
    with naming(rules="lr_rules"):
        return Grid(
            base=base, models=models, epochs=epochs, max_epochs=LONGER * epochs if most is None else most, **given
        )


def _doublings(base: RunConfig, train_samples: int | None, share: float) -> tuple[int, ...]:
    """The base batch size and its doublings up to a quarter of the smallest share of the data.

    Raises:
        ValueError: if there is no doubling: of what makes the share small.
    """
    size = train_samples or tasks.get(base.task).load(base.data).dataset_size
    found = [base.batch_size]
    while len(found) < SIZES_AT_MOST and 2 * found[-1] <= share * size / 4:
        found.append(2 * found[-1])
    if len(found) < 2:
        given = {"fractions": share if share != 1 else None, "train_samples": train_samples, "batch_size": found[0]}
        name, value = next((name, value) for name, value in given.items() if value is not None)
        rule = f"must leave at least {8 * found[0]:,} samples in each share, eight times the smallest batch size"
        raise ArgumentError(name, rule, value=value, remedy="or give `batch_sizes`")
    return tuple(found)


def _study(
    grid: Grid, out: Path, *, storage: str | None, name: str | None, jobs: int, show: bool, as_json: bool
) -> tuple[Study, list[str]]:
    """Does what is due and writes the findings; returns them with what to say about the files."""
    from adabatch.lab import training
    from adabatch.lab.study import cooled, sweep
    from adabatch.lab.study.board import Board, quiet
    from adabatch.lab.study.findings import findings
    from adabatch.lab.training.interrupt import Interrupts

    quiet()
    device = training.pick_device(grid.base.device)
    data = tasks.get(grid.base.task).load(grid.base.data)
    sweep.check_data(grid, data)
    _studied.check_seeds(out / "study.json", grid)
    address, called = f"sqlite:///{out / 'study.db'}" if storage is None else storage, name or out.resolve().name
    given = "out" if storage is None else "storage"
    with training.writing(out), naming(storage=given), _folders.kept(out):
        board = Board(grid, address, name=called, facts=sweep.facts(data))
    with Interrupts(waiting=True), naming(storage=given):
        try:
            with StudyBar(grid, show=show) as bar:
                if jobs == 1:
                    sweep.work(board, grid, data, out, progress=bar.show)
                else:
                    sweep.work_together(board, grid, out, jobs=jobs, storage=address, name=called, progress=bar.show)
            samples = {fraction: cooled.share_of(data, grid, fraction).dataset_size for fraction in grid.fractions}
            found = findings(
                grid,
                sweep.look(board, grid).standing.done,
                samples=samples,
                versions=training.versions(device),
                expected_loss=tasks.get(grid.base.task).expected_loss,
            )
            return found, [*_studied.write_study(found, out), _studied.to_probe(grid, out)]
        except KeyboardInterrupt as error:
            message = f"interrupted; what is finished is kept, and the same command goes on in {shlex.quote(str(out))}"
            _shared.interrupted(message, as_json=as_json, number=getattr(error, "number", signal.SIGINT))


class StudyBar:
    """Shows progress on stderr: a table and a bar on a terminal, else a line now and then.

    Args:
        grid: of the study.
        show: whether to show anything.
    """

    def __init__(self, grid: Grid, *, show: bool) -> None:
        self._grid, self._told, self._done = grid, -LINE_SECONDS, -1
        self._bars = _shared.Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            show=show,
        )
        self._row = self._bars.add_task(grid.base.task, total=None, state="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, view: View) -> None:
        """Shows the study as it is."""
        done, left = len(view.standing.done), len(view.due)
        state = f"{done} of {done + left} trainings known so far"
        if view.seconds_left is not None:
            state += f", {timedelta(seconds=round(view.seconds_left))} left"
        if view.own is not None and view.now is not None:
            rate = f", {view.now.samples_per_second:,.0f}/s" if view.now.samples_per_second else ""
            state += f"  {view.own.key}: {view.now.updates:,} of {view.now.total:,} updates{rate}"
        self._bars.table = progress_table(self._grid, view)
        self._bars.update(self._row, total=done + left, completed=done, state=state)
        now = time.monotonic()
        if self._bars.lines and (done != self._done or now >= self._told + LINE_SECONDS):
            self._done, self._told = done, now
            _shared.say(state)


def progress_table(grid: Grid, view: View) -> Table:
    """The trainings of a study: a row for each network, share of the data and rule, a column for each batch size.

    A training that several rules share counts in the first of their rows.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for size in grid.batch_sizes:
        table.add_column(f"{size:,}", justify="right")
    counted: set[str] = set()
    for panel in grid.panels:
        rows: dict[str, list[str]] = {rule: [] for rule in grid.rules}
        for case in grid.cases(panel):
            left = {job.key for job in view.left.get(case, ())}
            count = len(left - counted)
            rows[case.rule].append(f"{count} left" if count else "as above" if left else "done")
            counted |= left
        share = "" if panel[1] == 1 else f" {panel[1]:g}"
        for rule, row in rows.items():
            table.add_row(f"{panel[0]}{share} {rule}", *row)
    return table


def _branch(
    task: str,
    settings: dict[str, Any],
    out: Path,
    *,
    tolerance: float,
    show: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measures by branching and writes the findings and the schedule."""
    from adabatch import _checks
    from adabatch.lab import training
    from adabatch.lab.study import branch
    from adabatch.lab.study.branch_findings import TOLERANCES, findings
    from adabatch.lab.training.interrupt import Interrupts

    setting = _branching(task, settings, **given)
    _checks.finite("tolerance", tolerance, minimum=0, remedy="0.01 is one per cent")
    _studied.check_seeds(out / "branch.json", setting)
    device = training.pick_device(setting.base.device)
    data = tasks.get(task).load(setting.base.data)
    watch, expected, known = None, None, tasks.get(task).expected_loss
    if known is not None and setting.base.optimizer == "sgd":
        watch, expected = branch.expected_branches(setting, setting.train_samples or data.dataset_size, known)
    with Interrupts(waiting=True):
        try:
            with _shared.Bars(show=show) as bar:
                row = bar.add_task(task, total=None)

                def tell(done: int, total: int) -> None:
                    bar.update(row, completed=done, total=total)
                    if bar.lines:
                        _shared.say(f"{done} of {total} branches measured")

                found = branch.measure(setting, data, out, progress=tell, watch=watch)
            made = findings(
                setting,
                found,
                dataset_size=data.dataset_size,
                tolerances=sorted({*TOLERANCES, tolerance}),
                tolerance=tolerance,
                versions=training.versions(device),
                expected=expected,
            )
            notes = _studied.write_branch(made, out)
        except KeyboardInterrupt as error:
            message = f"interrupted; what is measured is kept, and the same command goes on in {shlex.quote(str(out))}"
            _shared.interrupted(message, as_json=as_json, number=getattr(error, "number", signal.SIGINT))
    if as_json:
        _shared.print_json(made.to_json())
    else:
        _show_branch(made, [*notes, *_studied.to_train(made, setting.base, out)])


def _show_branch(found: BranchFindings, notes: list[str]) -> None:
    from adabatch.lab.report.branching.terminal import tables
    from adabatch.lab.report.branching.words import sentences

    for table in tables(found):
        _shared.print_table(table)
    console = _shared.console()
    for sentence in [*sentences(found), *notes]:
        console.print(sentence, markup=False)


def _branching(
    task: str,
    settings: dict[str, Any],
    *,
    sizes: tuple[int, ...] | None,
    rules: tuple[str, ...] | None,
    models: tuple[str, ...] | None,
    seeds: int,
    forks: tuple[float, ...] | None,
    windows: tuple[float, ...] | None,
    **given: Any,
) -> Branching:
    """The checked settings of a measurement by branching."""
    from adabatch import _checks
    from adabatch.lab.study.branch import FORKS, WINDOWS, Branching

    found = tasks.get(task)
    if models is not None and len(models) > 1:
        raise ArgumentError("models", "must be one with `branch`", got=", ".join(models))
    model = _checks.one_of("models", models[0], found.models) if models else found.default_model
    if sizes:
        if "batch_size" in settings:
            raise ArgumentError("batch_size", "must come without `batch_sizes`", got="both", remedy="leave one out")
        settings["batch_size"] = sizes[0]
    base = RunConfig.for_task(task, **{"model": model, **settings, "lr_schedule": "constant"})
    sizes = sizes or tuple(base.batch_size * 2**power for power in range(4))
    if len(sizes) < 2:
        remedy = "give the base batch size and at least one larger one"
        raise ArgumentError("batch_sizes", "must be at least two", value=list(sizes), remedy=remedy)
    for size in sizes[1:]:
        if size % sizes[0]:
            rule = f"must be multiples of the first one, {sizes[0]}, with `branch`"
            raise ArgumentError("batch_sizes", rule, value=size)
    powers = {"constant": 0.0, "sqrt": 0.5, "linear": 1.0}
    for name in rules or ():
        _checks.one_of("lr_rules", name, powers)
    first = settings.get("seed", 0)
    with naming(factors="batch_sizes", powers="lr_rules"):
        return Branching(
            base=base,
            factors=tuple(size // sizes[0] for size in sizes[1:]),
            forks=forks or FORKS,
            windows=windows or WINDOWS,
            powers=tuple(sorted(powers[name] for name in rules or powers)),
            seeds=tuple(range(first, first + _checks.whole("seeds", seeds))),
            **given,
        )


def _show(found: Study, notes: list[str]) -> None:
    from adabatch.lab.report.scaling.terminal import tables
    from adabatch.lab.report.scaling.words import advice, sentences
    from adabatch.lab.report.terminal import whole_width
    from adabatch.lab.report.words import typed

    console = _shared.console()
    narrow = console.is_terminal and any(whole_width(table) > console.width for table in tables(found))
    for table in tables(found, narrow=narrow):
        _shared.print_table(table)
    for sentence in [*sentences(found), *notes]:
        console.print(typed(sentence), markup=False)
    for panel in found.panels:
        console.print(typed(advice(panel)), markup=False, style="bold")
