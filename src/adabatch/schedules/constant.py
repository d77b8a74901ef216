"""A batch size that does not change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adabatch.schedules._base import Context, Schedule, Stage


@dataclass(frozen=True)
class constant(Schedule):  # noqa: N801
    """One batch size from start to end.

    Args:
        batch_size: in samples, at least 1; None for the loader's batch size.

    Raises:
        ValueError: if `batch_size` is below 1.
        TypeError: if it is not a whole number.

    Example:
        >>> constant(128).plan(dataset_size=50_000, epochs=100, drop_last=True).updates
        39000
    """

    batch_size: int | None = None

    def __post_init__(self) -> None:
        self._make_whole("batch_size")

    @property
    def initial(self) -> int | None:
        """The size that it starts with; None if it starts with the loader's batch size."""
        return self.batch_size

    def brought(self) -> list[str]:
        """None, since it asks for no change."""
        return []

    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields one stage."""
        yield context.origin, context.batch_size if self.batch_size is None else self.batch_size

    def describe(self) -> str:
        """The schedule in one line."""
        return "constant at the loader's batch size" if self.batch_size is None else f"constant at {self.batch_size:,}"
