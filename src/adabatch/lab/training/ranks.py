"""The processes that train one run together, and what they decide together."""

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
    """What any rank saw: the number of a signal (0 for none), a time to save, a loss that is not finite."""

    signal: int
    over: bool
    diverged: bool

    def __bool__(self) -> bool:
        return bool(self.signal or self.over or self.diverged)


class Ranks:
    """The processes of a run; outside a process group this one alone.

    Files are the first one's. What ranks see apart, such as a signal, they must learn at the same update, since a rank
    that leaves the loop alone would let the others wait for ever. A look costs a collective, so that there are about
    two a second.

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
        """What `make` returns on rank 0, which alone calls it, on every rank.

        Raises:
            Exception: on rank 0 what `make` raises; on the others `RankError`.
        """
        return _distributed.from_first(make)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over ranks."""
        return value if self.world == 1 else _distributed.summed(value)

    def gathered(self, value: _Value) -> list[_Value]:
        """The `value` of each rank, on all."""
        return _distributed.gathered(value)

    def is_due(self, updates: int) -> bool:
        """Whether all ranks look after this many updates."""
        return self.world == 1 or updates >= self._last[0] + self._step

    def look(self, mine: Seen, updates: int) -> Seen:
        """What any rank saw; all must ask after the same number of updates."""
        if self.world == 1:
            return mine
        (before, began), now = self._last, time.perf_counter()
        of_an_update = (now - began) / max(1, updates - before)
        step = max(1.0, min(2 * self._step, LOOK_SECONDS / of_an_update))
        *found, fewest = _distributed.largest([*map(float, mine), -step], device=_distributed.device_of())
        self._step, self._last = -fewest, (updates, now)
        return Seen(int(found[0]), bool(found[1]), bool(found[2]))

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raises on every rank unless all were given the same values.

        Raises:
            ValueError: naming the first that differs, and a rank.
        """
        every = self.gathered(dict(values))
        for rank, theirs in enumerate(every):
            for name, value in every[0].items():
                if theirs[name] != value:
                    raise ArgumentError(
                        name,
                        "must be the same on all ranks",
                        got=f"{value!r} on rank 0 and {theirs[name]!r} on rank {rank}",
                        remedy="start all processes with the same command, code and data",
                    )

    def each_first(self, make: Callable[[], _Value]) -> _Value:
        """What `make` returns on each rank; rank 0 makes it first, so that it alone downloads or builds."""
        if self.world == 1:
            return make()
        mine: list[_Value] = []

        def first() -> None:
            mine.append(make())

        self.from_first(first)
        return mine[0] if mine else make()

    def wrapped(self, model: nn.Module, device: torch.device, *, fsdp: bool = False) -> nn.Module:
        """The model as ranks train it together.

        Args:
            model: the network, on `device`.
            device: of this rank.
            fsdp: whether its parameters are sharded, in place; else DistributedDataParallel averages gradients.

        Raises:
            ValueError: if it is to be sharded without a process group.
        """
        if fsdp:
            if not _distributed.is_together():
                remedy = "start with torchrun, or leave it out"
                raise ArgumentError("fsdp", "must be used under torchrun", got="one process alone", remedy=remedy)
            _distributed.shard(model, device)
            return model
        if self.world == 1:
            return model
        ids = [device.index if device.index is not None else 0] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def first_clock(self, clock: int) -> int:
        """The first clock from `clock` on whose sample is this rank's; the next one is `world` further."""
        return clock + (self.rank - clock) % self.world


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """While it is entered, the processes that torchrun started are one run's; without torchrun this one is alone.

    Args:
        device: the name of the device that they train on.
    """
    if _distributed.launched() is None:
        yield Ranks()
        return
    with _distributed.process_group(pick_device(device)):
        yield Ranks()
