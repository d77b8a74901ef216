"""Readers: where samples come from, in a worker or in the main process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from adabatch._errors import ArgumentError
from adabatch.data.order import Order
from adabatch.data.workers.rng import SampleRng


class SampleError(Exception):
    """A sample could not be fetched.

    Attributes:
        samples: those before it.
        index: its number or other key in the data set, or its position in the stream.
        cause: the error raised.
    """

    def __init__(self, samples: list[Any], index: Any, cause: Exception) -> None:
        super().__init__(f"sample {index!r}")
        self.samples, self.index, self.cause = samples, index, cause

    def raised(self) -> Exception:
        """The cause, with a note that names the sample."""
        self.cause.add_note(f"while sample {self.index!r} was fetched")
        return self.cause


class Whole:
    """A result of `__getitems__` that is no list of samples but a batch, which cannot be cut or joined."""

    def __init__(self, data: Any, count: int) -> None:
        self.data, self._count = data, count

    def __len__(self) -> int:
        return self._count


class MapReader:
    """Samples of a map-style data set, in the order of one rank.

    Args:
        dataset: the data set.
        order: which sample each item is.
        rng: sets the generators for each sample; None leaves them alone.

    Attributes:
        wholes: whether `__getitems__` may return a batch, since the user's `collate_fn` will get it.
    """

    end = mark = prints = None  # see `StreamReader`

    def __init__(self, dataset: Any, order: Order, rng: SampleRng | None) -> None:
        self.dataset, self.order, self.rng = dataset, order, rng
        self.wholes = False
        self._many = getattr(dataset, "__getitems__", None) is not None

    def told(self, *, collates: bool, walks: bool, compares: bool) -> None:  # noqa: ARG002
        """A worker reads with it, and `collates` runs or not."""
        self.wholes = not collates

    def read(self, first: int, last: int, keys: Tensor | list[Any] | None = None) -> list[Any] | Whole:
        """The samples of items `first` to `last` (exclusive), by a sampler's `keys` or by the order.

        Raises:
            SampleError: if one raises, or `__getitems__` returns another number of samples.
        """
        keys = self.order.keys(first, last) if keys is None else keys
        items = keys.tolist() if isinstance(keys, Tensor) else keys
        if self._many:
            found = self._read_many(items, first)
            if found is not None:
                return found
        samples: list[Any] = []
        get = self.dataset.__getitem__ if hasattr(self.dataset, "__getitem__") else self._single
        try:
            if self.rng is None:
                for item in items:
                    samples.append(get(item))  # keeps those before a failure
            else:
                self.rng.collect(get, items, self.order.places(first, last), samples)
        except Exception as error:
            raise SampleError(samples, items[len(samples)], error) from error
        return samples

    def _read_many(self, items: list[Any], first: int) -> list[Any] | Whole | None:
        """The samples by one call of `__getitems__`; None where they must be fetched one by one.

        They must where random numbers were drawn, which would depend on the run, and where the call raised, to find the
        sample. A whole batch stays: its random numbers belong to its first sample.
        """
        many, unused = self.dataset.__getitems__, True

        def fetch() -> Any:
            found = many(items)
            return found if self.wholes and not isinstance(found, Iterator) else list(found)

        try:
            if self.rng is None:
                found = fetch()
            else:
                epochs, positions = self.order.places(first, first + 1)
                found, unused = self.rng.unused(fetch, int(epochs[0]), int(positions[0]))
        except Exception:
            return None
        if self.wholes and not (isinstance(found, list) and len(found) == len(items)):
            return Whole(found, len(items))
        if not unused:
            self._many = False
            return None
        try:
            return _counted(found, items)
        except ValueError as error:
            raise SampleError([], items[0], error) from None

    def _single(self, item: Any) -> Any:
        return _counted(list(self.dataset.__getitems__([item])), [item])[0]


def _counted(found: list[Any], items: list[Any]) -> list[Any]:
    """`found`; raises unless it has as many samples as `items`."""
    if len(found) != len(items):
        raise ArgumentError(
            "__getitems__",
            f"must return one sample for each number: {len(items)} were asked for and {len(found)} came",
            remedy="where it returns batches give a `collate_fn` that takes them",
        )
    return found
