"""A store of keys for the processes that torchrun has just started: one that those before a restart never wrote to.

torchrun's own outlives its restarts, and the processes have no number of the restart in common: each launcher counts
for itself. So a process could read the address of a peer that is gone (pytorch/pytorch#135712).
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any, Final

import torch.distributed as dist

WAIT_SECONDS: Final = 0.02


def meet(store: Any, rank: int, world: int, *, timeout: timedelta) -> Any:
    """The part of a torch.distributed store that these `world` processes alone use; each must call it once.

    Each rank says hello by a number of its own. Rank 0 answers each number with the name of this meeting, until the
    rank has confirmed it. Hellos of before get answers that no one reads.

    Raises:
        RuntimeError: if a rank does not come in time.
    """
    meeting = uuid.uuid4().hex
    if rank > 0:
        number = uuid.uuid4().hex
        store.set(f"hello/{rank}", number)
        store.wait([f"welcome/{number}"], timeout)
        meeting = store.get(f"welcome/{number}").decode()
        store.set(f"here/{meeting}/{rank}", "")
    missing, end = set(range(1, world)) if rank == 0 else set(), time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > end:
            raise dist.DistStoreError(f"of {world} processes these did not come: ranks {sorted(missing)}")
        for other in missing:
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", meeting)
        missing = {other for other in missing if not store.check([f"here/{meeting}/{other}"])}
        time.sleep(WAIT_SECONDS)
    return dist.PrefixStore(meeting, store)  # type: ignore[attr-defined]
