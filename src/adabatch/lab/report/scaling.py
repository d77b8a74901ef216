"""A study in tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from adabatch.lab.scaling import Estimate, Panel, Rule, Study, ToLoss

LOSSES = {"train": "training loss", "test": "test loss"}


def tables(study: Study) -> Iterator[Table]:
    """The tables of a study: for each network, share of the data, LR rule and loss, a row for each batch size."""
    for panel in study.panels:
        for rule in panel.rules:
            for loss, words in LOSSES.items():
                yield _table(study, panel, rule, getattr(rule, loss), words)


def _table(study: Study, panel: Panel, rule: Rule, found: ToLoss, loss: str) -> Table:
    share = "" if panel.fraction == 1 else f", {panel.fraction:g} of the data"
    aim = "no target" if found.target is None else f"to {loss} {found.target.loss:.4g}"
    title = f"{study.task}, {panel.model}{share}, LR {rule.rule}: {aim}"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in ("batch size", "LR", "arrived", "updates", "speedup", "ideal", "samples", "cost", "seconds"):
        table.add_column(name, justify="right")
    cells = {cell.batch_size: cell for cell in rule.cells}
    for row in found.to_target:
        cell = cells[row.batch_size]
        lr = f"{cell.lr:.4g}{' (edge)' if cell.at_edge else ''}"
        table.add_row(
            f"{row.batch_size:,}",
            lr,
            f"{row.arrived} of {row.n}",
            told(row.updates),
            told(row.speedup),
            f"{row.ideal:g}",
            told(row.samples),
            told(row.cost),
            told(row.seconds),
        )
    return table


def sentences(study: Study) -> Iterator[str]:
    """The findings of a study, a sentence each."""
    for panel in study.panels:
        for rule in panel.rules:
            share = "" if panel.fraction == 1 else f" on {panel.fraction:g} of the data"
            for loss, words in LOSSES.items():
                found: ToLoss = getattr(rule, loss)
                if found.fits is None:
                    continue
                one = found.fits.form_1
                yield (
                    f"{panel.model}{share}, LR {rule.rule}, {words}: critical batch size {told(one.critical_batch)}; "
                    f"20 % more samples are spent at {told(one.batch_at_20_percent_more_samples)}, where perfect "
                    f"scaling ends; beyond {told(one.stagnation_batch)} a doubled batch saves less than 10 % of the "
                    "updates."
                )


def told(value: Estimate) -> str:
    """An estimate with its interval."""
    middle = "?" if value.estimate is None else _number(value.estimate)
    if value.low == value.high == value.estimate:
        return middle
    return f"{middle} [{_number(value.low)}, {'no end' if value.high is None else _number(value.high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
