"""The arms of a comparison: which runs are trained against each other.

Every arm is a `RunConfig` of its own. The LR schedule is the same in all of them: growth couples on top of it.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from adabatch import couplings
from adabatch._errors import AdabatchError, ArgumentError
from adabatch.lab.training import RunConfig, growth, on_top
from adabatch.lab.training.config import GROWING, SETTINGS

STANDARD: Final = ("fixed-small", "fixed-large", "adaptive", "uncoupled")
_ADAM: Final[dict[str, Any]] = {"betas": (0.9, 0.999), "eps": 1e-8}  # torch's; no setting of a run changes them
_SOONER: Final = {  # how growth by each way comes to a larger batch
    "growth": "grow sooner (`every`) or come to more (`max_batch_size`)",
    "rule": "follow an LR that falls or come to more (`max_batch_size`)",
    "growth_file": "hold a schedule that grows sooner or to more",
    "policy": "come to more (`max_batch_size`)",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXAMPLE: Final = "for example 'fast: batch-size=64 growth=2 every=5 coupling=power(0.5)'"


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: a word that is also the name of a folder.
        config: the settings; each seed of the comparison replaces its seed.
    """

    name: str
    config: RunConfig


def standard_arms(adaptive: RunConfig, *, dataset_size: int) -> tuple[Arm, ...]:
    """The four arms that show whether growth pays and whether the coupling is what makes it work.

    Args:
        adaptive: the configuration of the adaptive arm: a growing batch with a coupling.
        dataset_size: samples in an epoch, at least 1.

    Returns:
        `fixed-small`: the adaptive arm without growth. `fixed-large`: the largest batch from the start, its LR,
        momentum and weight decay scaled by the adaptive arm's coupling (linear: the large batch at its best); betas
        and eps are torch's in all arms. `adaptive`. `uncoupled`: the same growth without a coupling.

    Raises:
        ValueError: if `adaptive` does not grow or has no coupling, so that arms would be the same.
    """
    if not adaptive.grows:
        remedy = "for example `--growth 2 --every 4`"
        raise ArgumentError("growth", "must be given for the adaptive arm", value=None, remedy=remedy)
    coupling = couplings.get(adaptive.coupling).with_noise(math.inf)  # one that follows noise: its largest factor
    if coupling.name == "none":
        rule, remedy = "must not be none, which is the arm uncoupled already", "for example linear"
        if adaptive.growth_file is not None:
            remedy += ", or train the schedule as an arm: --arm 'mine: growth-file=FILE'"
        if adaptive.policy is not None:
            remedy += f", or train the policy as an arm: --arm 'mine: policy={adaptive.policy}'"
        raise ArgumentError("coupling", rule, remedy=remedy)
    largest = largest_batch(adaptive, dataset_size=dataset_size)
    if largest == adaptive.batch_size:
        (name,) = (each for each in GROWING if getattr(adaptive, each) is not None)
        rule = f"must come to a batch above {largest:,} within {adaptive.epochs:,} epochs, else all arms are the same "
        remedy = f"let it {_SOONER[name]}, or train longer"
        raise ArgumentError(name, f"{rule}training", remedy=remedy)
    group = {"lr": adaptive.lr, "momentum": adaptive.momentum, "weight_decay": adaptive.weight_decay, **_ADAM}
    scaled = coupling.in_force(group, largest / adaptive.batch_size)
    settings = {name: value for name, value in scaled.items() if name not in _ADAM}
    large = replace(adaptive.constant(), batch_size=largest, **settings)
    configs = (adaptive.constant(), large, adaptive, replace(adaptive, coupling="none"))
    return tuple(map(Arm, STANDARD, configs))


def largest_batch(config: RunConfig, *, dataset_size: int) -> int:
    """The largest size of a run's whole batches, in samples; under a policy the largest that it may come to."""
    return config.sizes(dataset_size)[-1]


def chosen_arms(texts: Sequence[str], adaptive: RunConfig, *, dataset_size: int) -> tuple[Arm, ...]:
    """The arms that the user asked for; the four standard ones when nothing is asked for.

    Args:
        texts: each the name of a standard arm, or `name: key=value ...`. Keys are options of `adabatch train`, except
            those that all arms share. Other settings are those of fixed-small, which does not grow; another optimizer
            brings the task's LR for it.
        adaptive: the configuration of the arm adaptive.
        dataset_size: samples in an epoch, at least 1.

    Returns:
        The arms in the order given; fixed-small, the baseline, comes first if it is not given.

    Raises:
        ValueError: if a text is malformed, a key unknown or without use, a value not of its kind, or two arms share a
            name.
    """
    if not texts:
        return standard_arms(adaptive, dataset_size=dataset_size)
    base = adaptive.constant()
    arms: dict[str, Arm] = {}
    for text in texts:
        name, colon, settings = text.partition(":")
        name = name.strip()
        if not colon and name in STANDARD:
            arm = next(arm for arm in standard_arms(adaptive, dataset_size=dataset_size) if arm.name == name)
        else:
            arm = _parse(name, settings, colon, base)
        if arm.name in arms:
            raise ArgumentError("arm", "names must differ", got=f"{arm.name!r} twice", remedy="rename one")
        arms[arm.name] = arm
    if "fixed-small" not in arms:
        arms = {"fixed-small": Arm("fixed-small", base), **arms}
    return tuple(arms.values())


def _parse(name: str, settings: str, colon: str, base: RunConfig) -> Arm:
    if not colon:
        rule = f"must be one of {', '.join(STANDARD)} or 'name: key=value ...'"
        raise ArgumentError("arm", rule, value=name, remedy=_EXAMPLE)
    if not _NAME.fullmatch(name):
        raise ArgumentError("arm", "must have a name of letters, digits, '.', '_' and '-'", value=name, remedy=_EXAMPLE)
    try:
        items = shlex.split(settings)
    except ValueError as error:
        raise ArgumentError("arm", f"{name} must have closed quotes", got=f"{settings.strip()!r} ({error})") from None
    if not items:
        raise ArgumentError("arm", f"{name} must set something", got="nothing after the colon", remedy=_EXAMPLE)
    changes: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not text:
            raise ArgumentError("arm", f"{name} must be made of key=value", value=item, remedy=_EXAMPLE)
        if key not in _KEYS:
            raise ArgumentError("arm", f"{name} must have keys among {', '.join(_KEYS)}", value=key, remedy=_EXAMPLE)
        setting = _KEYS[key]
        if setting.name in changes:
            raise ArgumentError("arm", f"{name} must set each key once", got=f"{key} twice")
        changes[setting.name] = _value(name, key, text)
    before = {key: value for key, value in base.to_json().items() if key != "task"}
    try:
        config = RunConfig.for_task(base.task, **on_top(before, changes, task=base.task))
        growth.check_alone(changes, config.to_json())
    except AdabatchError as error:
        raise type(error)("arm", f"{name}: {error}") from None
    unused = [] if config.grows else [key for key in _KEYS if _KEYS[key].of_growth and _KEYS[key].name in changes]
    if unused:
        rule, remedy = f"{name} must set growth where it sets {', '.join(unused)}", "without it the batch is constant"
        raise ArgumentError("arm", rule, got="no growth", remedy=remedy)
    return Arm(name, config)


def _value(name: str, key: str, text: str) -> Any:
    """The value of the setting `key`, read from text."""
    setting = _KEYS[key]
    if setting.optional and text == "none":
        return None
    words, read = _KINDS[setting.kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        words += " or none" if setting.optional else ""
        raise ArgumentError("arm", f"{name} must have {words} as {key}", value=text) from None


_KEYS: Final = {name.replace("_", "-"): setting for name, setting in SETTINGS.items() if not setting.shared}
_KINDS: Final[dict[type, tuple[str, Callable[[str], Any]]]] = {
    int: ("a whole number", int),
    float: ("a number", float),
    bool: ("true or false", {"true": True, "false": False}.__getitem__),
    str: ("text", str),
}
