"""Throughput against batch size: how much faster a growing batch can at most make a task on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

import adabatch as ab
from adabatch import _checks, _distributed, memory
from adabatch._errors import ArgumentError
from adabatch.lab import tasks, training
from adabatch.lab.comparison import Ratio
from adabatch.lab.study.communication import communication, measurements, slowest
from adabatch.lab.study.statistics import paired_ratio, spread
from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig, failures
from adabatch.lab.training.device import entered, threads, wait_for
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.training.setup import Forward, Setup, forward_of

FORMAT: Final = 1
GAIN: Final = 1.03


def probe(
    config: RunConfig,
    *,
    max_batch_size: int | None = None,
    repeats: int = 9,
    seconds: float = 0.15,
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures samples per second of real training steps at the batch sizes that a growing batch would pass.

    The batch sizes are measured in turns, so that a drifting machine is fair to all. A step is that of `training`:
    a batch from the loader, forward, backward, optimizer. Under torchrun all processes must call it; they share each
    batch, and what is kept is the slowest one's time in each turn. Then the passes are measured alone too, without the
    reduction of their gradients, and all-reduces by `communication`.

    Args:
        config: the task, network, optimizer and first batch size; growth is ignored.
        max_batch_size: the largest batch size; None: four times the task's own, if the data set is as large.
        repeats: turns, at least 1; from 6 on, intervals of 95 % need no assumption.
        seconds: the time for a batch size in each turn; at least one step is measured.
        data: the task's data if they are loaded already.
        progress: called with the number of measurements done and in all.

    Returns:
        The content of `probe.json`. `optimizer_seconds` are those of a step; `gradients` are the bytes of each buffer
        in which DistributedDataParallel reduces them, and the share of the passes after which it is filled. In one
        process `communication` is missing. `peak_bytes` are those of a step beyond what is kept between steps, see
        `memory.peak_bytes`; null where the device does not tell. Where parameters are sharded the passes communicate,
        so that seconds of the passes alone, `compute_seconds`, and `gradients` are missing.

    Raises:
        ValueError: if an argument is out of range, the batch is larger than the data set, or memory runs out where
            parameters are sharded.
    """
    _checks.whole("repeats", repeats)
    _checks.finite("seconds", seconds, above=0)
    device = training.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    ranks = Ranks()
    data = ranks.each_first(lambda: tasks.get(config.task).load(config.data)) if data is None else data
    sizes = batch_sizes(config, max_batch_size=max_batch_size, dataset_size=data.dataset_size)
    with failures.told(config, device, None), threads(config.threads), entered(device):
        versions = training.versions(device)
        found = _measure(config, data, device, sizes, repeats=repeats, seconds=seconds, progress=progress)
    ended = conclusion(found.rates)
    for point in ended["curve"]:
        if passes := found.passes.get(point["batch_size"]):
            point["compute_seconds"] = spread(passes).to_json()
        point["peak_bytes"] = found.peaks.get(point["batch_size"])
    return {
        "format": FORMAT,
        "task": config.task,
        "model": config.model,
        "device": versions["device"],
        "versions": versions,
        "repeats": repeats,
        "out_of_memory_at": found.out_of_memory_at,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **ended,
        "optimizer_seconds": spread(found.optimizer).to_json(),
        **({} if found.gradients is None else {"gradients": found.gradients}),
        **({} if found.communication is None else {"communication": found.communication}),
    }


def batch_sizes(config: RunConfig, *, max_batch_size: int | None, dataset_size: int) -> list[int]:
    """The first batch size and its doublings up to `max_batch_size` and the data set.

    Args:
        config: gives the first batch size and, if `max_batch_size` is None, four times its own largest.
        max_batch_size: the largest batch size.
        dataset_size: samples in an epoch.

    Returns:
        At least one size, growing.

    Raises:
        ValueError: if `max_batch_size` or the data set is smaller than the first batch size.
    """
    first = config.batch_size
    if first > dataset_size:
        rule = f"must be at most the {dataset_size:,} samples of the data set"
        raise ArgumentError("batch_size", rule, got=f"{first:,}")
    if max_batch_size is None:
        max_batch_size = max(first, 4 * (config.max_batch_size or 16 * first))
    _checks.whole("max_batch_size", max_batch_size, minimum=first, remedy=f"the first batch size is {first}")
    sizes = [first]
    while 2 * sizes[-1] <= min(max_batch_size, dataset_size):
        sizes.append(2 * sizes[-1])
    return sizes


def conclusion(rates: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """The gain that growing the batch can bring, judged by a throughput curve.

    A batch size counts as faster than another if the median of the paired ratios is at least `GAIN` and their 95 %
    interval lies above 1.

    Args:
        rates: for each batch size, growing, its samples per second in every turn.

    Returns:
        The keys `curve`, `fastest`, `speedup`, `enough` and `sentence` of `probe.json`; `enough` is the smallest batch
        size that no larger one beats, None if that is the largest one measured and larger than the first.

    Example:
        >>> turns = [0.98, 0.99, 1.0, 1.01, 1.02, 1.03]
        >>> rates = {size: [rate * turn for turn in turns] for size, rate in {16: 100, 32: 160, 64: 161}.items()}
        >>> conclusion(rates)["sentence"]
        'growing the batch can make this task at most 1.61x faster here [1.61, 1.61]; no gain is shown beyond 32'
    """
    sizes = list(rates)
    first = sizes[0]
    against = {size: paired_ratio(rates[size], rates[first]) for size in sizes}
    faster = [size for size in sizes[1:] if _faster(against[size])]
    fastest = max(faster, key=lambda size: against[size].median or 0, default=first)
    enough = next(
        size
        for size in sizes
        if not any(_faster(paired_ratio(rates[larger], rates[size])) for larger in sizes if larger > size)
    )
    rising = enough == sizes[-1] and enough != first
    return {
        "curve": [
            {
                "batch_size": size,
                "samples_per_second": spread(rates[size]).to_json(),
                "against_first": None if size == first else against[size].to_json(),
            }
            for size in sizes
        ],
        "fastest": fastest,
        "speedup": against[fastest].to_json(),
        "enough": None if rising else enough,
        "sentence": _sentence(against, fastest=fastest, enough=enough, rising=rising),
    }


def _sentence(against: Mapping[int, Ratio], *, fastest: int, enough: int, rising: bool) -> str:
    first, last = min(against), max(against)
    if first == last:
        return f"growing the batch cannot be judged: {first} is the only batch size measured"
    if fastest == first:
        best = max((size for size in against if size != first), key=lambda size: against[size].median or 0)
        if all(ratio.low is None for size, ratio in against.items() if size != first):
            return f"no gain is shown: too few repeats for an interval (the best, {best}: {_words(against[best])})"
        found = f"growing the batch brings no speed here: no batch size up to {last} is shown to be at least "
        return found + f"{GAIN:g}x as fast as {first} (the best, {best}: {_words(against[best])})"
    speedup = against[fastest]
    if rising:
        return (
            f"growing the batch makes this task {_words(speedup, 'faster here')} at {last}, the largest batch size "
            "measured; larger ones may gain more"
        )
    gain = _words(speedup, "faster here")
    end = f"nothing is gained beyond {enough}" if fastest <= enough else f"no gain is shown beyond {enough}"
    return f"growing the batch can make this task at most {gain}; {end}"


def _words(ratio: Ratio, what: str = "") -> str:
    text = f"{ratio.median:.2f}x {what}".rstrip()
    return text if ratio.low is None else f"{text} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _faster(ratio: Ratio) -> bool:
    """Whether a gain is shown and large enough to matter."""
    return ratio.median is not None and ratio.median >= GAIN and ratio.low is not None and ratio.low > 1


class _Measured(NamedTuple):
    """What was measured.

    Attributes:
        rates: samples per second by batch size and turn.
        passes: seconds of forward and backward alone by batch size and turn; empty where they are not measured.
        peaks: bytes of a step beyond what is kept between steps, by batch size, on the rank with the most; empty where
            the device does not tell.
        optimizer: seconds of a step of the optimizer by turn.
        gradients: bytes of the buckets of gradients, and when they are filled; None where parameters are sharded.
        communication: of `communication`; None in one process.
        out_of_memory_at: the first batch size that outgrew the memory of the device, on any rank.
    """

    rates: dict[int, list[float]]
    passes: dict[int, list[float]]
    peaks: dict[int, int]
    optimizer: list[float]
    gradients: dict[str, Any] | None
    communication: dict[str, Any] | None
    out_of_memory_at: int | None


def _measure(
    config: RunConfig,
    data: Data,
    device: torch.device,
    sizes: Sequence[int],
    *,
    repeats: int,
    seconds: float,
    progress: Callable[[int, int], None] | None,
) -> _Measured:
    steps = Steps(config.constant(), data, device)
    counts: dict[int, int] = {}
    peaks: dict[int, int] = {}
    failed = None
    for size in sizes:
        try:
            steps.time(size, 1)  # the first steps of a shape cost more
            steps.time(size, 1)
            counts[size] = max(1, round(seconds / steps.time(size, 2) * 2))
            if (peak := steps.peak(size)) is not None:
                peaks[size] = peak
        except torch.OutOfMemoryError:
            failed = size
            break
    if not counts:
        raise ArgumentError("batch_size", "must fit the device's memory", value=failed, remedy="start smaller")
    ranks, done = steps.setup.ranks, 0
    many, apart = ranks.world > 1, not config.fsdp
    total = repeats * ((1 + apart) * len(counts) + 1 + many * measurements())

    def tell() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    rates: dict[int, list[float]] = {size: [] for size in counts}
    passes: dict[int, list[float]] = {size: [] for size in counts if apart}
    measured = list(counts)
    optimizer: list[float] = []
    filled: list[list[float]] = []
    steps.time(measured[0], 1)  # of a size that fits
    stepped = max(1, round(seconds / steps.step(2) * 2))
    for turn in range(repeats):
        start = turn % len(measured)
        for size in [*measured[start:], *measured[:start]]:
            rates[size].append(counts[size] * size / steps.time(size, counts[size]))
            tell()
            if apart:
                passes[size].append(steps.passes(counts[size]) / counts[size])
                tell()
        optimizer.append(steps.step(stepped) / stepped)
        if not config.fsdp:
            filled.append(steps.filled())
        tell()
    reduced = None
    if many:
        parameters = steps.setup.model.parameters()
        reduced = communication(parameters, device, repeats=repeats, seconds=seconds, progress=tell)
    gradients = None
    if filled:
        sizes = [sum(each.nbytes for each in bucket) for bucket in steps.buckets]
        ready = [statistics.median(shares) for shares in zip(*filled, strict=True)]
        gradients = {"bytes": sum(sizes), "buckets": sizes, "ready": ready}
    return _Measured(rates, passes, peaks, optimizer, gradients, reduced, failed)


class Steps:
    """Real training steps of a task at any batch size.

    Args:
        config: the settings, without growth.
        data: the task's data.
        device: the device to train on.

    Attributes:
        setup: of the training.
        buckets: the parameters by the buffers in which DistributedDataParallel reduces their gradients.
    """

    def __init__(self, config: RunConfig, data: Data, device: torch.device) -> None:
        self.setup, self._device = Setup(replace(config, drop_last=True), data, device), device
        self.setup.batches.close()
        self._alone = forward_of(self.setup.model, config, device)
        self.buckets = _distributed.ddp_buckets(self.setup.model.parameters())
        self._share: list[tuple[Tensor, Tensor]] = []
        self._updates = self._begin()

    def _begin(self) -> Iterator[bool]:
        return self._of_batches() if self.setup.takes_whole_batches else self._of_micro_batches()

    def time(self, batch_size: int, count: int) -> float:
        """Seconds of `count` steps at `batch_size`, with the fetching of their batches; those of the slowest rank.

        Raises:
            torch.OutOfMemoryError: on all ranks if memory runs out on one.
            ValueError: on the rank where it does, if parameters are sharded: the others wait in its passes.
        """
        self.setup.loader.batch_size = batch_size
        return self._slowest(partial(self._train, count))

    def peak(self, batch_size: int) -> int | None:
        """Bytes that a step takes beyond what is kept between steps, on the rank with the most; None if not known.

        Raises:
            As `time`.
        """
        found: list[int | None] = []
        self.setup.optimizer.zero_grad()
        self.setup.loader.batch_size = batch_size

        def step() -> None:
            found.append(memory.peak_bytes(partial(self._train, 1), self._device))

        self._slowest(step)
        peaks = self.setup.ranks.gathered(found[0])
        return None if None in peaks else max(peak for peak in peaks if peak is not None)

    def _slowest(self, call: Callable[[], None]) -> float:
        """Seconds of a call on the slowest rank; if memory runs out on any, the next batch begins anew."""
        try:
            return slowest(call, self.setup.ranks, self._device)
        except torch.OutOfMemoryError:
            self._updates = self._begin()
            self.setup.optimizer.zero_grad()
            raise

    def _train(self, count: int) -> None:
        setup = self.setup
        try:
            for _ in range(count):
                if not next(self._updates):
                    raise torch.OutOfMemoryError("memory ran out on a rank")
        except torch.OutOfMemoryError as error:
            if not setup.config.fsdp or setup.ranks.world == 1:
                raise
            rule, got = "must fit into memory where parameters are sharded", f"{setup.loader.batch_size:,}, too many"
            raise ArgumentError("max_batch_size", rule, got=got, remedy="measure no further than what fits") from error

    def passes(self, count: int) -> float:
        """Seconds of `count` forward and backward passes over the shares of the last batch; of the slowest rank.

        Gradients stay on their ranks, and nothing is fetched or updated.
        """

        def compute() -> None:
            for _ in range(count):
                for inputs, targets in self._share:
                    self._backward(self._alone, inputs, targets)
                self.setup.optimizer.zero_grad()

        return slowest(compute, self.setup.ranks, self._device)

    def step(self, count: int) -> float:
        """Seconds of `count` steps of the optimizer, with the gradients of the last passes; of the slowest rank."""
        if not any(each.grad is not None for each in self.setup.model.parameters()):
            for each in self.setup.model.parameters():
                each.grad = torch.zeros_like(each)

        def step() -> None:
            for _ in range(count):
                self.setup.optimizer.step()

        seconds = slowest(step, self.setup.ranks, self._device)
        self.setup.optimizer.zero_grad()
        return seconds

    def filled(self) -> list[float]:
        """For each bucket of gradients the share of this rank's passes after which it is filled; 1 without a share."""
        at: dict[int, float] = {}

        def note(parameter: Tensor) -> None:
            wait_for(self._device)
            at[id(parameter)] = time.perf_counter()

        trained = [parameter for bucket in self.buckets for parameter in bucket]
        hooks = [each.register_post_accumulate_grad_hook(note) for each in trained]  # type: ignore[no-untyped-call]
        try:
            wait_for(self._device)
            begin = time.perf_counter()
            for inputs, targets in self._share[-1:]:
                self._backward(self._alone, inputs, targets)
            wait_for(self._device)
            end = time.perf_counter()
        finally:
            for hook in hooks:
                hook.remove()
        self.setup.optimizer.zero_grad()
        return [
            (max(at.get(id(parameter), end) for parameter in bucket) - begin) / (end - begin) for bucket in self.buckets
        ]

    def _of_batches(self) -> Iterator[bool]:
        """Updates by whole batches, epoch after epoch."""
        setup = self.setup
        for loader in repeat(setup.loader):
            for inputs, targets in loader:
                self._share = [(inputs, targets)]
                setup.optimizer.zero_grad()
                self._backward(setup.forward, inputs, targets)
                setup.optimizer.step()
                yield True

    def _of_micro_batches(self) -> Iterator[bool]:
        """Updates by this rank's micro-batches, whose shares may be uneven; False once memory ran out on any rank."""
        setup = self.setup
        for loader in repeat(setup.loader):
            for micro in ab.accumulate(loader, setup.wrapped):
                if micro.index == 0:
                    self._share = []
                with micro as (inputs, targets):
                    self._share.append((inputs, targets))
                    self._backward(setup.forward, inputs, targets, micro.weight)
                if micro.failed:
                    yield False
                if micro.is_last:
                    setup.optimizer.step()
                    setup.optimizer.zero_grad()
                    yield True

    def _backward(self, forward: Forward, inputs: Tensor, targets: Tensor, weight: float = 1.0) -> None:
        setup = self.setup
        if not setup.prepared:
            inputs, targets = setup.prepare(inputs, targets, clock=0)
        loss = setup.loss(forward(inputs), targets)
        (loss if weight == 1.0 else loss * weight).backward()
