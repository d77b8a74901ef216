import collections

import pytest
import torch
from tests.data.test_workers import Rich
from torch.utils.data import TensorDataset

from adabatch.data import DataLoader, ResidentLoader
from adabatch.data.order import permute
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


def test_bad_devices_are_named():
    with pytest.raises(ValueError, match="`device` must name a device such as"):
        DataLoader(torch.arange(4), device="disk")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="`device` must be one that this machine has"):
            DataLoader(torch.arange(4), device="cuda")


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


def test_a_resident_set_has_the_order_and_state_of_any_loader():
    columns = (torch.arange(20), torch.arange(20) * 2.0)
    loader = ResidentLoader(columns, 6, True, device="cpu", seed=1)
    assert isinstance(loader, DataLoader)
    expected = permute(torch.arange(20).numpy(), size=20, seed=1, epoch=0).tolist()
    iterator = iter(loader)
    first = next(iterator)
    assert first[0].tolist() == expected[:6]
    resumed = DataLoader(columns, 4, True)
    resumed.load_state_dict(loader.state_dict())
    assert torch.cat([batch[0] for batch in resumed]).tolist() == expected[6:]
    loader.batch_size = 14
    assert next(iterator)[1].tolist() == [2.0 * item for item in expected[6:]]


def test_transforms_draw_the_same_again_and_leave_the_generator_alone():
    def noise(batch):
        return batch + torch.rand(len(batch))

    def run(start):
        loader = ResidentLoader(torch.zeros(20), 5, device="cpu", transform=noise, seed=1)
        loader.set_epoch(start)
        return [torch.cat(list(loader)) for _ in range(3 - start)]

    torch.manual_seed(3)
    whole = run(0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(run(1)[0], whole[1])
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(whole[0], whole[1])
    assert len(set(whole[0].tolist())) == 20


def test_what_is_not_made_of_tensors_is_refused():
    with pytest.raises(TypeError, match=r"`dataset` must be a TensorDataset.*got list.*DataLoader"):
        ResidentLoader([1, 2], 1)
