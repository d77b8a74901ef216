"""A policy drives a loader: a size holds for the very next batch, on all ranks; a resumed run decides the same."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from tests.scheduler.checks import backward, data, equal, loader_of, model_of, sgd
from tests.scheduler.taps import Numbers, unbounded

import adabatch as ab
from adabatch import policies
from adabatch.policies import Policy
from adabatch.types import Decision

GROWTH = policies.noise_scale(maximum=32)


class Run:
    """A training under a policy; `sizes` are those of the batches, and those that were asked for."""

    def __init__(self, policy=GROWTH, tap=None, *, coupling="linear", optimizer=None, count=150, size=4, **arguments):
        self.model = model_of()
        self.optimizer = sgd(self.model, momentum=0.9) if optimizer is None else optimizer(self.model.parameters())
        self.loader = loader_of(count, size, **arguments)
        self.tap = Numbers() if tap is None else tap
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, policy, coupling=coupling, noise=self.tap)
        self.sizes, self.lrs, self.clocks = [], [], []
        self.stream = iter(self.loader)

    def update(self):
        batch = next(self.stream, None)
        if batch is None:
            self.stream = iter(self.loader)
            batch = next(self.stream)
        current = self.loader.current
        self.sizes.append((len(batch[0]), current.requested))
        self.clocks.append(current.clock)
        backward(self.model, batch)
        self.optimizer.step()
        self.lrs.append(self.batches.last_lr[0])
        self.batches.step(loss=float(len(self.sizes)))

    def train(self, updates):
        for _ in range(updates):
            self.update()
        return self

    def save(self):
        parts = self.model, self.optimizer, self.loader, self.batches
        state = copy.deepcopy([part.state_dict() for part in parts])
        assert json.loads(json.dumps(state[2:], allow_nan=False)) == state[2:]
        return state

    def load(self, state, order=(0, 1, 2, 3)):
        parts = self.model, self.optimizer, self.loader, self.batches
        for index in order:
            parts[index].load_state_dict(state[index])
        self.stream = iter(self.loader)
        return self


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]),
    every=st.integers(1, 7),
    workers=st.sampled_from([0, 0, 0, 2]),
    shrinks=st.booleans(),
)
def test_the_size_decided_is_that_of_the_very_next_batch(mode, every, workers, shrinks):
    policy = policies.noise_scale(maximum=32, factor=1.5, shrinks=shrinks)
    tap = Numbers(lambda number: 1e6 if number < 60 else 1e-3, every=every)
    run, expected = Run(policy, tap, num_workers=workers, **mode), 4
    for _ in range(200):
        run.update()
        decided = run.batches.batch_size
        assert decided == ([4, *(each.batch_size for each in run.batches.decisions)])[-1]
        end = 150 - run.clocks[-1] % 150
        assert run.sizes[-1] == (expected if mode else min(expected, end), expected), "requested is delivered"
        expected = decided
    assert {each[1] for each in run.sizes} >= {4, 6, 9} | ({32} if every == 1 else set())
    covered = sorted(zip(run.clocks, run.sizes, strict=True))
    for (clock, (size, _)), (after, (_, requested)) in pairwise(covered):
        left = -(clock + size) % 150
        skipped = left if mode.get("drop_last") and left < requested else 0
        assert after == clock + size + skipped, "no sample is skipped or repeated"


def test_a_decision_says_what_was_seen_and_why():
    run = Run().train(40)
    first = run.batches.decisions[0]
    assert isinstance(first, Decision)
    assert (first.batch_size, first.clock) == (8, 4 * 20)
    assert first.observation.batch_size == 4
    assert first.observation.updates == 20
    assert first.observation.clock == 80
    assert first.observation.lr == 0.1
    assert first.observation.noise.measured == 20
    assert first.interval[0] >= 8
    assert first.reason.endswith(": grows to 8")
    assert [each.batch_size for each in run.batches.decisions] == [8, 16, 32]
    assert run.batches.last_decision.batch_size == 32
    assert run.batches.last_decision not in run.batches.decisions


def test_the_coupling_follows_at_once():
    run = Run(coupling="linear").train(40)
    assert run.lrs == pytest.approx([0.1 * requested / 4 for _, requested in run.sizes])
    assert run.optimizer.param_groups[0]["lr"] == 0.1
    betas = Run(coupling="adam_sde(exponential=True)", optimizer=torch.optim.AdamW).train(40)
    assert betas.lrs == pytest.approx([0.001 * math.sqrt(requested / 4) for _, requested in betas.sizes])


def test_adascales_gain_follows_the_noise_of_every_decision():
    """Also of decisions to keep the size; until one has a noise, the LR is the user's own."""
    run = Run(tap=Numbers(lambda number: 1e3 / number, every=3), coupling="adascale")
    for _ in range(90):
        before = run.batches.last_decision
        run.update()
        requested, seen = run.sizes[-1][1], None if before is None else before.observation.noise
        ratio, noise = requested / 4, 0.0 if seen is None else seen.trace / seen.signal
        assert run.lrs[-1] == pytest.approx(0.1 * ratio * (noise + 4) / (noise + requested), rel=1e-12)
    assert run.optimizer.param_groups[0]["lr"] == 0.1
    assert {each[1] for each in run.sizes} >= {4, 8}
    assert len(set(run.lrs)) > 10, "it follows at every measurement"


def test_a_signal_that_is_not_above_0_makes_the_gain_linear():
    class Lost(Numbers):
        def estimate(self):
            found = super().estimate()
            return found if found is None or self.asked < 60 else unbounded(self.asked)

    run = Run(tap=Lost(20.0), coupling="adascale").train(80)
    size = run.sizes[-1][1]
    assert size > 4
    assert run.lrs[-1] == pytest.approx(0.1 * size / 4)


def test_what_adascale_needs():
    def made(policy, tap, coupling="adascale"):
        model = model_of()
        ab.BatchSizeScheduler(sgd(model), loader_of(150, 4), policy, coupling=coupling, noise=tap)

    for policy in (ab.schedules.constant(), None):
        with pytest.raises(
            ValueError, match=r"`coupling` 'adascale' follows .*, which a policy with a tap tells.*noise=8"
        ):
            made(policy, None)
    made(ab.schedules.constant(), None, "adascale(noise=8.0)")
    model = model_of()
    with pytest.raises(
        ValueError, match=r"adascale.* must keep the LR in force below .*, got 2e\+35 at 4 times the base"
    ):
        ab.BatchSizeScheduler(torch.optim.SGD(model.parameters(), lr=5e34), loader_of(150, 4), GROWTH,
                              coupling="adascale", noise=Numbers())  # fmt: skip

    class Signs(Numbers):
        norm = "l1"

    with pytest.raises(ValueError, match=r"derived for the noise scale in the l2 norm, got a tap in l1; use `sqrt`"):
        made(policies.sign_noise(maximum=32), Signs())


def test_there_is_no_length_and_no_plan():
    run = Run()
    assert run.batches.plan is None
    assert run.batches.sizes == (4, 8, 16, 32)
    said = "a loader without a schedule has no length: the sizes to come are decided from measurements; count the"
    for ask in (
        lambda: len(run.loader),
        lambda: len(iter(run.loader)),
        lambda: run.loader.updates_in_epoch(0),
        lambda: len(run.loader.training(3)),
        lambda: len(run.loader.batch_sampler),
    ):
        with pytest.raises(TypeError, match=said):
            ask()
    with pytest.raises(TypeError, match="`epochs` must be given for `training`, since no plan with an end drives"):
        run.loader.training().epochs  # noqa: B018
    run.train(3)
    with pytest.raises(TypeError, match=said):
        len(run.loader)


def test_all_epochs_in_one_loop():
    run = Run(count=64)
    for batch in run.loader.training(epochs=3):
        backward(run.model, batch)
        run.optimizer.step()
        run.batches.step()
    assert run.loader.clock == 3 * 64
    assert run.batches.batch_size == 32


def test_under_accumulate_and_a_clock_and_another_loader():
    model = model_of()
    optimizer = sgd(model)
    for loader in (
        loader_of(150, micro_batch_size=3),
        ab.micro_batches(torch.utils.data.DataLoader(data(160), batch_size=2), batch_size=4),
    ):
        batches = ab.BatchSizeScheduler(optimizer, loader, GROWTH, noise=Numbers())
        sizes = []
        for _ in range(4):
            for micro in ab.accumulate(loader, model):
                with micro as (inputs, targets):
                    (torch.nn.functional.mse_loss(model(inputs), targets) * micro.weight).backward()
                if micro.is_last:
                    sizes.append(loader.current.requested)
                    optimizer.step()
                    optimizer.zero_grad()
                    batches.step()
        assert sizes[:20] == [4] * 20
        assert set(sizes) == {4, 8, 16, 32}
        batches.close()
    clock = ab.Clock(batch_size=4)
    batches = ab.BatchSizeScheduler(optimizer, clock, GROWTH, noise=Numbers())
    for _ in range(40):
        for _ in clock.begin():
            pass
        optimizer.step()
        batches.step()
    assert clock.batch_size == 32


def test_a_size_that_the_other_loader_cannot_deliver():
    loader = ab.micro_batches(torch.utils.data.DataLoader(data(160), batch_size=4), batch_size=4)
    policy = policies.noise_scale(maximum=30)
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of 4, micro-batches of 4 on 1 ranks, got 30"):
        ab.BatchSizeScheduler(sgd(model_of()), loader, policy, noise=Numbers())


def test_bad_bounds():
    model = model_of()
    optimizer = sgd(model)
    with pytest.raises(
        ValueError, match="`maximum` must be at least the first batch size of 4, got 3; give the loader a"
    ):
        ab.BatchSizeScheduler(optimizer, loader_of(), policies.noise_scale(maximum=3), noise=Numbers())
    with pytest.raises(ValueError, match="`maximum` must be at most the data set's 64 samples, got 65; a batch of all"):
        ab.BatchSizeScheduler(optimizer, loader_of(64), policies.noise_scale(maximum=65), noise=Numbers())
    with pytest.raises(ValueError, match=r"must keep the LR in force below 1e\+35"):
        ab.BatchSizeScheduler(
            sgd(model, lr=1e34), loader_of(), policies.noise_scale(maximum=64), coupling="linear", noise=Numbers()
        )
    with pytest.raises(ValueError, match=r"`coupling` 'linear' was derived for .*, got Adam"):
        ab.BatchSizeScheduler(torch.optim.Adam(model.parameters()), loader_of(), GROWTH, noise=Numbers())
    ab.BatchSizeScheduler(optimizer, loader_of(), policies.noise_scale(maximum=4), noise=Numbers()).close()


def test_cabs_brings_no_coupling_and_wants_the_loss():
    policy = policies.cabs(maximum=32)
    with pytest.raises(ValueError, match="'cabs' was derived for SGD without momentum, got a momentum of"):
        Run(policy, coupling=None)
    with pytest.raises(ValueError, match="`coupling` must be 'none' under the policy 'cabs'"):
        Run(policy, optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    run = Run(policy, coupling=None, optimizer=lambda params: torch.optim.SGD(params, lr=0.1)).train(60)
    assert run.batches.batch_size == 32
    assert set(run.lrs) == {0.1}


def test_a_policy_that_wants_the_loss_says_so_at_once():
    run = Run(policies.cabs(maximum=32), coupling=None, optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    backward(run.model, next(run.stream))
    run.optimizer.step()
    with pytest.raises(
        RuntimeError, match=r"was called without the loss, .* 'cabs' decides; call `batches.step\(loss\)`"
    ):
        run.batches.step()


def test_a_tap_that_does_not_listen_to_the_loader_is_refused():
    """As after a cell of a notebook that made a new loader, and not a new tap."""
    model = model_of()
    optimizer, loader, other = sgd(model), loader_of(), loader_of()
    noise = ab.noise.tap(model, optimizer, loader)
    said = r"`noise` must be a tap that listens to the loader, got one that is closed, or listens to another; make one"
    with pytest.raises(ValueError, match=said):
        ab.BatchSizeScheduler(optimizer, other, GROWTH, noise=noise)
    noise.close()
    with pytest.raises(ValueError, match=said):
        ab.BatchSizeScheduler(optimizer, loader, GROWTH, noise=noise)


@pytest.mark.parametrize(
    ("half_life", "maximum", "shrinks", "got"),
    [
        (None, 64, False, None),
        (1e6, 64, False, None),
        (1200, 32, False, None),  # at 16, where it may grow last, 21.7 updates
        (1200, 32, True, "10.9 at batches of 32"),
        (1200, 64, False, "10.9 at batches of 32"),
        (1, 8, False, "1 at batches of 4"),
    ],
)
def test_a_tap_that_forgets_too_soon_to_be_looked_at_is_refused(half_life, maximum, shrinks, got):
    model = model_of()
    optimizer, loader = sgd(model), loader_of()
    noise = ab.noise.tap(model, optimizer, loader, every=10, half_life=half_life)
    policy = policies.noise_scale(maximum=maximum, shrinks=shrinks)
    if got is None:
        ab.BatchSizeScheduler(optimizer, loader, policy, noise=noise)
    else:
        measured, _, size = got.partition(" at batches of ")
        said = rf"`half_life` of the tap must let .* 20 updates at batches of {size}, got one .* rest on {measured};"
        with pytest.raises(ValueError, match=said):
            ab.BatchSizeScheduler(optimizer, loader, policy, noise=noise)


@settings(deadline=None, max_examples=20)
@given(st.floats(1, 300), st.integers(1, 20), st.sampled_from([4, 8]))
def test_what_an_estimate_comes_to_rest_on(half_life, every, size):
    from adabatch.noise import Estimator

    noise = ab.noise.tap(model := model_of(), sgd(model), loader_of(64, size), every=every, half_life=half_life)
    estimator = Estimator(half_life)
    for number in range(2000):
        estimator.add(1.0, 1.0 + number % 2, age=every * size)
    assert noise.rests_on(size) == pytest.approx(estimator.estimate().measured, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "got"), [(torch.ones(3), "a tensor of 3 numbers"), ("0.5", "str"), ([0.5], "list")], ids=repr
)
def test_a_loss_that_is_not_one_number_is_named(loss, got):
    run = Run(tap=Numbers(every=5)).train(1)
    backward(run.model, next(run.stream))
    run.optimizer.step()
    with pytest.raises(TypeError, match=f"`loss` must be one number, .*, got {got}; write `loss.mean"):
        run.batches.step(loss)
    run.train(4)


@pytest.mark.parametrize("loss", [2, np.float32(2), torch.full((1, 1), 2.0)], ids=repr)
def test_a_loss_may_be_any_number(loss):
    run = Run(tap=Numbers())
    backward(run.model, next(run.stream))
    run.optimizer.step()
    run.batches.step(loss)
    assert run.batches.last_decision.observation.loss == 2.0


def test_the_loss_is_the_mean_since_the_decision_before():
    run = Run(tap=Numbers(every=5)).train(4)
    assert run.batches.last_decision is None

    def told(updates):
        decision = run.train(updates).batches.last_decision
        return None if decision is None or decision.observation is None else decision.observation.loss

    assert [told(1), told(4), told(1)] == [3.0, 3.0, 8.0]  # of 1 to 5, and of 6 to 10
    backward(run.model, next(run.stream))
    run.optimizer.step()
    run.batches.step(torch.tensor(0.5, requires_grad=True))
    for _ in range(4):
        backward(run.model, next(run.stream))
        run.optimizer.step()
        run.batches.step()
    assert told(0) == 0.5


@dataclass(frozen=True)
class by_loss(Policy):  # noqa: N801
    """A user's policy that needs no noise: it grows when the loss is below a threshold."""

    needs_noise = False

    def wanted(self, noise_scale, seen):
        return noise_scale

    def init(self):
        return {"calls": 0}

    def decide(self, observation, state):
        sizes = self.sizes(4)
        size = sizes[min(int(observation.loss // 10), len(sizes) - 1)]
        return Decision(observation.clock, size, "told", observation=observation), {"calls": state["calls"] + 1}


@dataclass(frozen=True)
class astray(by_loss):  # noqa: N801
    def decide(self, observation, state):
        return Decision(observation.clock, 5, "no size of mine"), state


def test_a_policy_without_a_tap_decides_after_every_update():
    optimizer, loader = sgd(model_of()), loader_of()
    batches = ab.BatchSizeScheduler(optimizer, loader, by_loss(maximum=16))
    for number, batch in enumerate(loader.training(epochs=3)):
        backward(model_of(), batch)
        optimizer.step()
        batches.step(loss=float(number))
    assert [each.observation.loss for each in batches.decisions] == [10.0, 20.0]
    assert batches.state_dict()["decided"]["policy"]["calls"] == number + 1
    batches.close()
    loader = loader_of()
    batches, stream = ab.BatchSizeScheduler(optimizer, loader, astray(maximum=16)), iter(loader)
    next(stream)
    optimizer.step()
    with pytest.raises(
        ValueError, match="`batch_size` of a decision must be one of the policy's sizes 4, 8, 16, got 5"
    ):
        batches.step(1.0)


def test_close_closes_the_tap_and_leaves_the_size():
    run = Run().train(30)
    size = run.batches.batch_size
    run.batches.close()
    assert run.tap.closed
    assert run.loader.batch_size == size > 4
    assert len(run.loader) > 0


# Assigned


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=25),
    mode=st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]),
    workers=st.sampled_from([0, 0, 2]),
    coupling=st.sampled_from(["linear", "constant_noise(maximum_lr_factor=2)"]),
    cut=st.integers(0, 24),
)
def test_an_assigned_size_holds_for_the_very_next_batch_and_so_does_the_coupling(sizes, mode, workers, coupling, cut):
    """As in reinforcement learning, where each update trains on as many samples as were collected."""

    def begun():
        model = model_of()
        optimizer, loader = sgd(model, momentum=0.9), loader_of(97, 8, num_workers=workers, **mode)
        batches = ab.BatchSizeScheduler(optimizer, loader, coupling=coupling)
        return model, optimizer, loader, batches

    def train(parts, sizes):
        model, optimizer, loader, batches = parts
        stream, lrs = iter(loader), []
        for size in sizes:
            loader.batch_size = size
            batch = next(stream, None)
            if batch is None:
                stream = iter(loader)
                batch = next(stream)
            left = 97 - loader.current.clock % 97
            assert len(batch[0]) == (size if mode else min(size, left))
            assert loader.current.requested == batches.batch_size == size
            held = dict(optimizer.param_groups[0])
            backward(model, batch)
            optimizer.step()
            lrs.append(batches.last_lr[0])
            assert optimizer.param_groups[0] == held
            batches.step()
        stream.close()
        return lrs

    whole = begun()
    lrs = train(whole, sizes)
    factor = ab.couplings.get(coupling).lr_factor
    assert lrs == pytest.approx([0.1 * factor(size / 8) for size in sizes], rel=1e-12)
    assert whole[3].decisions == []
    with pytest.raises(
        TypeError, match="a loader without a schedule has no length: the sizes to come are assigned one"
    ):
        len(whole[2])

    first, second = begun(), begun()
    train(first, sizes[:cut])
    if not mode:  # leaving an iteration passes the rest of its epoch, here as without a scheduler
        states = [copy.deepcopy(part.state_dict()) for part in first]
        for part, state in zip(second, states, strict=True):
            part.load_state_dict(state)
        assert second[2].batch_size == first[2].batch_size
        assert second[3].state_dict() == first[3].state_dict()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("resumed", [False, True])
def test_assigned_sizes_train_as_those_of_a_schedule(momentum, resumed):
    """Also where the coupling moves the momentum away from 0 and back, so that velocities begin afresh."""
    schedule, coupling = ab.schedules.steps("0:4 8:8 24:4 40:8"), "constant_noise"
    sizes = [4, 4, 8, 8, 4, 4, 4, 4, 8, 8, 8]

    def begun(schedule):
        model = model_of()
        optimizer, loader = sgd(model, momentum=momentum), loader_of(64, 4)
        return model, optimizer, loader, ab.BatchSizeScheduler(optimizer, loader, schedule, coupling=coupling)

    def train(parts, stream, sizes, *, assigned):
        model, optimizer, loader, batches = parts
        for size in sizes:
            if assigned:
                loader.batch_size = size
            backward(model, next(stream))
            assert loader.current.requested == size
            optimizer.step()
            batches.step()

    planned, assigned = begun(schedule), begun(None)
    train(planned, iter(planned[2]), sizes, assigned=False)
    stream = iter(assigned[2])
    train(assigned, stream, sizes[:4], assigned=True)
    if resumed:
        states = [copy.deepcopy(part.state_dict()) for part in assigned]
        assigned = begun(None)
        for part, state in zip(assigned, states, strict=True):
            part.load_state_dict(state)
        stream = iter(assigned[2])
    train(assigned, stream, sizes[4:], assigned=True)
    assert equal(planned[0], assigned[0])


def test_what_an_assigned_size_may_be():
    optimizer, loader = sgd(model_of(), lr=1e34), loader_of(64, 4)
    batches = ab.BatchSizeScheduler(optimizer, loader)
    with pytest.raises(ValueError, match=r"`batch_size` must be at most the data set's 64 samples, got 65"):
        loader.batch_size = 65
    with pytest.raises(ValueError, match=r"must keep the LR in force below 1e\+35.* at 16 times the base batch size"):
        loader.batch_size = 64
    assert batches.batch_size == 4
    batches.close()
    loader.batch_size = 64
    driven = Run()
    with pytest.raises(
        ValueError, match="`batch_size` must not be set while a schedule drives this loader, got 9; change"
    ):
        driven.loader.batch_size = 9


def test_assigned_sizes_of_a_clock():
    optimizer, clock = sgd(model_of()), ab.Clock(batch_size=4)
    batches = ab.BatchSizeScheduler(optimizer, clock, coupling="linear")
    for size in (4, 7, 3, 12):
        clock.batch_size = size
        for _ in clock.begin():
            assert clock.current.size == size
        optimizer.step()
        batches.step()
        assert batches.last_lr == [pytest.approx(0.1 * size / 4)]
    assert clock.clock == 26


# Resume


@settings(max_examples=25, deadline=None)
@given(
    before=st.integers(0, 60),
    mode=st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]),
    every=st.integers(1, 4),
    order=st.permutations([0, 1, 2, 3]),
    loaded_first=st.booleans(),
    coupled=st.sampled_from([("adam_sde(exponential=True)", torch.optim.Adam), ("adascale", torch.optim.SGD)]),
)
def test_a_resumed_run_decides_the_same(before, mode, every, order, loaded_first, coupled):
    coupling, kind = coupled

    def noisy(number):
        return 1e3 * (1 + math.sin(number * number))

    def fresh():
        return Run(tap=Numbers(noisy, every=every, width=1.2), coupling=coupling,
                   optimizer=lambda params: kind(params, lr=0.01), **mode)  # fmt: skip

    whole = fresh().train(80)
    state = fresh().train(before).save()
    resumed = fresh()
    if loaded_first:  # the loader has grown before its scheduler is made
        resumed.batches.close()
        resumed.loader.load_state_dict(state[2])
        resumed.batches = ab.BatchSizeScheduler(
            resumed.optimizer,
            resumed.loader,
            GROWTH,
            coupling=coupling,
            noise=Numbers(noisy, every=every, width=1.2),
        )
    resumed.load(state, order)
    resumed.train(80 - before)
    assert resumed.sizes == whole.sizes[before:]
    assert resumed.lrs == whole.lrs[before:]
    assert equal(resumed.model, whole.model)
    kept = resumed.batches.decisions
    assert [(each.clock, each.batch_size, each.reason, each.interval) for each in kept] == [
        (each.clock, each.batch_size, each.reason, each.interval) for each in whole.batches.decisions
    ][len(whole.batches.decisions) - len(kept) :]
    for one, other in zip(kept[::-1], whole.batches.decisions[::-1], strict=False):
        assert one.observation.noise == other.observation.noise
        assert one.observation.updates == other.observation.updates
    assert resumed.batches.state_dict()["decided"] == whole.batches.state_dict()["decided"] or before > 0


def test_a_loss_that_is_no_number_is_saved_too():
    run = Run(tap=Numbers(every=5)).train(2)
    backward(run.model, next(run.stream))
    run.optimizer.step()
    run.batches.step(loss=math.nan)
    resumed = Run(tap=Numbers(every=5)).load(run.save()).train(2)
    assert math.isnan(resumed.batches.last_decision.observation.loss)


def test_a_state_that_the_tap_refuses_changes_nothing():
    state = Run().train(30).batches.state_dict()
    run = Run()
    before = run.batches.state_dict()

    def refuse(state):
        raise ValueError("of another half-life")

    run.tap.load_state_dict = refuse
    with pytest.raises(ValueError, match="of another half-life"):
        run.batches.load_state_dict(state)
    assert run.batches.state_dict() == before


def test_a_grown_loader_wants_the_state_of_its_scheduler():
    state = Run().train(30).save()
    run = Run()
    run.batches.close()
    run.loader.load_state_dict(state[2])
    run.batches = ab.BatchSizeScheduler(run.optimizer, run.loader, GROWTH, noise=Numbers())
    run.stream = iter(run.loader)
    with pytest.raises(
        RuntimeError, match=r"must be called before training goes on at sample .*; load the state of the sa"
    ):
        run.update()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda state: state.pop("decided"), "has a damaged `decided`: it must hold a policy's numbers; use an older"),
        (
            lambda state: state["decided"]["policy"].pop("looks"),
            "damaged `decided`: it must hold first, began, looks, fresh",
        ),
        (
            lambda state: state["decided"].update(batch_size=5),
            "damaged `decided`: its sizes must be among 4, 8, 16, 32",
        ),
        (lambda state: state["decided"].update(sizes=[4, 7]), "damaged `decided`: its sizes must be among"),
        (lambda state: state["decided"].update(decided_on=[1]), "damaged `decided`: it was decided on a trace and a"),
        (lambda state: state["decided"].update(noise=None), "damaged `decided`: it must have been saved with a tap"),
        (lambda state: state["schedule"].update(maximum=64), "`state` must be of the same policy: it was saved with"),
        (lambda state: state.update(schedule=ab.schedules.constant().to_json()), "`state` must be of the same policy"),
    ],
)
def test_states_that_are_refused(changed, message):
    state = Run().train(30).batches.state_dict()
    changed(state)
    run = Run()
    before = run.batches.state_dict()
    with pytest.raises(ValueError, match=message):
        run.batches.load_state_dict(state)
    assert run.batches.state_dict() == before


def test_a_schedule_refuses_a_policys_state_and_needs_no_loss():
    optimizer, loader = sgd(model_of()), loader_of(150)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    with pytest.raises(ValueError, match="`state` must be of the same schedule"):
        batches.load_state_dict(Run().batches.state_dict())
    next(iter(loader))
    optimizer.step()
    batches.step(loss=1.0)
    assert batches.last_decision is None


# Ranks


def each_rank_decides_alike(rank, world):
    """The tap of each rank finds another noise scale, and each rank has another loss; all go by one observation."""
    model = torch.nn.parallel.DistributedDataParallel(model_of())
    optimizer = sgd(model)
    loader = loader_of(240, drop_last=True, group=torch.distributed.group.WORLD)
    noise = Numbers(lambda number: 1e6 if rank == 0 else 1e-6, every=2)
    batches = ab.BatchSizeScheduler(optimizer, loader, policies.noise_scale(maximum=32), noise=noise)
    sizes = []
    for batch in loader.training(epochs=9):
        sizes.append((len(batch[0]), loader.current.requested))
        backward(model, batch)
        optimizer.step()
        batches.step(loss=float(rank))
    assert {each[1] for each in sizes} == {4, 8, 16, 32}
    assert all(mine * world == requested for mine, requested in sizes)
    assert all(each.observation.loss == 0.5 for each in batches.decisions)
    seen = [(each.clock, each.batch_size, each.reason, each.observation, each.interval) for each in batches.decisions]
    found = [None] * world
    torch.distributed.all_gather_object(found, (seen, sizes, batches.state_dict()["decided"]["policy"]))
    assert found[0] == found[1]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), _of_first(model), strict=True))


def _of_first(model):
    copies = [param.detach().clone() for param in model.parameters()]
    for each in copies:
        torch.distributed.broadcast(each, src=0)
    return copies


def uneven_sizes_raise_before_the_first_batch(rank, world):
    optimizer, loader = sgd(model_of()), loader_of(240, drop_last=True)
    ab.BatchSizeScheduler(optimizer, loader, policies.noise_scale(maximum=31), noise=Numbers())
    with pytest.raises(ValueError, match="a batch of 31 samples does not divide over 2 ranks"):
        next(iter(loader))


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, each_rank_decides_alike, uneven_sizes_raise_before_the_first_batch)
