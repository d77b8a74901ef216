"""Random numbers: saves and restores generators, and scrambles numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64


def split_mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scrambles the bits of each word.

    Source:
        Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: the mixing of SplitMix64.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class RandomState:
    """The current states of python's, numpy's and torch's global generators, of `devices` and of other `generators`."""

    def __init__(self, devices: Iterable[torch.device] = (), *, generators: Iterable[torch.Generator] = ()) -> None:
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._devices = [(device, state_of(device)) for device in devices]
        self._generators = [(generator, generator.get_state()) for generator in generators]

    def restore(self) -> None:
        """Puts the states back."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        for device, state in self._devices:
            set_state(device, state)
        for generator, state in self._generators:
            generator.set_state(state)


@contextmanager
def kept(devices: Iterable[torch.device] = (), *, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """A context that restores all generators of a `RandomState`."""
    state = RandomState(devices, generators=generators)
    try:
        yield
    finally:
        state.restore()


def state_of(device: torch.device) -> Tensor:
    """The state of torch's global generator on a device."""
    if device.type == "cpu":
        return torch.get_rng_state()
    module: Any = torch.get_device_module(device)
    found: Tensor = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return found


def set_state(device: torch.device, state: Tensor) -> None:
    """Sets what `state_of` returned."""
    if device.type == "cpu":
        torch.set_rng_state(state)
        return
    module: Any = torch.get_device_module(device)
    module.set_rng_state(state) if device.type == "mps" else module.set_rng_state(state, device)
