"""Streams as sources: walked by every reader, or shared out among them."""

import json
import warnings
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.checks import source_of
from tests.data.sets import SKIPS, Keeping, Plan, Sharing, Stateful, Stream, expected_of, items, ranked
from torch.utils.data import IterableDataset, get_worker_info

from adabatch.data import DataLoader


def new(make=Sharing, size=40, batch_size=4, workers=2):
    return DataLoader(make(size), batch_size, num_workers=workers, sharding="dataset", seed=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [3, 12])
def test_a_state_between_epochs_keeps_the_turn_of_a_reader(workers, first):
    loader = new(workers=workers)
    loader.batch_size = first  # before the first pass: the turn belongs to it
    assert len(items(loader))
    loader.batch_size = 8
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["stream"]["chunk"] == first
    resumed = new(workers=workers)
    resumed.load_state_dict(state)
    assert items(resumed) == items(loader)


def test_a_state_of_the_beginning_leaves_the_turn_open():
    def after(loader):
        loader.batch_size = 7
        return items(loader)

    state = new().state_dict()
    assert state["stream"]["chunk"] is None
    used, resumed = new(), new()
    items(used)
    for loader in (used, resumed):
        loader.load_state_dict(state)
    assert after(used) == after(resumed) == after(new())


class Failing(IterableDataset):
    """Sample 9 cannot be had the first time; `marks` tells where that is remembered."""

    def __init__(self, size, mark):
        self.size, self.mark, self.at = size, mark, 0

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for item in range(first, self.size, step):
            if item == 9 and not self.mark.exists():
                self.mark.touch()
                raise OSError("once")
            yield item


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("again", ["next", "iter"])
def test_going_on_after_an_error_loses_nothing(workers, again, tmp_path):
    def run(mark):
        loader = DataLoader(Failing(24, mark), 4, num_workers=workers, sharding="dataset", seed=0)
        iterator, found, errors = iter(loader), [], 0
        while True:
            try:
                found += next(iterator).tolist()
            except StopIteration:
                return found, errors
            except OSError:
                errors += 1
                iterator = iter(loader) if again == "iter" else iterator

    done = tmp_path / "done"
    done.touch()
    whole, _ = run(done)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SKIPS)
        assert run(tmp_path / "new") == (whole, 1)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_states_count_what_each_reader_gave(data):
    workers = data.draw(st.integers(0, 3))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    loader = new(Keeping, data.draw(st.integers(1, 30)), 4, workers)
    seen = []
    for batch in loader:
        seen += batch[0].tolist()
        if loader.clock:
            place = source_of(loader).place(loader.clock)
            assert sum(done for done, _, _ in place["readers"]) == len(seen)
            assert sum(done for done, _, _ in loader.state_dict()["stream"]["place"]["readers"]) == len(seen)
        loader.batch_size = sizes[len(seen) % len(sizes)]
    assert set(seen) == expected_of(loader.dataset.size, workers)


def test_an_iteration_that_broke_off_does_not_disturb_a_state_loaded_later(tmp_path):
    loader = DataLoader(Failing(24, tmp_path / "new"), 4, sharding="dataset", seed=0)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    with pytest.raises(OSError, match="once"):
        next(iterator)
    loader.load_state_dict(loader.state_dict())
    iterator.close()
    with pytest.warns(UserWarning, match=SKIPS):
        assert [item for batch in loader for item in batch.tolist()] == list(range(8, 24))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_epoch_keeps_few_places(workers):
    loader = new(Keeping, 2000, 4, workers)
    kept = [max(len(lane.marks) for lane in source_of(loader)._lanes) for _ in loader]
    assert len(kept) > 300
    assert max(kept) <= 8


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_size_is_delivered_and_each_sample_once(data):
    size = data.draw(st.integers(0, 40))
    drop_last = data.draw(st.booleans())
    loader = DataLoader(Stream(size), 5, drop_last=drop_last)
    for epoch in range(2):
        assert loader.epoch == epoch
        loader.batch_size = requested = data.draw(st.integers(1, 50))
        offset = 0
        for batch in loader:
            assert batch[0].tolist() == list(range(offset, min(offset + requested, size)))
            offset += len(batch[0])
            loader.batch_size = requested = data.draw(st.integers(1, 50))
        assert size - offset < requested if drop_last else offset == size
    assert loader.epoch == 2


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("noisy", [False, True])
def test_workers_read_each_sample_once_in_the_same_order(workers, noisy):
    def run(loader):
        found = []
        for _ in range(2):
            for batch in loader:
                found.append([column.tolist() for column in batch])
                loader.batch_size = [3, 11, 1, 7][len(found) % 4]
        return found

    reference = run(DataLoader(Stream(50, noisy), 5, seed=1))
    assert sum(len(batch[0]) for batch in reference) == 100
    assert (
        run(DataLoader(Stream(50, noisy), 5, seed=1, num_workers=workers, persistent_workers=workers == 2)) == reference
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_share_each_batch(data):
    size, world = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    batch_size, micro = data.draw(st.integers(1, 12)), data.draw(st.none() | st.integers(1, 6))
    loaders = ranked(world, lambda: DataLoader(Stream(size), batch_size, seed=2, micro_batch_size=micro))
    for _ in range(2):
        seen, whole = [], []
        for row in zip(*(loader.parts() for loader in loaders), strict=True):
            assert len({(part.index, part.count, part.batch.clock, part.batch.size) for _, part in row}) == 1
            for values, part in row:
                assert len(values[0]) == max(part.size, 1)
                seen += values[0][: part.size].tolist()
            if row[0][1].is_last:
                assert sorted(seen) == list(range(len(whole), len(whole) + row[0][1].batch.size))
                whole, seen = whole + sorted(seen), []
        assert whole == list(range(size))


class Sized(Stream):
    """A stream that says how long it is, rightly or not."""

    def __init__(self, size, says=None):
        super().__init__(size)
        self.says = size if says is None else says

    def __len__(self):
        return self.says


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_length_of_a_stream_that_has_one(drop_last):
    for size in (1, 3, 8, 9):
        for batch_size in (1, 3, 10):
            loader = DataLoader(Sized(size), batch_size, drop_last=drop_last)
            theirs = torch.utils.data.DataLoader(Sized(size), batch_size, drop_last=drop_last)
            assert len(loader) == len(theirs) == len(list(loader)) == len(loader)
    loader = DataLoader(Sized(8), 3)
    next(batches := iter(loader))
    assert (len(loader), len(batches), len(list(batches))) == (3, 3, 2)
    loader.attach(Plan((0, 4), (8, 3), (12, 2), size=8))
    assert len(loader) == 3
    with pytest.raises(TypeError, match="a stream without `__len__` has no length"):
        len(DataLoader(Stream(8), 3))


def test_a_stream_that_gives_more_than_its_length_is_told_if_somebody_asked_for_that():
    more = r"`dataset` has a `__len__` of 5 and gave 6 samples: `len\(\)` of the loader was too small"
    loader = DataLoader(Sized(8, says=5), 3)
    for _ in loader:  # `list` would ask for it
        pass
    len(loader)
    with pytest.warns(UserWarning, match=more) as found:
        assert sum(1 for _ in loader) == 3
    assert len(found) == 1
    loader = DataLoader(Sized(8, says=9), 3)
    len(loader)
    assert len(list(loader)) == 3


def test_a_driver_and_the_clock():
    loader = DataLoader(Stream(10), 4)
    loader.attach(Plan((0, 4), (12, 3), size=10))
    sizes = []
    for _ in range(2):
        for batch in loader:
            sizes.append((loader.current.clock, len(batch[0]), loader.current.requested))
            loader.commit()
    assert sizes == [(0, 4, 4), (4, 4, 4), (8, 2, 4), (10, 4, 4), (14, 3, 3), (17, 3, 3)]
    assert (loader.clock, loader.epoch, loader.dataset_size) == (20, 2, None)
    with pytest.raises(
        TypeError, match="a stream without `__len__` has no length; count the batches, or give the stream"
    ):
        len(loader)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_resumed_stream_goes_on_where_it_stopped(data):
    make = data.draw(st.sampled_from([Stream, Stateful, lambda size: Stream(size, noisy=True)]))
    size, batch_size = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 10))
    stop, driven = data.draw(st.integers(0, 12)), data.draw(st.booleans())

    def run(loader, first, last):
        found = []
        while len(found) < last - first:
            for batch in loader:
                found.append([column.tolist() for column in batch])
                if loader.current is not None:
                    loader.commit()
                if len(found) == last - first:
                    break
        return found

    def new():
        loader = DataLoader(make(size), batch_size, seed=3)
        if driven:
            loader.attach(Plan((0, batch_size), (size // 2, 7), size=size))
        return loader

    whole = run(new(), 0, 13)
    begun = new()
    before = run(begun, 0, stop)
    resumed = new()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SKIPS)
        resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
        assert before + run(resumed, stop, 13) == whole


def test_a_stateful_stream_is_not_read_again_and_another_says_what_that_costs():
    for make, cost in ((Stateful, 0), (Stream, 20)):
        for workers in (0, 2):
            loader = DataLoader(make(100), 10, num_workers=workers)
            iterator = iter(loader)
            for _ in range(2):
                next(iterator)
            state = json.loads(json.dumps(loader.state_dict()))
            del iterator
            data = make(100)
            resumed = DataLoader(data, 10)
            resumed.load_state_dict(state)
            with pytest.warns(UserWarning, match="20 samples of the stream are read") if cost else nullcontext():
                assert items(resumed) == list(range(20, 100))
            assert data.read == 100 if cost else data.read < 100


def test_a_state_inside_an_accumulation_repeats_the_batch():
    loader = DataLoader(Stateful(100), 10, micro_batch_size=3)
    parts = loader.parts()
    for _ in range(6):
        next(parts)
    resumed = DataLoader(Stateful(100), 10)
    resumed.load_state_dict(loader.state_dict())
    assert items(resumed) == list(range(10, 100))


def test_streams_that_would_share_themselves_out_do_not_in_stride():
    class Sharing(IterableDataset):
        def __iter__(self):
            info = get_worker_info()
            first, step = (0, 1) if info is None else (info.id, info.num_workers)
            return iter(range(first, 20, step))

    found = torch.cat(list(DataLoader(Sharing(), 4, num_workers=2)))
    assert found.tolist() == list(range(20))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_a_stream_may_give_fewer_or_more_samples_than_in_the_epoch_before(workers, sharding):
    class Varying(IterableDataset):
        def set_epoch(self, epoch):
            self.size = (10, 9, 0, 12)[epoch]

        def __iter__(self):
            info = get_worker_info()
            first, step = (0, 1) if info is None else (info.id, info.num_workers)
            yield from range(first, self.size, step)

    loader = DataLoader(Varying(), 4, num_workers=workers, sharding=sharding)
    assert [sorted(item for batch in loader for item in batch.tolist()) for _ in range(4)] == [
        list(range(size)) for size in (10, 9, 0, 12)
    ]
    assert (loader.epoch, loader.clock) == (4, 31)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_raises_is_named(workers):
    class Broken(IterableDataset):
        def __iter__(self):
            yield from range(7)
            raise OSError("disk")

    loader = DataLoader(Broken(), 3, num_workers=workers)
    iterator = iter(loader)
    assert [next(iterator).tolist() for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(OSError, match="sample 7"):
        next(iterator)
    assert loader.clock == 6


def test_a_damaged_state_is_refused():
    loader = DataLoader(Stream(10), 2)
    state = loader.state_dict()
    for broken in ({**state, "stream": None}, {**state, "stream": {**state["stream"], "base": -1}}):
        with pytest.raises(ValueError, match="`state` is damaged: `stream`"):
            loader.load_state_dict(broken)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [0, 5, 50])
def test_a_set_that_shares_itself_out_gives_each_sample_once(workers, size):
    orders = []
    for prefetch in (1, 4):
        how = {"prefetch_factor": prefetch, "persistent_workers": prefetch == 4} if workers else {}
        loader = DataLoader(Sharing(size), 5, num_workers=workers, sharding="dataset", seed=1, **how)
        seen = []
        for _ in range(2):
            epoch = []
            for batch in loader:
                epoch += batch[0].tolist()
                loader.batch_size = [3, 11, 1, 7][len(epoch) % 4]
            assert len(epoch) == len(set(epoch))
            assert set(epoch) == expected_of(size, workers)
            seen.append(epoch)
        assert seen[0] == seen[1]
        orders.append(seen[0])
        loader.batch_size = 5
    assert orders[0] == orders[1]


@pytest.mark.parametrize("make", [Sharing, Keeping])
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("stop", [1, 3, 6, 9])
def test_a_set_that_shares_itself_out_resumes_with_as_many_workers(make, workers, stop):
    def new():
        return DataLoader(make(40), 5, num_workers=workers, sharding="dataset", seed=1)

    whole = items(new())
    begun = new()
    iterator = iter(begun)
    before = [item for _ in range(min(stop, len(whole) // 5)) for item in next(iterator)[0].tolist()]
    state = json.loads(json.dumps(begun.state_dict()))
    del iterator
    resumed = new()
    resumed.batch_size = 3
    resumed.load_state_dict(state)
    resumed.batch_size = 4
    with warnings.catch_warnings():
        if make is Sharing:
            warnings.filterwarnings("ignore", SKIPS)
        assert before + items(resumed) == whole
    assert set(items(resumed)) == set(whole)


def test_another_number_of_workers_is_refused_by_a_set_that_shares_itself_out():
    state = DataLoader(Sharing(40), 5, num_workers=2, sharding="dataset", seed=1).state_dict()
    with pytest.raises(ValueError, match="`sharding` is 'dataset, 2 workers, 1 ranks' there and 'dataset, 3 workers"):
        DataLoader(Sharing(40), 5, num_workers=3, sharding="dataset", seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="`sharding` must be one of stride, dataset"):
        DataLoader(Sharing(40), 5, sharding="worker")
    with pytest.raises(ValueError, match="`sharding` must be 'stride' for a data set with sample numbers"):
        DataLoader(torch.arange(4), 2, sharding="dataset")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_batches_that_stack_but_not_with_each_other(workers, sharding):
    class Padded(IterableDataset):
        def __iter__(self):
            info = get_worker_info()
            first, step = (0, 1) if info is None else (info.id, info.num_workers)
            yield from (torch.full([item // 4 % 3 + 1], item) for item in range(24) if item // 2 % step == first)

    loader = DataLoader(Padded(), 2, num_workers=workers, sharding=sharding, seed=0)
    assert [batch.tolist() for batch in loader] == [
        [[i] * (i // 4 % 3 + 1), [i + 1] * (i // 4 % 3 + 1)] for i in range(0, 24, 2)
    ]
    loader.batch_size = 5
    with pytest.raises(RuntimeError, match=r"equal size|must match"):
        list(loader)
