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


def split_mix_int64(x: Tensor) -> Tensor:
    """`split_mix` of the bits of int64 words, where they lie.

    Example:
        >>> words = np.arange(3, dtype=np.uint64) * GOLDEN
        >>> found = split_mix_int64(torch.from_numpy(words.view(np.int64)))
        >>> (found.numpy().view(np.uint64) == split_mix(words)).tolist()
        [True, True, True]
    """
    x = (x ^ shifted(x, 30)) * as_int64(0xBF58476D1CE4E5B9)
    x = (x ^ shifted(x, 27)) * as_int64(0x94D049BB133111EB)
    return x ^ shifted(x, 31)


def shifted(x: Tensor, bits: int) -> Tensor:
    """The bits of int64 words, shifted right by `bits`, at least 1, with zeros from the left: torch repeats the sign.

    Example:
        >>> shifted(torch.tensor([-1, 8]), 62).tolist()
        [3, 0]
    """
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def as_int64(word: int) -> int:
    """The number that an int64 with the lowest 64 bits of `word` holds.

    Example:
        >>> as_int64(2**64 - 1), as_int64(2**64 + 5)
        (-1, 5)
    """
    return (word + 2**63) % 2**64 - 2**63


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
