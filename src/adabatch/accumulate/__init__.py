"""`accumulate`: micro-batches whose weighted gradients add up to the gradient of the whole batch.

This module loads no torch, so that the package can offer the function by its name at once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from adabatch._errors import ArgumentTypeError

if TYPE_CHECKING:
    from adabatch.accumulate._micro_batch import MicroBatch
    from adabatch.types import DrivenLoader

__all__ = ["accumulate"]


def accumulate(loader: DrivenLoader, model: Any = None, *, recover: bool = True) -> Generator[MicroBatch, None, None]:
    """One epoch of `loader` as micro-batches of at most `loader.micro_batch_size` samples on each rank.

    Multiply the mean loss of each micro-batch by its weight; the sum of the gradients then is the gradient of the
    batch's mean loss, for models without batch statistics. With batch norm the micro-batch is the ghost batch.
    Without a `micro_batch_size` every batch is one micro-batch.

        weight = n / B; n * W / B where the model averages gradients over W ranks

    **The step comes after the `with` block** of the last micro-batch, and so does what clips, reads or logs gradients:
    inside they are neither corrected nor averaged over ranks yet. `optimizer.step()` of the trained parameters inside
    the block, between micro-batches of one batch, or in a hook during `backward()`, is an error, whichever optimizer of
    torch's kind it is, compiled or fused. Another network's optimizer may step at any time, if `model` is given. Not
    seen are clipping and whatever writes to parameters without the `step()` of a `torch.optim.Optimizer`.

    **Everything that is trained belongs in `model`**, several modules as a list. In one process, a parameter outside it
    that a loss reaches together with its own is found by the graph of the loss and treated alike: its gradient is
    corrected, and put back before a batch is repeated. Where gradients are averaged over ranks nobody would average it,
    so an optimizer that is about to step it is refused. So is, once a batch is corrected or repeated, an optimizer of
    the model that also holds a parameter which no graph shows (custom autograd functions, re-entrant checkpoints).

    Where tokens count, or anything else than samples, sum the losses and say what they weigh:
    `(loss_sum * micro.weigh(tokens)).backward()`; see `MicroBatch.weigh`.

    **Out of memory.** If a pass runs out of memory inside `with micro`, the size that failed is halved with a warning,
    gradients, buffers and random states are put back, and the same batch comes again, on all ranks. `micro.is_last`
    then is False and `micro.failed` True. Ranks vote once a batch, and gradients under DistributedDataParallel are
    averaged in one explicit all-reduce after the vote instead of during the backward pass; `recover=False` leaves that
    to DDP, custom communication hooks and SyncBatchNorm do the same. A batch cannot be repeated under `fully_shard` or
    with `micro_batches`; the error then says what to do.

    Args:
        loader: an `ab.DataLoader`; its `micro_batch_size` bounds one forward and backward pass. Or another loader in
            `ab.micro_batches`.
        model: the model that is trained, or a list of all modules that are, each as it is wrapped. Under
            DistributedDataParallel, FullyShardedDataParallel and `fully_shard` gradients are then synchronised in the
            last micro-batch of each batch only. One process may leave it out, if it needs neither `weigh` nor recovery.
        recover: whether a batch that ran out of memory is repeated in smaller micro-batches.

    Yields:
        Micro-batches, to be entered with `with`.

    Raises:
        TypeError: if `loader` is not an `ab.DataLoader`, or `model` no module.
        ValueError: if batches are shared between ranks and `model` is missing, or its gradients do not come together.
        RuntimeError: if some micro-batches of a batch were entered or weighed and others not, or an optimizer steps too
            early or with a gradient that was left out.
        torch.OutOfMemoryError: if micro-batches of one sample do not fit, or the batch cannot be repeated.

    Example:
        >>> import torch, adabatch as ab
        >>> data = torch.utils.data.TensorDataset(torch.arange(5.0))
        >>> loader = ab.DataLoader(data, batch_size=5)
        >>> loader.micro_batch_size = 2
        >>> mean = 0.0
        >>> for micro in accumulate(loader):
        ...     with micro as (values,):
        ...         mean += values.mean().item() * micro.weight
        >>> round(mean, 6)
        2.0
    """
    from adabatch.accumulate._attempt import Setup  # loads torch
    from adabatch.accumulate._micro_batch import in_turn
    from adabatch.types import DrivenLoader

    if not isinstance(loader, DrivenLoader):
        raise ArgumentTypeError(
            "loader",
            "must be an ab.DataLoader",
            got=f"{type(loader).__module__}.{type(loader).__name__}",
            remedy="ab.DataLoader takes the arguments of torch's; `ab.micro_batches(loader, batch_size=...)` wraps any "
            "other",
        )
    return in_turn(loader, Setup(loader, model, recover=recover))
