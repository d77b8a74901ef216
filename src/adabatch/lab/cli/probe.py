"""`adabatch probe`: samples per second against batch size on this machine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console

from adabatch.lab.cli import _folders, _shared
from adabatch.lab.cli._options import GROWTH, RUN, AsJson, Out, TaskArgument, of_a_run

Maximum = Annotated[
    int | None,
    typer.Option(
        "--max-batch-size", help="Measure no further; else four times the task's own.", rich_help_panel=GROWTH
    ),
]
Repeats = Annotated[int, typer.Option("--repeats", help="Turns; 6 or more for firm intervals.", rich_help_panel=RUN)]
Seconds = Annotated[float, typer.Option("--seconds", help="For each batch size in each turn.", rich_help_panel=RUN)]


@_shared.guarded
@of_a_run("model", "batch_size", "optimizer", "seed", "device", "threads", "workers", "data")
def command(
    task: TaskArgument,
    *,
    max_batch_size: Maximum = None,
    repeats: Repeats = 9,
    seconds: Seconds = 0.15,
    settings: dict[str, Any],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast TASK trains here at each batch size, and say what growing the batch can gain at most.

    Times real training steps at the first batch size and its doublings, in turns. The folder gets probe.json,
    probe.png and report.html; an earlier probe there keeps its files under other names.

    Examples:
        adabatch probe digits

        adabatch probe mnist --data ../data --max-batch-size 4096 --repeats 15

        adabatch probe digits --batch-size 8 --out runs/probe-8
    """
    from adabatch.lab.study.probe import probe
    from adabatch.lab.training import RunConfig, pick_device, writing
    from adabatch.lab.training.folder import write_json

    config = RunConfig.for_task(task, **settings)
    pick_device(config.device)  # before anything is written
    folder = out or Path("runs") / f"probe-{task}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _bar(show=not as_json) as bar:
        row = bar.add_task(task, total=None)
        found = probe(
            config,
            maximum=max_batch_size,
            repeats=repeats,
            seconds=seconds,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
        )
    with writing(folder):
        kept = _folders.set_aside(folder, "probe.json", "probe.png", "report.html")
        write_json(folder / "probe.json", found)
        note = _draw(found, folder)
    if kept is not None:
        print(f"note: the probe that was in {folder} before is {kept} now", file=sys.stderr)
    if as_json:
        _shared.print_json(found)
    else:
        _show(found, note)


def _bar(*, show: bool) -> bars.Progress:
    console = Console(stderr=True)
    return bars.Progress(console=console, transient=True, disable=not (show and console.is_terminal))


def _draw(found: dict[str, Any], folder: Path) -> str:
    """Writes the picture and the page; returns what to say about the files."""
    from adabatch.lab.report import page

    written = ["probe.json"]
    if importlib.util.find_spec("matplotlib") is not None:
        from adabatch.lab.report.picture import probe_picture

        probe_picture(found, folder / "probe.png")
        written.append("probe.png")
    written.append(page.write(folder).name)
    note = f"Written to {folder}: {', '.join(written)}."
    return note if len(written) == 3 else f"{note} For the picture run: pip install 'adabatch[plot]'"


def _show(found: dict[str, Any], note: str) -> None:
    from adabatch.lab.report.terminal import probe_table

    _shared.print_table(probe_table(found))
    console = _shared.console()
    if found["out_of_memory_at"] is not None:
        console.print(f"Out of memory at a batch size of {found['out_of_memory_at']}.", markup=False)
    console.print(f"{found['sentence'][0].upper()}{found['sentence'][1:]}.", markup=False)
    console.print(note, markup=False)
