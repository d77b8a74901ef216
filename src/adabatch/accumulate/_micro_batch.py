"""One epoch as micro-batches: the batches in turn, and a batch again when memory ran out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from adabatch import _checks
from adabatch._errors import ArgumentTypeError, UsageError
from adabatch._random import RandomState
from adabatch.accumulate._attempt import Attempt, Setup
from adabatch.accumulate._guard import Guard
from adabatch.noise.listening import tap_on
from adabatch.types import DrivenLoader, Part, RepeatableParts

_CHECKED: Final = 2  # batches before which ranks are compared: the first, and the one after the first update


class MicroBatch:
    """One micro-batch of a batch, entered with `with` to get its data.

    Attributes:
        weight: the factor on the mean loss of the micro-batch.
        is_last: whether the optimizer steps after this one; False if the batch must be repeated.
        failed: whether memory ran out, so that the batch comes again from its start.
        index: its number within the batch, from 0.
        count: micro-batches in the batch, the same on every rank.
        size: samples that count; 0 for the repeated sample that keeps ranks in step.
    """

    __slots__ = (
        "_attempt", "_data", "_guard", "_part", "_sync",
        "count", "entered", "failed", "index", "is_last", "size", "weight",
    )  # fmt: skip

    def __init__(self, data: Any, part: Part, attempt: Attempt, guard: Guard) -> None:
        self._data, self._part, self._attempt, self._guard = data, part, attempt, guard
        self._sync: AbstractContextManager[Any] | None = None
        self.entered = self.failed = False
        self.weight = attempt.weight_of(part)
        self.is_last, self.index, self.count, self.size = part.is_last, part.index, part.count, part.size

    def weigh(self, total: float | Tensor) -> float:
        """The factor on the summed loss of the micro-batch, where tokens or anything else but samples count.

        Write `(loss_sum * micro.weigh(total)).backward()` inside `with micro`, for every micro-batch of a batch. The
        weight of the batch is not known yet, so the factor is one over a guess. After the last micro-batch, before you
        clip, the gradients are corrected by guess / weight, where the weight is summed over micro-batches and ranks.
        The guess is a power of two, so it never shows in the result. Zero the gradients between batches, since all of
        them are corrected.

        Args:
            total: the weight of the micro-batch, at least 0, for example its tokens without padding. A tensor on the
                device is not waited for.

        Returns:
            The factor; 0 for the repeated sample of a rank that has none.

        Raises:
            TypeError: if `total` is neither a number nor a tensor of one number.
            ValueError: if it is negative or not finite, or `accumulate` was not given the model.

        Example:
            >>> import torch, adabatch as ab
            >>> data = torch.utils.data.TensorDataset(torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]]))  # 0: padding
            >>> loader, model = ab.DataLoader(data, batch_size=3, micro_batch_size=2), torch.nn.Linear(1, 1, bias=False)
            >>> for micro in ab.accumulate(loader, model):
            ...     with micro as (tokens,):
            ...         loss_sum = model(tokens[tokens > 0][:, None]).sum()
            ...         (loss_sum * micro.weigh((tokens > 0).sum())).backward()
            >>> model.weight.grad.item()  # (1 + 2 + 3 + 4 + 5) / 5
            3.0
        """
        if isinstance(total, Tensor):
            if total.numel() != 1:
                raise ArgumentTypeError(
                    "total",
                    "must be one number",
                    got=f"a tensor of shape {tuple(total.shape)}",
                    remedy="sum it: `mask.sum()`",
                )
            total = total.detach().reshape(())
        else:
            total = _checks.finite("total", total, minimum=0)
        return self._attempt.weigh(self.index, self.size, total)

    def __enter__(self) -> Any:
        self._guard.enter(self._part, self._attempt)
        sync = self._attempt.enter(is_last=self.is_last)
        sync.__enter__()
        self._sync, self.entered = sync, True
        return self._data

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        sync, self._sync = self._sync, None
        if sync is not None:
            sync.__exit__(kind, error, trace)
        self._guard.leave()
        repeat = self._attempt.leave(error, is_last=self.is_last)
        if repeat or error is None:
            self._guard.settle(whole=self.is_last, again=repeat)
        if repeat:
            self.failed, self.is_last, self._data = True, False, None
        return repeat and error is not None

    def __iter__(self) -> Iterator[Any]:
        raise ArgumentTypeError(
            None, "a micro-batch must be entered to get its data", remedy="write `with micro as (inputs, targets):`"
        )


def in_turn(loader: DrivenLoader, setup: Setup) -> Generator[MicroBatch, None, None]:
    """One epoch of `loader` as micro-batches; see `accumulate`."""
    setup.check_model()
    snapshot, parts = setup.snapshot, loader.parts()
    with Guard(setup.models) as guard, _tapped(loader) as before_batch:
        random = RandomState(snapshot.devices) if snapshot is not None else None
        before: MicroBatch | None = None
        begun = 0  # batches
        before_batch()
        for data, part in parts:
            if part.index == 0:
                if begun < _CHECKED and setup.world > 1:
                    setup.check_others(loader, part, first=begun == 0)
                begun += 1
                attempt = Attempt(setup, part)
            micro = MicroBatch(data, part, attempt, guard)
            del data
            yield micro
            guard.check_unbroken()
            if attempt.failed:
                assert random is not None
                assert isinstance(parts, RepeatableParts)
                _halve(loader, setup, part, attempt.error)
                random.restore()
                parts.again()
                before = None
                continue
            if before is not None and part.index > 0 and micro.entered != before.entered:
                missing = before.index + 1 if micro.entered else part.index + 1
                raise UsageError(
                    None,
                    f"micro-batch {missing} of {part.count} was not entered, others of its batch were, so the gradient "
                    "is not the batch's",
                    remedy="write `with micro as (inputs, targets):` for each",
                )
            before = micro
            if part.is_last and snapshot is not None:
                random = RandomState(snapshot.devices)
            if part.is_last:
                before_batch()


@contextmanager
def _tapped(loader: DrivenLoader) -> Iterator[Callable[[], None]]:
    """A context that gives what to call before a batch is cut, for a tap that would have it cut in two."""

    def before_batch() -> None:
        tap = tap_on(loader)
        if tap is not None:
            tap.next_batch()

    try:
        yield before_batch
    finally:
        tap = tap_on(loader)
        if tap is not None:
            tap.no_batch()


def _halve(loader: DrivenLoader, setup: Setup, part: Part, error: str) -> None:
    """Undoes a failed attempt and halves the micro-batch size; raises if not even one sample fits."""
    share = -(-part.batch.size // setup.world)
    size = -(-share // part.count)  # the largest micro-batch of the batch, on any rank
    where, device = "on this rank" if error else "on another rank", setup.models.device
    gc.collect()
    assert setup.snapshot is not None
    setup.snapshot.restore()
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).empty_cache()
    if size == 1:
        raise torch.OutOfMemoryError(
            f"memory ran out {where} with micro-batches of one sample, which cannot be halved; use a smaller model "
            f"or activation checkpointing. {error}".rstrip()
        )
    loader.micro_batch_size = half = -(-size // 2)
    warnings.warn(
        f"memory ran out {where} with micro-batches of {size} samples; the batch at sample {part.batch.clock:,} is "
        f"repeated with {half}, and so are those that follow; set `micro_batch_size={half}` to begin with",
        RuntimeWarning,
        stacklevel=3,
    )
