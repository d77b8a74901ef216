"""Tasks: a data set, networks that suit it and sensible settings."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from adabatch._errors import ArgumentError, MissingPackageError

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE: Final = "ADABATCH_DATA"  # the environment variable that names the data folder


class Transform(Protocol):
    """Makes a network's inputs of what a loader hands out: augmentation, normalisation, decoding."""

    @property
    def shape(self) -> Mapping[str, int]:
        """The arguments of `models.build` that describe the inputs."""

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
        """(input, class) pairs for a loader; with `files`, `x_train` holds their numbers."""
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
        """The arguments of `models.build` that describe the inputs.

        Raises:
            ValueError: if they are neither square images nor text, and no transform describes them.
        """
        if self.transform is not None:
            return self.transform.shape
        if self.tokens_per_sample is not None:
            return {"vocabulary": self.classes, "context": self.tokens_per_sample}
        shape = tuple(self.x_train.shape)
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ArgumentError(
                "x_train",
                "must be square images `[samples, channels, height, width]`",
                value=shape,
                remedy="shape a row of features as `[features, 1, 1]`, which suits `mlp`; text has `tokens_per_sample`;"
                " other inputs need a `transform` that names the arguments of their network",
            )
        return {"in_channels": shape[1], "image_size": shape[2], "classes": self.classes}

    def fingerprint(self) -> str:
        """A hash that tells these data from others: of sizes, all classes, and what to train on at 256 places."""
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
        models: names of the networks that suit it, see `adabatch.lab.models`; the first one is its default.
        defaults: settings for `RunConfig.for_task`.
        target: the test accuracy, a fraction, that the time to target is measured to.
        load: reads the data; its argument is the user's data folder or None.
        tokens_per_sample: of text, tokens in a sample; None: there are no tokens to count.
        by_optimizer: for optimizers other than that of `defaults`, the settings that go with each: above all its LR.
    """

    name: str
    summary: str
    models: tuple[str, ...]
    defaults: Mapping[str, Any]
    target: float
    load: Callable[[Path | str | None], Data]
    tokens_per_sample: int | None = None
    by_optimizer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def default_model(self) -> str:
        """The network when none is chosen."""
        return self.models[0]

    def settings(self, optimizer: str | None = None) -> dict[str, Any]:
        """The settings of `defaults` with what goes with an optimizer; None for their own.

        Example:
            >>> from adabatch.lab.tasks import get
            >>> get("mnist").settings()["lr"], get("mnist").settings("adam")["lr"]
            (0.02, 0.001)
        """
        if optimizer is None:
            return dict(self.defaults)
        return {**self.defaults, **self.by_optimizer.get(optimizer, {}), "optimizer": optimizer}

    def in_place_of(self, before: str, optimizer: str) -> dict[str, Any]:
        """The settings that change where `optimizer` takes the place of another one: those that the task has otherwise.

        Example:
            >>> from adabatch.lab.tasks import get
            >>> get("mnist").in_place_of("sgd", "adamw"), get("mnist").in_place_of("sgd", "nesterov")
            ({'lr': 0.001}, {})
        """
        old, new = self.settings(before), self.settings(optimizer)
        return {name: value for name, value in new.items() if name != "optimizer" and value != old[name]}


# What loaders share.


def given_data(data: Path | str | None) -> tuple[Path | None, str]:
    """The data folder or file that the user gave, else that of ADABATCH_DATA, else None; and what to call it."""
    given, argument = (data, "data") if data is not None else (os.environ.get(VARIABLE), VARIABLE)
    return Path(given) if given else None, argument


@contextmanager
def needs(what: str, *, remedy: str = "run: pip install 'adabatch[data]'") -> Iterator[None]:
    """Turns a package that is missing into an error that says what needs it.

    Raises:
        ModuleNotFoundError: if something that is imported is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(None, what, remedy=remedy) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return re.sub(r" <_io\.BytesIO object at \w+>", "", line) or type(error).__name__
