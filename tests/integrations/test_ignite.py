"""Ignite with a growing batch: passes, LRs and weights against those computed by hand; resumes bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.integrations import reference as ref
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab

pytest.importorskip("ignite")
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

from adabatch.integrations.ignite import Place, run


class Training:
    """A script that trains with Ignite."""

    def __init__(self, micro=None, dropout=0.0, *, wrap=False):
        self.traced = ref.Traced(dropout)
        self.model = DistributedDataParallel(self.traced) if wrap else self.traced
        self.optimizer = ref.SGD(self.traced.parameters())
        self.lr = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=ref.BASE_UPDATES)
        self.loader = ab.DataLoader(
            TensorDataset(*ref.data()), batch_size=ref.BASE, shuffle=True, seed=ref.SEED, micro_batch_size=micro
        )
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, ref.growth(), epochs=ref.EPOCHS)
        self.by_samples = ab.by_samples(self.lr, self.loader)
        self.place = Place(self.loader, self.batches)
        self.engine = Engine(self.step)
        self.events = []
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self.note)

    def note(self, engine):
        self.events.append((engine.state.epoch, engine.state.iteration))

    def step(self, engine, batch):
        self.optimizer.zero_grad()
        if isinstance(batch, list | tuple):
            ref.loss_of(self.model, *batch).backward()
        else:
            for micro in batch:
                with micro as data:
                    (ref.loss_of(self.model, *data) * micro.weight).backward()
        self.optimizer.step()
        self.by_samples.step()

    def run(self):
        self.state = run(self.engine, self.loader, self.batches, model=self.model, place=self.place)
        return self

    def states(self):
        return {
            "model": self.traced, "optimizer": self.optimizer, "lr": self.lr, "by_samples": self.by_samples,
            "place": self.place,
        }  # fmt: skip


@pytest.mark.parametrize("micro", [None, 16])
def test_passes_lrs_and_weights_are_those_computed_by_hand(micro):
    training = Training(micro).run()
    assert training.traced.passes == (ref.SIZES if micro is None else ref.micro_sizes(micro))
    assert training.optimizer.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(training.traced.net)
    assert (training.state.iteration, training.state.epoch) == (ref.UPDATES, ref.EPOCHS)
    assert training.events == [(1, 32), (2, 48), (3, 56), (4, 60)]


@pytest.mark.parametrize("micro", [None, 16])
@pytest.mark.parametrize("step", [20, 37, 48])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit_with_dropout(tmp_path, micro, step):
    whole = Training(micro, 0.3)
    saver = Checkpoint(whole.states(), DiskSaver(str(tmp_path)), n_saved=None)
    whole.engine.add_event_handler(Events.ITERATION_COMPLETED(once=step), saver)
    torch.manual_seed(3)
    whole.run()
    torch.manual_seed(99)
    resumed = Training(micro, 0.3)
    state = torch.load(next(tmp_path.iterdir()), weights_only=True)
    Checkpoint.load_objects(resumed.states(), state)
    resumed.run()
    assert torch.equal(ref.weights(whole.traced), ref.weights(resumed.traced))
    assert resumed.events == [each for each in whole.events if each[1] > step]
    assert sum(resumed.traced.passes) == sum(ref.SIZES[step:])


def test_a_terminated_run_goes_on():
    training = Training()
    training.engine.add_event_handler(Events.ITERATION_COMPLETED(once=37), lambda engine: engine.terminate())
    training.run()
    assert training.traced.passes == ref.SIZES[:37]
    training.loader.load_state_dict(training.loader.state_dict())  # else the rest of the epoch would be left out
    training.run()
    assert training.traced.passes == ref.SIZES
    ref.assert_trained(training.traced.net)
    assert training.run().state.iteration == ref.UPDATES  # nothing is left


@pytest.mark.parametrize("micro", [None, 16])
@pytest.mark.parametrize("step", [20, 37])
def test_an_interrupted_run_goes_on(micro, step):
    training = Training(micro)
    training.engine.add_event_handler(Events.ITERATION_COMPLETED(once=step), lambda engine: engine.interrupt())
    training.run()
    assert sum(training.traced.passes) == sum(ref.SIZES[:step])
    training.run()
    assert sum(training.traced.passes) == sum(ref.SIZES)
    assert training.events == [(1, 32), (2, 48), (3, 56), (4, 60)]
    assert training.optimizer.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(training.traced.net)


def test_a_resumed_run_has_the_weights_computed_by_hand(tmp_path):
    whole = Training()
    saver = Checkpoint(whole.states(), DiskSaver(str(tmp_path)), n_saved=None)
    whole.engine.add_event_handler(Events.ITERATION_COMPLETED(once=37), saver)
    whole.run()
    resumed = Training()
    Checkpoint.load_objects(resumed.states(), torch.load(next(tmp_path.iterdir()), weights_only=True))
    resumed.run()
    assert resumed.optimizer.lrs == pytest.approx(ref.LRS[37:], rel=1e-9, abs=1e-12)
    ref.assert_trained(resumed.traced.net)


def test_the_rest_of_an_epoch_that_was_left_is_passed():
    training = Training()
    training.engine.add_event_handler(Events.ITERATION_COMPLETED(once=37), lambda engine: engine.terminate())
    training.run().run()
    assert training.traced.passes == ref.SIZES[:37] + ref.SIZES[48:]
    assert training.events == [(1, 32), (3, 45), (4, 49)]


def test_the_engine_has_its_own_handlers_after_a_run():
    training = Training()
    before = training.engine._process_function
    training.run()
    assert training.engine._process_function == before
    assert not training.engine.has_event_handler(run, Events.EPOCH_STARTED)


def test_bad_input():
    training = Training()
    with pytest.raises(TypeError, match=r"`engine` must be an ignite Engine, got int"):
        run(3, training.loader, training.batches)
    with pytest.raises(TypeError, match=r"`batches` must be an ab.BatchSizeScheduler"):
        run(training.engine, training.loader, training.lr)
    with pytest.raises(ValueError, match=r"`loader` must be the loader that `batches` drives, got DataLoader"):
        run(training.engine, torch.utils.data.DataLoader(range(4)), training.batches)
    loader = ab.DataLoader(TensorDataset(*ref.data()), batch_size=ref.BASE)
    batches = ab.BatchSizeScheduler(ref.SGD(ref.network().parameters()), loader, ref.growth())
    with pytest.raises(
        ValueError, match=r"`epochs` must be known, .*; give `epochs=` here or to the BatchSizeScheduler"
    ):
        run(training.engine, loader, batches)
    batches.close()
    batches = ab.BatchSizeScheduler(ref.SGD(ref.network().parameters()), loader)
    with pytest.raises(
        ValueError, match=r"`batches` must have a schedule, since .*; where the sizes to come are open, wr"
    ):
        run(training.engine, loader, batches)
    del training.engine._init_iter
    with pytest.raises(TypeError, match=r"`engine` must have `_init_iter`, .*; install pytorch-ignite 0.5"):
        run(training.engine, training.loader, training.batches)


def _two_ranks(rank, world):
    ref.quiet()
    folder = Path(os.environ["FOLDER"])
    training = Training(8, wrap=True)
    with ref.reductions_of(training.traced) as reduced:
        training.run()
    assert training.optimizer.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(training.traced.net)
    assert len(reduced) == ref.UPDATES

    whole = Training(8, 0.3, wrap=True)
    kept = {}

    def keep(engine):
        kept.update({name: each.state_dict() for name, each in whole.states().items()})
        torch.save(kept, folder / f"{rank}.pt")

    whole.engine.add_event_handler(Events.ITERATION_COMPLETED(once=37), keep)
    torch.manual_seed(3 + rank)
    whole.run()
    torch.manual_seed(99 + rank)
    resumed = Training(8, 0.3, wrap=True)
    for name, state in torch.load(folder / f"{rank}.pt", weights_only=True).items():
        resumed.states()[name].load_state_dict(state)
    resumed.run()
    assert torch.equal(ref.weights(whole.traced), ref.weights(resumed.traced))


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks_train_the_same_and_reduce_once_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    on_ranks(2, _two_ranks)
