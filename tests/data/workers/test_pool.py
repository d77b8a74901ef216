"""Errors, interrupts and odd data: what is said of them, and that nothing is lost or changed by them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tests.data.checks import source_of
from tests.data.sets import Once, Rich, no_children
from torch.utils.data import IterableDataset, RandomSampler

from adabatch.data import DataLoader
from adabatch.data.workers import transport
from adabatch.data.workers.pool import Pool
from adabatch.data.workers.readers import MapReader

ORPHANS = """
import os, time
import numpy as np
from adabatch.data import DataLoader
from adabatch.data.workers import transport

transport.WATCH_SECONDS = 0.1

class Large:
    def __len__(self):
        return 1000

    def __getitem__(self, item):
        return np.zeros(400_000, dtype=np.uint8)

loader = DataLoader(Large(), 8, num_workers=2, collate_fn=list)
batches = iter(loader)
next(batches)
time.sleep(0.5)  # until both wait to send
print(*batches.at.source.held.pool.pids(), flush=True)
os.kill(os.getpid(), 9)
"""


class Texts(Rich):
    def __len__(self):
        return 5000

    def __getitem__(self, item):
        return f"{item}" + "x" * 300_000


class Heavy(IterableDataset):
    """A stream with a large state."""

    def __init__(self):
        self.at = 0

    def state_dict(self):
        return {"at": self.at, "buffer": "x" * 400_000}

    def load_state_dict(self, state):
        self.at = state["at"]

    def __iter__(self):
        while self.at < 5000:
            self.at += 1
            yield self.at - 1


def watch_often(_number):
    transport.WATCH_SECONDS = 0.1


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_outlive_a_pause(method):
    loader = DataLoader(
        list(range(40)), 4, num_workers=1, multiprocessing_context=method, worker_init_fn=watch_often, timeout=60
    )
    found = []
    for batch in loader:
        found += batch.tolist()
        time.sleep(0.5 if len(found) == 4 else 0)
    assert found == list(range(40))


@pytest.mark.timeout(60)
def test_many_tasks_and_large_replies_do_not_wait_for_each_other():
    loader = DataLoader(Texts(), 1, num_workers=2, prefetch_factor=500, collate_fn=lambda texts: texts[0])
    found = [text.rstrip("x") for _, text in zip(range(20), loader, strict=False)]
    assert found == [str(item) for item in range(20)]


@pytest.mark.timeout(60)
def test_tasks_with_sample_numbers_and_large_replies_do_not_wait_for_each_other():
    data = np.zeros((50_000, 300), dtype=np.uint8)
    loader = DataLoader(
        list(data), 1999, sampler=RandomSampler(data), num_workers=1, prefetch_factor=16, collate_fn=len, timeout=30
    )
    assert list(loader) == [1999] * 25 + [25]


@pytest.mark.timeout(60)
def test_the_large_state_of_a_stream_is_sent_to_each_worker_once(monkeypatch):
    begun = DataLoader(Heavy(), 4, num_workers=1)
    batches = iter(begun)
    next(batches), next(batches)
    saved = begun.state_dict()
    batches.close()
    loader = DataLoader(Heavy(), 4, num_workers=2)
    loader.load_state_dict(saved)
    put, tasks = transport.Channel.put, []
    monkeypatch.setattr(transport.Channel, "put", lambda self, task: (tasks.append(task), put(self, task))[1])
    found = [batch.tolist() for _, batch in zip(range(100), loader, strict=False)]
    assert found == [list(range(8 + 4 * i, 12 + 4 * i)) for i in range(100)]
    assert sum(task is not None and task.directions is not None for task in tasks) == 2


@pytest.mark.timeout(60)
def test_a_worker_that_dies_with_tasks_on_their_way_is_named(tmp_path):
    loader = DataLoader(Once(("kill", tmp_path / "killed")), 1, num_workers=1, prefetch_factor=90, timeout=30)
    with pytest.raises(RuntimeError, match="is killed by signal: 9"):
        list(loader)
    loader = DataLoader(Texts(), 1, num_workers=2, prefetch_factor=500, collate_fn=list)
    batches = iter(loader)
    next(batches)
    os.kill(batches.at.source.held.pool.pids()[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="is killed by signal: 9"):
        list(batches)


def test_a_late_worker_is_named_while_tasks_are_on_their_way(tmp_path):
    loader = DataLoader(
        Once(("sleep", tmp_path / "never")), 1, num_workers=1, prefetch_factor=95, timeout=0.5, sampler=[5] * 2000
    )
    with pytest.raises(RuntimeError, match=r"timed out after 0\.5 seconds, in which worker 0 sent nothing"):
        list(loader)


def test_workers_end_when_the_main_process_is_killed():
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True) as main:
        workers = [int(number) for number in main.stdout.readline().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while (left := [worker for worker in workers if alive(worker)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_stream_shared_out_opens_anew_each_epoch():
    class Own(IterableDataset):
        epoch = -1

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            return iter(range(100 * self.epoch + info.id, 100 * self.epoch + 20, info.num_workers))

    loader = DataLoader(Own(), 4, num_workers=2, sharding="dataset", persistent_workers=True)
    for epoch in range(3):
        items = sorted(item for batch in loader for item in batch.tolist())
        assert items == list(range(100 * epoch, 100 * epoch + 20))


def test_a_worker_ends_when_its_socket_is_closed_though_a_later_one_lives():
    pool = Pool(MapReader([1], None, None), count=2, seed=0, collate=True, context="fork")
    first = pool._processes[0]
    pool._channels[0].close()
    first.join(5)
    code = first.exitcode
    pool.close()
    assert code == 0


class Opened:
    """Opens its file when it is unpickled."""

    def __init__(self, path, item):
        self.path, self.item = path, item

    def __setstate__(self, state):
        self.__dict__ = state
        self.path.open().close()


class Files:
    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return Opened(self.folder / ("absent" if item == 5 else "present"), item)


def test_a_sample_that_cannot_be_unpickled_is_told_at_once_and_harms_no_worker(tmp_path):
    (tmp_path / "present").touch()
    loader = DataLoader(Files(tmp_path), 2, num_workers=1, seed=0, collate_fn=list)
    batches, found = iter(loader), []
    with pytest.raises(RuntimeError, match="could not be unpickled: FileNotFoundError"):
        found.extend(sample.item for batch in batches for sample in batch)
    (tmp_path / "absent").touch()
    pids = source_of(loader).held.pool.pids()
    for batch in batches:
        assert source_of(loader).held.pool.pids() == pids
        found.extend(sample.item for sample in batch)
    assert found == [0, 1, 2, 3, 6, 7]  # a loop goes on behind the batch that could not be had


def test_replies_to_epochs_left_early_do_not_gather():
    loader = DataLoader(list(range(400)), 2, num_workers=2, seed=0, persistent_workers=True)
    for _ in range(20):
        next(iter(loader))
    time.sleep(0.3)  # until they have done all
    next(iter(loader))
    assert sum(source_of(loader).held.pool.outstanding) <= 4


def test_a_killed_worker_is_named_and_nothing_is_lost(tmp_path):
    loader = DataLoader(Once(("kill", tmp_path / "killed")), 4, num_workers=2)
    seen = []
    for _ in range(2):
        killed = []
        try:
            for batch in loader:
                seen += batch.tolist()
        except RuntimeError as error:
            killed.append(str(error))
        assert all("is killed by signal: 9" in message for message in killed)
    assert seen == list(range(100))
    assert no_children()


def test_a_worker_that_is_late_is_named(tmp_path):
    loader = DataLoader(Once(("sleep", tmp_path / "never")), 2, num_workers=1, timeout=0.5)
    with pytest.raises(RuntimeError, match=r"timed out after 0\.5 seconds, in which worker 0 sent nothing"):
        list(loader)
    assert no_children()
