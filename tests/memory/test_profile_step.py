"""`ab.profile_step`: what it measures, and that ranks agree."""

from __future__ import annotations

import gc
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from tests.memory.checks import data, everything, network, step_of, timed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import adabatch as ab
from adabatch.memory import StepProfile, _profile_step
from adabatch.memory._profile_step import all_bytes, free_bytes, maker, peak_bytes, resized

# What it measures.


def test_the_fastest_is_not_the_largest(monkeypatch):
    """Seconds per sample fall up to 8 and rise again beyond it, by a clock that nothing else moves."""
    clock = [0.0]
    monkeypatch.setattr(_profile_step, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    model = torch.nn.Linear(3, 1)
    cost = {1: 0.004, 2: 0.005, 4: 0.006, 8: 0.008, 16: 0.03, 32: 0.08}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profile = ab.profile_step(timed(cost.get, model, clock), ab.DataLoader(data(), batch_size=4), model, optimizer)
    assert [point.micro_batch_size for point in profile.points] == list(cost)
    for point in profile.points:
        assert point.seconds == pytest.approx(cost[point.micro_batch_size])
    assert (profile.fastest, profile.largest, profile.stopped) == (8, 32, "maximum")
    assert profile.speedup([1, 8])[8] == pytest.approx(4)
    assert StepProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_peak_bytes_are_what_tensors_take():
    model = torch.nn.Sequential(torch.nn.Linear(3, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profile = ab.profile_step(step_of(model), ab.DataLoader(data(), batch_size=8), model, optimizer)
    peaks = {point.micro_batch_size: point.peak_bytes for point in profile.points}
    assert profile.no_peak == ""
    for size in (8, 16, 32):  # two activations of 4,000 bytes a sample, and at least one gradient of them
        assert 2 * 4000 * size <= peaks[size] - 20_000 <= 4.2 * 4000 * size
    assert peak_bytes(lambda: torch.zeros(1000).add(1).sum(), torch.device("cpu")) >= 8000


def test_the_memory_budget():
    model = torch.nn.Sequential(torch.nn.Linear(3, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ab.DataLoader(data(), batch_size=8)
    whole = ab.profile_step(step_of(model), loader, model, optimizer)
    budget = int(1.2 * whole.points[3].peak_bytes)
    seen = []

    def step(batch):
        seen.append(len(batch[0]))
        step_of(model)(batch)

    profile = ab.profile_step(step, loader, model, optimizer, memory_budget=budget)
    assert (profile.largest, profile.stopped, profile.memory_budget) == (8, "memory", budget)
    assert max(seen) == 8, "what will not fit is not tried"
    with pytest.raises(ValueError, match="`memory_budget` must fit one micro-batch of 1 samples, got 10; use a small"):
        ab.profile_step(step_of(model), loader, model, optimizer, memory_budget=10)


def test_two_sizes_foretell_the_next():
    """Bytes grow by the same amount for each sample, beside what every pass takes."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ab.DataLoader(data(), batch_size=8)
    peaks = {p.micro_batch_size: p.peak_bytes for p in ab.profile_step(step_of(model), loader, model, optimizer).points}
    assert peaks[16] - peaks[8] == pytest.approx(2 * (peaks[8] - peaks[4]), rel=0.01)

    for share, largest in ((0.99, 8), (1.01, 16)):
        seen = []

        def step(batch, share=share, seen=seen):  # the share makes it one of its own for the cache
            seen.append(len(batch[0]))
            step_of(model)(batch)

        profile = ab.profile_step(step, loader, model, optimizer, memory_budget=int(share * peaks[16]))
        assert (profile.largest, max(seen)) == (largest, largest)


def test_the_least_disturbed_turn_counts():
    """Of five turns the second is left alone."""
    model, calls = torch.nn.Linear(3, 1), []

    def step(batch):
        step_of(model)(batch)
        calls.append(len(batch[0]))
        alone = calls.count(1) <= 3 or calls.count(1) == 5  # three passes find out whether the size fits
        time.sleep(0.025 if alone else 0.3)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profile = ab.profile_step(step, ab.DataLoader(data(), batch_size=8), model, optimizer, maximum=1)
    assert calls.count(1) == 8
    assert 0.025 <= profile.points[0].seconds < 0.25


def test_out_of_memory_ends_the_search():
    model = torch.nn.Linear(3, 1)

    def step(batch):
        if len(batch[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step_of(model)(batch)

    profile = ab.profile_step(
        step, ab.DataLoader(data(), batch_size=8), model, torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert (profile.largest, profile.stopped) == (8, "memory")


def test_batch_norm_begins_with_two():
    model = network()
    profile = ab.profile_step(
        step_of(model),
        ab.DataLoader(data(), batch_size=8),
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        maximum=4,
    )
    assert [point.micro_batch_size for point in profile.points] == [2, 4]


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

    profile = ab.profile_step(step, ab.DataLoader(data(), batch_size=8), model, optimizer, maximum=2)
    assert 0.02 <= profile.update_seconds < 0.04
    assert all(point.seconds < 0.012 for point in profile.points)


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
        ab.profile_step(given.pop("step"), given.pop("loader"), model, given.pop("optimizer"), **given)


def test_a_loader_within_an_iteration():
    model, loader = torch.nn.Linear(3, 1), ab.DataLoader(data(), batch_size=4)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    ab.profile_step(step_of(model), loader, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert loader.state_dict() == state
    assert torch.equal(next(iterator)[0], data().tensors[0][4:8])


def test_free_memory():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_bytes(torch.device("meta")) is None


def test_all_memory(monkeypatch, tmp_path):
    """What is free counts among all; what this process has freed and keeps is not free, and still counts."""
    whole, free = all_bytes(torch.device("cpu")), free_bytes(torch.device("cpu"))
    assert whole is None or free is None or free <= whole
    assert all_bytes(torch.device("meta")) is None
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(_profile_step, "Path", lambda name: tmp_path if name == "/sys/fs/cgroup" else Path(name))
    assert (all_bytes(torch.device("cpu")), free_bytes(torch.device("cpu"))) in ((5000, 3000), (None, None))
    (tmp_path / "memory.max").write_text("max\n")
    assert all_bytes(torch.device("cpu")) in (None, whole), "none of the group's"


# Ranks.


def on_each_rank(rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    check_rank(rank, world)
    check_one_rank_without_memory(rank, world)
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
        profile = ab.profile_step(step, loader, wrapped, optimizer)
        dist.all_gather_object(found, profile)
        assert found[0] == found[1], measured
        assert (profile.largest, profile.stopped, profile.ranks) == (8, "memory", 2)
        assert profile.points[0].seconds >= 0.004, "the slowest rank's"
        assert everything(model, optimizer) == before
    assert math.isfinite(profile.speedup([4, 16])[16])


def check_one_rank_without_memory(rank, world):
    """Whether its very first pass fails, in which DDP shares buffers, or one that fitted before."""
    passes = []

    def first(size):
        return size == 2 and passes.count(2) == 1

    def later(size):
        return size == 8 and passes.count(8) > 4

    def update(size):
        return size > 4

    for fails, largest, steps in ((first, 32, False), (later, 4, False), (update, 4, True)):
        model = network()
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        passes.clear()

        def step(batch, fails=fails, wrapped=wrapped, optimizer=optimizer, steps=steps):
            passes.append(len(batch[0]))
            if rank == 1 and fails(len(batch[0])):
                raise torch.OutOfMemoryError("CUDA out of memory")
            step_of(wrapped)(batch)
            if steps:
                optimizer.step()

        before = everything(model, optimizer)
        profile = ab.profile_step(step, ab.DataLoader(data(), 8, seed=0), wrapped, optimizer, maximum=32)
        assert everything(model, optimizer) == before
        assert (profile.largest, profile.stopped) == (largest, "maximum" if largest == 32 else "memory"), fails
        every = [None] * world
        dist.all_gather_object(every, (profile, profile.fastest))
        assert every[0] == every[1]


def check_free(rank, world):
    """The budget is what the rank with the least memory has; on one machine all have the same, so it is told here."""
    model = torch.nn.Linear(3, 2)
    _profile_step.free_bytes = lambda _device: (2 - rank) * 2**30
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _kept in (False, True):
        profile = ab.profile_step(step_of(model), ab.DataLoader(data(), batch_size=8), model, optimizer, maximum=1)
        assert profile.memory_budget == 2**30


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_ranks_agree(tmp_path):
    spawn(on_each_rank, args=(2, str(tmp_path / "store")), nprocs=2)


def test_an_epoch_left_early_stays_left():
    def batches(probed, make):
        loader, model = make(), torch.nn.Linear(3, 1)
        for _ in ab.accumulate(loader, model):
            break
        if probed:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            ab.profile_step(step_of(model), loader, model, optimizer, maximum=4)
        count = sum(1 for _ in loader.parts())
        return count, loader.epoch, loader.clock

    def ours():
        return ab.DataLoader(data(), 8, seed=0)

    def theirs():
        return ab.micro_batches(DataLoader(data(), 8, shuffle=True, generator=torch.Generator()), batch_size=8)

    for make in (ours, theirs):
        assert batches(True, make) == batches(False, make)
