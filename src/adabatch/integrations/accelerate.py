"""Accelerate: `prepare(accelerator, loader, batches, lr_scheduler)` after `accelerator.prepare(model, optimizer)`.

`ab.accumulate` takes the place of `accelerator.accumulate`, whose number of micro-batches tests `step % number`. So an
update after a change has another number of them than its losses were divided by.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakSet

import adabatch as ab
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.integrations._shared import GrowingLR, check_driven, missing

try:
    import accelerate
    from accelerate.scheduler import AcceleratedScheduler
    from accelerate.utils import DistributedType
except ModuleNotFoundError as error:
    raise missing("Accelerate", "accelerate", error) from None

_WORKS: Final = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_PREPARED: Final[WeakSet[Any]] = WeakSet()


def prepare(
    accelerator: accelerate.Accelerator,
    loader: ab.DataLoader,
    batches: ab.BatchSizeScheduler,
    lr_scheduler: Any = None,
) -> GrowingLR | None:
    """Makes an Accelerator save and load the place in the data, and an LR scheduler follow it.

    Make `batches` for the optimizer itself, before or after `accelerator.prepare(model, optimizer)`, but not for what
    that returns. Then train with `ab.accumulate(loader, model)`, `accelerator.backward(loss * micro.weight)` and, after
    the last micro-batch, the optimizer, `batches.step()` and the LR scheduler. Gradients are averaged once an update.

    `accelerator.save_state` and `load_state` then hold loader, `batches` and LR scheduler, and the random states of
    each process, as ever: a resumed run is the very run that was interrupted. `skip_first_batches` is not needed.

    Args:
        accelerator: one process, or several under DDP; its `gradient_accumulation_steps` is 1.
        loader: an `ab.DataLoader`, not given to `accelerator.prepare`. Its batch size is that of all processes.
        batches: drives the loader.
        lr_scheduler: counts the updates of training without growth; as it is, or from `accelerator.prepare`, whose
            wrapper would step it once for each process. None for none.

    Returns:
        What to `step()` once an update in the LR scheduler's place, after `batches.step()`; it follows the position in
        the data, and its `get_last_lr()` is the LR in force. None without an LR scheduler.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `batches` does not drive the loader, the loader was prepared before, or DeepSpeed, FSDP or the
            Accelerator itself accumulates.
        RuntimeError: if training has begun, or a state was loaded.

    Example:
        >>> import accelerate, torch, adabatch as ab
        >>> from adabatch.integrations.accelerate import prepare
        >>> data = torch.utils.data.TensorDataset(torch.randn(16, 3), torch.randn(16, 1))
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=16)
        >>> loader = ab.DataLoader(data, batch_size=2, shuffle=True)
        >>> batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=2)
        >>> accelerator = accelerate.Accelerator(cpu=True)
        >>> model, optimizer = accelerator.prepare(model, optimizer)
        >>> lr_scheduler = prepare(accelerator, loader, batches, lr_scheduler)
        >>> updates = 0
        >>> for epoch in range(2):
        ...     for micro in ab.accumulate(loader, model):
        ...         with micro as (inputs, targets):
        ...             loss = torch.nn.functional.mse_loss(model(inputs), targets)
        ...             accelerator.backward(loss * micro.weight)
        ...         if micro.is_last:
        ...             optimizer.step()
        ...             optimizer.zero_grad()
        ...             batches.step()
        ...             lr_scheduler.step()
        ...             updates += 1
        >>> updates, round(lr_scheduler.get_last_lr()[0], 6)  # 2 times what is left after 14 of 16
        (12, 0.0025)
    """
    if not isinstance(accelerator, accelerate.Accelerator):
        raise ArgumentTypeError("accelerator", "must be an Accelerator", got=type(accelerator).__name__)
    check_driven(loader, batches, remedy="give it as it is, not through `accelerator.prepare`")
    if accelerator.distributed_type not in _WORKS:
        rule = "must train in one process or under DDP, since others accumulate or shard themselves"
        raise ArgumentError("accelerator", rule, got=accelerator.distributed_type.value, remedy="take the plugin out")
    steps = accelerator.gradient_accumulation_steps
    if steps != 1:
        rule = "must be 1, since `accelerator.backward` divides by it"
        remedy = "set `loader.micro_batch_size`, the samples of one pass"
        raise ArgumentError("gradient_accumulation_steps", rule, value=steps, remedy=remedy)
    if loader in _PREPARED:
        remedy = "call it once; for another run make another loader"
        raise ArgumentError("loader", "must be prepared once, this one was before", remedy=remedy)
    if loader.clock or loader.current is not None:
        rule = "must be called before training begins and before `load_state`"
        raise UsageError("prepare", rule, got=f"a loader that has passed {loader.clock:,} samples")
    if isinstance(lr_scheduler, AcceleratedScheduler):
        lr_scheduler = lr_scheduler.scheduler
    found = None if lr_scheduler is None else GrowingLR(lr_scheduler, loader, batches, base=loader.batch_size)
    accelerator.register_for_checkpointing(loader, batches, *([] if found is None else [found]))
    _PREPARED.add(loader)
    return found
