import json

import numpy as np
import pytest
import torch
from tests.data.test_loader import Plan

from adabatch.data import micro_batches
from adabatch.types import DrivenLoader


class Theirs:
    """An iterable of batches of given sizes."""

    def __init__(self, *sizes, make=lambda first, size: (torch.arange(first, first + size), "text")):
        self.sizes, self.make = sizes, make

    def __iter__(self):
        first = 0
        for size in self.sizes:
            yield self.make(first, size)
            first += size


def shape(loader):
    return [
        (part.batch.clock, part.batch.requested, part.batch.size, part.index, part.count, part.size)
        for _, part in loader.parts()
    ]


def test_an_update_takes_as_many_batches_as_give_its_size():
    loader = micro_batches(Theirs(2, 2, 2, 2, 1), batch_size=4)
    assert isinstance(loader, DrivenLoader)
    expected = [(0, 4, 4, 0, 2, 2), (0, 4, 4, 1, 2, 2), (4, 4, 4, 0, 2, 2), (4, 4, 4, 1, 2, 2), (8, 4, 1, 0, 1, 1)]
    assert shape(loader) == expected
    assert (loader.clock, loader.epoch) == (9, 1)
    loader.batch_size = 6
    assert [row[1:] for row in shape(loader)] == [
        (6, 6, 0, 3, 2),
        (6, 6, 1, 3, 2),
        (6, 6, 2, 3, 2),
        (6, 6, 0, 3, 2),
        (6, 3, 1, 2, 1),
    ]


def test_the_size_holds_for_the_next_update_and_the_last_part_knows_the_true_size():
    loader = micro_batches(Theirs(2, 3, 2, 2, 2, 2), batch_size=4)
    sizes = []
    for _, part in loader.parts():
        if part.is_last:
            sizes.append((part.batch.size, part.batch.end - part.batch.clock))
            loader.batch_size = 2
    assert sizes == [(5, 5), (2, 2), (2, 2), (2, 2), (2, 2)]


def test_a_driver_and_epochs_in_samples():
    loader = micro_batches(Theirs(2, 2, 2, 2), batch_size=2, dataset_size=10)
    plan = Plan((0, 2), (10, 4), size=10)
    loader.attach(plan)
    updates = []
    for _ in range(2):
        for _, part in loader.parts():
            if part.is_last:
                updates.append((part.batch.clock, part.batch.size))
                loader.commit()
    assert updates == [(0, 2), (2, 2), (4, 2), (6, 2), (10, 4), (14, 4)]
    assert loader.clock == 20
    parts = loader.parts()
    next(parts)
    next(parts)
    plan.refuse = "step is missing"
    with pytest.raises(RuntimeError, match="step is missing"):
        next(parts)


def test_a_state_counts_what_was_passed():
    loader = micro_batches(Theirs(2, 2, 2, 2, 2), batch_size=4)
    parts = loader.parts()
    seen = [next(parts)[0][0].tolist() for _ in range(3)]
    resumed = micro_batches(Theirs(2, 2, 2, 2, 2), batch_size=8)
    with pytest.warns(UserWarning, match=r"first 2 batches of the wrapped loader are read and dropped; .* exact"):
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert resumed.state_dict() == loader.state_dict()
    data, part = next(resumed.parts())
    assert (data[0].tolist(), part.batch.clock, part.batch.requested) == (seen[2], 4, 4)
    with pytest.raises(ValueError, match="`passed` is missing"):
        resumed.load_state_dict({"format": 1, "clock": 0, "epoch": 0})


def test_leaving_early_passes_the_rest():
    loader = micro_batches(Theirs(2, 2, 2, 2), batch_size=4, dataset_size=8)
    for _ in loader.parts():
        break
    assert [row[0] for row in shape(loader)] == [8, 8, 12, 12]


@pytest.mark.parametrize(
    "make",
    [
        lambda first, size: torch.zeros(size, 3),
        lambda first, size: {"x": np.zeros((size, 3)), "y": 1},
        lambda first, size: [[torch.zeros(size)], "a"],
        lambda first, size: ["text"] * size,
    ],
)
def test_sizes_of_all_kinds_of_batches(make):
    assert [row[5] for row in shape(micro_batches(Theirs(3, 2, make=make), batch_size=5))] == [3, 2]


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match=r"`loader` must be an iterable .* got list_iterator"):
        micro_batches(iter([1]), batch_size=2)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        micro_batches([1], batch_size=0)
    loader = micro_batches(Theirs(2, make=lambda first, size: 5), batch_size=2)
    with pytest.raises(TypeError, match="`size_of` must be given for batches of int"):
        next(loader.parts())
    with pytest.raises(ValueError, match="`micro_batch_size` must be set in the wrapped loader"):
        loader.micro_batch_size = 3
    with pytest.raises(TypeError, match=r"iterate with `adabatch.accumulate"):
        iter(loader)
    loader = micro_batches(Theirs(2, 2), batch_size=2)
    parts = loader.parts()
    next(parts)
    with pytest.raises(RuntimeError, match="second iteration"):
        loader.parts()
    with pytest.raises(RuntimeError, match="before the loop"):
        loader.load_state_dict(loader.state_dict())
