"""Errors, interrupts and odd data: what is said of them, and that nothing is lost or changed by them."""

import contextlib
import errno
import os
import socket
import threading
import time

import numpy as np
import pytest
import torch
from tests.data.checks import source_of
from torch.utils.data import TensorDataset

from adabatch.data import DataLoader
from adabatch.data.workers import transport
from adabatch.data.workers.transport import Channel


@contextlib.contextmanager
def pair():
    mine, theirs = socket.socketpair()
    with mine, theirs:
        yield Channel(mine), Channel(theirs)


@pytest.fixture
def ends():
    with pair() as channels:
        yield channels


def there_and_back(thing):
    with pair() as (one, other):
        one.send(thing)
        return other.receive()


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.bool, torch.bfloat16, torch.complex64, torch.int64, torch.uint8),
        *(torch.uint16, torch.uint32, torch.uint64),
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 7, 2), (300, 400)])
def test_tensors_arrive_as_they_are(dtype, shape):
    tensor = (torch.randn(shape) * 10).to(dtype)
    found = there_and_back({"a": tensor, "b": [tensor.transpose(0, -1) if tensor.dim() else tensor, "text", 3]})
    assert found["a"].dtype == dtype
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"][0], tensor.transpose(0, -1) if tensor.dim() else tensor)
    assert found["b"][1:] == ["text", 3]


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_arrive_as_they_are(layout):
    parts = [torch.full((size,), float(size)) for size in (2, 3, 50_000)]
    found = there_and_back([torch.nested.nested_tensor(parts, layout=layout)])[0]
    assert (found.is_nested, found.layout) == (True, layout)
    assert all(map(torch.equal, found.unbind(), parts))


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64", "int8", "bfloat16", "bool", "float8_e5m2"])
@pytest.mark.parametrize("workers", [0, 1])
def test_tensors_of_any_kind_come_through_a_loader(kind, workers):
    rows = torch.arange(12)
    for data in (rows.to(getattr(torch, kind)), rows.reshape(6, 2).to(getattr(torch, kind))):
        for made in (data, TensorDataset(data), list(data)):
            loader = DataLoader(made, 4, num_workers=workers)
            found = []
            for batch in loader:
                found.append(batch[0] if isinstance(made, TensorDataset) else batch)
                loader.batch_size = 3
            assert torch.equal(torch.cat([part.float() for part in found]), data.float())
            assert {part.dtype for part in found} == {data.dtype}


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


def test_what_cannot_be_pickled_sends_nothing(ends):
    one, other = ends
    with pytest.raises((AttributeError, TypeError, Exception), match="pickle"):
        one.send([torch.ones(100_000), lambda: 1])
    assert one.flush()
    assert not other.ready()


def test_writing_stops_where_the_socket_is_full_and_goes_on_later(ends):
    one, other = ends
    sent = [("text" * 300_000, torch.full((5000,), float(i)), i) for i in range(4)]
    for thing in sent:
        one.put(thing)
        assert not one.flush()
    found = []
    thread = threading.Thread(target=lambda: found.extend(other.receive() for _ in sent))
    thread.start()
    one.finish()
    thread.join()
    assert [(text, number) for text, _, number in found] == [(text, number) for text, _, number in sent]
    assert [float(tensor.mean()) for _, tensor, _ in found] == [0.0, 1.0, 2.0, 3.0]
    assert one.flush()
    assert not other.ready()


def test_a_large_message_each_way_at_once(ends):
    one, other = ends
    found = []

    def answer():
        other.send(b"b" * 3_000_000)
        found.append(other.receive())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    one.put(b"a" * 3_000_000)
    while not one.flush():
        if one.ready():
            assert one.receive() == b"b" * 3_000_000
    thread.join(60)
    assert found == [b"a" * 3_000_000]


def test_an_end_that_closes_is_the_end(ends):
    one, other = ends
    one.put("half" * 1_000_000)
    one.flush()
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        other.send(1)


@pytest.mark.parametrize("act", [Channel.receive, lambda channel: channel.send("text" * 1_000_000)])
def test_waiting_ends_with_the_parent(act, monkeypatch):
    monkeypatch.setattr(transport, "WATCH_SECONDS", 0.05)
    mine, theirs = socket.socketpair()
    with mine, theirs, pytest.raises(EOFError):
        act(Channel(theirs, parent=os.getpid()))  # which is not this process's parent


def test_a_default_timeout_of_sockets_changes_nothing():
    socket.setdefaulttimeout(0.01)
    try:
        with pair() as (one, other):
            timer = threading.Timer(0.2, lambda: one.send([torch.ones(5000)]))
            timer.start()
            assert torch.equal(other.receive()[0], torch.ones(5000))
            timer.join()
    finally:
        socket.setdefaulttimeout(None)


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
