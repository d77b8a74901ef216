"""Settings, strategies and versions of Lightning that a growing batch refuses, each by its name."""

from __future__ import annotations

import re

import pytest
from tests.integrations import reference as ref

pytest.importorskip("lightning")
import lightning.pytorch as pl
from tests.integrations.test_lightning import Module, fitted, loader_of, trainer_of

from adabatch.integrations.lightning import BatchGrowth

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"accumulate_grad_batches": 2},
            "`accumulate_grad_batches` must not be set .* got 2; set `loader.micro_batch_",
        ),
        ({"overfit_batches": 0.5}, "`overfit_batches` must not be set"),
        ({"limit_train_batches": 0.5}, "`limit_train_batches` must not be set .*; give a number of updates"),
        ({"callbacks": [pl.callbacks.GradientAccumulationScheduler({1: 2})]}, "`callbacks` must not change the batch"),
    ],
)
def test_settings_that_take_batches_out_of_our_hands(tmp_path, more, message):
    callbacks = more.pop("callbacks", [])
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, Module(), *callbacks, **more)


def test_a_strategy_that_shards(tmp_path):
    growth = BatchGrowth(loader_of(), ref.growth())
    trainer = trainer_of(tmp_path, growth)

    class Sharding(pl.strategies.SingleDeviceStrategy):
        pass

    trainer.strategy.__class__ = Sharding
    with pytest.raises(ValueError, match=r"`strategy` must be one device or DDP .*, got Sharding; write `Trainer"):
        trainer.fit(Module(), growth)


def test_a_version_without_the_hooks_is_named(tmp_path):
    class Old(Module):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure):
            pass

    with pytest.raises(TypeError, match=rf"`lightning` must have `Old.optimizer_step\(.*got lightning "
                       rf"{re.escape(pl.__version__)}; install lightning 2"):  # fmt: skip
        fitted(tmp_path, Old())
