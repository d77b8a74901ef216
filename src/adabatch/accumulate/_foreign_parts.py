"""What can be told of loaders of another make."""

from __future__ import annotations

import contextlib
import hashlib
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from adabatch._errors import ArgumentError, ArgumentTypeError


def count_samples(data: Any) -> int:
    """Samples in a batch: the length of the first tensor, array or list of strings in it.

    Raises:
        TypeError: if there is none.

    Example:
        >>> count_samples({"ids": torch.zeros(3, 5), "more": [1, 2]}), count_samples((["a", "b"], None))
        (3, 2)
    """
    found = _first_length(data)
    if found is None:
        raise ArgumentTypeError(
            None,
            f"the samples of a batch of {type(data).__name__} cannot be counted",
            remedy="pass `samples=`, a function of a batch",
        )
    return found


def _first_length(data: Any) -> int | None:
    if isinstance(data, Tensor | np.ndarray):
        return len(data) if data.ndim else None
    if isinstance(data, list | tuple) and data and isinstance(data[0], str | bytes | int | float):
        return len(data)
    inner = data.values() if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else ()
    return next((found for each in inner if (found := _first_length(each)) is not None), None)


def delivered(loader: Any, world: int) -> int | None:
    """Samples that one pass of a torch DataLoader over a map-style data set delivers, over all ranks; else None."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return None
    try:
        size = len(loader.sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    if loader.drop_last:
        size -= size % loader.batch_size
    return size * world or None


def set_epoch(loader: Any, epoch: int) -> None:
    """Tells a loader, its sampler or its data set which epoch begins, where they want to know."""
    for holder in (*_holders(loader), getattr(loader, "dataset", None)):
        tell = getattr(holder, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def _holders(loader: Any) -> list[Any]:
    """A loader and its samplers, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    return list({id(holder): holder for holder in found if holder is not None}.values())


def draw_seed() -> int:
    """A seed from torch's default generator."""
    return int(torch.randint(2**62, ()).item())


@contextlib.contextmanager
def seeded(loader: Any, seed: int, epoch: int, rank: int) -> Iterator[None]:
    """Random states that depend on the numbers alone, those from before afterwards.

    Generators that a loader or its samplers have of their own are set, too.
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {rank}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little") >> 1
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    own = [getattr(holder, "generator", None) for holder in _holders(loader)]
    kept = [(generator, generator.get_state()) for generator in own if isinstance(generator, torch.Generator)]
    try:
        for generator, _ in kept:
            generator.manual_seed(value)
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.default_generator.manual_seed(value)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        for generator, state in reversed(kept):  # one may be there twice
            generator.set_state(state)


def check_same(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises where a state is of another loader than one with the settings `own`.

    Raises:
        ValueError: if one differs; a micro-batch size that is not known yet does not.
    """
    for name, mine in own.items():
        if state[name] != mine and not (name == "micro_batch_size" and mine is None):
            raise ArgumentError(
                "state",
                f"must belong to this loader: `{name}` is {state[name]!r} there and {mine!r} here",
                remedy="batches of another make are counted, so resume with the same settings",
            )


def warn_of_counting(taken: int) -> None:
    """Warns of what a resume by counting cannot restore."""
    warnings.warn(
        f"resuming by counting: the first {taken} batches of the epoch are fetched again and thrown away; exact if the "
        "loader yields the same batches in the same order (same workers, its own seed set); what it drew at random "
        "itself is not restored",
        RuntimeWarning,
        stacklevel=3,
    )
