"""One attempt at one batch: what happens around its micro-batches."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adabatch._distributed import gradients
from adabatch._errors import ArgumentError, UsageError
from adabatch.memory.untouched import is_out_of_memory
from adabatch.types import Part

if TYPE_CHECKING:
    from adabatch.accumulate._micro_batch import MicroBatch
    from adabatch.accumulate._stream import Stream

_FREE = nullcontext()


class Attempt:
    """One attempt at one batch.

    Where it may be repeated no rank reduces anything before all have voted that nothing failed.

    Args:
        stream: the accumulation that it is part of.
        part: the first micro-batch.

    Attributes:
        failed: whether the batch must be repeated.
        error: the out-of-memory error of this rank, if it is the one that failed.
        corrected: whether gradients were multiplied.
    """

    def __init__(self, stream: Stream, part: Part) -> None:
        self._stream, self._part = stream, part
        self.failed, self.error, self.corrected = False, "", False
        self._entered = False
        self._weights: dict[int, float | Tensor] = {}
        self._nominal = 0.0
        self.deferred = stream.repeats and stream.models.may_defer()

    def weight_of(self, part: Part) -> float:
        """What to multiply the mean loss of a micro-batch by."""
        self._part = part
        nominal = part.batch.requested if self._stream.counted_late else part.batch.size
        return part.size * self._stream.scale / nominal

    def weigh(self, index: int, size: int, total: float | Tensor) -> float:
        """The factor for the summed loss of a micro-batch that weighs `total`."""
        stream = self._stream
        if not stream.models:
            raise ArgumentError(
                "model",
                ("must be given where micro-batches are weighed, since its gradients are corrected after the last one"),
                remedy="write `accumulate(loader, model)`",
            )
        if not self._nominal:
            agree = stream.models.reduces and not self.deferred
            self._nominal = stream.nominal(total, size, batch_size=self._part.batch.size, agree=agree)
        self._weights[index] = total if size else 0
        return 1 / self._nominal if size else 0.0

    def enter(self, micro: MicroBatch) -> AbstractContextManager[Any]:
        """The context of a micro-batch's passes."""
        models = self._stream.models
        self._stream.guard.enter(micro, self)
        if not self.deferred:
            return _FREE if micro.is_last or models.must_sync() else models.no_sync()
        if not self._entered:
            self._entered = True
            models.sync_buffers()
            if self._stream.memento is not None:
                self._stream.memento.keep()
        return models.no_sync() if models.reduces else _FREE

    def leave(self, micro: MicroBatch, error: BaseException | None) -> bool:
        """After a micro-batch's passes; returns whether the batch must be repeated.

        Raises:
            torch.OutOfMemoryError: if memory ran out and the batch cannot be repeated.
        """
        guard = self._stream.guard
        guard.leave()
        repeat = self._leave(micro, error)
        if repeat or error is None:
            guard.settle(whole=micro.is_last, again=repeat)
        return repeat

    def _leave(self, micro: MicroBatch, error: BaseException | None) -> bool:
        if error is not None:
            if not is_out_of_memory(error):
                return False
            if not self.deferred:
                self._stream.explain(error)
                return False
            self.failed, self.error = True, str(error)
            self._vote()
            return True
        if not micro.is_last:
            return False
        if self.deferred:
            self._reduce()
            if self.failed:
                return True
        else:
            self._stream.models.synced()
            self._correct()
        return False

    def must_know_all(self) -> bool:
        """Whether it matters that a parameter outside the models gets a gradient."""
        stream = self._stream
        return stream.repeats or stream.counted_late or bool(self._weights) or stream.models.averaged_over > 1

    def keep_also(self, others: list[Tensor]) -> None:
        """Keeps the gradients of parameters outside the models, which a backward pass is about to reach."""
        if self.deferred and self._stream.memento is not None:
            self._stream.memento.keep_also(others)

    def _vote(self, *flags: bool) -> list[bool]:
        """Tells all ranks whether this one failed, and hears of the others."""
        stream = self._stream
        if stream.voters == 1:
            return list(flags)
        given = flags or (False,) * len(stream.models.parameters)
        failed, *found = gradients.any_of([self.failed, *given], device=stream.models.device, group=stream.vote_group)
        self.failed = failed
        return found

    def _reduce(self) -> None:
        """Votes; if nobody failed, corrects the gradients and averages them where the wrapper would have."""
        stream, average = self._stream, None
        parameters = stream.models.parameters
        mine = [p.grad is not None for p in parameters]
        averaging = stream.models.is_ddp and stream.models.averaged_over > 1
        if averaging:
            try:
                average = self._average(mine)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.failed, self.error = True, str(error)
        union = self._vote(*mine)
        if self.failed:
            return
        self._correct()
        if averaging:
            if union != mine or average is None:
                for parameter, needed in zip(parameters, union, strict=True):
                    if needed and parameter.grad is None and id(parameter) not in stream.models.ignored:
                        parameter.grad = torch.zeros_like(parameter)
                average = self._average(union)
            average.run()
        stream.models.expect_sync(True)

    def _average(self, chosen: list[bool]) -> gradients.Average:
        ignored = self._stream.models.ignored
        pairs = zip(self._stream.models.parameters, chosen, strict=True)
        found = [p.grad for p, wanted in pairs if wanted and id(p) not in ignored]
        if any(grad is not None and grad.is_sparse for grad in found):
            raise ArgumentError(
                "recover",
                (
                    "must be False for a model with sparse gradients under DistributedDataParallel, which "
                    "averages them itself"
                ),
                remedy="write `accumulate(loader, model, recover=False)`",
            )
        return gradients.Average([grad for grad in found if grad is not None], self._stream.models.group)

    @torch.no_grad()
    def _correct(self) -> None:
        """Multiplies the gradients by guess / weight of the batch, where the weight was not known before."""
        stream, part = self._stream, self._part
        if self._weights:
            if len(self._weights) != part.count:
                raise UsageError(
                    None,
                    (
                        f"{len(self._weights)} of {part.count} micro-batches of a batch were weighed, so the "
                        "gradient is not the batch's"
                    ),
                    remedy="call `micro.weigh(total)` for each, or for none",
                )
            total = self._total()
            factor: Any = torch.where(total > 0, stream.scale * self._nominal / total, 1.0)
        elif stream.counted_late and part.batch.size != part.batch.requested:
            factor = part.batch.requested / part.batch.size
        else:
            return
        self.corrected = True
        found = [p.grad for p in (*stream.models.parameters, *stream.guard.joined) if p.grad is not None]
        local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in found]
        factors: dict[torch.device, Any] = {}
        for grad in local:
            if grad.device not in factors:
                factors[grad.device] = factor.to(grad.device) if isinstance(factor, Tensor) else factor
            grad.mul_(factors[grad.device])

    def _total(self) -> Tensor:
        """The weight of the batch, over micro-batches and ranks, in float64 on the model's device."""
        stream = self._stream
        total = torch.zeros((), dtype=torch.float64, device=stream.models.device)
        for weight in self._weights.values():
            total += weight.to(total) if isinstance(weight, Tensor) else weight
        if stream.world > 1:
            total = gradients.summed(total, stream.group)
        return total


def power_of_two(value: float) -> float:
    """The power of two next to `value`; 1 for 0.

    Example:
        >>> power_of_two(100), power_of_two(0.0)
        (128.0, 1.0)
    """
    return 2.0 ** round(math.log2(value)) if value > 0 else 1.0
