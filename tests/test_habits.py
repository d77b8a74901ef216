"""A user's habits around a plain loop, at random, against a naive trainer: equal bit for bit, or an error."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.data.order import permute

SEED, LR = 3, 0.05


class Naive:
    """What the training must be: batches cut from the order of (seed, epoch), an LR in proportion, plain SGD."""

    def __init__(self, data, sizes, base, *, drop_last):
        self.data, self.sizes, self.base, self.drop_last = data, sizes, base, drop_last
        self.model = model_of()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9)
        self.lr, self.clock = LR, 0  # where what was trained on, or passed after that, ends
        self.trained = False  # whether something was in the iteration that goes on
        self.begun = None  # the epoch of which something was

    def batch(self, clock):
        """The samples of the batch that starts at `clock`, and the size that was asked for; None at an epoch's end."""
        size = len(self.data)
        epoch, offset = divmod(clock, size)
        asked = self.sizes(clock)
        if self.drop_last and size - offset < asked:
            return None
        order = permute(np.arange(size), size=size, seed=SEED, epoch=epoch)
        return torch.from_numpy(order[offset : offset + asked]), asked

    def train(self, clock):
        items, asked = self.batch(clock)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * (asked / self.base)
        backward(self.model, self.optimizer, *(column[items] for column in self.data.tensors))
        self.optimizer.step()


def model_of():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def backward(model, optimizer, inputs, targets):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(inputs), targets).backward()


class FailureError(Exception):
    """Something that goes wrong in a training loop."""


class Habits(RuleBasedStateMachine):
    """A user at a notebook. `live` is the iterator of the training loop; `at` is where its next batch starts."""

    @initialize(
        size=st.integers(5, 14),
        base=st.integers(1, 4),
        growth=st.sampled_from(["epochs", "samples", "constant"]),
        drop_last=st.booleans(),
        workers=st.just(0),
        peeked=st.booleans(),
    )
    def begin(self, size, base, growth, drop_last, workers, peeked):
        torch.manual_seed(1)
        self.data = TensorDataset(torch.randn(size, 3), torch.randn(size, 1))
        self.base, self.drop_last, self.workers = base, drop_last, workers
        self.schedule = {
            "epochs": ab.schedules.geometric(2, ab.epochs(1), maximum=size),
            "samples": ab.schedules.geometric(2, ab.samples(7), maximum=size),
            "constant": ab.schedules.constant(),
        }[growth]
        plan = self.schedule.plan(dataset_size=size, batch_size=base, drop_last=drop_last)
        self.naive = Naive(self.data, plan.batch_size_at, base, drop_last=drop_last)
        self.model = model_of()
        self.make()
        if peeked:
            next(iter(self.loader))
        self.schedule_it()

    # What a user makes.

    def make(self):
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9)
        self.lr_scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=1, gamma=0.5)
        self.loader = ab.DataLoader(
            self.data, self.base, shuffle=True, seed=SEED, drop_last=self.drop_last, num_workers=self.workers
        )
        self.live = self.at = None
        self.skipped = False  # whether a batch is out that nobody trained on

    def schedule_it(self):
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, self.schedule)

    # What the naive trainer does at the edges of iterations.

    def start(self):
        """Where an iteration that begins now starts, behind an epoch of which something was trained on."""
        naive, size = self.naive, len(self.data)
        return (naive.begun + 1) * size if naive.clock // size == naive.begun else naive.clock

    def leave(self):
        """An iteration is over or left."""
        self.naive.trained = self.skipped = False
        self.live = self.at = None

    def take(self):
        """The next batch of the training loop; None at the end of the epoch."""
        if self.live is None:
            self.live, self.at = iter(self.loader), self.start()
            self.epoch = self.at // len(self.data)
        if self.skipped and self.naive.trained:
            self.naive.clock = self.behind()
        self.skipped = False
        found = next(self.live, None)
        ended = self.at >= (self.epoch + 1) * len(self.data) or self.naive.batch(self.at) is None
        assert (found is None) == ended
        if found is None:
            self.leave()
            return None
        items, _ = self.naive.batch(self.at)
        assert torch.equal(found[0], self.data.tensors[0][items])
        return found

    def passed(self):
        """The batch that was taken counts as passed."""
        self.at += len(self.naive.batch(self.at)[0])

    def behind(self):
        """Where what was taken ends; what is dropped is passed with it."""
        ends = self.drop_last and self.naive.batch(self.at) is None
        return (self.epoch + 1) * len(self.data) if ends else self.at

    def committed(self):
        self.passed()
        self.naive.clock = self.behind()
        self.naive.trained, self.naive.begun = True, self.epoch

    def forbidden(self):
        """Whether looking now is told apart: the training loop goes on."""
        return self.live is not None and self.naive.trained and not self.over()

    def over(self):
        return self.at >= (self.epoch + 1) * len(self.data) or self.naive.batch(self.at) is None

    # Habits.

    @rule(times=st.integers(1, 4))
    def train(self, times):
        for _ in range(times):
            batch = self.take()
            if batch is None:
                return
            backward(self.model, self.optimizer, *batch)
            self.optimizer.step()
            self.batches.step()
            self.naive.train(self.at)
            self.committed()

    @rule()
    def train_to_the_end_of_the_epoch(self):
        while (batch := self.take()) is not None:
            backward(self.model, self.optimizer, *batch)
            self.optimizer.step()
            self.batches.step()
            self.naive.train(self.at)
            self.committed()
        self.lr_scheduler.step()
        self.naive.lr = self.naive.lr * 0.5

    @rule()
    def an_iterator_that_is_never_used(self):
        iter(self.loader)
        self.loader.parts()

    @rule(kind=st.sampled_from(["peek", "accumulate", "some", "all", "held"]))
    def look(self, kind):
        def looked():
            if kind == "peek":
                next(iter(self.loader))
            elif kind == "accumulate":
                next(iter(ab.accumulate(self.loader, self.model)))
            elif kind == "held":
                self.held = iter(self.loader)
                next(self.held)
            else:
                seen = sum(len(x) for x, _ in zip(self.loader, range(2 if kind == "some" else 99), strict=False))
                assert seen > 0

        if self.forbidden():
            with pytest.raises(RuntimeError, match="evaluate with another loader"):
                looked()
        elif self.live is not None and not self.naive.trained:
            looked()  # the loop around it goes on
            self.live = self.at = None  # though here it is given up
        else:
            if self.live is not None:
                self.leave()  # of which all was handed out
            looked()

    @rule()
    def look_at_numbers(self):
        len(self.loader), self.loader.epoch, self.loader.clock, self.batches.last_lr, self.batches.batch_size
        self.loader.state_dict(), self.batches.state_dict(), list(self.loader.sampler), list(self.loader.batch_sampler)

    @precondition(lambda self: self.live is not None)
    @rule()
    def break_off(self):
        self.leave()

    @rule()
    def skip_a_batch_and_say_so(self):
        if self.take() is not None:
            self.batches.step()
            self.committed()

    @rule()
    def skip_a_batch(self):
        if self.take() is not None:
            self.passed()
            self.skipped = True

    @rule(where=st.sampled_from(["forward", "step", "interrupt"]))
    def something_raises(self, where):
        kind = KeyboardInterrupt if where == "interrupt" else FailureError

        def fail(*_):
            raise kind

        batch = self.take()
        if batch is None:
            return
        if where != "forward":
            backward(self.model, self.optimizer, *batch)
            handle = self.optimizer.register_step_pre_hook(fail)
            with pytest.raises(kind):
                self.optimizer.step()
            handle.remove()
        self.leave()
        assert self.optimizer.param_groups[0]["lr"] == self.naive.lr

    @rule()
    def forget_the_step(self):
        batch = self.take()
        if batch is None:
            return
        backward(self.model, self.optimizer, *batch)
        self.optimizer.step()
        with pytest.raises(RuntimeError, match=r"`step\(\)` of BatchSizeScheduler was not called"):
            next(self.live)
        self.batches.step()
        self.naive.train(self.at)
        self.committed()
        with pytest.raises(RuntimeError, match=r"`step\(\)` of BatchSizeScheduler was called twice"):
            self.batches.step()

    @rule()
    def change_the_lr(self):
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.75
        self.naive.lr *= 0.75

    @rule()
    def resume(self):
        """In a new process."""
        state = json.loads(json.dumps({"loader": self.loader.state_dict(), "batches": self.batches.state_dict()}))
        open_epoch = self.live is not None and self.naive.trained and self.over() and not self.skipped
        weights, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        lr_scheduler = self.lr_scheduler.state_dict()
        self.model = model_of()
        self.make()
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.lr_scheduler.load_state_dict(lr_scheduler)
        self.schedule_it()
        self.loader.load_state_dict(state["loader"])
        self.batches.load_state_dict(state["batches"])
        if open_epoch:
            assert list(self.loader) == []  # its end was still to be told
        self.naive.trained, self.naive.begun = False, None

    @invariant()
    def the_same(self):
        if hasattr(self, "model"):
            for mine, right in zip(self.model.parameters(), self.naive.model.parameters(), strict=True):
                assert torch.equal(mine, right)


def play(*, histories):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the batch at sample .* was left without")
        warnings.filterwarnings("ignore", "no optimizer of this BatchSizeScheduler")
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        run_state_machine_as_test(
            Habits,
            settings=settings(
                max_examples=histories,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_habits():
    play(histories=40)


@pytest.mark.slow
def test_two_thousand_habits():
    play(histories=2000)
