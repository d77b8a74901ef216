"""Tasks and their data; helpers for the modules that load them."""

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

    from adabatch.lab.tasks.objective import Objective

VARIABLE: Final = "ADABATCH_DATA"  # the environment variable that names the data folder


class Transform(Protocol):
    """Turns a loader's samples into a network's inputs: decoding, augmentation, normalisation."""

    @property
    def shape(self) -> Mapping[str, int]:
        """The arguments of `models.build` that describe the inputs."""

    @property
    def on_device(self) -> bool:
        """Whether it takes samples on the training device; False: on the CPU."""

    def to(self, device: Any) -> Transform:
        """The same transform with results on `device`."""

    def train(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """Inputs to train on; randomness depends on the seed and each sample's clock alone."""

    def test(self, inputs: Tensor) -> Tensor:
        """Inputs to evaluate on, without randomness."""


def _classification() -> Objective:
    from adabatch.lab.tasks.objective import Classification

    return Classification()


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in memory, ready for the network or for its transform.

    Attributes:
        x_train: training samples: images, normalised float32, `[samples, channels, height, width]`; else the input of
            `transform`, such as uint8 pixels or indices; of text token numbers, `[samples, tokens]`.
        y_train: their classes, int64, `[samples]`; of text the next token at each place, `[samples, tokens]`; of
            segmentation that of each pixel, `[samples, height, width]`.
        x_test: test samples.
        y_test: their classes.
        classes: number of classes; of text the size of the vocabulary; 1 where targets are no classes.
        note: where the data are from and how they were split, in one line.
        transform: turns `x_train` and `x_test` into a network's inputs; None: they already are.
        tokens_per_sample: of text, tokens in a sample; None: there are no tokens.
        files: a data set that reads samples from disk; `x_train` then holds their indices. None: `x_train` holds the
            samples.
        objective: the loss, and which targets count as right.
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
    objective: Objective = field(default_factory=_classification)

    @property
    def dataset(self) -> Any:
        """(input, class) pairs for a loader."""
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
        """A hash that tells these data from others: of the sizes, all classes and 256 training samples."""
        count = len(self.x_train)
        places = sorted({count * place // 256 for place in range(256)}) if count else []
        found = hashlib.sha256(f"{count} {len(self.x_test)} {self.classes}".encode())
        for tensor in (self.y_train, self.y_test, self.x_train[places]):
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    def train_inputs(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """The network's inputs for a batch, or a part of one, from a loader over `dataset`.

        Args:
            inputs: on the training device.
            seed: of the run; randomness depends on it and each sample's clock alone.
            clock: position of the first row in the data, `epoch * N + position`.
            stride: distance between the clocks of neighbouring rows: the number of ranks.
        """
        return inputs if self.transform is None else self.transform.train(inputs, seed=seed, clock=clock, stride=stride)

    def test_inputs(self, inputs: Tensor) -> Tensor:
        """The network's inputs for rows of `x_test`."""
        return inputs if self.transform is None else self.transform.test(inputs)

    def to(self, device: Any) -> Data:
        """The same data on `device`; inputs that the transform takes from the CPU stay there."""
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
        summary: one line for `adabatch list`.
        models: names of the networks that suit it, see `adabatch.lab.models`; the first one is its default.
        defaults: settings for `RunConfig.for_task`.
        target: test accuracy, a fraction, up to which the time to target is measured.
        load: reads the data from the user's folder; None finds or downloads them.
        tokens_per_sample: of text, tokens in a sample; None: there are no tokens to count.
        by_optimizer: settings that differ from `defaults` with another optimizer, above all the LR.
        by_model: the same of networks that want other ones than the first: by network, then by optimizer.
        expected_loss: the expected test loss after each update of SGD, computed without sampling, of LRs, a batch size
            and a momentum, as in `adabatch.lab.tasks.quadratic`; None: it is not known.
    """

    name: str
    summary: str
    models: tuple[str, ...]
    defaults: Mapping[str, Any]
    target: float
    load: Callable[[Path | str | None], Data]
    tokens_per_sample: int | None = None
    by_optimizer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_model: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    expected_loss: Callable[..., Any] | None = None

    @property
    def default_model(self) -> str:
        """The network if none is chosen."""
        return self.models[0]

    def settings(self, optimizer: str | None = None, model: str | None = None) -> dict[str, Any]:
        """The default settings with this optimizer and this network; None for the task's own.

        Example:
            >>> from adabatch.lab.tasks import get
            >>> get("mnist").settings()["lr"], get("mnist").settings("adam")["lr"]
            (0.02, 0.001)
            >>> get("gpt-tiny").settings()["lr"], get("gpt-tiny").settings(model="lstm")["lr"]
            (0.001, 0.003)
        """
        optimizer = self.defaults["optimizer"] if optimizer is None else optimizer
        of_model = {} if model is None else self.by_model.get(model, {})
        changed = {**self.by_optimizer.get(optimizer, {}), **of_model.get(optimizer, {})}
        return {**self.defaults, **changed, "optimizer": optimizer}

    def in_place_of(self, before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that the task changes when a given optimizer or network replaces the one before.

        Args:
            before: settings with `optimizer` and `model`, the task's own where they are missing.
            given: the same, those before where they are missing.

        Example:
            >>> from adabatch.lab.tasks import get
            >>> get("mnist").in_place_of({}, {"optimizer": "adamw"}), get("mnist").in_place_of({}, {"model": "mlp"})
            ({'lr': 0.001}, {})
        """
        after = {**before, **given}
        old = self.settings(before.get("optimizer"), before.get("model"))
        new = self.settings(after.get("optimizer"), after.get("model"))
        return {name: value for name, value in new.items() if name != "optimizer" and value != old[name]}


# For the modules that load data.


def given_data(data: Path | str | None) -> tuple[Path | None, str]:
    """The user's data folder or file, else that of ADABATCH_DATA, else None; and its name in errors."""
    given, argument = (data, "data") if data is not None else (os.environ.get(VARIABLE), VARIABLE)
    return Path(given) if given else None, argument


@contextmanager
def needs(what: str, *, remedy: str = "run: pip install 'adabatch[data]'") -> Iterator[None]:
    """Raises ModuleNotFoundError that says `what` and the remedy, where an import in it fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(None, what, remedy=remedy) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return re.sub(r" <_io\.BytesIO object at \w+>", "", line) or type(error).__name__
