"""The order of samples: a keyed bijection of `[0, N)` at every size, in constant memory.

Position `p` of an epoch is split into the digits of an `a x b` grid that is just large enough for `N`. Rounds of an
alternating Feistel network add to each digit in turn a keyed function of the other, modulo its base, so every round
can be undone and the whole is a bijection of the grid. The few results beyond `N` (fewer than one in `sqrt(N)`) are
sent through again until they fall inside, which makes it a bijection of `[0, N)`. The keys come from (seed, epoch).
Nothing is stored: any position of any epoch costs the same, also at 10^12 samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch._random import RandomState, kept

# Both numbers of rounds are measured by tests/data/test_order.py; they stay, since states hold no more than a seed.
# From SMALL samples on pairs that share a digit betray 4 rounds in any epoch and 6 in a few hundred epochs, but not 8.
# A small grid mixes more slowly: up to 64 samples such pairs betray 8 rounds, and at 5 to 8 samples the share of epochs
# with another order than chance would give them, worked out exactly, is 4 to 28 % after 8 rounds and 0.04 to 0.4 %
# after 24.
ROUNDS: Final = 8
SMALL: Final = 4096
ROUNDS_OF_SMALL: Final = 24
BLOCK: Final = 8192
SAMPLED_BLOCK: Final = 2**20  # so large that a sampler of usual length is checked when the epoch begins
LARGEST: Final = 2**48  # the clock of many epochs must fit 63 bits
_UInt32 = npt.NDArray[np.uint32]
_Int64 = npt.NDArray[np.int64]


class Grid(NamedTuple):
    """The grid whose cells the positions of one epoch are, and two words for each round."""

    rows: int
    columns: int
    keys: _UInt32


def grid_of(size: int, seed: int, epoch: int) -> Grid:
    """The grid of `size` samples, from 1 to 2^48, in an epoch."""
    rows = math.isqrt(size - 1) + 1
    rows += rows % 2  # adding modulo an odd base is an even permutation, so two odd bases would reach only half of them
    return Grid(rows, -(-size // rows), _keys(seed, epoch, ROUNDS_OF_SMALL if size < SMALL else ROUNDS))


def permute(positions: _Int64, *, size: int, seed: int, epoch: int) -> _Int64:
    """The samples at `positions` of `epoch`.

    Args:
        positions: whole numbers in `[0, size)`, any shape.
        size: samples in the data set, from 1 to 2^48.
        seed: which family of orders.
        epoch: which order of the family, at least 0.

    Returns:
        Sample numbers in `[0, size)`, of the shape of `positions`; over all positions each appears once.

    Example:
        >>> sorted(permute(np.arange(10), size=10, seed=3, epoch=0).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    grid = grid_of(size, seed, epoch)
    if size < SMALL:  # the few results outside would cost as many calls again: the whole grid is done at once
        cells = walked(np.arange(grid.rows * grid.columns, dtype=np.int64), grid, steps_of(grid))
        found = cells.take(positions)
        while (outside := np.flatnonzero(found >= size)).size:
            found.flat[outside] = cells.take(found.flat[outside])
        return found
    found = _rounds(positions, grid)
    outside = np.flatnonzero(found >= size)
    while outside.size:
        found.flat[outside] = _rounds(found.flat[outside], grid)
        outside = outside[found.flat[outside] >= size]
    return found


def _keys(seed: int, epoch: int, rounds: int) -> _UInt32:
    """Two words for each round."""
    text = f"adabatch order 1: {seed} {epoch}".encode()
    return np.frombuffer(hashlib.shake_256(text).digest(8 * rounds), dtype="<u4").astype(np.uint32)


def _rounds(positions: _Int64, grid: Grid) -> _Int64:
    """The bijection of the whole grid."""
    rows, columns, keys = grid
    if 2 * rows <= positions.size:
        return walked(positions, grid, steps_of(grid))
    high, low = np.divmod(positions, columns)
    left, right = high.astype(np.uint32), low.astype(np.uint32)
    for i in range(0, len(keys), 4):
        _add(left, _digit(right, keys[i], keys[i + 1], rows), rows)
        _add(right, _digit(left, keys[i + 2], keys[i + 3], columns), columns)
    return left.astype(np.int64) * columns + right


def steps_of(grid: Grid) -> tuple[_Int64, _Int64]:
    """What each round adds to the row of a cell in each column, and to the column of one in each row.

    Returns:
        `[rounds / 2, columns]` and `[rounds / 2, rows]`: the two take turns.
    """
    rows, columns, keys = grid
    to_row = _digit(np.arange(columns, dtype=np.uint32), keys[0::4, None], keys[1::4, None], rows)
    to_column = _digit(np.arange(rows, dtype=np.uint32), keys[2::4, None], keys[3::4, None], columns)
    return to_row.astype(np.int64), to_column.astype(np.int64)


def walked(positions: _Int64, grid: Grid, steps: tuple[_Int64, _Int64]) -> _Int64:
    """The bijection of the whole grid by its `steps`: where a side is short, each round has few different ones."""
    rows, columns, _ = grid
    left, right = np.divmod(positions, columns)
    for left_steps, right_steps in zip(*steps, strict=True):
        _look_up_and_add(left, left_steps, right, rows)
        _look_up_and_add(right, right_steps, left, columns)
    left *= columns
    left += right
    return left


def _look_up_and_add(digit: _Int64, steps: _Int64, other: _Int64, base: int) -> None:
    """`digit = (digit + steps[other]) mod base`, in place."""
    digit += steps.take(other)
    wrapped = digit.view(np.uint64)
    np.minimum(wrapped, wrapped - np.uint64(base), out=wrapped)


def _add(digit: _UInt32, step: _UInt32, base: int) -> None:
    """`digit = (digit + step) mod base`, in place; both are below `base`, which is at most 2^31."""
    digit += step
    np.minimum(digit, digit - np.uint32(base), out=digit)  # where the sum is below `base` the difference wraps around


def _digit(value: _UInt32, key: _UInt32 | np.uint32, second_key: _UInt32 | np.uint32, base: int) -> _UInt32:
    """A keyed function of `value` in `[0, base)`: the high half of the product of its scrambled bits with `base`."""
    wide = mix(value ^ key, second_key).astype(np.uint64)
    wide *= np.uint64(base)
    wide >>= np.uint64(32)
    return wide.astype(np.uint32)


def mix(x: _UInt32, key: _UInt32 | np.uint32) -> _UInt32:
    """Scrambles the bits of each word, in place: two rounds of multiply and xor-shift with a key in between.

    Source:
        Chris Wellons, "lowbias32" of hash-prospector, 2018, https://nullprogram.com/blog/2018/07/31/: shifts, factors.

    Departures:
        A key is added after the first factor.
    """
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x += key
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


class Order:
    """The samples that one rank takes, as one endless sequence.

    Item `k` of rank `r` of `W` is the sample at clock `r + k * W`, that is at position `clock % size` of epoch
    `clock // size`. A block of the sequence is kept, so that neighbouring requests cost a slice.

    Args:
        size: samples in the data set, from 1 to 2^48.
        seed: which family of orders.
        shuffle: False gives the samples as they lie.
        rank: whose share, in `[0, world)`.
        world: ranks in all, at least 1.

    Attributes:
        device: where the numbers lie.

    Example:
        >>> Order(5, seed=0, shuffle=False, rank=1, world=2).items(0, 4).tolist()
        [1, 3, 0, 2]
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool, rank: int = 0, world: int = 1) -> None:
        self._size, self._seed, self._shuffle = size, seed, shuffle
        self.rank, self._world = rank, world
        self.device = torch.device("cpu")
        self._start = self._stop = 0
        self._block: Tensor = torch.empty(0, dtype=torch.int64)  # from item `_start` to `_stop`, and room

    def items(self, start: int, stop: int) -> Tensor:
        """Items `start` to `stop` (exclusive) of the sequence, int64; valid until the next call."""
        if start >= self._start and stop <= self._stop:
            return self._block[start - self._start : stop - self._start]
        if stop <= start:
            return torch.empty(0, dtype=torch.int64)
        kept = self._block[start - self._start : self._stop - self._start] if self._start <= start else self._block[:0]
        first = start + len(kept)
        epoch = (self.rank + first * self._world) // self._size
        ahead = items_of(0, (epoch + 1) * self._size, self.rank, self._world)[1]  # no further than this epoch
        fresh = self._compute(first, max(stop, min(first + BLOCK, ahead)))
        if stop - start > BLOCK:  # longer than a block: nothing worth keeping
            return torch.cat([kept, fresh[: stop - first]])
        # In place: a new block would lie in the memory of a batch just freed, and the next batch would not fit there.
        if not len(self._block):
            self._block = torch.empty(2 * BLOCK, dtype=torch.int64)
        if len(kept):
            self._block[: len(kept)] = kept.clone()
        self._start, self._stop = start, first + len(fresh)
        self._block[first - start : self._stop - start] = fresh
        return self._block[: stop - start]

    def keys(self, start: int, stop: int) -> Tensor | list[Any]:
        """Keys for the data set: the numbers of `items`, or a list where a sampler gives other keys."""
        return self.items(start, stop)

    def sent(self, _start: int, _stop: int) -> Tensor | list[Any] | None:
        """Keys for a worker; None if it can compute them itself."""
        return None

    def places(self, start: int, stop: int) -> tuple[_Int64, _Int64]:
        """Epochs and positions of items `start` to `stop` (exclusive)."""
        clocks = np.arange(start, stop, dtype=np.int64) * self._world + self.rank
        epochs, positions = np.divmod(clocks, self._size)
        return epochs, positions

    def _compute(self, start: int, stop: int) -> Tensor:
        clocks = np.arange(start, stop, dtype=np.int64) * self._world + self.rank
        positions = clocks % self._size
        if self._shuffle:
            first, last = int(clocks[0]) // self._size, int(clocks[-1]) // self._size
            edges = np.searchsorted(clocks, np.arange(first + 1, last + 1, dtype=np.int64) * self._size)
            pieces = np.split(positions, edges)
            positions = np.concatenate(
                [permute(p, size=self._size, seed=self._seed, epoch=first + i) for i, p in enumerate(pieces)]
            )
        return torch.from_numpy(positions)


def items_of(clock: int, size: int, rank: int, world: int) -> tuple[int, int]:
    """Which items of rank `rank` lie in the batch `[clock, clock + size)`: first and one past the last."""
    return -((rank - clock) // world), -((rank - clock - size) // world)


def seed_of(seed: int, epoch: int) -> int:
    """A 32-bit seed for one epoch."""
    return int(_keys(seed, epoch, 1)[0])


def draw_seed(generator: Any = None) -> int:
    """A seed from `generator`, or from torch's default one."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


class SampledOrder(Order):
    """The order that a sampler gives, as one endless sequence.

    The sampler is iterated once an epoch, in the main process, as far as samples are asked for. The global generators
    and its own `generator` are seeded from (seed, epoch), so torch's samplers repeat their order after a restart.
    """

    def __init__(self, sampler: Any, size: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(size, seed=seed, shuffle=False, rank=rank, world=world)
        self._sampler = sampler
        self._epochs: dict[int, SampledEpoch] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sampler": None, "_epochs": {}}  # workers are sent keys

    def keys(self, start: int, stop: int) -> Tensor | list[Any]:
        """See `Order.keys`."""
        epochs, positions = self.places(start, stop)
        parts = [self._epoch(int(epoch)).at(positions[epochs == epoch]) for epoch in np.unique(epochs)]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return torch.from_numpy(found) if found.dtype == np.int64 else found.tolist()

    def sent(self, start: int, stop: int) -> Tensor | list[Any]:
        """See `Order.sent`; workers cannot draw keys themselves."""
        return self.keys(start, stop)

    def _epoch(self, epoch: int) -> SampledEpoch:
        if epoch not in self._epochs:
            drawn = SampledEpoch(self._sampler, self._size, seed=seed_of(self._seed, epoch), epoch=epoch)
            kept = {other: found for other, found in self._epochs.items() if other == epoch - 1}
            self._epochs = kept | {epoch: drawn}
        return self._epochs[epoch]


class SampledEpoch:
    """The keys that a sampler draws in one epoch, a block at a time."""

    def __init__(self, sampler: Any, size: int, *, seed: int, epoch: int) -> None:
        self._sampler, self._size, self._epoch = sampler, size, epoch
        self._generators = [torch.default_generator]
        if isinstance(own := getattr(sampler, "generator", None), torch.Generator):
            self._generators.append(own)
        self._seed = seed
        self._blocks: list[npt.NDArray[Any]] = []
        self._drawn: RandomState | None = None  # the generators after the last block
        self._iterator: Iterator[Any] = iter(())

    def at(self, positions: _Int64) -> npt.NDArray[Any]:
        """The keys at ascending `positions`: int64 if all are sample numbers, else objects."""
        blocks, places = np.divmod(positions, SAMPLED_BLOCK)
        while len(self._blocks) <= blocks[-1]:
            self._blocks.append(self._block())
        parts = [self._blocks[block].take(places[blocks == block]) for block in range(blocks[0], blocks[-1] + 1)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _block(self) -> npt.NDArray[Any]:
        before = len(self._blocks) * SAMPLED_BLOCK
        wanted = min(SAMPLED_BLOCK, self._size - before)
        last = before + wanted == self._size
        with kept(generators=self._generators):
            if self._drawn is None:
                random.seed(self._seed)
                np.random.seed(self._seed)
                for generator in self._generators:
                    generator.manual_seed(self._seed)
                self._iterator = iter(self._sampler)
            else:
                self._drawn.restore()
            drawn = list(itertools.islice(self._iterator, wanted))
            more = sum(1 for _ in itertools.islice(self._iterator, SAMPLED_BLOCK)) if last else 0
            self._drawn = RandomState(generators=self._generators)
        if len(drawn) < wanted or more:
            got = before + len(drawn) + more
            raise ArgumentError(
                "sampler",
                f"must draw as many samples as its length {self._size}",
                got=f"{'at least ' if more == SAMPLED_BLOCK else ''}{got} in epoch {self._epoch}",
                remedy="correct its `__len__`",
            )
        return self._array(drawn)

    def _array(self, drawn: list[Any]) -> npt.NDArray[Any]:
        """Sample numbers as int64, anything else as objects."""
        if all(type(item) is int for item in drawn) or all(map(_is_number, drawn)):
            with contextlib.suppress(OverflowError):  # the data set judges a number that large
                return np.fromiter(map(int, drawn), np.int64, len(drawn))
        for item in drawn:
            if isinstance(item, float | np.floating) or (isinstance(item, Tensor) and item.is_floating_point()):
                raise ArgumentTypeError(
                    "sampler",
                    "must give sample numbers or other keys of the data set",
                    got=f"the fraction {item!r} in epoch {self._epoch}",
                    remedy="make whole numbers of them, for example by `int`",
                )
        found = np.empty(len(drawn), dtype=object)
        for i, item in enumerate(drawn):  # one by one: numpy would unpack lists
            found[i] = item
        return found


def _is_number(item: Any) -> bool:
    """Whether `item` is a whole number and no bool, which data sets take in their own ways."""
    if isinstance(item, Tensor):
        return item.dim() == 0 and not item.is_floating_point() and not item.is_complex() and item.dtype != torch.bool
    return isinstance(item, int | np.integer) and not isinstance(item, bool)
