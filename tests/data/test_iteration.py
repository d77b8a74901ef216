"""Passes over random histories of batch sizes and stops; passes that fail; micro-batches."""

import json
import math
import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.checks import History, check_gradients, check_resume, histories, ranks_of
from tests.data.sets import SKIPS, Plan, Squares, StreamOnce, order, ranked, refuse

from adabatch import _devices
from adabatch.data import DataLoader, device_order
from adabatch.data.workers.pool import WorkerDiedError

COUNT = int(os.environ.get("ADABATCH_HISTORIES", "10000"))


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(histories())
def test_histories(history):
    check_resume(history)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(histories().filter(lambda history: history.kind == "tensor"), st.integers(1, 40))
def test_histories_where_the_order_is_computed_as_on_a_gpu(history, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_devices, "_ALIKE", ("cpu",))
        patch.setattr(device_order, "WINDOW", window)
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


def interrupt():
    raise KeyboardInterrupt


def gone_on(batches, inside):
    """What one gets who goes on after an error by a second loop, inside the except block or after it."""
    found = []

    def go_on():
        for batch in batches():
            found.extend(batch.tolist())

    try:
        go_on()
    except (OSError, WorkerDiedError, KeyboardInterrupt):
        if inside:
            go_on()
    if not inside:
        go_on()
    return found


@pytest.mark.filterwarnings(f"ignore:{SKIPS}")
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("happens", "at", "arguments"),
    [
        (lambda: os._exit(3), 5, {"num_workers": 1}),
        (lambda: time.sleep(30), 5, {"num_workers": 1, "timeout": 1}),
        (interrupt, 5, {}),
        (refuse, None, {}),
        (refuse, None, {"num_workers": 1}),
    ],
    ids=["death", "late", "interrupt", "open", "open in a worker"],
)
def test_one_who_goes_on_reading_a_stream_gets_each_sample_once(happens, at, arguments, inside, sharding, tmp_path):
    loader = DataLoader(StreamOnce(tmp_path / "mark", happens, at), 4, seed=0, sharding=sharding, **arguments)
    assert gone_on(lambda: loader, inside) == list(range(16))
    assert loader.epoch == 1


@pytest.mark.filterwarnings(f"ignore:{SKIPS}")
@pytest.mark.parametrize("inside", [False, True])
def test_one_who_goes_on_reading_parts_gets_each_sample_once(inside, tmp_path):
    data = StreamOnce(tmp_path / "mark", lambda: os._exit(3), at=9)
    loader = DataLoader(data, 4, micro_batch_size=2, num_workers=1, seed=0)
    assert gone_on(lambda: (values for values, _ in loader.parts()), inside) == list(range(16))
    assert loader.epoch == 1


def test_an_interrupt_before_a_batch_does_not_end_the_epoch(tmp_path):
    loader = DataLoader(StreamOnce(tmp_path / "mark", interrupt, at=4), 4, seed=0)
    batches, found = iter(loader), []
    with pytest.raises(KeyboardInterrupt):
        found.extend(item for batch in batches for item in batch.tolist())
    found.extend(item for batch in batches for item in batch.tolist())
    assert found == list(range(16))


class Stopping:
    """Ends a loop where it should not."""

    def __len__(self):
        return 12

    def __getitem__(self, item):
        return next(iter(())) if item == 5 else item


def stopping(samples):
    return next(iter(())) if 5 in samples else torch.tensor(samples)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("arguments", [(Stopping(), None), (list(range(12)), stopping)], ids=["sample", "collate_fn"])
def test_a_stop_iteration_does_not_end_the_epoch(arguments, parts, workers):
    data, collate = arguments
    loader = DataLoader(data, 2, num_workers=workers, seed=0, collate_fn=collate)
    with pytest.raises(RuntimeError, match="`StopIteration` must not leave a data set"):
        list(loader.parts() if parts else loader)
    assert loader.epoch == 0


class Broken:
    """Sample 5 cannot be had at first."""

    def __init__(self, mark):
        self.mark = mark

    def __len__(self):
        return 12

    def __getitem__(self, item):
        if item == 5 and not self.mark.exists():
            raise OSError("disk")
        return item


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_that_broke_off_is_over_when_a_state_is_loaded(workers, tmp_path):
    loader = DataLoader(Broken(tmp_path / "mark"), 3, num_workers=workers, seed=0)
    state = loader.state_dict()
    batches = iter(loader)
    with pytest.raises(OSError, match="disk"):
        list(batches)
    (tmp_path / "mark").touch()
    loader.load_state_dict(state)
    assert list(batches) == []
    assert torch.cat(list(loader)).tolist() == list(range(12))


def test_parts_cut_each_batch_evenly_and_fetch_as_they_go():
    fetched = []

    def collate(samples):
        fetched.append(samples)
        return samples

    loader = DataLoader(list(range(20)), 14, collate_fn=collate, micro_batch_size=4)
    parts = loader.parts()
    data, part = next(parts)
    assert (len(data), part.index, part.count, part.size, part.is_last) == (3, 0, 4, 3, False)
    assert loader.part is part
    assert len(fetched) == 1
    assert loader.clock == 0
    assert [part.size for _, part in parts] == [4, 3, 4, 3, 3]
    assert [item for samples in fetched for item in samples] == list(range(20))
    assert loader.clock == 20


def test_a_state_saved_inside_an_accumulation_repeats_the_batch():
    loader = DataLoader(torch.arange(20), 8, micro_batch_size=3)
    parts = loader.parts()
    for _ in range(5):
        next(parts)
    resumed = DataLoader(torch.arange(20), 8, micro_batch_size=8)
    resumed.load_state_dict(loader.state_dict())
    data, part = next(resumed.parts())
    assert (data.tolist(), part.batch.clock) == (list(range(8, 16)), 8)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranks_share_each_batch_and_run_as_many_parts(data):
    size, world = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    batch_size = data.draw(st.integers(1, size))
    micro = data.draw(st.none() | st.integers(1, size))
    run_on = data.draw(st.booleans())
    how = {"micro_batch_size": micro, "seed": 2, "shuffle": True, "run_on": run_on}
    loaders = ranked(world, lambda: DataLoader(torch.arange(size), batch_size, **how))
    expected = [item for epoch in range(4) for item in order(size, 2, epoch)]
    for _ in range(2):
        for row in zip(*(loader.parts() for loader in loaders), strict=True):
            if row[0][1].index == 0:
                seen = []
            assert len({(part.index, part.count, part.batch.clock, part.batch.size) for _, part in row}) == 1
            for items, part in row:
                assert len(items) == max(part.size, 1)
                assert micro is None or part.size <= micro
                seen += items[: part.size].tolist()
            batch = row[0][1].batch
            assert row[0][1].count == (1 if micro is None else math.ceil(math.ceil(batch.size / world) / micro))
            if row[0][1].is_last:
                assert sorted(seen) == sorted(expected[batch.clock : batch.clock + batch.size])


def test_uneven_shares_in_a_plain_loop_raise_before_the_first_batch():
    for loader in ranked(2, lambda: DataLoader(dataset=torch.arange(12), batch_size=3)):
        with pytest.raises(
            ValueError, match=r"a batch of 3 samples does not divide over 2 ranks.*round_to.*accumulate"
        ):
            next(iter(loader))
    for loader in ranked(2, lambda: DataLoader(dataset=torch.arange(11), batch_size=4)):
        with pytest.raises(ValueError, match=r"of 3 samples.*drop_last.*accumulate"):
            next(iter(loader))
    first, second = ranked(2, lambda: DataLoader(dataset=torch.arange(11), batch_size=4, drop_last=True))
    assert [batch.tolist() for batch in first] == [[0, 2], [4, 6]]
    assert [batch.tolist() for batch in second] == [[1, 3], [5, 7]]
    first.batch_size = 2
    iterator = iter(first)
    next(iterator)
    first.batch_size = 3
    with pytest.raises(ValueError, match="does not divide over 2 ranks"):
        next(iterator)
    driven = ranked(2, lambda: DataLoader(dataset=torch.arange(12), batch_size=4))[0]
    plan = Plan((0, 4), (12, 3), size=12)
    plan.plan = SimpleNamespace(sizes=(3, 4), tails=())
    driven.attach(plan)
    with pytest.raises(ValueError, match="a batch of 3 samples"):
        next(iter(driven))


def test_a_sample_that_raises_loses_nothing():
    class Flaky(Squares):
        broken = True

        def __getitem__(self, item):
            if item == 5 and Flaky.broken:
                raise OSError("disk")
            return item

    for micro in (None, 2):
        Flaky.broken = True
        loader = DataLoader(Flaky(10), 4, micro_batch_size=micro)
        batches = iter(loader) if micro is None else (data for data, _ in loader.parts())
        seen = [next(batches).tolist() for _ in range(1 if micro is None else 2)]
        assert [item for items in seen for item in items] == [0, 1, 2, 3]
        with pytest.raises(OSError, match="disk"):
            next(batches)
        del batches
        Flaky.broken = False
        assert torch.cat(list(loader)).tolist() == [4, 5, 6, 7, 8, 9]
        assert loader.epoch == 1


def test_a_size_assigned_inside_an_accumulation_holds_behind_the_batch_that_is_repeated():
    def loader():
        return DataLoader(torch.arange(28), batch_size=4, micro_batch_size=2)

    unbroken = loader()
    sizes, saved = [], None
    for _, part in unbroken.parts():
        if part.is_last:
            sizes.append(part.batch.size)
        elif part.batch.clock == 4:
            unbroken.batch_size = 8
            saved = json.loads(json.dumps(unbroken.state_dict()))
    assert sizes == [4, 4, 8, 8, 4]
    assert (saved["clock"], saved["batch_size"], saved["next_batch_size"]) == (4, 4, 8)
    resumed = loader()
    resumed.load_state_dict(saved)
    again = resumed.state_dict()
    assert [part.batch.size for _, part in resumed.parts() if part.is_last] == [4, 8, 8, 4]
    assert again == saved
    assigned = loader()
    assigned.load_state_dict(saved)
    assigned.batch_size, assigned.micro_batch_size = 12, None  # as ever for the very next batch
    assert [len(batch) for batch in assigned] == [12, 12]
    with pytest.raises(ValueError, match="`batch_size` must be at most the data set's 28 samples, got 29"):
        loader().load_state_dict(saved | {"next_batch_size": 29})


def test_a_plain_loop_says_once_that_it_does_not_use_the_micro_batch_size():
    loader = DataLoader(torch.arange(20), 8, micro_batch_size=3)
    words = r"`micro_batch_size` of 3 does not split .* a plain loop, .* with 8 samples on a rank; .*`ab\.accumulate\("
    with pytest.warns(UserWarning, match=words) as told:
        assert [len(batch) for batch in loader] == [8, 8, 4]
    assert (len(told), told[0].filename) == (1, __file__)
    assert [len(batch) for batch in loader] == [8, 8, 4]


def test_the_warning_as_an_error_loses_no_batch():
    loader = DataLoader(torch.arange(20), 20, micro_batch_size=8)
    with pytest.raises(UserWarning, match="`micro_batch_size` of 8 does not split"):
        next(iter(loader))
    assert (loader.clock, loader.epoch) == (0, 0)
    assert [len(batch) for batch in loader] == [20]


def test_only_loops_over_batches_that_could_be_split_are_told():
    fitting = DataLoader(torch.arange(20), 8, micro_batch_size=8)
    assert [len(batch) for batch in fitting] == [8, 8, 4]
    ranks = ranked(2, lambda: DataLoader(torch.arange(16), 8, micro_batch_size=4))
    assert [len(list(rank)) for rank in ranks] == [2, 2]
    loader = DataLoader(torch.arange(20), 8, micro_batch_size=3)
    assert len(iter(loader)) == 3
    assert len(list(loader.parts())) == 3 + 3 + 2
    assert [len(batch) for batch in loader] == [8, 8, 4], "of a loop that goes over the data besides"


def test_a_peek_does_not_count_as_a_use_of_the_micro_batch_size():
    loader = DataLoader(torch.arange(20), 8, micro_batch_size=3)
    assert len(loader.peek()) == 2
    with pytest.warns(UserWarning, match="`micro_batch_size` of 3 does not split"):
        list(loader)
