"""What a growing batch needs of a Lightning Trainer, its strategy and its module."""

from __future__ import annotations

from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.integrations._shared import check_hooks

WORKS: Final = "2.6 or a later 2"
MODULE_HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "training_step": (),
    "optimizer_step": ("epoch", "batch_idx", "optimizer", "optimizer_closure"),
}


def check_settings(trainer: Any, module: Any) -> None:
    """Raises where a setting takes batches or accumulation out of our hands."""
    if module.automatic_optimization:
        check_hooks(module, MODULE_HOOKS, package="lightning", works=WORKS)
    for name in ("_combined_loader", "_data_fetcher", "max_batches", "setup_data"):
        if not hasattr(trainer.fit_loop, name):
            rule = f"must have `fit_loop.{name}`, which this integration uses"
            raise ArgumentTypeError("lightning", rule, got=pl.__version__, remedy=f"install lightning {WORKS}")
    strategy = type(trainer.strategy)
    if strategy not in (SingleDeviceStrategy, DDPStrategy):
        rule = "must be one device or DDP where the batch grows, since others accumulate or shard themselves"
        raise ArgumentError("strategy", rule, got=strategy.__name__, remedy='write `Trainer(strategy="ddp")`')
    again = trainer.reload_dataloaders_every_n_epochs
    micro = "set `loader.micro_batch_size`, the samples of one `training_step`"
    for argument, is_set, value, remedy in (
        ("accumulate_grad_batches", trainer.accumulate_grad_batches != 1, trainer.accumulate_grad_batches, micro),
        ("reload_dataloaders_every_n_epochs", again != 0, again, "leave it out: each epoch has its own length"),
        ("overfit_batches", trainer.overfit_batches != 0, trainer.overfit_batches, "leave it out"),
        (
            "limit_train_batches",
            isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches != 1,
            trainer.limit_train_batches,
            "give a number of updates, or leave it out",
        ),
    ):
        if is_set:
            rule = "must not be set where a schedule grows the batch"
            raise ArgumentError(argument, rule, value=value, remedy=remedy)
    for each in trainer.callbacks:
        if isinstance(each, pl.callbacks.GradientAccumulationScheduler | pl.callbacks.BatchSizeFinder):
            rule = "must not change the batch where a schedule grows it"
            raise ArgumentError("callbacks", rule, got=type(each).__name__, remedy=f"take it out; {micro}")
