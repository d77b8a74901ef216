"""ImageNet: Parquet files in the layout of the Hugging Face hub, or a folder of class folders; read from disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from adabatch._errors import ArgumentError
from adabatch.lab.tasks.task import Data, Task

if TYPE_CHECKING:
    from torch import Tensor

    from adabatch.lab.tasks.augment import CropFlip
    from adabatch.lab.tasks.image_files import Encoded

HUB: Final = "ILSVRC/imagenet-1k"
VALIDATION: Final = ("validation", "val")  # names of the folder of class folders
SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of images
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
# The defaults of the AdaBatch authors' code.
DEFAULTS: Final = MappingProxyType(
    {
        "batch_size": 256,
        "every": "30 epochs",
        "max_batch_size": None,
        "coupling": "linear",
        "lr": 0.1,
        "lr_schedule": "step:0.1:30",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "optimizer": "sgd",
        "epochs": 90,
        "target": 0.7,
    }
)
ADAM: Final = MappingProxyType({"lr": 0.001})  # torch's own, not tried here


@dataclass(frozen=True)
class FromFiles:
    """Flips crops that a loader read, and reads what to evaluate on by number.

    Args:
        encoded: the image files to evaluate on.
        normalise: flips and normalises.
        device: where results lie.
    """

    encoded: Encoded
    normalise: CropFlip
    device: Any = "cpu"
    on_device: bool = field(default=False, init=False)

    @property
    def shape(self) -> Mapping[str, int]:
        """What `models.build` needs to know."""
        return self.normalise.shape

    def to(self, device: Any) -> FromFiles:
        """The same with results on `device`."""
        return replace(self, device=device)

    def train(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """Crops, uint8 `[batch, 3, 224, 224]`, flipped at random and normalised."""
        moved = inputs.to(self.device, non_blocking=True)
        return self.normalise.train(moved, seed=seed, clock=clock, stride=stride)

    def test(self, inputs: Tensor) -> Tensor:
        """The normalised centres of the images whose numbers are given."""
        import torch

        from adabatch.lab.tasks import decode, image_files

        with ThreadPoolExecutor(decode.cores()) as pool:
            pixels = image_files.centres(self.encoded, inputs.tolist(), pool=pool)
        return self.normalise.test(torch.from_numpy(pixels).to(self.device))


def load(data: Path | str | None = None) -> Data:
    """Finds the images; they are decoded when they are needed.

    Args:
        data: a folder with `train-*.parquet` and `validation-*.parquet`, or with `train` and `val` (or `validation`)
            that hold a folder of images for each class; or one above in which a folder `imagenet` is like that. None
            takes the environment variable ADABATCH_DATA and, when that is not set, downloads.

    Returns:
        Numbers of images, with a data set that reads them and a transform.

    Raises:
        FileNotFoundError: if the folder or the files are missing.
        ValueError: if a file has another layout, or a label or a class folder is unusable.
        OSError: if the download fails or there is too little room to unpack Parquet files.
    """
    import torch

    from adabatch.lab.tasks import image_files
    from adabatch.lab.tasks.augment import CropFlip

    folder = _folder(data)
    if folder is not None and (folder / "train").is_dir():
        train, test, classes = _class_folders(folder)
    else:
        train, test, classes = _hub(folder)
    labels = torch.as_tensor(train[1])
    normalise = CropFlip(MEAN, STD, image_size=image_files.SIZE, classes=classes, padding=0)
    return Data(
        x_train=torch.arange(len(train[0])),
        y_train=labels,
        x_test=torch.arange(len(test[0])),
        y_test=torch.as_tensor(test[1]),
        classes=classes,
        note=f"{len(train[0]):,} to train, {len(test[0]):,} to test, from {folder or 'the hub: ' + HUB}",
        transform=FromFiles(test[0], normalise),
        files=image_files.TrainImages(train[0], labels),
    )


def _folder(data: Path | str | None) -> Path | None:
    """The folder that holds the data set in either layout; None when it has to be downloaded."""
    from adabatch.lab.tasks.parquet import VARIABLE

    given, argument = (data, "data") if data is not None else (os.environ.get(VARIABLE), VARIABLE)
    if not given:
        return None
    if not Path(given).is_dir():
        raise FileNotFoundError(f"`{argument}` must be a folder, got {str(given)!r}, which is none")
    for place in (Path(given, "imagenet"), Path(given)):
        if (place / "train").is_dir() or any(place.glob("train-*.parquet")):
            return place
    raise FileNotFoundError(
        f"`{argument}` must hold train-*.parquet or train with a folder of images for each class, directly or in a "
        f"folder imagenet, got {str(given)!r}, which holds neither; leave it out to download the data"
    )


_Split = tuple["Encoded", Any]


def _class_folders(folder: Path) -> tuple[_Split, _Split, int]:
    """Images and labels to train and to evaluate on, and the number of classes, from folders of class folders."""
    from adabatch.lab.tasks.image_files import Files

    places = [folder / name for name in VALIDATION if (folder / name).is_dir()]
    if not places:
        raise FileNotFoundError(f"`data` must hold a folder val or validation, got {str(folder)!r}, which has neither")
    classes = _names(folder / "train")
    if len(classes) < 2:
        raise ArgumentError(
            None, f"{folder / 'train'} must hold a folder for each of at least 2 classes", value=len(classes)
        )
    unknown = sorted(set(_names(places[0])) - set(classes))
    if unknown:
        raise ArgumentError(
            None, f"{places[0]} must hold classes of {folder / 'train'}", got=f"{', '.join(unknown[:5])} besides"
        )
    splits = []
    for place in (folder / "train", places[0]):
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            if place != folder / "train" and not (place / name).is_dir():
                continue
            with os.scandir(place / name) as entries:
                found = sorted(entry.name for entry in entries if entry.is_file() and _is_image(entry.name))
            if not found:
                raise ArgumentError(
                    None,
                    f"{place / name} must hold images ({', '.join(SUFFIXES)})",
                    got="none",
                    remedy="remove the folder or fetch it again",
                )
            names += [f"{name}/{file}" for file in found]
            labels += [label] * len(found)
        if not names:
            raise ArgumentError(None, f"{place} must hold a folder of images for each class", got="none")
        splits.append((Files(place, names), labels))
    return splits[0], splits[1], len(classes)


def _is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _names(folder: Path) -> list[str]:
    """The folders in a folder, in order."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _hub(folder: Path | None) -> tuple[_Split, _Split, int]:
    """Images and labels to train and to evaluate on, and the number of classes, in the hub's layout."""
    from adabatch.lab.tasks import parquet
    from adabatch.lab.tasks.image_files import Rows

    found = {split: parquet.hub_split(folder, split=split, hub=HUB) for split in ("train", "validation")}
    names = getattr(found["train"].features["label"], "names", None)
    classes = len(names) if names else 0
    splits = []
    for split, rows in found.items():
        source = f"{HUB}, split {split}" if folder is None else f"{folder / split}-*.parquet"
        if not len(rows):
            raise ArgumentError(None, f"{source} must have at least one row", got="none")
        column = rows.data.column("label")
        if split == "train" and not names:
            classes = max(2, 1 + max((label for label in column.to_pylist() if label is not None), default=0))
        labels = parquet.checked_labels(column, source=source, classes=classes)
        splits.append((Rows(rows, source), labels))
    return splits[0], splits[1], classes


IMAGENET: Final = Task(
    name="imagenet",
    summary="ImageNet: photographs in 1,000 classes, 1,281,167 to train, 50,000 to test, read from disk",
    default_model="resnet50",
    models=("resnet50", "alexnet", "vgg19_bn"),
    defaults=DEFAULTS,
    by_optimizer={"adam": ADAM, "adamw": ADAM},
    load=load,
)
