"""Which switches of speed pay for a run: precision, layout, `torch.compile` and CUDA graphs, measured on its own steps.

A switch is measured against the settings so far by real steps in pairs, A B A B, at the smallest and the largest
planned batch size. A step's time is taken as a straight line in its batch size, so both times add up to that of all
updates of the plan, pair by pair. The switch is taken if the 95 % interval of that ratio lies above `MARGIN`, and if
what it saves of the training is more than it takes to compile.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, TypeVar

import torch

from adabatch import _checks, _files, memory
from adabatch._errors import AdabatchError, ArgumentError
from adabatch.lab import tasks, training
from adabatch.lab.study.probe import Steps
from adabatch.lab.study.statistics import paired_ratio
from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig, compiling, failures, room
from adabatch.lab.training.device import entered, threads
from adabatch.lab.training.folder import TUNING
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.training.setup import channels_last, sizes
from adabatch.lab.tuning import MARGIN, Tried, Tuning

SECONDS: Final = 20.0  # of measuring, without what warms up and compiles
PAIRS: Final = (3, 9)  # fewest, where steps are long, and most
WARM_SECONDS: Final = 2.0  # after which a size counts as warm
WORTH_SECONDS: Final = 60.0  # of a training; no compilation pays within less
BF16, COMPILE, GRAPHS = "bf16", "compile", "compile with CUDA graphs"
_Found = TypeVar("_Found")
_GIVEN: Final = "it is given"


class Switch(NamedTuple):
    """A switch, its name in words and the fields of `RunConfig` that it sets."""

    name: str
    settings: dict[str, Any]


def tune(
    config: RunConfig,
    *,
    fixed: Collection[str] = (),
    seconds: float = SECONDS,
    data: Data | None = None,
    tell: Callable[[str], None] | None = None,
) -> Tuning:
    """Measures which switches make a run faster, on its own network, task and device.

    Under torchrun all processes must call it; the slowest one's time counts, and all choose alike. Random states are as
    before afterwards. What torch has compiled is forgotten.

    Args:
        config: the settings of the run.
        fixed: the names of those that the user gave, which stay.
        seconds: of measuring, shared by the switches; more where even three pairs of steps take longer. Warming up and
            compiling come on top.
        data: the task's data if they are loaded already.
        tell: called with what is being measured.

    Raises:
        ValueError: if an argument is out of range, or the largest planned batch does not fit into memory.
    """
    _checks.finite("seconds", seconds, above=0)
    device = training.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    ranks = Ranks()
    data = ranks.each_first(lambda: tasks.get(config.task).load(config.data)) if data is None else data
    with failures.told(config, device, None), threads(config.threads), entered(device):
        try:
            return _tune(config, data.to(device), device, fixed, seconds=seconds, world=ranks.world, tell=tell)
        finally:
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()


def _tune(
    config: RunConfig,
    data: Data,
    device: torch.device,
    fixed: Collection[str],
    *,
    seconds: float,
    world: int,
    tell: Callable[[str], None] | None,
) -> Tuning:
    if config.policy is not None:
        rule = "must come without a policy, since nobody knows how long each batch size will last"
        raise ArgumentError("tune", rule, got=config.policy, remedy="leave it out")
    began, plan = time.perf_counter(), config.plan(data.dataset_size)
    ends = tuple(dict.fromkeys((plan.sizes[0], plan.sizes[-1])))
    counts = shared_updates(plan.batch_counts(), ends)
    planned = len(sizes(plan, config.micro_batch_size, world=world))
    found, left = switches(config, device, fixed=fixed, images="in_channels" in data.shape, planned=planned)
    base = _Variant(config, data, device, ends, planned=planned)
    whole = sum(count * base.seconds[size] for size, count in zip(ends, counts, strict=True))
    tried: list[Tried] = []
    for number, switch in enumerate(found, 1):
        compiles = bool(switch.settings.get("compile"))
        if compiles and whole < WORTH_SECONDS:
            pays = "graphs pay" if base.config.compile else "compilation pays"
            left[switch.name] = f"the training takes about {_in_words(whole)}, in which no {pays}"
        elif compiles and base.config.compile and not config.compile:
            left[switch.name] = "it is within what was taken before"
        else:
            if tell is not None:
                tell(f"measuring {switch.name} ({number} of {len(found)})")
            settings = replace(base.config, **switch.settings)
            other = _measured(lambda: _Variant(settings, data, device, ends, planned=planned))  # noqa: B023
            if isinstance(other, str):
                tried.append(Tried(name=switch.name, settings=switch.settings, reason=other))
                continue
            share = seconds / len(found)
            result = _measured(lambda: _against(switch, base, other, counts, seconds=share))  # noqa: B023
            if isinstance(result, str):
                del other
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                tried.append(Tried(name=switch.name, settings=switch.settings, reason=result))
                continue
            tried.append(result)
            if result.taken:
                base = other
    return Tuning(
        task=config.task,
        model=config.model,
        device=device.type,
        device_name=str(training.versions(device)["device_name"]),
        batch_sizes=ends,
        updates=counts,
        training_seconds=whole,
        seconds=time.perf_counter() - began,
        tried=tuple(tried),
        left=left,
        settings={name: getattr(base.config, name) for each in tried if each.taken for name in each.settings},
    )


def switches(
    config: RunConfig, device: torch.device, *, fixed: Collection[str], images: bool, planned: int
) -> tuple[list[Switch], dict[str, str]]:
    """The switches to measure, in order, and the others with the reason why not.

    Those that compile come first, since what a small step gains elsewhere is hidden by the time to launch its kernels.
    Precision, which changes numbers, is a switch on a CUDA GPU alone.

    Args:
        config: the settings of the run.
        device: to train on.
        fixed: the names of settings that the user gave.
        images: whether inputs are images.
        planned: sizes of micro-batches in the planned training.

    Example:
        >>> config = RunConfig.for_task("digits", model="small_cnn")
        >>> found, left = switches(config, torch.device("cpu"), fixed=["compile"], images=True, planned=3)
        >>> [switch.name for switch in found], list(left)
        (['channels last'], ['compile with CUDA graphs', 'compile', 'bf16'])
    """
    last = not channels_last(config, device)
    reasons = {
        GRAPHS: _against_graphs(config, device, fixed=fixed, planned=planned),
        COMPILE: _GIVEN if "compile" in fixed else "it is on already" if config.compile else "",
        BF16: _against_bf16(config, device, fixed=fixed),
        f"channels {'last' if last else 'first'}": _GIVEN
        if "channels_last" in fixed or config.channels_last is not None
        else ""
        if images
        else "inputs are no images",
    }
    settings: tuple[dict[str, Any], ...] = (
        {"compile": True, "cuda_graphs": True}, {"compile": True}, {"precision": "bf16"}, {"channels_last": last}
    )  # fmt: skip
    named = zip(reasons.items(), settings, strict=True)
    found = [Switch(name, sets) for (name, reason), sets in named if not reason]
    return found, {name: reason for name, reason in reasons.items() if reason}


def _against_graphs(config: RunConfig, device: torch.device, *, fixed: Collection[str], planned: int) -> str:
    if device.type != "cuda":
        return f"there are none on the device {device.type}"
    if "cuda_graphs" in fixed or ("compile" in fixed and not config.compile):
        return _GIVEN
    if config.cuda_graphs:
        return "they are on already"
    if planned > compiling.GRAPHS:
        return f"there are {planned} sizes of micro-batches, and {compiling.GRAPHS} graphs at most"
    return ""


def _against_bf16(config: RunConfig, device: torch.device, *, fixed: Collection[str]) -> str:
    if "precision" in fixed:
        return _GIVEN
    if config.precision != "float32":
        return f"the precision is {config.precision} already"
    if device.type != "cuda":
        return "it changes numbers, and elsewhere than on a CUDA GPU only --precision bf16 asks for it"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU computes no bfloat16"
    return ""


def shared_updates(counts: Mapping[int, int], ends: Sequence[int]) -> tuple[float, ...]:
    """How many steps at each of the measured batch sizes take as long as all updates, if time is linear in size.

    Args:
        counts: of updates, by batch size.
        ends: the smallest and the largest of these sizes, or the only one; shorter batches count as the smallest.

    Example:
        >>> shared_updates({4: 1, 8: 2, 16: 4, 24: 1}, [8, 24])
        (5.0, 3.0)
    """
    total = float(sum(counts.values()))
    if len(ends) == 1:
        return (total,)
    low, high = ends
    upper = sum(count * max(size - low, 0) / (high - low) for size, count in counts.items())
    return (total - upper, upper)


class _Variant:
    """A network of its own under some settings, warmed up at each batch size.

    Attributes:
        config: the settings.
        seconds: of the fastest step while it was warmed up, by batch size.
        preparation_seconds: beyond what the steps take later, for all sizes of the planned training.
    """

    def __init__(
        self, config: RunConfig, data: Data, device: torch.device, ends: Sequence[int], *, planned: int
    ) -> None:
        self.config, self.seconds, prepared = config, dict[int, float](), 0.0
        self._steps = Steps(replace(config.constant(), batch_size=ends[0]), data, device)
        shapes = compiling.static_shapes(planned) if config.compile else nullcontext()
        captured = compiling.captured(device) if config.cuda_graphs else nullcontext()
        with shapes, captured:
            for size in ends:
                try:
                    times = self._warm_up(size)
                except torch.OutOfMemoryError:
                    raise room.too_large(size) from None
                self.seconds[size] = min(times[1:])
                prepared += max(sum(times) - len(times) * self.seconds[size], 0.0)
        self.preparation_seconds = prepared * (planned / len(ends) if planned <= compiling.GRAPHS else 1)

    def _warm_up(self, size: int) -> list[float]:
        """Seconds of the first four steps, or of two that take long and compile nothing."""
        times: list[float] = []
        while len(times) < 2 or (len(times) < 4 and (self.config.compile or sum(times) < WARM_SECONDS)):
            times.append(self._steps.time(size, 1))
        return times

    def time(self, size: int, count: int) -> float:
        """Seconds of a step, the mean of `count`."""
        return self._steps.time(size, count) / count


def _measured(make: Callable[[], _Found]) -> _Found | str:
    """What is made by steps under a switch, or why they fail."""
    try:
        return make()
    except (AdabatchError, RuntimeError) as error:
        if failures.is_of_the_gpu(error) and not failures.is_full(error):
            raise
        return f"it failed: {compiling.words_of(error)}"


def _against(switch: Switch, base: _Variant, other: _Variant, updates: Sequence[float], *, seconds: float) -> Tried:
    """Measures a variant against the one so far, in pairs."""
    times: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size in base.seconds}
    longest = {size: max(base.seconds[size], other.seconds[size]) for size in times}
    fewest, most = PAIRS
    pairs = max(fewest, min(most, int(seconds / (2 * sum(longest.values())))))
    share = seconds / (2 * pairs * len(times))
    for _ in range(pairs):
        for size, (ours, theirs) in times.items():
            count = max(1, round(share / longest[size]))
            ours.append(base.time(size, count))
            theirs.append(other.time(size, count))
    captures = other.config.cuda_graphs and not base.config.cuda_graphs
    before, after = (
        [sum(n * turn for n, turn in zip(updates, turns, strict=True)) for turns in zip(*side, strict=True)]
        for side in zip(*times.values(), strict=True)
    )
    compiles = other.config.compile and (not base.config.compile or captures)
    return judged(
        Tried(
            name=switch.name,
            settings=switch.settings,
            by_batch_size={str(size): paired_ratio(ours, theirs) for size, (ours, theirs) in times.items()},
            training=paired_ratio(before, after),
            preparation_seconds=other.preparation_seconds if compiles else None,
            pairs=pairs,
        ),
        training_seconds=median(before),
    )


def judged(measured: Tried, *, training_seconds: float) -> Tried:
    """The record of a switch with the choice, its reason, and what it saves.

    Args:
        measured: the record without them.
        training_seconds: of all updates without the switch.

    Example:
        >>> found = Tried(name="compile", settings={}, training=paired_ratio([1.25] * 6, [1.0] * 6))
        >>> judged(found, training_seconds=300.0).reason
        'it saves at least 60 s of 300 s'
    """
    low = measured.training.low
    if low is None or low <= MARGIN:
        return replace(measured, reason=f"it is not shown to be more than {MARGIN:g} times as fast")
    saved = training_seconds * (1 - 1 / low)
    reason = f"it saves at least {_in_words(saved)} of {_in_words(training_seconds)}"
    preparation = measured.preparation_seconds
    if preparation is not None:
        reason += f" and takes {_in_words(preparation)} to prepare"
    return replace(measured, saved_seconds=saved, taken=preparation is None or preparation < saved, reason=reason)


def _in_words(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def saved_tuning(out: Path) -> Tuning | None:
    """The tuning that a folder holds; None if it holds none.

    Raises:
        ValueError: if it is damaged.
    """
    file = out / TUNING
    try:
        values = _files.json_of(file)
        found = next(Tuning.faults(values), "")
    except FileNotFoundError:
        return None
    except ValueError as error:
        found = f"with damage ({error})"
    if found:
        remedy = "delete it, and what belongs to it, or take another folder"
        raise ArgumentError("out", "must hold a whole measurement", got=f"{file} {found}", remedy=remedy)
    return Tuning.of_json(values)
