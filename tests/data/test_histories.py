import multiprocessing
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.checks import History, check_gradients, check_resume, histories, ranks_of

from adabatch.data import DataLoader

COUNT = int(os.environ.get("ADABATCH_HISTORIES", "10000"))
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(histories())
def test_histories(history):
    check_resume(history)


@settings(max_examples=12, deadline=None, suppress_health_check=QUIET)
@given(histories(workers=3))
def test_histories_with_workers(history):
    check_resume(history)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=COUNT, deadline=None, suppress_health_check=QUIET)
@given(histories())
def test_many_histories(history):
    check_resume(history)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=max(1, COUNT // 50), deadline=None, suppress_health_check=QUIET)
@given(histories(workers=4))
def test_many_histories_with_workers(history):
    check_resume(history)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_weighted_gradients_of_uneven_and_empty_shares_sum_to_the_batchs(data):
    size = data.draw(st.integers(1, 20))
    history = data.draw(histories().filter(lambda found: found.kind == "tensor"))
    history.size = size
    columns = torch.randn(size, 3, dtype=torch.float64), torch.randint(0, 2, (size,))
    loaders = ranks_of(history, workers=0, micro=data.draw(st.none() | st.integers(1, size)), world=history.world)
    for loader in loaders:
        loader.batch_size = min(size, history.sizes[0])
    check_gradients(loaders, columns)


@pytest.mark.slow
def test_fifty_loaders_leave_nothing_behind():
    def one():
        loader = DataLoader(list(range(100)), 8, num_workers=2, shuffle=True)
        for _, _batch in zip(range(3), loader, strict=False):
            pass

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(5):
        one()
    files, memory = len(os.listdir("/proc/self/fd")), resident()
    for _ in range(50):
        one()
    assert not multiprocessing.active_children()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert resident() - memory < 20 * 2**20


@pytest.mark.parametrize(("size", "sizes", "world"), [(2, [1, 2], 3), (1, [1, 1], 2)])
def test_a_stream_that_ends_in_another_ranks_share_after_a_stop(size, sizes, world):
    check_resume(
        History(kind="stream", size=size, mode="short", shuffle=False, sizes=sizes, stops=[(1, 0, None, world)])
    )
