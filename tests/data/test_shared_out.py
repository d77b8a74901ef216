"""Streams that share themselves out, over changes of size and errors."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.checks import source_of
from tests.data.test_streams import SKIPS, Keeping, Sharing, expected_of, items
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
    kept = [max(len(part.marks) for part in source_of(loader)._parts) for _ in loader]
    assert len(kept) > 300
    assert max(kept) <= 8
