"""`adabatch list`: schedules, policies, couplings, tasks, models and presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from adabatch.lab.cli import _docstrings, _shared
from adabatch.lab.cli._options import AsJson

if TYPE_CHECKING:
    from adabatch.lab.planner import Preset


@_shared.guarded
def command(as_json: AsJson = False) -> None:
    """List schedules, policies, couplings, tasks, models and presets with one line each.

    Examples:
        adabatch list

        adabatch list --json
    """
    found = contents()
    if as_json:
        _shared.print_json(found)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for kind, items in found.items():
        table.add_row(f"[bold]{kind}[/bold]")
        for name, line in items.items():
            table.add_row(f"  {name}", line)
    console = _shared.console()
    if console.is_terminal:
        console.print(table)
        return
    for kind, items in found.items():
        print(kind, *(f"  {name:<14} {line}" for name, line in items.items()), sep="\n")


def contents() -> dict[str, dict[str, str]]:
    """Names with a line each, by kind; read from `__all__` and docstrings, without torch."""
    from adabatch.lab import tasks
    from adabatch.lab.planner import PRESETS

    policies = _docstrings.first_lines("adabatch.policies")
    return {
        "schedules": _docstrings.first_lines("adabatch.schedules"),
        "policies": {name.replace("_", "-"): line for name, line in policies.items()},
        "couplings": _docstrings.first_lines("adabatch.couplings"),
        "tasks": {name: tasks.get(name).summary for name in tasks.names()},
        "models": _docstrings.first_lines("adabatch.lab.models"),
        "presets": {name: _preset(presets) for name, presets in PRESETS.items()},
    }


def _preset(presets: tuple[Preset, ...]) -> str:
    """The line of a preset: its tasks and networks, its sources, and settings that were not found in print."""
    cases: dict[str, list[str]] = {}
    for preset in presets:
        cases.setdefault(preset.task, []).append(preset.model)
    sources = dict.fromkeys(preset.source for preset in presets)
    doubts: dict[str, dict[str, None]] = {}
    for preset in presets:
        for text in preset.recalled:
            doubts.setdefault(text, {})[preset.task] = None
    line = "; ".join(f"{task}: {', '.join(models)}" for task, models in cases.items())
    line += f" ({'; '.join(sources)})"
    if doubts:
        said = "; ".join(f"{text} ({', '.join(tasks)})" for text, tasks in doubts.items())
        line += f"; recalled, not found in print: {said}"
    return line
