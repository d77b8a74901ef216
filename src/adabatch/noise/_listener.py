"""How those who hand out micro-batches tell a tap of them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

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
