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
    """

    offset: int = 0
    state: Any = None


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
    """

    def __init__(self, dataset: Any, *, seed: int, rng: SampleRng | None, rank: int, world: int) -> None:
        self.dataset, self.rng = dataset, rng
        self._seed, self._rank, self._world = seed, rank, world
        self._opening: Opening | None = None
        self._offset = 0
        self._fresh: Any = None
        self._iterator: Iterator[Any] = iter(())
        self.end: int | None = None
        self.mark: Mark | None = None

    def read(self, first: int, last: int, opening: Opening) -> list[Any]:
        """Items `first` to `last` (exclusive) of this rank; fewer at the end of the stream, which is then in `end`.

        Raises:
            SampleError: if the stream raises.
        """
        if opening != self._opening or first * self._world < self._offset:
            self._open(opening)
        samples: list[Any] = []
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
            self._offset += 1
            if offset % self._world == self._rank and offset >= first * self._world:
                samples.append(sample)
        self.mark = self._marked()
        return samples

    def _drawn(self, epoch: int) -> Any:
        assert self.rng is not None
        with self.rng.for_sample(epoch, self._offset):
            return next(self._iterator)

    def _open(self, opening: Opening) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(opening.epoch)
        if self.rng is not None:
            seed = seed_of(self._seed, opening.epoch)
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
        state = opening.mark.state
        if hasattr(self.dataset, "load_state_dict") and hasattr(self.dataset, "state_dict"):
            if self._fresh is None:
                self._fresh = copy.deepcopy(self.dataset.state_dict())
            if state is None:
                state = self._fresh  # else a pass that was left early would go on
        if state is not None and not hasattr(self.dataset, "load_state_dict"):
            self._iterator = iter(self.dataset)
            self._iterator.load_state_dict(state)  # type: ignore[attr-defined]
        else:
            if state is not None:
                self.dataset.load_state_dict(state)
            self._iterator = iter(self.dataset)
        self._offset = opening.mark.offset if opening.mark.state is not None else 0
        self._opening, self.end = opening, None

    def _marked(self) -> Mark | None:
        """Where the stream stands, if it can say so and JSON can hold it."""
        owner: Any = self._iterator if hasattr(self._iterator, "state_dict") else self.dataset
        if not hasattr(owner, "state_dict") or self.end is not None:
            return None
        state = owner.state_dict()
        try:
            return Mark(self._offset, json.loads(json.dumps(state)))
        except TypeError:
            return None
