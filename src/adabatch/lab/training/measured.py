"""Switches of speed that were measured to be faster, by device and network: the source of what `auto` takes.

A row comes from a file in benchmarks/results, which a test compares it with. No result is of a GPU yet, so no row is,
and there everything is off unless the user, or `adabatch train --tune`, switches it on.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch


class Gain(NamedTuple):
    """A switch that was faster with a network on a device.

    Attributes:
        device: `"cpu"`, or the architecture of a GPU such as `"sm_90"`.
        models: names of the networks, the measured one first, then those of the same parts.
        setting: field of `RunConfig`.
        value: of the setting.
        ratios: for each measured batch size, samples per second with it over those without: the lower ends of 95 %
            intervals.
        origin: the file in benchmarks/results.
    """

    device: str
    models: tuple[str, ...]
    setting: str
    value: Any
    ratios: dict[int, float]
    origin: str


RESNETS: Final = ("resnet20", "resnet32", "resnet44")
GAINS: Final = (Gain("cpu", RESNETS, "channels_last", True, {128: 1.227, 512: 1.258}, "options.json"),)


def architecture(device: torch.device) -> str:
    """The name under which a device stands in `GAINS`."""
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def faster(model: str, device: torch.device) -> dict[str, Any]:
    """The settings that were measured to be faster.

    Args:
        model: name of the network.
        device: to train on.

    Example:
        >>> faster("resnet20", torch.device("cpu")), faster("alexnet", torch.device("cpu"))
        ({'channels_last': True}, {})
    """
    rows = [gain for gain in GAINS if model in gain.models]
    asked = device.type == "cuda" and any(gain.device.startswith("sm_") for gain in rows)
    here = architecture(device) if asked else device.type
    return {gain.setting: gain.value for gain in rows if gain.device == here}
