"""Trainings of the papers by name: the settings of each for its data sets and networks, with their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from adabatch import _checks

_ADABATCH: Final = "Devarakonda, Naumov, Garland 2017, arXiv 1712.02029"
_SMITH: Final = "Smith, Kindermans, Ying, Le 2017, arXiv 1711.00489"
_AKIBA: Final = "Akiba, Suzuki, Fukuda 2017, arXiv 1711.04325"
_LARS: Final = "You, Gitman, Ginsburg 2017, arXiv 1708.03888"
_LAMB: Final = "You, Li, Reddi et al. 2019, arXiv 1904.00962"
_CIFAR: Final = ("cifar10", "cifar100")
_SIZES: Final = {
    **dict.fromkeys(_CIFAR, 50_000), "digits": 1_437, "fashion_mnist": 60_000, "imagenet": 1_281_167
}  # fmt: skip
_COMMON: Final[dict[str, Any]] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "growth": None,
    "every": "20 epochs",
    "max_batch_size": None,
    "rule": None,
    "drop_last": False,
    "micro_batch_size": None,
    "ghost_batch_size": None,
}
_MULTI: Final = "the first and the largest batch size"
_RECALLED: Final = "batch sizes and growth, and the networks' LR, weight decay and warm-up"
_NO_WARM_UP: Final = "that the large batch keeps the small one's LR, without a warm-up"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One training: a network on a data set.

    Attributes:
        name: as typed; trainings of several networks share one.
        task: data set by name.
        settings: fields of `training.RunConfig` that it sets, without the task.
        source: paper and section.
        recalled: settings that were not found printed in a source at hand.

    Example:
        >>> from adabatch.lab.training import RunConfig
        >>> RunConfig.for_task("cifar10", **find("adabatch", task="cifar10").settings).plan(50_000).updates
        15080
    """

    name: str
    task: str
    settings: Mapping[str, Any]
    source: str
    recalled: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Network by name."""
        return str(self.settings["model"])

    @property
    def dataset_size(self) -> int:
        """Samples in an epoch."""
        return _SIZES[self.task]


def _preset(name: str, task: str, source: str, *recalled: str, **settings: Any) -> Preset:
    return Preset(name=name, task=task, settings=_COMMON | settings, source=source, recalled=recalled)


def _cifar(name: str, task: str, model: str, *recalled: str, section: str = "4.1, one GPU", **more: Any) -> Preset:
    usual = {"model": model, "epochs": 100, "lr": 0.01, "lr_schedule": "step:0.375:20", "drop_last": True}
    return _preset(name, task, f"{_ADABATCH}, section {section}", *recalled, **usual | more)


def _cifar_presets() -> list[Preset]:
    """Sections 4.1 and 4.2 of AdaBatch."""
    found = []
    for model, small in (("resnet20", 128), ("vgg19_bn", 128), ("alexnet", 256)):
        for task in _CIFAR:
            large = 16 * small
            found += [
                _cifar("adabatch", task, model, batch_size=small, growth=2.0, max_batch_size=large),
                _cifar("fixed", task, model, batch_size=small),
                _cifar("fixed-large", task, model, _NO_WARM_UP, batch_size=large),
            ]
    for model in ("resnet20", "vgg19_bn"):
        for task in reversed(_CIFAR):
            other = () if task == "cifar100" else ("that CIFAR-10 goes as CIFAR-100 does in the paper",)
            more = {
                "batch_size": 1024,
                "growth": 2.0,
                "max_batch_size": 16_384,
                # 0.1 per 128 samples; from 0.1 in the first epoch to 0.8 in the fifth, as the authors' code does.
                "lr": 0.8,
                "lr_schedule": "warmup:4:0.125+step:0.25:20",
            }
            found.append(_cifar("adabatch-multi", task, model, _MULTI, *other, section="4.2, four GPUs", **more))
    return found


def _imagenet_presets() -> list[Preset]:
    """Section 4.3 of AdaBatch; LRs are given for batches of 256 and warmed up from there."""
    found = []
    for model, small, base, decay in (("resnet50", 8192, 0.1, 1e-4), ("alexnet", 4096, 0.01, 5e-4)):
        large = 4 * small
        rows: tuple[tuple[str, int, float | None, int | None], ...] = (
            ("adabatch", small, 2.0, large),
            ("fixed", small, None, None),
            ("fixed-large", large, None, None),
        )
        if model == "resnet50":
            rows += (("adabatch-multi", small, 8.0, 64 * small),)
        for name, first, growth, maximum in rows:
            scale = first // 256
            settings = {
                "model": model,
                "epochs": 90,
                "batch_size": first,
                "lr": base * scale,
                "weight_decay": decay,
                "lr_schedule": f"warmup:4:{1 / scale!r}+step:0.1:30",
                "growth": growth,
                "every": "30 epochs",
                "max_batch_size": maximum,
                "micro_batch_size": 256,
            }
            recalled = (_RECALLED, "micro-batches of 256 are ours")
            found.append(_preset(name, "imagenet", f"{_ADABATCH}, section 4.3", *recalled, **settings))
    return found


def _smith_cifar(name: str, section: str, *, rule: str = "smith", batch_size: int = 128, **settings: float) -> Preset:
    usual = {
        "model": "wrn16_4",
        "epochs": 200,
        "batch_size": batch_size,
        "lr": 0.1,
        "lr_schedule": "milestones:0.2:60,120,160",
        "rule": rule,
        "max_batch_size": 5120,
        "ghost_batch_size": 128,
    }
    recalled = ("the fall at epoch 160", "ghost batches of 128")
    return _preset(name, "cifar10", f"{_SMITH}, {section}", *recalled, **(usual | settings))


def _smith_imagenet(name: str, model: str, maximum: int, rule: str, *recalled: str) -> Preset:
    falls = (
        "the falls at epochs 30, 60 and 80 by 10 and the weight decay; a warm-up, which asks for no growth, is left "
        "out; micro-batches of 256 are ours"
    )
    settings = {
        "model": model,
        "epochs": 90,
        "batch_size": 8192,
        "lr": 3.0,
        "weight_decay": 1e-4,
        "lr_schedule": "milestones:0.1:30,60,80",
        "rule": rule,
        "max_batch_size": maximum,
        "micro_batch_size": 256,
        "ghost_batch_size": None if model == "resnet50" else 32,
    }
    return _preset(name, "imagenet", f"{_SMITH}, ImageNet", falls, *recalled, **settings)


def _smith_presets() -> list[Preset]:
    return [
        _smith_cifar("smith-decay", "section 5.1, decaying LR", rule="hybrid(0)"),
        _smith_cifar("smith-hybrid", "section 5.1, hybrid", rule="hybrid(1)"),
        _smith_cifar("smith-increase", "section 5.1, increasing batch size"),
        _smith_cifar("smith-lr", "section 5.2, increased initial LR", lr=0.5, batch_size=640),
        _smith_cifar("smith-momentum", "section 5.2, increased momentum", lr=0.5, momentum=0.98, batch_size=3200),
        _smith_imagenet("smith-resnet50", "resnet50", 16_384, "smith", "growth at epoch 30", "the initial LR"),
        _smith_imagenet("smith-large", "inception_resnet_v2", 81_920, "hybrid(1)"),
    ]


def _akiba(name: str, task: str, model: str, batch_size: int, epochs: int, *recalled: str, **more: Any) -> Preset:
    """The toolbox at a batch size; the LR is 0.1 for 256 samples, the slow start and the transition follow epochs."""
    settings = {
        "model": model,
        "batch_size": batch_size,
        "epochs": epochs,
        "lr": 0.1 * batch_size / 256,
        "lr_schedule": "slowstart",
        "optimizer": "rmsprop-warmup",
        "weight_decay": 1e-4,
        "last_batch_norm": True,
        "compress": "fp16",
    }
    return _preset(name, task, _AKIBA, "the weight decay", *recalled, **settings | more)


def _akiba_presets() -> list[Preset]:
    """The paper's own training, whose 1,024 workers had 32 samples each, and its method in small."""
    large = ("micro-batches of 32 are a worker's share there, over which it takes batch norm",)
    small = ("data, network, batch size and epochs are ours",)
    return [
        _akiba("akiba", "imagenet", "resnet50", 32_768, 90, *large, micro_batch_size=32),
        _akiba("akiba-small", "digits", "resnet20", 1_024, 18, *small),
        _akiba("akiba-small", "fashion_mnist", "resnet20", 4_096, 18, *small),
        _akiba("akiba-small", "cifar10", "resnet20", 8_192, 90, *small),
    ]


def _layer_wise_presets() -> list[Preset]:
    """ResNet-50 on ImageNet at 32,768 by LARS and LAMB; biases and norm scales have no weight decay."""
    usual = {
        "model": "resnet50",
        "batch_size": 32_768,
        "epochs": 90,
        "decay_biases": False,
        "micro_batch_size": 256,
    }
    lars = usual | {"optimizer": "lars", "lr": 29.0, "lr_schedule": "warmup:5+poly:2", "weight_decay": 1e-4}
    lamb = usual | {"optimizer": "lamb", "lr": 0.04, "lr_schedule": "warmup:20+poly:1", "weight_decay": 0.01}
    ours = "micro-batches of 256 are ours"
    return [
        _preset("lars", "imagenet", _LARS, "the LR and the length of the warm-up", ours, **lars),
        _preset("lamb", "imagenet", _LAMB, "the LR, the length of the warm-up and the linear decay", ours, **lamb),
    ]


_ALL: Final = (*_cifar_presets(), *_imagenet_presets(), *_smith_presets(), *_akiba_presets(), *_layer_wise_presets())
PRESETS: Final[dict[str, tuple[Preset, ...]]] = {
    name: tuple(preset for preset in _ALL if preset.name == name) for name in dict.fromkeys(each.name for each in _ALL)
}


def find(name: str, *, task: str | None = None, model: str | None = None) -> Preset:
    """The training `name` of a network on a data set.

    Args:
        name: one of `PRESETS`.
        task: data set by name; None for the preset's first.
        model: network by name; None for the preset's first.

    Raises:
        ValueError: if there is no such preset, or none for the data set or the network.

    Example:
        >>> find("adabatch", task="cifar100", model="alexnet").settings["batch_size"]
        256
    """
    presets = PRESETS[_checks.one_of("preset", name, PRESETS)]
    for key, value in (("task", task), ("model", model)):
        known = list(dict.fromkeys(getattr(preset, key) for preset in presets))
        if value is not None:
            _checks.one_of(key, value, known, remedy=f"the preset {name} has settings for these alone; give flags")
            presets = tuple(preset for preset in presets if getattr(preset, key) == value)
    return presets[0]
