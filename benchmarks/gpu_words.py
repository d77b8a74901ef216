"""What `gpu.py` found in words: the cells of docs/gpu.md, each from the result file alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
CLAIM: Final = 6.25  # times less time, in the paper
MISSING: Final = "not measured yet"


def gpu(found: Mapping[str, Any]) -> dict[tuple[Path, str], str]:
    """What stands between which markers of docs/gpu.md."""
    page = ROOT / "docs" / "gpu.md"
    cells = {f"gpu {name}": cell(found["phases"], phase, told) for name, (phase, told) in CELLS.items()}
    return {(page, marker): text for marker, text in {"gpu where": where(found), **cells}.items()}


def cell(phases: Mapping[str, Any], name: str, told: Callable[[Any], str]) -> str:
    """What a phase found in words; else that it was not measured, and why not."""
    phase = phases.get(name)
    if phase is None:
        return MISSING
    try:
        text = told(phase["found"])
    except (KeyError, IndexError, StopIteration, statistics.StatisticsError):
        text = ""
    return text or f"not measured: {phase['error'] or 'nothing was found'}".replace("|", "/")


def where(found: Mapping[str, Any]) -> str:
    """What ran where, and what failed."""
    environment, phases = found["environment"], found["phases"]
    failed = [f"{name} ({phase['error']})" for name, phase in phases.items() if phase["error"]]
    places: dict[tuple[str, str], list[str]] = {}
    for name, phase in phases.items():
        place = phase.get("gpu", environment["gpu"]), phase.get("torch", environment["torch"])
        places.setdefault(place, []).append(name)
    text = " ".join(f"{gpu}, torch {torch}: {listed(names)}." for (gpu, torch), names in places.items())
    return text if not failed else f"{text} Not to its end: {'; '.join(failed)}."


def listed(names: Sequence[str]) -> str:
    """Names with commas."""
    return ", ".join(names)


def interval(values: Mapping[str, Any], scale: float = 1.0, digits: int = 2) -> str:
    """An interval in brackets, after a space; nothing where there is none."""
    ends = [values["low"], values["high"]]
    return "" if None in ends else " [{:.{d}f}, {:.{d}f}]".format(*(scale * end for end in ends), d=digits)


def sentence(found: Mapping[str, Any]) -> str:
    """An arm of the headline against its baseline."""
    ratio, difference = found["seconds_ratio"], found["accuracy_difference"]
    text = (
        f"{found['network']} on {found['data_set']}, {found['epochs']} epochs, {found['arm']} against "
        f"{found['against']}: {ratio['median']:.2f}x{interval(ratio)} less time, accuracy "
        f"{100 * difference['mean']:+.2f}{interval(difference, 100)} points, n = {found['n']}"
    )
    if any(found["options"]):
        theirs, ours = found["options"]
        text += f", options {ours} against {theirs}"
    if found["diverged"]:
        text += f", {found['diverged']} diverged"
    if found["arm"] == "grown" and ratio["median"] < CLAIM:
        text += f"; the ceiling, the ratio of samples per second, is {found['ceiling']:.2f}x where {CLAIM}x is claimed"
    return text


def headline(found: Mapping[str, Any]) -> str:
    """All arms."""
    return "; ".join(map(sentence, found["against"]))


def loops(found: Mapping[str, Any]) -> str:
    """Speeds against the loop by hand by mode and batch size."""
    by_mode: dict[str, list[str]] = {}
    for name, of in found.items():
        network, mode, size = name.split(", ")
        told = "failed" if "error" in of else f"{of['ratio']['median']:.2f}{interval(of['ratio'])}"
        by_mode.setdefault(f"{network} {mode}", []).append(f"{told} at {int(size.split()[-1]):,}")
    pairs = {of["pairs"] for of in found.values() if "error" not in of}
    modes = "; ".join(f"{mode} {listed(cells)}" for mode, cells in by_mode.items())
    return f"{modes}; {max(pairs)} pairs" if pairs else ""


def rates(options: Mapping[str, Any], name: str) -> str:
    """Samples per second of an option by batch size."""
    sizes = options[name]["sizes"]
    return listed(
        [of["error"] if "error" in of else f"{of['samples_per_second']['median']:,.0f}" for of in sizes.values()]
    )


def first(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the first network."""
    options: Mapping[str, Any] = next(iter(found["networks"].values()))
    return {name: of for name, of in options.items() if "error" not in of}


def plain(found: Mapping[str, Any]) -> str:
    """Samples per second without any option."""
    return rates(first(found), "plain")


def options(found: Mapping[str, Any]) -> str:
    """Samples per second with each option that needs no compilation."""
    measured = first(found)
    names = [name for name in ("bf16", "channels last", "bf16, channels last", "auto") if name in measured]
    return "; ".join(f"{name}: {rates(measured, name)}" for name in names)


def compiled(found: Mapping[str, Any]) -> str:
    """Samples per second with compilation and graphs, and the preparation of all sizes."""
    measured = first(found)
    names = [name for name, of in measured.items() if of["settings"].get("compile")]
    return "; ".join(
        f"{name}: {rates(measured, name)} ({measured[name]['preparation_seconds']:.0f} s of preparation)"
        for name in names
    )


def roofline(found: Mapping[str, Any]) -> str:
    """Bytes, bandwidth and the share reached."""
    return ". ".join(found["roofline"])


def loaders(found: Mapping[str, Any]) -> str:
    """Milliseconds of an epoch by loader and batch size."""
    good = {name: of for name, of in found.items() if "error" not in of}
    sizes = list(dict.fromkeys(name.rpartition(", batch ")[2] for name in good))
    parts = []
    for size in sizes:
        here = {name.rpartition(", batch ")[0]: of for name, of in good.items() if name.endswith(f", batch {size}")}
        by_hand = next(iter(here.values()))["theirs_median_seconds"]
        cells = [f"by hand {1000 * by_hand:.3g} ms"]
        for name, of in here.items():
            speed = f" ({of['ratio']['median']:.2f}{interval(of['ratio'])} of the speed)" if "bound" in of else ""
            cells.append(f"{name} {1000 * of['ours_median_seconds']:.3g} ms{speed}")
        parts.append(f"batch {int(size):,}: {listed(cells)}")
    return "; ".join(parts)


def preparation(found: Mapping[str, Any]) -> str:
    """Seconds of the preparation of all sizes, cold and from the cache."""
    return "; ".join(
        f"{name}: {sum(of['seconds'].values()):.0f} s for {len(of['seconds'])} sizes"
        for name, of in found.items()
        if "error" not in of
    )


def memory(found: Mapping[str, Any]) -> str:
    """A batch that does not fit."""
    if found["micro_batch_size"] is None:
        return f"{found['batch_size']:,} fits within {found['memory_bytes'] / 1e9:.1f} GB, whole"
    known = "refused before training, and " if found["refused"] else ""
    return (
        f"{found['batch_size']:,} within {found['memory_bytes'] / 1e9:.1f} GB: {known}trained in micro-batches of "
        f"{found['micro_batch_size']:,} after {len(found['failed_micro_batches'])} failures"
    )


def probe(found: Mapping[str, Any]) -> str:
    """The probe against trainings."""
    ratios = [of["ratio"] for of in found["sizes"].values() if of["ratio"] is not None]
    took = found["seconds"]
    if not ratios:
        return "memory ran out at the first size, so no rate is compared"
    return (
        f"its rates are {min(ratios):.2f} to {max(ratios):.2f} times those of trainings at {len(ratios)} sizes, in "
        f"{took['probe']:.0f} s against {took['sweep']:.0f} s"
    )


def language(found: Mapping[str, Any]) -> str:
    """Tokens per second, and the ramp against the best constant batch."""
    runs = {name: run for name, run in found["runs"].items() if "error" not in run}
    rates: dict[str, float] = {}
    for name, run in runs.items():
        if name != "ramp":
            rates |= run["tokens_per_second"]
    text = listed([f"{rate:,.0f} at {int(size):,}" for size, rate in rates.items()])
    if found["best_constant"] is None:
        return f"{text} sequences; no constant batch reached the ramp's loss, n = {found['n']}"
    return (
        f"{text} sequences; to the ramp's loss the best batch ({found['best_constant']}) takes "
        f"{found['seconds_ratio']:.2f} times the ramp's time, n = {found['n']}"
    )


CELLS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "loops": ("loops", loops),
    "plain": ("throughput", plain),
    "options": ("throughput", options),
    "compiled": ("throughput", compiled),
    "roofline": ("throughput", roofline),
    "loaders": ("loaders", loaders),
    "preparation": ("preparation", preparation),
    "headline": ("headline", headline),
    "memory": ("memory", memory),
    "probe": ("probe", probe),
    "language": ("gpt", language),
}
