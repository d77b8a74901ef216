"""Batches that are cut, joined and moved keep their form."""

import collections

import pytest
import torch
from tests.data.sets import Rich, plain
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import (
    TensorDataset,
)

from adabatch.data import DataLoader
from adabatch.data.sources import nested
from adabatch.data.sources.nested import Mover, mapped

Pair = collections.namedtuple("Pair", "left right")


def is_meta(tensor):
    assert tensor.device.type == "meta"
    return tensor


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_to_the_device(workers):
    for dataset in (Rich(), TensorDataset(torch.arange(100), torch.ones(100))):
        loader = DataLoader(dataset, 30, num_workers=workers, device="meta")
        for batch in loader:
            mapped(batch, is_meta)
            loader.batch_size = 7


def test_nested_batches_keep_their_form():
    batch = Pair({"a": torch.ones(2)}, [torch.ones(1), "text", (torch.ones(3), 4)])
    found = mapped(batch, lambda tensor: tensor * 2)
    assert type(found) is Pair
    assert found.left["a"].tolist() == [2, 2]
    assert found.right[1] == "text"
    assert found.right[2][1] == 4
    assert found.right[2][0].tolist() == [2, 2, 2]


@pytest.mark.gpu
def test_moved_batches_are_right_while_the_device_is_busy():
    device = torch.device("cuda")
    mover = Mover(device)
    busy = torch.randn(4096, 4096, device=device)
    for item in range(50):
        data, ready = mover.start([torch.full((1000, 1000), float(item))])
        busy @= busy
        ready()
        assert float(data[0].sum()) == item * 1e6


class Defaults:
    def __len__(self):
        return 16

    def __getitem__(self, item):
        return collections.defaultdict(float, x=item)


@pytest.mark.parametrize("arguments", [{"num_workers": 1}, {"device": "cpu"}, {"device": "meta", "num_workers": 1}])
def test_a_defaultdict_stays_one(arguments):
    for batch in DataLoader(Defaults(), 3, seed=0, **arguments):
        assert type(batch) is collections.defaultdict
        assert batch.default_factory is float
        assert list(batch) == ["x"]
        assert batch["x"].device.type == arguments.get("device", "cpu")


class Graph:
    """A batch that moves itself."""

    def __init__(self, nodes):
        self.nodes = nodes

    def to(self, device):
        return Graph(self.nodes.to(device))


def test_batches_that_move_themselves_are_moved():
    rows = [torch.ones(3 + item % 2) for item in range(4)]

    def collate(samples):
        return pack_sequence(samples, enforce_sorted=False), [Graph(torch.stack([row.sum() for row in samples]))]

    for packed, (graph,) in DataLoader(rows, 2, collate_fn=collate, device="meta", seed=0):
        assert type(packed) is torch.nn.utils.rnn.PackedSequence
        assert {packed.data.device.type, packed.sorted_indices.device.type, graph.nodes.device.type} == {"meta"}
        assert packed.batch_sizes.tolist() == [2, 2, 2, 1]


def test_runs_of_lists_of_different_length_are_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="each element in list of batch should be of equal size"):
        nested.join([[torch.arange(2), torch.arange(2)], [torch.arange(2)]])


def test_a_cut_of_a_run_is_a_view_from_half_of_it_on():
    run = {"a": torch.arange(64), "b": [torch.zeros(64, 3)]}
    half, less = nested.cut(run, 8, 40), nested.cut(run, 8, 39)
    assert [half["a"].data_ptr() == run["a"][8:].data_ptr(), half["b"][0]._is_view()] == [True, True]
    assert [less["a"].untyped_storage().nbytes(), less["b"][0].untyped_storage().nbytes()] == [31 * 8, 31 * 12]
    assert less["a"].tolist() == list(range(8, 39))


def test_named_tuples_and_other_mappings_survive_cutting_and_joining():
    class Named(Rich):
        def __getitem__(self, item):
            return Pair(item, collections.OrderedDict(text=str(item), deep=[torch.tensor([item]), 0.5]))

    def run(workers):
        loader = DataLoader(Named(), 7, num_workers=workers)
        found = []
        for batch in loader:
            assert type(batch) is Pair
            found.append((type(batch.right).__name__, plain(batch)))
            loader.batch_size = 30
        return found

    assert run(2) == run(0)
