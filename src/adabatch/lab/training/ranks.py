"""The processes that train one run together, and the decisions that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from adabatch import _distributed
from adabatch._errors import ArgumentError
from adabatch.lab.training.device import pick_device

LOOK_SECONDS: Final = 0.5
_Value = TypeVar("_Value")


class Seen(NamedTuple):
    """Events that end a stretch: a signal's number (0 for none), time to save, a loss that is not finite.

    And one that does not: `writing`, whether a checkpoint is still being written.
    """

    signal: int
    over: bool
    diverged: bool
    writing: bool = False

    def __bool__(self) -> bool:
        return bool(self.signal or self.over or self.diverged)


class Ranks:
    """The processes of a run; outside a process group this one alone.

    Only rank 0 has files. Ranks react to a signal after the same update: if one left the loop alone, the others would
    wait for ever. So all look for such events together, which costs a collective, about twice a second.

    Attributes:
        rank: of this process.
        world: number of processes.
    """

    def __init__(self) -> None:
        self.rank, self.world = _distributed.rank_and_world()
        self._step = 1.0  # updates between two looks
        self._last = 0, time.perf_counter()  # updates and time of the last look

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def from_first(self, make: Callable[[], _Value]) -> _Value:
        """Calls `make` on rank 0 only and returns its result on every rank; if it fails, others raise `RankError`."""
        return _distributed.from_first(make)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over ranks."""
        return value if self.world == 1 else _distributed.summed(value)

    def gathered(self, value: _Value) -> list[_Value]:
        """The values of all ranks, on every rank."""
        return _distributed.gathered(value)

    def is_due(self, updates: int) -> bool:
        """Whether it is time to `look`; the same on all ranks."""
        return self.world == 1 or updates >= self._last[0] + self._step

    def look(self, mine: Seen, updates: int) -> Seen:
        """Events on any rank; all ranks must call it after the same number of updates."""
        if self.world == 1:
            return mine
        (before, began), now = self._last, time.perf_counter()
        of_an_update = (now - began) / max(1, updates - before)
        step = max(1.0, min(2 * self._step, LOOK_SECONDS / of_an_update))
        *found, fewest = _distributed.largest([*map(float, mine), -step], device=_distributed.device_of())
        self._step, self._last = -fewest, (updates, now)
        return Seen(int(found[0]), *map(bool, found[1:]))

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raises ArgumentError on every rank if `values` differ between ranks."""
        _distributed.check_same(values, remedy="start all processes with the same command, code and data")

    def each_first(self, make: Callable[[], _Value]) -> _Value:
        """Returns `make()` of each rank. Rank 0 calls it first, so that only one process downloads or builds."""
        if self.world == 1:
            return make()
        mine: list[_Value] = []

        def first() -> None:
            mine.append(make())

        self.from_first(first)
        return mine[0] if mine else make()

    def wrapped(
        self, model: nn.Module, device: torch.device, *, fsdp: bool = False, compress: str | None = None
    ) -> nn.Module:
        """The model in DistributedDataParallel, or with `fsdp` itself, its parameters sharded in place.

        Args:
            model: the network.
            device: of its parameters.
            fsdp: whether to shard.
            compress: how gradients travel, see `ab.accumulate`; None: whole.
        """
        if fsdp:
            if not _distributed.is_together():
                remedy = "start with torchrun, or train with --no-fsdp"
                raise ArgumentError("fsdp", "must be used under torchrun", got="one process alone", remedy=remedy)
            _distributed.shard(model, device, narrow=compress is not None and self.world > 1)
            return model
        if self.world == 1:
            return model
        ids = [device.index if device.index is not None else 0] if device.type == "cuda" else None
        ddp = nn.parallel.DistributedDataParallel(model, device_ids=ids)
        _distributed.hook_into(ddp, compress)  # where DDP reduces itself, it is to be counted
        return ddp

    def first_clock(self, clock: int) -> int:
        """The clock of this rank's first sample from `clock` on; its next one is `world` later."""
        return clock + (self.rank - clock) % self.world


@contextmanager
def joined(device: str, *, command: str) -> Iterator[Ranks]:
    """A context in which the processes that torchrun started train together; without torchrun this one is alone.

    Args:
        device: the setting.
        command: what this process does; raises ArgumentError on every rank if others do something else.
    """
    if _distributed.launched() is None:
        yield Ranks()
        return
    with _distributed.process_group(pick_device(device)):
        ranks = Ranks()
        ranks.check_same({"command": command})
        yield ranks
