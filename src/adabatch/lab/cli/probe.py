"""`adabatch probe`: samples per second against batch size on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from adabatch.lab.cli import _folders, _options, _shared
from adabatch.lab.training.config import RUN, RunConfig

Repeats = Annotated[int, typer.Option("--repeats", help="Turns; 6 or more for firm intervals.", rich_help_panel=RUN)]
Seconds = Annotated[float, typer.Option("--seconds", help="For each batch size in each turn.", rich_help_panel=RUN)]


@_shared.guarded
@_options.of_a_run(
    *("max_batch_size", "model", "batch_size", "optimizer", "seed", "device", "threads", "workers", "fsdp", "data"),
    max_batch_size=_options.option("max_batch_size", help="Measure no further; else four times the task's own."),
)
def command(
    task: _options.TaskArgument,
    *,
    settings: dict[str, Any],
    repeats: Repeats = 9,
    seconds: Seconds = 0.15,
    out: _options.Out = None,
    progress: _options.Telling = None,
    as_json: _options.AsJson = False,
) -> None:
    """Measure how fast TASK trains here at each batch size, and say what growing the batch can gain at most.

    Times real training steps at the first batch size and its doublings, in turns. The folder gets probe.json,
    probe.png and report.html; an earlier probe there keeps its files under other names. Under torchrun also forward and
    backward alone, and all-reduces.

    Examples:
        adabatch probe digits

        adabatch probe mnist --data ../data --max-batch-size 4096 --repeats 15

        adabatch probe digits --batch-size 8 --out runs/probe-8
    """
    from adabatch.lab.study.probe import probe
    from adabatch.lab.training import pick_device, writing
    from adabatch.lab.training.ranks import joined

    most = settings.pop("max_batch_size", None)  # the largest to measure, not the run's
    config = RunConfig.for_task(task, **settings)
    pick_device(config.device)  # before anything is written
    folder = out or Path("runs") / f"probe-{task}"

    def begin() -> None:
        _folders.check_free(folder, "probe")  # before minutes of measuring
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    with joined(config.device, command="probe") as ranks:
        ranks.from_first(begin)
        show = not as_json if progress is None else progress
        with _shared.Bars(show=show and ranks.is_first) as bar:
            row = bar.add_task(task, total=None)
            found = probe(
                config,
                max_batch_size=most,
                repeats=repeats,
                seconds=seconds,
                progress=lambda done, total: bar.update(row, completed=done, total=total),
            )
    if not ranks.is_first:
        return
    names = _folders.write_found(folder, "probe", found, partial(_draw, found))
    if as_json:
        _shared.print_json(found)
    else:
        note = f"Written to {folder}: {', '.join(names)}."
        _show(found, note if len(names) == 3 else f"{note} For the picture run: pip install 'adabatch[plot]'")


def _draw(found: dict[str, Any], path: Path) -> None:
    from adabatch.lab.report.picture import probe_picture

    probe_picture(found, path)


def _show(found: dict[str, Any], note: str) -> None:
    from adabatch.lab.report.terminal import probe_table, reduced_table
    from adabatch.lab.report.words import all_reduce

    _shared.print_table(probe_table(found))
    console, between = _shared.console(), found.get("communication")
    if between is not None:
        _shared.print_table(reduced_table(between))
        console.print(all_reduce(between), markup=False)
    if found["out_of_memory_at"] is not None:
        console.print(f"Out of memory at a batch size of {found['out_of_memory_at']}.", markup=False)
    console.print(f"{found['sentence'][0].upper()}{found['sentence'][1:]}.", markup=False)
    console.print(note, markup=False)
