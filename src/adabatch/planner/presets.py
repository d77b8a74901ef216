"""Trainings of the papers by name: the LR schedule and what turns it into growth of the batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_SMITH: Final = "Smith, Kindermans, Ying, Le 2017, arXiv 1711.00489"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One training.

    Attributes:
        name: as typed.
        task: data set by name.
        model: network by name.
        dataset_size: samples in an epoch.
        epochs: passes over the data.
        batch_size: the first one, in samples.
        lr: the first learning rate.
        momentum: of SGD.
        lr_schedule: of the LR, in the text that `adabatch train --lr-schedule` reads.
        rule: how its falls become growth of the batch.
        maximum: the largest batch size; None for a tenth of the data set.
        source: paper and place.
        recalled: settings that were not found printed in a source at hand.
    """

    name: str
    task: str
    model: str
    dataset_size: int
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    lr_schedule: str
    rule: str
    maximum: int | None
    source: str
    recalled: tuple[str, ...] = field(default=())


def _cifar(name: str, section: str, *, rule: str = "smith", batch_size: int = 128, **settings: float) -> Preset:
    return Preset(
        name=name,
        task="cifar10",
        model="wrn16_4",
        dataset_size=50_000,
        epochs=200,
        batch_size=batch_size,
        lr=settings.get("lr", 0.1),
        momentum=settings.get("momentum", 0.9),
        lr_schedule="milestones:0.2:60,120,160",
        rule=rule,
        maximum=5120,
        source=f"{_SMITH}, {section}",
        recalled=("the fall at epoch 160",),
    )


def _imagenet(name: str, *, model: str, lr: float, maximum: int, rule: str, recalled: tuple[str, ...]) -> Preset:
    return Preset(
        name=name,
        task="imagenet",
        model=model,
        dataset_size=1_281_167,
        epochs=90,
        batch_size=8192,
        lr=lr,
        momentum=0.9,
        lr_schedule="milestones:0.1:30,60,80",
        rule=rule,
        maximum=maximum,
        source=f"{_SMITH}, ImageNet",
        recalled=(
            "the falls at epochs 30, 60 and 80 by 10; a warm-up, which asks for no growth, is left out",
            *recalled,
        ),
    )


PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        _cifar("smith-decay", "section 5.1, decaying LR", rule="hybrid(0)"),
        _cifar("smith-hybrid", "section 5.1, hybrid", rule="hybrid(1)"),
        _cifar("smith-increase", "section 5.1, increasing batch size"),
        _cifar("smith-lr", "section 5.2, increased initial LR", lr=0.5, batch_size=640),
        _cifar("smith-momentum", "section 5.2, increased momentum", lr=0.5, momentum=0.98, batch_size=3200),
        _imagenet(
            "smith-resnet50",
            model="resnet50",
            lr=3.0,
            maximum=16_384,
            rule="smith",
            recalled=("growth at epoch 30", "the initial LR"),
        ),
        _imagenet("smith-large", model="inception_resnet_v2", lr=3.0, maximum=81_920, rule="hybrid(1)", recalled=()),
    )
}
