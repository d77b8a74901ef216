"""`adabatch compare`: a growing batch against fixed ones, over seeds."""

from __future__ import annotations

import importlib.util
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from adabatch._errors import ArgumentError, naming
from adabatch.lab.cli import _options, _shared, _speed
from adabatch.lab.training.config import GROWING, GROWTH, RUN, SETTINGS, RunConfig

if TYPE_CHECKING:
    from adabatch.lab.comparison import Comparison
    from adabatch.lab.report.figures import Interim
    from adabatch.lab.study.compare import Turn
    from adabatch.lab.training import Progress, RunResult

WIDE = 110
Seeds = Annotated[
    int,
    typer.Option("--seeds", help="How many seeds, from --seed on; 6 or more for firm intervals.", rich_help_panel=RUN),
]
Target = Annotated[
    float | None,
    typer.Option("--target", help="Test accuracy to count time up to, such as 0.95.", rich_help_panel=RUN),
]
Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        metavar="TEXT",
        help="Only this arm (repeatable): fixed-small, fixed-large, adaptive, uncoupled, or 'NAME: KEY=VALUE ...'.",
        rich_help_panel=GROWTH,
    ),
]


@_shared.guarded
@_options.of_a_run()
def command(
    task: _options.TaskOrFile = None,
    *,
    seeds: Seeds = 10,
    arm: Arms = None,
    target: Target = None,
    preset: _options.Preset = None,
    config: _options.SettingsFile = None,
    settings: dict[str, Any],
    tune: _speed.Tune = False,
    out: _options.Out = None,
    progress: _options.Telling = None,
    as_json: _options.AsJson = False,
) -> None:
    """Compare a growing batch with fixed ones on TASK: time, updates and accuracy, paired over seeds.

    Trains fixed-small, fixed-large (the largest batch from the start, LR scaled by the coupling), adaptive (x2 unless
    --growth, --rule, --growth-file, --policy, --preset or --config say otherwise) and uncoupled (the same growth, LR
    left alone), in turns. Prints a table; the folder gets compare.json, compare.md (the table so far until the end),
    compare.png, report.html and the runs. The same command again goes on after a kill. An arm with another optimizer
    gets the task's LR for that optimizer, unless the arm sets one. With --tune all arms train with what is faster for
    the adaptive one.

    Examples:
        adabatch compare digits

        adabatch compare digits --seeds 3 --growth 4 --every '3 epochs' --out runs/by-four

        adabatch compare mnist --data ../data --seeds 3 --target 0.98

        adabatch compare cifar10 --preset adabatch --model alexnet --seeds 5

        adabatch compare digits --arm adaptive --arm 'root: growth=2 coupling=power(0.5)' --arm 'big: batch-size=64'

        adabatch compare digits --seeds 3 --arm adaptive --arm 'noisy: policy=noise-scale:2 max-batch-size=128'
    """
    task, merged = _options.merged_settings(task, settings, preset=preset, file=config)
    if all(merged.get(name) is None for name in GROWING):
        merged["growth"] = 2.0
    _options.check_growth(settings, merged, preset)
    run = _options.run_config(task, merged, file=config)
    folder = out or Path("runs") / f"compare-{task}"
    show = not as_json if progress is None else progress
    from adabatch.lab.training.ranks import joined

    with joined(run.device, command="compare") as ranks:
        show = show and ranks.is_first
        speed = _speed.Choice(
            wanted=tune, fixed=merged if tune or config is None else SETTINGS, ranks=ranks, as_json=as_json, show=show
        )
        compare = _compare(run, speed, arms=arm or [], seeds=seeds, target=target, out=folder)
    if not ranks.is_first:
        return
    notes = _write(compare, folder)
    if target is not None and not any(arm.to_target and arm.to_target.reached for arm in compare.arms):
        if not as_json:
            _show(compare, notes)
        best = max(value for arm in compare.arms if arm.best_accuracy for value in arm.best_accuracy.values)
        got = f"{target:g}, the best is {best:.4g}"
        remedy = f"all results are in {folder}; the same command with a lower target reads them again"
        raise ArgumentError("target", "must be reached by at least one run", got=got, remedy=remedy)
    if as_json:
        _shared.print_json(speed.with_tuning(compare.to_json()))
    else:
        _show(compare, notes)


def _compare(
    config: RunConfig, speed: _speed.Choice, *, arms: list[str], seeds: int, target: float | None, out: Path
) -> Comparison:
    """Trains the runs that are missing; returns the findings."""
    from adabatch import _checks
    from adabatch.lab import tasks, training
    from adabatch.lab.report.figures import Interim
    from adabatch.lab.study.arms import chosen_arms
    from adabatch.lab.study.compare import compare
    from adabatch.lab.training.config import checked_target
    from adabatch.lab.training.interrupt import Interrupts

    _checks.whole("seeds", seeds)
    if target is not None:
        checked_target(target)
    training.pick_device(config.device)  # before data are read
    data = tasks.get(config.task).load(config.data)
    chosen_arms(arms, config, dataset_size=data.dataset_size)  # before minutes of measuring
    config = speed.for_comparison(config, out, data)
    chosen = chosen_arms(arms, config, dataset_size=data.dataset_size)
    numbers = range(config.seed, config.seed + seeds)
    interim = Interim(f"{config.task}, {config.model}", [arm.name for arm in chosen], numbers, {})
    bar = RunsBar(config.task, interim, out, show=speed.show)
    with Interrupts(waiting=True):  # so a key held down does not cut off the last message
        try:
            with bar:
                how: dict[str, Any] = {"target": target, "data": data, "tuning": speed.kept()}
                return compare(chosen, seeds=numbers, out=out, **how, progress=bar.show)
        except KeyboardInterrupt as error:
            page = shlex.join(["adabatch", "report", str(out)])
            message = (
                f"interrupted; {bar.done} of {len(chosen) * seeds} runs are finished in {out} and will not be "
                f"repeated; to go on, give the same command again; {page} shows what is there"
            )
            _shared.interrupted(message, as_json=speed.as_json, number=getattr(error, "number", signal.SIGINT))


def _write(compare: Comparison, out: Path) -> list[str]:
    """Writes table, picture and page; returns sentences about the files."""
    from adabatch.lab.report import headline, page
    from adabatch.lab.report.terminal import compare_table, plain
    from adabatch.lab.training import writing
    from adabatch.lab.training.folder import write_text

    words = "\n".join(f"- {sentence}" for sentence in headline.sentences(compare))
    written = ["compare.json", "compare.md"]
    with writing(out), naming(folder="out"):
        write_text(out / "compare.md", f"{plain(compare_table(compare))}\n\n{words}\n")
        if importlib.util.find_spec("matplotlib") is not None:
            from adabatch.lab.report.picture import compare_picture

            compare_picture(out, out / "compare.png")
            written.append("compare.png")
        written.append(page.write(out).name)
    notes = [f"Written to {out}: {', '.join(written)}."]
    if len(written) < 4:
        notes.append("For the picture run: pip install 'adabatch[plot]'")
    return notes


def _show(compare: Comparison, notes: list[str]) -> None:
    from adabatch.lab.report import headline
    from adabatch.lab.report.terminal import compare_table

    console = _shared.console()
    _shared.print_table(compare_table(compare, narrow=console.is_terminal and console.width < WIDE))
    for sentence in [*headline.sentences(compare), *notes]:
        console.print(sentence, markup=False)
    console.print(" ".join(headline.plain(compare)).strip(), markup=False, style="bold")


class RunsBar:
    """Shows progress on stderr: a table and a bar on a terminal, else a line for each evaluation and finished run.

    Until the end compare.md has the table too.

    Args:
        title: of the bar.
        interim: the comparison, without a finished run.
        out: the folder of the comparison.
        show: whether to show anything.

    Attributes:
        done: number of finished runs.
    """

    def __init__(self, title: str, interim: Interim, out: Path, *, show: bool) -> None:
        self.done = 0
        self._interim, self._out = interim, out
        self._begun: float | None = None  # when the first run is trained here
        self._found = 0  # runs that were there before
        self._bars = _shared.Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            show=show,
        )
        self._row = self._bars.add_task(title, total=None, state="warming up")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, turn: Turn, now: Progress | RunResult | None) -> None:
        """Shows the run under way: `now` is None before it starts, then its progress, at the end its result."""
        from adabatch.lab.training import Progress

        share, place = 0.0, f"run {turn.number}/{turn.total}  {turn.arm.name}, seed {turn.seed}"
        state = place
        if now is None and turn.reused:
            self._found += 1
        elif now is None and self._begun is None:
            self._begun = time.monotonic()
        if isinstance(now, Progress):
            share = now.samples / now.total_samples
            state += f"  batch {now.batch_size:,}  {now.samples_per_second:,.0f}/s"
            if self._bars.lines and now.note is not None:
                _shared.say(f"{place}  {now.note}")
            if self._bars.lines and now.evaluation is not None:
                line = _shared.evaluation_line(now, seconds_left=self._seconds_left(turn, share))
                _shared.say(f"{place}  {line}")
        elif now is not None:
            self.done, share = turn.number, 1.0
            self._add(turn, now)
            state += f"  {100 * now.test_accuracy:.2f} % in {now.train_seconds:.2f} s"
            state += "  diverged" if now.diverged else "  no better than chance" if now.at_chance else ""
            if self._bars.lines:
                _shared.say(f"{state}{' (found there)' if turn.reused else ''}")
        finished = now is not None and not isinstance(now, Progress)
        self._bars.update(self._row, total=turn.total, completed=turn.number - 1 + share, state=state, refresh=finished)

    def _seconds_left(self, turn: Turn, share: float) -> float:
        """Seconds to the end if the remaining runs take as long as those trained here so far."""
        passed = turn.number - 1 + share
        began = time.monotonic() if self._begun is None else self._begun
        return (time.monotonic() - began) * (turn.total - passed) / (passed - self._found)

    def _add(self, turn: Turn, result: RunResult) -> None:
        """Adds a finished run to the table; writes the table to compare.md while runs are missing."""
        from adabatch.lab.report.figures import Done
        from adabatch.lab.report.terminal import interim_table, plain
        from adabatch.lab.training import writing
        from adabatch.lab.training.folder import write_text

        diverged = result.diverged_at is not None
        done = Done(result.test_accuracy, result.updates, result.train_seconds, diverged)
        self._interim = replace(self._interim, done={**self._interim.done, (turn.arm.name, turn.seed): done})
        self._bars.table = interim_table(self._interim)
        if turn.number < turn.total and not turn.reused:
            words = "\n".join(f"- {sentence}" for sentence in self._interim.sentences())
            with writing(self._out):
                write_text(self._out / "compare.md", f"{plain(self._bars.table)}\n\n{words}\n")
