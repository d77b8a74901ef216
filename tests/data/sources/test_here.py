"""Sources in the main process: tensors by one index, other data sets sample by sample."""

import torch
from tests.data.checks import source_of
from tests.data.sets import Squares
from torch.utils.data import Subset, TensorDataset, default_collate

from adabatch.data import DataLoader


def test_a_tensor_set_starts_no_worker():
    loader = DataLoader(torch.arange(10), 4, num_workers=2)
    batches = iter(loader)
    assert next(batches).tolist() == [0, 1, 2, 3]
    assert source_of(loader).__class__.__name__ == "Columns"


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
