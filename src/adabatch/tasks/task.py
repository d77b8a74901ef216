"""What a task is: a data set, networks that suit it and sensible settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in memory, ready for the network.

    Attributes:
        x_train: images to train on, normalised float32, `[samples, channels, height, width]`.
        y_train: their classes, int64, `[samples]`.
        x_test: images to evaluate on.
        y_test: their classes.
        classes: number of classes.
        note: where the data are from and how they were split, in one line.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    note: str

    @property
    def dataset_size(self) -> int:
        """Samples in an epoch."""
        return len(self.y_train)

    def to(self, device: Any) -> Data:
        """The same data on `device`."""
        return replace(
            self,
            x_train=self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_test=self.x_test.to(device),
            y_test=self.y_test.to(device),
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A data set, the networks that suit it and sensible settings.

    Attributes:
        name: what the user types.
        summary: one line about it.
        default_model: the network when none is chosen.
        models: names of the networks that suit it, see `adabatch.models`.
        defaults: settings for `RunConfig.for_task`, and `target`, the test accuracy (a fraction) that the time to
            target is measured to.
        load: reads the data; its argument is the user's data folder or None.
    """

    name: str
    summary: str
    default_model: str
    models: tuple[str, ...]
    defaults: Mapping[str, Any]
    load: Callable[[Path | str | None], Data]

    @property
    def target(self) -> float:
        """The test accuracy, a fraction, that the time to target is measured to."""
        return float(self.defaults["target"])
