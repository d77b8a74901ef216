"""The progress of a run: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from rich import progress as bars
from rich.console import Console

if TYPE_CHECKING:
    from adabatch.lab.training import Progress


class Bar:
    """Shows how a run goes while it is entered: a bar on a terminal, else a line for each evaluation, on stderr.

    What is done before the first update has a line of its own, wherever it goes.

    Args:
        title: what is trained.
        show: whether to show it at all.
    """

    def __init__(self, title: str, *, show: bool = True) -> None:
        console = Console(stderr=True, highlight=False)
        self._lines = show and not console.is_terminal
        columns = (
            bars.TextColumn("[bold]{task.description}"),
            bars.BarColumn(bar_width=None),
            bars.TextColumn("{task.completed:,.0f}/{task.total:,.0f} samples"),
            bars.TextColumn("{task.fields[state]}"),
            bars.TimeRemainingColumn(),
        )
        self._bars = bars.Progress(
            *columns, console=console, transient=True, refresh_per_second=4, disable=not (show and console.is_terminal)
        )
        self._row = self._bars.add_task(title, total=1, state="starting")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # the terminal is gone
            self._bars.stop()

    def show(self, now: Progress) -> None:
        """Shows where the run stands."""
        if now.note is not None:
            self._bars.update(self._row, state=now.note)
            if self._lines:
                say(now.note)
            return
        if self._lines and now.evaluation is not None:
            say(evaluation_line(now, seconds_left=now.seconds_left))
        state = f"batch {now.batch_size:,}  LR {now.lr:.3g}  {now.samples_per_second:,.0f}/s"
        if now.test_accuracy is not None:
            state += f"  test {100 * now.test_accuracy:.1f} %"
        self._bars.update(self._row, total=now.total_samples, completed=now.samples, state=state)


def say(line: str) -> None:
    """Prints a line on standard error; where nobody reads it any more, training goes on without."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def evaluation_line(now: Progress, *, seconds_left: float | None) -> str:
    """One evaluation as a line of a log.

    Args:
        now: with the evaluation.
        seconds_left: of whatever is under way; None: not known yet.
    """
    found = now.evaluation
    assert found is not None
    epoch = f"{now.samples * now.epochs / now.total_samples:.2f}".rstrip("0").rstrip(".")
    parts = [
        f"epoch {epoch}/{now.epochs}",
        f"test {100 * found.test_accuracy:.2f} %",
        f"test loss {_loss(found.test_loss)}",
        f"training loss {_loss(found.train_loss)}",
        f"batch {found.batch_size:,}",
        f"LR {found.lr:.3g}",
        f"{now.samples_per_second:,.0f}/s",
    ]
    if seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(seconds_left))} left")
    return "  ".join(parts)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
