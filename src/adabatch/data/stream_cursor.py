"""Where a loader over a stream stands: the clock counts the samples delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from adabatch import _checks
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
        length: samples in the last pass that was read to its end; None before the first.
        chunk: samples that one reader gives in its turn, where a set shares itself out; None before the first pass.
    """

    known = False
    __slots__ = ("_found", "base", "chunk", "epoch", "extent", "kept", "length", "place")

    def __init__(self, *, batch_size: int, drop_last: bool) -> None:
        super().__init__(2**62, batch_size=batch_size, drop_last=drop_last, run_on=False)
        self.epoch = 0
        self.base = 0
        self.length: int | None = None
        self.chunk: int | None = None
        self._found = 0
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
        found = {"epoch": self.epoch, "base": self.base, "length": self.length, "chunk": self.chunk}
        return {**found, "place": self.goes_on()}

    def go_on(self, stream: Mapping[str, Any]) -> None:
        """Stands where `saved` was called."""
        self.epoch, self.base = stream["epoch"], stream["base"]
        self.length, self.chunk = stream["length"], stream["chunk"]
        self.kept, self.place = stream["place"], None

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
        if size < requested:
            self._found = offset + size
            if self.drop_last:
                size = 0
        return clock, requested, size

    def pass_epoch(self, clock: int, epoch: int) -> None:
        """See `Cursor.pass_epoch`.

        Raises:
            ValueError: if the stream gave less than in the epoch before; the loader stands at the next epoch then.
        """
        super().pass_epoch(clock, epoch)
        self.skip_epoch(epoch)
        before, self.length = self.length, self._found
        length = self._found
        if before is not None and length < before:
            raise ValueError(
                f"`dataset` must not shrink between epochs, gave {before} samples before and {length} in epoch {epoch};"
                " the next iteration starts the next epoch. Give a sampled stream a fixed number of samples"
            )

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

    def count(self, _start: int, _epoch: int) -> int:
        """Raises: the length of a stream is not known."""
        raise TypeError("a loader over a stream has no length; count the batches, or use a data set with a length")


def _all(_offset: int, wanted: int) -> int:
    """As if the stream gave all that is wanted."""
    return wanted
