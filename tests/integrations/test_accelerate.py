"""Accelerate with a growing batch: passes, LRs and weights against those computed by hand; resumes bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.integrations import reference as ref
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import TensorDataset

import adabatch as ab

pytest.importorskip("accelerate")
import accelerate

from adabatch.integrations.accelerate import grow, prepare

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _fresh():
    accelerate.state.AcceleratorState._reset_state(True)


class Run:
    """A script that trains with Accelerate."""

    def __init__(self, micro=ref.BASE, dropout=0.0, *, prepared=False, wrapped=False, **more):
        self.accelerator = accelerate.Accelerator(cpu=True, **more)
        self.traced = ref.Traced(dropout)
        self.own = optimizer = ref.SGD(self.traced.parameters())
        self.lr = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=ref.BASE_UPDATES)
        self.loader = ab.DataLoader(
            TensorDataset(*ref.data()), batch_size=ref.BASE, shuffle=True, seed=ref.SEED, micro_batch_size=micro
        )
        self.model, self.optimizer = self.accelerator.prepare(self.traced, optimizer)
        driven = self.optimizer if wrapped else optimizer
        self.batches = ab.BatchSizeScheduler(driven, self.loader, ref.growth(), epochs=ref.EPOCHS)
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


def test_accelerates_wrapper_of_an_optimizer_is_as_good_as_the_optimizer():
    run = Run(wrapped=True).train()
    assert run.own.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(run.traced.net)
    with pytest.raises(ValueError, match="`optimizer` must have one BatchSizeScheduler, this SGD has one already"):
        ab.BatchSizeScheduler(run.own, ab.DataLoader(range(4)), ab.schedules.constant())


def test_an_optimizer_is_named_once_with_and_without_its_wrapper():
    run = Run()
    run.batches.close()
    with pytest.raises(ValueError, match="`optimizer` must be one or a list of different ones"):
        ab.BatchSizeScheduler([run.own, run.optimizer], run.loader, ref.growth())


def test_accelerates_wrapper_of_an_lr_scheduler():
    run = Run()
    wrapped = run.accelerator.prepare(torch.optim.lr_scheduler.StepLR(run.own, 3))
    with pytest.raises(TypeError, match=r"got AcceleratedScheduler; give the one inside, `lr_scheduler.scheduler`"):
        ab.by_samples(wrapped, run.loader)


def test_first_batches_are_not_skipped():
    """Neither by the Accelerator nor by the function, whose loader of torch's would not grow."""
    run = Run()
    remedy = "loop over the loader as it is: `accelerator.load_state` puts it where it was, within an epoch too"
    with pytest.raises(
        RuntimeError, match=f"`skip_first_batches` must not be given a loader whose batches grow; {remedy}"
    ):
        run.accelerator.skip_first_batches(run.loader, 2)
    other = torch.utils.data.DataLoader(range(6), 2)
    assert len(list(run.accelerator.skip_first_batches(other, 1))) == 2
    skipped = accelerate.skip_first_batches(run.loader, 2)
    with pytest.raises(TypeError, match=r"`loader` must be an ab.DataLoader, .*; leave `skip_first_batches` out"):
        ab.accumulate(skipped, run.model)
    batch = next(iter(skipped))
    ref.loss_of(run.model, *batch).backward()
    run.optimizer.step()
    with pytest.raises(RuntimeError, match="another loader is iterated, such as one that `skip_first_batches` made of"):
        run.batches.step()
    with pytest.raises(
        RuntimeError, match=f"`batch_sampler` must not be taken of a loader whose batches grow; {remedy}"
    ):
        accelerate.skip_first_batches(Grown().loader, 2)


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


class Grown:
    """A script of Accelerate's own kind, which knows of no growth but by one line."""

    def __init__(
        self, batch_size=ref.BASE, dropout=0.0, *, steps=ref.BASE_UPDATES, workers=0, accumulates=False, **more
    ):
        self.accelerator = accelerator = accelerate.Accelerator(cpu=True, **more)
        self.traced = ref.Traced(dropout)
        self.own = ref.SGD(self.traced.parameters())
        lr = torch.optim.lr_scheduler.LinearLR(self.own, 1.0, 0.0, total_iters=steps)
        data = torch.utils.data.DataLoader(
            TensorDataset(*ref.data()), batch_size=batch_size, shuffle=True, num_workers=workers
        )
        self.model, self.optimizer, data, self.lr = accelerator.prepare(self.traced, self.own, data, lr)
        self.loader = grow(accelerator, self.model, self.optimizer, data, self.lr, ref.growth(), epochs=ref.EPOCHS)
        self.accumulates = accumulates
        self.shown, self.clipped, self.turns = [], 0, []

    def pass_of(self, batch, save, at):
        self.accelerator.backward(ref.loss_of(self.model, *batch))
        if self.accelerator.sync_gradients:
            self.clipped += 1
            self.accelerator.clip_grad_norm_(self.model.parameters(), 1e9)
        self.optimizer.step()
        if self.accelerator.sync_gradients:
            self.shown.append(self.lr.get_last_lr()[0])
        self.lr.step()
        self.optimizer.zero_grad()
        if self.accelerator.sync_gradients and self.clipped == at:
            self.accelerator.save_state(str(save))

    def train(self, save=None, at=None):
        while self.loader.epoch < ref.EPOCHS:
            self.turns.append(len(self.loader))
            for batch in self.loader:
                if self.accumulates:
                    with self.accelerator.accumulate(self.model):
                        self.pass_of(batch, save, at)
                else:
                    self.pass_of(batch, save, at)
            assert self.accelerator.sync_gradients
        return self

    def assert_trained(self):
        ref.assert_trained(self.traced.net, ref.trained(seed=self.loader.seed))


@pytest.mark.parametrize(
    ("batch_size", "more"),
    [
        (16, {}),
        (16, {"accumulates": True}),
        (16, {"split_batches": True}),
        (8, {"gradient_accumulation_steps": 2, "accumulates": True}),
    ],
    ids=["plain", "accumulate", "split", "two steps"],
)
def test_a_loop_that_stays_as_it_is(batch_size, more):
    run = Grown(batch_size, **more).train()
    assert run.traced.passes == ref.micro_sizes(batch_size)
    assert sum(run.turns) == len(run.traced.passes)
    assert run.own.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    assert run.shown == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    assert run.clipped == ref.UPDATES
    run.assert_trained()


def test_it_goes_on_after_a_checkpoint_bit_for_bit_with_dropout(tmp_path):
    whole = Grown(dropout=0.3).train(tmp_path / "saved", 37)
    torch.manual_seed(99)
    resumed = Grown(dropout=0.3)
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    resumed.train()
    assert resumed.clipped == ref.UPDATES - 37
    assert torch.equal(ref.weights(whole.traced), ref.weights(resumed.traced))
    assert whole.shown[37:] == resumed.shown


def test_a_checkpoint_within_a_batch_goes_on_at_its_start(tmp_path):
    run = Grown()
    turns = iter(run.loader)
    for _ in range(32):  # the first epoch
        run.pass_of(next(turns), None, None)
    assert next(turns, None) is None
    turns = iter(run.loader)
    run.pass_of(next(turns), None, None)  # half of a batch
    assert not run.accelerator.sync_gradients
    run.accelerator.save_state(str(tmp_path / "saved"))
    resumed = Grown()
    resumed.accelerator.load_state(str(tmp_path / "saved"))
    resumed.train()
    assert resumed.own.lrs == pytest.approx(ref.LRS[32:], rel=1e-9, abs=1e-12)
    ref.assert_trained(resumed.traced.net, ref.trained(seed=run.loader.seed))


def test_the_loop_may_be_left_and_other_loops_are_accelerates_own():
    run = Grown()
    for batch in run.loader:
        run.pass_of(batch, None, None)
        break
    assert run.loader.batches.plan.update_at(run.loader.loader.clock) == 1
    assert run.accelerator.sync_gradients
    other = torch.nn.Linear(1, 1)
    run.accelerator.backward(other(torch.ones(1, 1)).sum())
    assert other.weight.grad == 1
    with run.accelerator.accumulate(run.model):
        assert run.accelerator.sync_gradients


def test_a_look_that_is_kept_changes_nothing():
    """As in a notebook: its iterator lives on, and ends in the middle of the training."""
    run = Grown()
    turns = iter(run.loader)
    next(turns)
    for number, batch in enumerate(run.loader):
        if number == 3:
            del turns
        run.pass_of(batch, None, None)
    run.train()
    assert run.own.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    run.assert_trained()


def test_a_batch_without_a_step_counts_as_passed():
    run = Grown()
    for number, batch in enumerate(run.loader):
        if number != 3:  # left out whole, as where a loss is no number
            run.pass_of(batch, None, None)
    assert (len(run.own.lrs), run.loader.epoch) == (31, 1)
    assert run.own.lrs[3:5] == pytest.approx([ref.LRS[3], ref.LRS[5]])  # nobody stepped the LR scheduler for it
    with pytest.raises(
        RuntimeError, match=r"`accelerator.backward` must be called once for each .*, 1 of 2 had no such"
    ):
        list(run.loader)


def test_what_a_grown_loop_refuses():
    run = Grown()
    for inputs, targets in run.loader:
        run.accelerator.backward(ref.loss_of(run.model, inputs, targets))
        with pytest.raises(RuntimeError, match=r"`accelerator.backward` must be called once .*; add up the losses"):
            run.accelerator.backward(ref.loss_of(run.model, inputs, targets))
        break
    accelerator, given = run.accelerator, torch.utils.data.DataLoader(range(4))
    for wrong, error, message in (
        ((3, run.model, run.optimizer, given, None, ref.growth()), TypeError, "`accelerator` must be an Accelerator"),
        (
            (accelerator, run.model, run.own, given, None, ref.growth()),
            TypeError,
            "`optimizer` must be one that was prepared",
        ),
        (
            (accelerator, run.model, run.optimizer, given, run.lr.scheduler, ref.growth()),
            TypeError,
            "`lr_scheduler` must be one that was",
        ),
        ((accelerator, run.model, run.optimizer, given, None, 4), TypeError, "`schedule` must be a schedule"),
        (
            (accelerator, run.model, run.optimizer, run.loader, None, ref.growth()),
            ValueError,
            "`loader` must grow once",
        ),
        (
            (accelerator, run.model, run.optimizer, [1], None, ref.growth()),
            TypeError,
            "`loader` must be torch's DataLoader, as",
        ),
    ):
        with pytest.raises(error, match=message):
            grow(*wrong)
    formed = torch.utils.data.DataLoader(range(4), batch_sampler=[[0, 1], [2, 3]])
    with pytest.raises(ValueError, match=r"`loader` must form its batches of a sampler, .*, got one with a list"):
        grow(accelerator, run.model, run.optimizer, formed, None, ref.growth())


def test_a_call_that_failed_can_be_repeated():
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(ref.Traced(), torch.optim.AdamW(ref.network().parameters()))
    data = torch.utils.data.DataLoader(TensorDataset(*ref.data()), batch_size=8)
    with pytest.raises(ValueError, match="`coupling` 'linear' was derived for"):
        grow(accelerator, model, optimizer, data, None, ref.growth())
    trained = ab.DataLoader(TensorDataset(*ref.data()), batch_size=16)
    list(trained)
    with pytest.raises(RuntimeError, match="`prepare` must be called before training begins"):
        grow(accelerator, model, optimizer, trained, None, ab.schedules.constant(), coupling="sqrt")
    assert accelerator.gradient_accumulation_steps == 2
    assert grow(accelerator, model, optimizer, data, None, ref.growth(), coupling="sqrt").batch_size == 16


def test_without_an_lr_scheduler_and_with_a_loader_of_ours():
    accelerator, traced = accelerate.Accelerator(cpu=True), ref.Traced()
    own = ref.SGD(traced.parameters())
    model, optimizer = accelerator.prepare(traced, own)
    given = ab.DataLoader(TensorDataset(*ref.data()), batch_size=16, shuffle=True, seed=ref.SEED, micro_batch_size=8)
    loader = grow(accelerator, model, optimizer, given, None, ref.growth(), epochs=ref.EPOCHS)
    for _ in range(ref.EPOCHS):
        for inputs, targets in loader:
            accelerator.backward(ref.loss_of(model, inputs, targets))
            optimizer.step()
            optimizer.zero_grad()
    assert traced.passes == ref.micro_sizes(8)
    assert own.lrs == pytest.approx([ref.LR * min(size, 16 * 2**e) / 16 for e, size in _requested()])


def _requested():
    return [(epoch, 16 * 2**epoch) for epoch, _, _ in ref.batches()]


def _counted(reduced, bucket):
    reduced.append(bucket.buffer().numel())
    return allreduce_hook(None, bucket)


def _two_ranks_of_a_loop_that_stays(rank, world):
    accelerate.state.AcceleratorState._reset_state(True)
    passes = 4 * 63  # of 8 samples: what an LR scheduler counts that is stepped once for each process
    run = Grown(8, steps=passes)
    reduced = []
    run.model.register_comm_hook(reduced, _counted)
    run.train()
    assert run.traced.passes == ref.micro_sizes(8, world, rank)
    ref.lr_at = lambda clock, size: ref.LR * (1 - (63 * (clock // ref.N) + clock % ref.N // 8) / passes) * (size / 16)
    expected = [lr for _, _, lr in ref.batches()]
    assert run.own.lrs == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert run.shown == pytest.approx(expected, rel=1e-9, abs=1e-12)
    run.assert_trained()
    assert len(reduced) == ref.UPDATES


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
    on_ranks(2, _two_ranks, _two_ranks_of_a_loop_that_stays)
