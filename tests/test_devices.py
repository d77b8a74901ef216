"""What a device computes as the CPU does, how tensors get there; and that the tests of waits would see one."""

from __future__ import annotations

import contextlib

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


def test_sums_are_as_long_as_the_device_has_them():
    found = {name: _devices.longest_float(torch.device(name)) for name in ("cpu", "cuda:1", "mps")}
    assert found == {"cpu": torch.float64, "cuda:1": torch.float64, "mps": torch.float32}


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


def no_copy() -> tuple[type[Exception], str]:
    """How a copy from "meta" to a GPU fails on this machine, whose torch and drivers decide."""
    if torch.cuda.is_available():
        return NotImplementedError, "Cannot copy out of meta tensor"
    if torch.backends.cuda.is_built():
        return RuntimeError, "No CUDA GPUs|NVIDIA driver"
    return AssertionError, "not compiled with CUDA"


def test_only_what_lies_on_the_cpu_is_pinned():
    """Else a tensor would be refused where torch's default device is a GPU: nothing else can be pinned."""
    assert _devices.sent(torch.arange(3, device="meta"), META).device == META
    error, message = no_copy()
    with Calls() as calls, pytest.raises(error, match=message):
        _devices.sent(torch.empty(3, device="meta"), CUDA)
    assert calls.counts["is_pinned"] == 0
    with Calls() as calls, contextlib.suppress(RuntimeError):  # of a machine without a GPU
        _devices.sent(torch.arange(3), CUDA)
    assert calls.counts["is_pinned"] >= 1
