"""The order on a device against the CPU's, number for number; and that nothing waits for the device."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.waits import CUDA, META, Calls, refused

from adabatch.data import device_order
from adabatch.data.device_order import LARGEST_THERE, DeviceOrder, Permutation, detours_of
from adabatch.data.order import Order, grid_of, permute, steps_of, walked

CPU = torch.device("cpu")
SMALL_SIZES = st.one_of(
    st.integers(1, 300),
    st.integers(1, 20_000),
    st.builds(lambda power, more: max(1, 2**power + more), st.integers(0, 14), st.integers(-2, 2)),
    st.builds(lambda root, more: max(1, root**2 + more), st.integers(1, 140), st.integers(-2, 2)),
)
LARGE = [2**31 - 1, 2**31 + 11, 2**32 + 5, 10**10 + 1, LARGEST_THERE]


def check(size, seed, epoch, positions, device=CPU):
    found = Permutation(size, seed=seed, epoch=epoch, device=device)(torch.from_numpy(positions).to(device))
    assert found.dtype == torch.int64
    assert np.array_equal(found.cpu().numpy(), permute(positions, size=size, seed=seed, epoch=epoch))


@settings(max_examples=150, deadline=None)
@given(SMALL_SIZES, st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_an_epoch_is_that_of_the_cpu(size, seed, epoch):
    check(size, seed, epoch, np.arange(size))


def test_every_small_size_is_that_of_the_cpu():
    for size in [*range(1, 200), 4094, 4095, 4096, 4097]:
        for epoch in range(3):
            check(size, 7, epoch, np.arange(size))


@pytest.mark.parametrize("size", LARGE)
def test_large_sizes_are_those_of_the_cpu(size):
    positions = np.concatenate([np.arange(2000), size // 2 + np.arange(2000), size - 1 - np.arange(2000)])
    check(size, 2**63 - 1, 12_345, positions)


@settings(max_examples=60, deadline=None)
@given(st.one_of(SMALL_SIZES, st.integers(2**31, 2**33)), st.integers(0, 2**63 - 1), st.data())
def test_a_cell_beyond_the_end_leads_where_one_walks_from_it(size, seed, data):
    grid = grid_of(size, seed, 3)
    steps = steps_of(grid)
    found = detours_of(size, grid, steps)
    beyond = grid.rows * grid.columns - size
    assert len(found) == beyond + 1
    assert found[0] == 0
    for number in data.draw(st.lists(st.integers(0, beyond - 1), max_size=5) if beyond else st.just([])):
        cell = start = size + number
        for _ in range(beyond + 1):
            cell = int(walked(np.array([cell]), grid, steps)[0])
            if cell < size:
                break
        else:  # a circle beyond the end, which no position reaches
            continue
        assert start + found[1 + number] == cell


@pytest.mark.parametrize("size", [1, 2, 5, 20, 63, 64])
def test_ways_of_any_length_are_followed(size):
    """Of a grid that is much too large most cells lie beyond the end, so that ways are long."""
    longest = 0
    for seed in range(30):
        grid = grid_of(64, seed, 0)
        steps = steps_of(grid)
        cells = np.arange(size, 64)
        passes, found = 0, walked(cells, grid, steps)
        while (found >= size).any() and passes < 64:
            found = np.where(found >= size, walked(found, grid, steps), found)
            passes += 1
        longest = max(longest, passes)
        leads = found < size  # others lie on a circle
        assert np.array_equal((cells + detours_of(size, grid, steps)[1:])[leads], found[leads])
    assert longest > 20 or size > 5


orders = st.tuples(st.integers(1, 60), st.integers(1, 5), st.booleans(), st.integers(4, 80))


@settings(max_examples=60, deadline=None)
@given(orders, st.data())
def test_items_are_those_of_the_order_on_the_cpu(how, data):
    """At any place, in windows much shorter than an epoch, over the edges of windows and epochs, forward and back."""
    size, world, shuffle, window = how
    rank = data.draw(st.integers(0, world - 1))
    arguments = {"seed": 3, "shuffle": shuffle, "rank": rank, "world": world}
    expected = Order(size, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_order, "WINDOW", window)
        order = DeviceOrder(size, device=CPU, **arguments)
        kept = []
        for _ in range(6):
            start = data.draw(st.integers(0, 10 * size))
            stop = start + data.draw(st.integers(0, size + 5))
            kept.append((order.items(start, stop), expected.items(start, stop).clone()))
            assert order.keys(start, stop).tolist() == kept[-1][1].tolist()
        for found, wanted in kept:  # those handed out before are as they were
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted)


def test_a_batch_is_a_slice_of_a_window_of_bounded_length(monkeypatch):
    monkeypatch.setattr(device_order, "WINDOW", 5_000)
    order = DeviceOrder(10**10, seed=1, shuffle=True, device=CPU)
    places = set()
    for start in range(10**9, 10**9 + 5_000, 100):
        found = order.items(start, start + 100)
        places.add(found.untyped_storage().data_ptr())
    assert len(places) == 1
    assert found.untyped_storage().nbytes() == 8 * 5_000


def test_two_iterations_that_take_turns_compute_nothing_again():
    with Calls() as calls:
        order = DeviceOrder(50_000, seed=1, shuffle=True, device=META)
        for start in range(0, 50_000, 1_000):
            order.items(start, start + 1_000)
            order.items(50_000 + start, 50_000 + start + 1_000)
    assert calls.counts["sent"] == 2
    assert calls.counts["arange"] == 2


def test_a_small_set_takes_one_copy_and_one_gather_an_epoch():
    with Calls() as calls:
        order = DeviceOrder(1_437, seed=1, shuffle=True, device=META)
        order.items(0, 1_024)
        order.items(1_024, 1_437)
    assert (calls.counts["sent"], calls.counts["index_select"], calls.counts["remainder"]) == (1, 1, 0)


def test_a_window_ends_with_its_epoch():
    order = DeviceOrder(1_000, seed=1, shuffle=True, device=CPU)
    order.items(600, 610)
    assert (order._start, order._stop) == (600, 1_000)
    assert order.items(990, 1_010).tolist() == Order(1_000, seed=1, shuffle=True).items(990, 1_010).tolist()


def test_an_epochs_tables_are_sent_once_and_grow_as_the_root_of_its_size():
    with Calls() as calls:
        order = DeviceOrder(10**7, seed=1, shuffle=True, device=META)
        for start in range(0, 10**7, 10**6 + 1):
            order.items(start, min(start + 10**6 + 1, 10**7))
        assert calls.counts["sent"] == 1
        order.items(10**7, 10**7 + 5)
    assert calls.counts["sent"] == 2
    tables = order._permutations[0, None]._detours.untyped_storage().nbytes()
    assert tables < 8 * 10 * math.isqrt(10**7)


@pytest.mark.parametrize("device", [META, pytest.param(CUDA, marks=pytest.mark.gpu)])
def test_nothing_waits(device):
    order = DeviceOrder(50_000, seed=1, shuffle=True, device=device)
    with refused(device):
        for start in range(0, 150_000, 1_000):
            assert order.items(start, start + 1_000).device == device


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2, 3, 64, 65, 4_095, 4_096, 50_000, 1_281_167])
def test_a_gpus_epoch_is_that_of_the_cpu(size):
    for epoch in range(2):
        check(size, 2**63 - 1, epoch, np.arange(size), CUDA)


@pytest.mark.gpu
@pytest.mark.parametrize("size", LARGE)
def test_large_sizes_on_a_gpu(size):
    check(size, 5, 3, np.concatenate([np.arange(100_000), size - 1 - np.arange(100_000)]), CUDA)


@pytest.mark.gpu
def test_another_stream_waits_for_the_window():
    size, streams = 10**6, [torch.cuda.Stream(CUDA) for _ in range(2)]
    expected = permute(np.arange(size), size=size, seed=1, epoch=0)
    busy = torch.randn(4096, 4096, device=CUDA)
    for number in range(10):
        order = DeviceOrder(size, seed=1, shuffle=True, device=CUDA)
        with torch.cuda.stream(streams[0]):
            busy = busy @ busy / 4096
            order.items(0, 10)
        with torch.cuda.stream(streams[1]):
            found = order.items(10 + number, size).clone()
        torch.cuda.synchronize()
        assert np.array_equal(found.cpu().numpy(), expected[10 + number :])
