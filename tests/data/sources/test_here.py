"""Sources in the main process: tensors by one index, other data sets sample by sample."""

import pytest
import torch
from tests.data.checks import source_of
from tests.data.sets import Squares
from tests.waits import CUDA, META, Calls, refused
from torch.utils.data import Subset, TensorDataset, default_collate

from adabatch.data import DataLoader
from adabatch.data.order import Order
from adabatch.data.sources import nested
from adabatch.data.sources.here import Columns


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


@pytest.mark.parametrize("device", [META, pytest.param(CUDA, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("arguments", [{}, {"device": True}, {"shuffle": False}, {"micro_batch_size": 3}])
def test_a_set_on_a_gpu_is_put_in_order_there_and_nothing_is_copied_for_a_batch(device, arguments):
    columns = torch.arange(1000).to(device), torch.ones(1000, 3).to(device)
    arguments = {"shuffle": True} | arguments | ({"device": device} if "device" in arguments else {})
    for dataset in (columns, TensorDataset(*columns)):
        loader = DataLoader(dataset, 7, seed=0, **arguments)
        with refused(device), Calls() as calls:
            parts = loader.parts()
            batches = [next(parts)[0]]
            assert source_of(loader).__class__.__name__ == "Columns"
            batches += [batch for batch, _ in parts]
        assert {column.device for batch in batches for column in batch} == {device}
        assert sum(len(batch[0]) for batch in batches) == 1000
        assert calls.counts["sent"] == arguments["shuffle"]  # the tables of the epoch
        tables = calls.counts["index_select"] - 2 * len(batches)  # one gather a batch for each tensor
        assert tables == arguments["shuffle"]  # and one for an epoch of so few samples


@pytest.mark.parametrize("device", [META, pytest.param(CUDA, marks=pytest.mark.gpu)])
def test_samplers_and_tensors_on_several_devices_are_copied_to_once_a_batch(device):
    columns = torch.arange(20).to(device), torch.ones(20, 3).to(device), torch.arange(20)
    for dataset, arguments in ((columns, {"shuffle": True}), (columns[:2], {"sampler": [3, -1] * 10})):
        with refused(device), Calls() as calls:
            batches = list(DataLoader(dataset, 5, seed=0, **arguments))
        assert [column.device for column in batches[0]] == [column.device for column in dataset]
        assert calls.counts["sent"] == len(batches) == 4


def test_a_sampler_is_iterated_once_an_epoch_wherever_the_tensors_lie():
    class Counted(list):
        begun = 0

        def __iter__(self):
            self.begun += 1
            return super().__iter__()

    sampler = Counted(range(20))
    loader = DataLoader(torch.arange(20).to(META), 5, sampler=sampler, seed=0)
    assert len(list(loader.batch_sampler)) == 4
    loader.set_epoch(0)
    list(loader)
    assert sampler.begun == 1


def test_windows_of_former_lengths_are_let_go():
    loader, orders = DataLoader(TensorDataset(torch.arange(100).to(META)), 7, shuffle=True, seed=0), []
    for size in range(100, 110):
        loader.dataset.tensors = (torch.arange(size).to(META),)
        list(loader)
        orders.append(len(loader._supply._orders))
    assert orders == [1] * 10


def test_too_many_samples_for_tables_are_put_in_order_on_the_cpu():
    loader = DataLoader(torch.zeros(1, device=META).expand(2**36 + 1), 5, shuffle=True, seed=0)
    batches = iter(loader)
    assert next(batches).shape == (5,)
    assert source_of(loader)._elsewhere == {META}


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.float32, torch.int64, torch.bool, torch.complex64])
def test_batches_are_gathered_in_the_room_that_is_given(kind):
    """On a GPU the room is pinned memory, from which batches go there without another copy."""
    made = []

    def room(shape, *, dtype):
        made.append(torch.empty(shape, dtype=dtype))
        return made[-1]

    numbers = torch.arange(40).remainder(100).view(20, 2)
    columns, order = (numbers.to(kind), torch.arange(20)), Order(20, seed=1, shuffle=True)
    plain = Columns(columns, order, alone=False)
    source = Columns(columns, order, alone=False, room=room)
    for first, last in ((0, 7), (7, 20), (18, 25)):
        expected, found = plain.fetch(first, last, iter), source.fetch(first, last, iter)
        assert [column.data_ptr() for column in found] == [column.data_ptr() for column in made[-2:]]
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_tensors_with_gradients_are_gathered_in_room_as_without_it():
    weights = torch.arange(5.0, requires_grad=True)
    for room in (None, torch.empty):
        found = Columns((weights,), Order(5, seed=1, shuffle=False), alone=True, room=room).fetch(1, 3, iter)
        assert (found.tolist(), found.requires_grad) == ([1, 2], False)


def test_room_is_pinned_where_batches_would_be_pinned():
    assert nested.pinned_room(pin=False, device=None) is None
    assert nested.pinned_room(pin=True, device=torch.device("cpu")) is None
    assert (nested.pinned_room(pin=True, device=None) is None) == (not torch.cuda.is_available())
    assert nested.pinned_room(pin=False, device=CUDA).keywords == {"device": "cpu", "pin_memory": True}


@pytest.mark.gpu
@pytest.mark.parametrize("how", [{"device": CUDA}, {"pin_memory": True}])
def test_batches_from_the_cpu_come_through_pinned_memory(how):
    columns = torch.arange(10_000), torch.arange(20_000, dtype=torch.uint8).view(10_000, 2)
    expected = list(DataLoader(columns, 300, shuffle=True, seed=1))
    for found, wanted in zip(DataLoader(columns, 300, shuffle=True, seed=1, **how), expected, strict=True):
        for one, other in zip(found, wanted, strict=True):
            assert one.is_cuda if "device" in how else one.is_pinned()
            assert torch.equal(one.cpu(), other)
