"""Errors, interrupts and odd data: what is said of them, and that nothing is lost or changed by them."""

import collections
import errno
import os
import random
import signal
import socket
import threading
import time

import numpy as np
import pytest
import torch
from tests.data.checks import source_of
from tests.data.test_streams import SKIPS, ranked
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from adabatch.data import DataLoader
from adabatch.data.workers import transport
from adabatch.data.workers.pool import Pool, WorkerDiedError
from adabatch.data.workers.readers import MapReader


def interrupt():
    raise KeyboardInterrupt


def refuse():
    raise OSError("no such shard")


class Once(IterableDataset):
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
    loader = DataLoader(Once(tmp_path / "mark", happens, at), 4, seed=0, sharding=sharding, **arguments)
    assert gone_on(lambda: loader, inside) == list(range(16))
    assert loader.epoch == 1


@pytest.mark.filterwarnings(f"ignore:{SKIPS}")
@pytest.mark.parametrize("inside", [False, True])
def test_one_who_goes_on_reading_parts_gets_each_sample_once(inside, tmp_path):
    data = Once(tmp_path / "mark", lambda: os._exit(3), at=9)
    loader = DataLoader(data, 4, micro_batch_size=2, num_workers=1, seed=0)
    assert gone_on(lambda: (values for values, _ in loader.parts()), inside) == list(range(16))
    assert loader.epoch == 1


def test_an_interrupt_before_a_batch_does_not_end_the_epoch(tmp_path):
    loader = DataLoader(Once(tmp_path / "mark", interrupt, at=4), 4, seed=0)
    batches, found = iter(loader), []
    with pytest.raises(KeyboardInterrupt):
        found.extend(item for batch in batches for item in batch.tolist())
    found.extend(item for batch in batches for item in batch.tolist())
    assert found == list(range(16))


class Kept:
    """Holds large tensors of its own."""

    def __init__(self):
        self.rows = [torch.full((5000,), float(item)) for item in range(400)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, item):
        return self.rows[item]


@pytest.mark.parametrize("batch_size", [16, 300])  # fewer and more than come along with one message
def test_tensors_that_a_set_keeps_hold_no_files_open_in_workers(batch_size):
    loader = DataLoader(Kept(), batch_size, num_workers=2, seed=0, collate_fn=torch.stack, persistent_workers=True)
    assert torch.cat(list(loader))[:, 0].tolist() == list(range(400))
    time.sleep(0.2)  # until they let go of what they sent last
    of_main = len(os.listdir("/proc/self/fd"))
    assert all(len(os.listdir(f"/proc/{pid}/fd")) < of_main + 10 for pid in source_of(loader).held.pool.pids())


class NoEpoch(IterableDataset):
    def set_epoch(self, epoch):
        raise ValueError("no such epoch")

    def __iter__(self):
        return iter(range(8))


class NoPlace(IterableDataset):
    """Counts up; the place after sample 3 can be asked for or returned to only where `asked` or `returned` says so."""

    def __init__(self, asked=False, returned=False):
        self.at, self.asked, self.returned = 0, asked, returned

    def state_dict(self):
        if self.at > 3 and not self.asked:
            raise ValueError("cannot tell the place")
        return {"at": self.at}

    def load_state_dict(self, state):
        if state["at"] > 3 and not self.returned:
            raise ValueError("cannot go there")
        self.at = state["at"]

    def __iter__(self):
        while self.at < 40:
            self.at += 1
            yield self.at - 1


class SilentError(Exception):
    def __str__(self):
        raise TypeError("no text")


class Silent:
    def __len__(self):
        return 8

    def __getitem__(self, item):
        if item == 5:
            raise SilentError
        return item


@pytest.mark.parametrize("sharding", ["stride", "dataset"])
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda mark: Once(mark, refuse, None), OSError, "sample 0 could not be fetched in worker 0.*no such shard"),
        (lambda _: NoEpoch(), ValueError, "no such epoch"),
    ],
    ids=["__iter__", "set_epoch"],
)
def test_what_a_stream_raises_in_a_worker_arrives(make, kind, message, sharding, tmp_path):
    with pytest.raises(kind, match=message):
        list(DataLoader(make(tmp_path / "mark"), 4, num_workers=1, seed=0, sharding=sharding))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_a_place_that_a_stream_cannot_tell_is_told(sharding, workers):
    with pytest.raises(ValueError, match="cannot tell the place"):
        list(DataLoader(NoPlace(), 4, num_workers=workers, seed=0, sharding=sharding))


def test_a_state_that_a_stream_refuses_in_a_worker_is_told():
    def make(returned):
        return DataLoader(NoPlace(asked=True, returned=returned), 4, num_workers=1, seed=0)

    begun = make(returned=True)
    batches = iter(begun)
    next(batches), next(batches)
    loader = make(returned=False)
    loader.load_state_dict(begun.state_dict())
    with pytest.raises(ValueError, match="cannot go there"):
        list(loader)


def test_an_error_without_a_text_arrives():
    with pytest.raises(SilentError):
        list(DataLoader(Silent(), 2, num_workers=1, seed=0))


MEETING = threading.Barrier(2)


def meet():
    MEETING.wait(10)


class Meeting:
    """Is unpickled while another is."""

    def __reduce__(self):
        return meet, ()


def test_two_threads_receive_tensors_at_the_same_time():
    found = {}

    def receive(number):
        mine, theirs = socket.socketpair()
        with mine, theirs:
            transport.Channel(mine).send((Meeting(), torch.full((5000,), number)))
            found[number] = transport.Channel(theirs).receive()[1].unique().tolist()

    threads = [threading.Thread(target=receive, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: [1], 2: [2]}


class Drawing:
    """Draws, and tells the seed of its worker."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return np.random.rand(), float(torch.rand(())), random.random(), get_worker_info().seed


class DrawingStream(IterableDataset):
    def __iter__(self):
        for _ in range(8):
            yield np.random.rand(), float(torch.rand(())), random.random()


@pytest.mark.parametrize(
    ("make", "sharding"), [(Drawing, "stride"), (DrawingStream, "stride"), (DrawingStream, "dataset")]
)
def test_without_sample_rng_each_epoch_draws_anew(make, sharding):
    loader = DataLoader(make(), 4, num_workers=2, seed=0, sample_rng=False, sharding=sharding)
    first, second = ([column.tolist() for column in next(iter(loader))] for _ in range(2))
    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("how", [{}, {"persistent_workers": True}])
def test_without_sample_rng_each_worker_draws_its_own(how):
    loader = DataLoader(Drawing(), 1, num_workers=2, seed=0, sample_rng=False, **how)
    *drawn, seeds = ([float(batch[i]) for _ in range(2) for batch in loader] for i in range(4))
    assert [len(set(column)) for column in drawn] == [16] * 3
    assert len({seed for batch in loader for seed in batch[3].tolist()}) == 2
    assert len(seeds) == 16


def test_workers_have_other_seeds_on_each_rank_and_in_each_epoch():
    loaders = ranked(2, lambda: DataLoader(Drawing(), 4, num_workers=2, seed=0))
    seeds = [seed for _ in range(2) for loader in loaders for *_, column in loader for seed in column.tolist()]
    assert len(set(seeds)) == 8


def test_a_worker_ends_when_its_socket_is_closed_though_a_later_one_lives():
    pool = Pool(MapReader([1], None, None), count=2, seed=0, collate=True, context="fork")
    first = pool._processes[0]
    pool._channels[0].close()
    first.join(5)
    code = first.exitcode
    pool.close()
    assert code == 0


def test_a_signal_handler_of_the_main_process_does_not_run_in_workers(tmp_path):
    ran = tmp_path / "ran"
    before = signal.signal(signal.SIGTERM, lambda *_: ran.touch())
    try:
        loader = DataLoader(list(range(500)), 1, num_workers=1, seed=0)
        batches = iter(loader)
        next(batches)
        os.kill(source_of(loader).held.pool.pids()[0], signal.SIGTERM)
        with pytest.raises(WorkerDiedError, match="is killed by signal: 15"):
            list(batches)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ran.exists()


class Crowded:
    """A socket that refuses descriptors the first time, as the system does when too many are under way."""

    def __init__(self, end):
        self.end, self.refused = end, False

    def sendmsg(self, *message):
        if not self.refused:
            self.refused = True
            raise OSError(errno.ETOOMANYREFS, "too many references")
        return self.end.sendmsg(*message)

    def __getattr__(self, name):
        return getattr(self.end, name)


def test_descriptors_that_the_system_refuses_for_now_are_sent_later():
    mine, theirs = socket.socketpair()
    with mine, theirs:
        crowded = Crowded(mine)
        transport.Channel(crowded).send(torch.ones(5000))
        assert torch.equal(transport.Channel(theirs).receive(), torch.ones(5000))
    assert crowded.refused


class Gauss:
    """Draws half a pair of normal numbers, for one sample."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return random.gauss(0, 1) if item == 5 else 0.0


def test_half_a_pair_of_normal_numbers_left_over_before_is_not_a_samples():
    was, found = random.getstate(), []
    for drawn in (1, 2):
        random.seed(0)
        for _ in range(drawn):
            random.gauss(0, 1)
        found.append([value for batch in DataLoader(Gauss(), 4, seed=0) for value in batch])
    random.setstate(was)
    assert found[0] == found[1]


class Changing:
    """Samples of another form in every fifth batch of 4."""

    def __init__(self, one, other):
        self.forms = one, other

    def __len__(self):
        return 200

    def __getitem__(self, item):
        return self.forms[item // 4 % 5 == 4](item)


class ChangingStream(IterableDataset):
    def __init__(self, *forms):
        self.data = Changing(*forms)

    def __iter__(self):
        return map(self.data.__getitem__, range(200))


@pytest.mark.parametrize("make", [Changing, ChangingStream])
@pytest.mark.parametrize(
    "forms",
    [
        (lambda i: {"x": i}, lambda i: {"x": i, "y": i}),
        (lambda i: 2**24 + 1 + i, lambda i: 0.1 * i),
        (lambda i: torch.tensor(0.1 * i), lambda i: torch.tensor(2**24 + 1 + i)),
        (lambda i: (np.full(2, 0.1 * i), i), lambda i: (np.full(2, i), i)),
    ],
    ids=["keys", "types", "dtypes", "arrays"],
)
def test_samples_that_change_their_form_between_batches_are_collated_by_batches(forms, make):
    data = Changing(*forms)
    expected = [default_collate([data[item] for item in range(first, first + 4)]) for first in range(0, 200, 4)]
    found = list(DataLoader(make(*forms), 4, num_workers=1, seed=0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


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
    with pytest.raises(RuntimeError, match="`StopIteration` must not come out of"):
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


class Defaults:
    def __len__(self):
        return 16

    def __getitem__(self, item):
        return collections.defaultdict(float, x=item)


@pytest.mark.parametrize("arguments", [{"num_workers": 1}, {"device": "cpu"}, {"device": "meta", "num_workers": 1}])
def test_a_defaultdict_stays_one(arguments):
    for batch in DataLoader(Defaults(), 3, seed=0, **arguments):
        assert type(batch) is collections.defaultdict
        assert batch.default_factory is float
        assert list(batch) == ["x"]
        assert batch["x"].device.type == arguments.get("device", "cpu")


class Graph:
    """A batch that moves itself."""

    def __init__(self, nodes):
        self.nodes = nodes

    def to(self, device):
        return Graph(self.nodes.to(device))


def test_batches_that_move_themselves_are_moved():
    rows = [torch.ones(3 + item % 2) for item in range(4)]

    def collate(samples):
        return pack_sequence(samples, enforce_sorted=False), [Graph(torch.stack([row.sum() for row in samples]))]

    for packed, (graph,) in DataLoader(rows, 2, collate_fn=collate, device="meta", seed=0):
        assert type(packed) is torch.nn.utils.rnn.PackedSequence
        assert {packed.data.device.type, packed.sorted_indices.device.type, graph.nodes.device.type} == {"meta"}
        assert packed.batch_sizes.tolist() == [2, 2, 2, 1]


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
