"""`adabatch plan`: an LR schedule as growth of the batch, forecast before training."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from adabatch import _checks, units
from adabatch._errors import ArgumentError
from adabatch.lab.cli import _folders, _shared
from adabatch.lab.cli._options import (
    GROWTH,
    LR,
    OUTPUT,
    RUN,
    AsJson,
    BatchSize,
    Epochs,
    Growth,
    LRSchedule,
    Momentum,
    Out,
)

if TYPE_CHECKING:
    from adabatch.lab.planner import Forecast
    from adabatch.schedules import Schedule

DatasetSize = Annotated[int | None, typer.Option("--dataset-size", help="Samples in an epoch.", rich_help_panel=RUN)]
Task = Annotated[
    str | None, typer.Option("--task", help="Which training of the preset; else its first.", rich_help_panel=RUN)
]
Model = Annotated[
    str | None, typer.Option("--model", help="Which training of the preset; else its first.", rich_help_panel=RUN)
]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="A training of a paper; others give its list.", rich_help_panel=RUN),
]
RuleText = Annotated[
    str | None,
    typer.Option("--rule", help="smith, seesaw (Adam), 'hybrid(1)' or 'power(0.75)'.", rich_help_panel=GROWTH),
]
Maximum = Annotated[
    int | None,
    typer.Option(
        "--maximum",
        "--max-batch-size",
        help="The largest batch size; else a tenth of the data.",
        rich_help_panel=GROWTH,
    ),
]
RoundTo = Annotated[int | None, typer.Option("--round-to", help="Sizes are multiples of it.", rich_help_panel=GROWTH)]
Every = Annotated[
    str | None,
    typer.Option(
        "--every", metavar="DURATION", help="The interval: 4, '4 epochs', '9 updates'.", rich_help_panel=GROWTH
    ),
]
Probe = Annotated[
    Path | None,
    typer.Option("--probe", metavar="FILE", help="probe.json, for seconds before and after.", rich_help_panel=RUN),
]
EmitPython = Annotated[
    bool, typer.Option("--emit-python", help="Print the three lines to paste, nothing else.", rich_help_panel=OUTPUT)
]
_NEEDED: Final = ("lr_schedule", "batch_size", "dataset_size", "epochs")
_OPTIONAL: Final[dict[str, Any]] = {
    "lr": 0.1,
    "momentum": 0.9,
    "rule": "smith",
    "maximum": None,
    "round_to": 1,
    "growth": None,
    "every": None,
    "drop_last": False,
}
_ROWS: Final = 16


@_shared.guarded
def command(
    lr_schedule: LRSchedule = None,
    growth: Growth = None,
    every: Every = None,
    batch_size: BatchSize = None,
    dataset_size: DatasetSize = None,
    epochs: Epochs = None,
    lr: LR = None,
    momentum: Momentum = None,
    rule: RuleText = None,
    maximum: Maximum = None,
    round_to: RoundTo = None,
    preset: PresetName = None,
    task: Task = None,
    model: Model = None,
    probe: Probe = None,
    emit_python: EmitPython = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Turn an LR schedule into growth of the batch, and see what it saves before training.

    Prints updates, LR in force, batch size and noise scale before and after; with --out also as plan.json, plan.png and
    report.html. With --preset, what is given goes on top of the preset. LR 0.1 and momentum 0.9 if nothing is said.

    Examples:
        adabatch plan --preset smith-increase

        adabatch plan --lr-schedule cosine --batch-size 128 --dataset-size 50000 --epochs 200 --rule seesaw

        adabatch plan --lr-schedule step:0.5:10 --batch-size 64 --dataset-size 60000 --epochs 30 --out runs/plan

        adabatch plan --growth 2 --every 2 --maximum 256 --batch-size 16 --dataset-size 1437 --epochs 14

        adabatch plan --preset adabatch --model alexnet

        adabatch plan --preset smith-increase --emit-python
    """
    given = _shared.given(
        lr_schedule=lr_schedule,
        growth=growth,
        every=every,
        batch_size=batch_size,
        dataset_size=dataset_size,
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        rule=rule,
        maximum=maximum,
        round_to=round_to,
    )
    settings = _settings(given, preset, task=task, model=model)
    if emit_python:
        _emit(settings, out=out, probe=probe, as_json=as_json)
        return
    found, extra = _forecast(settings, probe)
    for note in _probe_notes(probe, found, task=task, model=model, preset=preset):
        print(f"note: {note}", file=sys.stderr)
    title = preset or settings["lr_schedule"]
    if preset is None and settings["growth"] is not None:
        title = f"times {settings['growth']:g} every {units.duration(settings['every'])}"
    values = {**found.to_json(), **extra, "title": title, "settings": settings}
    if out is not None:
        _write(values, out, title=title)
    if as_json:
        _shared.print_json(values)
        return
    _shared.print_table(_table(found, title=title))
    console = _shared.console()
    console.print(_sentence(found), f"coupling: {extra['coupling']}", sep="\n", markup=False)
    if out is not None:
        console.print(f"written to {out}", markup=False)


def _settings(given: dict[str, Any], preset: str | None, *, task: str | None, model: str | None) -> dict[str, Any]:
    """What is planned: what was typed, on top of the preset, on top of what holds if nothing is said."""
    from adabatch.lab import planner

    settings = dict(_OPTIONAL)
    if preset is None:
        for name, value in (("task", task), ("model", model)):
            if value is not None:
                raise ArgumentError(name, "must come with `preset`, whose trainings it chooses from", got="it alone")
    else:
        chosen = planner.find(preset, task=task, model=model)
        settings |= {name: getattr(chosen, name) for name in (*_NEEDED, *_OPTIONAL) if hasattr(chosen, name)}
    settings |= given
    if "rule" in given:
        if "growth" in given:
            raise ArgumentError(
                "rule", "must come without `growth`", got="both", remedy="a factor or the falls of the LR say how"
            )
        settings["growth"] = None
    elif "growth" in given:
        _checks.finite("growth", given["growth"], above=1)
        settings |= {"rule": None, "every": settings["every"] or "1 epoch"}
        settings.setdefault("lr_schedule", "constant")
    elif "every" in given and settings["growth"] is None:
        raise ArgumentError(
            "every", "must come with `growth`", got="it alone", remedy="a rule grows where the LR falls"
        )
    if settings["rule"] is None and settings["round_to"] != 1:
        raise ArgumentError(
            "round_to",
            "must come with a rule",
            got=f"{settings['round_to']} for growth by a factor",
            remedy="choose a batch size and a factor whose multiples suit",
        )
    for name in _NEEDED:
        if name not in settings:
            raise ArgumentError(
                name, "must be given without a preset", got="none", remedy="or take one, as --preset smith-increase"
            )
    return settings


def _forecast(settings: dict[str, Any], probe: Path | None) -> tuple[Forecast, dict[str, Any]]:
    import torch

    from adabatch import lr_clock
    from adabatch.lab import planner
    from adabatch.lab.training import lr_schedule as lr_text

    _checked_numbers(settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings["lr"])
    scheduler = lr_text.build(settings["lr_schedule"], optimizer, epochs=settings["epochs"])
    growth, extra = _growth(settings, scheduler)
    plan = growth.plan(
        dataset_size=settings["dataset_size"],
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        drop_last=settings["drop_last"],
    )
    course = planner.Course.of_table(lr_clock.table(scheduler, epochs=settings["epochs"]), settings["dataset_size"])
    timing = None if probe is None else planner.Timing.of_probe(_read(probe))
    found = planner.forecast(course, plan, coupling=extra["coupling"], momentum=settings["momentum"], timing=timing)
    return found, extra


def _growth(settings: dict[str, Any], scheduler: Any) -> tuple[Schedule, dict[str, Any]]:
    """The batch schedule, with its rule, coupling and maximum."""
    from adabatch import lr_clock, schedules

    if settings["rule"] is None:
        extra = {"rule": None, "coupling": "linear", "maximum": settings["maximum"]}
        if settings["growth"] is None:
            return schedules.constant(), extra
        every = units.duration(settings["every"], name="every")
        if every.unit == "tokens":
            raise ArgumentError(
                "every",
                "must be in epochs, samples or updates",
                value=settings["every"],
                remedy="a plan knows no tokens, so divide them by those of a sample and give samples",
            )
        return schedules.geometric(settings["growth"], every, maximum=settings["maximum"]), extra
    names = ("dataset_size", "epochs", "batch_size", "maximum", "round_to", "rule")
    found = lr_clock.from_lr_scheduler(scheduler, **{name: settings[name] for name in names})
    return found, {"rule": found.rule, "coupling": found.coupling, "maximum": found.maximum}


def _checked_numbers(settings: dict[str, Any]) -> None:
    for name in ("batch_size", "dataset_size", "epochs"):
        _checks.whole(name, settings[name])
    _checks.finite("lr", settings["lr"], above=0)


def _read(probe: Path) -> dict[str, Any]:
    try:
        values = json.loads(probe.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise ArgumentError(
            "probe", "must be a file that `adabatch probe` wrote", value=str(probe), remedy="run: adabatch probe TASK"
        )
    return values


def _probe_notes(probe: Path | None, found: Forecast, **planned: str | None) -> list[str]:
    """What of the probe does not fit the plan: its task or network, or the sizes that it measured."""
    from adabatch.lab import planner

    if probe is None:
        return []
    measured, notes = _read(probe), []
    preset = planned.pop("preset")
    if preset is not None:
        chosen = planner.find(preset, task=planned["task"], model=planned["model"])
        planned = {"task": chosen.task, "model": chosen.model}
    for name, mine in planned.items():
        if mine is not None and measured.get(name) not in (None, mine):
            notes.append(f"the probe is of {name} {measured[name]}, the plan of {mine}; its seconds are another's")
    sizes = planner.Timing.of_probe(measured).batch_sizes
    least, most = min(found.sizes), max(found.sizes)
    if least < sizes[0] or most > sizes[-1]:
        notes.append(
            f"the probe measured {sizes[0]:,} to {sizes[-1]:,}; beyond, seconds of {least:,} to {most:,} are a guess"
        )
    return notes


def _emit(settings: dict[str, Any], *, out: Path | None, probe: Path | None, as_json: bool) -> None:
    from adabatch.lab import planner

    for name, value in (("out", out), ("probe", probe)):
        if value is not None:
            raise ArgumentError(
                "emit_python",
                f"must come without `{name}`",
                got="both",
                remedy="it prints lines to paste and nothing else, so run the forecast as a command of its own",
            )
    if settings["rule"] is None:
        raise ArgumentError(
            "emit_python",
            "must come with a rule, by which an LR schedule becomes growth",
            got="none",
            remedy="growth by a factor runs as adabatch train --growth or --preset",
        )
    names = ("dataset_size", "epochs", "batch_size", "maximum", "round_to", "rule")
    _forecast(settings, None)  # whatever is wrong is said here, not in the user's script
    lines = planner.emit_python(settings["lr_schedule"], **{name: settings[name] for name in names})
    if as_json:
        _shared.print_json({"python": lines})
    else:
        print(lines)


def _write(values: dict[str, Any], out: Path, *, title: str) -> None:
    from adabatch.lab.report import page
    from adabatch.lab.training import writing
    from adabatch.lab.training.folder import write_json

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if (kept := _folders.set_aside(out, "plan.json", "plan.png", "report.html")) is not None:
            print(f"note: the plan that was in {out} before is {kept} now", file=sys.stderr)
        write_json(out / "plan.json", values)
        page.write(out)
        if importlib.util.find_spec("matplotlib") is None:
            print("no picture without matplotlib; run: pip install 'adabatch[plot]'", file=sys.stderr)
            return
        from adabatch.lab.report.picture import plan_picture

        plan_picture(values, out / "plan.png", title=title)


def _table(found: Forecast, *, title: str) -> Table:
    table = Table(title=f"{title}: {found.after.describe()}", title_justify="left")
    for name in (
        "samples",
        "epoch",
        "batch size",
        "LR of the schedule",
        "LR in force",
        "noise scale",
        "the same before",
    ):
        table.add_column(name, justify="right")
    size = found.after.dataset_size or 1
    for index in _shown(len(found.starts_samples)):
        start = found.starts_samples[index]
        table.add_row(
            f"{start:,}",
            f"{start / size:.4g}",
            f"{found.sizes[index]:,}",
            f"{found.lr_before[index]:.4g}",
            f"{found.lr[index]:.4g}",
            f"{found.noise_scale[index]:,.4g}",
            f"{found.noise_scale_before[index]:,.4g}",
        )
    return table


def _shown(count: int) -> list[int]:
    """All rows if they are few, else the first, the last and some between, evenly apart."""
    if count <= _ROWS:
        return list(range(count))
    return sorted({round(step * (count - 1) / (_ROWS - 1)) for step in range(_ROWS)})


def _sentence(found: Forecast) -> str:
    more = found.before.updates, found.after.updates
    text = f"{more[0]:,} updates at the constant batch, {more[1]:,} as it grows: {found.update_ratio:.2f}x fewer"
    if found.seconds_before is not None and found.seconds_after is not None:
        ratio = found.seconds_before / found.seconds_after
        text += f"; {found.seconds_before:,.1f} s become {found.seconds_after:,.1f} s: {ratio:.2f}x faster"
    return text
