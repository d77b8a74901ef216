"""Data sets and drivers that tests of loaders share."""

import gc
import multiprocessing
import os
import random
import signal
import threading
import time

import numpy as np
import torch
from torch.utils.data import (
    IterableDataset,
    get_worker_info,
)

from adabatch.data.order import permute
from adabatch.data.workers.rng import sample_seed


class Rich:
    """Nested samples with random parts."""

    def __len__(self):
        return 100

    def __getitem__(self, item):
        drawn = (random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(()), sample_seed() % 2**62)
        return {"item": item, "row": torch.full((3,), float(item)), "name": f"s{item}", "drawn": drawn}


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def no_children():
    gc.collect()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not multiprocessing.active_children()


SKIPS = r".*read and dropped"


class Stream(IterableDataset):
    """Counts up; shuffles by a buffer and draws noise if asked to."""

    def __init__(self, size, noisy=False):
        self.size, self.noisy, self.read = size, noisy, 0

    def __iter__(self):
        start = 0 if not self.noisy else random.randrange(1000)
        for item in range(self.size):
            self.read += 1
            yield start + item, float(np.random.rand()) if self.noisy else 0.0


class Stateful(Stream):
    """Knows where it stands."""

    def __init__(self, size):
        super().__init__(size)
        self.at = 0

    def __iter__(self):
        while self.at < self.size:
            self.at += 1
            self.read += 1
            yield self.at - 1, 0.0
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def items(batches):
    return [item for batch in batches for item in batch[0].tolist()]


def ranked(world, make):
    loaders = [make() for _ in range(world)]
    for rank, loader in enumerate(loaders):
        loader._supply.sharing = lambda rank=rank: (None, rank, world)
    return loaders


class Sharing(IterableDataset):
    """Shares itself out among workers; perhaps unevenly."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for item in range(self.size):
            if item % step == first and not (first == 1 and item > self.size // 2):
                yield item, float(np.random.rand())


class Keeping(Sharing):
    """The same, and knows where it stands."""

    def __init__(self, size):
        super().__init__(size)
        self.at = 0

    def __iter__(self):
        every = list(super().__iter__())
        while self.at < len(every):
            self.at += 1
            yield every[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def expected_of(size, workers):
    left = set(range(size))
    if workers > 1:
        left -= {item for item in range(size) if item % workers == 1 and item > size // 2}
    return left


class Plan:
    """A driver with sizes by clock: the first of (start, size) pairs whose start is not above it, from the end."""

    plan = None

    def __init__(self, *starts, size, drop_last=False):
        self.starts, self.size, self.drop_last, self.refuse, self.checks = starts, size, drop_last, None, 0

    @property
    def sizes(self):
        return () if self.plan is None else self.plan.sizes

    def assign(self, batch_size):
        return False

    def batch_size_at(self, clock):
        return [size for start, size in self.starts if start <= clock][-1]

    def sizes_between(self, start, stop):
        counts = {}
        while start < stop:
            size = self.batch_size_at(start)
            if self.drop_last and stop - start < size:
                break
            cut = min(size, stop - start)
            start, counts[cut] = start + size, counts.get(cut, 0) + 1
        return counts

    def check_next(self, *, begins=False):
        self.checks += 1
        if self.refuse:
            raise RuntimeError(self.refuse)


def order(size, seed=0, epoch=0):
    return permute(np.arange(size), size=size, seed=seed, epoch=epoch).tolist()


class Squares:
    """A map-style data set without any fast path."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, item):
        return {"item": item, "square": torch.tensor(item) ** 2, "name": f"s{item}"}


class Once(Rich):
    """Fails in its own ways at sample 5."""

    def __init__(self, how=None):
        self.how = how

    def __getitem__(self, item):
        if item == 5 and self.how is not None and not os.path.exists(self.how[1]):
            if self.how[0] == "kill":
                open(self.how[1], "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how[0] == "raise":
                raise OSError("disk")
            if self.how[0] == "sleep":
                time.sleep(30)
        return item


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(one, two)


class NeedsLockError(OddError):
    """Cannot be sent, but made again from a text."""

    def __init__(self, text):
        Exception.__init__(self, text)
        self.lock = threading.Lock()


class NeverError(OddError):
    """Cannot be sent in any way."""

    def __reduce__(self):
        raise TypeError("never")


class MissingError(KeyError):
    """Made from two things."""

    def __init__(self, key, where):
        super().__init__(key, where)
        self.where = where


RAISED = [
    (lambda: OddError(1, 2), OddError, (1, 2)),
    (lambda: KeyError("k"), KeyError, ("k",)),
    (lambda: MissingError("k", "here"), MissingError, ("k", "here")),
    (lambda: FileNotFoundError(2, "no such file", "x.png"), FileNotFoundError, (2, "no such file")),
    (lambda: UnicodeDecodeError("utf8", b"x", 0, 1, "bad"), UnicodeDecodeError, ("utf8", b"x", 0, 1, "bad")),
    (lambda: NeedsLockError("v"), NeedsLockError, ("NeedsLockError: v",)),
]


class Raising(Rich):
    def __getitem__(self, item):
        raise (*(row[0] for row in RAISED), lambda: NeverError(1, 2))[item]()  # anew: tracebacks hold loaders


class Drawing:
    """Draws, and tells the seed of its worker."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return np.random.rand(), float(torch.rand(())), random.random(), get_worker_info().seed


def refuse():
    raise OSError("no such shard")


class StreamOnce(IterableDataset):
    """Counts up; the first time that it is opened, or comes to sample `at`, something happens."""

    def __init__(self, mark, happens, at=5):
        self.mark, self.happens, self.at = mark, happens, at

    def __iter__(self):
        if self.at is None:
            self.happen()
        return self.items()

    def items(self):
        for item in range(16):
            if item == self.at:
                self.happen()
            yield item

    def happen(self):
        if not self.mark.exists():
            self.mark.touch()
            self.happens()
