"""One micro-batch, as users see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from adabatch import _checks
from adabatch._errors import ArgumentTypeError
from adabatch.types import Part

if TYPE_CHECKING:
    from adabatch.accumulate._attempt import Attempt


class MicroBatch:
    """One micro-batch of a batch, entered with `with` to get its data.

    Attributes:
        weight: what to multiply the mean loss of the micro-batch by.
        is_last: whether the optimizer steps after this one; False if the batch has to be repeated.
        failed: whether memory ran out, so that the batch comes again from its start.
        index: its number within the batch, from 0.
        count: micro-batches in the batch, the same on every rank.
        size: samples that count; 0 for a repeated sample that only keeps ranks in step.
    """

    __slots__ = ("_attempt", "_data", "_sync", "count", "entered", "failed", "index", "is_last", "size", "weight")

    def __init__(self, data: Any, part: Part, attempt: Attempt) -> None:
        self._data, self._attempt = data, attempt
        self._sync: AbstractContextManager[Any] | None = None
        self.entered = self.failed = False
        self.weight = attempt.weight_of(part)
        self.is_last, self.index, self.count, self.size = part.is_last, part.index, part.count, part.size

    def weigh(self, total: float | Tensor) -> float:
        """Says what the micro-batch weighs where something else than samples counts, such as tokens.

        The loss then enters as a sum: `(loss_sum * micro.weigh(total)).backward()`. Call it inside `with micro`, for
        every micro-batch of a batch, before `backward`. Nothing has to be known ahead: the factor is a guess of one
        over the batch's weight, and after the last micro-batch, before clipping and taps can see them, the gradients
        are corrected by guess / weight, the weight being summed over micro-batches and ranks. The guess is a power of
        two, so it never shows in the result. Zero the gradients between batches, since all of them are corrected.

        Args:
            total: the weight of the micro-batch, at least 0, for example the number of tokens that are no padding. A
                tensor on the device is not waited for.

        Returns:
            What to multiply the summed loss by; 0 for the repeated sample of a rank that has none.

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
        sync = self._attempt.enter(self)
        sync.__enter__()
        self._sync, self.entered = sync, True
        return self._data

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        sync, self._sync = self._sync, None
        if sync is not None:
            sync.__exit__(kind, error, trace)
        repeat = self._attempt.leave(self, error)
        if repeat:
            self.failed, self.is_last, self._data = True, False, None
        return repeat and error is not None

    def __iter__(self) -> Iterator[Any]:
        raise ArgumentTypeError(
            None, "a micro-batch must be entered to get its data", remedy="write `with micro as (inputs, targets):`"
        )
