"""The aim of training on a data set: the loss, and which targets count as right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Objective(Protocol):
    """The loss and the measure of success of a data set."""

    def smoothed(self, label_smoothing: float) -> Objective:
        """The same objective with part of each target spread over all classes; itself for 0.

        Raises:
            ValueError: if its targets are no classes.
        """

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a sample.

        A batch's loss is the mean over its parts, weighted by their samples: so micro-batches and ranks are exact.
        """

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Whether each target is met, bool, in the shape of `targets`."""

    def counted(self, targets: Tensor) -> Tensor:
        """Whether each target counts in the accuracy, bool, in the shape of `targets`."""

    def chance(self, targets: Tensor) -> float | None:
        """The accuracy that is had without learning; None if there is no such thing."""


@dataclass(frozen=True, slots=True)
class Classification:
    """Cross-entropy; right is a target whose class has the highest score.

    Args:
        void: the number of a class that is no target, such as that of pixels without a label; None: all are.
        label_smoothing: share of each target that is spread over all classes.

    Example:
        >>> scores, targets = torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 2])
        >>> aim = Classification(void=2)
        >>> aim.right(scores, targets)[aim.counted(targets)]
        tensor([True])
        >>> bool(aim.loss(scores, targets) == aim.loss(scores[:1], targets[:1]) / 2)
        True
    """

    void: int | None = None
    label_smoothing: float = 0.0

    def smoothed(self, label_smoothing: float) -> Classification:
        """The same with label smoothing."""
        return replace(self, label_smoothing=label_smoothing)

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, the mean over all targets; those of the void class have a loss of 0.

        Args:
            scores: a score for each class, `[samples, classes, ...]`.
            targets: classes, int64, `[samples, ...]`.
        """
        if self.void is None:
            return functional.cross_entropy(scores, targets, label_smoothing=self.label_smoothing)
        total = functional.cross_entropy(
            scores, targets, ignore_index=self.void, reduction="sum", label_smoothing=self.label_smoothing
        )
        return total / targets.numel()

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Whether each target's class has the highest score."""
        return scores.argmax(dim=1) == targets

    def counted(self, targets: Tensor) -> Tensor:
        """Whether each target is of another class than the void one."""
        return torch.ones_like(targets, dtype=torch.bool) if self.void is None else targets != self.void

    def chance(self, targets: Tensor) -> float:
        """The share of the most frequent class, the accuracy of always answering it; at least 1 / classes.

        Example:
            >>> Classification().chance(torch.tensor([0, 1, 1, 2]))
            0.5
        """
        found = targets[self.counted(targets)].cpu()
        return int(torch.bincount(found).max()) / found.numel()
