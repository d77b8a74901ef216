"""Accelerate with a growing batch: passes, LRs and weights against those computed by hand; resumes bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.integrations import reference as ref
from torch.utils.data import TensorDataset

import adabatch as ab

pytest.importorskip("accelerate")
import accelerate

from adabatch.integrations.accelerate import prepare

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _fresh():
    accelerate.state.AcceleratorState._reset_state(True)


class Run:
    """A script that trains with Accelerate."""

    def __init__(self, micro=ref.BASE, dropout=0.0, *, prepared=False, **more):
        self.accelerator = accelerate.Accelerator(cpu=True, **more)
        self.traced = ref.Traced(dropout)
        self.own = optimizer = ref.SGD(self.traced.parameters())
        self.lr = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=ref.BASE_UPDATES)
        self.loader = ab.DataLoader(
            TensorDataset(*ref.data()), batch_size=ref.BASE, shuffle=True, seed=ref.SEED, micro_batch_size=micro
        )
        self.batches = ab.BatchSizeScheduler(optimizer, self.loader, ref.growth(), epochs=ref.EPOCHS)
        self.model, self.optimizer = self.accelerator.prepare(self.traced, optimizer)
        if prepared:
            self.lr = self.accelerator.prepare(self.lr)
        self.lr = prepare(self.accelerator, self.loader, self.batches, self.lr)
        self.updates = 0
        self.shown = []

    def train(self, save=None, at=None):
        while self.loader.epoch < ref.EPOCHS:
            for micro in ab.accumulate(self.loader, self.model):
                with micro as (inputs, targets):
                    loss = ref.loss_of(self.model, inputs, targets)
                    self.accelerator.backward(loss * micro.weight)
                if micro.is_last:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    self.batches.step()
                    self.shown.append(self.lr.get_last_lr()[0])
                    self.lr.step()
                    self.updates += 1
                    if self.updates == at:
                        self.accelerator.save_state(str(save))
        return self


@pytest.mark.parametrize("prepared", [False, True])
def test_passes_lrs_and_weights_are_those_computed_by_hand(prepared):
    run = Run(prepared=prepared).train()
    assert run.traced.passes == ref.micro_sizes(ref.BASE)
    assert run.own.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    assert run.shown == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(run.traced.net)
    assert run.updates == ref.UPDATES


@pytest.mark.parametrize("prepared", [False, True])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit_with_dropout(tmp_path, prepared):
    whole = Run(dropout=0.3, prepared=prepared).train(tmp_path / "saved", 37)
    torch.manual_seed(99)
    resumed = Run(dropout=0.3, prepared=prepared)
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    resumed.train()
    assert resumed.updates == ref.UPDATES - 37
    assert torch.equal(ref.weights(whole.traced), ref.weights(resumed.traced))
    assert whole.shown[37:] == resumed.shown


def test_bad_input():
    run = Run()
    with pytest.raises(ValueError, match=r"`loader` must be prepared once, this one was before"):
        prepare(run.accelerator, run.loader, run.batches)
    with pytest.raises(TypeError, match=r"`accelerator` must be an Accelerator"):
        prepare(3, run.loader, run.batches)
    with pytest.raises(TypeError, match=r"`batches` must be an ab.BatchSizeScheduler"):
        prepare(run.accelerator, run.loader, run.lr)
    with pytest.raises(ValueError, match=r"`loader` must be the loader that `batches` drives, got DataLoader"):
        prepare(run.accelerator, torch.utils.data.DataLoader(range(4)), run.batches)


def test_accelerates_wrapper_of_an_optimizer():
    run = Run()
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got AcceleratedOptimizer; unwr"):
        ab.BatchSizeScheduler(run.optimizer, run.loader, ref.growth())


def test_a_resumed_run_has_the_weights_computed_by_hand(tmp_path):
    Run().train(tmp_path / "saved", 37)
    resumed = Run()
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    resumed.train()
    assert resumed.own.lrs == pytest.approx(ref.LRS[37:], rel=1e-9, abs=1e-12)
    ref.assert_trained(resumed.traced.net)


def test_accumulation_by_the_accelerator():
    with pytest.raises(
        ValueError, match=r"`gradient_accumulation_steps` must be 1, .* got 2; set `loader.micro_batch_s"
    ):
        Run(gradient_accumulation_steps=2)


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_plugins_that_accumulate_themselves(kind, monkeypatch):
    monkeypatch.setattr(
        accelerate.Accelerator, "distributed_type", property(lambda self: accelerate.DistributedType[kind])
    )
    loader = ab.DataLoader(TensorDataset(*ref.data()), batch_size=ref.BASE)
    optimizer = ref.SGD(ref.network().parameters())
    batches = ab.BatchSizeScheduler(optimizer, loader, ref.growth())
    with pytest.raises(ValueError, match=f"`accelerator` must train in one process or under DDP, .* got {kind}"):
        prepare(accelerate.Accelerator(cpu=True), loader, batches)


def test_too_late():
    run = Run().train()
    loader = ab.DataLoader(TensorDataset(*ref.data()), batch_size=ref.BASE)
    loader.load_state_dict(run.loader.state_dict() | {"seed": loader.seed, "shuffle": False})
    batches = ab.BatchSizeScheduler(ref.SGD(ref.network().parameters()), loader, ab.schedules.constant())
    with pytest.raises(RuntimeError, match="`prepare` must be called before training begins and before `load_state`"):
        prepare(run.accelerator, loader, batches)


def _two_ranks(rank, world):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29575"}
    ref.quiet()
    folder = Path(os.environ["FOLDER"])
    run = Run(8, prepared=True)
    assert type(run.model).__name__ == "DistributedDataParallel"
    with ref.reductions_of(run.traced) as reduced:
        run.train()
    assert run.own.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    assert run.shown == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(run.traced.net)
    assert len(reduced) == ref.UPDATES
    accelerate.state.AcceleratorState._reset_state()
    whole = Run(8, 0.3).train(folder / "saved", 37)
    torch.manual_seed(5 + rank)
    accelerate.state.AcceleratorState._reset_state()
    resumed = Run(8, 0.3)
    resumed.accelerator.load_state(str(folder / "saved"))
    resumed.train()
    assert torch.equal(ref.weights(whole.traced), ref.weights(resumed.traced))


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks_train_the_same_and_reduce_once_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    on_ranks(2, _two_ranks)
