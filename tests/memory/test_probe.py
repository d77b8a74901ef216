"""`probe`: what it measures, that it leaves no trace, and that ranks agree."""

from __future__ import annotations

import functools
import gc
import json
import math
import random
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import adabatch as ab
from adabatch.memory import Curve, Point, _cached, _probe
from adabatch.memory._peak import free_bytes, peak_bytes
from adabatch.memory._samples import maker, resized


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))


def data(count=32):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator))


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(8, 1)
    )


def step_of(model):
    def step(batch):
        torch.nn.functional.mse_loss(model(batch[0]), batch[1]).backward()

    return step


# No trace.


def everything(model, optimizer):
    """Bytes of all that a probe must not touch."""
    state = {str(key): value for key, value in optimizer.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    rng = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    return repr((model.state_dict(), state, grads, modes, rng))


def identities(model, optimizer):
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    return [id(tensor) for tensor in tensors]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("own_step", [False, True])
def test_no_trace_is_left(make, begun, own_step):
    torch.set_printoptions(precision=20, threshold=10**6)
    model = network()
    lr = torch.tensor(0.1) if make is torch.optim.AdamW else 0.1
    optimizer = make(model.parameters(), lr=lr, weight_decay=0.1)
    loader = ab.DataLoader(data(), batch_size=8, shuffle=True, seed=0)
    batches = ab.BatchSizeScheduler(
        optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), coupling="none", epochs=3
    )
    step = step_of(model)

    def updating(batch):
        step(batch)
        random.random()
        np.random.rand()
        model.eval()
        model.train()
        optimizer.step()

    if begun:
        for batch in loader:
            optimizer.zero_grad()
            step(batch)
            optimizer.step()
            batches.step()
    hooks = list(optimizer._optimizer_step_pre_hooks.items()), list(optimizer._optimizer_step_post_hooks.items())
    before, there, position = everything(model, optimizer), identities(model, optimizer), loader.state_dict()
    curve = ab.probe(updating if own_step else step, loader, model, optimizer, maximum=16)
    assert curve.largest == 16
    assert everything(model, optimizer) == before
    assert identities(model, optimizer) == there
    assert hooks == (
        list(optimizer._optimizer_step_pre_hooks.items()),
        list(optimizer._optimizer_step_post_hooks.items()),
    )
    assert len(hooks[0]) == len(hooks[1]) == 1
    assert (loader.state_dict(), loader.current, loader.clock) == (position, None, 32 * begun)
    expected = iter(ab.DataLoader(data(), batch_size=8, shuffle=True, seed=0))
    if not begun:
        assert torch.equal(next(iter(loader))[0], next(expected)[0])
        optimizer.step()
        batches.step()
    torch.set_printoptions(profile="default")


def test_training_goes_on_as_if_nothing_had_been():
    results = []
    for probed in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loader = DataLoader(data(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            for batch in loader:
                optimizer.zero_grad()
                step_of(model)(batch)
                optimizer.step()
            if probed:
                ab.probe(step_of(model), loader, model, optimizer, maximum=4)
        results.append(list(model.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_an_error_in_the_step_leaves_no_trace_either():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(batch):
        step_of(model)(batch)
        if len(batch[0]) > 4:
            raise ZeroDivisionError

    before = everything(model, optimizer)
    with pytest.raises(ZeroDivisionError):
        ab.probe(step, ab.DataLoader(data(), batch_size=4, seed=0), model, optimizer)
    assert everything(model, optimizer) == before
    assert optimizer.param_groups[0]["lr"] == 0.1


# What it measures.


def timed(cost, model):
    """A step that takes `cost(samples)` seconds."""

    def step(batch):
        begin = time.perf_counter()
        step_of(model)(batch)
        while time.perf_counter() - begin < cost(len(batch[0])):
            pass

    return step


def test_the_fastest_is_not_the_largest():
    """Seconds per sample fall up to 8 and rise again beyond it."""
    model = torch.nn.Linear(3, 1)
    cost = {1: 0.004, 2: 0.005, 4: 0.006, 8: 0.008, 16: 0.03, 32: 0.08}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = ab.probe(timed(cost.get, model), ab.DataLoader(data(), batch_size=4), model, optimizer)
    assert [point.micro_batch_size for point in curve.points] == list(cost)
    for point in curve.points:
        assert cost[point.micro_batch_size] <= point.seconds < 2 * cost[point.micro_batch_size] + 0.002
    assert (curve.fastest, curve.largest, curve.stopped) == (8, 32, "maximum")
    assert curve.speedup([1, 8])[8] > 3
    assert Curve.from_json(json.loads(json.dumps(curve.to_json()))) == curve


def test_peak_bytes_are_what_tensors_take():
    model = torch.nn.Sequential(torch.nn.Linear(3, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = ab.probe(step_of(model), ab.DataLoader(data(), batch_size=8), model, optimizer)
    peaks = {point.micro_batch_size: point.peak_bytes for point in curve.points}
    assert curve.no_peak == ""
    for size in (8, 16, 32):  # two activations of 4,000 bytes a sample, and at least one gradient of them
        assert 2 * 4000 * size <= peaks[size] - 20_000 <= 4.2 * 4000 * size
    assert peak_bytes(lambda: torch.zeros(1000).add(1).sum(), torch.device("cpu")) >= 8000


def test_the_memory_budget():
    model = torch.nn.Sequential(torch.nn.Linear(3, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ab.DataLoader(data(), batch_size=8)
    whole = ab.probe(step_of(model), loader, model, optimizer)
    budget = int(1.2 * whole.points[3].peak_bytes)
    seen = []

    def step(batch):
        seen.append(len(batch[0]))
        step_of(model)(batch)

    curve = ab.probe(step, loader, model, optimizer, memory_budget=budget)
    assert (curve.largest, curve.stopped, curve.memory_budget) == (8, "memory", budget)
    assert max(seen) == 8, "what will not fit is not tried"
    with pytest.raises(ValueError, match="`memory_budget` must fit one micro-batch of 1 samples, got 10; use a small"):
        ab.probe(step_of(model), loader, model, optimizer, memory_budget=10)


def test_two_sizes_foretell_the_next():
    """Bytes grow by the same amount for each sample, beside what every pass takes."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ab.DataLoader(data(), batch_size=8)
    peaks = {p.micro_batch_size: p.peak_bytes for p in ab.probe(step_of(model), loader, model, optimizer).points}
    assert peaks[16] - peaks[8] == pytest.approx(2 * (peaks[8] - peaks[4]), rel=0.01)

    for share, largest in ((0.99, 8), (1.01, 16)):
        seen = []

        def step(batch, share=share, seen=seen):  # the share makes it one of its own for the cache
            seen.append(len(batch[0]))
            step_of(model)(batch)

        curve = ab.probe(step, loader, model, optimizer, memory_budget=int(share * peaks[16]))
        assert (curve.largest, max(seen)) == (largest, largest)


def test_the_least_disturbed_turn_counts():
    """Of five turns the second is left alone."""
    model, calls = torch.nn.Linear(3, 1), []

    def step(batch):
        step_of(model)(batch)
        calls.append(len(batch[0]))
        alone = calls.count(1) <= 3 or calls.count(1) == 5  # three passes find out whether the size fits
        time.sleep(0.025 if alone else 0.3)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = ab.probe(step, ab.DataLoader(data(), batch_size=8), model, optimizer, maximum=1)
    assert calls.count(1) == 8
    assert 0.025 <= curve.points[0].seconds < 0.25


def test_out_of_memory_ends_the_search():
    model = torch.nn.Linear(3, 1)

    def step(batch):
        if len(batch[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step_of(model)(batch)

    curve = ab.probe(step, ab.DataLoader(data(), batch_size=8), model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert (curve.largest, curve.stopped) == (8, "memory")


def test_batch_norm_begins_with_two():
    model = network()
    curve = ab.probe(
        step_of(model),
        ab.DataLoader(data(), batch_size=8),
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        maximum=4,
    )
    assert [point.micro_batch_size for point in curve.points] == [2, 4]


def test_an_optimizer_step_within_the_step_is_told_apart():
    class Slow(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            time.sleep(0.02)

    model = torch.nn.Linear(3, 1)
    optimizer = Slow(model.parameters(), lr=0.1)

    def step(batch):
        optimizer.zero_grad()
        step_of(model)(batch)
        optimizer.step()

    curve = ab.probe(step, ab.DataLoader(data(), batch_size=8), model, optimizer, maximum=2)
    assert 0.02 <= curve.update_seconds < 0.04
    assert all(point.seconds < 0.012 for point in curve.points)


# Cache.


def test_the_cache(tmp_path):
    model, calls = torch.nn.Linear(3, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ab.DataLoader(data(), batch_size=8)

    def step(batch):
        calls.append(len(batch[0]))
        step_of(model)(batch)

    def probe(model=model, loader=loader, **arguments):
        calls.clear()
        return ab.probe(step, loader, model, optimizer, **arguments), bool(calls)

    first, measured = probe(maximum=8, memory_budget=2**30)
    assert measured
    assert probe(maximum=8, memory_budget=2**30) == (first, False)
    smaller, measured = probe(maximum=4, memory_budget=2**30)
    assert (smaller.points, smaller.stopped, measured) == (first.points[:3], "maximum", False)
    tight, measured = probe(maximum=8, memory_budget=first.points[1].peak_bytes)
    assert (tight.largest, tight.stopped, measured) == (first.points[1].micro_batch_size, "memory", False)
    assert probe(maximum=16, memory_budget=2**30)[1], "no larger size was kept"
    other = ab.DataLoader(data(), batch_size=4)
    assert not probe(loader=other, maximum=16, memory_budget=2**30)[1], "another loader of the same shapes"
    model.bias.requires_grad_(False)
    assert probe(maximum=8)[1], "another model"
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2
    files[0].write_text("{")
    files[1].write_text("[]")
    assert probe(maximum=8)[1], "a damaged file is measured anew"


def test_what_the_key_depends_on():
    model = torch.nn.Linear(3, 1)

    def key(step=None, model=model, shapes=("a",), ranks=1):
        return _cached.key(step or step_of(model), model, [], list(shapes), torch.device("cpu"), ranks)

    ours = key()
    assert ours == key(step=step_of(torch.nn.Linear(3, 1)))
    others = [key(step=timed(float, model)), key(model=torch.nn.Linear(3, 2)), key(shapes=("b",)), key(ranks=2)]
    assert len({ours, *others}) == 5

    def passes(count, scale):
        def step(batch, times=count):
            for _ in range(times):
                model(batch[0]).sum().mul(scale).backward()

        return step

    def twice(batch):
        for _ in range(2):
            model(batch[0])

    def often(batch):
        for _ in range(50):
            model(batch[0])

    steps = [passes(1, 1.0), passes(50, 1.0), passes(1, 2.0), twice, often]
    assert len({key(step=step) for step in steps}) == 5
    assert key(step=passes(1, 2.0)) == key(step=passes(1, 2.0))


# The curve.


def test_seconds_against_every_cut():
    curve = Curve((Point(1, 1.0, None), Point(2, 1.5, None), Point(4, 2.0, None)), 0.5, 2, None, "maximum")
    passes = {1: 1.0, 2: 1.5, 3: 1.75, 4: 2.0}
    best = {0: 0.0}
    for size in range(1, 30):
        best[size] = min(best[size - part] + passes[part] for part in passes if part <= size)
        assert best[size] <= curve.seconds(size) <= best[size] + 0.5
    assert curve.seconds(8) == 4.0
    assert curve.speedup([2, 8]) == {2: 1.0, 8: pytest.approx((8 / 2.5) / (2 / 1.5))}
    with pytest.raises(ValueError, match="`batch_sizes` must name at least one batch size, got none"):
        curve.speedup([])


# Samples.


def test_micro_batches_of_any_size():
    batch = {"x": torch.arange(3), "words": ["a", "b", "c"], "scale": torch.tensor(2.0), "deep": (torch.eye(3), "text")}
    larger = resized(batch, 3, 4)
    assert larger["x"].tolist() == [0, 1, 2, 0]
    assert larger["words"] == ["a", "b", "c", "a"]
    assert larger["deep"][0].shape == (4, 3)
    assert larger["scale"] is batch["scale"]
    assert maker(lambda size: size)(5) == 5
    assert len(maker([torch.zeros(3, 2)])(7)) == 7


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (iter([torch.zeros(2)]), TypeError, "must be one that can be iterated again, got an iterator"),
        (3, TypeError, "must be a loader or a function from a size to a batch, got int"),
        ([], ValueError, "must yield at least one batch, got none"),
        ([torch.zeros(0, 3)], ValueError, "batches of at least one sample"),
        ([{"a": 3}], TypeError, "must yield batches with tensors, got dict"),
    ],
)
def test_bad_loaders(loader, error, message):
    with pytest.raises(error, match=message):
        maker(loader)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"step": 3}, TypeError, "`step` must be a function of a batch, got int"),
        ({"optimizer": 3}, TypeError, "`optimizer` must be a torch.optim.Optimizer or a list of them, got int"),
        ({"maximum": 0}, ValueError, "`maximum` must be at least 1, got 0"),
        ({"memory_budget": 0}, ValueError, "`memory_budget` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"step": step_of(model), "loader": ab.DataLoader(data(), batch_size=4), "optimizer": optimizer} | arguments
    with pytest.raises(error, match=message):
        ab.probe(given.pop("step"), given.pop("loader"), model, given.pop("optimizer"), **given)


def test_a_loader_within_an_iteration():
    model, loader = torch.nn.Linear(3, 1), ab.DataLoader(data(), batch_size=4)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    ab.probe(step_of(model), loader, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert loader.state_dict() == state
    assert torch.equal(next(iterator)[0], data().tensors[0][4:8])


def test_free_memory():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_bytes(torch.device("meta")) is None


# Ranks.


def on_each_rank(rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    check_rank(rank, world)
    check_free(rank, world)
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    gc.collect()


def check_rank(rank, world):
    model = network()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = ab.DataLoader(data(), batch_size=8, shuffle=True, seed=0)
    before = everything(model, optimizer)

    def step(batch):
        if rank == 1 and len(batch[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step_of(wrapped)(batch)
        time.sleep(0.004 * rank)

    found = [None] * world
    for measured in (True, False):
        curve = ab.probe(step, loader, wrapped, optimizer)
        dist.all_gather_object(found, curve)
        assert found[0] == found[1], measured
        assert (curve.largest, curve.stopped, curve.ranks) == (8, "memory", 2)
        assert curve.points[0].seconds >= 0.004, "the slowest rank's"
        assert everything(model, optimizer) == before
    assert math.isfinite(curve.speedup([4, 16])[16])


def check_free(rank, world):
    """The budget is what the rank with the least memory has; on one machine all have the same, so it is told here."""
    model = torch.nn.Linear(3, 2)
    _probe.free_bytes = lambda _device: (rank + 1) * 2**30
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = ab.probe(step_of(model), ab.DataLoader(data(), batch_size=8), model, optimizer, maximum=1)
    assert curve.memory_budget == 2**30


@pytest.mark.world_size(2)
def test_ranks_agree(tmp_path):
    mp.spawn(on_each_rank, args=(2, str(tmp_path / "store")), nprocs=2)


def test_an_epoch_left_early_stays_left():
    def batches(probed, make):
        loader, model = make(), torch.nn.Linear(3, 1)
        for _ in ab.accumulate(loader, model):
            break
        if probed:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            ab.probe(step_of(model), loader, model, optimizer, maximum=4)
        count = sum(1 for _ in loader.parts())
        return count, loader.epoch, loader.clock

    def ours():
        return ab.DataLoader(data(), 8, seed=0)

    def theirs():
        return ab.micro_batches(DataLoader(data(), 8, shuffle=True, generator=torch.Generator()), batch_size=8)

    for make in (ours, theirs):
        assert batches(True, make) == batches(False, make)


def test_what_only_the_optimizer_knows_is_left_alone():
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["step"] = group.get("step", 0) + 1
            return super().step(closure)

    model, head = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    optimizer = Counting([*model.parameters(), *head.parameters()], lr=0.1)
    before = head.weight.detach().clone()
    ab.probe(lambda batch: head(model(batch[0])).sum().backward(), DataLoader(data(), 4), model, optimizer, maximum=4)
    assert "step" not in optimizer.param_groups[0]
    assert head.weight.grad is None
    assert torch.equal(head.weight, before)


def test_partials_optimizers_and_settings_of_modules_have_curves_of_their_own():
    def keys(step, model, optimizers):
        return _cached.key(step, model, optimizers, ["a"], torch.device("cpu"), 1)

    def step(batch, times):
        return batch * times

    class Callable:
        def __init__(self, times):
            self.times = times

        def __call__(self, batch):
            return batch

    class Other(Callable):
        def __call__(self, batch):
            return batch * 2

    model, flagged = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    flagged.checkpointing = True
    adam, sgd, fused = (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.optim.SGD(model.parameters(), lr=0.1, fused=True),
    )
    found = [
        keys(functools.partial(step, times=2), model, [sgd]),
        keys(functools.partial(step, times=3), model, [sgd]),
        keys(functools.partial(Callable(1), 3), model, [sgd]),
        keys(Callable(1), model, [sgd]),
        keys(Other(1), model, [sgd]),
        keys(step, model, [sgd]),
        keys(step, model, [adam]),
        keys(step, model, [fused]),
        keys(step, flagged, [sgd]),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == keys(functools.partial(step, times=2), torch.nn.Linear(3, 1), [sgd])
