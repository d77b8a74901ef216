"""What the assembler asks workers for."""

import contextlib
import time

import pytest

from adabatch.data.order import Order
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
        for _ in range(60):
            at = fetched(assembler, prediction, at, size, 1)
            seen |= {run.last - run.first for run in assembler.runs}
    assert max(seen) == max(64, size)
    assert all(length % size == 0 for length in seen)
    with assembling(Slow(0.02)) as assembler:
        fetched(assembler, Prediction(), 0, 1, 4)
        assert {run.last - run.first for run in assembler.runs} == {1}
