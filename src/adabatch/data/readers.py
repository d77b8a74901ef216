"""Readers: where samples come from, in a worker or in the main process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabatch.data.order import Order
from adabatch.data.rng import SampleRng


class SampleError(Exception):
    """A sample could not be fetched.

    Attributes:
        samples: those before it.
        index: its number in the data set, or where it lies in the stream.
        cause: what was raised.
    """

    def __init__(self, samples: list[Any], index: int, cause: Exception) -> None:
        super().__init__(f"sample {index}")
        self.samples, self.index, self.cause = samples, index, cause


class MapReader:
    """Samples of a map-style data set, in the order of one rank.

    Args:
        dataset: the data set.
        order: which sample each item is.
        rng: sets the generators for each sample; None leaves them alone.
    """

    def __init__(self, dataset: Any, order: Order, rng: SampleRng | None) -> None:
        self.dataset, self.order, self.rng = dataset, order, rng
        self._many = getattr(dataset, "__getitems__", None) is not None

    def read(self, first: int, last: int, drawn: Tensor | None = None) -> list[Any]:
        """The samples of items `first` to `last` (exclusive), whose numbers are `drawn` where a sampler drew them.

        Raises:
            SampleError: if one raises, or `__getitems__` returns another number of samples.
        """
        items = (self.order.items(first, last) if drawn is None else drawn).tolist()
        if self._many:
            found = self._read_many(items, first)
            if found is not None:
                return found
        samples: list[Any] = []
        get = self.dataset.__getitem__ if hasattr(self.dataset, "__getitem__") else None
        if get is None:  # only `__getitems__`
            get = self._single
        try:
            if self.rng is None:
                for item in items:
                    samples.append(get(item))  # noqa: PERF401: the samples before a failure are kept
            else:
                self.rng.collect(get, items, self.order.places(first, last), samples)
        except Exception as error:
            raise SampleError(samples, items[len(samples)], error) from error
        return samples

    def _read_many(self, items: list[int], first: int) -> list[Any] | None:
        """By one call of `__getitems__`; None where samples must be fetched one by one.

        They must where something random was drawn, since what is drawn would depend on the run, and where the call
        raised, to find the sample.
        """
        many, unused = self.dataset.__getitems__, True
        try:
            if self.rng is None:
                found = list(many(items))
            else:
                epochs, positions = self.order.places(first, first + 1)
                found, unused = self.rng.unused(lambda: list(many(items)), int(epochs[0]), int(positions[0]))
        except Exception:
            return None
        if not unused:
            self._many = False
            return None
        try:
            return _counted(found, items)
        except ValueError as error:
            raise SampleError([], items[0], error) from None

    def _single(self, item: int) -> Any:
        return _counted(list(self.dataset.__getitems__([item])), [item])[0]


def _counted(found: list[Any], items: list[int]) -> list[Any]:
    """`found`, which must be as many samples as `items`."""
    if len(found) != len(items):
        raise ValueError(
            f"`__getitems__` must return one sample for each number: {len(items)} were asked for and {len(found)} came"
        )
    return found


Collate = Callable[[list[Any]], Any]


def keep_samples(samples: list[Any]) -> list[Any]:
    """No collation: the samples of a run, for a `collate_fn` that the main process calls on each batch."""
    return samples


def as_seed(value: int) -> int:
    """A seed that numpy and python take too."""
    return int(np.uint32(value & 0xFFFFFFFF))


def seed_all(value: int) -> None:
    """Seeds python's, numpy's and torch's global generators, as torch's workers do."""
    import random

    random.seed(value)
    np.random.seed(as_seed(value))
    torch.manual_seed(value)
