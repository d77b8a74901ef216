"""The order on the GPU where the data set lies: the numbers of `order.permute`, and no copy for a batch.

What a round of `permute` adds to a digit is a table, as long as the root of the data set's size. The host works out the
tables of an epoch and sends them, once. From them the device computes a window of the epoch's order, up to 2^17 samples
at a time. A batch is a slice of the window.

Results beyond the data set are not sent through the grid again: how many times would have to be read back. The host
follows each cell beyond the end to where it leads, which is one more table.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch import _devices
from adabatch.data.order import SMALL, Grid, Order, grid_of, items_of, permute, steps_of, walked

WINDOW: Final = 2**17  # 1 MiB of numbers, and five times as much while it is computed
LARGEST_THERE: Final = 2**36  # tables of 16 MiB; a data set of more samples is ordered on the CPU
_Int64 = npt.NDArray[np.int64]


class Permutation:
    """`permute` for one epoch, on a device, which is never waited for.

    Args:
        size: samples in the data set, from 1 to 2^36.
        seed: which family of orders.
        epoch: which order of the family.
        device: where positions and samples lie.

    Example:
        >>> Permutation(8, seed=0, epoch=0, device=torch.device("cpu"))(torch.arange(8)).tolist()
        [3, 2, 4, 0, 6, 5, 7, 1]
    """

    def __init__(self, size: int, *, seed: int, epoch: int, device: torch.device) -> None:
        self._size, self._whole = size, None
        if size < SMALL:  # many rounds over few samples: the CPU's own numbers, at most 32 KiB, take one copy
            self._whole = _devices.sent(
                torch.from_numpy(permute(np.arange(size), size=size, seed=seed, epoch=epoch)), device
            )
            return
        grid = grid_of(size, seed, epoch)
        steps = steps_of(grid)
        detours = detours_of(size, grid, steps)
        rounds = len(steps[0])
        lengths = [grid.columns] * rounds + [grid.rows] * rounds + [len(detours)]
        packed = torch.from_numpy(np.concatenate([*steps[0], *steps[1], detours]))
        *tables, self._detours = _devices.sent(packed, device).split_with_sizes(lengths)
        self._to_row, self._to_column = tables[:rounds], tables[rounds:]
        self._rows, self._columns = grid.rows, grid.columns

    def __call__(self, positions: Tensor) -> Tensor:
        """The samples at `positions`, int64 in `[0, size)`, of any number."""
        if self._whole is not None:
            return self._whole.index_select(0, positions)
        row = positions.div(self._columns, rounding_mode="floor")
        column = positions.remainder(self._columns)
        for to_row, to_column in zip(self._to_row, self._to_column, strict=True):
            row.add_(to_row.index_select(0, column)).remainder_(self._rows)
            column.add_(to_column.index_select(0, row)).remainder_(self._columns)
        found = column.add_(row, alpha=self._columns)
        if len(self._detours) > 1:
            found.add_(self._detours.index_select(0, (found - (self._size - 1)).clamp_min_(0)))
        return found


def detours_of(size: int, grid: Grid, steps: tuple[_Int64, _Int64]) -> _Int64:
    """For each cell from `size - 1` on: how far away the first sample lies that it leads to; 0 for `size - 1` itself.

    A cell beyond the end leads to the cell that it is permuted to, and so on until one is a sample. Each pass doubles
    the length of the way that is followed. Cells beyond the end that lead round in a circle are no sample's result.

    Example:
        >>> grid = grid_of(3, 0, 0)
        >>> grid.rows * grid.columns, detours_of(3, grid, steps_of(grid)).tolist()
        (4, [0, -1])
    """
    cells = np.arange(size, grid.rows * grid.columns, dtype=np.int64)
    found = walked(cells, grid, steps)
    for _ in range(len(cells).bit_length()):
        outside = np.flatnonzero(found >= size)
        if not outside.size:
            break
        found[outside] = found[found[outside] - size]
    return np.concatenate([np.zeros(1, np.int64), found - cells])


class DeviceOrder(Order):
    """An `Order` whose numbers lie on a device.

    Two windows of the sequence are kept, each up to the end of an epoch or 2^17 items long, so that two iterations that
    take turns compute none again.

    Args:
        size: samples in the data set, from 1 to 2^36.
        seed: which family of orders.
        shuffle: False gives the samples as they lie.
        device: the device.
        rank: whose share, in `[0, world)`.
        world: ranks in all, at least 1.

    Example:
        >>> DeviceOrder(5, seed=0, shuffle=False, device=torch.device("cpu"), rank=1, world=2).items(0, 4).tolist()
        [1, 3, 0, 2]
    """

    def __init__(
        self, size: int, *, seed: int, shuffle: bool, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(size, seed=seed, shuffle=shuffle, rank=rank, world=world)
        self.device = device
        self._permutations: dict[tuple[int, Any], Permutation] = {}  # the last two, by epoch and the stream of tables
        self._stream: Any = None  # the stream that computed the window; None where there are no streams
        self._other: tuple[int, int, Tensor, Any] = (0, 0, self._block, None)  # the window before

    def items(self, start: int, stop: int) -> Tensor:
        """See `Order.items`; these stay valid."""
        if self._start <= start < stop <= self._stop:
            self._wait()
            return self._block[start - self._start : stop - self._start]
        parts = []
        while start < stop:
            if not self._start <= start < self._stop:
                self._open(start)
            self._wait()
            end = min(stop, self._stop)
            parts.append(self._block[start - self._start : end - self._start])
            start = end
        if not parts:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _open(self, start: int) -> None:
        """Computes the window that begins with item `start`."""
        former = self._start, self._stop, self._block, self._stream
        self._start, self._stop, self._block, self._stream = self._other
        self._other = former
        if self._start <= start < self._stop:  # of another iteration, which takes turns with this one
            return
        epoch, first = divmod(self.rank + start * self._world, self._size)
        count = min(WINDOW, items_of(0, (epoch + 1) * self._size, self.rank, self._world)[1] - start)
        found = torch.arange(first, first + count * self._world, self._world, device=self.device)
        self._stream = self._current()
        if self._shuffle:
            key = epoch, self._stream
            if key not in self._permutations:
                while len(self._permutations) > 1:
                    del self._permutations[next(iter(self._permutations))]
                self._permutations[key] = Permutation(self._size, seed=self._seed, epoch=epoch, device=self.device)
            found = self._permutations[key](found)
        self._start, self._stop, self._block = start, start + count, found

    def _wait(self) -> None:
        """Lets the current stream wait for the window, if another computed it."""
        current = self._current()
        if current != self._stream:
            current.wait_stream(self._stream)
            self._block.record_stream(current)

    def _current(self) -> Any:
        """The current stream of a GPU; None elsewhere."""
        return _devices.stream_of(self.device)
