"""What a device computes as the CPU does, how tensors get there; and that the tests of waits would see one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.waits import CUDA, META, Calls, refused

from adabatch import _devices

READS = [
    torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, bool, float, int,
    lambda tensor: [1, 2][tensor],
]  # fmt: skip
DEVICES = [META, pytest.param(CUDA, marks=pytest.mark.gpu)]


def test_where_numbers_come_out_alike():
    alike = {name: _devices.counts_alike(torch.device(name)) for name in ("cpu", "cuda:3", "mps", "xpu", "meta")}
    assert alike == {"cpu": False, "cuda:3": True, "mps": False, "xpu": False, "meta": True}


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_sent_arrives_and_nothing_waits(device):
    numbers = torch.arange(5)
    with refused(device), Calls() as calls:
        found = _devices.sent(numbers, device)
    assert (found.device, found.shape, found.dtype) == (device, (5,), torch.int64)
    assert calls.counts["sent"] == 1
    numbers.zero_()  # it may be written at once
    if device.type == "cuda":
        assert found.tolist() == [0, 1, 2, 3, 4]


def test_a_tensor_that_stays_is_itself():
    numbers = torch.arange(5)
    assert _devices.sent(numbers, torch.device("cpu")) is numbers


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("read", READS)
def test_a_read_is_refused(device, read):
    one = torch.ones((), dtype=torch.int64, device=device)
    with refused(device), pytest.raises((RuntimeError, TypeError)):
        read(one)


@pytest.mark.gpu
def test_64_bits_wrap_around_on_a_gpu():
    numbers = np.random.default_rng(0).integers(-(2**63), 2**63, (3, 1000), dtype=np.int64)
    one, two, _ = (torch.from_numpy(each).to(CUDA) for each in numbers)
    assert np.array_equal((one * two).cpu().numpy(), numbers[0] * numbers[1])
    assert np.array_equal((one + two).cpu().numpy(), numbers[0] + numbers[1])
    assert np.array_equal((one ^ two).cpu().numpy(), numbers[0] ^ numbers[1])
    assert np.array_equal((one >> 17).cpu().numpy(), numbers[0] >> 17)


def test_what_lies_elsewhere_is_not_pinned():
    """As where torch's default device is a GPU: only what lies on the CPU can be pinned."""
    assert _devices.sent(torch.arange(3, device="meta"), torch.device("meta")).device.type == "meta"
    source = torch.empty(3, device="meta")
    with pytest.raises((NotImplementedError, AssertionError, RuntimeError)) as caught:
        _devices.sent(source, torch.device("cuda"))
    assert "pin" not in str(caught.value)
