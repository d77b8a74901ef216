"""Where a loader over a stream stands: the clock counts the samples delivered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from adabatch import _checks
from adabatch._errors import ArgumentTypeError
from adabatch.data.cursor import Cursor
from adabatch.types import Batch


class StreamCursor(Cursor):
    """A cursor over passes whose length is not known ahead.

    Args:
        batch_size: samples in a batch over all ranks.
        drop_last: whether a last batch that would be short is dropped.

    Attributes:
        extent: how many samples of the pass there are, up to the number asked for; set by the loader.
        place: where the pass goes on after a number of samples; set by the loader, None between passes.
        kept: where the pass that was left goes on; None at its beginning.
        epoch: which pass.
        base: the clock where the pass began.
        sized: samples in a pass by the word of the stream's own `__len__`, asked for `len()` only; None without one.
        chunk: samples that one reader gives in its turn, where a set shares itself out; None before the first pass.
    """

    known = False
    __slots__ = ("_counted", "base", "chunk", "epoch", "extent", "kept", "place", "sized")

    def __init__(self, *, batch_size: int, drop_last: bool) -> None:
        super().__init__(2**62, batch_size=batch_size, drop_last=bool(drop_last), run_on=False)
        self.epoch = 0
        self.base = 0
        self.sized: int | None = None
        self.chunk: int | None = None
        self._counted = False  # whether somebody relies on `sized`
        self.extent: Callable[[int, int], int] = _all
        self.place: Callable[[int], dict[str, Any]] | None = None
        self.kept: dict[str, Any] | None = None

    def fork(self) -> Self:
        """See `Cursor.fork`."""
        twin = super().fork()
        twin.settle()
        return twin

    def settle(self) -> None:
        """The pass is over or left: keeps where it goes on."""
        self.kept, self.place, self.extent = self.goes_on(), None, _all

    def goes_on(self) -> dict[str, Any] | None:
        """Where the stream goes on after what is committed; None at its beginning."""
        offset = self.position - self.base
        if not offset:
            return None
        return self.kept if self.place is None else self.place(offset)

    def __getstate__(self) -> Any:
        """All but what belongs to an iteration."""
        plain: Any = super().__getstate__()
        return None, plain[1] | {"extent": _all, "place": None, "kept": self.goes_on()}

    def turn(self) -> int:
        """Samples that one reader gives in its turn: a rank's share of the batch size when the first pass begins."""
        if self.chunk is None:
            self.chunk = -(-self.batch_size // self.world)
        return self.chunk

    def saved(self) -> dict[str, Any]:
        """What a state holds besides the clock."""
        return {"epoch": self.epoch, "base": self.base, "chunk": self.chunk, "place": self.goes_on()}

    def go_on(self, stream: Mapping[str, Any]) -> None:
        """Stands where `saved` was called."""
        self.epoch, self.base = stream["epoch"], stream["base"]
        self.chunk, self.kept, self.place = stream["chunk"], stream["place"], None

    def checked(self, batch_size: int) -> int:
        """See `Cursor.checked`; there is no upper limit."""
        return _checks.whole("batch_size", batch_size, remedy="it counts the samples of one update, over all ranks")

    def following(self, position: int | None = None) -> tuple[int, int]:
        """See `Cursor.following`; what is dropped at the end of a stream is not counted."""
        clock = self.position if position is None else position
        return clock, self.requested(clock)

    def epoch_of(self, _clock: int) -> int:
        """The pass that goes on."""
        return self.epoch

    def start_of(self, _epoch: int) -> int:
        """Where the next iteration starts."""
        return self.position

    def cut(self, position: int, _epoch: int) -> tuple[int, int, int]:
        """See `Cursor.cut`; waits until it is known how much the stream gives."""
        clock, requested = self.following(position)
        offset = clock - self.base
        size = self.extent(offset, offset + requested) - offset
        if self._counted and self.sized is not None and offset + size > self.sized:
            self._counted = False  # told once
            warnings.warn(
                f"`dataset` has a `__len__` of {self.sized} and gave {offset + size} samples: `len()` of the loader was"
                " too small; correct `__len__`, or leave it out",
                UserWarning,
                stacklevel=5,
            )
        if size < requested and self.drop_last:
            size = 0
        return clock, requested, size

    def pass_epoch(self, clock: int, epoch: int) -> None:
        """See `Cursor.pass_epoch`."""
        super().pass_epoch(clock, epoch)
        self.skip_epoch(epoch)

    def move_to(self, epoch: int) -> None:
        """See `Cursor.move_to`."""
        self.epoch, self.base = epoch, self.position

    def ends_at(self, _position: int, _epoch: int) -> bool:
        """See `Cursor.ends_at`."""
        return False

    def repeat(self, batch: Batch) -> None:
        """See `Cursor.repeat`; the stream is gone back in."""
        super().repeat(batch)
        self.cut(batch.clock, batch.epoch)

    def predicted(self, position: int, _epoch: int) -> Iterator[tuple[int, int]]:
        """See `Cursor.predicted`; does not wait."""
        while True:
            clock, requested = self.following(position)
            yield clock, requested
            position = clock + requested

    def skip_epoch(self, epoch: int) -> None:
        """See `Cursor.skip_epoch`; what was not read is not counted."""
        if epoch == self.epoch:
            self.epoch, self.base = epoch + 1, self.position

    def count(self, start: int, _epoch: int) -> int:
        """See `Cursor.count`; by the word of the stream's own `__len__`.

        Raises:
            TypeError: if it has none.
        """
        if self.sized is None:
            raise ArgumentTypeError(
                None,
                "a loader over a stream without `__len__` has no length",
                remedy="count the batches, or give the stream one",
            )
        self._counted = True
        stop = self.base + self.sized
        if start >= stop:
            return 0
        if self.driver is not None:
            return self.driver.batches_between(start, stop)
        whole, rest = divmod(stop - start, self.demand.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def count_whole(self, epoch: int) -> int:
        """See `Cursor.count_whole`."""
        return self.count(self.base if epoch == self.epoch else self.position, epoch)


def _all(_offset: int, wanted: int) -> int:
    """As if the stream gave all that is wanted."""
    return wanted
