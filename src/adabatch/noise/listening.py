"""Which tap listens to which loader, so that those who hand out micro-batches can tell it of them.

And to which modules, where parameters are sharded: what they scatter is told to one tap.
"""

from __future__ import annotations

from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, ref

from torch import Tensor

from adabatch._errors import ArgumentError
from adabatch.types import Part


class Listener(Protocol):
    """A tap, as `accumulate` knows it. A batch whose `enter` is followed by no `whole` is forgotten."""

    def next_batch(self) -> None:
        """The next micro-batch begins a batch, which is not cut yet."""

    def no_batch(self) -> None:
        """No batch follows."""

    def enter(self, part: Part) -> None:
        """The passes of a micro-batch begin."""

    def leave(self, part: Part, factor: float | Tensor, weight: float | Tensor) -> None:
        """They are over.

        Args:
            part: the micro-batch.
            factor: that on its mean gradient.
            weight: what it counts: its samples, or what it weighs.
        """

    def whole(self, part: Part) -> None:
        """The gradients are the batch's, corrected and averaged over ranks, and not clipped yet; `part` is its last."""

    def forget(self) -> None:
        """The batch will not be whole, or comes again."""


_TAPS: Final[WeakKeyDictionary[Any, ref[Listener]]] = WeakKeyDictionary()


def tap_on(place: Any) -> Listener | None:
    """The tap that listens to a loader, or to a module; None for none."""
    if not _TAPS:
        return None
    found = _TAPS.get(place)
    return None if found is None else found()


def check_free(place: Any, *, name: str) -> None:
    """Raises ValueError, which names the argument, if a tap listens to it."""
    if tap_on(place) is not None:
        raise ArgumentError(name, "must not have two taps", remedy="call `close()` on the other first")


def put_on(place: Any, tap: Listener) -> None:
    """From now on `tap` listens to a loader, or to a module.

    Raises:
        ValueError: if another does.
    """
    check_free(place, name="loader")
    _TAPS[place] = ref(tap)


def take_off(place: Any, tap: Listener) -> None:
    """`tap` listens no longer."""
    if tap_on(place) is tap:
        del _TAPS[place]
