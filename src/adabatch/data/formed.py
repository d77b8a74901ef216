"""Batches that somebody else forms: a `batch_sampler`, or a data set whose items are batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FormedBatches:
    """A map-style data set whose items are whole batches, read and collated where they are fetched.

    Args:
        dataset: the data set of the samples.
        collate: makes a batch of them.
        listed: whether a key is a list of sample numbers; else it is one item of the data set, which is a batch.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, listed: bool) -> None:
        self.dataset, self.collate, self._listed = dataset, collate, listed

    def __len__(self) -> int:
        """Items of the data set."""
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        """One batch."""
        if not self._listed:
            return self.collate(self.dataset[key])
        many = getattr(self.dataset, "__getitems__", None)
        return self.collate(many(key) if many is not None else [self.dataset[each] for each in key])


def only(batches: list[Any]) -> Any:
    """The batch that a list of one holds."""
    return batches[0]


class OnlyOne:
    """Makes a batch of a list of one item of a stream.

    Args:
        collate: makes a batch of the item.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        """The batch."""
        return self.collate(samples[0])
