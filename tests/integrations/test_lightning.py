"""Lightning with a growing batch: passes, LRs, weights, validation; automatic and manual; resumes bit for bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.integrations import reference as ref
from torch.utils.data import TensorDataset

import adabatch as ab

pytest.importorskip("lightning")
import lightning.pytorch as pl

from adabatch.integrations.lightning import BatchGrowth

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


class Module(pl.LightningModule):
    """A regression; the LR falls to 0 over the updates of training without growth."""

    def __init__(self, dropout=0.0, *, lr_steps=None):
        super().__init__()
        self.traced = ref.Traced(dropout)
        self.validated, self.epochs_ended, self.batch_indices, self.lr_steps = [], [], [], lr_steps
        self.estimated = 0

    def training_step(self, batch, batch_idx):
        self.batch_indices.append(batch_idx)
        return ref.loss_of(self.traced, *batch)

    def validation_step(self, batch, batch_idx):
        torch.rand(3)  # a draw that must not reach the training
        self.log("seen", ref.loss_of(self.traced, *batch))

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.validated.append(self.trainer.global_step)

    def on_train_epoch_end(self):
        self.epochs_ended.append((self.trainer.current_epoch, self.trainer.global_step))

    def configure_optimizers(self):
        optimizer = ref.SGD(self.parameters())
        self.estimated = self.trainer.estimated_stepping_batches
        linear = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.0, total_iters=self.lr_steps or int(self.estimated)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": linear, "interval": "step"}}


class Manual(Module):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        if isinstance(batch, list | tuple):
            self.manual_backward(ref.loss_of(self.traced, *batch))
        else:
            for micro in batch:
                with micro as data:
                    self.manual_backward(ref.loss_of(self.traced, *data) * micro.weight)
        optimizer.step()
        self.lr_schedulers().step()


def loader_of(micro=ref.BASE, tensors=None):
    data = TensorDataset(*(ref.data() if tensors is None else tensors))
    return ab.DataLoader(data, batch_size=ref.BASE, shuffle=True, seed=ref.SEED, micro_batch_size=micro)


def trainer_of(folder, growth, *more_callbacks, **more):
    usual = {
        "max_epochs": ref.EPOCHS,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
        "num_sanity_val_steps": 1,
    }
    return pl.Trainer(**(usual | {"callbacks": [growth, *more_callbacks]} | more))


def fitted(folder, module=None, *callbacks, micro=ref.BASE, validates=True, resume=None, growth=None, **more):
    module = Module() if module is None else module
    growth = BatchGrowth(loader_of(micro), ref.growth()) if growth is None else growth
    trainer = trainer_of(folder, growth, *callbacks, **more)
    val = torch.utils.data.DataLoader(TensorDataset(*ref.data()), batch_size=250) if validates else None
    trainer.fit(module, growth, val, ckpt_path=resume)
    return trainer, module, growth


def optimizer_of(trainer):
    return trainer.optimizers[0]


def test_passes_lrs_and_weights_are_those_computed_by_hand(tmp_path):
    trainer, module, growth = fitted(tmp_path)
    assert module.traced.passes == ref.micro_sizes(ref.BASE)
    assert optimizer_of(trainer).lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(module.traced.net)
    assert trainer.global_step == growth.length.updates == ref.UPDATES
    assert module.estimated == growth.length.base_updates == ref.BASE_UPDATES


def test_epochs_and_validation_are_where_the_data_says(tmp_path):
    _, module, _ = fitted(tmp_path)
    assert module.validated == [32, 48, 56, 60]
    assert module.epochs_ended == [(0, 32), (1, 48), (2, 56), (3, 60)]


@pytest.mark.parametrize(("interval", "expected"), [(0.5, [16, 32, 40, 48, 52, 56, 58, 60]), (4, [*range(4, 61, 4)])])
def test_validation_within_epochs(tmp_path, interval, expected):
    assert fitted(tmp_path, val_check_interval=interval)[1].validated == expected


def test_growth_within_the_first_epoch(tmp_path):
    """The estimate of the length, for LR schedulers, is that of training without growth all the same."""
    growth = BatchGrowth(loader_of(), ab.schedules.geometric(2, ab.samples(128), maximum=64), coupling="none")
    trainer, module, _ = fitted(tmp_path, growth=growth, max_epochs=2)
    first = [16] * 8 + [32] * 4 + [64] * 3 + [52]
    second = [64] * 7 + [52]
    assert trainer.global_step == len(first) + len(second)
    assert module.estimated == 64
    assert module.validated == [len(first), len(first) + len(second)]
    assert sum(module.traced.passes) == 2 * ref.N
    assert growth.batches.plan.updates == trainer.global_step


def test_max_steps_and_limits(tmp_path):
    trainer, module, _ = fitted(tmp_path, Module(lr_steps=128), max_steps=40, max_epochs=-1)
    assert trainer.global_step == 40
    assert sum(module.traced.passes) == ref.N + 8 * 32
    trainer, module, _ = fitted(tmp_path, Module(lr_steps=128), limit_train_batches=5)
    assert module.epochs_ended == [(0, 5), (1, 10), (2, 15), (3, 19)]
    assert optimizer_of(trainer).lrs[6] == pytest.approx(ref.lr_at(ref.N + 32, 32), rel=1e-9)


@pytest.mark.parametrize("micro", [None, 16])
def test_manual_optimization(tmp_path, micro):
    trainer, module, _ = fitted(tmp_path, Manual(), micro=micro)
    assert module.traced.passes == (ref.SIZES if micro is None else ref.micro_sizes(micro))
    assert optimizer_of(trainer).lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(module.traced.net)
    assert trainer.global_step == ref.UPDATES
    assert module.validated == [32, 48, 56, 60]


def test_losses_over_tokens(tmp_path):
    class Tokens(Module):
        def training_step(self, batch, batch_idx):
            inputs, targets = batch
            return ((self.traced(inputs) - targets[:, :1]).square() * targets[:, 1:]).sum() / targets[:, 1:].sum()

    inputs, targets = ref.data()
    weight = torch.randint(1, 9, (ref.N, 1), generator=torch.Generator().manual_seed(3)).double()
    targets = torch.cat([targets, weight], 1)

    def mean(model, inputs, targets):
        return ((model(inputs) - targets[:, :1]).square() * targets[:, 1:]).sum() / targets[:, 1:].sum()

    growth = BatchGrowth(loader_of(8, (inputs, targets)), ref.growth(), weight=lambda batch: batch[1][:, 1])
    _, module, _ = fitted(tmp_path, Tokens(), growth=growth, validates=False)
    ref.assert_trained(module.traced.net, ref.trained(loss=mean, tensors=(inputs, targets)))


def test_logs_have_the_lr_in_force_and_the_batch_size(tmp_path):
    class Log(pl.loggers.logger.DummyLogger):
        rows: ClassVar = []

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, metrics))

    log = Log()
    fitted(tmp_path, logger=log, log_every_n_steps=1, validates=False)
    rows = [metrics for _, metrics in log.rows if "lr_in_force" in metrics]
    assert [float(row["lr_in_force"]) for row in rows] == pytest.approx(ref.LRS, rel=1e-6, abs=1e-9)
    assert [float(row["batch_size"]) for row in rows] == [16] * 32 + [32] * 16 + [64] * 8 + [128] * 4


def test_callbacks_see_the_loss_of_the_batch(tmp_path):
    class Watch(pl.Callback):
        losses: ClassVar = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses.append(float(outputs["loss"]))

    watch = Watch()
    fitted(tmp_path, Module(), watch, validates=False)
    inputs, targets = ref.data()
    for number in (0, 40, 59):
        model = ref.network()
        torch.nn.utils.vector_to_parameters(ref.trained(until=number), model.parameters())
        items = list(ref.batches())[number][1]
        assert watch.losses[number] == pytest.approx(ref.loss_of(model, inputs[items], targets[items]).item(), rel=1e-9)


STEPS = 20, 37, 48, 60


@pytest.fixture(scope="module", params=[Module, Manual])
def unbroken(request, tmp_path_factory):
    """A training that saves in the first epoch, in mid-epoch and at ends of epochs, for all that resume it."""
    folder = tmp_path_factory.mktemp("unbroken")
    saves = [
        pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=step, save_top_k=-1, filename="{step}")
        for step in STEPS
    ]
    trainer, whole, _ = fitted(folder, request.param(0.3), *saves, enable_checkpointing=True, val_check_interval=0.5)
    return request.param, trainer, whole, folder


@pytest.mark.parametrize("step", STEPS)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit_with_dropout(tmp_path, unbroken, step):
    """Validation draws random numbers in between."""
    kind, trainer, whole, folder = unbroken
    torch.manual_seed(99)
    path = str(folder / f"step={step}.ckpt")
    again, resumed, _ = fitted(tmp_path, kind(0.3), resume=path, val_check_interval=0.5)
    assert torch.equal(ref.weights(whole), ref.weights(resumed))
    assert again.global_step == trainer.global_step == ref.UPDATES
    assert sum(resumed.traced.passes) == sum(ref.SIZES[step:])
    assert resumed.estimated == ref.BASE_UPDATES
    later = [each for each in whole.validated if each > step]
    assert [each for each in resumed.validated if each > step] == later


def test_fit_goes_on_for_more_epochs(tmp_path):
    growth = BatchGrowth(loader_of(), ref.growth())
    module = Module(lr_steps=ref.BASE_UPDATES)
    trainer, _, _ = fitted(tmp_path, module, growth=growth, max_epochs=2)
    first = optimizer_of(trainer).lrs
    trainer.fit_loop.max_epochs = ref.EPOCHS
    trainer.fit(module, growth)
    assert trainer.global_step == ref.UPDATES
    assert len(first) == 48
    assert module.traced.passes == ref.micro_sizes(ref.BASE)


@pytest.mark.parametrize(
    ("kind", "error", "at"),
    [
        (Module, ValueError, 3),
        (Manual, ValueError, 40),
        (Module, KeyboardInterrupt, 40),
        (Manual, KeyboardInterrupt, 3),
        pytest.param(Module, ValueError, 40, marks=pytest.mark.slow),
        pytest.param(Manual, ValueError, 3, marks=pytest.mark.slow),
        pytest.param(Module, KeyboardInterrupt, 3, marks=pytest.mark.slow),
        pytest.param(Manual, KeyboardInterrupt, 40, marks=pytest.mark.slow),
    ],
)
def test_fit_goes_on_after_an_error(tmp_path, kind, error, at):
    """Lightning calls no `teardown` then; nothing is trained on twice or left out."""

    class Fails(kind):  # type: ignore[valid-type]
        fails = True

        def training_step(self, batch, batch_idx):
            if self.fails and self.trainer.global_step == at:
                self.fails = False
                raise error
            return super().training_step(batch, batch_idx)

    growth, module = BatchGrowth(loader_of(), ref.growth()), Fails()
    trainer = trainer_of(tmp_path, growth)
    val = torch.utils.data.DataLoader(TensorDataset(*ref.data()), batch_size=250)
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        trainer.fit(module, growth, val)
    assert not {"training_step", "optimizer_step"} & set(vars(module))
    before = optimizer_of(trainer).lrs if trainer.optimizers else []
    trainer.fit(module, growth, val)
    assert sum(module.traced.passes) == sum(ref.SIZES)
    lrs = before + optimizer_of(trainer).lrs
    assert lrs[-(ref.UPDATES - at) :] == pytest.approx(ref.LRS[at:], rel=1e-9, abs=1e-12)
    assert trainer.global_step == ref.UPDATES
    assert module.validated == [32, 48, 56, 60]
    assert module.epochs_ended == [(0, 32), (1, 48), (2, 56), (3, 60)]


def test_another_growth_after_an_error(tmp_path):
    class Fails(Module):
        def training_step(self, batch, batch_idx):
            raise ValueError("broken")

    growth, module = BatchGrowth(loader_of(), ref.growth()), Fails()
    with pytest.raises(ValueError, match="broken"):
        trainer_of(tmp_path, growth).fit(module, growth)
    _, trained, _ = fitted(tmp_path, growth=BatchGrowth(growth.loader, ref.growth()))
    ref.assert_trained(trained.traced.net)


def test_another_trainer_after_an_error(tmp_path):
    """The loader stands within the data, and the Trainer at its beginning."""

    class Fails(Module):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 3:
                raise ValueError("broken")
            return super().training_step(batch, batch_idx)

    growth, module = BatchGrowth(loader_of(), ref.growth()), Fails()
    with pytest.raises(ValueError, match="broken"):
        trainer_of(tmp_path, growth).fit(module, growth)
    with pytest.raises(RuntimeError, match=r"at epoch 0, step 0, got one at epoch 0, sample 48; for a new run make"):
        trainer_of(tmp_path, growth).fit(module, growth)


def test_a_checkpoint_saved_on_an_exception(tmp_path):
    class Fails(Module):
        fails = True

        def training_step(self, batch, batch_idx):
            if self.fails and self.trainer.global_step == 37:
                raise ValueError("broken")
            return super().training_step(batch, batch_idx)

    saves = pl.callbacks.OnExceptionCheckpoint(tmp_path, "saved")
    with pytest.raises(ValueError, match="broken"):
        fitted(tmp_path, Fails(), saves, enable_checkpointing=True)
    module = Fails()
    module.fails = False
    trainer, module, _ = fitted(tmp_path, module, resume=str(tmp_path / "saved.ckpt"))
    ref.assert_trained(module.traced.net)
    assert sum(module.traced.passes) == sum(ref.SIZES[37:])
    assert trainer.global_step == ref.UPDATES


@pytest.mark.parametrize("at", [37, 48])
def test_a_resumed_run_has_the_weights_computed_by_hand(tmp_path, at):
    saves = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=at, save_top_k=-1, filename="{step}")
    fitted(tmp_path, Module(), saves, enable_checkpointing=True)
    trainer, module, _ = fitted(tmp_path, resume=str(tmp_path / f"step={at}.ckpt"))
    ref.assert_trained(module.traced.net)
    assert optimizer_of(trainer).lrs == pytest.approx(ref.LRS[at:], rel=1e-9, abs=1e-12)


def test_other_stages_leave_the_place_alone(tmp_path):
    """They load the states of callbacks too."""
    saves = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=20, save_top_k=-1, filename="{step}")
    growth, module = BatchGrowth(loader_of(), ref.growth()), Module(lr_steps=ref.BASE_UPDATES)
    module.test_step = lambda batch, batch_idx: None
    trainer, _, _ = fitted(tmp_path, module, saves, growth=growth, max_epochs=2, enable_checkpointing=True)
    own, path = ref.weights(module), str(tmp_path / "step=20.ckpt")
    val = torch.utils.data.DataLoader(TensorDataset(*ref.data()), batch_size=250)
    trainer.validate(module, val, ckpt_path=path)
    trainer.test(module, val, ckpt_path=path)
    torch.nn.utils.vector_to_parameters(own, module.parameters())
    trainer.fit_loop.max_epochs = ref.EPOCHS
    trainer.fit(module, growth)
    assert sum(module.traced.passes) == sum(ref.SIZES)
    fresh = BatchGrowth(loader_of(), ref.growth())
    trainer_of(tmp_path, fresh).test(module, val, ckpt_path=path)
    assert fresh.loader.clock == 0


def test_hooks_around_zero_grad_come_once_an_update(tmp_path):
    class Counts(Module):
        zeroed, batches = 0, 0

        def on_before_zero_grad(self, optimizer):
            self.zeroed += 1

        def optimizer_zero_grad(self, *args):
            self.batches += 1
            super().optimizer_zero_grad(*args)

    _, module, _ = fitted(tmp_path, Counts(), micro=8)
    assert (module.zeroed, module.batches) == (ref.UPDATES, ref.UPDATES)
    ref.assert_trained(module.traced.net)


def test_max_steps_and_the_course_of_the_lr(tmp_path):
    """Lightning's estimate is `max_steps`, which counts updates of the training as it grows."""
    with pytest.raises(
        ValueError, match=r"`total_iters` must count the updates of training without growth, here 48: .*, got 40; `est"
    ):
        fitted(tmp_path, max_steps=40, max_epochs=-1)

    class Right(Module):
        def configure_optimizers(self):
            self.lr_steps = growth.length.base_updates
            return super().configure_optimizers()

    growth = BatchGrowth(loader_of(), ref.growth())
    trainer, _, _ = fitted(tmp_path, Right(), growth=growth, max_steps=40, max_epochs=-1)
    course = 32 + 8 * 2
    expected = [ref.LR * (1 - number / course) for number in range(32)]
    expected += [2 * ref.LR * (1 - (32 + 2 * number) / course) for number in range(8)]
    assert optimizer_of(trainer).lrs == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_number_of_updates_between_validations_that_some_epochs_do_not_have(tmp_path):
    with pytest.raises(
        ValueError, match=r"`val_check_interval` must be at most the updates of the shortest epoch, here 4: .*got 10; g"
    ):
        fitted(tmp_path, val_check_interval=10)
    _, module, _ = fitted(tmp_path, val_check_interval=10, check_val_every_n_epoch=None)
    assert module.validated == [10, 20, 30, 40, 50, 60]
    fitted(tmp_path, val_check_interval=10, validates=False)


@pytest.mark.parametrize(
    ("kind", "micro", "at"),
    [
        (Module, 16, 5),
        (Module, 16, 7),
        (Manual, 16, 7),
        (Manual, None, 7),
        (Manual, None, 10),
        pytest.param(Module, 16, 10, marks=pytest.mark.slow),
        pytest.param(Manual, 16, 5, marks=pytest.mark.slow),
        pytest.param(Manual, 16, 10, marks=pytest.mark.slow),
        pytest.param(Manual, None, 5, marks=pytest.mark.slow),
    ],
)
def test_limits_of_an_epoch_and_a_resume(tmp_path, at, kind, micro):
    saves = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=at, save_top_k=-1, filename="{step}")
    whole, module, _ = fitted(tmp_path, kind(0.3), saves, micro=micro, enable_checkpointing=True,
                              limit_train_batches=5)  # fmt: skip
    again, resumed, _ = fitted(tmp_path, kind(0.3), micro=micro, resume=str(tmp_path / f"step={at}.ckpt"),
                               limit_train_batches=5)  # fmt: skip
    assert again.global_step == whole.global_step == 19
    assert optimizer_of(again).lrs == optimizer_of(whole).lrs[at:]
    assert torch.equal(ref.weights(module), ref.weights(resumed))


def test_an_epochs_end_as_a_checkpoint_with_limits(tmp_path):
    saves = pl.callbacks.ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}",
                                         save_on_train_epoch_end=True)  # fmt: skip
    _, module, _ = fitted(tmp_path, Module(0.3), saves, enable_checkpointing=True, limit_train_batches=5)
    _, resumed, _ = fitted(tmp_path, Module(0.3), resume=str(tmp_path / "epoch=1.ckpt"), limit_train_batches=5)
    assert torch.equal(ref.weights(module), ref.weights(resumed))


def test_draws_of_callbacks_differ_from_update_to_update(tmp_path):
    """And validation moves no random state of the training."""

    class Draws(pl.Callback):
        def __init__(self):
            self.found = {"batch": [], "validation": [], "epoch": []}

        def on_train_batch_end(self, *_):
            self.found["batch"].append(random.random())

        def on_validation_epoch_end(self, trainer, pl_module):
            self.found["validation"].append(random.random())

        def on_train_epoch_end(self, *_):
            self.found["epoch"].append(random.random())

    draws = Draws()
    fitted(tmp_path, Module(), draws, num_sanity_val_steps=0)
    assert all(len(set(found)) == len(found) > 3 for found in draws.found.values())
    weights = []
    for validates in (True, False):
        torch.manual_seed(1)
        module = Module(0.3)
        torch.manual_seed(2)
        weights.append(ref.weights(fitted(tmp_path, module, validates=validates)[1]))
    assert torch.equal(*weights)


def test_micro_batches_in_which_nothing_counts(tmp_path):
    """The mean over no token is 0 / 0, and so is its gradient."""

    class Tokens(Module):
        def training_step(self, batch, batch_idx):
            return mean(self.traced, *batch)

    def mean(model, inputs, targets):
        return ((model(inputs) - targets[:, :1]).square() * targets[:, 1:]).sum() / targets[:, 1:].sum()

    inputs, targets = ref.data()
    weight = torch.randint(3, (ref.N, 1), generator=torch.Generator().manual_seed(3)).double()
    targets = torch.cat([targets, weight], 1)
    growth = BatchGrowth(loader_of(2, (inputs, targets)), ref.growth(), weight=lambda batch: batch[1][:, 1])
    _, module, _ = fitted(tmp_path, Tokens(), growth=growth, validates=False)
    ref.assert_trained(module.traced.net, ref.trained(loss=mean, tensors=(inputs, targets)))


def test_data_of_manual_micro_batches_go_through_the_hooks(tmp_path):
    class Moves(Manual):
        moved, seen = 0, 0

        def on_before_batch_transfer(self, batch, dataloader_idx):
            inputs, targets = batch
            return inputs.float(), targets

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            self.moved += len(batch[0])
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            assert batch[0].dtype == torch.float32
            return batch[0].double(), batch[1]

    _, module, _ = fitted(tmp_path, Moves(), micro=16, validates=False)
    assert module.traced.passes == ref.micro_sizes(16)
    assert module.moved == sum(ref.SIZES)


def test_the_module_has_its_own_methods_after_fit(tmp_path):
    _, module, _ = fitted(tmp_path)
    assert not {"training_step", "optimizer_step", "optimizer_zero_grad"} & set(vars(module))
    module = Module()
    own = module.training_step
    module.training_step = stand_in = lambda batch, batch_idx: own(batch, batch_idx)  # as a compiled module has
    fitted(tmp_path, module)
    assert vars(module)["training_step"] is stand_in


# Bad input.


def test_two_growths_on_one_trainer(tmp_path):
    """Lightning's own error, since both would have one state."""
    with pytest.raises(RuntimeError, match="Found more than one stateful callback of type `BatchGrowth`"):
        fitted(tmp_path, Module(), BatchGrowth(loader_of(), ref.growth()))


def test_the_loader_in_place_of_the_growth(tmp_path):
    growth = BatchGrowth(loader_of(), ref.growth())
    with pytest.raises(ValueError, match=r"`train_dataloaders` must be the BatchGrowth itself, got DataLoader; write"):
        trainer_of(tmp_path, growth).fit(Module(), growth.loader)


def test_the_growth_in_place_of_the_callback(tmp_path):
    growth, module = BatchGrowth(loader_of(), ref.growth()), Module(lr_steps=9)
    with pytest.raises(RuntimeError, match="`BatchGrowth` must be a callback of the Trainer that iterates it"):
        trainer_of(tmp_path, growth, callbacks=[]).fit(module, growth)


def test_a_loader_that_was_trained_on(tmp_path):
    _, _, growth = fitted(tmp_path)
    with pytest.raises(
        RuntimeError, match=r"`loader` must stand where Lightning does, at epoch 0, step 0, got one at ep"
    ):
        fitted(tmp_path, growth=growth)


def test_wrong_arguments():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(9))

    with pytest.raises(TypeError, match=r"`loader` must be an ab.DataLoader, got DataLoader"):
        BatchGrowth(torch.utils.data.DataLoader(range(9)), ref.growth())
    with pytest.raises(TypeError, match=r"`schedule` must be a schedule"):
        BatchGrowth(loader_of(), 32)
    with pytest.raises(ValueError, match=r"`loader` must have data with a length, .*got a stream"):
        BatchGrowth(ab.DataLoader(Stream(), batch_size=3), ref.growth())


def test_an_optimizer_that_passes_twice(tmp_path):
    class Twice(Module):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            optimizer_closure()
            optimizer_closure()

    with pytest.raises(RuntimeError, match="`optimizer_step` must call its closure once"):
        fitted(tmp_path, Twice())


def test_a_step_without_a_loss(tmp_path):
    class Skips(Module):
        def training_step(self, batch, batch_idx):
            return None

    with pytest.raises(ValueError, match="`training_step` must return a loss for each micro-batch"):
        fitted(tmp_path, Skips())


def test_out_of_memory_repeats_the_batch(tmp_path):
    class Small(Module):
        def training_step(self, batch, batch_idx):
            if len(batch[0]) > 10:
                raise torch.OutOfMemoryError("out of memory")
            return super().training_step(batch, batch_idx)

    with pytest.warns(RuntimeWarning, match="memory ran out on this rank with micro-batches of 16 samples"):
        _, module, growth = fitted(tmp_path, Small())
    assert growth.loader.micro_batch_size == 8
    ref.assert_trained(module.traced.net)


# Ranks.


def _two_ranks(rank, world):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29573", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    ref.quiet()
    folder = Path(os.environ["FOLDER"])
    for kind, micro in ((Module, 8), (Manual, 8)):
        module = kind()
        with ref.reductions_of(module) as reduced:
            trainer, _, _ = fitted(folder, module, micro=micro, strategy="ddp", devices=world, validates=False)
        assert type(trainer.strategy).__name__ == "DDPStrategy"
        assert optimizer_of(trainer).lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
        assert len(module.traced.passes) == len(ref.micro_sizes(micro, world, rank))
        ref.assert_trained(module.traced.net)
        assert len(reduced) == ref.UPDATES

        saves = pl.callbacks.ModelCheckpoint(folder / kind.__name__, every_n_train_steps=37, save_top_k=-1,
                                             filename="{step}")  # fmt: skip
        settings = {"micro": micro, "strategy": "ddp", "devices": world, "enable_checkpointing": True}
        _, whole, _ = fitted(folder, kind(0.3), saves, **settings)
        torch.manual_seed(5 + rank)
        path = str(folder / kind.__name__ / "step=37.ckpt")
        _, resumed, _ = fitted(folder, kind(0.3), resume=path, **settings)
        assert torch.equal(ref.weights(whole), ref.weights(resumed))


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks_train_the_same_and_reduce_once_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    on_ranks(2, _two_ranks)


SCRIPT = """
import lightning.pytorch as pl, torch, adabatch as ab
from adabatch.integrations.lightning import BatchGrowth

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    loader = ab.DataLoader(torch.utils.data.TensorDataset(torch.ones(30, 3)), batch_size=4, seed=0)
    growth = BatchGrowth(loader, ab.schedules.geometric(2, ab.epochs(1)))
    trainer = pl.Trainer(max_epochs=2, callbacks=[growth], accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Model(), growth)
    with open(f"rank{trainer.global_rank}", "w") as file:
        file.write(f"{trainer.world_size} processes made {trainer.global_step} updates")
"""


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_lightnings_own_launcher(tmp_path):
    """It starts the other processes by itself, and gives them no RANK."""
    (tmp_path / "script.py").write_text(SCRIPT)
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == "2 processes made 12 updates"
