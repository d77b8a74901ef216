import copy
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.checks import source_of
from torch.utils.data import DistributedSampler, Subset, TensorDataset, default_collate

from adabatch import schedules, units
from adabatch.data import DataLoader
from adabatch.data.order import permute
from adabatch.types import Batch, DrivenLoader


class Squares:
    """A map-style data set without any fast path."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, item):
        return {"item": item, "square": torch.tensor(item) ** 2, "name": f"s{item}"}


class Plan:
    """A driver with sizes by clock: the first of (start, size) pairs whose start is not above it, from the end."""

    plan = None

    def __init__(self, *starts, size, drop_last=False):
        self.starts, self.size, self.drop_last, self.refuse, self.checks = starts, size, drop_last, None, 0

    def batch_size_at(self, clock):
        return [size for start, size in self.starts if start <= clock][-1]

    def batches_between(self, start, stop):
        count = 0
        while start < stop:
            size = self.batch_size_at(start)
            if self.drop_last and stop - start < size:
                break
            start, count = start + size, count + 1
        return count

    def check_next(self, *, begins=False):
        self.checks += 1
        if self.refuse:
            raise RuntimeError(self.refuse)


def order(size, seed=0, epoch=0):
    return permute(np.arange(size), size=size, seed=seed, epoch=epoch).tolist()


def ranked(world, **arguments):
    """One loader for each of `world` ranks, in one process."""
    loaders = [DataLoader(**arguments) for _ in range(world)]
    for rank, loader in enumerate(loaders):
        loader._supply.sharing = lambda rank=rank: (None, rank, world)
    return loaders


def test_an_epoch_is_the_order_of_seed_and_epoch():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=3)
    for epoch in range(3):
        assert loader.epoch == epoch
        batches = list(loader)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert torch.cat(batches).tolist() == order(10, 3, epoch)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_requested_size_is_delivered_and_every_sample_once(data):
    size = data.draw(st.integers(1, 40))
    mode = data.draw(st.sampled_from(["short", "drop_last", "run_on"]))
    loader = DataLoader(torch.arange(size), size, shuffle=True, seed=1, **({mode: True} if mode != "short" else {}))
    expected = [item for epoch in range(8) for item in order(size, 1, epoch)]
    clock = 0
    for epoch in range(3):
        assert loader.epoch == epoch
        loader.batch_size = requested = data.draw(st.integers(1, size))
        seen = []
        for batch in loader:
            delivered = requested if mode != "short" else min(requested, (epoch + 1) * size - clock)
            assert batch.tolist() == expected[clock : clock + delivered]
            seen += batch.tolist()
            clock += delivered
            loader.batch_size = requested = data.draw(st.integers(1, size))
        if mode == "drop_last":
            assert size - len(seen) < requested
            clock = (epoch + 1) * size
        assert loader.clock == clock
    assert clock >= 3 * size


def test_collation_is_torchs():
    loader = DataLoader(Squares(5), 2, seed=0)
    batch = next(iter(loader))
    assert batch["item"].tolist() == [0, 1]
    assert batch["square"].tolist() == [0, 1]
    assert batch["name"] == ["s0", "s1"]
    columns = next(iter(DataLoader(TensorDataset(torch.arange(6), torch.ones(6, 2)), 3)))
    reference = next(iter(torch.utils.data.DataLoader(TensorDataset(torch.arange(6), torch.ones(6, 2)), 3)))
    assert type(columns) is type(reference) is list
    assert all(torch.equal(a, b) for a, b in zip(columns, reference, strict=True))


def test_tensor_sets_are_read_without_a_call_per_sample():
    class Counting(TensorDataset):
        calls = 0

        def __getitem__(self, item):
            Counting.calls += 1
            return super().__getitem__(item)

    assert len(next(iter(DataLoader((torch.arange(6), torch.ones(6)), 3)))) == 2
    next(iter(DataLoader(Counting(torch.arange(6)), 3)))
    assert Counting.calls == 3  # a set with a `__getitem__` of its own keeps it
    many = DataLoader(Subset(TensorDataset(torch.arange(6)), [5, 4, 3]), 3)
    assert next(iter(many))[0].tolist() == [5, 4, 3]


def test_collate_fn_gets_the_samples():
    loader = DataLoader((torch.arange(4), torch.arange(4) * 2), 2, collate_fn=lambda samples: samples)
    assert next(iter(loader)) == [(0, 0), (1, 2)]
    assert loader.collate_fn([1]) == [1]
    assert DataLoader(torch.arange(3)).collate_fn is default_collate


def test_the_seed_is_drawn_once_from_torchs_generator():
    torch.manual_seed(5)
    first, second = DataLoader(torch.arange(9), shuffle=True), DataLoader(torch.arange(9), shuffle=True)
    torch.manual_seed(5)
    again = DataLoader(torch.arange(9), shuffle=True)
    assert first.seed == again.seed != second.seed
    generator = torch.Generator().manual_seed(5)
    assert DataLoader(torch.arange(9), generator=generator).seed == first.seed


def test_len_is_the_number_of_batches():
    assert len(DataLoader(torch.arange(10), 4)) == 3
    assert len(DataLoader(torch.arange(10), 4, drop_last=True)) == 2
    loader = DataLoader(torch.arange(10), 4, run_on=True)
    for _ in range(4):
        expected = len(loader)
        assert len(list(loader)) == expected
    loader = DataLoader(torch.arange(10), 4)
    iterator = iter(loader)
    next(iterator)
    assert len(loader) == 3
    loader.batch_size = 2
    with pytest.raises(TypeError, match="no length"):
        len(loader)
    assert loader  # though it has no length
    assert len(list(iterator)) == 3
    assert len(loader) == 5


def test_leaving_early_skips_the_rest_of_the_epoch():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    for _ in loader:
        break
    assert (loader.epoch, len(loader)) == (1, 3)
    assert torch.cat(list(loader)).tolist() == order(10, 0, 1)
    assert loader.epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_iterations_without_a_schedule_are_independent(workers):
    loader = DataLoader(torch.arange(6) if not workers else list(range(6)), 2, num_workers=workers)
    assert [(a.tolist(), b.tolist()) for a, b in zip(loader, loader, strict=True)] == [
        ([0, 1], [0, 1]),
        ([2, 3], [2, 3]),
        ([4, 5], [4, 5]),
    ]
    assert [(a[0].item(), b[0].item()) for a in loader for b in loader] == [
        (a, b) for a in (0, 2, 4) for b in (0, 2, 4)
    ]
    first = iter(loader)
    next(first)
    first.close()
    assert list(first) == []


def test_each_iteration_has_the_order_of_an_epoch_of_its_own():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    first, second = iter(loader), iter(loader)
    seen = [torch.cat(list(batches)).tolist() for batches in (second, first)]  # the order in which they begin
    assert seen == [order(10, 0, 0), order(10, 0, 1)]


def test_the_state_belongs_to_the_newest_iteration():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert loader.state_dict()["clock"] == 4  # it has not begun
    next(second)
    next(first)
    assert loader.state_dict()["clock"] == 14
    next(second)
    assert loader.state_dict()["clock"] == 18


def test_workers_that_persist_serve_one_iteration_as_torchs():
    loader = DataLoader(list(range(6)), 2, num_workers=2, persistent_workers=True)
    held = iter(loader)
    assert iter(loader) is held
    found = [(a.tolist(), b.tolist()) for a, b in zip(loader, loader, strict=False)]
    torchs = torch.utils.data.DataLoader(list(range(6)), 2, num_workers=2, persistent_workers=True)
    assert found == [(a.tolist(), b.tolist()) for a, b in zip(torchs, torchs, strict=False)]
    held = iter(loader)
    next(held)
    pids = source_of(loader).held.pool.pids()
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert source_of(loader).held.pool.pids() == pids


def test_a_second_iteration_of_a_driven_loader_says_what_to_use():
    loader = DataLoader(torch.arange(10), 4)
    loader.attach(Plan((0, 4), size=10))
    first, second = iter(loader), iter(loader)
    next(first)
    loader.commit()
    with pytest.raises(RuntimeError, match="evaluate with another loader; this one drives the schedule"):
        next(second)
    assert len(list(first)) == 2


def test_a_driver_gives_the_size_at_each_batch_start():
    loader = DataLoader(torch.arange(20), 4)
    assert isinstance(loader, DrivenLoader)
    plan = Plan((0, 4), (8, 7), (20, 2), size=20)
    loader.attach(plan)
    assert len(loader) == 4
    sizes = []
    for batch in loader:
        sizes.append(len(batch))
        assert loader.current.size == len(batch) == loader.current.rank_size
        assert loader.batch_size == loader.current.requested
        assert loader.clock == loader.current.clock
        loader.commit()
        assert loader.current is None
    assert sizes == [4, 4, 7, 5]
    assert (loader.clock, loader.epoch, loader.batch_size, len(loader)) == (20, 1, 2, 10)
    loader.detach()
    assert loader.batch_size == 2
    loader.batch_size = 3


def test_a_driver_with_drop_last_passes_what_is_dropped():
    loader = DataLoader(torch.arange(10), 4, drop_last=True)
    loader.attach(Plan((0, 4), (10, 5), size=10, drop_last=True))
    iterator = iter(loader)
    next(iterator)
    assert loader.current == Batch(clock=0, end=4, epoch=0, requested=4, size=4, rank_size=4)
    next(iterator)
    assert loader.current == Batch(clock=4, end=10, epoch=0, requested=4, size=4, rank_size=4)
    loader.commit()
    assert (loader.clock, loader.epoch, loader.batch_size) == (10, 1, 5)
    assert next(iterator, None) is None
    assert [len(batch) for batch in loader] == [5, 5]


def test_the_driver_is_asked_before_the_next_batch_the_end_and_the_next_iteration():
    loader = DataLoader(torch.arange(8), 4)
    plan = Plan((0, 4), size=8)
    loader.attach(plan)
    iterator = iter(loader)
    next(iterator)
    assert plan.checks == 1
    plan.refuse = "step is missing"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="step is missing"):
            next(iterator)
    assert loader.clock == 0
    plan.refuse = None
    loader.commit()
    next(iterator)
    assert loader.clock == 4
    plan.refuse = "step is missing"
    with pytest.raises(RuntimeError, match="step is missing"):
        next(iterator)
    iterator.close()
    with pytest.raises(RuntimeError, match="step is missing"):
        next(iter(loader))
    plan.refuse = None
    for _ in loader:
        loader.commit()
    assert loader.epoch == 2


def test_parts_cut_each_batch_evenly_and_fetch_as_they_go():
    fetched = []

    def collate(samples):
        fetched.append(samples)
        return samples

    loader = DataLoader(list(range(20)), 14, collate_fn=collate, micro_batch_size=4)
    parts = loader.parts()
    data, part = next(parts)
    assert (len(data), part.index, part.count, part.size, part.is_last) == (3, 0, 4, 3, False)
    assert loader.part is part
    assert len(fetched) == 1
    assert loader.clock == 0
    assert [part.size for _, part in parts] == [4, 3, 4, 3, 3]
    assert [item for samples in fetched for item in samples] == list(range(20))
    assert loader.clock == 20


def test_a_state_saved_inside_an_accumulation_repeats_the_batch():
    loader = DataLoader(torch.arange(20), 8, micro_batch_size=3)
    parts = loader.parts()
    for _ in range(5):
        next(parts)
    resumed = DataLoader(torch.arange(20), 8, micro_batch_size=8)
    resumed.load_state_dict(loader.state_dict())
    data, part = next(resumed.parts())
    assert (data.tolist(), part.batch.clock) == (list(range(8, 16)), 8)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranks_share_each_batch_and_run_as_many_parts(data):
    size, world = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    batch_size = data.draw(st.integers(1, size))
    micro = data.draw(st.none() | st.integers(1, size))
    run_on = data.draw(st.booleans())
    loaders = ranked(
        world,
        dataset=torch.arange(size),
        batch_size=batch_size,
        micro_batch_size=micro,
        seed=2,
        shuffle=True,
        run_on=run_on,
    )
    expected = [item for epoch in range(4) for item in order(size, 2, epoch)]
    for _ in range(2):
        for row in zip(*(loader.parts() for loader in loaders), strict=True):
            if row[0][1].index == 0:
                seen = []
            assert len({(part.index, part.count, part.batch.clock, part.batch.size) for _, part in row}) == 1
            for items, part in row:
                assert len(items) == max(part.size, 1)
                assert micro is None or part.size <= micro
                seen += items[: part.size].tolist()
            batch = row[0][1].batch
            assert row[0][1].count == (1 if micro is None else math.ceil(math.ceil(batch.size / world) / micro))
            if row[0][1].is_last:
                assert sorted(seen) == sorted(expected[batch.clock : batch.clock + batch.size])


def test_uneven_shares_in_a_plain_loop_raise_before_the_first_batch():
    for loader in ranked(2, dataset=torch.arange(12), batch_size=3):
        with pytest.raises(
            ValueError, match=r"a batch of 3 samples does not divide over 2 ranks.*round_to.*accumulate"
        ):
            next(iter(loader))
    for loader in ranked(2, dataset=torch.arange(11), batch_size=4):
        with pytest.raises(ValueError, match=r"of 3 samples.*drop_last.*accumulate"):
            next(iter(loader))
    first, second = ranked(2, dataset=torch.arange(11), batch_size=4, drop_last=True)
    assert [batch.tolist() for batch in first] == [[0, 2], [4, 6]]
    assert [batch.tolist() for batch in second] == [[1, 3], [5, 7]]
    first.batch_size = 2
    iterator = iter(first)
    next(iterator)
    first.batch_size = 3
    with pytest.raises(ValueError, match="does not divide over 2 ranks"):
        next(iterator)
    driven = ranked(2, dataset=torch.arange(12), batch_size=4)[0]
    plan = Plan((0, 4), (12, 3), size=12)
    plan.plan = plan
    plan.sizes, plan.tails = (3, 4), ()
    driven.attach(plan)
    with pytest.raises(ValueError, match="a batch of 3 samples"):
        next(iter(driven))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_resumed_run_delivers_the_same_batches(data):
    size = data.draw(st.integers(2, 40))
    mode = data.draw(st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]))
    batch_size = data.draw(st.integers(1, size))
    sizes = data.draw(st.lists(st.integers(1, size), min_size=12, max_size=12))
    stop = data.draw(st.integers(0, 11))

    def run(loader, first, last):
        batches = []
        update = first
        while update < last:
            for batch in loader:
                batches.append(batch.tolist())
                loader.batch_size = sizes[update]
                update += 1
                if update == last:
                    break
        return batches

    def make(seed):
        return DataLoader(torch.arange(size), batch_size, shuffle=True, seed=seed, **mode)

    whole = run(make(4), 0, 12)
    begun = make(4)
    before = run(begun, 0, stop)
    state = json.loads(json.dumps(begun.state_dict()))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    resumed = make(None)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert before + run(resumed, stop, 12) == whole


def test_a_state_of_something_else_is_refused_with_the_difference():
    state = DataLoader(torch.arange(10), 4, shuffle=True, seed=1).state_dict()
    assert next(iter(state)) == "format"
    with pytest.raises(ValueError, match="`dataset_size` is 10 there and 11 here"):
        DataLoader(torch.arange(11), 4, shuffle=True, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="`seed` is 1 there and 2 here, `shuffle` is True there and False here"):
        DataLoader(torch.arange(10), 4, seed=2).load_state_dict(state)
    drawn = DataLoader(torch.arange(10), 2, shuffle=True)
    drawn.load_state_dict(state)
    assert (drawn.seed, drawn.batch_size) == (1, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 1, got format 99"),
        ({"clock": None}, "`clock` must be a whole number of at least 0, got None"),
        ({"clock": -1}, "`clock` must be a whole number of at least 0, got -1"),
        ({"clock": True}, "`clock` must be a whole number of at least 0, got True"),
        ({"batch_size": True}, "`batch_size` must be a whole number of at least 0, got True"),
        ({"seed": True}, "`seed` must be a whole number of at least 0, got True"),
        ({"shuffle": 1}, "`shuffle` must be True or False, got 1"),
        ({"batch_size": 11}, "`batch_size` must be at most"),
        ({"seed": ...}, "`seed` is missing"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change, message):
    loader = DataLoader(torch.arange(10), 4, seed=1)
    next(iter(loader))
    before = loader.state_dict()
    state = {key: value for key, value in {**before, **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)
    assert loader.state_dict() == before
    with pytest.raises(TypeError, match="dict from `state_dict"):
        loader.load_state_dict([])


def test_states_are_not_loaded_in_the_middle_of_training():
    loader = DataLoader(torch.arange(10), 4, seed=1)
    iterator = iter(loader)
    state = loader.state_dict()
    next(iterator)
    loader.load_state_dict(state)
    assert list(iterator) == []  # it belonged to another course
    assert next(iter(loader)).tolist() == [0, 1, 2, 3]
    loader.load_state_dict(state)
    loader.attach(Plan((0, 4), size=10))
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(state)  # nothing was trained on
    with pytest.raises(RuntimeError, match="must not go on after a later one was trained on, or a state was loaded"):
        next(iterator)
    iterator = iter(loader)
    next(iterator)
    loader.commit()
    with pytest.raises(RuntimeError, match="load it before the loop"):
        loader.load_state_dict(state)


def test_set_epoch_moves_an_undriven_loader_only():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    loader.set_epoch(0)
    loader.set_epoch(3)
    assert torch.cat(list(loader)).tolist() == order(10, 0, 3)
    loader.attach(Plan((0, 4), size=10))
    loader.set_epoch(4)
    with pytest.raises(ValueError, match=r"`epoch` must be 4.*got 6"):
        loader.set_epoch(6)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(RuntimeError, match="before the loop"):
        loader.set_epoch(4)
    del iterator


def test_a_sample_that_raises_loses_nothing():
    class Flaky(Squares):
        broken = True

        def __getitem__(self, item):
            if item == 5 and Flaky.broken:
                raise OSError("disk")
            return item

    for micro in (None, 2):
        Flaky.broken = True
        loader = DataLoader(Flaky(10), 4, micro_batch_size=micro)
        batches = iter(loader) if micro is None else (data for data, _ in loader.parts())
        seen = [next(batches).tolist() for _ in range(1 if micro is None else 2)]
        assert [item for items in seen for item in items] == [0, 1, 2, 3]
        with pytest.raises(OSError, match="disk"):
            next(batches)
        del batches
        Flaky.broken = False
        assert torch.cat(list(loader)).tolist() == [4, 5, 6, 7, 8, 9]
        assert loader.epoch == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": -4}, ValueError, "`batch_size` must be at least 1, got -4"),
        ({"batch_size": 2.5}, TypeError, r"`batch_size` must be a whole number, got 2\.5"),
        ({"batch_size": True}, TypeError, "`batch_size` must be a whole number, got True"),
        ({"batch_size": 11}, ValueError, "`batch_size` must be at most the data set's 10 samples, got 11"),
        ({"micro_batch_size": 0}, ValueError, "`micro_batch_size` must be at least 1"),
        ({"micro_batch_size": 11}, ValueError, "`micro_batch_size` must be at most"),
        ({"shuffle": 2}, TypeError, "`shuffle` must be True or False, got 2"),
        ({"drop_last": True, "run_on": True}, ValueError, "`drop_last` and `run_on`"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "`seed` and `generator`"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"num_workers": -1}, ValueError, "`num_workers` must be at least 0"),
        ({"timeout": -1}, ValueError, "`timeout` must be at least 0"),
        ({"prefetch_factor": 2}, ValueError, "`prefetch_factor` needs `num_workers`"),
        ({"persistent_workers": True}, ValueError, "`persistent_workers` needs `num_workers`"),
        (
            {"batch_sampler": [[1]], "batch_size": 4},
            ValueError,
            "`batch_size` must be left out with `batch_sampler`, got 4",
        ),
        ({"batch_sampler": [[1]], "batch_size": 1, "drop_last": True}, ValueError, "`drop_last` must be left out"),
        ({"batch_size": None, "drop_last": True}, ValueError, "`drop_last` must be left out with `batch_size=None`"),
        ({"batch_size": None, "micro_batch_size": 2}, ValueError, "`micro_batch_size` must be left out"),
        ({"sampler": DistributedSampler(range(10), 2, 0)}, ValueError, "must not be a DistributedSampler"),
        ({"group": 1, "mesh": 2}, ValueError, "`group` and `mesh`"),
        ({"dataset": []}, ValueError, "`dataset` must hold at least one sample"),
        ({"dataset": object()}, TypeError, "`dataset` must have a length"),
        ({"dataset": (torch.ones(3), torch.ones(2))}, ValueError, "tensors of one length, got 3, 2"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        iter(DataLoader(**{"dataset": torch.arange(10), **arguments}))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", 11])
def test_bad_sizes_are_refused_and_the_old_one_stays(value):
    loader = DataLoader(torch.arange(10), 4)
    with pytest.raises((TypeError, ValueError), match="`batch_size` must be"):
        loader.batch_size = value
    assert loader.batch_size == 4
    loader.attach(Plan((0, 4), size=10))
    with pytest.raises(ValueError, match="while a schedule drives this loader"):
        loader.batch_size = 2
    with pytest.raises(ValueError, match="driven by another scheduler"):
        loader.attach(Plan((0, 4), size=10))
    with pytest.raises(RuntimeError, match="`commit` needs a batch"):
        loader.commit()


def test_it_has_the_attributes_of_torchs_loader():
    theirs = torch.utils.data.DataLoader(list(range(6)), 2)
    ours = DataLoader(list(range(6)), 2)
    for name in vars(theirs):
        if not name.startswith("_"):
            assert hasattr(ours, name), name
    assert list(ours.sampler) == list(theirs.sampler)
    assert not isinstance(ours, torch.utils.data.DataLoader)


def test_copies_go_their_own_way():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=1)
    iterator = iter(loader)
    next(iterator)
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert (other.clock, other.epoch) == (4, 0)  # it goes on as a loaded state does
        assert torch.cat(list(other)).tolist() == order(10, 1)[4:]
    assert torch.cat(list(iterator)).tolist() == order(10, 1)[4:]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_plan_and_the_loader_agree_on_every_batch(data):
    size, epochs = data.draw(st.integers(4, 40)), data.draw(st.integers(1, 5))
    mode = data.draw(st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]))
    start = data.draw(st.integers(1, size // 2))
    schedule = schedules.geometric(
        2, units.epochs(data.draw(st.sampled_from([0.5, 1, 1.3]))), start=start, maximum=size
    )
    plan = schedule.plan(dataset_size=size, epochs=epochs, **mode)

    class Driver(Plan):
        def __init__(self):
            super().__init__(size=size)
            self.plan = plan

        def batch_size_at(self, clock):
            return plan.batch_size_at(min(clock, plan.end_samples))

        def batches_between(self, start, stop):
            return plan.batches_between(start, stop)

    loader = DataLoader(torch.arange(size), start, **mode)
    loader.attach(Driver())
    found = []
    for _ in range(epochs):
        expected = len(loader)
        before = len(found)
        for batch in loader:
            now = loader.current
            assert len(batch) == now.size
            found.append((now.clock, now.end, now.epoch, now.requested, now.size))
            loader.commit()
        assert len(found) - before == expected
    planned = [plan.batch(update) for update in range(plan.updates)]
    assert found == [(one.clock, one.end, one.epoch, one.requested, one.size) for one in planned]


def test_a_size_assigned_inside_an_accumulation_holds_behind_the_batch_that_is_repeated():
    def loader():
        return DataLoader(torch.arange(28), batch_size=4, micro_batch_size=2)

    unbroken = loader()
    sizes, saved = [], None
    for _, part in unbroken.parts():
        if part.is_last:
            sizes.append(part.batch.size)
        elif part.batch.clock == 4:
            unbroken.batch_size = 8
            saved = json.loads(json.dumps(unbroken.state_dict()))
    assert sizes == [4, 4, 8, 8, 4]
    assert (saved["clock"], saved["batch_size"], saved["next_batch_size"]) == (4, 4, 8)
    resumed = loader()
    resumed.load_state_dict(saved)
    again = resumed.state_dict()
    assert [part.batch.size for _, part in resumed.parts() if part.is_last] == [4, 8, 8, 4]
    assert again == saved
    assigned = loader()
    assigned.load_state_dict(saved)
    assigned.batch_size = 12  # as ever for the very next batch
    assert [len(batch) for batch in assigned] == [12, 12]
    with pytest.raises(ValueError, match="`batch_size` must be at most the data set's 28 samples, got 29"):
        loader().load_state_dict(saved | {"next_batch_size": 29})
