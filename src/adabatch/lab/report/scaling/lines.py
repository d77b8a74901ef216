"""The lines of a study's charts: batch sizes under one LR rule, of one network, share of the data and folder.

Many lines do not fit one chart. A view is a choice of those that are worth comparing: the LR rules of one network, or
the networks under one LR rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from adabatch.lab.report import look
from adabatch.lab.report.scaling.machine import Machine, Machines
from adabatch.lab.scaling import Panel, Rule, Study, ToLoss

LOSSES: Final = {"test": "test loss", "train": "training loss"}
FEW: Final = 4  # lines that one chart takes without a choice
NO_MACHINES: Final[Machines] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Line:
    """Batch sizes under one LR rule.

    Attributes:
        name: in legends; it tells the line from the others of its view.
        folder: of the study.
        study: its findings.
        panel: its network and share of the data.
        rule: its LR rule.
        machine: that trains its network, by a probe; None: there is none.
    """

    name: str
    folder: str
    study: Study
    panel: Panel
    rule: Rule
    machine: Machine | None = None

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Folder, network, share of the data and LR rule in words."""
        return self.folder, self.panel.model, share(self.panel), f"LR {self.rule.rule}"

    def to(self, loss: str) -> ToLoss:
        """The way to the target of a loss, one of `LOSSES`."""
        return to(self.rule, loss)


@dataclass(frozen=True, slots=True)
class View:
    """Lines that are drawn together.

    Attributes:
        key: a word.
        title: in a list of views.
        lines: with different names.
    """

    key: str
    title: str
    lines: tuple[Line, ...]


def to(rule: Rule, loss: str) -> ToLoss:
    """The way of an LR rule to the target of a loss, one of `LOSSES`."""
    return rule.test if loss == "test" else rule.train


def share(panel: Panel) -> str:
    """The share of the data: `"50 %"`."""
    return f"{100 * panel.fraction:.4g} %"


def network(panel: Panel) -> str:
    """Network and share of the data, where it is not all: `"mlp, 50 %"`."""
    return panel.model if panel.fraction == 1 else f"{panel.model}, {share(panel)}"


def views(studies: Mapping[str, Study], machines: Machines = NO_MACHINES) -> list[View]:
    """What to draw of the studies in these folders: all at once if it is little, else a view by network and by LR rule.

    Of several folders the views by LR rule come first: they compare folders.
    """
    every = lines(studies, machines)
    rules = list(dict.fromkeys(line.rule.rule for line in every))
    networks = list(dict.fromkeys(network(line.panel) for line in every))
    if len(every) <= FEW or len(networks) == 1:
        return [View("all", "all", _named(every))]
    by_network = [
        View(f"network-{place}", name, _named([line for line in every if network(line.panel) == name]))
        for place, name in enumerate(networks)
    ]
    by_rule = [
        View(f"rule-{place}", f"LR {name}, compared", _named([line for line in every if line.rule.rule == name]))
        for place, name in enumerate(rules)
    ]
    return by_rule + by_network if len(studies) > 1 else by_network + by_rule


def lines(studies: Mapping[str, Study], machines: Machines = NO_MACHINES) -> tuple[Line, ...]:
    """All lines, named by what they differ in."""
    return _named(
        Line("", folder, study, panel, rule, machines.get((study.task, panel.model)))
        for folder, study in studies.items()
        for panel in study.panels
        for rule in panel.rules
    )


def _named(found: Iterable[Line]) -> tuple[Line, ...]:
    """The lines, each named by the parts in which they differ."""
    found = list(found)
    several = [len(set(values)) > 1 for values in zip(*(line.parts for line in found), strict=True)]
    if not any(several):
        several = [False, False, False, True]
    return tuple(
        replace(line, name=", ".join(part for part, kept in zip(line.parts, several, strict=True) if kept))
        for line in found
    )


def paint(found: Sequence[View]) -> dict[str, str]:
    """A colour on a light ground for each name in the views; those of one view differ, up to ten."""
    return look.palette(dict.fromkeys(line.name for view in found for line in view.lines))
