"""`adabatch plan`: turns an LR schedule into growth of the batch, and forecasts it before training."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from adabatch import _checks, units
from adabatch._errors import ArgumentError, naming
from adabatch.lab.cli import _folders, _options, _shared
from adabatch.lab.planner import FOREIGN, FORMATS, LINKS
from adabatch.lab.shapes import cut
from adabatch.lab.training import growth
from adabatch.lab.training.config import GROWTH, OUTPUT, RUN, SETTINGS

if TYPE_CHECKING:
    from adabatch.lab.planner import Forecast, Preset
    from adabatch.schedules import Plan, Schedule

WORKERS: Final = "Workers"
DatasetSize = Annotated[int | None, typer.Option("--dataset-size", help="Samples in an epoch.", rich_help_panel=RUN)]
RoundTo = Annotated[int | None, typer.Option("--round-to", help="Sizes are multiples of it.", rich_help_panel=GROWTH)]
OfPreset = "Which training of the preset; else its first."
Task = Annotated[str | None, typer.Option("--task", help=OfPreset, rich_help_panel=RUN)]
Model = Annotated[str | None, typer.Option("--model", help=OfPreset, rich_help_panel=RUN)]
Probe = Annotated[
    list[Path] | None,
    typer.Option(
        "--probe",
        metavar="FILE",
        help="probe.json, for seconds before and after; for --workers one of one process, and one under torchrun.",
        rich_help_panel=RUN,
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(
        "--workers", metavar="1,4,64", help="Seconds, efficiency and hours on so many.", rich_help_panel=WORKERS
    ),
]
Link = Annotated[
    str | None,
    typer.Option(
        "--link",
        metavar="NAME|FILE",
        help=f"Between them: {', '.join(LINKS)}, or JSON; else as probed under torchrun.",
        rich_help_panel=WORKERS,
    ),
]
Price = Annotated[float | None, typer.Option("--price", help="Of a worker-hour.", rich_help_panel=WORKERS)]
Compress = Annotated[
    str | None,
    typer.Option(
        "--compress",
        metavar="fp16|bf16|none",
        help="Gradients travel in 16 bits; none: whole.",
        rich_help_panel=WORKERS,
    ),
]
Emit = Annotated[
    str | None,
    typer.Option(
        "--emit",
        metavar="FORMAT",
        help=f"Print the plan in a form to paste, nothing else: {', '.join(FORMATS)}.",
        rich_help_panel=OUTPUT,
    ),
]
Tokens = Annotated[int | None, typer.Option("--tokens-per-sample", help="Tokens in a sample.", rich_help_panel=RUN)]
Micro = Annotated[
    int | None,
    typer.Option("--micro-batch-size", help="For --emit: samples of a pass on one rank.", rich_help_panel=OUTPUT),
]
RanksThere = Annotated[
    int | None, typer.Option("--ranks", help="For --emit: ranks that share a batch.", rich_help_panel=OUTPUT)
]
_NEEDED: Final = ("lr_schedule", "batch_size", "dataset_size", "epochs")
_DEFAULTS: Final[dict[str, Any]] = {
    "lr": 0.1,
    "momentum": 0.9,
    "rule": "smith",
    "max_batch_size": None,
    "round_to": 1,
    "growth": None,
    "growth_file": None,
    "every": None,
    "drop_last": False,
    "world_sizes": None,
    "tokens_per_sample": None,
}
_ROWS: Final = 16
_TITLE: Final = 60  # characters at most of a schedule's own words
_MOST_WORKERS: Final = 2**20


@_shared.guarded
@_options.of_a_run(
    *("lr_schedule", "growth", "every", "batch_size", "epochs", "lr", "momentum", "rule", "max_batch_size"),
    *("growth_file", "world_sizes", "coupling"),
    coupling=_options.option("coupling", help="How the LR follows; else as the growth brings it."),
    dataset_size=DatasetSize,
    tokens_per_sample=Tokens,
    round_to=RoundTo,
)
def command(
    settings: dict[str, Any],
    preset: _options.Preset = None,
    task: Task = None,
    model: Model = None,
    probe: Probe = None,
    workers: Workers = None,
    link: Link = None,
    price: Price = None,
    compress: Compress = None,
    emit: Emit = None,
    micro_batch_size: Micro = None,
    ranks: RanksThere = None,
    out: _options.Out = None,
    as_json: _options.AsJson = False,
) -> None:
    """Turn an LR schedule into growth of the batch, and see what it saves before training.

    Prints updates, LR in force, batch size and noise scale before and after; with --out also as plan.json, plan.png and
    report.html. With --preset, given settings go on top of the preset's. The default LR is 0.1, the momentum 0.9. With
    --workers it prints what the training would take on so many, and up to how many are worth it at each batch size.
    With --emit it prints Python, a table, or what Megatron-LM, OLMo-core, MaxText, modded-nanogpt or optax read.

    Examples:
        adabatch plan --preset smith-increase

        adabatch plan --lr-schedule cosine --batch-size 128 --dataset-size 50000 --epochs 200 --rule seesaw

        adabatch plan --lr-schedule step:0.5:10 --batch-size 64 --dataset-size 60000 --epochs 30 --out runs/plan

        adabatch plan --growth 2 --every 2 --max-batch-size 256 --batch-size 16 --dataset-size 1437 --epochs 14

        adabatch plan --preset adabatch --model alexnet

        adabatch plan --preset smith-increase --world-sizes '0:1 2048:4'

        adabatch plan --preset akiba-small --workers 1,4,64 --link ethernet-10g --probe runs/probe-digits/probe.json

        adabatch plan --preset smith-increase --emit python

        adabatch plan --preset adabatch --emit megatron --tokens-per-sample 1024
    """
    chosen = _chosen(preset, task=task, model=model)
    settings = _settings(settings, chosen)
    _shared.tell_if_long(settings["epochs"])
    if emit is not None:
        refused = {"out": out, "probe": probe or None, "workers": workers, "link": link, "price": price}
        refused |= {"compress": compress}
        _emit(emit, settings, refused, micro_batch_size=micro_batch_size, ranks=ranks, as_json=as_json)
        return
    for name, number in (("micro_batch_size", micro_batch_size), ("ranks", ranks)):
        if number is not None:
            raise ArgumentError(name, "must come with `emit`", got="it alone", remedy="only other trainers need it")
    probes = [_read(file) for file in probe or []]
    measured = next((values for values in probes if "communication" not in values), probes[0] if probes else None)
    found, extra = _forecast(settings, measured)
    if workers is not None:
        narrow = compress or (chosen and chosen.settings.get("compress")) or "none"
        extra["workers"] = _on_workers(found, probes, workers=workers, link=link, price=price, compress=narrow)
    else:
        if len(probes) > 1:
            remedy = "say on how many workers, or give one"
            raise ArgumentError("probe", "must be given once without `workers`", got=f"{len(probes)}", remedy=remedy)
        for name, value in (("link", link), ("price", price), ("compress", compress)):
            if value is not None:
                raise ArgumentError(name, "must come with `workers`", got="it alone", remedy="say on how many")
    for note in _misfits(measured, found, chosen, extra.get("workers")):
        print(f"note: {note}", file=sys.stderr)
    title = preset or settings["lr_schedule"]
    if preset is None and settings["growth"] is not None:
        title = f"times {settings['growth']:g} every {units.duration(settings['every'])}"
    if settings["growth_file"] is not None:
        title = cut(growth.schedule_of(settings["growth_file"]).describe(), _TITLE)
    values = {**found.to_json(), **extra, "title": title, "settings": settings}
    if out is not None:
        _write(values, out, title=title)
    if as_json:
        _shared.print_json(values)
        return
    _shared.print_table(_table(found, title=title))
    console = _shared.console()
    sentences = [_sentence(found), *_workers(found), f"coupling: {extra['coupling']}"]
    console.print(*sentences, sep="\n", markup=False)
    if workers is not None:
        _print_workers(extra["workers"])
    if out is not None:
        console.print(f"written to {out}", markup=False)


def _chosen(preset: str | None, *, task: str | None, model: str | None) -> Preset | None:
    """The chosen training of the preset; None without a preset."""
    from adabatch.lab import planner

    if preset is not None:
        return planner.find(preset, task=task, model=model)
    for name, value in (("task", task), ("model", model)):
        if value is not None:
            raise ArgumentError(name, "must come with `preset`, whose trainings it chooses from", got="it alone")
    return None


def _settings(given: dict[str, Any], chosen: Preset | None) -> dict[str, Any]:
    """The settings of a plan: the user's on top of the preset's on top of the defaults."""
    settings = dict(_DEFAULTS)
    if chosen is not None:
        known = {**chosen.settings, "dataset_size": chosen.dataset_size}
        settings |= {name: value for name, value in known.items() if name in (*_NEEDED, *_DEFAULTS)}
    settings |= given
    if given.get("growth_file") is not None:
        settings |= _by_file(given, settings)
    elif "rule" in given:
        if "growth" in given:
            remedy = "a factor or the falls of the LR say how"
            raise ArgumentError("rule", "must come without `growth`", got="both", remedy=remedy)
        settings["growth"] = None
    elif "growth" in given:
        SETTINGS["growth"].validate(given["growth"])
        settings |= {"rule": None, "every": settings["every"] or "1 epoch"}
        settings.setdefault("lr_schedule", "constant")
    elif "every" in given and settings["growth"] is None:
        remedy = "a rule grows where the LR falls"
        raise ArgumentError("every", "must come with `growth`", got="it alone", remedy=remedy)
    settings["coupling"] = given.get("coupling")  # else the growth brings it
    counted = settings["growth"] is not None and units.duration(settings["every"], name="every").unit == "tokens"
    if counted and settings["tokens_per_sample"] is None:
        rule, remedy = f"must be given to count {settings['every']}", "or give the interval in samples"
        raise ArgumentError("tokens_per_sample", rule, got="none", remedy=remedy)
    if settings["rule"] is None and settings["round_to"] != 1:
        file = settings["growth_file"] is not None
        got = f"{settings['round_to']} for growth by a {'file' if file else 'factor'}"
        remedy = f"choose a {'schedule' if file else 'batch size and a factor'} whose multiples suit"
        raise ArgumentError("round_to", "must come with a rule", got=got, remedy=remedy)
    for name in _NEEDED:
        if name not in settings:
            remedy = "or take one, as --preset smith-increase"
            raise ArgumentError(name, "must be given without a preset", got="none", remedy=remedy)
    return settings


def _by_file(given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a plan of the schedule in a file."""
    growth.check_alone(given, given)
    text = growth.file_text(given["growth_file"])
    found = {"lr_schedule": "constant", **settings, **dict.fromkeys(("growth", "rule", "every", "max_batch_size"))}
    found |= {"growth_file": text, **growth.start_of(text)}
    found |= {name: value for name, value in given.items() if name == "batch_size"}
    if "batch_size" in found:
        tokens = None if found["tokens_per_sample"] is not None else "give `tokens_per_sample`, or write samples"
        growth.check_fits(text, batch_size=found["batch_size"], tokens=tokens)
    return found


def _forecast(settings: dict[str, Any], measured: dict[str, Any] | None) -> tuple[Forecast, dict[str, Any]]:
    """The forecast, and the rule, coupling and maximum of the batch schedule."""
    from adabatch.lab import planner
    from adabatch.lab.training import lr_schedule as lr_text

    for name in ("batch_size", "dataset_size", "epochs"):
        _checks.whole(name, settings[name])
    SETTINGS["lr"].validate(settings["lr"])
    table = lr_text.table(settings["lr_schedule"], epochs=settings["epochs"], lr=settings["lr"])
    schedule, plan, coupling = _planned(settings, drop_last=settings["drop_last"])
    maximum, tenth = settings["max_batch_size"], settings["dataset_size"] // 10
    if maximum is None and settings["rule"] is not None and tenth >= settings["batch_size"]:
        maximum = tenth
    found = planner.forecast(
        planner.LRTable.of(table, settings["dataset_size"]),
        plan,
        coupling=coupling,
        batch_size=settings["batch_size"],
        momentum=settings["momentum"],
        timing=None if measured is None else planner.Timing.of_probe(measured),
    )
    return found, {
        "rule": getattr(getattr(schedule, "schedule", schedule), "rule", None),
        "coupling": coupling,
        "maximum": maximum,
    }


def _planned(settings: dict[str, Any], **ends: bool) -> tuple[Schedule, Plan, str]:
    """The batch schedule, its plan with epochs that end so, and the coupling in text."""
    schedule = growth.batch_schedule(settings, start=settings["batch_size"], round_to=settings["round_to"])
    length, file = {name: settings[name] for name in ("dataset_size", "epochs")}, settings["growth_file"]
    with growth.fitting(file, **length), naming(**({} if file is not None else {"maximum": "max_batch_size"})):
        plan = schedule.plan(**length, **{name: settings[name] for name in ("batch_size", "tokens_per_sample")}, **ends)
        return schedule, plan, schedule.coupling if settings["coupling"] is None else settings["coupling"]


def _read(probe: Path) -> dict[str, Any]:
    try:
        values = json.loads(probe.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        rule, remedy = "must be a file that `adabatch probe` wrote", "run: adabatch probe TASK"
        raise ArgumentError("probe", rule, value=str(probe), remedy=remedy)
    return values


def _misfits(
    measured: dict[str, Any] | None, found: Forecast, chosen: Preset | None, workers: dict[str, Any] | None
) -> list[str]:
    """Sentences about a probe that does not fit the plan: other task, other network or other batch sizes."""
    from adabatch.lab import planner

    if measured is None:
        return []
    notes = []
    for name in () if chosen is None else ("task", "model"):
        mine = getattr(chosen, name)
        if measured.get(name) not in (None, mine):
            notes.append(f"the probe is of {name} {measured[name]}, the plan of {mine}; its seconds are another's")
    sizes = planner.Timing.of_probe(measured).batch_sizes
    least, most = min(found.sizes), max(found.sizes)
    if least < sizes[0] or most > sizes[-1]:
        notes.append(
            f"the probe measured {sizes[0]:,} to {sizes[-1]:,}; beyond, seconds of {least:,} to {most:,} are a guess"
        )
    count = 1 if workers is None else workers["rows"][-1]["workers"]
    share = -(-least // count)
    if share < min(least, sizes[0]):
        notes.append(
            f"{count:,} workers have {share:,} of {least:,} samples each, and the probe measured from {sizes[0]:,} on; "
            f"fewer are taken to be as slow, so probe with --batch-size {share}"
        )
    return notes


def _on_workers(
    found: Forecast,
    probes: list[dict[str, Any]],
    *,
    workers: str,
    link: str | None,
    price: float | None,
    compress: str,
) -> dict[str, Any]:
    """The key `workers` of `plan.json`."""
    from adabatch.lab import planner
    from adabatch.lab.study.workers import on_workers

    remedy = "write for example 1,4,64"
    try:
        counts = [int(text) for text in workers.split(",")]
    except ValueError:
        raise ArgumentError("workers", "must be whole numbers", value=workers, remedy=remedy) from None
    for count in counts:
        _checks.whole("workers", count, maximum=_MOST_WORKERS, remedy=remedy)
    if price is not None:
        _checks.finite("price", price, minimum=0)
    _checks.one_of("compress", compress, (*_checks.COMPRESSIONS, "none"))
    alone = [values for values in probes if "communication" not in values]
    together = [values for values in probes if "communication" in values]
    if len(alone) != 1 or len(together) > 1:
        rule = "must be given for `workers`: one of one process, and at most one of several under torchrun"
        got = f"{len(alone)} of one process and {len(together)} of several"
        raise ArgumentError("probe", rule, got=got, remedy="run: adabatch probe TASK --out DIR")
    chosen = None if link in (None, "probe") else planner.link_of(str(link))
    models = planner.of_probes(alone[0], next(iter(together), None), link=chosen, narrow=compress != "none")
    told = on_workers(found.after, found.before, models, sorted(set(counts)), price=price)
    return told | {"compress": None if compress == "none" else compress}


def _print_workers(found: dict[str, Any]) -> None:
    from adabatch.lab.report import terminal, words

    for table in terminal.workers_tables(found):
        _shared.print_table(table)
    _shared.console().print(words.paying(found), markup=False)


def _emit(
    form: str,
    settings: dict[str, Any],
    refused: dict[str, Any],
    *,
    micro_batch_size: int | None,
    ranks: int | None,
    as_json: bool,
) -> None:
    """Prints the plan in a form; `refused` are options that go with a forecast alone."""
    from adabatch import couplings
    from adabatch.lab import planner

    _checks.one_of("emit", form, FORMATS)
    for name, value in refused.items():
        if value is not None:
            remedy = "it prints lines to paste and nothing else, so run the forecast as a command of its own"
            raise ArgumentError("emit", f"must come without `{name}`", got="both", remedy=remedy)
    for name, number in (("micro_batch_size", micro_batch_size), ("ranks", ranks)):
        if number is not None and form not in FOREIGN:
            remedy = f"leave it out, or emit one of {', '.join(FOREIGN)}"
            raise ArgumentError(name, "must come with a form for another trainer", got=form, remedy=remedy)
    found, _ = _forecast(settings, None)  # warnings and errors appear here, not in the user's script
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule, plan, coupling = _planned(settings, run_on=True)
    notes: list[str] = []
    if form == "python":
        text = _python(settings, schedule, coupling)
    else:
        known = planner.Emission(
            plan=plan if form in FOREIGN else found.after,
            coupling=couplings.get(coupling),
            batch_size=settings["batch_size"],
            tokens_per_sample=settings["tokens_per_sample"],
            micro_batch_size=micro_batch_size,
            ranks=ranks,
        )
        text, notes = planner.emit(form, known)
    if form in FOREIGN and plan.updates != found.after.updates:
        here = f"{plan.updates:,} updates in place of {found.after.updates:,}"
        notes.append(f"batches run on over the ends of epochs there: {here}")
    if as_json:
        _shared.print_json({form: text, "notes": notes})
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(text)


def _python(settings: dict[str, Any], schedule: Schedule, coupling: str) -> str:
    """The plan as lines of Python: with a rule from the LR scheduler, else the schedule itself."""
    from adabatch.lab import planner

    if settings["rule"] is None:
        named = {name: settings[name] for name in ("epochs", "tokens_per_sample")}
        return planner.python(schedule, coupling=coupling, **named)
    names = ("dataset_size", "epochs", "batch_size", "max_batch_size", "round_to", "rule", "coupling", "world_sizes")
    return planner.python_by_rule(settings["lr_schedule"], **{name: settings[name] for name in names})


def _write(values: dict[str, Any], out: Path, *, title: str) -> None:
    def draw(path: Path) -> None:
        from adabatch.lab.report.picture import plan_picture

        plan_picture(values, path, title=title)

    if len(_folders.write_found(out, "plan", values, draw)) < 3:
        print("no picture without matplotlib; run: pip install 'adabatch[plot]'", file=sys.stderr)


def _table(found: Forecast, *, title: str) -> Table:
    table = Table(title=f"{title}: {found.after.describe()}", title_justify="left")
    names = ["samples", "epoch", "batch size", "LR of the schedule", "LR in force", "noise scale", "the same before"]
    for name in [*names, *(["processes"] if found.shares else [])]:
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
            *([f"{found.after.world_size_at(start):,}"] if found.shares else []),
        )
    return table


def _shown(count: int) -> list[int]:
    """Numbers of the rows to show: all if they are few, else the first, the last and some evenly between."""
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


def _workers(found: Forecast) -> list[str]:
    """Sentences about the numbers of processes that are wanted, and worker-hours."""
    parts = [
        f"{100 * share.samples / found.after.samples:.3g} % of the samples and "
        f"{100 * share.updates / found.after.updates:.3g} % of the updates with {share.world_size:,}"
        for share in found.shares
    ]
    sentences = [f"processes wanted: {', '.join(parts)}"] if parts else []
    if found.worker_hours is not None:
        sentences.append(f"{found.worker_hours:,.3g} worker-hours at the seconds of the probe")
    return sentences
