import multiprocessing
import os

import numpy as np
import pytest
import torch

from adabatch.data.transport import Channel


def there_and_back(thing):
    mine, theirs = multiprocessing.Pipe()
    one, other = Channel(mine), Channel(theirs)
    one.send(thing)
    found = other.receive()
    one.close()
    other.close()
    return found


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bool, torch.bfloat16, torch.complex64, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 7, 2), (300, 400)])
def test_tensors_arrive_as_they_are(dtype, shape):
    tensor = (torch.randn(shape) * 10).to(dtype)
    found = there_and_back({"a": tensor, "b": [tensor.transpose(0, -1) if tensor.dim() else tensor, "text", 3]})
    assert found["a"].dtype == dtype
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"][0], tensor.transpose(0, -1) if tensor.dim() else tensor)
    assert found["b"][1:] == ["text", 3]


def test_views_of_large_storages_do_not_take_them_along():
    base = torch.arange(1_000_000.0)
    found = there_and_back([base[10:5010], base[::7]])
    assert torch.equal(found[0], base[10:5010])
    assert found[0].untyped_storage().nbytes() < 100_000
    assert torch.equal(found[1], base[::7])


def test_others_travel_by_torchs_own_ways():
    torch.sparse.check_sparse_tensor_invariants.disable()
    sparse = torch.eye(3).to_sparse()
    weight = torch.nn.Parameter(torch.ones(2))
    array = np.arange(6).reshape(2, 3)
    found = there_and_back((sparse, weight, array))
    assert torch.equal(found[0].to_dense(), torch.eye(3))
    assert isinstance(found[1], torch.nn.Parameter)
    assert np.array_equal(found[2], array)


def test_many_tensors_and_no_descriptor_left_open():
    files = len(os.listdir("/proc/self/fd"))
    found = there_and_back([torch.full((5000,), float(i)) for i in range(300)])
    assert all(torch.equal(tensor, torch.full((5000,), float(i))) for i, tensor in enumerate(found))
    del found
    assert len(os.listdir("/proc/self/fd")) <= files + 3  # torch's own server of descriptors, for those beyond 200


def test_what_cannot_be_pickled_sends_nothing():
    mine, theirs = multiprocessing.Pipe()
    with pytest.raises((AttributeError, TypeError, Exception), match="pickle"):
        Channel(mine).send([torch.ones(100_000), lambda: 1])
    assert not theirs.poll()
