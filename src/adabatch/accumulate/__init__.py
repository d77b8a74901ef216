"""`accumulate`: micro-batches whose weighted gradients add up to the gradient of the whole batch.

This module loads no torch, so that the package can offer the function by its name at once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Literal

from adabatch._errors import ArgumentTypeError, needing_torch

if TYPE_CHECKING:
    from adabatch.accumulate._micro_batch import MicroBatch
    from adabatch.types import DrivenLoader

__all__ = ["accumulate"]


def accumulate(
    loader: DrivenLoader,
    model: Any = None,
    *,
    recover: bool = True,
    compress: Literal["fp16", "bf16"] | None = None,
) -> Generator[MicroBatch, None, None]:
    """Yields one epoch of `loader` as micro-batches of at most `loader.micro_batch_size` samples on each rank.

    Multiply the mean loss of each micro-batch by its weight. The gradients then sum to the gradient of the batch's mean
    loss, for models without batch statistics; with batch norm the micro-batch is the ghost batch, of all ranks after
    `norm.sync`. Without a `micro_batch_size` every batch is one micro-batch.

        weight = n / B; n * W / B where the model averages gradients over W ranks

    **Step after the `with` block** of the last micro-batch, and clip, read or log gradients there too: inside the block
    they are neither corrected nor averaged over ranks. A `step()` of the trained parameters inside the block, between
    micro-batches of one batch, or in a hook during `backward()` raises, with any `torch.optim.Optimizer`. The optimizer
    of another network may step at any time if `model` is given. Clipping, and code that writes to parameters without an
    optimizer, go unnoticed.

    **Put everything that is trained into `model`**, several modules as a list. In one process, a parameter outside
    `model` that a loss reaches together with the model's is found in the loss's graph and treated alike: its gradient
    is corrected, and restored before a batch is repeated. Where gradients are averaged over ranks, an optimizer that
    would step such a parameter is refused, since nobody averages its gradient. After a correction or a repeat, so is an
    optimizer of the model with a parameter that no graph shows (custom autograd functions, re-entrant checkpoints).

    Where tokens or anything else but samples count, sum the losses and give their weight:
    `(loss_sum * micro.weigh(tokens)).backward()`; see `MicroBatch.weigh`.

    **Out of memory.** If memory runs out inside `with micro`, gradients, buffers and random states are restored, the
    micro-batch size is halved with a warning, and the same batch comes again, on all ranks. `micro.is_last` then is
    False and `micro.failed` True. For this, ranks vote once a batch, and DistributedDataParallel's gradients are
    averaged in one all-reduce after the vote. With `recover=False`, custom communication hooks or batch norm over
    ranks, DDP averages them itself. Under `fully_shard` and with `micro_batches` a batch cannot be repeated; the error
    says what to do.

    **Unwrapped models.** Where batches are shared between ranks and nothing averages the gradients of `model`, sum them
    over ranks before each step. A warning comes if the ranks' weights differ before the first or second batch.

    **Compression.** With `compress`, gradients of float32 travel between the ranks of DistributedDataParallel in 16
    bits. They are summed in float32, so each is rounded to 16 bits once, and so is each mean, for any number of ranks:
    by at most 1/256 with `"bf16"`, 1/2048 with `"fp16"`. Gradients and means of so few digits pass exactly. Neither
    overflows: parts of fp16 travel with a power of two, and lose digits only of what is below 2^-28 of the largest
    gradient in a part. Inf and nan stay. The optimizer sees float32.

    Args:
        loader: an `ab.DataLoader`, whose `micro_batch_size` bounds one forward and backward pass, or `ab.micro_batches`
            around another loader.
        model: the model that is trained, or a list of all such modules, each as it is wrapped. Under
            DistributedDataParallel, FullyShardedDataParallel and `fully_shard`, gradients are synchronised only in the
            last micro-batch of a batch. In one process it may be left out if neither `weigh` nor recovery is needed.
        recover: whether a batch that ran out of memory is repeated in smaller micro-batches.
        compress: how gradients travel; None for whole ones. Nothing is done in one process. DDP is given a
            communication hook, which keeps to the latest `accumulate` over the model. `fully_shard` has
            `MixedPrecisionPolicy(reduce_dtype=...)` instead, and adds up micro-batches in that type too.

    Yields:
        Micro-batches, to be entered with `with`.

    Raises:
        TypeError: if `loader` is not an `ab.DataLoader`, or `model` no module.
        ValueError: if batches are shared between ranks and `model` is missing, or parts of it are averaged differently,
            or over other ranks; if tensor-parallel ranks would get other samples, or ranks iterate with other arguments
            (compared once, at the first batch); if `compress` is unknown, or the gradients are sharded, sparse, of
            float64, or averaged by another hook.
        RuntimeError: if only some micro-batches of a batch were entered or weighed, or an optimizer steps too early or
            with a gradient that was left out.
        ModuleNotFoundError: if torch is not installed.
        torch.OutOfMemoryError: if a micro-batch of one sample does not fit, or the batch cannot be repeated.

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
    with needing_torch("`ab.accumulate`"):
        from adabatch.accumulate._attempt import Setup
        from adabatch.accumulate._micro_batch import in_turn
    from adabatch.types import DrivenLoader

    if not isinstance(loader, DrivenLoader):
        raise _refused(loader)
    return in_turn(loader, Setup(loader, model, recover=recover, compress=compress))


def _refused(loader: Any) -> ArgumentTypeError:
    remedy = "ab.DataLoader takes the arguments of torch's; `ab.micro_batches(loader, batch_size=...)` wraps any other"
    if type(getattr(loader, "batch_sampler", None)).__name__ == "SkipBatchSampler":  # Accelerate's
        remedy = "leave `skip_first_batches` out: an ab.DataLoader's state holds its place within an epoch"
    got = f"{type(loader).__module__}.{type(loader).__name__}"
    return ArgumentTypeError("loader", "must be an ab.DataLoader", got=got, remedy=remedy)
