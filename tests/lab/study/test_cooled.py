"""Cooled curves: the base training as if nothing branched off, the same curve after any interruption."""

from __future__ import annotations

import math
import signal
import warnings
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lab.study.studies import grid, without_seconds
from tests.lab.training.checks import same, small_data, weights

from adabatch.lab import training
from adabatch.lab.study import cooled
from adabatch.lab.study.curve import CurvePoint
from adabatch.lab.study.grid import Case, checkpoints, cooldown
from adabatch.lab.study.trainee import Trainee
from adabatch.lab.tasks import Data
from adabatch.lab.training.interrupt import Interrupted
from adabatch.lab.training.setup import Setup


def job_of(study=None, *, size=10, rule="linear", fraction=1.0, **more):
    case = Case(model="mlp", fraction=fraction, rule=rule, batch_size=size)
    return (study or grid()).job(case, **{"seed": 0, **more})


def trained(job=None, study=None, **more):
    study = study or grid()
    return cooled.train(job or job_of(study), study, small_data(), **more)


@pytest.fixture(scope="module")
def unbroken():
    return without_seconds(trained())


def test_a_curve_has_a_point_at_each_checkpoint(unbroken):
    assert [point.updates for point in unbroken.points] == checkpoints(base_updates=60, updates=60)
    assert all(point.samples == 10 * point.updates for point in unbroken.points)
    assert unbroken.stopped == "budget"
    assert unbroken.points[-1].test_loss < 0.7 * unbroken.points[0].test_loss


def test_the_linear_approximation_is_judged_once_at_the_end_of_the_base_budget(unbroken, monkeypatch):
    assert unbroken.linear_approximation_error > 0
    asked = []

    def noted(self, batch_size, *, lr, ratio):
        asked.append((self.updates, batch_size, lr, ratio))
        return 0.5

    monkeypatch.setattr(Trainee, "linear_approximation_error", noted)
    assert trained(job_of(size=30, epochs=4)).linear_approximation_error == 0.5
    assert asked == [(20, 30, 0.02, 3.0)]
    assert trained(job_of(searches=True)).linear_approximation_error is None


def test_branches_leave_the_training_as_it_is(tmp_path, monkeypatch):
    """In float64 the weights after an epoch are those of `training.train` at a constant LR, bit for bit."""
    study = grid(base=replace(grid().base, precision="float64"))
    job, found = job_of(study, size=30, rule="constant"), []
    update = Trainee._update

    def noted(self, batch_size, lr):
        update(self, batch_size, lr)
        if self.updates == 10 and lr == job.lr:
            found.append({name: value.clone() for name, value in self.setup.model.state_dict().items()})

    monkeypatch.setattr(Trainee, "_update", noted)
    before = [point.updates for point in cooled.train(job, study, small_data()).points if point.updates < 10]
    training.train(replace(study.config(job), epochs=1), tmp_path / "run", data=small_data())
    assert len(before) > 5, "branches"
    assert found
    assert all(same(each, weights(tmp_path / "run")) for each in found)


def naive(job, study):
    """The curve, each point trained anew from the start."""
    found = []
    size, device = job.batch_size, torch.device("cpu")
    base = study.epochs * (300 // size)
    warm = round(0.05 * base) if job.lr > study.base.lr else 0
    for total in checkpoints(base_updates=base, updates=job.epochs * (300 // size)):
        setup = Setup(study.config(job), small_data(), device)
        cool, update = cooldown(total), 0
        while update < total:
            for inputs, targets in setup.loader:
                held = min(update, total - cool)
                lr = job.lr if held >= warm else study.base.lr + (job.lr - study.base.lr) * held / warm
                if update > total - cool:
                    lr *= (total - update) / cool
                for group in setup.optimizer.param_groups:
                    group["lr"] = lr
                setup.optimizer.zero_grad()
                setup.loss(setup.forward(inputs), targets).backward()
                setup.optimizer.step()
                setup.batches.step()
                update += 1
                if update == total:
                    break
        found.append(CurvePoint(total, total * size, 0.0, setup.evaluate(of_training=True)[0], setup.evaluate()[0]))
    return found


@pytest.mark.parametrize("size", [10, 30])
def test_a_curve_is_that_of_trainings_from_the_start(size):
    study = grid(base=replace(grid().base, precision="float64"))
    job = job_of(study, size=size)
    found = without_seconds(trained(job, study))
    for mine, theirs in zip(found.points, naive(job, study), strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[3:] == pytest.approx(theirs[3:], rel=1e-12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@settings(max_examples=8, deadline=None)
@given(stops=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_an_interrupted_training_goes_on_to_the_same_curve(number, stops, unbroken, tmp_path_factory):
    """A signal at any update: of the training itself, of a cooldown, twice, at once after going on."""
    state = tmp_path_factory.mktemp("states") / "state.pt"
    update = Trainee._update
    left, numbers = [stops[0]], {number}

    def interrupted(self, batch_size, lr):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(number)
        update(self, batch_size, lr)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainee, "_update", interrupted)
        for stop in stops:
            left[0] = stop
            try:
                found = trained(state=state)
            except Interrupted as error:
                numbers.add(error.number)
            else:
                assert without_seconds(found) == unbroken
    assert without_seconds(trained(state=state)) == unbroken
    assert numbers == {number}


def test_points_survive_a_kill_between_them(tmp_path, unbroken, monkeypatch):
    state, measured = tmp_path / "state.pt", []

    class KilledError(Exception):
        pass

    def stop(now):
        if now.point is not None:
            measured.append(now.point)
            if len(measured) == 3:
                raise KilledError

    with pytest.raises(KilledError):
        trained(state=state, progress=stop)
    assert without_seconds(trained(state=state, progress=stop)) == unbroken
    assert [point.updates for point in measured] == [point.updates for point in unbroken.points], "none is done again"


def test_a_larger_budget_adds_points_and_changes_none(tmp_path, unbroken):
    state = tmp_path / "state.pt"
    trained(state=state)
    longer = without_seconds(trained(job_of(epochs=4), state=state))
    assert longer.points[: len(unbroken.points)] == unbroken.points
    assert longer.points[-1].updates == 120
    assert longer == without_seconds(trained(job_of(epochs=4))), "as if it had been trained in one"
    assert without_seconds(trained(state=state)) == unbroken, "a state beyond the budget is not used"


def test_a_state_of_another_training_is_not_used(tmp_path, unbroken):
    state = tmp_path / "state.pt"
    trained(job_of(seed=1), state=state)
    assert without_seconds(trained(state=state)) == unbroken


@pytest.mark.parametrize("harm", ["cut", "text", "moments", "place"])
def test_a_damaged_state_is_trained_anew(harm, tmp_path, unbroken):
    state = tmp_path / "state.pt"
    with pytest.raises(KeyError):
        trained(state=state, progress=lambda now: {}["stop"] if now.point and now.updates > 20 else None)
    if harm == "cut":
        state.write_bytes(state.read_bytes()[:-1000])
    elif harm == "text":
        state.write_text("nothing")
    else:
        content = torch.load(state, weights_only=True)
        if harm == "moments":
            content["state"]["optimizer"][0]["momentum_buffer"] = torch.zeros(3)
        else:
            content["state"]["loader"] = {}
        torch.save(content, state)
    with pytest.warns(UserWarning, match=r"state.pt is damaged; its training begins anew"):
        assert without_seconds(trained(state=state)) == unbroken


def test_a_state_for_which_there_is_no_space(tmp_path):
    """A limit on the size of files stands for a full disk; torch's own error would say nothing about one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        words = r"`out` must be a folder that can be written, got .* \(File too large"
        with pytest.raises(OSError, match=words), training.writing(tmp_path):
            trained(state=tmp_path / "state.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_tells_after_each_chunk(monkeypatch):
    monkeypatch.setattr(cooled, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr("adabatch.lab.training.setup.chunk_of", lambda shape: 25)
    told = []
    found = trained(progress=told.append)
    between = [now.updates for now in told if now.point is None and now.samples_per_second == 0]
    bases = [point.updates - cooldown(point.updates) for point in found.points]
    chunks = 300 // 25 + 100 // 25
    assert between == [0, *(base for base in bases for _ in range(chunks))], "once before the first update"


# When it stops.


def test_it_stops_where_both_targets_were_reached(unbroken):
    losses = [(point.train_loss, point.test_loss) for point in unbroken.points]
    train_target, test_target = losses[6][0], losses[8][1]
    found = trained(job_of(train_target=train_target, test_target=test_target))
    assert found.stopped == "arrived"
    ends = next(
        number
        for number in range(len(losses))
        if min(loss for loss, _ in losses[: number + 1]) <= train_target
        and min(loss for _, loss in losses[: number + 1]) <= test_target
    )
    assert without_seconds(found).points == unbroken.points[: ends + 1]


def test_one_target_alone_is_enough_where_there_is_no_other(unbroken):
    found = trained(job_of(train_target=unbroken.points[4].train_loss))
    assert (found.stopped, len(found.points)) == ("arrived", 5)


def losing(monkeypatch, losses):
    """Trainings whose losses after each point are given."""
    left = list(losses)
    monkeypatch.setattr(Trainee, "losses", lambda self, **_: (left.pop(0),) * 2)


def test_it_stops_where_a_target_is_out_of_reach(monkeypatch):
    job = job_of(epochs=4, train_target=0.1, test_target=0.1)
    totals = checkpoints(base_updates=60, updates=120)
    losing(monkeypatch, [1.0] * len(totals))
    found = trained(job)
    assert found.stopped == "out of reach"
    assert found.points[-1].updates == next(total for total in totals if total > 60), "not within the base budget"


def test_it_goes_on_while_a_missing_loss_falls(monkeypatch):
    job = job_of(epochs=4, train_target=0.1, test_target=0.1)
    totals = checkpoints(base_updates=60, updates=120)
    losing(monkeypatch, [1 / total**0.1 for total in totals])
    found = trained(job)
    assert (found.stopped, found.points[-1].updates) == ("budget", 120)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_it_stops_where_it_diverges(monkeypatch, bad):
    evaluate = Setup.evaluate
    seen = []

    def broken(self, **how):
        loss, right = evaluate(self, **how)
        seen.append(loss)
        return (bad if len(seen) == 5 else loss), right

    monkeypatch.setattr(Setup, "evaluate", broken)
    found = trained()
    assert (found.stopped, len(found.points)) == ("diverged", 3)
    assert (found.points[-1].train_loss, found.points[-2].train_loss is None) == (None, False)


def test_a_large_lr_really_diverges():
    assert trained(job_of(lr=1e8)).stopped == "diverged"


def test_the_lr_warms_up_where_it_is_above_that_of_the_base(monkeypatch):
    study = grid(epochs=20, max_epochs=20)
    lrs = {}
    update = Trainee._update

    def noted(self, batch_size, lr):
        lrs[self.updates] = lr  # the few updates that are tried first are made again
        update(self, batch_size, lr)

    monkeypatch.setattr(Trainee, "_update", noted)
    for lr, expected in (
        (0.02, [0.02] * 20),
        (0.01, [0.01] * 20),
        (0.12, [*(0.02 + 0.1 * place / 10 for place in range(10)), *[0.12] * 10]),  # 5 % of 200 updates
    ):
        lrs.clear()
        monkeypatch.setattr(cooled, "checkpoints", lambda **_: [40])
        cooled.train(job_of(study, size=30, lr=lr), study, small_data())
        assert [lrs[number] for number in range(20)] == pytest.approx(expected)


# Shares of the data.


@given(
    parts=st.lists(st.floats(0.01, 1), min_size=2, max_size=4).map(lambda found: sorted(found, reverse=True)),
    count=st.sampled_from([None, 77, 300]),
)
@settings(max_examples=20, deadline=None)
def test_a_smaller_share_is_part_of_every_larger_one(parts, count):
    data = replace(small_data(), x_train=torch.arange(300.0).reshape(-1, 1), y_train=torch.arange(300))
    study = grid(train_samples=count, test_samples=40)
    shares = [cooled.share_of(data, study, part) for part in parts]
    whole = set(range(count or 300))
    for part, share in zip(parts, shares, strict=True):
        kept = set(share.y_train.tolist())
        assert len(kept) == len(share.y_train) == max(1, round(part * len(whole)))
        assert kept <= whole
        assert torch.equal(share.x_train[:, 0].long(), share.y_train)
        assert len(share.x_test) == len(share.y_test) == 40
    for larger, smaller in pairwise(shares):
        assert set(smaller.y_train.tolist()) <= set(larger.y_train.tolist())


def test_the_whole_data_keep_their_order():
    share = cooled.share_of(small_data(), grid(train_samples=50), 1.0)
    assert torch.equal(share.x_train, small_data().x_train[:50])
    assert isinstance(share, Data)


def test_no_warning_comes_from_a_training():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained()
