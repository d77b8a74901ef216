"""Seconds of an update on any number of workers, from a probe of a few and a link between them.

    update = passes over a worker's share + what is left of the all-reduce after them + coordination + optimizer

The share is ceil(B / W) samples. Gradients are all-reduced in buckets, one after the other, each from the moment when
the backward pass has filled it. `docs/plan.md` has the equations, where each parameter comes from, and how far
predictions were from what was measured.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.lab import shapes
from adabatch.lab.planner.forecast import Timing
from adabatch.lab.shapes import Amount, Number, Positive, Size, Text
from adabatch.schedules import Plan

ALGORITHMS: Final = ("best", "ring", "tree")
_VOTE_BYTES: Final = 8.0  # by which ranks agree, once an update, that all can go on
PAYS: Final = 1.5  # twice the workers pay while an update is at least so many times as fast


@dataclass(frozen=True, kw_only=True)
class Link:
    """The way between workers: what an all-reduce takes on it.

        ring: 2 (W - 1) latency + 2 (W - 1) / W bytes / bandwidth
        tree: 2 log2(W) latency + 2 bytes / bandwidth

    With `inside`, workers of a node reduce and spread over that link in a ring, and between nodes each node is one
    worker. `best` takes the faster algorithm, as NCCL does.

    Attributes:
        name: of the link.
        latency_seconds: of one message.
        bytes_per_second: of one worker, or of one node where there are several in one, in each direction.
        algorithm: one of `ALGORITHMS`.
        workers_per_node: workers that share `inside`.
        inside: the link within a node.
        source: where the figures are from.

    Example:
        >>> link = Link(name="mine", latency_seconds=1e-5, bytes_per_second=1e9, algorithm="ring")
        >>> [round(link.all_reduce_seconds(1_000_000, workers), 6) for workers in (1, 2, 4)]
        [0.0, 0.00102, 0.00156]
    """

    name: str
    latency_seconds: float
    bytes_per_second: float
    algorithm: str = "best"
    workers_per_node: int = 1
    inside: Link | None = None
    source: str = ""

    def all_reduce_seconds(self, size: float, workers: int) -> float:
        """Seconds of an all-reduce of `size` bytes."""
        if workers == 1:
            return 0.0
        here = min(workers, self.workers_per_node)
        within = 0.0 if self.inside is None else self.inside.all_reduce_seconds(size, here)
        nodes = math.ceil(workers / self.workers_per_node)
        return within + (self._between(size, nodes) if nodes > 1 else 0.0)

    def _between(self, size: float, nodes: int) -> float:
        whole = 2 * size / self.bytes_per_second
        ring = 2 * (nodes - 1) * self.latency_seconds + whole * (nodes - 1) / nodes
        tree = 2 * math.log2(nodes) * self.latency_seconds + whole
        return {"ring": ring, "tree": tree, "best": min(ring, tree)}[self.algorithm]


def _link(name: str, latency: float, rate: float, source: str, **more: Any) -> Link:
    return Link(name=name, latency_seconds=latency, bytes_per_second=rate, source=source, **more)


_LATENCY: Final = "latency of a message through the library, recalled, not found in print"
_PCIE3: Final = _link("pcie3", 1e-5, 1e10, f"about 10 of the nominal 15.75 GB/s of PCIe 3.0 x16; {_LATENCY}")
_NVLINK4: Final = _link("nvlink4", 5e-6, 3.6e11, f"80 % of the nominal 450 GB/s of NVLink 4; {_LATENCY}")
LINKS: Final = {
    link.name: link
    for link in (
        _link("ethernet-10g", 3e-5, 1.1e9, f"88 % of the nominal 10 Gbit/s; {_LATENCY}"),
        _link("ethernet-100g", 2e-5, 1.1e10, f"88 % of the nominal 100 Gbit/s; {_LATENCY}"),
        _link(
            "infiniband-fdr",
            *(8e-6, 1.2e10),
            "nodes of 8 with two links of nominal 56 Gbit/s, as in 1711.04325, at 86 %; within, PCIe 3.0; " + _LATENCY,
            workers_per_node=8,
            inside=_PCIE3,
        ),
        _link(
            "infiniband-ndr",
            *(8e-6, 3.4e11),
            "nodes of 8 with eight links of nominal 400 Gbit/s at 85 %; within, NVLink 4; " + _LATENCY,
            workers_per_node=8,
            inside=_NVLINK4,
        ),
        _PCIE3,
        _NVLINK4,
    )
}
_INSIDE: Final[dict[str, Any]] = {
    "latency_seconds": Amount,
    "bytes_per_second": Positive,
    "algorithm?": Text,
    "source?": Text,
    "name?": Text,
}
_FILE: Final[dict[str, Any]] = {**_INSIDE, "workers_per_node?": Size, "inside?": _INSIDE}


def link_of(text: str) -> Link:
    """The link of a name in `LINKS`, or in a JSON file with the fields of `Link`.

    Raises:
        ValueError: if it is neither, or the file holds something else.

    Example:
        >>> link_of("ethernet-10g").bytes_per_second
        1100000000.0
    """
    if text in LINKS:
        return LINKS[text]
    path, names = Path(text), ", ".join(LINKS)
    if not path.is_file():
        raise ArgumentError("link", f"must be probe, {names}, or a JSON file", value=text)
    remedy = 'write for example {"latency_seconds": 1e-5, "bytes_per_second": 1.2e10}'
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    rule = "must be a file with latency_seconds and bytes_per_second"
    if (fault := next(shapes.faults(values, _FILE), None)) is not None:
        raise ArgumentError("link", rule, got=f"{text} {fault}", remedy=remedy)
    for record, shape, where in ((values, _FILE, ""), (values.get("inside", {}), _INSIDE, "inside.")):
        unknown = [name for name in record if f"{name}?" not in shape and name not in shape]
        if unknown:
            raise ArgumentError("link", rule, got=f"{text} with {where}{unknown[0]}, which is no field", remedy=remedy)
    inside = values.pop("inside", None)
    if (inside is None) != (values.get("workers_per_node", 1) == 1):
        got = f"{text} with one of them"
        raise ArgumentError("link", "must have `inside` where `workers_per_node` is above 1", got=got, remedy=remedy)
    for one in [values, *([] if inside is None else [inside])]:
        _checks.one_of("algorithm", one.get("algorithm", "best"), ALGORITHMS)
    within = None if inside is None else Link(**{"name": "inside", **inside})
    return Link(**{"name": path.stem, **values}, inside=within)


class Bucket(NamedTuple):
    """Gradients that are all-reduced together.

    Attributes:
        bytes: of them.
        ready: the share of the passes after which the backward pass has filled it.
    """

    bytes: float
    ready: float


class Update(NamedTuple):
    """Seconds of an update and of its parts.

    Attributes:
        passes: forward and backward, and the fetching of samples.
        exposed: of the all-reduce after the passes.
        coordination: in which workers agree and wait for each other.
        optimizer: of the step.
    """

    passes: float
    exposed: float
    coordination: float
    optimizer: float

    @property
    def seconds(self) -> float:
        """Of the whole update."""
        return self.passes + self.exposed + self.coordination + self.optimizer


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that several workers share: its memory, and beyond its cores its time.

        slower = (1 + contention (min(W, cores) - 1)) max(1, W / cores)
        coordination = waiting_seconds (W - 1) max(1, W / cores)

    Attributes:
        cores: of the machine; a worker computes on one.
        contention: by how much one more worker slows down the passes of each.
        waiting_seconds: of an update for each other worker: votes, and waits for whoever comes last.

    Example:
        >>> found = Machine(cores=2, contention=0.2, waiting_seconds=0.001)
        >>> [round(found.slower(workers), 6) for workers in (1, 2, 3, 4)]
        [1.0, 1.2, 1.8, 2.4]
        >>> [round(1000 * found.coordination(workers), 6) for workers in (1, 2, 3, 4)]
        [0.0, 1.0, 3.0, 6.0]
    """

    cores: int
    contention: float
    waiting_seconds: float = 0.0

    def crowd(self, workers: int) -> float:
        """Workers for each core, at least 1."""
        return max(1.0, workers / self.cores)

    def slower(self, workers: int) -> float:
        """The factor by which passes and steps take longer with so many workers."""
        return (1 + self.contention * (min(workers, self.cores) - 1)) * self.crowd(workers)

    def coordination(self, workers: int) -> float:
        """Seconds in which so many workers agree and wait for each other."""
        return self.waiting_seconds * (workers - 1) * self.crowd(workers)


@dataclass(frozen=True, kw_only=True)
class Performance:
    """A worker, and its way to others.

    Attributes:
        timing: seconds of the passes of one worker against its samples.
        optimizer_seconds: of a step.
        buckets: in the order in which they are all-reduced.
        link: between workers.
        overlap: the share of an all-reduce that can go on beside the passes, from 0 to 1.
        shared: the machine that all workers share; None where each has one of its own.
    """

    timing: Timing
    optimizer_seconds: float
    buckets: tuple[Bucket, ...]
    link: Link
    overlap: float = 1.0
    shared: Machine | None = None

    def update(self, batch_size: int, workers: int) -> Update:
        """Seconds of an update; a batch smaller than the workers leaves some of them idle."""
        slower = 1.0 if self.shared is None else self.shared.slower(workers)
        passes = self.timing.update_seconds(math.ceil(batch_size / workers)) * slower
        whole = end = 0.0
        for bucket in self.buckets:
            taken = self.link.all_reduce_seconds(bucket.bytes, workers)
            whole += taken
            end = max(end, bucket.ready * passes) + taken
        hidden = self.overlap * (whole - max(0.0, end - passes))
        if self.shared is None:
            agreed = self.link.all_reduce_seconds(_VOTE_BYTES, workers)
        else:
            agreed = self.shared.coordination(workers)
        return Update(passes, whole - hidden, agreed, self.optimizer_seconds * slower)

    def seconds(self, plan: Plan, workers: int) -> float:
        """Seconds of training by a plan, without evaluation."""
        return sum(count * self.update(size, workers).seconds for size, count in plan.batch_counts().items())

    def efficiency(self, plan: Plan, workers: int, *, of: int = 1) -> float:
        """Worker-seconds with `of` workers over those with `workers`."""
        return of * self.seconds(plan, of) / (workers * self.seconds(plan, workers))

    def pays_up_to(self, batch_size: int, *, most: int = 2**20) -> int:
        """The workers from which on twice as many make an update less than `PAYS` times as fast; a power of two."""
        workers = 1
        while 2 * workers <= min(most, batch_size):
            now, then = (self.update(batch_size, count).seconds for count in (workers, 2 * workers))
            if now < PAYS * then:
                break
            workers *= 2
        return workers


def of_probes(
    alone: Mapping[str, Any],
    together: Mapping[str, Any] | None = None,
    *,
    link: Link | None = None,
    narrow: bool = False,
) -> list[Performance]:
    """What the turns of probes say, each turn by itself, so that what differs between turns shows in every answer.

    Args:
        alone: content of the `probe.json` of one process.
        together: of several processes on the same machine, from which the link, the share of the all-reduce that goes
            on beside the passes, the contention and the waiting are taken where no link is given.
        link: between workers that share nothing else.
        narrow: whether gradients travel in 16 bits.

    Raises:
        ValueError: if a probe lacks something, or there is neither a link nor a probe of several processes.
    """
    if "communication" in alone:
        got, remedy = f"one of {alone['communication'].get('world_size')}", "probe without torchrun"
        raise ArgumentError("probe", "must be one of one process", got=got, remedy=remedy)
    _check(alone, _ALONE, "must be one of one process, with seconds of passes and of the optimizer")
    if link is None and together is not None:
        _check(together, _TOGETHER, "must be one of several processes that share no parameters")
        if (workers := together["communication"]["world_size"]) < 2:
            rule, got = "must be one of several processes", f"one with communication.world_size {workers}"
            raise ArgumentError("probe", rule, got=got, remedy="probe under torchrun")
        _check_alike(alone, together)
    if link is None and together is None:
        remedy = f"name one, such as {next(iter(LINKS))}, or add the probe.json of a probe under torchrun"
        raise ArgumentError("link", "must be given where no probe measured one", got="none", remedy=remedy)
    sizes, ready = (alone["gradients"][name] for name in ("buckets", "ready"))
    if len(sizes) != len(ready):
        got = f"one with {len(sizes)} buckets of gradients and {len(ready)} times"
        raise ArgumentError("probe", "must tell when each bucket is filled", got=got, remedy="probe again")
    points = [point["batch_size"] for point in alone["curve"]]
    if any(after <= before for before, after in pairwise(points)):
        got = ", ".join(map(str, points))
        raise ArgumentError("probe", "must have a curve whose batch sizes rise", got=got, remedy="probe again")
    buckets = tuple(Bucket(size * (0.5 if narrow else 1.0), at) for size, at in zip(sizes, ready, strict=True))
    return [
        _of_turn(alone, together, link, buckets, turn)
        for turn in range(_turns(alone, together if link is None else None))
    ]


_VALUES: Final = {"values": [Positive]}
_POINT: Final = {"batch_size": Size, "samples_per_second": _VALUES, "compute_seconds": _VALUES}
_ALONE: Final = {
    "curve": [_POINT],
    "optimizer_seconds": _VALUES,
    "gradients": {"buckets": [Size], "ready": [Amount]},
}
_TOGETHER: Final = {
    "curve": [_POINT],
    "cores": Size,
    "communication": {
        "world_size": Size,
        "backend": Text,
        "latency_seconds": {"values": [Number]},
        "seconds_per_byte": _VALUES,
    },
}


def _check(probe: Mapping[str, Any], shape: Mapping[str, Any], rule: str) -> None:
    if (fault := next(shapes.faults(probe, shape), None)) is not None:
        raise ArgumentError("probe", rule, got=f"one {fault}", remedy="probe again")


def _check_alike(alone: Mapping[str, Any], together: Mapping[str, Any]) -> None:
    """Raises for probes of different trainings: what workers cost each other is their difference."""
    for name in ("task", "model"):
        found = [probe.get(name) for probe in (alone, together)]
        if None not in found and found[0] != found[1]:
            got = f"{found[0]} and {found[1]}"
            remedy = "probe the same under torchrun, or name a link"
            raise ArgumentError("probe", f"must be of one {name} where two are given", got=got, remedy=remedy)


def _turns(alone: Mapping[str, Any], together: Mapping[str, Any] | None) -> int:
    """The turns that probes have in common."""
    counts = [len(alone["optimizer_seconds"]["values"])]
    for probe in (alone, together or {"curve": []}):
        for point in probe["curve"]:
            counts += [len(point[name]["values"]) for name in ("samples_per_second", "compute_seconds")]
    if together is not None:
        found = together["communication"]
        counts += [len(found[name]["values"]) for name in ("latency_seconds", "seconds_per_byte")]
    return min(counts)


def _of_turn(
    alone: Mapping[str, Any],
    together: Mapping[str, Any] | None,
    link: Link | None,
    buckets: tuple[Bucket, ...],
    turn: int,
) -> Performance:
    sizes = tuple(point["batch_size"] for point in alone["curve"])
    optimizer = alone["optimizer_seconds"]["values"][turn]
    steps = [point["batch_size"] / point["samples_per_second"]["values"][turn] for point in alone["curve"]]
    # What is left of a step without the optimizer; noise may leave little of a very short one.
    timing = Timing(sizes, tuple(max(step - optimizer, 0.1 * step) for step in steps))
    model = partial(Performance, timing=timing, optimizer_seconds=optimizer, buckets=buckets)
    if link is not None:
        return model(link=link)
    assert together is not None
    passes = Timing(sizes, tuple(point["compute_seconds"]["values"][turn] for point in alone["curve"]))
    return _fitted(model(link=_measured(together["communication"], turn)), passes, together, turn)


def _measured(found: Mapping[str, Any], turn: int) -> Link:
    """The link of a probe under torchrun: a ring over as many workers, solved for one message."""
    workers = found["world_size"]
    latency, by_byte = (found[name]["values"][turn] for name in ("latency_seconds", "seconds_per_byte"))
    return Link(
        name="probe",
        latency_seconds=max(0.0, latency) / (2 * (workers - 1)),
        bytes_per_second=2 * (workers - 1) / workers / by_byte,
        algorithm="ring",
        source=f"measured over {workers} processes ({found['backend']})",
    )


def _fitted(model: Performance, passes: Timing, together: Mapping[str, Any], turn: int) -> Performance:
    """The model with what several workers on one machine cost each other, as they were measured together.

    What a step takes beyond the model is waiting. Where it takes less, a share of the all-reduce went on beside the
    passes.
    """
    workers, points = together["communication"]["world_size"], together["curve"]
    machine = Machine(cores=together["cores"], contention=0.0)
    slower = statistics.median(
        point["compute_seconds"]["values"][turn] / passes.update_seconds(math.ceil(point["batch_size"] / workers))
        for point in points
    )
    others = min(workers, machine.cores) - 1
    if others:
        machine = replace(machine, contention=max(0.0, slower / machine.crowd(workers) - 1) / others)
    model = replace(model, shared=machine, overlap=0.0)
    beyond, hideable = [], []
    for point in points:
        size = point["batch_size"]
        none, whole = (replace(model, overlap=share).update(size, workers).seconds for share in (0.0, 1.0))
        beyond.append(size / point["samples_per_second"]["values"][turn] - none)
        hideable.append(none - whole)
    waited = statistics.median(beyond)
    if waited >= 0:
        of_one = waited / replace(machine, waiting_seconds=1.0).coordination(workers)
        return replace(model, shared=replace(machine, waiting_seconds=of_one))
    hidden = statistics.median(hideable)
    return replace(model, overlap=min(1.0, -waited / hidden) if hidden > 0 else 0.0)
