"""What a loader shows of itself: its settings, where it stands, and the hooks of a scheduler."""

from __future__ import annotations

from typing import Any, Final

from adabatch import _checks
from adabatch._errors import ArgumentError, UsageError
from adabatch.data import worker
from adabatch.data.cursor import Cursor
from adabatch.data.order import Order, SampledOrder
from adabatch.data.place import Place
from adabatch.data.stream_cursor import StreamCursor
from adabatch.data.views import BatchSamplerView, SamplerView
from adabatch.types import Batch, Driver, Part

_FIXED: Final = frozenset(("dataset", "sampler", "batch_sampler", "drop_last", "run_on", "shuffle", "seed"))


class Face:
    """Attributes of a loader and the methods of `types.DrivenLoader`."""

    _place: Place
    _dataset: Any
    _sampler: Any
    _formed: bool
    _batch_sampler: Any
    _seed: int
    _shuffle: bool
    _orders: dict[tuple[int, ...], Order]
    _micro_batch_size: int | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            raise ArgumentError(
                name, "must not be assigned once a loader is built", value=value, remedy="build another loader"
            )
        super().__setattr__(name, value)

    # What it is

    @property
    def dataset(self) -> Any:
        """The data set."""
        return self._dataset

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch; None for a stream."""
        return None if isinstance(self._place.cursor, StreamCursor) else self._place.cursor.size

    @property
    def shuffle(self) -> bool:
        """Whether each epoch has an order of its own."""
        return self._shuffle

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""
        return self._place.cursor.drop_last

    @property
    def run_on(self) -> bool:
        """Whether batches run on into the next epoch."""
        return self._place.cursor.run_on

    @property
    def seed(self) -> int:
        """Which family of orders."""
        return self._seed

    @property
    def sampler(self) -> Any:
        """The sampler given; without one the samples of the epoch in which the loader stands. None for a stream."""
        if self._batch_sampler is not None:
            return getattr(self._batch_sampler, "sampler", None)
        if self._sampler is not None or self.dataset_size is None:
            return self._sampler
        return SamplerView(self._whole_order, self._stand)

    @property
    def batch_sampler(self) -> Any:
        """The batch sampler given; without one the batches of the epoch in which the loader stands. None for a stream.

        The latter is for tools that look: a batch is cut when it is asked for. To change its size set `batch_size`.
        """
        if self._formed or self.dataset_size is None:
            return self._batch_sampler
        return BatchSamplerView(self.sampler, self._whole_order, self._stand)

    def _whole_order(self) -> Order:
        """The order over all ranks."""
        return self._order(self._place.cursor.size)

    def _order(self, size: int, rank: int = 0, world: int = 1) -> Order:
        """The order of one rank, the same object for all iterations, so that a sampler is iterated once an epoch."""
        key = size, self._seed, rank, world
        if key not in self._orders:
            if self._sampler is not None:
                order: Order = SampledOrder(self._sampler, size, seed=self._seed, rank=rank, world=world)
            else:
                order = Order(size, seed=self._seed, shuffle=self._shuffle, rank=rank, world=world)
            self._orders[key] = order
        return self._orders[key]

    def _stand(self) -> tuple[Cursor, int]:
        return self._place.cursor, self._place.epoch

    # Where it stands

    @property
    def batch_size(self) -> int:
        """Samples in one update, over all ranks; set it at any time, it holds for the very next batch.

        None where a `batch_sampler` or the data set forms the batches.
        """
        return None if self._formed else self._place.shown.batch_size  # type: ignore[return-value]  # as torch's

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        _check_outside("batch_size")
        if self._formed:
            raise ArgumentError(
                "batch_size",
                "must not be set where a `batch_sampler` or the data set forms the batches",
                value=value,
                remedy="build the loader with a `batch_size` and without `batch_sampler`",
            )
        self._place.cursor.batch_size = value

    @property
    def micro_batch_size(self) -> int | None:
        """Samples per forward and backward pass on one rank; set it at any time, it holds from the next batch on."""
        return self._micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int | None) -> None:
        if "_micro_batch_size" in vars(self):
            _check_outside("micro_batch_size")
        if value is not None:
            value = _checks.whole("micro_batch_size", value, remedy="None trains on whole rank batches")
            if self.dataset_size is not None and value > self.dataset_size:
                raise ArgumentError(
                    "micro_batch_size",
                    f"must be at most the data set's {self.dataset_size} samples",
                    value=value,
                    remedy="None trains on whole rank batches",
                )
        self._micro_batch_size = value

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples; what was dropped counts as passed."""
        place = self._place
        return (place.shown if place.cursor.driver is None else place.cursor).clock

    @property
    def epoch(self) -> int:
        """The epoch that the next `iter()` starts or goes on with; during an iteration the one that it is in."""
        return self._place.epoch

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed."""
        return self._place.shown.current

    @property
    def left(self) -> Batch | None:
        """The batch of the iteration that was passed last though nobody trained on it; None for none."""
        return self._place.shown.left

    @property
    def part(self) -> Part | None:
        """The micro-batch handed out last by `parts()`, else None."""
        return self._place.shown.part

    @property
    def driver(self) -> Driver | None:
        """What gives the batch size, a `BatchSizeScheduler`; None if nothing does."""
        return self._place.cursor.driver

    def attach(self, driver: Driver) -> None:
        """From the next batch on, `driver` gives the batch size, and a batch commits at `commit()`."""
        if self._formed:
            raise ArgumentError(
                "loader",
                "must form its batches itself to be driven by a schedule",
                got="one with a `batch_sampler` or `batch_size=None`",
                remedy="build it with a `batch_size`, or wrap another loader in `ab.micro_batches`",
            )
        self._place.attach(driver)

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays what it is."""
        self._place.detach()

    def commit(self) -> None:
        """Marks the current batch as trained on."""
        self._place.commit()

    def forget_looks(self) -> None:
        """Goes back to before iterations that were left early, unless one came to its end, or a state was loaded."""
        self._place.forget_looks()


def _check_outside(name: str) -> None:
    if worker.inside:
        raise UsageError(name, "must be set in the main process, not inside a worker, which has a copy")
