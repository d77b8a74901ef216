"""Readers that walk an iterable data set, in a worker or in the main process."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from adabatch._errors import ArgumentError
from adabatch.data.order import seed_of
from adabatch.data.workers.readers import SampleError
from adabatch.data.workers.rng import SampleRng

PREFIX: Final = 16  # samples at the start of a pass that are compared
_MOST_VALUES: Final = 4096  # values of one tensor that are compared

Prints = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Mark:
    """A place in a stream from which it can be read on.

    Attributes:
        offset: samples before it.
        state: the data set's own state there; None to start at the beginning and drop samples.
        why: why the state there cannot be saved; None if it can.
    """

    offset: int = 0
    state: Any = None
    why: str | None = None


class Beginning:
    """Where the passes of a data set with a state of its own begin.

    A pass begins with `iter()`, as in a plain loop. Some data sets would then go on where a pass was left early: those
    that are their own iterator or hold their position. Two signs show it: the new pass is empty, or after its first
    sample the data set's state is another than after that of the pass before. Then the state before the pass is loaded.

    It goes with a loader's state, which may be loaded over a stream that stands elsewhere.

    Attributes:
        state: the data set's before the last pass that began with `iter()` alone; None for none.
        ended: the data set's at the end of the pass before a loaded state, until the next pass begins; else None.
        first: the data set's after the first sample of the last pass; None if not known.
        moved: whether the data set was left inside a pass, or may have been.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.state: Any = None
        self.ended: Any = None
        self.first: Any = None
        self.moved = False

    def saved(self, *, between: bool) -> dict[str, Any]:
        """Where the current or next pass begins; JSON-safe, without states that JSON cannot hold."""
        over = between and self.state is not None and not self.moved
        found = {
            "begins": packed(self.now() if self.state is None else self.state),
            "ended": packed(self.now() if over else self.ended),
        }
        return {name: state for name, state in found.items() if state is not None}

    def resumed(self, stream: Mapping[str, Any]) -> Beginning:
        """The beginning that `saved` wrote into the `stream` part of a state, itself without one; raises if damaged."""
        if stream.get("begins") is None:
            return self
        found = Beginning(self.dataset)
        found.state, found.ended, found.moved = unpacked(stream["begins"]), unpacked(stream.get("ended")), True
        return found

    def of(self, dataset: Any) -> Beginning:
        """The same for `dataset`, which may be a copy that goes its own way."""
        if dataset is self.dataset:
            return self
        found = copy.copy(self)
        found.dataset = dataset
        return found

    def now(self) -> Any:
        """The state of the data set; None before it has one, as where `__iter__` makes it."""
        try:
            return copy.deepcopy(self.dataset.state_dict())
        except Exception:
            return None

    def again(self) -> bool:
        """Whether the data set stands where it did after the first sample of the pass before."""
        return self.first is not None and self.stands(self.first)

    def stands(self, at: Any) -> bool:
        """Whether the data set's state equals `at`, apart from an epoch set by `set_epoch`."""
        told = hasattr(self.dataset, "set_epoch")
        before, after = (_but_epoch(state) if told else state for state in (at, self.now()))
        try:
            return bool(before == after)
        except Exception:  # some states, such as tensors, cannot be compared as a whole
            return False


def _but_epoch(state: Any) -> Any:
    return {key: value for key, value in state.items() if key != "epoch"} if isinstance(state, dict) else state


def fresh_of(dataset: Any) -> Any:
    """The `Beginning` of a data set that can save its own state; else None."""
    known = hasattr(dataset, "load_state_dict") and hasattr(dataset, "state_dict")
    return Beginning(dataset) if known else None


@dataclass(frozen=True)
class Opening:
    """Tells a reader in which pass to read.

    Attributes:
        serial: changes whenever the stream must be opened anew.
        epoch: the number of the pass.
        mark: the place where it is opened.
    """

    serial: int
    epoch: int
    mark: Mark


class StreamReader:
    """Walks a stream and keeps the share of one rank.

    With `sharding="stride"` every reader walks the whole stream and keeps the items asked for, so that readers and
    ranks can be any number; with `"dataset"` the data set has shared itself out, and all is kept.

    Args:
        dataset: an iterable. Its `set_epoch(epoch)`, and its own or its iterator's `state_dict()` and
            `load_state_dict()` are used where they exist.
        seed: the loader's seed.
        rng: sets the generators for each sample; None leaves them alone.
        rank: the share that is kept.
        world: the number of shares.
        fresh: where passes begin, if other readers share that; None makes one.

    Attributes:
        end, mark, prints: see `Reply`; `prints` is None where workers are not compared.
    """

    def __init__(
        self, dataset: Any, *, seed: int, rng: SampleRng | None, rank: int, world: int, fresh: Any = None
    ) -> None:
        self.dataset, self.rng = dataset, rng
        self._seed, self._rank, self._world = seed, rank, world
        self._opening: Opening | None = None
        self._offset = 0
        self._beginning: Beginning | None = fresh_of(dataset) if fresh is None else fresh.of(dataset)
        self._iterator: Iterator[Any] = iter(())
        self._ready: list[Any] = []  # the first sample, if it was read ahead to see where the data set begins
        self.end: int | None = None
        self.mark: Mark | None = None
        self._several = False  # whether others walk the same stream, so that this one may not come to its end
        self.prints: Prints | None = None

    def told(self, *, collates: bool, walks: bool, compares: bool) -> None:  # noqa: ARG002
        """A worker reads with it, and `walks` the stream as others do; `compares`: prints are kept."""
        self._several, self.prints = walks, (0, ()) if compares else None

    def read(self, first: int, last: int, opening: Opening) -> list[Any]:
        """Items `first` to `last` (exclusive) of this rank, fewer at the stream's end; a SampleError if it raises."""
        samples: list[Any] = []
        try:
            if opening != self._opening or first * self._world < self._offset:
                self._open(opening)
            self._walk(first, last, opening.epoch, samples)
            found, samples = samples, []  # if `state_dict` fails the run has no samples: its error must be raised
            self.mark = self._marked()
        except Exception as error:
            self._opening = None
            raise SampleError(samples, self._offset, error) from error
        except BaseException:  # the iterator may not go on
            self._opening = None
            raise
        return found

    def _walk(self, first: int, last: int, epoch: int, samples: list[Any]) -> None:
        while (offset := self._offset) < last * self._world and self.end is None:
            try:
                sample = self._next(epoch)
            except StopIteration:
                self.end = offset
                if self._beginning is not None:
                    self._beginning.moved = False
                return
            self._offset += 1
            if self.prints is not None and len(self.prints[1]) < PREFIX:
                self.prints = self.prints[0], (*self.prints[1], print_of(sample))
            if offset % self._world == self._rank and offset >= first * self._world:
                samples.append(sample)

    def _next(self, epoch: int) -> Any:
        if self._ready:
            return self._ready.pop()
        if self.rng is None:
            return next(self._iterator)
        with self.rng.for_sample(epoch, self._offset):
            return next(self._iterator)

    def _open(self, opening: Opening) -> None:
        self._opening, self.end, self._ready = None, None, []
        state, beginning = opening.mark.state, self._beginning
        self._offset = opening.mark.offset if state is not None else 0
        if self.prints is not None:
            self.prints = self._offset, ()
        if beginning is None:
            self._start(opening.epoch, state)
        elif state is None:
            self._begin(beginning, opening.epoch)
        else:
            if beginning.state is None:
                beginning.state = beginning.now()
            beginning.moved, beginning.first, beginning.ended = True, None, None
            self._start(opening.epoch, state)
        self._opening = opening

    def _begin(self, beginning: Beginning, epoch: int) -> None:
        """Opens a pass at its beginning; see `Beginning`."""
        stood = beginning.moved or (self._several and beginning.first is not None)
        state, known = None if stood else beginning.now(), beginning.state is not None
        resumed = stood and known and beginning.first is None
        ended, beginning.ended = beginning.ended, None
        if resumed and ended is not None:  # its own counts, as of passes, go on
            self._load(ended)
            if self._tried(beginning, epoch):
                beginning.state, beginning.first = ended, beginning.now()
                return
        elif resumed and beginning.stands(beginning.state):
            stood = resumed = False
        found = self._tried(beginning, epoch)
        if resumed and found:  # a second `iter()` shows whether it begins anew or goes on
            beginning.first = beginning.now()
            found = self._tried(beginning, epoch)
        if known and (not found or (stood and not beginning.again())):
            self._load(beginning.state)
            found = self._tried(beginning, epoch)
        elif state is not None:
            beginning.state = state
        beginning.first = beginning.now() if found else None

    def _tried(self, beginning: Beginning, epoch: int) -> bool:
        """Starts a pass and reads its first sample; returns whether there was one."""
        self._start(epoch)
        self._ready, beginning.moved = [], True
        with contextlib.suppress(StopIteration):
            self._ready = [self._next(epoch)]
        return bool(self._ready)

    def _start(self, epoch: int, state: Any = None) -> None:
        """Starts to iterate, from the data set's own `state` if one is given."""
        loads = hasattr(self.dataset, "load_state_dict")
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        if self.rng is not None:
            seed = seed_of(self._seed, epoch)
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
        if state is not None and loads:
            self._load(state)
        self._iterator = iter(self.dataset)
        if state is None or (loads and (self._iterator is not self.dataset or self._stands(state))):
            return
        self._iterator.load_state_dict(copy.deepcopy(state))  # type: ignore[attr-defined]

    def _load(self, state: Any) -> None:
        """Loads the data set's state. One that is its own iterator may only take it after `iter()`."""
        try:
            self.dataset.load_state_dict(copy.deepcopy(state))
        except Exception:
            if not hasattr(self.dataset, "__next__"):
                raise
            iter(self.dataset)
            self.dataset.load_state_dict(copy.deepcopy(state))

    def _stands(self, state: Any) -> bool:
        """Whether the data set still stands at `state` after `iter()`."""
        return self._beginning is not None and self._beginning.stands(state)

    def _marked(self) -> Mark | None:
        """Where the stream stands, if it can tell; without a state if JSON would change it."""
        owner: Any = self._iterator if hasattr(self._iterator, "state_dict") else self.dataset
        if not hasattr(owner, "state_dict") or self.end is not None:
            return None
        state = owner.state_dict()
        if state is None:
            return None
        try:
            kept = json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            return Mark(self._offset, why=str(error))
        change = changed(state, kept)
        return Mark(self._offset, kept) if change is None else Mark(self._offset, why=change)


_TENSOR = "adabatch.tensor"  # the key under which a state in JSON holds a tensor, such as that of a generator


def packed(state: Any) -> Any:
    """`state` with its tensors in a form that JSON can hold; None if JSON would change something else."""
    try:
        found = _packed(state)
        return found if changed(found, json.loads(json.dumps(found))) is None else None
    except Exception:  # it may hold anything
        return None


def _packed(state: Any) -> Any:
    if isinstance(state, dict):
        if _TENSOR in state:
            raise ArgumentError("state", f"must not have the key {_TENSOR!r}")
        return {key: _packed(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_packed(value) for value in state]
    if not isinstance(state, torch.Tensor):
        return state
    raw = state.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {_TENSOR: [str(state.dtype).removeprefix("torch."), list(state.shape), base64.b64encode(raw).decode()]}


def unpacked(state: Any) -> Any:
    """The inverse of `packed`; raises if `state` is damaged."""
    if isinstance(state, list):
        return [unpacked(value) for value in state]
    if not isinstance(state, dict):
        return state
    if _TENSOR not in state:
        return {key: unpacked(value) for key, value in state.items()}
    try:
        name, shape, text = state[_TENSOR]
        raw, dtype = bytearray(base64.b64decode(text, validate=True)), getattr(torch, name)
        return torch.frombuffer(raw, dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
    except Exception as error:
        raise ArgumentError(
            "state",
            f"is damaged: `{_TENSOR}` must hold a tensor",
            got=str(state[_TENSOR])[:80],
            remedy="use an older checkpoint",
        ) from error


def changed(one: Any, other: Any, where: str = "state") -> str | None:
    """The first difference between a state and its copy from JSON, types included; None if they are equal."""
    if type(one) is not type(other):
        return f"`{where}` is a {type(one).__name__} and comes back as a {type(other).__name__}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"the keys of `{where}` must be text, got {next(key for key in one if key not in other)!r}"
        pairs = [(one[key], other[key], f"{where}[{key!r}]") for key in one]
    elif isinstance(one, list):
        pairs = [(mine, theirs, f"{where}[{i}]") for i, (mine, theirs) in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other or one != one else f"`{where}` is {one!r} and comes back as {other!r}"
    return next((found for pair in pairs if (found := changed(*pair)) is not None), None)


def print_of(sample: Any) -> int:
    """A number that is the same for equal samples; of leaves other than tensors, arrays, text and numbers, by type."""
    if isinstance(sample, Tensor):
        strided = sample.device.type == "cpu" and sample.layout == torch.strided and not sample.is_nested
        sample = sample.detach().resolve_conj().resolve_neg() if strided else (str(sample.dtype), str(sample.layout))
        if strided and sample.dtype in _NOT_NUMPYS:
            sample = sample.contiguous().view(torch.uint8) if sample.dim() else sample.float()
        sample = sample.numpy() if strided else sample
    if isinstance(sample, np.ndarray) and not sample.dtype.hasobject:
        some = sample.reshape(-1)[:: sample.size // _MOST_VALUES + 1]
        return zlib.crc32(some.tobytes(), zlib.crc32(repr((sample.dtype, sample.shape)).encode()))
    if isinstance(sample, Mapping):
        return print_of([part for item in sample.items() for part in item])
    if isinstance(sample, list | tuple):
        return zlib.crc32(repr([print_of(part) for part in sample]).encode())
    if isinstance(sample, str | bytes | int | float | complex | bool | np.generic | None):
        return zlib.crc32(repr(sample).encode())
    return zlib.crc32(type(sample).__qualname__.encode())


_NOT_NUMPYS: Final = frozenset(
    getattr(torch, name)
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


class Agreement:
    """Compares the samples that workers found at the beginning of a pass.

    Attributes:
        ended: the workers that reached its end.
    """

    def __init__(self) -> None:
        self.ended: set[int] = set()
        self._first: dict[int, tuple[int, int]] = {}  # by offset: the print, and the worker that gave it

    def add(self, worker: int, prints: Prints) -> None:
        """Adds the prints of `worker`, from its start on; raises if another worker found another sample there."""
        start, found = prints
        for offset, value in enumerate(found, start):
            other, who = self._first.setdefault(offset, (value, worker))
            if other != value:
                raise disagreement(f"sample {offset} is another in worker {worker} than in worker {who}")


def disagreement(what: str) -> ValueError:
    """The error for readers that walk different streams."""
    return ArgumentError(
        None,
        "a stream must be the same in every worker with `sharding='stride'`, where each walks all of it and keeps its "
        f"part: {what}. Where `worker_init_fn` shares the stream out use `sharding='dataset'`",
        remedy="where it only seeds generators draw from python's, numpy's or torch's global ones, with "
        "`sample_rng=True`",
    )
