"""What the assembler asks workers for."""

import contextlib
import io
import time

import pytest
import torch
from tests.data.checks import source_of
from tests.data.sets import Rich, plain
from torch.utils.data import IterableDataset

from adabatch.data import DataLoader
from adabatch.data.order import Order
from adabatch.data.sources import nested
from adabatch.data.sources.assembler import Assembler, Fetching, Numbered
from adabatch.data.workers.pool import Pool
from adabatch.data.workers.readers import MapReader


class Slow:
    """Numbers that take a while."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __getitem__(self, item):
        time.sleep(self.seconds)
        return item


@contextlib.contextmanager
def assembling(data, depth=2):
    order = Order(10_000, seed=0, shuffle=False)
    pool = Pool(MapReader(data, order, None), count=1, seed=0, collate=True)
    assembler = Assembler(
        Fetching(dataset=data, num_workers=1, prefetch_factor=depth), lambda: pool, Numbered(order.sent)
    )
    try:
        yield assembler
    finally:
        assembler.close()


class Prediction:
    """Batches of one size, from a position on; counts how often it is asked and how many batches it tells."""

    def __init__(self):
        self.asked = self.told = 0

    def ahead(self, position, size):
        def bounds():
            self.asked += 1
            at = position
            while True:
                self.told += 1
                yield at, at + size
                at += size

        return bounds


def fetched(assembler, prediction, first, size, count):
    for at in range(first, first + size * count, size):
        found = assembler.fetch(at, at + size, prediction.ahead(at + size, size))
        assert found.tolist() == list(range(at, at + size))
    return first + size * count


def test_a_prediction_that_holds_is_made_once():
    with assembling(Slow()) as assembler:
        prediction = Prediction()
        at = fetched(assembler, prediction, 0, 2, 200)
        assert prediction.asked == 1
        assert prediction.told < 200 + 3 * 64  # what is in flight, and no more
        at = fetched(assembler, prediction, at, 5, 100)  # one that does not hold is made anew
        assert prediction.asked == 2
        fetched(assembler, prediction, 5000, 5, 10)
        assert prediction.asked == 3


@pytest.mark.parametrize("size", [1, 16, 32, 100])
def test_runs_are_whole_batches_of_just_so_many_samples_as_are_worth_it(size):
    prediction, seen, at = Prediction(), set(), 0
    with assembling(Slow()) as assembler:
        while at < 60 * max(size, 64):
            at = fetched(assembler, prediction, at, size, 1)
            seen |= {run.last - run.first for run in assembler.runs}
    assert max(seen) == max(64, size)
    assert all(length % size == 0 for length in seen)
    with assembling(Slow(0.02)) as assembler:
        fetched(assembler, Prediction(), 0, 1, 4)
        assert {run.last - run.first for run in assembler.runs} == {1}


class Walked(IterableDataset):
    """The same as a stream."""

    def __iter__(self):
        return map(Rich().__getitem__, range(100))


class Wide(Rich):
    """Samples large enough to travel as shared memory."""

    def __getitem__(self, item):
        return {"row": torch.full((5000,), float(item))}


def test_a_new_batch_size_holds_at_once_and_restarts_no_worker():
    loader = DataLoader(Rich(), 64, seed=3, num_workers=2, prefetch_factor=4, persistent_workers=True)
    iterator = iter(loader)
    assert len(next(iterator)["item"]) == 64
    before = source_of(loader).held.pool.pids()
    loader.batch_size = 5
    sizes = []
    for batch in iterator:
        sizes.append(len(batch["item"]))
        loader.batch_size = 31
    assert sizes == [5, 31]
    next(iter(loader))
    assert source_of(loader).held.pool.pids() == before


def test_batches_are_views_of_runs_in_a_steady_state_and_joined_once_after_a_change():
    loader = DataLoader(Wide(), 10, seed=3, num_workers=2, persistent_workers=True)
    batches = iter(loader)
    for _ in range(3):
        assert next(batches)["row"].is_shared()
    loader.batch_size = 25
    assert not next(batches)["row"].is_shared()


def test_parts_of_a_batch_come_from_aligned_runs(monkeypatch):
    joins = []
    monkeypatch.setattr(nested, "join", joins.append)
    loader = DataLoader(Wide(), 50, seed=3, num_workers=2, micro_batch_size=8)
    assert [part.size for _, part in loader.parts()] == [7, 7, 7, 7, 7, 7, 8] * 2
    assert joins == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", [Rich, Walked])
def test_a_batch_that_is_kept_or_saved_weighs_no_more_than_twice_its_samples(workers, make):
    loader = DataLoader(make(), 1, num_workers=workers, prefetch_factor=4 if workers else None)
    for batch in loader:
        assert batch["row"].untyped_storage().nbytes() <= 2 * batch["row"].nbytes
        file = io.BytesIO()
        torch.save(batch["row"], file)
        assert file.tell() < 2000


def test_a_batch_of_many_micro_batches_is_never_in_flight_as_a_whole():
    loader = DataLoader(Rich(), 96, num_workers=2, prefetch_factor=2, micro_batch_size=1)
    most = 0
    for _ in loader.parts():
        most = max(most, sum(run.last - run.first for run in source_of(loader).runs))
    assert 0 < most <= 4 * 64
    loader = DataLoader(list(range(100_000)), 100_000, num_workers=2, prefetch_factor=2, micro_batch_size=100)
    for _, part in loader.parts():
        assert sum(run.last - run.first for run in source_of(loader).runs) <= 5 * 100
        if part.index == 20:
            break


class Buckets(Rich):
    """Rows as long as others of their four; lists as long as others of their eight."""

    def __getitem__(self, item):
        return {"row": torch.full((1 + item // 4,), float(item)), "list": [item] * (1 + item // 8)}


@pytest.mark.parametrize("device", [None, "meta"])
@pytest.mark.parametrize("arguments", [{"num_workers": 1}, {"num_workers": 3, "prefetch_factor": 4}])
def test_samples_of_different_batches_need_not_stack(arguments, device):
    here = [plain(batch) for batch in DataLoader(Buckets(), 4)]
    assert len(here) == 25
    loader = DataLoader(Buckets(), 4, device=device, **arguments)
    for _ in range(2):
        batches = list(loader)
        if device is None:
            assert [plain(batch) for batch in batches] == here
        else:
            assert [(batch["row"].shape, batch["row"].device.type) for batch in batches] == [
                ((4, 1 + i), "meta") for i in range(25)
            ]


def test_a_run_that_does_not_stack_is_cut_where_the_size_changes():
    loader = DataLoader(Buckets(), 4, num_workers=2)
    batches = iter(loader)
    found = next(batches)["row"][:, 0].tolist()
    loader.batch_size = 2
    found += [value for _ in range(4) for value in next(batches)["row"][:, 0].tolist()]
    loader.batch_size = 4
    found += [value for batch in batches for value in batch["row"][:, 0].tolist()]
    assert found == [float(item) for item in range(100)]


def test_after_a_run_that_does_not_stack_workers_collate_batches():
    class Wider(Rich):
        def __getitem__(self, item):
            return torch.zeros(5000 + item // 4)

    loader = DataLoader(Wider(), 4, num_workers=2)
    list(loader)
    assert all(batch.is_shared() for batch in loader)


def test_where_a_batch_does_not_stack_the_error_is_the_main_process_own():
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size") as raised:
        list(DataLoader(Buckets(), 6, num_workers=2))
    assert "could not be collated in worker" in raised.value.__notes__[0]

    class Unsendable(Rich):
        def __getitem__(self, item):
            return lambda: item

    with pytest.raises(TypeError, match=r"(?s)could not be collated in worker 0.*must contain tensors"):
        next(iter(DataLoader(Unsendable(), 4, num_workers=1)))


def test_a_collate_fn_of_ones_own_gets_samples_and_its_batches_are_moved():
    for workers in (0, 1):
        loader = DataLoader(list(range(20)), 4, num_workers=workers, device="meta", collate_fn=torch.tensor)
        assert [batch.device.type for batch in loader] == ["meta"] * 5
