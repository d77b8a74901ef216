"""Hugging Face Trainer: `grow(trainer, schedule)`, and `trainer.train()` trains with a growing batch.

The Trainer's own accumulation number cannot carry growth: it tests `step % number`, so an update after a change has
another number of micro-batches than the loss was divided by. Here one step of the Trainer is one update; its
micro-batches are taken and weighed inside `training_step`. So `max_steps`, logs, evaluation and checkpoints count
updates, and the whole training is one pass of the Trainer's loop, in which epochs end where the data says.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final
from weakref import WeakSet

import torch

import adabatch as ab
from adabatch import _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.integrations._shared import (
    GrowingLR,
    Length,
    check_hooks,
    check_schedule,
    dataset_of,
    length_of,
    missing,
    nothing_of,
    sampler_of,
)
from adabatch.schedules import Schedule

try:
    import transformers
except ModuleNotFoundError as error:
    raise missing("transformers", "transformers", error) from None

_WORKS: Final = "5.24 or a later 5"
_HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "train": (),
    "get_train_dataloader": (),
    "set_initial_training_values": ("args", "dataloader"),
    "create_scheduler": ("num_training_steps",),
    "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
    "training_step": ("model", "inputs", "num_items_in_batch"),
    "compute_loss": ("model", "inputs"),
    "floating_point_ops": ("inputs",),
    "_track_num_input_tokens": ("inputs",),
    "log": ("logs",),
}
_MEASURED: Final = ("reduce_lr_on_plateau", "greedy")  # LR schedulers that need measurements
_GROWN: Final[WeakSet[Any]] = WeakSet()


def grow(
    trainer: transformers.Trainer,
    schedule: Schedule,
    *,
    coupling: Any = None,
    weight: Callable[[Any], Any] | None = None,
    tokens_per_sample: int | None = None,
) -> Growth:
    """Makes a Trainer's batch grow, from its next `train()` on. Call it once, before training.

    The batch starts at `per_device_train_batch_size * gradient_accumulation_steps * processes` samples, and grows over
    all processes. One forward pass takes at most `per_device_train_batch_size` of them. If memory runs out, the batch
    comes again in smaller micro-batches. Gradients are averaged over processes once an update.

    **LR.** The Trainer's LR schedule is made for the updates of training without growth, warm-up included, and follows
    the position in the data. The coupling acts on top; `learning_rate` in the logs is the LR in force, and `batch_size`
    stands beside it.

    **Loss.** Where the model or `compute_loss_func` takes `num_items_in_batch`, micro-batches are weighed by the labels
    that count, over all processes; else by their samples. `weight` counts something else.

    **Steps.** `max_steps`, `logging_steps`, `eval_steps`, `save_steps` count updates; without `max_steps` the training
    has `num_train_epochs`. `epoch` in the logs is the position in the data.

    **Checkpoints** are the Trainer's, and hold the place in the data in `scheduler.pt`. `resume_from_checkpoint` goes
    on with the very run. Nothing is skipped by iterating (`ignore_data_skip`), so a resume takes no time.

    Args:
        trainer: a Trainer that is not training; its train data, collator and sampler are used as they are.
        schedule: batch size against the position in the data.
        coupling: see `ab.BatchSizeScheduler`; for the Trainer's own AdamW `"sqrt"`.
        weight: what a mean loss is the mean of, counted in a micro-batch; None: see above.
        tokens_per_sample: for a schedule in tokens.

    Returns:
        A `Growth`; its `batches` is the BatchSizeScheduler once training has begun.

    Raises:
        TypeError: if it is no Trainer, or of a version without the methods that are used.
        ValueError: if it grows already, or a setting takes batches or accumulation out of our hands: DeepSpeed, FSDP,
            DataParallel, `auto_find_batch_size`, `split_batches`, `dispatch_batches`, `parallelism_config`.
        RuntimeError: if it is training.

    Example:
        >>> import torch, adabatch as ab, tempfile, transformers
        >>> from adabatch.integrations.transformers import grow
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(3, 1)
        ...     def forward(self, x, labels):
        ...         return {"loss": torch.nn.functional.mse_loss(self.layer(x), labels)}
        >>> data = [{"x": torch.ones(3), "labels": torch.ones(1)} for _ in range(16)]
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
        ...     args = transformers.TrainingArguments(
        ...         folder, per_device_train_batch_size=2, num_train_epochs=2, use_cpu=True, report_to="none",
        ...         save_strategy="no", disable_tqdm=True, logging_strategy="no")
        ...     trainer = transformers.Trainer(Net(), args, train_dataset=data)
        ...     growth = grow(trainer, ab.schedules.geometric(2, ab.epochs(1)), coupling="sqrt")  # it trains with AdamW
        ...     steps = trainer.train().global_step  # 8 of 2 samples, 4 of 4
        {...}
        >>> steps, growth.batches.last_lr[0] < args.learning_rate
        (12, True)
    """
    if not isinstance(trainer, transformers.Trainer):
        raise ArgumentTypeError("trainer", "must be a transformers.Trainer", got=type(trainer).__name__)
    check_schedule(schedule)
    check_hooks(trainer, _HOOKS, package="transformers", works=_WORKS)
    if trainer in _GROWN:
        remedy = "call `close()` on the first one's Growth"
        raise ArgumentError("trainer", "must have one growth, this one grows already", remedy=remedy)
    if trainer.is_in_train:
        remedy = "call it before `train()`; after an error in `train()` set `trainer.is_in_train = False` first"
        raise UsageError("grow", "was called while the Trainer trains", remedy=remedy)
    _check_settings(trainer)
    growth = Growth(trainer, schedule, coupling, weight, tokens_per_sample)
    _GROWN.add(trainer)
    return growth


class Growth:
    """The growth of a Trainer, made by `grow`.

    Attributes:
        loader: the `ab.DataLoader` that feeds the Trainer; None before training.
        batches: the `ab.BatchSizeScheduler`; None before training.
        length: how long the training is, with its plan; None before training.
    """

    loader: ab.DataLoader | None = None
    batches: ab.BatchSizeScheduler | None = None
    length: Length | None = None

    def __init__(
        self,
        trainer: transformers.Trainer,
        schedule: Schedule,
        coupling: Any,
        weight: Callable[[Any], Any] | None,
        tokens_per_sample: int | None,
    ) -> None:
        self._trainer: Any = trainer
        self._schedule, self._coupling, self._tokens = schedule, coupling, tokens_per_sample
        self._weight = weight
        args = trainer.args
        self._base = int(trainer.get_total_train_batch_size(args))
        self._micro_batch_size = int(args.per_device_train_batch_size)
        self._world = int(args.world_size)
        self._kept = {name: getattr(args, name) for name in ("gradient_accumulation_steps", "ignore_data_skip")}
        args.gradient_accumulation_steps, args.ignore_data_skip = 1, True
        self._own: dict[str, Any] = {name: getattr(trainer, name) for name in _HOOKS}
        for name in _HOOKS:
            setattr(trainer, name, getattr(self, name.strip("_")))
        self._watch = _Watch(self)
        trainer.callback_handler.callbacks.insert(0, self._watch)  # the others see the epoch that it sets
        self._last = _EndsEpochs(self)
        trainer.add_callback(self._last)
        self._micros: Generator[Any, None, None] | None = None
        self._trains = False
        self._factor: Any = None  # on the loss of the micro-batch under way
        self._counts = True  # whether anything counts in it
        self._loss: Any = None  # that loss
        self._operations: Any = 0
        self._epochs_ended = 0
        self._epoch_begins = False

    def close(self) -> None:
        """Takes the growth off the Trainer, which trains with its own batches again."""
        trainer = self._trainer
        if trainer not in _GROWN:
            return
        if self._trains:
            raise UsageError("close()", "of a Growth was called while the Trainer trains", remedy="call it afterwards")
        for name in _HOOKS:
            delattr(trainer, name)
        for name, value in self._kept.items():
            setattr(trainer.args, name, value)
        for callback in (self._watch, self._last):
            trainer.callback_handler.callbacks.remove(callback)
        self._end()
        while isinstance(trainer.lr_scheduler, GrowingLR):
            trainer.lr_scheduler = trainer.lr_scheduler.lr_scheduler
        _GROWN.discard(trainer)

    def _end(self) -> None:
        self.ends()
        self._factor = self._loss = None
        if self.batches is not None:
            self.batches.close()

    # Called by the Trainer, in the place of its own methods.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, after which it trains no more, even if an error ended it."""
        self._trains = True
        try:
            return self._own["train"](*args, **kwargs)
        finally:
            self._trains = self._trainer.is_in_train = False
            self.ends()

    def get_train_dataloader(self) -> Any:
        """The train data in growing batches: a loader of ours over what the Trainer's own loader reads."""
        own = self._own["get_train_dataloader"]()
        if isinstance(own, ab.DataLoader):
            return _Updates(own)
        args, dataset = self._trainer.args, dataset_of(own)
        sampler = sampler_of(own, dataset)
        on_device = args.device.type == "cuda" and args.dataloader_pin_memory
        loader = ab.DataLoader(
            dataset,
            batch_size=self._base,
            shuffle=sampler == "random",
            sampler=None if isinstance(sampler, str) else sampler,
            num_workers=own.num_workers,
            collate_fn=own.collate_fn,
            drop_last=args.dataloader_drop_last,
            prefetch_factor=own.prefetch_factor if own.num_workers else None,
            persistent_workers=bool(own.num_workers and args.dataloader_persistent_workers),
            seed=args.seed if args.data_seed is None else args.data_seed,
            device=args.device if on_device else None,
            group=_distributed.world(),  # said, so that nobody asks whether the batch is that of all ranks
        )
        loader.micro_batch_size = min(self._micro_batch_size, loader.dataset_size or self._micro_batch_size)
        return _Updates(loader)

    def set_initial_training_values(self, args: Any, dataloader: Any, *rest: Any, **named: Any) -> Any:
        """How long the training is: one pass of as many steps as there are updates."""
        if not isinstance(dataloader, _Updates):
            return self._own["set_initial_training_values"](args, dataloader, *rest, **named)
        self._end()
        self.loader = loader = dataloader.loader
        base = loader.batch_size
        self.length = length = length_of(
            self._schedule,
            loader,
            base=base,
            epochs=float(args.num_train_epochs),
            updates=args.max_steps if args.max_steps > 0 else None,
            tokens_per_sample=self._tokens,
        )
        dataloader.updates = length.updates
        examples = length.end if loader.dataset_size is None else loader.dataset_size
        return 1, length.updates, examples, length.end, base, length.updates, length.updates

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The LR schedule, for the updates of training without growth; and the BatchSizeScheduler."""
        trainer, loader, length = self._trainer, self.loader, self.length
        if not self._trains or loader is None or length is None:
            return self._own["create_scheduler"](num_training_steps, *args, **kwargs)
        given = trainer.lr_scheduler
        while isinstance(given, GrowingLR):
            given = trainer.lr_scheduler = given.lr_scheduler
        own = self._own["create_scheduler"](length.base_updates, *args, **kwargs)
        optimizer = trainer.optimizer
        while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer  # Accelerate's wrapper
        base = loader.batch_size
        self.batches = batches = ab.BatchSizeScheduler(
            optimizer,
            loader,
            self._schedule,
            coupling=self._coupling,
            epochs=length.epochs,
            tokens_per_sample=self._tokens,
        )
        end = length.base_updates if given is None else None
        trainer.lr_scheduler = _TrainerLR(own, loader, batches, base=base, end=end)
        return trainer.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """A place in which `training_step` takes the micro-batches of one update."""
        if not isinstance(epoch_iterator, _Updates):
            return self._own["get_batch_samples"](epoch_iterator, num_batches, device)
        trainer = self._trainer
        assert self.loader is not None
        assert self.length is not None
        if self.loader.clock >= self.length.end:
            return [], None
        if self._epoch_begins:
            self._epoch_begins = False
            trainer.control = trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
        return [_Update()], None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None, **named: Any) -> Any:
        """Trains on one update: every micro-batch of this process, weighed.

        Returns:
            The mean loss of this process's part, such that the mean over processes is that of the batch.
        """
        if not isinstance(inputs, _Update):
            return self._own["training_step"](model, inputs, num_items_in_batch, **named)
        trainer = self._trainer
        losses, total = torch.zeros((), device=trainer.args.device), torch.zeros((), device=trainer.args.device)
        micro, weighed, seen = None, False, list[Any]()
        for micro in self._running(model):
            if micro.index == 0:
                self._operations, seen = 0, []
                losses, total = torch.zeros_like(losses), torch.zeros_like(total)
            with micro as data:
                items = self._items(data)
                weighed = items is not None
                counts = items if weighed else micro.weight
                try:
                    self._factor = items * micro.weigh(items) if weighed else micro.weight
                    self._counts = not weighed or bool(items > 0)
                    with _local(trainer.args):
                        self._own["training_step"](model, data, _divisor(items) if weighed else None)
                    if self._loss is None:
                        raise UsageError(
                            "training_step",
                            "of the Trainer must call `compute_loss`, whose loss is weighed",
                            remedy="override `compute_loss` in its place",
                        )
                    if micro.size and self._counts:
                        losses = losses + self._loss * counts
                        total = total + counts
                finally:
                    self._factor = self._loss = None  # an evaluation is not weighed
                seen.append(self._count(data, micro.size))
            if micro.is_last:
                break
        if micro is None or not micro.is_last:
            raise UsageError("train_dataset", "must yield a batch in each pass", got="none")
        for data in seen:  # all processes together, where no memory can run out
            if data is not None:
                self._own["_track_num_input_tokens"](data)
        if not weighed:
            return losses
        if self._world > 1:
            total = trainer.accelerator.reduce(total, reduction="sum")
        return losses * self._world / _divisor(total)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's loss; in training times the weight of the micro-batch."""
        found = self._own["compute_loss"](model, inputs, *args, **kwargs)
        if self._factor is None:
            return found
        loss, *rest = found if isinstance(found, tuple) else (found,)
        self._loss = loss.detach()
        loss = loss * self._factor if self._counts else nothing_of(model)
        return (loss, *rest) if rest else loss

    def floating_point_ops(self, inputs: Any) -> Any:
        """The operations of an update, counted while it was trained on."""
        return self._operations if isinstance(inputs, _Update) else self._own["floating_point_ops"](inputs)

    def track_num_input_tokens(self, inputs: Any) -> None:
        """Nothing for an update, whose tokens were counted while it was trained on."""
        if not isinstance(inputs, _Update):
            self._own["_track_num_input_tokens"](inputs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the batch size to logs that have an LR."""
        if "learning_rate" in logs and self.batches is not None and self._trainer.is_in_train:
            logs["batch_size"] = self._trained_size
        self._own["log"](logs, *args, **kwargs)

    # Called by the callbacks.

    _trained_size = 0

    def begins(self, state: Any) -> None:
        """Training begins, or goes on."""
        assert self.loader is not None
        assert self.batches is not None
        if state.global_step and not self.loader.clock:
            raise UsageError(
                "resume_from_checkpoint",
                f"must be a checkpoint with the place in the data, got one of step {state.global_step:,} without",
                remedy="resume from one that was saved with the growth and without `save_only_model`",
            )
        N = self.loader.dataset_size
        self._epochs_ended = self.loader.clock // N if N else 0
        if self.length is not None and self.length.epochs is not None:
            state.num_train_epochs = self.length.epochs
        self._trained_size = self.batches.batch_size

    def ends(self) -> None:
        """Training has ended."""
        micros, self._micros = self._micros, None
        if micros is not None:
            micros.close()

    def stepped(self) -> None:
        """The optimizer has stepped."""
        assert self.batches is not None
        self._trained_size = self.batches.batch_size
        self.batches.step()

    def place(self, state: Any) -> None:
        """Writes the position in the data, in epochs, into the Trainer's state."""
        assert self.loader is not None
        N = self.loader.dataset_size
        state.epoch = state.global_step / state.max_steps if N is None else self.loader.clock / N

    def ends_epoch(self, args: Any, state: Any, control: Any) -> None:
        """Tells the callbacks that an epoch has ended, if it has; the Trainer tells of the last one."""
        assert self.loader is not None
        _check_goes_on(control)
        N = self.loader.dataset_size
        ended = self.loader.clock // N if N else 0
        if ended > self._epochs_ended:
            self._epochs_ended = ended
            if state.global_step < state.max_steps and not control.should_training_stop:
                self._epoch_begins = True
                self._trainer.callback_handler.on_epoch_end(args, state, control)

    # Micro-batches.

    def _running(self, model: Any) -> Generator[Any, None, None]:
        if self._micros is None:
            self._micros = self._every(model)
        return self._micros

    def _every(self, model: Any) -> Generator[Any, None, None]:
        """The micro-batches of all epochs."""
        assert self.loader is not None
        empty = 0
        while empty < 2:  # where a resumed run stands at the end of an epoch, the pass that ends it is empty
            empty += 1
            for micro in ab.accumulate(self.loader, model):
                empty = 0
                yield micro

    def _items(self, data: Any) -> Any:
        """What the mean loss of a micro-batch is the mean of; None for its samples."""
        device = self._trainer.args.device
        if self._weight is not None:
            return torch.as_tensor(self._weight(data), device=device).sum()
        with _local(self._trainer.args):
            found = self._own["get_batch_samples"](iter([data]), 1, device)[1]
        return None if found is None else torch.as_tensor(found, device=device)

    def _count(self, data: Any, size: int) -> Any:
        """Counts the operations of a micro-batch, none of the repeated sample; returns what has its tokens."""
        if not size and isinstance(data, Mapping):
            data = {name: value[:0] if isinstance(value, torch.Tensor) else value for name, value in data.items()}
        self._operations += float(self._own["floating_point_ops"](data))
        return None if self._trainer.args.include_num_input_tokens_seen in ("no", False) else data


def _divisor(counted: torch.Tensor) -> torch.Tensor:
    return torch.where(counted > 0, counted, torch.ones_like(counted))


def _check_goes_on(control: Any) -> None:
    """Raises if a callback ends an epoch, which would end the training."""
    if control.should_epoch_stop:
        raise UsageError(
            "should_epoch_stop",
            "must not be set by a callback while the batch grows: the whole training is one pass",
            remedy="set `should_training_stop`",
        )


class _Update(dict[str, Any]):
    """Stands for one update in the Trainer's loop."""


class _Updates:
    """Stands for the train loader in the Trainer's loop, which asks `get_batch_samples` for each update."""

    def __init__(self, loader: ab.DataLoader) -> None:
        self.loader, self.dataset, self.batch_size = loader, loader.dataset, loader.batch_size
        self.updates = 0

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> _Updates:
        return self

    def __next__(self) -> Any:
        rule = "must be asked for an update by `get_batch_samples`, which this version of transformers passes by"
        raise ArgumentTypeError("transformers", rule, got=transformers.__version__, remedy=f"install {_WORKS}")


class _TrainerLR(GrowingLR):
    """The Trainer's LR scheduler, whose state holds the place in the data too: all or nothing is loaded."""

    def __init__(self, lr_scheduler: Any, loader: ab.DataLoader, batches: ab.BatchSizeScheduler, **more: Any) -> None:
        super().__init__(lr_scheduler, loader, batches, **more)
        self._loader = loader

    def state_dict(self) -> dict[str, Any]:
        """The states of LR scheduler, loader and BatchSizeScheduler."""
        return super().state_dict() | {"loader": self._loader.state_dict(), "batches": self._batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes."""
        super().load_state_dict(state)
        self._loader.load_state_dict(state["loader"])
        self._batches.load_state_dict(state["batches"])


class _Watch(transformers.TrainerCallback):
    """The first callback: commits batches, and sets the epoch that the others see."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `Growth.begins`."""
        self._growth.begins(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `Growth.ends`."""
        self._growth.ends()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `Growth.stepped`."""
        self._growth.stepped()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `Growth.place`."""
        self._growth.place(state)


class _EndsEpochs(transformers.TrainerCallback):
    """The last callback: tells the others where an epoch ends."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `Growth.ends_epoch`."""
        self._growth.ends_epoch(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See `_check_goes_on`: callbacks that log, evaluate or save come after the step's end."""
        if state.global_step < state.max_steps and not control.should_training_stop:
            _check_goes_on(control)


class _local:  # noqa: N801 - a context manager
    """A context in which the Trainer counts the labels of this process and micro-batch alone."""

    def __init__(self, args: Any) -> None:
        self._args, self._kept = args, args.average_tokens_across_devices

    def __enter__(self) -> None:
        self._args.average_tokens_across_devices = False

    def __exit__(self, *_: object) -> None:
        self._args.average_tokens_across_devices = self._kept


def _check_settings(trainer: Any) -> None:
    """Raises where a setting takes batches or accumulation out of our hands."""
    args, config = trainer.args, trainer.args.accelerator_config
    micro = "leave it out: a batch that runs out of memory comes again in smaller micro-batches"
    cut = "leave it out: batches are cut over processes exactly"
    for argument, is_set, got, remedy in (
        ("deepspeed", trainer.is_deepspeed_enabled, "DeepSpeed, which accumulates itself", "train with DDP"),
        ("fsdp", trainer.is_fsdp_enabled or trainer.is_fsdp_xla_enabled, "FSDP", "train with DDP"),
        ("n_gpu", args.n_gpu > 1, f"DataParallel over {args.n_gpu} GPUs", "start with torchrun, or show one GPU"),
        ("auto_find_batch_size", args.auto_find_batch_size, "True", micro),
        ("split_batches", config.split_batches, "True", cut),
        ("dispatch_batches", bool(config.dispatch_batches), "True", cut),
        ("parallelism_config", args.parallelism_config is not None, "one", "train with DDP"),
    ):
        if is_set:
            rule = "must not be set where a schedule grows the batch"
            raise ArgumentError(argument, rule, got=got, remedy=remedy)
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind in _MEASURED and trainer.lr_scheduler is None:
        rule = "must be an LR schedule of steps where the batch grows"
        raise ArgumentError("lr_scheduler_type", rule, got=kind, remedy='use for example "cosine"')
