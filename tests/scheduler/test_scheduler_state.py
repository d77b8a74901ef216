"""States of the scheduler: small and safe; the interrupted run goes on exactly; foreign ones are refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler.checks import backward, equal, loader_of, model_of, sgd

import adabatch as ab

GROWING = ab.schedules.geometric(2, ab.epochs(1), maximum=16)


class Run:
    def __init__(self, schedule=GROWING, *, coupling="linear", batch_size=4, count=22, **arguments):
        self.model = model_of()
        self.optimizer = sgd(self.model, momentum=0.9)
        self.user = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.9)
        self.loader = loader_of(count, batch_size, **arguments)
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, schedule, coupling=coupling)
        self.trace = []
        self.stream = iter(self.loader)

    @property
    def parts(self):
        return {name: getattr(self, name) for name in ("model", "optimizer", "user", "loader", "batches")}

    def save(self):
        return copy.deepcopy({name: part.state_dict() for name, part in self.parts.items()})

    def load(self, state, order=("model", "optimizer", "user", "loader", "batches")):
        self.stream = iter(self.loader)
        for name in order:
            self.parts[name].load_state_dict(state[name])

    def train(self, updates):
        for _ in range(updates):
            batch = next(self.stream, None)
            if batch is None:
                self.stream = iter(self.loader)
                batch = next(self.stream)
            backward(self.model, batch)
            self.optimizer.step()
            self.trace.append((self.loader.current.clock, len(batch[0]), *self.batches.last_lr))
            self.batches.step()
            self.user.step()


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, 20), drop_last=st.booleans(), loader_first=st.booleans())
def test_resume_at_any_update_is_the_unbroken_run(before, drop_last, loader_first):
    whole = Run(drop_last=drop_last)
    whole.train(24)
    first = Run(drop_last=drop_last)
    first.train(before)
    saved = first.save()
    second = Run(drop_last=drop_last)
    order = ["model", "optimizer", "user", *(["loader", "batches"] if loader_first else ["batches", "loader"])]
    second.load(saved, order)
    second.train(24 - before)
    assert first.trace + second.trace == whole.trace
    assert equal(second.model, whole.model)
    assert second.batches.state_dict() == whole.batches.state_dict()


def test_the_state_is_small_and_safe(tmp_path):
    run = Run()
    run.train(8)
    state = run.batches.state_dict()
    assert next(iter(state)) == "format"
    assert state == json.loads(json.dumps(state))
    assert state == {
        "format": 1,
        "clock": 38,
        "base_batch_size": 4,
        "schedule": GROWING.to_json(),
        "coupling": {"kind": "linear", "any_optimizer": False},
        "decisions": 1,
    }
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_a_large_schedule_enters_the_state_as_a_fingerprint():
    changes = {clock: 4 + clock % 3 for clock in range(0, 3000, 5)}
    changes[0] = 4
    schedule = ab.schedules.steps(changes)
    run = Run(schedule)
    state = run.batches.state_dict()
    assert state["schedule"]["fingerprint"] == schedule.fingerprint()
    assert len(json.dumps(state)) < 1000
    Run(schedule).batches.load_state_dict(state)
    changes[5] = 16
    with pytest.raises(ValueError, match="`state` must be of the same schedule"):
        Run(ab.schedules.steps(changes)).batches.load_state_dict(state)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"schedule": ab.schedules.geometric(4, ab.epochs(1), maximum=16)},
            r'same schedule: .*"factor": 2.*"factor": 4',
        ),
        ({"coupling": "none"}, r'same coupling: it was saved with .*"linear".*, this run has .*"none"'),
        ({"coupling": ab.couplings.linear(any_optimizer=True)}, "same coupling"),
        ({"batch_size": 8}, "same base batch size: it was saved with 4, this run has 8; resume with the same settings"),
    ],
)
def test_a_state_of_another_run_is_refused(other, message):
    run = Run()
    run.train(8)
    state = run.batches.state_dict()
    fresh = Run(**other)
    before = fresh.batches.state_dict()
    with pytest.raises(ValueError, match=message):
        fresh.batches.load_state_dict(state)
    assert fresh.batches.state_dict() == before


@pytest.mark.parametrize(
    "state",
    [None, {}, {"format": 2}, {"format": 1}, loader_of().state_dict(), {**Run().batches.state_dict(), "more": 1}],
    ids=["none", "empty", "newer", "bare", "loader", "more"],
)
def test_what_is_no_state_is_refused(state):
    with pytest.raises(
        ValueError, match=r"`state` must be what `BatchSizeScheduler.state_dict\(\)` gave \(format 1\), got"
    ):
        Run().batches.load_state_dict(state)


@pytest.mark.parametrize(("key", "value"), [("clock", "x"), ("clock", 1.5), ("decisions", None)])
def test_a_damaged_state_is_refused(key, value):
    with pytest.raises(TypeError, match=f"`{key}` must be a whole number"):
        Run().batches.load_state_dict({**Run().batches.state_dict(), key: value})


def test_a_forgotten_loader_state_is_said():
    run = Run()
    run.train(8)
    fresh = Run()
    fresh.batches.load_state_dict(run.batches.state_dict())
    with pytest.raises(
        RuntimeError, match="resumed at sample 38, but the loader stands at 0; load the loader's state of"
    ):
        fresh.train(1)


def test_a_forgotten_loader_state_is_said_when_the_first_batch_is_left_out():
    run = Run()
    run.train(8)
    fresh = Run()
    fresh.batches.load_state_dict(run.batches.state_dict())
    stream = iter(fresh.loader)
    next(stream)
    with pytest.raises(RuntimeError, match="resumed at sample 38, but the loader stands at 0"):
        next(stream)


def test_a_loader_that_was_resumed_before_the_scheduler_was_made():
    """Its batch size has grown by then; the base batch size is the saved one."""
    run = Run()
    run.train(8)
    saved = run.save()
    run.train(8)
    resumed = Run.__new__(Run)
    resumed.model, resumed.trace, resumed.stream = model_of(), [], iter(())
    resumed.optimizer = sgd(resumed.model, momentum=0.9)
    resumed.user = torch.optim.lr_scheduler.ExponentialLR(resumed.optimizer, gamma=0.9)
    resumed.loader = loader_of(22, 4)
    resumed.loader.load_state_dict(saved["loader"])
    assert resumed.loader.batch_size == 8
    resumed.batches = ab.BatchSizeScheduler(resumed.optimizer, resumed.loader, GROWING)
    resumed.load(saved, ("model", "optimizer", "user", "batches"))
    resumed.train(8)
    assert resumed.trace == run.trace[8:]
    assert equal(resumed.model, run.model)


@pytest.mark.parametrize("updates", [3, 6, 8, 12])
def test_a_state_that_is_forgotten_after_a_loader_that_was_resumed_is_noticed(updates):
    run = Run()
    run.train(updates)
    loader = loader_of(22, 4)
    loader.load_state_dict(run.loader.state_dict())
    model = model_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING)
    backward(model, next(batch for _ in range(2) for batch in loader))  # nothing may be left of its epoch
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"`load_state_dict` of .* must be called .* its \d+ may not be the size of the start"
        ):
            optimizer.step()
    batches.close()
    ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    optimizer.step()


def test_a_schedule_with_a_start_of_its_own_on_a_resumed_loader():
    schedule = ab.schedules.geometric(2, ab.epochs(1), start=4, maximum=16)
    run = Run(schedule)
    run.train(8)
    loader = loader_of(22, 4)
    loader.load_state_dict(run.loader.state_dict())
    batches = ab.BatchSizeScheduler(sgd(model_of()), loader, schedule)
    batches.load_state_dict(run.batches.state_dict())
    assert (batches.batch_size, batches.factor) == (8, 2.0)


def test_a_rollback_in_the_same_process():
    run = Run()
    run.train(8)
    saved = run.save()
    run.train(8)
    expected, run.trace = run.trace[8:], []
    run.load(saved)
    assert run.batches.decisions == []
    assert run.batches.last_lr == pytest.approx([0.1 * 0.9**8 * 2])
    run.train(8)
    assert run.trace == expected


@pytest.mark.parametrize("ends", [{}, {"drop_last": True}, {"run_on": True}], ids=["kept", "dropped", "run on"])
@pytest.mark.parametrize("first_epochs", [None, 1, 2, 3])
def test_a_run_that_goes_on_after_its_planned_end_has_every_decision(first_epochs, ends):
    """A plan gives no size after its end; the state of the run does."""

    def make(epochs):
        model, loader = model_of(), loader_of(22, 4, **ends)
        optimizer = sgd(model)
        return model, optimizer, loader, ab.BatchSizeScheduler(optimizer, loader, GROWING, epochs=epochs)

    def train(stop, model, optimizer, loader, batches):
        while loader.clock < stop * 22:
            for batch in loader:
                backward(model, batch)
                optimizer.step()
                batches.step()
                if loader.clock >= stop * 22:  # a batch may run on
                    break
        # Under `run_on` the end of the plan cuts the batch, so what follows lies elsewhere.
        return [
            (each.batch_size, *(() if ends.get("run_on") else (each.clock, each.reason))) for each in batches.decisions
        ]

    whole = make(4)
    expected = train(4, *whole)
    first, second = make(first_epochs), make(4)
    before = train(first_epochs or 2, *first)
    states = json.loads(json.dumps([part.state_dict() for part in first[2:]]))
    for part, state in zip(second[2:], states, strict=True):
        part.load_state_dict(state)
    assert before + train(4, *second) == expected
    assert len(expected) == 2
    assert second[3].state_dict()["decisions"] == len(expected)
    with pytest.raises(TypeError, match="`batch_size` must be a whole number"):
        make(4)[3].load_state_dict(states[1] | {"batch_size": 1.5})


def test_run_on_after_the_end():
    """The last batch runs on into an epoch that is not trained; states and logs still work."""
    model, loader = model_of(), loader_of(22, 4, run_on=True)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, GROWING, epochs=1)
    for batch in loader:
        backward(model, batch)
        optimizer.step()
        batches.step()
    assert loader.clock >= 22
    assert batches.batch_size == loader.state_dict()["batch_size"] == 4
    assert batches.state_dict()["clock"] == loader.clock
    assert batches.decisions == []


def test_a_state_between_the_two_steps_is_told():
    run = Run()
    run.train(1)
    assert run.batches.state_dict()["clock"] == 4
    backward(run.model, next(run.stream))
    assert run.batches.state_dict()["clock"] == 4
    run.optimizer.step()
    with pytest.warns(RuntimeWarning, match=r"between `optimizer.step\(\)` and `step\(\)`: .* batch at sample 4 again"):
        assert run.batches.state_dict()["clock"] == 4
    run.batches.step()
    assert run.batches.state_dict()["clock"] == 8
