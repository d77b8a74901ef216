"""Accelerate: `grow(accelerator, model, optimizer, loader, lr_scheduler, schedule)` for a loop that stays as it is.

`prepare(accelerator, loader, batches, lr_scheduler)` is for a loop over `ab.accumulate`. With either, the number of
micro-batches in an update is ours: `accelerator.accumulate` tests `step % number`, so an update after a change has
another number of them than its losses were divided by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakSet

import torch

import adabatch as ab
from adabatch import _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.integrations._shared import GrowingLR, check_driven, check_schedule, dataset_of, missing, sampler_of
from adabatch.schedules import Schedule

try:
    import accelerate
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler
    from accelerate.utils import DistributedType
except ModuleNotFoundError as error:
    raise missing("Accelerate", "accelerate", error) from None

_WORKS: Final = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_PREPARED: Final[WeakSet[Any]] = WeakSet()
_SKIP: Final = "loop over the loader as it is: `accelerator.load_state` puts it where it was, within an epoch too"


def prepare(
    accelerator: accelerate.Accelerator,
    loader: ab.DataLoader,
    batches: ab.BatchSizeScheduler,
    lr_scheduler: Any = None,
) -> GrowingLR | None:
    """Makes an Accelerator save and load the place in the data, and an LR scheduler follow it.

    `grow` does all of this for a loop of Accelerate's own kind. Where the loop is over `ab.accumulate`, make `batches`
    before or after `accelerator.prepare(model, optimizer)`. Then train with `ab.accumulate(loader, model)`,
    `accelerator.backward(loss * micro.weight)` and, after the last micro-batch, the optimizer, `batches.step()` and the
    LR scheduler. Gradients are averaged once an update.

    `accelerator.save_state` and `load_state` then hold loader, `batches` and LR scheduler, and the random states of
    each process, as ever: a resumed run is the very run that was interrupted. `accelerator.skip_first_batches` is not
    needed, and refuses the loader.

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
    _check_alone(accelerator)
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
    _refuse_to_skip(accelerator, loader)
    return found


def grow(
    accelerator: accelerate.Accelerator,
    model: Any,
    optimizer: Any,
    loader: Any,
    lr_scheduler: Any,
    schedule: Schedule,
    *,
    coupling: Any = None,
    epochs: int | None = None,
    tokens_per_sample: int | None = None,
) -> GrowingLoader:
    """Grows the batch of a loop of Accelerate's that stays as it is, with or without `accelerator.accumulate`.

    Call it after `accelerator.prepare`, for what that returned, and loop over the loader that it returns. Each turn of
    the loop is one micro-batch on each process, of at most the samples of one forward pass before. Of a batch that has
    grown, several turns make one update: the loss is weighed in `accelerator.backward`, gradients are averaged in the
    last turn only, and optimizer and LR scheduler step in that one, as ever under Accelerate. So what an update shall
    do once, as clipping, belongs under `if accelerator.sync_gradients:`.

    The batch starts at the samples of one update so far: those of one forward pass, times processes and
    `gradient_accumulation_steps`, which becomes 1. `save_state`, `load_state` and `skip_first_batches`: see `prepare`.

    Args:
        accelerator: one process, or several under DDP.
        model: what `accelerator.prepare` returned; a list where several modules are trained.
        optimizer: likewise; one alone.
        loader: the train loader, over data with a length: torch's, as prepared or before; or an `ab.DataLoader`, whose
            batch size is that of all processes.
        lr_scheduler: what `accelerator.prepare` returned, None for none. From now on it follows the position in the
            data, through the course of training without growth, and its `get_last_lr()` is the LR in force.
        schedule: batch size against the position in the data.
        coupling: see `ab.BatchSizeScheduler`.
        epochs: epochs of training, if known.
        tokens_per_sample: for a schedule in tokens.

    Returns:
        The loader to loop over. Its `batches` is the `ab.BatchSizeScheduler`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: as `prepare`; or if the data has no length.
        RuntimeError: as `prepare`; in the loop, if `accelerator.backward` is not called once for each micro-batch.

    Example:
        >>> import accelerate, torch, adabatch as ab
        >>> from adabatch.integrations.accelerate import grow
        >>> data = torch.utils.data.TensorDataset(torch.randn(16, 3), torch.randn(16, 1))
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
        >>> lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=2 * len(loader))
        >>> accelerator = accelerate.Accelerator(cpu=True)
        >>> model, optimizer, loader, lr_scheduler = accelerator.prepare(model, optimizer, loader, lr_scheduler)
        >>> growth = ab.schedules.geometric(2, ab.epochs(1))
        >>> loader = grow(accelerator, model, optimizer, loader, lr_scheduler, growth, epochs=2)
        >>> updates = 0
        >>> for epoch in range(2):
        ...     for inputs, targets in loader:
        ...         accelerator.backward(torch.nn.functional.mse_loss(model(inputs), targets))
        ...         optimizer.step()
        ...         lr_scheduler.step()
        ...         optimizer.zero_grad()
        ...         updates += accelerator.sync_gradients
        >>> updates, round(lr_scheduler.get_last_lr()[0], 6)  # 2 times what is left after 14 of 16
        (12, 0.0025)
    """
    if not isinstance(accelerator, accelerate.Accelerator):
        raise ArgumentTypeError("accelerator", "must be an Accelerator", got=type(accelerator).__name__)
    check_schedule(schedule)
    after = "call `grow` after `accelerator.prepare`, with what that returned"
    if not isinstance(optimizer, AcceleratedOptimizer):
        rule, remedy = "must be one that was prepared", f"{after}; for several optimizers write `prepare`"
        raise ArgumentTypeError("optimizer", rule, got=type(optimizer).__name__, remedy=remedy)
    if lr_scheduler is not None and not isinstance(lr_scheduler, AcceleratedScheduler):
        rule, remedy = "must be one that was prepared, or None", after
        raise ArgumentTypeError("lr_scheduler", rule, got=type(lr_scheduler).__name__, remedy=remedy)
    if isinstance(loader, GrowingLoader):
        raise ArgumentError("loader", "must grow once, this one does", remedy="call `grow` once")
    _check_alone(accelerator)
    ours, counted = _ours(accelerator, loader)
    batches = ab.BatchSizeScheduler(
        optimizer, ours, schedule, coupling=coupling, epochs=epochs, tokens_per_sample=tokens_per_sample
    )
    steps, accelerator.gradient_accumulation_steps = accelerator.gradient_accumulation_steps, 1
    try:
        prepare(accelerator, ours, batches)
    except BaseException:
        accelerator.gradient_accumulation_steps = steps  # another try begins at the same batch size
        batches.close()
        raise
    growing = GrowingLoader(accelerator, model, optimizer, ours, batches)
    if lr_scheduler is None:
        return growing
    once = lr_scheduler.split_batches or not lr_scheduler.step_with_optimizer  # else a step for each process
    base = ours.batch_size if once or counted is None else counted
    found = _SyncedLR(lr_scheduler.scheduler, growing, base=base)
    lr_scheduler.step, lr_scheduler.get_last_lr = found.step, found.get_last_lr
    accelerator.register_for_checkpointing(found)
    return growing


class GrowingLoader:
    """Micro-batches for a loop of Accelerate's, of which the last of a batch is the one that synchronises gradients.

    Anything else is asked of its `loader`; `len()` is the number of micro-batches in the current epoch.

    Attributes:
        loader: the `ab.DataLoader`.
        batches: drives it.
    """

    def __init__(
        self, accelerator: Any, model: Any, optimizer: Any, loader: Any, batches: ab.BatchSizeScheduler
    ) -> None:
        self.loader, self.batches, self._model = loader, batches, model
        self._accelerator = accelerator
        self._turns: object = None  # the iteration under way
        self._micro: Any = None  # its micro-batch, until the backward pass
        self._own = {"backward": accelerator.backward, "accumulate": accelerator.accumulate, "step": optimizer.step}
        accelerator.backward, accelerator.accumulate = self._backward, self._accumulate
        optimizer.step = self._step
        _refuse_to_skip(accelerator, self)

    def __len__(self) -> int:
        return int(self.loader.micro_batches_in_epoch(self.loader.epoch))

    def __iter__(self) -> Iterator[Any]:
        """The rest of an epoch. An iteration that was only begun, for a look, gives way to the next one."""
        state, turns = self._accelerator.gradient_state, object()
        self._drop()
        self._turns = turns
        try:
            for micro in ab.accumulate(self.loader, self._model, recover=False):
                data = micro.__enter__()
                self._micro = micro
                state._set_sync_gradients(micro.is_last)  # noqa: SLF001 - Accelerate has no public way
                yield data
                self._skip(micro)
                if micro.is_last:
                    self.commit()
        finally:
            if self._turns is turns:
                self._drop()
                state._set_sync_gradients(True)  # noqa: SLF001

    def _drop(self) -> None:
        """Ends the iteration under way; a micro-batch without a backward pass counts as not begun."""
        left, self._micro, self._turns = self._micro, None, None
        if left is not None:
            left.__exit__(GeneratorExit, GeneratorExit(), None)

    @property
    def _is_live(self) -> bool:
        return self._turns is not None

    def _skip(self, micro: Any) -> None:
        """A micro-batch without a backward pass: only a whole batch may be left out."""
        if self._micro is None:
            return
        if micro.count > 1:
            rule = f"must be called once for each micro-batch, {micro.index + 1} of {micro.count} had no such call"
            raise UsageError("accelerator.backward", rule, remedy="make the loss 0 for what shall not count")
        self._micro = None
        micro.__exit__(None, None, None)

    def commit(self) -> None:
        """Marks the batch as trained on, if its last micro-batch was passed; once, however often it is called."""
        part = self.loader.part
        if self._micro is None and self.loader.current is not None and (part is None or part.is_last):
            self.batches.step()

    # In the place of methods of the Accelerator and the optimizer.

    def _backward(self, loss: Any, **kwargs: Any) -> None:
        if not self._is_live:
            self._own["backward"](loss, **kwargs)
            return
        micro, self._micro = self._micro, None
        if micro is None:
            rule = "must be called once for each micro-batch, whose gradients are then complete"
            raise UsageError("accelerator.backward", rule, got="a second call", remedy="add up the losses")
        try:
            self._own["backward"](loss * micro.weight, **kwargs)
        except BaseException as error:
            micro.__exit__(type(error), error, error.__traceback__)
            raise
        micro.__exit__(None, None, None)

    @contextlib.contextmanager
    def _accumulate(self, *models: Any) -> Iterator[None]:
        if self._is_live:
            yield
        else:
            with self._own["accumulate"](*models):
                yield

    def _step(self, *args: Any, **kwargs: Any) -> None:
        self._own["step"](*args, **kwargs)
        if self._is_live and self._accelerator.sync_gradients:
            self.commit()

    @property
    def batch_sampler(self) -> Any:
        """None has it: `skip_first_batches` would ask for it."""
        raise UsageError("batch_sampler", "must not be taken of a loader whose batches grow", remedy=_SKIP)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # before there is one
            raise AttributeError(name)
        return getattr(self.loader, name)


class _SyncedLR(GrowingLR):
    """An LR scheduler that is stepped after each micro-batch, and steps after the last of a batch only."""

    def __init__(self, lr_scheduler: Any, growing: GrowingLoader, *, base: int) -> None:
        super().__init__(lr_scheduler, growing.loader, growing.batches, base=base)
        self._growing = growing

    def step(self, *_: Any) -> None:
        """See `GrowingLR.step`."""
        part = self._growing.loader.part
        if part is None or part.is_last:
            self._growing.commit()
            super().step()


def _ours(accelerator: Any, own: Any) -> tuple[Any, int | None]:
    """A loader of ours over what a loader reads, and the samples between two steps of a prepared LR scheduler.

    The latter is None for one that was ours before.
    """
    if isinstance(own, ab.DataLoader | ab.ResidentLoader):
        return own, None
    if not isinstance(own, torch.utils.data.DataLoader):
        rule = "must be torch's DataLoader, as it was prepared, or an ab.DataLoader"
        raise ArgumentTypeError("loader", rule, got=type(own).__name__, remedy="give the train loader")
    dataset = dataset_of(own)
    formed: Any = own.batch_sampler
    if isinstance(dataset, torch.utils.data.IterableDataset):
        rule, remedy = "must have data with a length", "loop over `ab.accumulate`, and write `prepare`"
        raise ArgumentError("loader", rule, got="a stream", remedy=remedy)
    while hasattr(formed, "batch_sampler"):  # the share of it for this process
        formed = formed.batch_sampler
    if getattr(formed, "sampler", None) is None or getattr(formed, "batch_size", None) is None:
        rule, remedy = "must form its batches of a sampler, so that larger ones can be", "give it a sampler instead"
        raise ArgumentError("loader", rule, got=f"one with a {type(formed).__name__}", remedy=remedy)
    sampler = sampler_of(own, dataset)
    world, steps = int(accelerator.num_processes), int(accelerator.gradient_accumulation_steps)
    size = int(formed.batch_size)  # of one process, or of all
    one_pass, update = (-(-size // world), size) if accelerator.split_batches else (size, size * world)
    moved = accelerator.device_placement and accelerator.device.type != "cpu"
    loader = ab.DataLoader(
        dataset,
        batch_size=update * steps,
        micro_batch_size=min(one_pass, len(dataset)),
        shuffle=sampler == "random",
        sampler=None if isinstance(sampler, str) else sampler,
        num_workers=own.num_workers,
        collate_fn=own.collate_fn,
        drop_last=bool(getattr(formed, "drop_last", False)),
        prefetch_factor=own.prefetch_factor if own.num_workers else None,
        persistent_workers=bool(own.num_workers and own.persistent_workers),
        worker_init_fn=own.worker_init_fn,
        timeout=own.timeout,
        device=accelerator.device if moved else None,
        group=_distributed.world(),  # said, so that nobody asks whether the batch is that of all ranks
    )
    return loader, size * steps


def _check_alone(accelerator: Any) -> None:
    """Raises if another engine accumulates or shards."""
    if accelerator.distributed_type not in _WORKS:
        rule = "must train in one process or under DDP, since others accumulate or shard themselves"
        raise ArgumentError("accelerator", rule, got=accelerator.distributed_type.value, remedy="take the plugin out")


def _refuse_to_skip(accelerator: Any, loader: Any) -> None:
    """Makes `accelerator.skip_first_batches` refuse a loader: what it returns would not grow."""
    own = accelerator.skip_first_batches

    def skip_first_batches(dataloader: Any, num_batches: int = 0) -> Any:
        if dataloader is loader:
            raise UsageError("skip_first_batches", "must not be given a loader whose batches grow", remedy=_SKIP)
        return own(dataloader, num_batches)

    accelerator.skip_first_batches = skip_first_batches
