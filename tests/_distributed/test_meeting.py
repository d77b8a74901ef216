"""Processes that torchrun started again meet under a name of their own, whatever those before left in the store."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from adabatch._distributed.meeting import meet

TCPStore = vars(dist)["TCPStore"]


def met(server, world, *, late=None):
    """The value of a key, set by rank 0, that each rank of a meeting reads; the rank `late` comes last."""
    found, sent = {}, str(time.monotonic_ns())

    def one(rank):
        store = TCPStore("localhost", server.port, is_master=False, timeout=timedelta(seconds=60))
        time.sleep(0.3 if rank == late else 0)
        own = meet(store, rank, world, timeout=timedelta(seconds=60))
        if rank == 0:
            own.set("address", sent)
        found[rank] = own.get("address").decode()  # waits until it is there

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, dict.fromkeys(range(world), sent)


@pytest.fixture
def server():
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def test_each_meeting_sees_only_its_own_keys(server):
    for world, late in ((3, None), (2, 1), (3, 0), (3, 2), (1, None)):
        found, expected = met(server, world, late=late)
        assert found == expected


def test_keys_of_a_meeting_before_are_not_seen(server):
    first = meet(server, 0, 1, timeout=timedelta(seconds=5))
    first.set("address", "old")
    assert first.check(["address"])
    assert not meet(server, 0, 1, timeout=timedelta(seconds=5)).check(["address"])


def test_ranks_that_do_not_come_are_named(server):
    with pytest.raises(dist.DistStoreError, match=r"of 3 processes these did not come: ranks \[1, 2\]"):
        meet(server, 0, 3, timeout=timedelta(seconds=0.2))
