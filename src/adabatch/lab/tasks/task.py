"""What a task is: a data set, networks that suit it and sensible settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Transform(Protocol):
    """Makes a network's inputs of what a loader hands out: augmentation, normalisation, decoding."""

    @property
    def shape(self) -> Mapping[str, int]:
        """What `models.build` needs to know about the inputs."""

    @property
    def on_device(self) -> bool:
        """Whether it takes samples that lie on the training device; False: on the CPU."""

    def to(self, device: Any) -> Transform:
        """One whose results lie on `device`."""

    def train(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """Inputs to train on; what is random belongs to the seed and to each sample's clock."""

    def test(self, inputs: Tensor) -> Tensor:
        """Inputs to evaluate on; nothing is random."""


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in memory, ready for the network or for its transform.

    Attributes:
        x_train: what to train on: images, normalised float32, `[samples, channels, height, width]`, or what
            `transform` takes: for example pixels, uint8, or the samples' numbers.
        y_train: their classes, int64, `[samples]`; of text the next token at each place, `[samples, tokens]`.
        x_test: what to evaluate on.
        y_test: their classes.
        classes: number of classes; of text the size of the vocabulary.
        note: where the data are from and how they were split, in one line.
        transform: makes a network's inputs of `x_train` and `x_test`; None: they are that.
        tokens_per_sample: of text, tokens in a sample; None: there are no tokens.
        files: a data set that reads samples from disk, to which `x_train` gives the numbers; None: `x_train` are the
            samples themselves.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    note: str
    transform: Transform | None = None
    tokens_per_sample: int | None = None
    files: Any = None

    @property
    def dataset(self) -> Any:
        """What to give to a loader: pairs of a row of `x_train`, or of what it is the number of, and its class."""
        from torch.utils.data import Subset, TensorDataset

        if self.files is None:
            return TensorDataset(self.x_train, self.y_train)
        if len(self.x_train) == len(self.files):
            return self.files
        return Subset(self.files, self.x_train.tolist())

    @property
    def dataset_size(self) -> int:
        """Samples in an epoch."""
        return len(self.y_train)

    @property
    def shape(self) -> Mapping[str, int]:
        """What `models.build` needs to know besides a name."""
        if self.transform is not None:
            return self.transform.shape
        if self.tokens_per_sample is not None:
            return {"vocabulary": self.classes, "context": self.tokens_per_sample}
        _, channels, size, _ = self.x_train.shape
        return {"in_channels": channels, "image_size": size, "classes": self.classes}

    def fingerprint(self) -> str:
        """What tells these data from others: sizes, all classes, and what to train on at 256 places."""
        import hashlib

        count = len(self.x_train)
        places = sorted({count * place // 256 for place in range(256)}) if count else []
        found = hashlib.sha256(f"{count} {len(self.x_test)} {self.classes}".encode())
        for tensor in (self.y_train, self.y_test, self.x_train[places]):
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    def train_inputs(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """The network's inputs for a batch or a part of one, as a loader handed it out.

        Args:
            inputs: as `dataset` gives them, on the training device.
            seed: of the run; what is random belongs to it and to each sample's clock.
            clock: position of the first row in the data, `epoch * N + position`.
            stride: how far the clocks of neighbouring rows lie apart: the number of ranks.
        """
        return inputs if self.transform is None else self.transform.train(inputs, seed=seed, clock=clock, stride=stride)

    def test_inputs(self, inputs: Tensor) -> Tensor:
        """The network's inputs for rows of `x_test`."""
        return inputs if self.transform is None else self.transform.test(inputs)

    def to(self, device: Any) -> Data:
        """The same data on `device`; what the transform takes from the CPU stays there."""
        keep = self.transform is not None and not self.transform.on_device
        return replace(
            self,
            x_train=self.x_train if keep else self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_test=self.x_test if keep else self.x_test.to(device),
            y_test=self.y_test.to(device),
            transform=None if self.transform is None else self.transform.to(device),
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A data set, the networks that suit it and sensible settings.

    Attributes:
        name: what the user types.
        summary: one line about it.
        default_model: the network when none is chosen.
        models: names of the networks that suit it, see `adabatch.lab.models`.
        defaults: settings for `RunConfig.for_task`, and `target`, the test accuracy (a fraction) that the time to
            target is measured to.
        load: reads the data; its argument is the user's data folder or None.
        tokens_per_sample: of text, tokens in a sample; None: there are no tokens to count.
        by_optimizer: for optimizers other than that of `defaults`, the settings that go with each: above all its LR.
    """

    name: str
    summary: str
    default_model: str
    models: tuple[str, ...]
    defaults: Mapping[str, Any]
    load: Callable[[Path | str | None], Data]
    tokens_per_sample: int | None = None
    by_optimizer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def settings(self, optimizer: str | None = None) -> dict[str, Any]:
        """The settings of `defaults`, the target aside, with what goes with an optimizer; None for their own.

        Example:
            >>> from adabatch.lab.tasks import get
            >>> get("mnist").settings()["lr"], get("mnist").settings("adam")["lr"]
            (0.02, 0.001)
        """
        found = {name: value for name, value in self.defaults.items() if name != "target"}
        if optimizer is None:
            return found
        return {**found, **self.by_optimizer.get(optimizer, {}), "optimizer": optimizer}

    def in_place_of(self, before: str, optimizer: str) -> dict[str, Any]:
        """What changes of the settings where `optimizer` takes the place of another: what the task has otherwise.

        Example:
            >>> from adabatch.lab.tasks import get
            >>> get("mnist").in_place_of("sgd", "adamw"), get("mnist").in_place_of("sgd", "nesterov")
            ({'lr': 0.001}, {})
        """
        old, new = self.settings(before), self.settings(optimizer)
        return {name: value for name, value in new.items() if name != "optimizer" and value != old[name]}

    @property
    def target(self) -> float:
        """The test accuracy, a fraction, that the time to target is measured to."""
        return float(self.defaults["target"])
