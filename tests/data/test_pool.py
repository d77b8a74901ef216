import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tests.data.test_workers import Once, Rich
from torch.utils.data import IterableDataset, RandomSampler

from adabatch.data import DataLoader
from adabatch.data.workers import transport

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
    assert sum(task is not None and task.drawn is not None for task in tasks) == 2


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
