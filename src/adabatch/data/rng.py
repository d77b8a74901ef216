"""Randomness that belongs to a sample: python's, numpy's and torch's generators set from (seed, epoch, position).

A random transform inside `__getitem__` then gives the same result whatever worker fetches the sample, whenever.
Seeding python's and numpy's Mersenne twisters the usual way costs more than fetching many a sample, so the words of
their states are computed for a run of samples at once by a counter-based hash and copied in.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from adabatch.data.order import mix

_WORDS: Final = 624
_CHUNK: Final = 16
_UInt32 = npt.NDArray[np.uint32]
_np_random: Any = np.random  # Any: the stubs leave some of them out
_py_random: Any = random
_current: list[int] = []
_asked: list[bool] = [False]


def sample_seed() -> int:
    """A seed for the sample that is being fetched, for generators that a data set makes itself.

    Returns:
        A whole number in `[0, 2^63)`, a function of the loader's seed, the epoch and the position alone.

    Raises:
        RuntimeError: outside a data set's `__getitem__`, or if the loader was built with `sample_rng=False`.

    Example:
        >>> from adabatch.data import DataLoader
        >>> class Noisy:
        ...     def __len__(self):
        ...         return 4
        ...     def __getitem__(self, item):
        ...         return float(np.random.default_rng(sample_seed()).normal())
        >>> first, again = (next(iter(DataLoader(Noisy(), 4, seed=1))) for _ in range(2))
        >>> bool((first == again).all())
        True
    """
    if not _current:
        raise RuntimeError(
            "`sample_seed` must be called while a sample is fetched by a loader with `sample_rng=True`; call it inside"
            " `__getitem__`"
        )
    _asked[0] = True
    return _current[-1]


def _python_words() -> _UInt32 | None:
    """Python's global generator as memory: its index, then its 624 words; None where it does not look as expected."""
    inst: Any = _py_random._inst
    if type(inst) is not random.Random or sys.implementation.name != "cpython":
        return None
    words = np.ctypeslib.as_array((ctypes.c_uint32 * (_WORDS + 1)).from_address(id(inst) + object.__basicsize__))
    return words if (*words[1:].tolist(), int(words[0])) == random.getstate()[1] else None


class _Generators:
    """The three global generators of this process."""

    def __init__(self) -> None:
        self._python = _python_words()
        self._bits: Any = None
        self._numpy: Any = None

    def _numpy_words(self) -> Any:
        """Numpy's global generator as memory: its 624 words, then its index."""
        bits = _np_random.mtrand._rand._bit_generator
        if bits is not self._bits:
            if type(bits) is not np.random.MT19937:
                _np_random.set_bit_generator(bits := np.random.MT19937())
            address = bits.ctypes.state_address
            self._bits, self._numpy = (
                bits,
                np.ctypeslib.as_array((ctypes.c_uint32 * (_WORDS + 1)).from_address(address)),
            )
        return self._numpy

    def set(self, words: _UInt32, seed: int) -> None:
        """Sets all three: python's to the first 624 words, numpy's to the others, torch's to `seed`."""
        if self._python is not None:
            self._python[0] = _WORDS
            self._python[1:] = words[:_WORDS]
            _py_random._inst.gauss_next = None
        else:
            random.setstate((3, (*words[:_WORDS].tolist(), _WORDS), None))
        state = self._numpy_words()
        if state[_WORDS] != _WORDS:
            np.random.seed(0)  # something was drawn: there may be half a pair of normal numbers left over
        state[:_WORDS] = words[_WORDS:]
        state[_WORDS] = _WORDS
        torch.default_generator.manual_seed(seed)

    def drawn(self, words: _UInt32, seed: int) -> bool:
        """Whether anything was drawn since `set(words, seed)`."""
        python = self._python if self._python is not None else np.array(random.getstate()[1], dtype=np.uint32)[[-1, 0]]
        touched = python[0] != _WORDS or python[1] != words[0] or self._numpy_words()[_WORDS] != _WORDS
        if not touched:
            after = torch.default_generator.get_state()
            torch.default_generator.manual_seed(seed)
            touched = not torch.equal(after, torch.default_generator.get_state())
        return bool(touched)

    def get(self) -> Any:
        """All three states."""
        bits = _np_random.get_bit_generator()
        return random.getstate(), bits, np.random.get_state(legacy=False), torch.default_generator.get_state()

    def put_back(self, states: Any) -> None:
        """Undoes what happened since `get`."""
        random.setstate(states[0])
        if _np_random.get_bit_generator() is not states[1]:
            _np_random.set_bit_generator(states[1])
        np.random.set_state(states[2])
        torch.default_generator.set_state(states[3])


class SampleRng:
    """Sets the global generators before each sample.

    Args:
        seed: the loader's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        digest = hashlib.shake_256(f"adabatch sample 1: {seed}".encode()).digest(16 + 8 * _WORDS)
        self._key = int.from_bytes(digest[:8], "little")
        self._base = np.frombuffer(digest[16:], dtype="<u4").astype(np.uint32)

    def seeds(self, epochs: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """One 63-bit seed for each sample."""
        x = epochs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(self._key)
        for part in (np.uint64(0), positions.astype(np.uint64)):
            x = x ^ part
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
        return x >> np.uint64(1)

    def each(self, epochs: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Iterator[int]:
        """Sets the generators for one sample after the other; yields its number in the run."""
        seeds = self.seeds(epochs, positions)
        _current.append(0)
        np.random.seed(0)  # no half pair of normal numbers
        try:
            for start in range(0, len(seeds), _CHUNK):
                words = self._words(seeds[start : start + _CHUNK])
                for i in range(len(words)):
                    _current[-1] = seed = int(seeds[start + i])
                    _generators.set(words[i], seed)
                    yield start + i
        finally:
            _current.pop()

    def _words(self, seeds: npt.NDArray[np.uint64]) -> _UInt32:
        low, high = seeds.astype(np.uint32)[:, None], (seeds >> np.uint64(31)).astype(np.uint32)[:, None]
        return mix(self._base ^ low, high)

    def unused(self, fetch: Callable[[], Any], epoch: int, position: int) -> tuple[Any, bool]:
        """Calls `fetch` with the generators set for one sample; its result, and whether it drew nothing."""
        seeds = self.seeds(np.array([epoch]), np.array([position]))
        words, seed = self._words(seeds)[0], int(seeds[0])
        _current.append(seed)
        _asked[0] = False
        np.random.seed(0)
        _generators.set(words, seed)
        try:
            found = fetch()
        finally:
            _current.pop()
        return found, not (_asked[0] or _generators.drawn(words, seed))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the generators back as they were."""
        states = _generators.get()
        try:
            yield
        finally:
            _generators.put_back(states)


_generators = _Generators()
