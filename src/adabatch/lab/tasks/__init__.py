"""Tasks by name. Importing this loads no torch; `Task.load` does.

To add one: a file with its `load`, and its record here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from adabatch import _checks
from adabatch.lab.tasks.task import Data, Task

__all__ = ["Data", "Task", "get", "names"]


def _by(module: str, **how: Any) -> Callable[[Path | str | None], Data]:
    """The `load` of a module here with arguments of its own; the module is imported when it is called."""

    def load(data: Path | str | None = None) -> Data:
        found: Data = importlib.import_module(f"adabatch.lab.tasks.{module}").load(data, **how)
        return found

    return load


def _expected_loss(*arguments: Any, **more: Any) -> Any:
    """`expected_loss` of the quadratic, whose module is imported when it is called."""
    from adabatch.lab.tasks import quadratic

    return quadratic.expected_loss(*arguments, **more)


def _rates(*, adam: float, lars: float) -> dict[str, dict[str, float]]:
    """The LRs of other optimizers than SGD: the same for Adam and AdamW, five times as much for LAMB."""
    return {"adam": {"lr": adam}, "adamw": {"lr": adam}, "lamb": {"lr": 5 * adam}, "lars": {"lr": lars}}


# fmt: off
_DIGITS: Final = {
    "batch_size": 16, "every": "2 epochs", "max_batch_size": 256, "coupling": "linear", "lr": 0.006,
    "lr_schedule": "step:0.65:2", "momentum": 0.9, "weight_decay": 0.0, "optimizer": "sgd", "epochs": 14, "threads": 1,
}
_MNIST: Final = {
    "batch_size": 64, "every": "2 epochs", "max_batch_size": 1024, "coupling": "linear", "lr": 0.02,
    "lr_schedule": "step:0.5:2", "momentum": 0.9, "weight_decay": 0.0, "optimizer": "sgd", "epochs": 10,
}
# AdaBatch's fixed small batch on one GPU (1712.02029, section 4.1); growth and its own LR steps come with the presets.
_CIFAR: Final = {
    "batch_size": 128, "every": "20 epochs", "max_batch_size": 2048, "coupling": "linear", "lr": 0.01,
    "lr_schedule": "step:0.375:20", "momentum": 0.9, "weight_decay": 5e-4, "optimizer": "sgd", "epochs": 100,
}
# The defaults of the AdaBatch authors' code.
_IMAGENET: Final = {
    "batch_size": 256, "every": "30 epochs", "max_batch_size": None, "coupling": "linear", "lr": 0.1,
    "lr_schedule": "step:0.1:30", "momentum": 0.9, "weight_decay": 1e-4, "optimizer": "sgd", "epochs": 90,
}
_TEXT: Final = {
    "batch_size": 16, "every": "1 epoch", "max_batch_size": 128, "coupling": "sqrt", "lr": 0.001,
    "lr_schedule": "constant", "momentum": 0.0, "weight_decay": 0.1, "optimizer": "adamw", "epochs": 5,
}
_CAMVID: Final = {
    "batch_size": 8, "every": "5 epochs", "max_batch_size": 64, "coupling": "linear", "lr": 0.02,
    "lr_schedule": "step:0.5:5", "momentum": 0.9, "weight_decay": 1e-4, "optimizer": "sgd", "epochs": 20,
}
_QUADRATIC: Final = {
    "batch_size": 16, "every": "1 epoch", "max_batch_size": 256, "coupling": "linear", "lr": 0.003,
    "lr_schedule": "step:0.5:1", "momentum": 0.9, "weight_decay": 0.0, "optimizer": "sgd", "epochs": 2, "threads": 1,
}
# fmt: on
_SMALL_MODELS: Final = ("small_cnn", "mlp", "resnet20")
_CIFAR_MODELS: Final = ("resnet20", "resnet32", "resnet44", "alexnet", "vgg19_bn", "wrn16_4", "small_cnn")
_like_mnist: Final = partial(Task, models=_SMALL_MODELS, defaults=_MNIST, by_optimizer=_rates(adam=0.001, lars=3.0))
_like_cifar: Final = partial(Task, models=_CIFAR_MODELS, defaults=_CIFAR, by_optimizer=_rates(adam=0.001, lars=1.0))
_SGD_OF_TEXT: Final = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.0}
_ALL: Final = (
    Task(
        name="digits",
        summary="8x8 scans of handwritten digits that come with scikit-learn: 1,437 to train, 360 to test",
        models=_SMALL_MODELS,
        defaults=_DIGITS,
        by_optimizer=_rates(adam=0.002, lars=3.0),
        target=0.95,
        load=_by("digits"),
    ),
    _like_mnist(
        name="mnist",
        summary="MNIST: 28x28 handwritten digits, 60,000 to train, 10,000 to test",
        target=0.985,
        load=_by("mnist", name="mnist", hub="ylecun/mnist"),
    ),
    _like_mnist(
        name="fashion_mnist",
        summary="Fashion-MNIST: 28x28 pictures of clothes, 60,000 to train, 10,000 to test",
        target=0.9,
        load=_by("mnist", name="fashion_mnist", hub="zalando-datasets/fashion_mnist"),
    ),
    _like_cifar(
        name="cifar10",
        summary="CIFAR-10: 32x32 colour photographs in 10 classes, 50,000 to train, 10,000 to test",
        target=0.85,
        load=_by("cifar", name="cifar10", hub="uoft-cs/cifar10", label="label", classes=10),
    ),
    _like_cifar(
        name="cifar100",
        summary="CIFAR-100: 32x32 colour photographs in 100 classes, 50,000 to train, 10,000 to test",
        target=0.55,
        load=_by("cifar", name="cifar100", hub="uoft-cs/cifar100", label="fine_label", classes=100),
    ),
    Task(
        name="imagenet",
        summary="ImageNet: photographs in 1,000 classes, 1,281,167 to train, 50,000 to test, read from disk",
        models=("resnet50", "alexnet", "vgg19_bn"),
        defaults=_IMAGENET,
        by_optimizer=_rates(adam=0.001, lars=0.5),  # not tried here
        target=0.7,
        load=_by("imagenet"),
    ),
    Task(
        name="gpt-tiny",
        summary="tiny Shakespeare, or any text file, by character: 1,003,855 characters to train, 111,539 to test",
        models=("gpt", "lstm"),
        defaults=_TEXT,
        # Adam's weight decay is a penalty on the loss: 0.1 would dominate it.
        by_optimizer={
            "adam": {"weight_decay": 0.0},
            "lamb": {"lr": 0.005},
            **dict.fromkeys(("sgd", "nesterov", "rmsprop-warmup"), _SGD_OF_TEXT),
            "lars": {**_SGD_OF_TEXT, "lr": 3.0},
        },
        by_model={"lstm": {optimizer: {"lr": 0.003} for optimizer in ("adam", "adamw")}},
        target=0.5,
        load=_by("text"),
        tokens_per_sample=128,
    ),
    Task(
        name="camvid",
        summary="CamVid: street scenes at 72x72 with one of 11 classes for each pixel, 367 to train, 233 to test",
        models=("drn",),
        defaults=_CAMVID,
        by_optimizer=_rates(adam=0.002, lars=1.0),
        target=0.72,
        load=_by("camvid"),
    ),
    Task(
        name="quadratic",
        summary="a noisy quadratic whose expected loss can be computed; accuracy is 1 once the loss is low",
        models=("quadratic",),
        defaults=_QUADRATIC,
        by_optimizer=_rates(adam=0.002, lars=0.1),
        target=1.0,
        load=_by("quadratic"),
        expected_loss=_expected_loss,
    ),
)
_TASKS: Final = {task.name: task for task in _ALL}


def names() -> list[str]:
    """The names of all tasks."""
    return list(_TASKS)


def get(name: str) -> Task:
    """The task `name`.

    Raises:
        ValueError: if there is no such task.

    Example:
        >>> get("digits").default_model
        'small_cnn'
    """
    return _TASKS[_checks.one_of("task", name, _TASKS)]
