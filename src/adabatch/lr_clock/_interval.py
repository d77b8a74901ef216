"""Intervals on the samples clock, for evaluation, checkpoints and logs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.types import DrivenLoader
from adabatch.units import Duration


class Interval:
    """Tells once for each interval of data that it has passed; made by `every`."""

    def __init__(self, loader: DrivenLoader, length: Duration, samples: Fraction) -> None:
        self._loader, self._length, self._samples = loader, length, samples
        self._size = loader.dataset_size
        self._seen = self._count()

    def due(self) -> bool:
        """Whether an interval ended since the last call, or since the start; several in one batch count once.

        While a batch is handed out in micro-batches, an interval ends after the last of them only.

        Raises:
            RuntimeError: if the data set has another size than when this was made.
        """
        if self._loader.dataset_size != self._size:
            raise UsageError(
                "every",
                f"was made for a data set of {self._size} samples, but the loader's has "
                f"{self._loader.dataset_size} now",
                remedy="call `every` again",
            )
        part = self._loader.part
        if part is not None and not part.is_last:
            return False
        count = self._count()
        due = count > self._seen
        self._seen = max(count, self._seen)  # the clock goes back if a rest is not dropped after all
        return due

    def state_dict(self) -> dict[str, Any]:
        """The number of intervals that have ended, JSON-safe."""
        return {"format": 1, "seen": self._seen, "length": str(self._length)}

    def load_state_dict(self, state: Any) -> None:
        """Resumes.

        Raises:
            ValueError: if it is no such state, or of another length.
        """
        if not isinstance(state, dict) or set(state) != {"format", "seen", "length"} or state["format"] != 1:
            raise ArgumentError("state", "must be what `state_dict()` of `every` gave", value=state)
        if state["length"] != str(self._length):
            raise ArgumentError("state", f"must be of the same length, {self._length}", got=str(state["length"]))
        self._seen = int(state["seen"])

    def _count(self) -> int:
        batch = self._loader.current
        clock = self._loader.clock if batch is None else batch.end
        return int(clock // self._samples)


def every(loader: DrivenLoader, length: Duration, *, tokens_per_sample: int | None = None) -> Interval:
    """Intervals of data, however large the batches are: for evaluation, checkpoints and logs.

    Args:
        loader: the loader that is trained on.
        length: in epochs, samples or tokens. The nth interval ends with the sample that completes n lengths of data,
            exactly, however long training is.
        tokens_per_sample: needed for a length in tokens.

    Returns:
        An object whose `due()` is asked after each batch.

    Raises:
        TypeError: if the length is no `Duration`.
        ValueError: if the length is 0, in updates (which the batch size changes), or needs what is not known.

    Example:
        >>> import torch, adabatch as ab
        >>> loader = ab.DataLoader(torch.arange(100), batch_size=30)
        >>> evaluate = every(loader, ab.samples(50))
        >>> [evaluate.due() for batch in loader]
        [False, True, False, True]
    """
    if not isinstance(length, Duration):
        raise ArgumentTypeError("length", "must be a length such as samples(1000) or epochs(1)", value=length)
    if length.count == 0 or length.unit == "updates":
        remedy = "an update is no fixed amount of data"
        raise ArgumentError("length", "must be above 0 in epochs, samples or tokens", value=length, remedy=remedy)
    per = loader.dataset_size if length.unit == "epochs" else 1
    count = length.exact
    if length.unit == "tokens":
        if tokens_per_sample is None:
            raise ArgumentError(
                "tokens_per_sample", f"must be given to count {length}", value=None, remedy="or use `samples`"
            )
        count /= _checks.whole("tokens_per_sample", tokens_per_sample)
    if per is None:
        raise ArgumentError("length", "must be in samples or tokens for a stream", value=length)
    return Interval(loader, length, count * per)
