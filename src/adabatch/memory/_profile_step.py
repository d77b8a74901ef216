"""Measures on the user's own step which micro-batch sizes fit, and which is fastest."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch._random import RandomState
from adabatch.memory import _profile
from adabatch.memory._profile import Point, StepProfile
from adabatch.memory.untouched import Untouched, all_parameters, generators_kept, is_out_of_memory
from adabatch.types import DrivenLoader

_ROUNDS: Final = 5
_CLOSE: Final = 0.8  # sizes this close to the fastest are timed further
_CLOSE_ROUNDS: Final = 10
_ROUND_SECONDS: Final = 0.02
_LONGEST_STEP_SECONDS: Final = 5.0
_LARGEST: Final = 2**16
_NO_PEAK: Final = "this torch cannot record allocations on the CPU"

Make = Callable[[int], Any]


def profile_step(
    step: Callable[[Any], Any],
    loader: Any,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
    *,
    memory_budget: int | None = None,
    maximum: int | None = None,
) -> StepProfile:
    """Measures seconds and peak bytes of a real training step at micro-batch sizes 1, 2, 4, ...

    It stops at the memory budget, at `maximum`, or at steps of more than 5 seconds. Afterwards parameters, gradients,
    buffers, optimizer state, random states and the loader's position are bit for bit as before. Sizes are measured in
    turns, and each one's fastest turn counts. All ranks must call it; all get the slowest rank's seconds and the
    highest peak. The result is kept on disk by model, step, sample shapes, device and versions, in the folder that the
    environment variable ADABATCH_CACHE names, else in the user's cache folder.

    A pass that runs out of memory, on whichever rank, ends the search for all. Under `fully_shard` and SyncBatchNorm
    the other ranks would wait in that pass for ever: give a `memory_budget` with room.

    Args:
        step: forward and backward of one micro-batch, as in your loop; called with a batch as the loader yields it.
            If it steps the optimizer too, that time is subtracted. Other things that it changes are not restored.
        loader: an `ab.DataLoader`, any iterable of batches that can be iterated again, or a function from a number of
            samples to a batch, for batches that cannot be cut. It must not be in the middle of an iteration.
        model: the model that `step` trains.
        optimizer: its optimizer, or several.
        memory_budget: bytes that a pass may take beyond the memory kept between updates; None: the device's free ones.
        maximum: the largest size; None: the rank's share of the data set, at most 65,536.

    Returns:
        The profile, with `fastest`, `largest` and `speedup(batch_sizes)`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if one is out of range, or not even one sample fits.

    Example:
        >>> import adabatch as ab
        >>> data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
        >>> model, loader = torch.nn.Linear(8, 1), ab.DataLoader(data, batch_size=8)
        >>> def step(batch):
        ...     torch.nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
        >>> profile = profile_step(step, loader, model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> profile.largest, profile.fastest in [1, 2, 4, 8, 16, 32, 64], profile.speedup([8, 64])[8]
        (64, True, 1.0)
    """
    optimizers = _checked_optimizers(optimizer)
    if not callable(step):
        raise ArgumentTypeError("step", "must be a function of a batch", got=type(step).__name__)
    group, _, ranks = loader.sharing() if isinstance(loader, DrivenLoader) else _distributed.sharing_group()
    largest = _largest(loader, ranks) if maximum is None else _checks.whole("maximum", maximum)
    if memory_budget is not None:
        memory_budget = _checks.whole("memory_budget", memory_budget)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    states = RandomState({device} - {torch.device("cpu")})
    make = maker(loader)
    states.restore()
    name = _profile.key_of(step, model, optimizers, shapes(make(1)), device, ranks)
    trial = _Trial(step, make, model, optimizers, device=device, group=group, ranks=ranks)
    found = _agreed(_profile.kept(name, budget=trial.budget(memory_budget), maximum=largest), group, ranks)
    if found is not None:
        return found
    with Untouched(model, optimizers):
        profile = trial.run(memory_budget, largest)
    _profile.keep(name, profile)
    return profile


class _Trial:
    """The measurement."""

    def __init__(
        self,
        step: Callable[[Any], Any],
        make: Make,
        model: Any,
        optimizers: list[torch.optim.Optimizer],
        *,
        device: torch.device,
        group: Any,
        ranks: int,
    ) -> None:
        self._step, self._make, self._model, self._optimizers = step, make, model, optimizers
        self._device, self._group, self._ranks = device, group, ranks
        self._updates = 0
        self._parameters = all_parameters(model, optimizers)

    def _count(self, *_arguments: Any) -> None:
        self._updates += 1

    def budget(self, given: int | None) -> int | None:
        """The bytes that a pass may take: those given, else what is free now on the rank with the least."""
        if given is None and (free := free_bytes(self._device)) is not None:
            return int(-self._reduced([-free])[0])
        return given

    def run(self, memory_budget: int | None, largest: int) -> StepProfile:
        """Finds the sizes that fit, then times them in turns. Hooks and settings of the model are the caller's."""
        for optimizer in self._optimizers:
            optimizer.register_step_post_hook(self._count)
        if hasattr(self._model, "require_forward_param_sync"):  # DDP: a pass must not wait for one that has failed
            self._model.require_forward_param_sync = False
        update_seconds, included = self._warm_up()
        budget = self.budget(memory_budget)
        peaks, guesses, stopped = self._sizes(budget, largest)
        counts = {size: max(1, math.ceil(_ROUND_SECONDS / guess)) for size, guess in guesses.items()}
        best = dict.fromkeys(counts, math.inf)
        self._turns(_ROUNDS, counts, best)
        fastest = max(size / seconds for size, seconds in best.items())
        close = {size: counts[size] for size, seconds in best.items() if size / seconds >= _CLOSE * fastest}
        if len(close) > 1:
            self._turns(_CLOSE_ROUNDS, close, best)
        if len(best) < len(counts):
            stopped = "memory"
        if included:
            best = {size: seconds - update_seconds for size, seconds in best.items()}
        points = tuple(Point(size, max(best[size], 1e-9), peaks[size]) for size in sorted(best))
        no_peak = "" if all(peak is not None for peak in peaks.values()) else _NO_PEAK
        if no_peak and self._device.type != "cpu":
            no_peak = f"devices of type {self._device.type} do not tell"
        return StepProfile(points, update_seconds, self._ranks, budget, stopped, no_peak)

    def _turns(self, rounds: int, counts: dict[int, int], best: dict[int, float]) -> None:
        """Times the sizes in turns, there and back, and keeps the fastest seconds of each in `best`.

        A size at which memory runs out on any rank now, and larger ones, leave `best`.
        """
        for turn in range(rounds):
            order = [size for size in counts if size in best][:: -1 if turn % 2 else 1]
            times = dict(zip(order, self._reduced([self._timed(size, counts[size]) for size in order]), strict=True))
            failed = min((size for size in order if times[size] == math.inf), default=math.inf)
            for size in [*best]:
                if size >= failed:
                    del best[size]
                elif size in times:
                    best[size] = min(best[size], times[size])
            if not best:
                raise self._too_large(int(failed))

    def _timed(self, size: int, count: int) -> float:
        """`_seconds`; infinity if memory runs out."""
        try:
            return self._seconds(size, count)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._forget()
        return math.inf

    def _forget(self) -> None:
        """Frees what a failed pass left."""
        self._clear()
        if self._device.type not in ("cpu", "meta"):
            torch.get_device_module(self._device).empty_cache()

    def _too_large(self, size: int, budget: int | None = None) -> ArgumentError:
        return ArgumentError(
            "memory_budget",
            f"must fit one micro-batch of {size} samples",
            value=budget,
            remedy="use a smaller model or activation checkpointing",
        )

    def _warm_up(self) -> tuple[float, bool]:
        """Lets the optimizer make its state; returns the seconds of its step, and whether the user's includes it."""
        try:
            self._pass(2)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        included: float = self._updates > 0
        times = []
        for _ in range(3):
            self._wait()
            begin = time.perf_counter()
            for optimizer in self._optimizers:
                optimizer.step()
            self._wait()
            times.append(time.perf_counter() - begin)
        self._clear()
        update_seconds, included = self._reduced([min(times), included])
        return update_seconds, bool(included)

    def _sizes(self, budget: int | None, largest: int) -> tuple[dict[int, int | None], dict[int, float], str]:
        """Peak bytes and first seconds of each size that fits, and why the search ended."""
        peaks: dict[int, int | None] = {}
        guesses: dict[int, float] = {}
        size, stopped = 1, "maximum"
        while size <= largest:
            failed, peak, seconds = self._try(size)
            if failed == "one":  # batch norm cannot train on one sample
                size *= 2
                continue
            if failed or (budget is not None and peak is not None and peak > budget):
                stopped = "memory"
                break
            peaks[size], guesses[size] = peak, seconds
            if 2 * size <= largest and self._expected(peaks, size) > (math.inf if budget is None else budget):
                stopped = "memory"
                break
            if 2 * size <= largest and 2 * seconds > _LONGEST_STEP_SECONDS:
                stopped = "time"
                break
            size *= 2
        if not peaks:
            raise self._too_large(size, budget)
        return peaks, guesses, stopped

    def _expected(self, peaks: dict[int, int | None], size: int) -> float:
        """Peak bytes at twice the size, extrapolated from the last two sizes."""
        here, before = peaks[size], peaks.get(size // 2)
        if here is None:
            return 0
        return here + 2 * (here - before) if before is not None else here

    def _try(self, size: int) -> tuple[str, int | None, float]:
        """Why a size fails on any rank (empty if it fits), its peak bytes, and the seconds of a pass."""
        failed, peak, seconds = "", None, 0.0
        try:
            self._pass(size)
            peak = peak_bytes(lambda: self._pass(size), self._device)
            self._clear()
            seconds = self._seconds(size, 1)
        except Exception as error:
            if is_out_of_memory(error):
                failed = "memory"
            elif size == 1 and isinstance(error, ValueError):
                failed = "one"
            else:
                raise
        if failed:
            self._forget()
        memory, one, most, slowest = self._reduced([failed == "memory", failed == "one", peak or 0, seconds])
        return "memory" if memory else "one" if one else "", None if peak is None else int(most), max(slowest, 1e-9)

    def _seconds(self, size: int, count: int) -> float:
        """The mean seconds of `count` passes."""
        batches = [self._make(size) for _ in range(min(count, 2))]
        self._wait()
        begin = time.perf_counter()
        for index in range(count):
            with self._no_sync():
                self._step(batches[index % len(batches)])
            self._clear()
        self._wait()
        return (time.perf_counter() - begin) / count

    def _pass(self, size: int) -> None:
        batch = self._make(size)
        with self._no_sync():
            self._step(batch)

    def _no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which gradients stay on the rank, as in an accumulation."""
        return self._model.no_sync() if hasattr(self._model, "no_sync") else contextlib.nullcontext()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _wait(self) -> None:
        if self._device.type not in ("cpu", "meta"):
            torch.get_device_module(self._device).synchronize(self._device)

    def _reduced(self, values: list[Any]) -> list[float]:
        """The largest of each value on any rank."""
        numbers = [float(value) for value in values]
        if self._ranks == 1:
            return numbers
        return _distributed.largest(numbers, device=_distributed.device_of(self._group), group=self._group)


def _checked_optimizers(given: Any) -> list[torch.optim.Optimizer]:
    optimizers = list(given) if isinstance(given, list | tuple) else [given]
    for each in optimizers:
        if not isinstance(each, torch.optim.Optimizer):
            raise ArgumentTypeError(
                "optimizer", "must be a torch.optim.Optimizer or a list of them", got=type(each).__name__
            )
    return optimizers


def _largest(loader: Any, ranks: int) -> int:
    size = loader.dataset_size if isinstance(loader, DrivenLoader) else None
    if size is None:
        with contextlib.suppress(TypeError, AttributeError):
            size = len(loader.dataset)
    return _LARGEST if size is None else max(1, min(_LARGEST, -(-size // ranks)))


def _agreed(found: StepProfile | None, group: Any, ranks: int) -> StepProfile | None:
    """Rank 0's `found`, on every rank."""
    if ranks == 1:
        return found
    data = _distributed.same_for_all(None if found is None else found.to_json(), group)
    return None if data is None else StepProfile.from_json(data)


# Micro-batches of any size, from the samples of a loader.


def maker(loader: Any) -> Make:
    """A function that makes micro-batches of any size from the next batch of `loader`, or `loader` if it is one.

    The loader's position stays. Samples are repeated where a size exceeds the batch.
    """
    if callable(loader) and not hasattr(loader, "__iter__"):
        return loader  # type: ignore[no-any-return]
    batch = _first(loader)
    have = _length(batch)
    if have == 0:
        raise ArgumentError("loader", "must yield batches of at least one sample", got="an empty one")

    def make(size: int) -> Any:
        return resized(batch, have, size)

    return make


def _first(loader: Any) -> Any:
    if isinstance(loader, DrivenLoader):
        return loader.peek()
    if not hasattr(loader, "__iter__"):
        raise ArgumentTypeError(
            "loader", "must be a loader or a function from a size to a batch", got=type(loader).__name__
        )
    with generators_kept(loader):
        iterator = iter(loader)
        if iterator is loader:
            raise ArgumentTypeError(
                "loader",
                "must be one that can be iterated again",
                got="an iterator, which would lose a batch",
                remedy="pass the loader itself, or a function from a size to a batch",
            )
        batch = next(iterator, None)
    if batch is None:
        raise ArgumentError("loader", "must yield at least one batch", got="none")
    return batch


def _is_column(data: Any) -> bool:
    return isinstance(data, list | tuple) and len(data) > 0 and isinstance(data[0], str | bytes)


def _length(batch: Any) -> int:
    for leaf in pytree.tree_leaves(batch, is_leaf=_is_column):
        if _is_column(leaf) or (isinstance(leaf, Tensor) and leaf.ndim):
            return len(leaf)
    raise ArgumentTypeError(
        "loader",
        "must yield batches with tensors",
        got=type(batch).__name__,
        remedy="pass a function from a size to a batch",
    )


def resized(batch: Any, have: int, size: int) -> Any:
    """The first `size` samples of a `batch` of `have`, repeated in turn if there are fewer.

    Example:
        >>> resized((torch.arange(3), ["a", "b", "c"]), 3, 5)
        (tensor([0, 1, 2, 0, 1]), ['a', 'b', 'c', 'a', 'b'])
    """
    if size == have:
        return batch

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == have:
            return leaf[torch.arange(size, device=leaf.device) % have]
        if _is_column(leaf) and len(leaf) == have:
            return type(leaf)(leaf[index % have] for index in range(size))
        return leaf

    return pytree.tree_map(cut, batch, is_leaf=_is_column)


def shapes(batch: Any) -> list[str]:
    """Types and shapes of a sample's leaves."""
    return [
        f"{leaf.dtype}{tuple(leaf.shape[1:])}" if isinstance(leaf, Tensor) else type(leaf).__name__
        for leaf in pytree.tree_leaves(batch, is_leaf=_is_column)
    ]


# Bytes.


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a step could still take on `device`; None if not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return _free_here() if device.type == "cpu" else None


def all_bytes(device: torch.device) -> int | None:
    """Bytes that a process could have on `device` at most; None if not known.

    On a GPU those that are free now. On the CPU all memory, or the control group's limit if that is less: what is free
    there does not count what this process has freed and keeps.
    """
    return _bytes_here("MemTotal:", used=False) if device.type == "cpu" else free_bytes(device)


def _free_here() -> int | None:
    """Available memory of the machine, or of the control group if it has less."""
    return _bytes_here("MemAvailable:", used=True)


def _bytes_here(name: str, *, used: bool) -> int | None:
    """A line of the machine's memory, or the control group's limit if that is less; without what the group has used."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]
    group = Path("/sys/fs/cgroup")
    try:
        limit, current = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        if limit != "max":
            found.append(max(int(limit) - used * int(current), 0))
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """The peak of tensor memory during `call`, beyond its level before; None if not known."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type == "cpu":
        return _peak_here(call)
    call()
    return None


def _peak_here(call: Callable[[], Any]) -> int | None:
    """The peak from every allocation and release of torch's CPU allocator, added up in order."""
    try:
        from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
        from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig
    except ImportError:
        call()
        return None
    config = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    _enable_profiler_legacy(config)
    try:
        call()
    finally:
        records = _disable_profiler_legacy()
    now = peak = 0
    for thread in records:
        for event in thread:
            if str(event.kind()) == "memory_alloc":
                now += event.cpu_memory_usage()
                peak = max(peak, now)
    return int(peak)
