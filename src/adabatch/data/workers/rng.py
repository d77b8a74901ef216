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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from adabatch._errors import UsageError
from adabatch._random import GOLDEN, split_mix
from adabatch.data.order import mix

_WORDS: Final = 624
_CHUNK: Final = 16
_UInt32 = npt.NDArray[np.uint32]
_Int64 = npt.NDArray[np.int64]
_np_random: Any = np.random  # Any: the stubs leave some of them out
_inst: Any = vars(random)["_inst"]  # python's global generator
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
        raise UsageError(
            "sample_seed",
            "must be called while a sample is fetched by a loader with `sample_rng=True`",
            remedy="call it inside `__getitem__`",
        )
    _asked[0] = True
    return _current[-1]


def _python_words() -> _UInt32 | None:
    """The memory of python's global generator: its index, then its 624 words; None if it does not look as expected."""
    if type(_inst) is not random.Random or sys.implementation.name != "cpython":
        return None
    words = np.ctypeslib.as_array((ctypes.c_uint32 * (_WORDS + 1)).from_address(id(_inst) + object.__basicsize__))
    return words if (*words[1:].tolist(), int(words[0])) == random.getstate()[1] else None


def _bytes_of(generator: torch.Generator) -> bytes:
    """The state of a generator; bytes are compared faster than tensors."""
    return generator.get_state().numpy().tobytes()


_initial_seed: Final = torch.initial_seed


class _SeedReads:
    """A context that notices calls of `torch.initial_seed`, from which data sets seed their own generators."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> None:
        self.seen = False
        torch.initial_seed = self._read

    def __exit__(self, *_error: object) -> None:
        torch.initial_seed = _initial_seed

    def _read(self) -> int:
        self.seen = True
        return _initial_seed()


class _Generators:
    """The three global generators of this process."""

    def __init__(self) -> None:
        self._python = _python_words()
        self._python_index: Any = None
        self._python_word: Any = None
        if self._python is not None:
            self._python_index = ctypes.c_uint32.from_buffer(self._python.data)
            self._python_word = ctypes.c_uint32.from_buffer(self._python.data, 4)
        self._numpy_index: Any = None
        self._numpy_word: Any = None
        self._python_was = self._numpy_was = -1  # the first word of each when it was set; drawing 624 changes it
        self._bits: Any = None
        self._numpy: Any = None
        self._calm: Any = None
        self._cleared = _bytes_of(torch.Generator().manual_seed(0))

    def _numpy_words(self) -> Any:
        """The memory of numpy's global generator: its 624 words, then its index."""
        bits = _np_random.get_bit_generator()
        if bits is not self._bits:
            if type(bits) is not np.random.MT19937:
                _np_random.set_bit_generator(bits := np.random.MT19937())
            words = (ctypes.c_uint32 * (_WORDS + 1)).from_address(bits.ctypes.state_address)
            self._bits, self._numpy = bits, np.ctypeslib.as_array(words)
            self._numpy_index = ctypes.c_uint32.from_buffer(words, 4 * _WORDS)
            self._numpy_word = ctypes.c_uint32.from_buffer(words)
        return self._numpy

    def _numpy_whole(self) -> Any:
        """The same; no half of a pair of normal numbers is left over, as it may be after draws."""
        state = self._numpy_words()
        if self._numpy_index.value != _WORDS or self._numpy_word.value != self._numpy_was:
            np.random.seed(0)
        return state

    def set(self, words: _UInt32, seed: int) -> None:
        """Sets all three: python's to the words, numpy's to the words from the back, torch's to `seed`."""
        python = self._python
        if python is not None:
            python[0] = _WORDS
            python[1:] = words
            self._python_was = self._python_word.value
            _inst.gauss_next = None
        else:
            random.setstate((3, (*words.tolist(), _WORDS), None))
        state = self._numpy_whole()
        state[:_WORDS] = words[::-1]
        state[_WORDS] = _WORDS
        self._numpy_was = self._numpy_word.value
        torch.default_generator.manual_seed(seed)

    def clear(self) -> None:
        """Gives the generators a known state, so that `touched` can tell whether they were used."""
        if self._python is not None:
            self._python[0] = _WORDS
            self._python_was = self._python_word.value
            _inst.gauss_next = None
        np.random.seed(0)
        self._numpy_words()
        self._numpy_was = self._numpy_word.value
        torch.default_generator.manual_seed(0)

    def touched(self, seed: int) -> bool:
        """Whether any generator was used since `set(words, seed)`; with a seed of 0, since `clear`."""
        if self._python is None or _np_random.get_bit_generator() is not self._bits:
            return True
        if self._python_index.value != _WORDS or self._numpy_index.value != _WORDS:
            return True
        if self._python_word.value != self._python_was or self._numpy_word.value != self._numpy_was:
            return True
        before = self._cleared if seed == 0 else _bytes_of(torch.Generator().manual_seed(seed))
        return _bytes_of(torch.default_generator) != before

    def get(self) -> Any:
        """All three states.

        Numpy is slow to tell the half pair of normal numbers that may be left over. It is not asked if nothing was
        drawn since a `put_back` without one.
        """
        bits = _np_random.get_bit_generator()
        words = self._numpy_words().copy() if type(bits) is np.random.MT19937 else None
        whole = None
        if words is None or self._calm is None or not np.array_equal(words, self._calm):
            whole = np.random.get_state(legacy=False)
            whole = whole if words is None or whole["has_gauss"] else None
        python = random.getstate() if self._python is None else (self._python.copy(), _inst.gauss_next)
        return python, bits, words, whole, torch.default_generator.get_state()

    def put_back(self, states: Any) -> None:
        """Restores the states from `get`."""
        python, bits, words, whole, torch_state = states
        if self._python is None:
            random.setstate(python)
        else:
            self._python[:], _inst.gauss_next = python
        self._calm = None
        if _np_random.get_bit_generator() is not bits:
            _np_random.set_bit_generator(bits)
        if whole is not None:
            np.random.set_state(whole)
        else:
            self._numpy_whole()[:] = self._calm = words
        torch.default_generator.set_state(torch_state)


class SampleRng:
    """Sets the global generators before each sample."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        digest = hashlib.shake_256(f"adabatch sample 1: {seed}".encode()).digest(16 + 4 * _WORDS)
        self._key = int.from_bytes(digest[:8], "little")
        self._base = np.frombuffer(digest[16:], dtype="<u4").astype(np.uint32)
        self._each: bool | None = None
        self._chunk: tuple[int, Any] = (-1, None)

    def seeds(self, epochs: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """One 63-bit seed for each sample; epochs do not fall."""
        if len(epochs) and epochs[0] == epochs[-1]:
            epochs = epochs[:1]
        x = split_mix(epochs.astype(np.uint64) * GOLDEN + np.uint64(self._key))
        return split_mix(x ^ positions.astype(np.uint64)) >> np.uint64(1)

    def collect(
        self, get: Callable[[Any], Any], items: Sequence[Any], places: tuple[_Int64, _Int64], samples: list[Any]
    ) -> None:
        """Appends `get(item)` to `samples` for each item, up to a failure, with the generators set for it.

        Setting them costs more than fetching a small sample. They are set for the first sample, and from then on if it
        used one. Else a run is fetched without; if it used a generator after all, it is fetched again with them set.
        """
        seeds, done = self.seeds(*places), 0
        if self._each is None and len(items):
            with _reads:
                self._fetch(get, items[:1], seeds[:1], samples, eagerly=True)
            self._each, done = _reads.seen or _generators.touched(int(seeds[0])), 1
        items, seeds = items[done:], seeds[done:]
        if self._each is False:
            kept = len(samples)
            _generators.clear()
            try:
                with _reads:
                    self._fetch(get, items, seeds, samples, eagerly=False)
            except Exception:
                if not (_reads.seen or _generators.touched(0)):
                    raise
            else:
                if not (_reads.seen or _generators.touched(0)):
                    return
            self._each = True
            del samples[kept:]
        self._fetch(get, items, seeds, samples, eagerly=True)

    def _fetch(
        self, get: Callable[[Any], Any], items: Sequence[Any], seeds: Any, samples: list[Any], *, eagerly: bool
    ) -> None:
        """Appends the samples; `eagerly` with the generators set for each."""
        self._chunk, current, append = (-1, None), _current, samples.append  # local names are faster
        current.append(0)
        try:
            if eagerly:
                for i, (item, seed) in enumerate(zip(items, seeds.tolist(), strict=True)):
                    current[-1] = seed
                    _generators.set(self._words(seeds, i), seed)
                    append(get(item))
            else:
                for item, seed in zip(items, seeds.tolist(), strict=True):
                    current[-1] = seed
                    append(get(item))
        finally:
            current.pop()

    def _words(self, seeds: npt.NDArray[np.uint64], i: int) -> _UInt32:
        """The state words of sample `i` of a run; computed for several samples at once."""
        start = i - i % _CHUNK
        if self._chunk[0] != start:
            some = seeds[start : start + _CHUNK, None]
            words = mix(self._base ^ some.astype(np.uint32), (some >> np.uint64(31)).astype(np.uint32))
            self._chunk = start, words
        found: _UInt32 = self._chunk[1][i - start]
        return found

    def unused(self, fetch: Callable[[], Any], epoch: int, position: int) -> tuple[Any, bool]:
        """Calls `fetch` with the generators set for one sample; returns its result and whether it drew nothing."""
        _asked[0] = False
        with self.for_sample(epoch, position) as seed, _reads:
            found = fetch()
        return found, not (_asked[0] or _reads.seen or _generators.touched(seed))

    @contextlib.contextmanager
    def for_sample(self, epoch: int, position: int) -> Iterator[int]:
        """A context with the generators set for one sample, that gives its seed."""
        seeds = self.seeds(np.array([epoch]), np.array([position]))
        seed = int(seeds[0])
        self._chunk = (-1, None)
        _current.append(seed)
        _generators.clear()
        _generators.set(self._words(seeds, 0), seed)
        try:
            yield seed
        finally:
            _current.pop()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """A context that puts the generators back."""
        states = _generators.get()
        try:
            yield
        finally:
            _generators.put_back(states)


_generators, _reads = _Generators(), _SeedReads()
