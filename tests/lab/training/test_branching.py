"""Runs under a policy that asks for branches: what a branch is, and that it leaves no trace."""

from __future__ import annotations

import copy
import errno
import json
import math
import signal
from dataclasses import replace

import pytest
import torch
from tests.lab.training.checks import same, small_data, weights, without_seconds
from tests.lab.training.test_loop_resume import interrupted_at

import adabatch as ab
from adabatch.lab import models
from adabatch.lab.training import Interrupted, RunConfig, checkpoint, reporting, saved_result, train
from adabatch.lab.training.branching import Branching, cooled
from adabatch.lab.training.device import pick_device
from adabatch.lab.training.folder import RunFolder
from adabatch.lab.training.records import decision_of
from adabatch.lab.training.setup import Setup
from adabatch.types import Decision, Fork

EVERY = 300  # samples, of 1,500
BRANCHED = RunConfig.for_task(
    "digits", model="mlp", batch_size=8, policy="branch:0.01,every=0.2,window=0.05,measure-every=1", max_batch_size=32,
    epochs=5, lr=0.02, lr_schedule="step:0.5:2", evaluate_every="13 updates", device="cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def report_every_update(monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)


def told(monkeypatch, loss):
    """Lets branches end with a loss of `loss(fork, size, order)`, after they were trained."""
    trained = Branching._loss

    def instead(self, run, fork, size, order, look):
        trained(self, run, fork, size, order, look)
        return loss(fork, size, order)

    monkeypatch.setattr(Branching, "_loss", instead)


def harmful(fork, size, order):
    """Branches that are worse at the larger size."""
    return 1.0 + (size > fork.batch_size) + order / 1e6


def grows_at(*clocks):
    """Branches that show no harm at these clocks alone."""
    return lambda fork, size, order: 1.0 + (size > fork.batch_size and fork.clock not in clocks) + order / 1e6


def hurt(fork, size, order):
    """Branches that show no harm at the first place, and harm once the batch has grown."""
    return (1.0 if fork.clock <= EVERY else 1.0 + size) + order / 1e6


def without_reasons(result):
    """A result without what time and the policy's words decide."""
    values = without_seconds(result)
    for found in values["history"]:
        found.pop("decided")
    values.pop("decisions")
    return values


# What a branch is.


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("size", [8, 16])
def test_a_branch_is_a_short_training_with_a_cooldown(optimizer, size):
    data, settings = small_data(), {"optimizer": optimizer, "lr": 0.02 if optimizer == "sgd" else 1e-3}
    setup = Setup(
        replace(BRANCHED, **settings, coupling="linear" if optimizer == "sgd" else "sqrt"), data, pick_device("cpu")
    )
    for micro in ab.accumulate(setup.loader, setup.wrapped):
        with micro as (inputs, targets):
            (setup.loss(setup.forward(inputs), targets) * micro.weight).backward()
        if micro.is_last:
            setup.optimizer.step()
            setup.optimizer.zero_grad()
            setup.batches.step()
    before = checkpoint.copied(setup.state_dict())
    fork = Fork(300, 8, "", sizes=(8, 16), window=96, orders=(4,))
    losses = []
    found = Branching(setup.config.schedule(), samples=1500)._loss(setup, fork, size, 4, lambda: losses.append(1))
    assert same(before, setup.state_dict()), "the run must stay as it was"
    assert len(losses) >= 96 // size

    model = copy.deepcopy(setup.model)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    own = kind(model.parameters(), **({"momentum": setup.config.momentum} if optimizer == "sgd" else {}), lr=0.1)
    own.load_state_dict({**own.state_dict(), "state": copy.deepcopy(before["optimizer"])})
    own.param_groups[0]["weight_decay"] = setup.config.weight_decay
    loader = ab.DataLoader(data.dataset, size, shuffle=True, seed=0)
    loader.load_state_dict({**loader.state_dict(), "clock": (2**20 + 4 * 2**8) * 300})
    ratio = size / 8
    for number, (inputs, targets) in enumerate(loader):
        if number * size == 96:
            break
        share = min(1.0, (96 - (number + 0.5) * size) / 48)
        own.param_groups[0]["lr"] = settings["lr"] * (ratio if optimizer == "sgd" else math.sqrt(ratio)) * share
        own.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        own.step()
    expected = torch.nn.functional.cross_entropy(model(data.x_train), data.y_train).item()
    assert found == pytest.approx(expected, rel=1e-3)
    setup.close_tap()


def test_the_cooldown_takes_half_a_window():
    assert [cooled(passed, 8) for passed in range(9)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize("updates", [4, 8, 10, 32])
def test_the_lr_times_the_samples_is_the_same_at_every_size(updates):
    size = 640 // updates
    assert sum(size * cooled((number + 0.5) * size, 640) for number in range(updates)) == pytest.approx(480)


# A run.


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    """The result and the folder of a run under a policy that never asks for branches, and never grows."""
    out = tmp_path_factory.mktemp("never")
    return train(replace(BRANCHED, policy="noise-scale:1e-9,measure-every=1"), out, data=small_data()), out


def test_branches_leave_no_trace(monkeypatch, tmp_path, never):
    told(monkeypatch, harmful)
    result = train(BRANCHED, tmp_path, data=small_data())
    assert same(weights(tmp_path), weights(never[1]))
    assert without_reasons(result) == without_reasons(never[0])
    assert result.train_seconds > 1.05 * result.samples / result.samples_per_second[8], "branches take time"
    assert "100.00 % higher" in result.history[-1].decided
    assert result.history[-1].decided.endswith(": stays")


def test_real_branches_decide_on_evidence(tmp_path):
    result = train(replace(BRANCHED, policy="branch:0.9,every=0.2,window=0.2"), tmp_path, data=small_data())
    assert result.decisions, "nearly any size is tolerated"
    for each in result.decisions:
        assert [len(row) for row in each.observation.branches] == [4, 4]
        assert all(0 < loss < 10 for row in each.observation.branches for loss in row)
        assert f": grows to {each.batch_size}" in each.reason
    assert saved_result(tmp_path) == result


def test_growth_holds_from_its_place(monkeypatch, tmp_path):
    told(monkeypatch, grows_at(EVERY, 3 * EVERY))
    result = train(BRANCHED, tmp_path, data=small_data())
    assert [(each.clock, each.batch_size) for each in result.decisions] == [(EVERY, 16), (3 * EVERY, 32)]
    lines = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert tuple(map(decision_of, lines)) == result.decisions
    assert result.batch_sizes == (8, 16, 32)
    assert result.decisions[0].observation.noise.noise_scale != 0


@pytest.mark.parametrize(("every", "place", "found"), [(0.2, EVERY, 600), (0.13, 200, 396)])  # 200: in an epoch
def test_a_growth_that_hurt_is_taken_back(monkeypatch, tmp_path, never, every, place, found):
    told(monkeypatch, hurt)
    result = train(replace(BRANCHED, policy=f"branch:0.01,every={every},window=0.05,measure-every=1"), tmp_path,
                   data=small_data())  # fmt: skip
    growth, back = result.decisions
    assert (growth.clock, growth.batch_size) == (place, 16)
    assert (back.clock, back.batch_size) == (place, 8)
    assert f"% higher or more than before at sample {found}, after the growth to 16: back to 8" in back.reason
    assert same(weights(tmp_path), weights(never[1])), "it goes on as if it had never grown"
    assert without_reasons(result) == without_reasons(never[0])
    assert saved_result(tmp_path) == result
    assert result.train_seconds > 1.05 * result.samples / result.samples_per_second[8], "what was lost took time"
    best = checkpoint.read(tmp_path / "checkpoints" / "best.pt")
    assert best["parts"]["loader"]["clock"] in {found.samples for found in result.history}


KINDS = {
    "batch norm": (torch.nn.BatchNorm2d(1), {}),
    "batch norm of the last batch": (torch.nn.BatchNorm2d(1), {"last_batch_norm": True}),
    "dropout": (torch.nn.Dropout(0.3), {}),
    "betas that follow": (None, {"optimizer": "adam", "lr": 1e-3, "coupling": "adam_sde"}),
    "momentum that follows": (None, {"optimizer": "nesterov", "coupling": "constant_noise(maximum_lr_factor=1.5)"}),
    "micro-batches": (None, {"micro_batch_size": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_run_keeps_is_as_before_its_growth(kind, monkeypatch, tmp_path):
    """Statistics of batch norm, the optimizer's moments, what a coupling changes, and random numbers."""
    first, settings = KINDS[kind]
    if first is not None:
        build = models.build
        monkeypatch.setattr(
            models, "build", lambda *name, **shape: torch.nn.Sequential(copy.deepcopy(first), build(*name, **shape))
        )
    config = replace(BRANCHED, epochs=3, **settings)
    expected = train(replace(config, policy="noise-scale:1e-9,measure-every=1"), tmp_path / "never", data=small_data())
    told(monkeypatch, hurt)
    config = replace(config, policy="branch:0.01,every=0.3334,window=0.09,measure-every=1")
    result = train(config, tmp_path / "hurt", data=small_data())
    assert [each.batch_size for each in result.decisions] == [16, 8]
    assert same(weights(tmp_path / "hurt"), weights(tmp_path / "never"))
    assert without_reasons(result) == without_reasons(expected)


def test_it_goes_back_without_a_folder(monkeypatch, never):
    told(monkeypatch, hurt)
    result = train(BRANCHED, data=small_data())
    assert without_reasons(result) == without_reasons(never[0])
    assert [each.batch_size for each in result.decisions] == [16, 8]


@pytest.mark.filterwarnings("ignore:.noise.tap. leaves out the batch")
def test_a_run_that_diverges_after_a_growth_goes_back(monkeypatch, tmp_path):
    told(monkeypatch, grows_at(EVERY))
    config = replace(
        BRANCHED, policy="branch:0.01,every=0.2,window=0.05,factor=30", max_batch_size=240, coupling="power(5)"
    )
    result = train(config, tmp_path, data=small_data())
    assert [each.batch_size for each in result.decisions] == [240, 8]
    assert result.decisions[1].reason.startswith("a loss was not finite at sample ")
    assert not result.diverged
    assert result.samples == 5 * 300
    assert saved_result(tmp_path) == result


@pytest.mark.parametrize("update", [3, 30, 38, 45, 60, 90, 120])
def test_bit_for_bit_from_any_update(monkeypatch, tmp_path, update):
    told(monkeypatch, hurt)
    config = replace(BRANCHED, policy="branch:0.01,every=0.13,window=0.05,measure-every=1") if update % 2 else BRANCHED
    expected = train(config, tmp_path / "unbroken", data=small_data())
    interrupted_at(update, config, tmp_path / "broken")
    torch.manual_seed(99)  # whatever the process did before
    result = train(config, tmp_path / "broken", data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


def test_an_interrupt_while_branches_are_trained(monkeypatch, tmp_path):
    told(monkeypatch, grows_at(200))
    config = replace(BRANCHED, policy="branch:0.01,every=0.13,window=0.05,measure-every=1")
    expected = train(config, tmp_path / "unbroken", data=small_data())
    assert expected.decisions

    def stop(now):
        if now.note is not None and "branches of" in now.note:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, tmp_path / "broken", data=small_data(), progress=stop)
    kept = checkpoint.read(tmp_path / "broken" / "checkpoints" / "last.pt")
    assert kept["parts"]["loader"]["clock"] == 200
    assert kept["seconds_beside"] > 0
    result = train(config, tmp_path / "broken", data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)


@pytest.mark.parametrize("name", ["previous", "best"])
def test_it_goes_back_after_a_resume_from_an_earlier_checkpoint(monkeypatch, tmp_path, name):
    told(monkeypatch, hurt)
    expected = train(BRANCHED, tmp_path / "unbroken", data=small_data())

    def stop(now):
        if now.samples >= 400:  # after the growth
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(BRANCHED, tmp_path / "broken", data=small_data(), progress=stop)
    result = train(BRANCHED, tmp_path / "broken", data=small_data(), resume=True, resume_from=name)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


@pytest.mark.parametrize("call", ["log", "save"])
def test_a_disk_that_is_full_on_the_way_back(call, monkeypatch, tmp_path):
    """What was saved before stays, and a resume goes the same way."""
    told(monkeypatch, hurt)
    expected = train(BRANCHED, tmp_path / "unbroken", data=small_data())
    write = getattr(RunFolder, call)

    def full(self, given, **more):
        if (isinstance(given, Decision) and given.batch_size == 8) or getattr(given, "decisions", 0) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, call, full)
        with pytest.raises(OSError, match="No space left"):
            train(BRANCHED, tmp_path / "broken", data=small_data())
    result = train(BRANCHED, tmp_path / "broken", data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


def test_a_growth_that_drops_the_rest_of_an_epoch(monkeypatch, tmp_path):
    """An evaluation comes just before it, and nothing is trained until the next one is due."""
    told(monkeypatch, grows_at(280))
    policy = "branch:0.01,every=0.185,window=0.05,factor=4"
    config = replace(BRANCHED, policy=policy, drop_last=True, evaluate_every="280 samples", lr_schedule="constant")
    result = train(config, tmp_path, data=small_data())
    assert [(each.clock, each.batch_size) for each in result.decisions] == [(280, 32)]
    assert all(found.train_loss for found in result.history)


def test_bad_settings():
    assert Branching(BRANCHED.schedule(), samples=1500).next_clock == EVERY
    with pytest.raises(ValueError, match=r"`policy` branch: `tolerance` must be greater than 0"):
        replace(BRANCHED, policy="branch:0")
    with pytest.raises(ValueError, match=r"`compile` must not be given under the policy branch:0.01"):
        replace(BRANCHED, compile=True, drop_last=True)
    with pytest.raises(
        ValueError, match=r"`optimizer` must not be given under .*, got 'rmsprop-warmup'; take one whose"
    ):
        replace(BRANCHED, optimizer="rmsprop-warmup")
    with pytest.raises(
        ValueError, match=r"`policy` must be given with the coupling adascale, .*, got branch, which deci"
    ):
        replace(BRANCHED, coupling="adascale")
    with pytest.raises(ValueError, match=r"`policy` branch:0.01.* must come with a data set in memory, .*, got digits"):
        Setup(BRANCHED, replace(small_data(), files=object()), pick_device("cpu"))
    steep = replace(BRANCHED, optimizer="adam", lr=1e-3, coupling="adam_sde", batch_size=4, max_batch_size=256)
    with pytest.raises(
        ValueError, match=r"`ratio` must keep 1 - ratio \* \(1 - beta\)"
    ):  # not at a growth, hours later
        Setup(steep, small_data(), pick_device("cpu"))
