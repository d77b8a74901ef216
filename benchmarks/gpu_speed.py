"""Speeds of a step, phases of `gpu.py`: the card, the kernels, samples per second by option, loaders, preparation."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from gpu_job import Job, worked
from paired import at_least, middle, speeds
from throughput import data, wait
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

import adabatch as ab
from adabatch.lab.study.probe import Steps
from adabatch.lab.study.statistics import spread
from adabatch.lab.training import RunConfig, versions

PLAIN: Final[dict[str, Any]] = {"channels_last": False, "precision": "float32", "compile": False}
LOW: Final = {"precision": "bf16"}
LAST: Final = {"channels_last": True}
COMPILED: Final = {"compile": True}
GRAPHS: Final = {"compile": True, "cuda_graphs": True}
# Settings of a run by name; `auto` is what the product takes if nothing is said.
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": PLAIN,
    "bf16, channels last": PLAIN | LOW | LAST,
    "bf16": PLAIN | LOW,
    "channels last": PLAIN | LAST,
    "auto": {},
    "graphs, bf16, channels last": PLAIN | GRAPHS | LOW | LAST,
    "compile": PLAIN | COMPILED,
    "graphs": PLAIN | GRAPHS,
    "compile, bf16, channels last": PLAIN | COMPILED | LOW | LAST,
}
OF_OTHERS: Final = ("plain", "bf16, channels last", "compile, bf16, channels last")  # of networks after the first
PROFILED: Final = ("plain", "bf16, channels last")
TOP: Final = 15  # kernels and operators that are listed
RESIDENT_BOUND: Final = 0.95
# Kinds of kernels by their names, the first that fits.
KINDS: Final = {
    "batch norm": r"batch_?norm|bn_fw|bn_bw",
    "change of layout": r"nchw_?to_?nhwc|nhwc_?to_?nchw|transpose|converttensor",
    "convolutions and products": r"conv|cudnn|xmma|gemm|cutlass|[wd]grad|winograd",
    "copies": r"memcpy|memset|copy",
    "optimizer": r"multi_tensor|foreach|fused_(sgd|adam)",
    "reductions": r"reduce|softmax|nll",
    "elementwise": r"elementwise|vectorized|unrolled|triton",
}


def options_of(job: Job) -> dict[str, dict[str, Any]]:
    """The options that the device has and the scale does not leave out."""
    graphs = job.device.type == "cuda"
    return {
        name: settings
        for name, settings in OPTIONS.items()
        if name not in job.scale.without and (graphs or not settings.get("cuda_graphs"))
    }


def config_of(job: Job, network: str, settings: Mapping[str, Any], sizes: Sequence[int]) -> RunConfig:
    """A training that grows through `sizes`, an epoch at each; constant at one."""
    growth = {"growth": sizes[1] / sizes[0], "every": "1 epoch", "max_batch_size": sizes[-1]} if sizes[1:] else {}
    return RunConfig.for_task(
        "cifar10",
        model=network,
        batch_size=sizes[0],
        **growth,
        epochs=len(sizes),
        drop_last=True,
        lr=0.001,
        lr_schedule="constant",
        device=str(job.device),
        **settings,
    )


def steps_of(job: Job, network: str, settings: Mapping[str, Any], sizes: Sequence[int]) -> Steps:
    """Real training steps at these batch sizes, set up as a run is."""
    return Steps(config_of(job, network, settings, sizes), data(max(job.scale.samples, sizes[-1])), job.device)


# The card.


def environment(job: Job) -> dict[str, Any]:
    """Versions, switches of torch, and what the device reaches at best: copies, products, launches."""
    device, cuda = job.device, job.device.type == "cuda"
    found: dict[str, Any] = {"versions": {k: v for k, v in versions(device).items() if k != "platform"}}
    if cuda:
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(device)),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    found["switches"] = {
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    found["copied_bytes_per_second"] = copied(device)
    found["operations_per_second"] = {
        str(kind).removeprefix("torch."): multiplied(device, kind) for kind in (torch.float32, torch.bfloat16)
    }
    found["launch_seconds"] = launched(device)
    print(f"  copies {found['copied_bytes_per_second'] / 1e9:,.0f} GB/s, launch {1e6 * found['launch_seconds']:.1f} us")
    return found


def timed(call: Callable[[], object], device: torch.device, *, count: int, turns: int = 5) -> float:
    """Seconds of a call: the median of `turns` turns of `count` calls, until the device is done."""
    call()
    seconds = []
    for _ in range(turns):
        wait(device)
        begun = time.perf_counter()
        for _ in range(count):
            call()
        wait(device)
        seconds.append((time.perf_counter() - begun) / count)
    return statistics.median(seconds)


def copied(device: torch.device) -> float:
    """Bytes read and written in a second by a copy that fits into no cache."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / timed(lambda: target.copy_(source), device, count=10)


def multiplied(device: torch.device, kind: torch.dtype) -> float:
    """Operations in a second of a product of square matrices of random numbers."""
    size = 8_192 if device.type == "cuda" else 256
    factor = torch.randn(size, size, device=device).to(kind)
    return 2 * size**3 / timed(lambda: factor @ factor, device, count=3)


def launched(device: torch.device) -> float:
    """Seconds of an operator that has next to nothing to do."""
    one = torch.zeros(1, device=device)
    return timed(lambda: one.add_(1), device, count=1_000)


# Kernels.


def kernels(job: Job) -> dict[str, Any]:
    """The kernels and the operators of one training step, by network, batch size and options."""
    options = options_of(job)
    cases = {
        f"{network}, batch {size}, {name}": partial(table, job, network, size, options[name])
        for name in PROFILED
        for network in job.scale.networks
        for size in job.scale.profiled
    }
    return job.each(cases)


def table(job: Job, network: str, size: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One step: the kernels that take the device longest, all launches, and where the device has nothing to do."""
    steps = steps_of(job, network, settings, [size])
    steps.time(size, 3)
    seconds = [steps.time(size, 1) for _ in range(3)]
    cuda = job.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        steps.time(size, 1)
    events = [e for e in profiler.events() if e.device_type.name != "CPU" and not e.is_user_annotation]
    averages = [each for each in profiler.key_averages() if each.device_type.name == "CPU"]
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    longest = sorted(averages, key=lambda each: -getattr(each, own))[:TOP]
    return {
        "seconds": statistics.median(seconds),
        **on_device([(e.name, e.time_range.start * 1e-6, e.time_range.end * 1e-6) for e in events]),
        "operators": [
            {"name": each.key, "count": each.count, "seconds": getattr(each, own) * 1e-6} for each in longest
        ],
    }


def on_device(events: Iterable[tuple[str, float, float]]) -> dict[str, Any]:
    """What a device did, from the names, begins and ends of its kernels.

    Returns:
        `launches`; `span_seconds` from the first begin to the last end; `busy_seconds` in which any kernel ran;
        `idle_share` of the span; the longest `gaps_seconds`; `kinds`, shares of the kernels' time; the longest
        `kernels` by name with counts.
    """
    ordered = sorted(events, key=lambda event: event[1])
    if not ordered:
        return {"launches": 0}
    busy, gaps, until = 0.0, [], ordered[0][1]
    for _, begin, end in ordered:
        if begin > until:
            gaps.append(begin - until)
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    span = until - ordered[0][1]
    by_name: dict[str, float] = defaultdict(float)
    for name, begin, end in ordered:
        by_name[name] += end - begin
    counts = Counter(name for name, _, _ in ordered)
    whole = sum(by_name.values()) or 1.0
    kinds: dict[str, float] = defaultdict(float)
    for name, seconds in by_name.items():
        kinds[kind_of(name)] += seconds / whole
    longest = sorted(by_name, key=lambda name: -by_name[name])[:TOP]
    return {
        "launches": len(ordered),
        "span_seconds": span,
        "busy_seconds": busy,
        "idle_share": 1 - busy / span if span else 0.0,
        "gaps_seconds": sorted(gaps, reverse=True)[:3],
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "kernels": [{"name": name[:120], "count": counts[name], "seconds": by_name[name]} for name in longest],
    }


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    return next((kind for kind, words in KINDS.items() if re.search(words, kernel, re.IGNORECASE)), "other")


# Samples per second.


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operators read and write, each once an operator; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operator and counts."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            moved = tree_leaves((args, kwargs, out))
            self.bytes += sum(each.nbytes for each in moved if isinstance(each, torch.Tensor))
        return out


def bytes_of_a_sample(job: Job, network: str, settings: Mapping[str, Any]) -> float:
    """Bytes that the operators of a step read and write for one more sample, without compilation."""
    sizes = job.scale.profiled[0], 2 * job.scale.profiled[0]
    eager = {**settings, "compile": False, "cuda_graphs": False}
    steps = steps_of(job, network, eager, sizes)
    counts: list[int] = []
    for size in sizes:
        steps.time(size, 2)
        with Traffic() as traffic:
            steps.time(size, 1)
        counts.append(traffic.bytes)
    return (counts[1] - counts[0]) / (sizes[1] - sizes[0])


def throughput(job: Job) -> dict[str, Any]:
    """Samples per second and peak memory by batch size for each option, and what share of the bandwidth they reach."""
    options, networks = options_of(job), job.scale.networks
    bandwidth = copied(job.device)
    moved = {
        network: {kind: bytes_of_a_sample(job, network, PLAIN | {"precision": kind}) for kind in ("float32", "bf16")}
        for network in networks
    }
    of = {
        (network, name): f"{network}, {name}"
        for name in sorted(options, key=lambda name: options[name].get("compile", False))  # which takes long: last
        for network in networks
        if network == networks[0] or name in OF_OTHERS
    }
    cases = {key: partial(by_size, job, network, options[name]) for (network, name), key in of.items()}

    def kept(done: Mapping[str, Any]) -> dict[str, Any]:
        by_network = {
            network: {name: done[key] for (each, name), key in of.items() if each == network and key in done}
            for network in networks
        }
        return {
            "copied_bytes_per_second": bandwidth,
            "bytes_of_a_sample": moved,
            "networks": by_network,
            "roofline": [roofline(network, by_network[network], moved[network], bandwidth) for network in networks],
        }

    return kept(job.each(cases, of=kept))


def by_size(job: Job, network: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Samples per second at each size, all of them prepared before the first step, as a run does."""
    sizes, device = job.scale.sizes, job.device
    torch.compiler.reset()  # what other options have compiled counts towards torch's limit
    steps = steps_of(job, network, settings, sizes)
    begun = time.perf_counter()
    steps.setup.try_sizes(tell=lambda _: None)
    wait(device)
    found: dict[str, Any] = {"preparation_seconds": time.perf_counter() - begun}
    config = steps.setup.config  # as it is in force, whatever `auto` means
    found["settings"] = {name: getattr(config, name) for name in ("precision", *LAST, *GRAPHS)}
    found["sizes"] = {str(size): rate(steps, size, job) for size in sizes}
    return found


def rate(steps: Steps, size: int, job: Job) -> dict[str, Any]:
    """Samples per second at one size, in turns, and the peak of memory; an error if memory runs out."""
    cuda = job.device.type == "cuda"
    try:
        if cuda:
            torch.cuda.reset_peak_memory_stats(job.device)
        for _ in range(2):
            steps.time(size, 2)
        count = max(1, round(job.scale.seconds / (steps.time(size, 2) / 2)))
        rates = [count * size / steps.time(size, count) for _ in range(job.scale.turns)]
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    peak = torch.cuda.max_memory_allocated(job.device) if cuda else None
    return {"samples_per_second": spread(rates).to_json(), "steps_of_a_turn": count, "peak_bytes": peak}


def best(options: Mapping[str, Any], size: int | str) -> tuple[str, float] | None:
    """The name and the samples per second of the fastest option at a size; None if nothing was measured there."""
    rates = {
        name: float(of["sizes"][str(size)]["samples_per_second"]["median"])
        for name, of in worked(options).items()
        if str(size) in worked(of["sizes"])
    }
    return max(rates.items(), key=lambda item: item[1]) if rates else None


def roofline(network: str, options: Mapping[str, Any], moved: Mapping[str, float], bandwidth: float) -> str:
    """What bounds a network, in words: bytes moved for a sample, the bandwidth, the share that was reached."""
    largest = next((list(of["sizes"])[-1] for of in worked(options).values()), None)
    found = None if largest is None else best(options, largest)
    if found is None or largest is None:
        return f"{network}: not measured"
    name, reached = found
    kind = options[name]["settings"]["precision"]
    bound = bandwidth / moved[kind]
    return (
        f"{network}: the operators of a step read and write {moved[kind] / 1e6:.2f} MB for a sample in {kind}; at the "
        f"{bandwidth / 1e9:,.0f} GB/s of a copy that bounds it at {bound:,.0f} samples per second, if nothing is "
        f"fused; the fastest option at {int(largest):,} ({name}) trains {reached:,.0f}, "
        f"{100 * reached / bound:.0f} % of that"
    )


# Loaders.


def loaders(job: Job) -> dict[str, Any]:
    """Seconds of an epoch of uint8 images by each loader, until the device has all batches, against one by hand."""
    count, device = job.scale.resident, job.device
    torch.manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (count,))

    def through(loader: Iterable[Any]) -> Callable[[], None]:
        def run() -> None:
            for inputs, targets in loader:
                inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            wait(device)

        return run

    def by_hand(size: int) -> Callable[[], None]:
        images, classes = pixels.to(device), labels.to(device)

        def run() -> None:
            order = torch.randperm(count, device=device)
            for start in range(0, count, size):
                chosen = order[start : start + size]
                _ = images[chosen], classes[chosen]
            wait(device)

        return run

    def resident(size: int) -> Callable[[], None]:
        return through(ab.ResidentLoader((pixels, labels), size, shuffle=True, seed=0, device=device))

    def moved(size: int) -> Callable[[], None]:
        on = None if device.type == "cpu" else device
        return through(ab.DataLoader(TensorDataset(pixels, labels), size, shuffle=True, seed=0, device=on))

    def torchs(size: int) -> Callable[[], None]:
        how: dict[str, Any] = {"num_workers": job.scale.workers, "persistent_workers": True}
        pinned = device.type == "cuda"
        return through(DataLoader(TensorDataset(pixels, labels), size, shuffle=True, pin_memory=pinned, **how))

    def against(ours: Callable[[int], Any], size: int, rounds: int, bound: float | None) -> dict[str, Any]:
        found = speeds(partial(ours, size), partial(by_hand, size), rounds=rounds, pairs=1)
        found |= {f"{side}_median_seconds": middle(found[f"{side}_seconds"]) for side in ("ours", "theirs")}
        return found if bound is None else at_least(found, bound)

    ways = {
        "ResidentLoader": (resident, job.scale.pairs, RESIDENT_BOUND),
        "DataLoader": (moved, 3, None),
        f"torch, {job.scale.workers} workers": (torchs, 2, None),
    }
    cases = {
        f"{name}, batch {size}": partial(against, ours, size, rounds, bound)
        for name, (ours, rounds, bound) in ways.items()
        for size in job.scale.fetched
    }
    return job.each(cases)


# Preparation.


def preparation(job: Job) -> dict[str, Any]:
    """Seconds before the first update, of each batch size, and of the first steps after it; then with a warm cache."""
    options = options_of(job)
    names = [name for name in ("graphs", "compile") if name in options]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update(TORCHINDUCTOR_CACHE_DIR=folder, TRITON_CACHE_DIR=f"{folder}/triton")
        cases = {
            f"{name}, {how}": partial(prepared, job, options[name])
            for name in names
            for how in ("nothing cached", "cached on disk")
        }
        return job.each(cases)


def prepared(job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One preparation of all sizes, in a process that has compiled nothing."""
    torch.compiler.reset()
    sizes = job.scale.sizes
    steps = steps_of(job, job.scale.networks[0], settings, sizes)
    begins: list[tuple[str, float]] = []
    steps.setup.try_sizes(tell=lambda note: begins.append((note, time.perf_counter())))
    wait(job.device)
    ends = [*(begun for _, begun in begins[1:]), time.perf_counter()]
    return {
        "settings": dict(settings),
        "seconds": {note: end - begun for (note, begun), end in zip(begins, ends, strict=True)},
        "first_steps_seconds": {str(size): [steps.time(size, 1) for _ in range(4)] for size in sizes},
    }
