"""Micro-batches of any size made from a loader's own samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adabatch._errors import ArgumentError, ArgumentTypeError

Make = Callable[[int], Any]


def maker(loader: Any) -> Make:
    """A function that makes micro-batches of any size from the first batch that `loader` would yield now.

    The loader stands where it stood. Samples are repeated where more are asked for than the batch holds.

    Args:
        loader: an `ab.DataLoader`, any iterable of batches that can be iterated again, or such a function itself.

    Raises:
        TypeError: if it is none of these, or its batches cannot be cut.
        ValueError: if it is empty.
    """
    if callable(loader) and not hasattr(loader, "__iter__"):
        return loader  # type: ignore[no-any-return]
    batch = _first(loader)
    have = _length(batch)
    if have == 0:
        raise ArgumentError("loader", "must yield batches of at least one sample", got="an empty one")

    def make(size: int) -> Any:
        return resized(batch, have, size)

    return make


def _first(loader: Any) -> Any:
    if hasattr(loader, "peek"):
        return loader.peek()
    if not hasattr(loader, "__iter__"):
        raise ArgumentTypeError(
            "loader", "must be a loader or a function from a size to a batch", got=type(loader).__name__
        )
    with _generators_kept(loader):
        iterator = iter(loader)
        if iterator is loader:
            raise ArgumentTypeError(
                "loader",
                "must be one that can be iterated again",
                got="an iterator, of which a batch would be lost",
                remedy="pass the loader itself, or a function from a size to a batch",
            )
        batch = next(iterator, None)
    if batch is None:
        raise ArgumentError("loader", "must yield at least one batch", got="none")
    return batch


@contextlib.contextmanager
def _generators_kept(loader: Any) -> Iterator[None]:
    """Generators that a torch DataLoader or its sampler draw from stay as they are."""
    holders = (getattr(holder, "generator", None) for holder in (loader, getattr(loader, "sampler", None)))
    kept = [(generator, generator.get_state()) for generator in holders if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state(state)


def _is_column(data: Any) -> bool:
    return isinstance(data, list | tuple) and len(data) > 0 and isinstance(data[0], str | bytes)


def _length(batch: Any) -> int:
    for leaf in pytree.tree_leaves(batch, is_leaf=_is_column):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
        if _is_column(leaf):
            return len(leaf)
    raise ArgumentTypeError(
        "loader",
        "must yield batches with tensors",
        got=type(batch).__name__,
        remedy="pass a function from a size to a batch",
    )


def resized(batch: Any, have: int, size: int) -> Any:
    """`batch`, of `have` samples, with `size` of them, in turn and again where they do not suffice.

    Example:
        >>> resized((torch.arange(3), ["a", "b", "c"]), 3, 5)
        (tensor([0, 1, 2, 0, 1]), ['a', 'b', 'c', 'a', 'b'])
    """
    if size == have:
        return batch

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == have:
            return leaf[torch.arange(size, device=leaf.device) % have]
        if _is_column(leaf) and len(leaf) == have:
            return type(leaf)(leaf[index % have] for index in range(size))
        return leaf

    return pytree.tree_map(cut, batch, is_leaf=_is_column)


def shapes(batch: Any) -> list[str]:
    """Types and shapes of what a sample is made of."""
    return [
        f"{leaf.dtype}{tuple(leaf.shape[1:])}" if isinstance(leaf, Tensor) else type(leaf).__name__
        for leaf in pytree.tree_leaves(batch, is_leaf=_is_column)
    ]
