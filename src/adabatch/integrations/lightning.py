"""Lightning: `BatchGrowth(loader, schedule)` is a callback and the train loader of `Trainer.fit`.

Lightning's accumulation number tests `batch_idx % number`, so an update after a change has another number of
micro-batches than the loss was divided by. Here one batch of Lightning's loop is one update. Lightning is handed its
first micro-batch; the others are taken inside the step, each through `training_step`, the backward pass and the
transfer to the device. The length of each epoch is told before it begins, since Lightning asks for it once only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final
from weakref import WeakSet

import torch

import adabatch as ab
from adabatch import _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.integrations._shared import (
    GrowingLR,
    Length,
    RandomStates,
    Update,
    check_schedule,
    in_place_of,
    length_of,
    missing,
    nothing_of,
)
from adabatch.schedules import Schedule

try:
    import lightning.pytorch as pl

    from adabatch.integrations._lightning_settings import MODULE_HOOKS, WORKS, check_settings
except ModuleNotFoundError as error:
    raise missing("Lightning", "lightning", error) from None

_TRANSFERS: Final = ("_on_before_batch_transfer", "_apply_batch_transfer_handler")
_FAILED: Final[WeakSet[ab.BatchSizeScheduler]] = WeakSet()  # their training ended with an error
_COURSES: Final = ("total_iters", "total_steps", "T_max")  # attributes of torch's LR schedulers, in updates
_FORMAT: Final = 1


class BatchGrowth(pl.Callback):
    """Grows the batch of a LightningModule's training. Give it to the Trainer as a callback and to `fit` as loader.

    One step of Lightning is one update, of the whole batch over all processes: `global_step`, `max_steps`, logs and
    checkpoints count updates; validation and epochs are where the data says. Gradients are averaged once an update.

    **Automatic optimization.** `loader.micro_batch_size` bounds the samples of one `training_step`; several make one
    update. Return a mean loss: each is weighed by its samples, or by what `weight` counts. If memory runs out, the
    batch comes again in smaller micro-batches.

    **Manual optimization.** The step gets the whole rank batch; logs and optimizers are yours. If the loader has a
    `micro_batch_size`, it gets the micro-batches instead: `for micro in batch:`, `with micro as (inputs, targets):`,
    `self.manual_backward(loss * micro.weight)`. Step the optimizers after them.

    **LR.** LR schedulers with `"interval": "step"` count the updates of training without growth, and follow the
    position in the data; `length.base_updates` is their number, and `trainer.estimated_stepping_batches` is too, unless
    `max_steps` ends the training. The coupling acts on top, and only while the optimizer steps. So
    `LearningRateMonitor` shows the LR without it; this callback logs `lr_in_force` and `batch_size`.

    **Checkpoints** are Lightning's. A resumed run is the very run that was interrupted, dropout included: what
    validation draws moves no random state of the training. After an error or Ctrl-C, `fit` with the same Trainer goes
    on after the last whole update.

    Args:
        loader: an `ab.DataLoader` over data with a length.
        schedule: batch size against the position in the data.
        coupling: see `ab.BatchSizeScheduler`.
        weight: what the mean loss is the mean of, counted in a micro-batch; None for samples.
        tokens_per_sample: for a schedule in tokens.

    Attributes:
        batches: the `ab.BatchSizeScheduler`, from `on_fit_start` on.
        length: how long the training is, with its plan; known in `configure_optimizers`, None before `fit`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the data has no length; in `fit`, if a setting takes batches or accumulation out of our hands.

    Example:
        >>> import torch, adabatch as ab, lightning.pytorch as pl
        >>> from adabatch.integrations.lightning import BatchGrowth
        >>> class Model(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(3, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.01)
        >>> data = torch.utils.data.TensorDataset(torch.randn(16, 3), torch.randn(16, 1))
        >>> loader = ab.DataLoader(data, batch_size=2, shuffle=True)
        >>> growth = BatchGrowth(loader, ab.schedules.geometric(2, ab.epochs(1)))
        >>> trainer = pl.Trainer(max_epochs=2, callbacks=[growth], accelerator="cpu", logger=False,
        ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(Model(), growth)
        >>> trainer.global_step, growth.batches.last_lr
        (12, [0.02])
    """

    batches: ab.BatchSizeScheduler | None = None
    length: Length | None = None

    def __init__(
        self,
        loader: ab.DataLoader,
        schedule: Schedule,
        *,
        coupling: Any = None,
        weight: Callable[[Any], Any] | None = None,
        tokens_per_sample: int | None = None,
    ) -> None:
        if not isinstance(loader, ab.DataLoader | ab.ResidentLoader):
            raise ArgumentTypeError(
                "loader",
                "must be an ab.DataLoader",
                got=type(loader).__name__,
                remedy="ab.DataLoader takes the arguments of torch's",
            )
        check_schedule(schedule)
        if loader.dataset_size is None:
            rule = "must have data with a length, since Lightning must be told where an epoch ends"
            raise ArgumentError("loader", rule, got="a stream", remedy="give the stream's data set a `__len__`")
        self.loader, self._schedule, self._coupling, self._tokens = loader, schedule, coupling, tokens_per_sample
        self._weight = weight
        self._base = loader.batch_size
        self._trainer: Any = None
        self._module: Any = None
        self._own: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}  # what the module itself had in their place
        self._stage = ""
        self._micros: Generator[Any, None, None] | None = None
        self._micro: Any = None  # the micro-batch that is entered
        self._data: Any = None  # that of a later micro-batch, in the place of the first one's
        self._factor: Any = None  # on its loss
        self._loss: torch.Tensor | None = None
        self._items: Any = None  # what that loss is the mean of, where it is weighed
        self._fitting = False
        self._length: int | None = None  # updates of the current epoch, once training begins
        self._saved: dict[str, Any] | None = None  # to be loaded once there is a BatchSizeScheduler
        self._loaded = False  # whether the BatchSizeScheduler stands where a state says, and has not trained since
        self._resumes = False  # whether a checkpoint was loaded for this `fit`
        self._random: RandomStates | None = None  # those of a checkpoint, to be put back before the first batch
        self._aside: RandomStates | None = None  # those of the training, during validation
        self._validation: RandomStates | None = None  # those of validation, between two of them
        self._entered = (0, 0)  # the epoch in which `fit` went on, and its updates before

    # What `fit` takes as its loader.

    def __len__(self) -> int:
        """Updates of the current epoch, those before a resume included; before training, at the first batch size."""
        if self._length is not None:
            return self._length
        N = self.loader.dataset_size or 0
        full, rest = divmod(N, self._base)
        return full + (rest > 0 and not self.loader.drop_last)

    def __iter__(self) -> Iterator[Any]:
        """The rest of the current epoch: the first micro-batch of each update."""
        return self._updates()

    def _updates(self) -> Generator[Any, None, None]:
        module, trainer = self._module, self._trainer
        if module is None or not self._fitting:
            remedy = "give it to the Trainer too: `Trainer(callbacks=[growth])`"
            raise UsageError("BatchGrowth", "must be a callback of the Trainer that iterates it", remedy=remedy)
        self._leave()
        random, self._random = self._random, None
        if random is not None:
            random.restore()
        manual = not module.automatic_optimization
        if manual and self.loader.micro_batch_size is None:
            self._micros = whole = self._whole_batches()
            yield from whole
            return
        self._micros = micros = ab.accumulate(self.loader, trainer.strategy.model)
        if manual:
            while not (update := Update(micros, self._on_device)).is_over:
                yield update
            return
        for micro in micros:
            self._micro = micro
            data = micro.__enter__()
            self._weigh(data)
            yield data

    def _whole_batches(self) -> Generator[Any, None, None]:
        yield from self.loader

    def _leave(self) -> None:
        """Ends the iteration before, if it goes on."""
        micro, self._micro = self._micro, None
        if micro is not None:
            micro.__exit__(GeneratorExit, GeneratorExit(), None)
        micros, self._micros = self._micros, None
        if micros is not None:
            micros.close()

    # Hooks of the callback.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Checks the settings, and stands in for the methods of the module that make a step."""
        self._stage = stage
        if stage != "fit":
            return
        self._undo()  # an error in the training before skipped `teardown`
        driver = getattr(self.loader, "driver", None)
        if driver is not None and driver in _FAILED:
            self._close(driver)
        check_settings(trainer, pl_module)
        self._trainer, self._module, self._fitting, self._length = trainer, pl_module, False, None
        self.length = self._length_of(trainer)
        stands = MODULE_HOOKS if pl_module.automatic_optimization else _TRANSFERS
        self._own = {name: getattr(pl_module, name) for name in stands}
        self._kept = {name: vars(pl_module)[name] for name in stands if name in vars(pl_module)}
        for name, own in self._own.items():
            stand_in = functools.partial(self._transfer, own) if name in _TRANSFERS else getattr(self, f"_{name}")
            object.__setattr__(pl_module, name, in_place_of(own, stand_in))
        val_loop: Any = trainer.fit_loop.epoch_loop.val_loop
        val_loop.run = functools.partial(self._validate, val_loop.run)

    def _length_of(self, trainer: Any) -> Length | None:
        """How long the training is, by its epochs or by `max_steps`, whichever ends first."""
        by = functools.partial(length_of, self._schedule, self.loader, base=self._base, tokens_per_sample=self._tokens)
        found = None if trainer.max_epochs in (None, -1) else by(epochs=trainer.max_epochs)
        if trainer.max_steps > 0 and (found is None or trainer.max_steps < found.updates):
            return by(updates=trainer.max_steps)
        return found

    def _give_back(self) -> None:
        """Gives the module its own methods back."""
        for name in self._own:
            vars(self._module).pop(name, None)
            if name in self._kept:
                object.__setattr__(self._module, name, self._kept[name])
        self._own, self._kept = {}, {}
        if self._trainer is not None:
            vars(self._trainer.fit_loop.epoch_loop.val_loop).pop("run", None)

    def _close(self, batches: ab.BatchSizeScheduler) -> None:
        stands = self.loader.state_dict()
        batches.close()
        if batches in _FAILED:
            self.loader.load_state_dict(stands)  # else the rest of the epoch, which was left, would be passed

    def _undo(self) -> None:
        """Takes everything off module, loader and optimizers."""
        self._leave()
        self._give_back()
        if self.batches is not None and self._fitting:
            self._saved = {"batches": self.batches.state_dict()}
            self._close(self.batches)
        self._fitting, self._length, self._aside = False, None, None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Couples the optimizers, and makes LR schedulers follow the data. Their states are loaded after this."""
        epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else None
        if epochs is None and self.length is not None and not self._schedule.finite:
            epochs = self.length.epochs
        base = self._base
        self.batches = ab.BatchSizeScheduler(
            trainer.optimizers,
            self.loader,
            self._schedule,
            coupling=self._coupling,
            epochs=epochs,
            tokens_per_sample=self._tokens,
        )
        self._fitting = True
        resumes, self._entered = self._resumes, (0, 0)
        if not resumes:
            self._meet(trainer)
        saved, self._saved, self._resumes = self._saved, None, False
        if saved is not None:
            self.batches.load_state_dict(saved["batches"])
        self._loaded = saved is not None
        if not resumes:
            epoch, plan = self.loader.epoch, self.batches.plan
            done = 0 if plan is None else plan.update_at(self.loader.clock)
            self._entered = epoch, max(0, done - sum(map(self.loader.updates_in_epoch, range(epoch))))
        for config in trainer.lr_scheduler_configs:
            if config.interval == "step" and not config.reduce_on_plateau:
                if config.frequency != 1:
                    rule, remedy = "must be 1 where an LR scheduler counts updates", "let it count them itself"
                    raise ArgumentError("frequency", rule, value=config.frequency, remedy=remedy)
                own = config.scheduler.lr_scheduler if isinstance(config.scheduler, GrowingLR) else config.scheduler
                self._check_course(own)
                config.scheduler = GrowingLR(own, self.loader, self.batches, base=base)
        trainer.fit_loop.setup_data()  # by the longest epoch; it does nothing if an estimate of the length came first
        combined = trainer.fit_loop._combined_loader  # noqa: SLF001
        if combined is None or combined.flattened != [self]:
            got = ", ".join(type(each).__name__ for each in getattr(combined, "flattened", ())) or "none"
            remedy = "write `trainer.fit(model, growth)`, or return the BatchGrowth from `train_dataloader`"
            raise ArgumentError("train_dataloaders", "must be the BatchGrowth itself", got=got, remedy=remedy)
        self._check_validation(trainer)
        self._tell(trainer)

    def _check_course(self, lr_scheduler: Any) -> None:
        """Raises if an LR scheduler counts `max_steps`, updates of the training as it grows."""
        length = self.length
        if length is None or length.updates == length.base_updates or self._trainer.max_steps != length.updates:
            return
        for name in _COURSES:
            if getattr(lr_scheduler, name, None) == length.updates:
                raise ArgumentError(
                    name,
                    f"must count the updates of training without growth, here {length.base_updates:,}: an LR scheduler "
                    "follows the position in the data",
                    value=length.updates,
                    remedy="`estimated_stepping_batches` is `max_steps`; write `growth.length.base_updates`",
                )
        for each in getattr(lr_scheduler, "_schedulers", ()):
            self._check_course(each)

    def _check_validation(self, trainer: Any) -> None:
        """Raises if a number of updates between validations is longer than an epoch; Lightning sees the first only."""
        every, length = trainer.val_check_interval, self.length
        if not isinstance(every, int) or trainer.check_val_every_n_epoch is None or not trainer.enable_validation:
            return
        if length is None or length.epochs is None:
            return
        shortest = min(self.loader.updates_in_epoch(epoch) for epoch in range(length.epochs))
        if every > shortest:
            raise ArgumentError(
                "val_check_interval",
                f"must be at most the updates of the shortest epoch, here {shortest}: epochs get shorter as the batch "
                "grows, and a longer one is never validated",
                value=every,
                remedy="give a share of the epoch, or `check_val_every_n_epoch=None` to count over all epochs",
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks that Lightning and the loader stand at the same place."""
        self._meet(trainer)
        self._tell(trainer)
        iter(trainer.fit_loop._data_fetcher)  # noqa: SLF001 - it took the length of the longest epoch
        if self.loader.clock:
            self._follow(trainer)

    def _follow(self, trainer: Any) -> None:
        """Steps LR schedulers to where the data stands, if they stand elsewhere."""
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, GrowingLR):
                config.scheduler.step()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells Lightning how many updates the epoch has."""
        self._leave()
        self._meet(trainer)
        self._tell(trainer)

    def _meet(self, trainer: Any) -> None:
        """Raises unless Lightning and the loader stand at the same epoch."""
        assert self.batches is not None
        if trainer.current_epoch == self.loader.epoch + 1:
            next(self.loader.parts(), None)  # an epoch that was trained whole ends now, as it has for Lightning
        start, state = trainer.current_epoch * (self.loader.dataset_size or 0), self.loader.state_dict()
        if trainer.current_epoch and self.loader.clock < start <= self.loader.clock + (self.loader.dataset_size or 0):
            state.pop("open_epoch", None)  # the epoch before ended early, for example by `limit_train_batches`
            self.loader.load_state_dict(state | {"clock": start})
            if self._loaded:
                self.batches.load_state_dict(self.batches.state_dict())  # it expects the loader here
            self._follow(trainer)
        if trainer.current_epoch != self.loader.epoch or bool(trainer.global_step) != bool(self.loader.clock):
            raise UsageError(
                "loader",
                f"must stand where Lightning does, at epoch {trainer.current_epoch}, step {trainer.global_step}",
                got=f"one at epoch {self.loader.epoch}, sample {self.loader.clock:,}",
                remedy="for a new run make a new Trainer, loader and BatchGrowth; to resume, give `fit` a `ckpt_path` "
                "that was saved with one",
            )

    def _tell(self, trainer: Any) -> None:
        """Sets the number of updates of the epoch that comes, or goes on, wherever Lightning keeps it."""
        updates, fit_loop = self.loader.updates_in_epoch(self.loader.epoch), trainer.fit_loop
        if self._entered[0] == self.loader.epoch:
            updates -= self._entered[1]
        if isinstance(trainer.limit_train_batches, int):
            updates = min(updates, trainer.limit_train_batches)
        self._length = fit_loop.max_batches = updates
        fit_loop._combined_loader.limits = [updates]  # noqa: SLF001
        if isinstance(trainer.val_check_interval, float) and trainer.val_check_batch is not None:
            trainer.val_check_batch = max(1, int(updates * trainer.val_check_interval))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Commits the batch of manual optimization, and logs."""
        if not pl_module.automatic_optimization:
            self._commit()
        if trainer.loggers and self.batches is not None:
            lrs = self.batches.last_lr
            names = ["lr_in_force"] if len(lrs) == 1 else [f"lr_in_force/{index}" for index in range(len(lrs))]
            logs = dict(zip(names, lrs, strict=True)) | {"batch_size": float(self._trained_size)}
            self.log_dict(logs, on_step=True, on_epoch=False, batch_size=1)

    _trained_size = 0

    def _commit(self) -> None:
        assert self.batches is not None
        self._trained_size = self.batches.batch_size
        self.batches.step()
        self._loaded = False

    def _validate(self, run: Callable[[], Any]) -> Any:
        """Validation with random states of its own, loaders and hooks included."""
        device = self._trainer.strategy.root_device
        self._aside = aside = RandomStates(device)
        if self._validation is not None:
            self._validation.restore()
        try:
            return run()
        finally:
            self._validation, self._aside = RandomStates(device), None
            aside.restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves the batch under way; another callback may still save a checkpoint, and `teardown` does not come."""
        self._leave()
        self._give_back()
        if self.batches is not None and self._fitting:
            _FAILED.add(self.batches)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the module its own methods back."""
        if stage != "fit":
            return
        self._undo()
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, GrowingLR):
                config.scheduler = config.scheduler.lr_scheduler

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The place in the data and the random states of every process; all processes must call it."""
        if self.batches is None or not self._fitting:
            return {}
        now = self._random or self._aside or RandomStates(self._trainer.strategy.root_device)
        return {
            "format": _FORMAT,
            "loader": self.loader.state_dict(),
            "batches": self.batches.state_dict(),
            "random": _distributed.gathered(now.saved(), self.loader.sharing()[0]),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint was saved; only for `fit`, since `test` and others load callbacks too."""
        if not state_dict or self._stage != "fit":
            return
        if state_dict.get("format") != _FORMAT:
            rule = f"must hold a BatchGrowth of format {_FORMAT}"
            raise ArgumentError("ckpt_path", rule, got=str(state_dict.get("format")), remedy="use the version it is of")
        self.loader.load_state_dict(state_dict["loader"])
        self._saved, self._resumes = {"batches": state_dict["batches"]}, True
        _, rank, world = self.loader.sharing()
        random = state_dict["random"]
        if len(random) == world and random[rank] is not None:
            self._random = RandomStates(self._trainer.strategy.root_device, random[rank])

    # In the place of the module's methods, with manual optimization.

    def _transfer(self, own: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """An update stays as it is: its micro-batches are moved as they are taken."""
        return batch if isinstance(batch, Update) else own(batch, *args, **kwargs)

    # In the place of the module's methods, with automatic optimization.

    def _training_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """The module's step on the micro-batch that is under way, its loss times the weight."""
        if self._micro is None:
            return self._own["training_step"](batch, *args, **kwargs)
        data = batch if self._data is None else self._data
        found = self._own["training_step"](data, *args, **kwargs)
        loss = found["loss"] if isinstance(found, dict) else found
        if loss is None:
            rule = "must return a loss for each micro-batch: the gradient is the batch's only with all of them"
            raise ArgumentError("training_step", rule, got="None", remedy="return a loss of 0, times an output")
        self._loss = loss.detach()
        nothing = self._items is not None and not self._items
        loss = nothing_of(self._module) if nothing else loss * self._factor
        return found | {"loss": loss} if isinstance(found, dict) else loss

    def _optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None, **kwargs: Any
    ) -> Any:
        """All passes of the update, then the module's own step, whose closure has been called already."""
        result = self._passes(optimizer_closure)
        calls = iter((result,))

        def once() -> Any:
            for found in calls:
                return found
            rule = "must call its closure once, since a batch is passed once"
            raise UsageError("optimizer_step", rule, got="a second call", remedy="use an optimizer of single passes")

        found = self._own["optimizer_step"](epoch, batch_idx, optimizer, once, **kwargs)
        self._commit()
        return found

    def _passes(self, closure: Any) -> Any:
        """Every micro-batch of the update; returns what Lightning's closure did for the last."""
        micros, micro = self._micros, self._micro
        assert micros is not None
        if not hasattr(closure, "_zero_grad_fn"):
            rule = "must hand `optimizer_step` a closure with `_zero_grad_fn`, which this integration uses"
            raise ArgumentTypeError("lightning", rule, got=pl.__version__, remedy=f"install lightning {WORKS}")
        zero = closure._zero_grad_fn  # noqa: SLF001
        losses: list[tuple[Any, Any]] = []
        while True:
            closure._zero_grad_fn = zero if micro.index == 0 else None  # noqa: SLF001 - once an update, as its hooks
            try:
                result = closure()
                losses.append((self._loss, self._items if self._items is not None else micro.weight))
            except BaseException as error:
                self._micro = self._data = None
                if not micro.__exit__(type(error), error, error.__traceback__):
                    raise
            else:
                self._micro = self._data = None
                micro.__exit__(None, None, None)
            if micro.is_last:
                break
            if micro.failed:
                losses.clear()
            micro = next(micros)
            self._micro = micro
            self._data = self._on_device(micro.__enter__())
            self._weigh(self._data)
        self._show(closure, losses)
        return result

    def _weigh(self, data: Any) -> None:
        micro = self._micro
        if self._weight is None:
            self._items, self._factor = None, micro.weight
        else:
            items = torch.as_tensor(self._weight(data)).sum()
            self._items = items if micro.size else items * 0
            self._factor = items.to(self._trainer.strategy.root_device) * micro.weigh(items)

    def _on_device(self, data: Any) -> Any:
        """A micro-batch as Lightning hands one to `training_step`."""
        trainer = self._trainer
        data = trainer.precision_plugin.convert_input(data)
        data = trainer.lightning_module._on_before_batch_transfer(data, dataloader_idx=0)  # noqa: SLF001
        return trainer.strategy.batch_to_device(data, dataloader_idx=0)

    def _show(self, closure: Any, losses: list[tuple[Any, Any]]) -> None:
        """Makes the loss that callbacks and the progress bar see that of this process's whole part of the batch."""
        result = getattr(closure, "_result", None)
        if result is None or not hasattr(result, "loss"):
            return
        total = sum((weight for _, weight in losses), 0)
        if not total:
            return
        found = sum(loss * weight for loss, weight in losses if weight) / total
        result.loss = found.detach().clone()
