"""Contract checks of loaders, and the histories that they are run over.

A history is what a training loop does to a loader: batch sizes that change at some updates, stops at some updates with
a state carried to another loader, perhaps with other workers, micro-batches and ranks. `check_loader` plays one and
asserts that each size asked for was delivered, that every epoch holds every sample exactly once (less what was
dropped), and that the samples are those that (seed, epoch) define. `check_resume` plays it twice, once with stops.
"""

import json
import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, TensorDataset

from adabatch.data import DataLoader
from adabatch.data.order import permute


class Mapped:
    """A map-style data set with something random in it."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, item):
        return item, float(np.random.rand()) + float(torch.rand(()))


class Streamed(IterableDataset):
    """The same as a stream."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        for item in range(self.size):
            yield item, float(np.random.rand()) + float(torch.rand(()))


def source_of(loader):
    """Where the samples of the iteration that goes on come from; if none does, what persists."""
    front = loader._place.front
    return loader._supply._kept[1] if front is None else front.source


@dataclass
class History:
    """What is done to a loader.

    Attributes:
        kind: `"map"`, `"tensor"`, `"stream"` or `"sampler"`.
        size: samples in an epoch.
        mode: `"short"`, `"drop_last"` or `"run_on"`.
        shuffle: whether the order is the keyed one.
        sizes: the batch size of each update.
        micro: the micro-batch size; None for whole rank batches.
        world: simulated ranks.
        workers: worker processes.
        persistent: whether they persist.
        prefetch: runs that each fetches ahead.
        stops: updates before which the run is stopped, with what it goes on with: (update, workers, micro, world).
    """

    kind: str
    size: int
    mode: str
    shuffle: bool
    sizes: list
    micro: int | None = None
    world: int = 1
    workers: int = 0
    persistent: bool = False
    prefetch: int = 2
    stops: list = field(default_factory=list)


def histories(*, workers=0):
    """Histories with at most `workers` worker processes."""

    @st.composite
    def drawn(draw):
        kind = draw(st.sampled_from(["map", "tensor", "stream", "sampler"]))
        size = draw(st.integers(1, 60))
        mode = draw(st.sampled_from(["short", "drop_last"] + (["run_on"] if kind != "stream" else [])))
        updates = draw(st.integers(1, 25))
        sizes = draw(st.lists(st.integers(1, size), min_size=updates, max_size=updates))
        number = st.integers(0, workers) if workers else st.just(0)
        micros, worlds = st.none() | st.integers(1, size), st.integers(1, 3)
        stops = draw(st.lists(st.tuples(st.integers(0, updates), number, micros, worlds), max_size=3))
        return History(
            kind=kind,
            size=size,
            mode=mode,
            shuffle=kind in ("map", "tensor") and draw(st.booleans()),
            sizes=sizes,
            micro=draw(micros),
            world=draw(worlds),
            workers=draw(number),
            persistent=draw(st.booleans()),
            prefetch=draw(st.integers(1, 4)),
            stops=sorted(stops, key=lambda stop: stop[0]),
        )

    return drawn()


def _sampler(size):
    return [(7 * i + 3) % size for i in range(size)]


def ranks_of(history, *, workers, micro, world):
    """A loader for each simulated rank."""
    data = {"tensor": TensorDataset(torch.arange(history.size)), "stream": Streamed(history.size)}
    loaders = []
    for rank in range(world):
        loader = DataLoader(
            data.get(history.kind) or Mapped(history.size),
            1,
            shuffle=history.shuffle,
            sampler=_sampler(history.size) if history.kind == "sampler" else None,
            seed=5,
            micro_batch_size=micro,
            num_workers=workers,
            persistent_workers=bool(workers) and history.persistent,
            prefetch_factor=history.prefetch if workers else None,
            drop_last=history.mode == "drop_last",
            run_on=history.mode == "run_on",
        )
        loader._supply.sharing = lambda rank=rank: (None, rank, world)
        loaders.append(loader)
    return loaders


def _update(loaders, passes):
    """One batch over all ranks: its part record, and the samples of each rank with what was drawn for them."""
    shares, batch = [[] for _ in loaders], None
    while True:
        rows = [next(each, None) for each in passes]
        assert len({row is None for row in rows}) == 1
        if rows[0] is None:
            return None
        parts = [row[1] for row in rows]
        assert len({(part.index, part.count, part.batch.clock, part.batch.size) for part in parts}) == 1
        for share, (data, part) in zip(shares, rows, strict=True):
            columns = [column[: part.size].tolist() for column in data]
            assert len(data[0]) == max(part.size, 1)
            share += list(zip(*columns, strict=True))
        batch = parts[0].batch
        assert all(
            part.batch.rank_size == len(share) for part, share in zip(parts, shares, strict=True) if part.is_last
        )
        if parts[0].is_last:
            return batch, shares


def play(history, stops):
    """Runs a history; the batches as (clock, requested size, samples in the order of the clock)."""
    todo = list(stops)
    loaders = ranks_of(history, workers=history.workers, micro=history.micro, world=history.world)
    passes, found = None, []
    while len(found) < len(history.sizes):
        update = len(found)
        while todo and todo[0][0] == update:
            _, workers, micro, world = todo.pop(0)
            saved = json.loads(json.dumps(loaders[0].state_dict()))
            assert all(json.loads(json.dumps(loader.state_dict())) == saved for loader in loaders)
            assert len(json.dumps(saved)) < 4096
            passes = None
            loaders = ranks_of(history, workers=workers, micro=micro, world=world)
            for loader in loaders:
                loader.load_state_dict(saved)
        for loader in loaders:
            loader.batch_size = history.sizes[update]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*of the stream are read and dropped")
            if passes is None:
                passes = [loader.parts() for loader in loaders]
            done = _update(loaders, passes)
        if done is None:
            passes = None
            continue
        batch, shares = done
        world = len(loaders)
        base = getattr(loaders[0]._place.shown, "base", 0)
        joined = [None] * batch.size
        for rank, share in enumerate(shares):
            first = (rank - (batch.clock - base)) % world
            joined[first::world] = share
        found.append((batch.clock, batch.requested, joined))
    return found


def check_loader(history):
    """Asserts that a history is delivered as asked for, in the order of (seed, epoch)."""
    found = play(history, [])
    epochs = 2 + len(history.sizes)
    size = history.size
    if history.shuffle:
        orders = [permute(np.arange(size), size=size, seed=5, epoch=epoch).tolist() for epoch in range(epochs)]
    elif history.kind == "sampler":
        orders = [_sampler(size)] * epochs
    else:
        orders = [list(range(size))] * epochs
    epoch, offset, clock = 0, 0, 0
    for (start, requested, samples), asked in zip(found, history.sizes, strict=True):
        left = size - offset
        if left == 0 or (history.mode == "drop_last" and left < asked):
            clock += left if history.kind != "stream" else 0
            epoch, offset = epoch + 1, 0
            left = size
        delivered = asked if history.mode == "run_on" else min(asked, left)
        assert (start, requested, len(samples)) == (clock, asked, delivered)
        expected = (orders[epoch] + orders[epoch + 1])[offset : offset + delivered]
        assert [sample[0] for sample in samples] == expected
        clock, offset = clock + delivered, offset + delivered
        if offset > size:
            epoch, offset = epoch + 1, offset - size
    return found


def check_resume(history):
    """Asserts that stopping and going on, with other workers, micro-batches or ranks, changes nothing."""
    whole = check_loader(history)
    assert play(history, history.stops) == whole


def check_gradients(loaders, columns):
    """Asserts that weighted micro-batch gradients over simulated ranks sum to the gradient of each whole batch."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    inputs, targets = columns
    parameters = list(model.parameters())

    def loss(x, y):
        return torch.nn.functional.cross_entropy(model(x), y)

    passes = [loader.parts() for loader in loaders]
    sums, items, weights = None, [], 0.0
    for rows in zip(*passes, strict=True):
        for (item,), part in rows:
            gradients = torch.autograd.grad(loss(inputs[item], targets[item]), parameters)
            weight = part.size / part.batch.size
            weights += weight
            items += item[: part.size].tolist()
            scaled = [weight * gradient for gradient in gradients]
            sums = scaled if sums is None else [a + b for a, b in zip(sums, scaled, strict=True)]
        if rows[0][1].is_last:
            whole = torch.autograd.grad(loss(inputs[items], targets[items]), parameters)
            assert math.isclose(weights, 1.0, rel_tol=1e-12)
            for one, other in zip(sums, whole, strict=True):
                assert torch.allclose(one, other, rtol=0, atol=1e-10)
            sums, items, weights = None, [], 0.0
