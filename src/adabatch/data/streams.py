"""Iterable data sets: readers that walk a stream, in a worker or in the main process."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from adabatch.data.order import seed_of
from adabatch.data.readers import SampleError
from adabatch.data.rng import SampleRng


@dataclass(frozen=True)
class Mark:
    """A place in a stream from which it can be read on.

    Attributes:
        offset: samples before it.
        state: the data set's own state there; None for the beginning, reached again by reading and dropping.
        why: why the state there cannot be kept; None if it can.
    """

    offset: int = 0
    state: Any = None
    why: str | None = None


def fresh_of(dataset: Any) -> Mark | None:
    """The beginning of every pass of a data set that knows where it stands: where it stands now."""
    if not (hasattr(dataset, "load_state_dict") and hasattr(dataset, "state_dict")):
        return None
    return Mark(0, copy.deepcopy(dataset.state_dict()))


@dataclass(frozen=True)
class Opening:
    """What a reader needs to know to read in the right pass.

    Attributes:
        serial: changes whenever the stream must be opened anew.
        epoch: which pass.
        mark: where to open it.
    """

    serial: int
    epoch: int
    mark: Mark


class StreamReader:
    """Walks a stream and keeps the share of one rank.

    With `sharding="stride"` every reader walks the whole stream and keeps what it is asked for, so that readers and
    ranks can be any number; with `"dataset"` the data set has shared itself out and all of it is kept.

    Args:
        dataset: an iterable; `set_epoch(epoch)`, and `state_dict()` and `load_state_dict()` of it or of its iterator,
            are used where they exist.
        seed: the loader's seed.
        rng: sets the generators for each sample; None leaves them alone.
        rank: which share is kept.
        world: how many shares.
        fresh: where a pass of the data set begins; None takes that from the data set before it is first read.
    """

    def __init__(
        self, dataset: Any, *, seed: int, rng: SampleRng | None, rank: int, world: int, fresh: Mark | None = None
    ) -> None:
        self.dataset, self.rng = dataset, rng
        self._seed, self._rank, self._world = seed, rank, world
        self._opening: Opening | None = None
        self._offset = 0
        self._fresh = fresh
        self._iterator: Iterator[Any] = iter(())
        self.end: int | None = None
        self.mark: Mark | None = None

    def read(self, first: int, last: int, opening: Opening) -> list[Any]:
        """Items `first` to `last` (exclusive) of this rank; fewer at the end of the stream, which is then in `end`.

        Raises:
            SampleError: if the stream raises.
        """
        samples: list[Any] = []
        if opening != self._opening or first * self._world < self._offset:
            try:
                self._open(opening)
            except Exception as error:
                self._opening = None
                raise SampleError(samples, opening.mark.offset, error) from error
        while self._offset < last * self._world and self.end is None:
            offset = self._offset
            try:
                sample = next(self._iterator) if self.rng is None else self._drawn(opening.epoch)
            except StopIteration:
                self.end = offset
                break
            except Exception as error:
                self._opening = None
                raise SampleError(samples, offset, error) from error
            except BaseException:  # the iterator may not go on
                self._opening = None
                raise
            self._offset += 1
            if offset % self._world == self._rank and offset >= first * self._world:
                samples.append(sample)
        try:
            self.mark = self._marked()
        except Exception as error:  # told where samples are missing, so none come
            self._opening = None
            raise SampleError([], self._offset, error) from error
        return samples

    def _drawn(self, epoch: int) -> Any:
        assert self.rng is not None
        with self.rng.for_sample(epoch, self._offset):
            return next(self._iterator)

    def _open(self, opening: Opening) -> None:
        state = opening.mark.state
        if self._fresh is None:
            self._fresh = fresh_of(self.dataset)
        if state is None and self._fresh is not None and self._fresh.state is not None:
            self.dataset.load_state_dict(copy.deepcopy(self._fresh.state))  # else a pass left early would go on
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(opening.epoch)
        if self.rng is not None:
            seed = seed_of(self._seed, opening.epoch)
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
        if state is not None and hasattr(self.dataset, "load_state_dict"):
            self.dataset.load_state_dict(copy.deepcopy(state))
        self._iterator = iter(self.dataset)
        if state is not None and not hasattr(self.dataset, "load_state_dict"):
            self._iterator.load_state_dict(copy.deepcopy(state))  # type: ignore[attr-defined]
        self._offset = opening.mark.offset if state is not None else 0
        self._opening, self.end = opening, None

    def _marked(self) -> Mark | None:
        """Where the stream stands, if it can say so; without a state if JSON would change that."""
        owner: Any = self._iterator if hasattr(self._iterator, "state_dict") else self.dataset
        if not hasattr(owner, "state_dict") or self.end is not None:
            return None
        state = owner.state_dict()
        if state is None:
            return None
        try:
            kept = json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            return Mark(self._offset, why=str(error))
        change = changed(state, kept)
        return Mark(self._offset, kept) if change is None else Mark(self._offset, why=change)


def changed(one: Any, other: Any, where: str = "state") -> str | None:
    """The first difference between a state and what came back from JSON, types included; None if they are equal."""
    if type(one) is not type(other):
        return f"`{where}` is a {type(one).__name__} and comes back as a {type(other).__name__}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"the keys of `{where}` must be text, got {next(key for key in one if key not in other)!r}"
        pairs = [(one[key], other[key], f"{where}[{key!r}]") for key in one]
    elif isinstance(one, list):
        pairs = [(mine, theirs, f"{where}[{i}]") for i, (mine, theirs) in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other or one != one else f"`{where}` is {one!r} and comes back as {other!r}"
    return next((found for pair in pairs if (found := changed(*pair)) is not None), None)
