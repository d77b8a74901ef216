"""LR schedulers that count updates, on the samples clock: the LR follows the data, however the batch changes."""

import functools
import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lr_clock.test_sample import MAKERS, optimizer_of
from torch.optim import lr_scheduler as torch_lr

import adabatch as ab
from adabatch.lr_clock import Baseline, every, sample
from adabatch.schedules import constant

N = 60


def loader_of(batch_size, **options):
    return ab.DataLoader(torch.arange(N), batch_size=batch_size, **options)


@functools.cache
def lrs(name, steps):
    return sample(MAKERS[name](optimizer_of(momentum=0.9)), steps, freeze=True)


def run(loader, optimizer, lr, epochs, sizes=()):
    """(clock where the batch starts, its LR) of each update; the batch sizes are assigned in turn."""
    sizes, found = iter(sizes), []
    for _ in range(epochs):
        for _ in loader:
            found.append((loader.current.clock if loader.current else None, float(optimizer.param_groups[0]["lr"])))
            optimizer.step()
            loader.batch_size = next(sizes, loader.batch_size)
            lr.step()
    return found


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"run_on": True}])
@pytest.mark.parametrize("name", MAKERS)
def test_at_the_base_batch_size_it_is_the_scheduler_itself(name, options):
    loader, optimizer = loader_of(7, **options), optimizer_of(momentum=0.9)
    found = run(loader, optimizer, ab.by_samples(MAKERS[name](optimizer), loader), 4)
    assert [lr for _, lr in found] == lrs(name, len(found))


@pytest.mark.filterwarnings("ignore:the LR under `by_samples` is below")  # some are over long before 180 updates
@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MAKERS)),
    options=st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]),
    base=st.integers(1, 12),
    sizes=st.lists(st.integers(1, N), max_size=30),
)
def test_any_batch_sizes_leave_the_lr_where_the_data_is(name, options, base, sizes):
    loader, optimizer = loader_of(base, **options), optimizer_of(momentum=0.9)
    lr = ab.by_samples(MAKERS[name](optimizer), loader)
    curve, per_epoch = lrs(name, 6 * N), N // base if options.get("drop_last") else -(-N // base)
    sizes = iter(sizes)
    for _ in range(3):
        for _ in loader:
            optimizer.step()
            loader.batch_size = next(sizes, loader.batch_size)
            lr.step()
            clock = loader.clock
            passed = clock // base if options.get("run_on") else clock // N * per_epoch + clock % N // base
            assert float(optimizer.param_groups[0]["lr"]) == lr.get_last_lr()[0] == curve[passed]


def test_a_rest_that_is_not_dropped_after_all_waits_for_the_data():
    """30 of 60 after a first batch of 1: at size 30 the rest of 29 counts as passed, at size 1 it is trained on."""
    loader, optimizer = loader_of(1, drop_last=True), optimizer_of()
    lr, seen = ab.by_samples(torch_lr.LambdaLR(optimizer, lambda step: 1.0 + step), loader), []
    sizes = iter([30, 1])
    for _ in loader:
        optimizer.step()
        lr.step()
        loader.batch_size = next(sizes, loader.batch_size)
        seen.append(lr.updates)
    assert seen == [1, 60, *[60] * 29]


@pytest.mark.parametrize("name", ["onecycle", "cosine", "sequential"])
def test_it_ends_at_its_end_and_stays_there(name):
    """40 updates of 6 samples are 4 epochs; 2 more follow, where OneCycleLR raises and a cosine climbs again."""
    loader, optimizer = loader_of(6), optimizer_of(momentum=0.9)
    lr = ab.by_samples(MAKERS[name](optimizer), loader)
    growth = ab.schedules.geometric(2, every=ab.epochs(1), maximum=48)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth)
    for _ in range(6):
        for _ in loader:
            optimizer.step()
            batches.step()
            lr.step()
    assert lr.updates == 39
    assert float(optimizer.param_groups[0]["lr"]) == lrs(name, 60)[-1] == lrs(name, 40)[-1]


def test_an_end_can_be_given():
    loader, optimizer = loader_of(6), optimizer_of()
    lr = ab.by_samples(torch_lr.LambdaLR(optimizer, lambda step: abs(1 - step / 10)), loader, end=10)
    run(loader, optimizer, lr, 3)
    assert (lr.updates, optimizer.param_groups[0]["lr"]) == (10, 0.0)


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_order_of_the_two_steps_is_free(order):
    loader, optimizer = loader_of(6), optimizer_of()
    lr = ab.by_samples(torch_lr.ExponentialLR(optimizer, gamma=0.5), loader)
    batches, seen = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:6 12:18")), []
    for _ in loader:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for each in (lr, batches) if order == "before" else (batches, lr):
            each.step()
    assert seen == [0.4, 0.2, 0.1, 0.1 / 8, 0.1 / 64]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(
    ("size", "N", "base", "lrs"),
    [
        (7, 12, 4, [1.0, 1 / 8, 1 / 64]),  # 3 updates of 4 an epoch; a batch of 7, and a rest of 5 that is dropped
        (4, 10, 3, [1.0, 1 / 2, 1 / 8, 1 / 16, 1 / 64, 1 / 128]),
        (3, 7, 3, [1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]),
    ],
)
def test_what_drop_last_drops_has_passed_in_either_order_of_the_two_steps(order, size, N, base, lrs):
    loader, optimizer = ab.DataLoader(torch.arange(N), batch_size=size, drop_last=True), optimizer_of()
    optimizer.param_groups[0]["lr"] = 1.0
    lr = ab.by_samples(torch_lr.ExponentialLR(optimizer, gamma=0.5), loader, base_batch_size=base)
    batches, seen = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant()), []
    for _ in range(3):
        for _ in loader:
            seen.append((loader.current.clock, optimizer.param_groups[0]["lr"]))
            optimizer.step()
            for each in (lr, batches) if order == "before" else (batches, lr):
                each.step()
    starts = [start for epoch in range(3) for start in range(epoch * N, (epoch + 1) * N - size + 1, size)]
    naive = [0.5 ** (start // N * (N // base) + start % N // base) for start in starts]
    assert seen == list(zip(starts, naive, strict=True))
    assert naive == lrs


def test_a_scheduler_that_the_user_also_steps_is_refused():
    loader, optimizer = loader_of(6), optimizer_of()
    decay = torch_lr.ExponentialLR(optimizer, gamma=0.5)
    lr = ab.by_samples(decay, loader)
    for _ in loader:
        optimizer.step()
        lr.step()
        decay.step()
        break
    with pytest.raises(RuntimeError, match=r"must be stepped by `by_samples` alone, got 2 steps instead of 1"):
        lr.step()


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_of_a_chain_that_the_user_also_steps_is_refused(part):
    loader, optimizer = loader_of(6), optimizer_of()
    parts = [torch_lr.ConstantLR(optimizer), torch_lr.ExponentialLR(optimizer, gamma=0.5)]
    lr = ab.by_samples(torch_lr.ChainedScheduler(parts), loader)
    for _ in loader:
        optimizer.step()
        lr.step()
        parts[part].step()
        break
    with pytest.raises(RuntimeError, match="ChainedScheduler whose parts have taken as many steps each, got "):
        lr.step()


def test_resumed_at_any_update_it_is_the_same_run():
    def parts():
        optimizer = optimizer_of(momentum=0.9)
        decay = torch_lr.OneCycleLR(optimizer, max_lr=0.5, total_steps=40)
        loader = loader_of(6, seed=0, shuffle=True)
        growth = ab.schedules.geometric(1.5, every=ab.epochs(1), maximum=30)
        batches = ab.BatchSizeScheduler(optimizer, loader, growth)
        return {
            "optimizer": optimizer,
            "decay": decay,
            "loader": loader,
            "batches": batches,
            "lr": ab.by_samples(decay, loader, base_batch_size=6),
        }

    def train(own, seen, until):
        while len(seen) < until:
            for batch in own["loader"]:
                seen.append((batch.tolist(), own["optimizer"].param_groups[0]["lr"], own["batches"].batch_size))
                own["optimizer"].step()
                own["batches"].step()
                own["lr"].step()
                if len(seen) == until:
                    break
        return seen

    whole = train(parts(), [], 24)
    for stop in (1, 9, 10, 17, 23):
        first = parts()
        seen = train(first, [], stop)
        states = {name: each.state_dict() for name, each in first.items()}
        json.dumps({name: states[name] for name in ("loader", "batches", "lr")})
        second = parts()
        for name in sorted(states, reverse=stop % 2 == 0):
            second[name].load_state_dict(states[name])
        assert train(second, seen, 24) == whole


def test_a_part_of_a_sequence_that_the_user_also_steps_is_refused():
    loader, optimizer = loader_of(6), optimizer_of(momentum=0.9)
    scheduler: torch_lr.SequentialLR = MAKERS["sequential"](optimizer)
    lr = ab.by_samples(scheduler, loader)
    for _ in loader:
        optimizer.step()
        lr.step()
        scheduler._schedulers[0].step()
        with pytest.raises(RuntimeError, match="must be stepped by `by_samples` alone, got one whose part took"):
            lr.step()
        break


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", ["cosine", "sequential", "exponential", "onecycle"])
def test_resumed_without_the_state_of_the_optimizer_it_is_refused(name, tensor):
    def parts():
        optimizer, loader = optimizer_of(momentum=0.9, tensor=tensor), loader_of(6)
        scheduler = MAKERS[name](optimizer)
        return optimizer, loader, scheduler, ab.by_samples(scheduler, loader, base_batch_size=6)

    saved = parts()
    run(saved[1], saved[0], saved[3], 1)
    states = [each.state_dict() for each in saved]
    for order in (range(4), reversed(range(4)), (2, 0, 3, 1)):
        resumed = parts()
        for index in order:
            resumed[index].load_state_dict(states[index])
        run(resumed[1], resumed[0], resumed[3], 1)
    resumed = parts()
    for index in (1, 2, 3):
        resumed[index].load_state_dict(states[index])
    with pytest.raises(RuntimeError, match=r"must have the LR that its LR scheduler left, .* load the optimizer's"):
        run(resumed[1], resumed[0], resumed[3], 1)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_another_lr_after_a_restart_goes_in_as_the_message_says(name, tensor):
    def lr_of(value):
        return torch.tensor(value) if tensor else value

    optimizer, loader = optimizer_of(momentum=0.9, tensor=tensor), loader_of(6)
    scheduler = MAKERS[name](optimizer)
    lr = ab.by_samples(scheduler, loader)
    run(loader, optimizer, lr, 1)
    states = [each.state_dict() for each in (optimizer, loader, scheduler, lr)]

    def resumed():
        optimizer, loader = optimizer_of(momentum=0.9, tensor=tensor), loader_of(6)
        optimizer.load_state_dict(states[0])
        loader.load_state_dict(states[1])
        return optimizer, loader

    optimizer, loader = resumed()
    scheduler = MAKERS[name](optimizer)
    lr = ab.by_samples(scheduler, loader, base_batch_size=6)
    scheduler.load_state_dict(states[2])
    lr.load_state_dict(states[3])
    optimizer.param_groups[0]["lr"] = lr_of(0.0123)
    with pytest.raises(
        RuntimeError,
        match="to go on with another LR give every parameter group the new `lr` and `initial_lr`, make LR scheduler "
        r"and `by_samples` anew without their states, and call `step\(\)` once before the loop",
    ):
        lr.step()

    optimizer, loader = resumed()
    for group in optimizer.param_groups:
        group["lr"], group["initial_lr"] = lr_of(0.04), lr_of(0.04)
    lr = ab.by_samples(MAKERS[name](optimizer), loader, base_batch_size=6)
    lr.step()
    found = run(loader, optimizer, lr, 2)
    fresh = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=lr_of(0.04), momentum=0.9)
    assert [lr for _, lr in found] == sample(MAKERS[name](fresh), 30, freeze=True)[10:]


class Growing(ab.DataLoader):
    """A loader whose data set may get another size."""

    @property
    def dataset_size(self):
        return len(self.dataset)


def test_a_data_set_of_another_size_is_noticed():
    items = list(range(20))
    loader, optimizer = Growing(items, batch_size=5), optimizer_of()
    lr = ab.by_samples(torch_lr.ExponentialLR(optimizer, gamma=0.9), loader)
    run(loader, optimizer, lr, 1)
    items += range(20, 40)
    with pytest.raises(
        RuntimeError,
        match=r"`by_samples` was made for a data set of 20 samples, but the loader's has 40 now; step the LR "
        "scheduler itself from here on, once after each update",
    ):
        lr.step()


def driven(scheduler_of, *, epochs, **options):
    """The first update under `by_samples`, with a plan of known length: 10 updates an epoch."""
    loader, optimizer = ab.DataLoader(torch.arange(100), batch_size=10), optimizer_of(momentum=0.9)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), epochs=epochs)
    lr = ab.by_samples(scheduler_of(optimizer), loader, **options)
    next(iter(loader))
    optimizer.step()
    batches.step()
    lr.step()


@pytest.mark.parametrize(
    ("end", "epochs"), [(200, 200), (199, 200), (201, 200), (20, 200), (4, 4)]
)  # an end at the number of epochs, or in the first hundredth
def test_an_epoch_scheduler_is_refused_where_the_length_is_known(end, epochs):
    with pytest.raises(
        ValueError,
        match=f"the LR scheduler of `by_samples` must count updates, got CosineAnnealingLR, which ends after {end} of "
        f"them, the training of {epochs} epochs after {10 * epochs:,}; one that counts epochs is stepped itself",
    ):
        driven(lambda o: torch_lr.CosineAnnealingLR(o, T_max=end), epochs=epochs)


@pytest.mark.parametrize("end", [11, 98, 10_001])
def test_an_end_far_from_that_of_the_training_is_said(end):
    with pytest.warns(
        UserWarning,
        match=f"must count updates, got OneCycleLR, which ends after {end:,} of them, the training of 100 epochs after "
        "1,000; give it the length of the training, or `end` if it is meant",
    ) as caught:
        driven(lambda o: torch_lr.OneCycleLR(o, max_lr=0.1, total_steps=end + 1), epochs=100)
    assert [warning.filename for warning in caught] == [__file__]


def test_ends_that_fit_pass_in_silence():
    for end in (101, 102, 500, 999, 1000, 1001, 10_000):
        driven(lambda o, end=end: torch_lr.CosineAnnealingLR(o, T_max=end), epochs=100 if end > 101 else 50)
    driven(lambda o: torch_lr.CosineAnnealingLR(o, T_max=10), epochs=1)
    driven(lambda o: torch_lr.StepLR(o, step_size=3), epochs=100)
    driven(lambda o: torch_lr.CosineAnnealingLR(o, T_max=100), epochs=100, end=100)


GONE = {
    "step": (lambda o: torch_lr.StepLR(o, step_size=30, gamma=0.1), 120),
    "exponential": (lambda o: torch_lr.ExponentialLR(o, gamma=0.9), 88),
    "cosine": (lambda o: torch_lr.CosineAnnealingLR(o, T_max=20), 20),
    "warm-up": (
        lambda o: torch_lr.SequentialLR(
            o, [torch_lr.LinearLR(o, 1e-8, total_iters=5), torch_lr.StepLR(o, 10, 0.01)], milestones=[5]
        ),
        25,
    ),
}


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", GONE)
def test_an_lr_that_is_gone_for_as_long_as_it_took_to_fall_is_said_once(name, tensor):
    make, gone = GONE[name]
    loader, optimizer = ab.DataLoader(torch.arange(400), batch_size=1), optimizer_of(tensor=tensor)
    lr, said = ab.by_samples(make(optimizer), loader), []
    for _ in loader:
        optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lr.step()
        said += [(loader.clock, str(warning.message), warning.filename) for warning in caught]
    text = (
        f"the LR under `by_samples` is below 1/10,000 of its highest since update {gone} of the base batch size, and "
        f"update {2 * gone} is reached; an LR scheduler that counts epochs is stepped itself, after each epoch"
    )
    assert said == [(2 * gone, text, __file__)]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=400),
        lambda o: torch_lr.OneCycleLR(o, max_lr=1.0, total_steps=400),
        lambda o: torch_lr.CosineAnnealingLR(o, T_max=20, eta_min=0.001),
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, T_0=20),
        lambda o: torch_lr.CyclicLR(o, base_lr=0.0, max_lr=1.0, step_size_up=8, cycle_momentum=False),
        lambda o: torch_lr.LambdaLR(o, lambda step: min(1.0, step / 300)),
        lambda o: torch_lr.LambdaLR(o, lambda step: 0.0),
        lambda o: torch_lr.LambdaLR(o, lambda step: max(0.0, 1 - step / 400)),
    ],
)
def test_an_lr_that_is_not_gone_passes_in_silence(make):
    loader, optimizer = ab.DataLoader(torch.arange(400), batch_size=1), optimizer_of(momentum=0.9)
    run(loader, optimizer, ab.by_samples(make(optimizer), loader), 1)


def test_among_micro_batches_it_is_stepped_after_the_last():
    loader, model = ab.DataLoader(torch.randn(N, 2), batch_size=12, micro_batch_size=4), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    lr = ab.by_samples(torch_lr.ExponentialLR(optimizer, gamma=0.5), loader)
    evaluate, seen = every(loader, ab.samples(24)), []
    for micro in ab.accumulate(loader, model):
        with micro as inputs:
            (model(inputs).mean() * micro.weight).backward()
        if not micro.is_last:
            with pytest.raises(RuntimeError, match=r"called after micro-batch . of 3; call it after the last one"):
                lr.step()
        else:
            optimizer.step()
            lr.step()
            seen.append(optimizer.param_groups[0]["lr"])
        assert evaluate.due() == (micro.is_last and len(seen) in (2, 4))
    assert seen == [0.5, 0.25, 0.125, 0.0625, 0.03125]


def test_states_that_do_not_fit_are_refused():
    loader, optimizer = loader_of(6), optimizer_of()
    decay = torch_lr.ExponentialLR(optimizer, gamma=0.5)
    lr = ab.by_samples(decay, loader)
    run(loader, optimizer, lr, 1)
    state = lr.state_dict()
    with pytest.raises(ValueError, match="must have the same base_batch_size: it was saved with 6, this run has 5"):
        ab.by_samples(decay, loader, base_batch_size=5).load_state_dict(state)
    with pytest.raises(ValueError, match=r"`state` must be what `state_dict\(\)` of `by_samples` gave"):
        lr.load_state_dict({"updates": 3})
    fresh = ab.by_samples(torch_lr.ExponentialLR(optimizer_of(), gamma=0.5), loader, base_batch_size=6)
    fresh.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"got 0 steps instead of 10; .* when resuming load both states"):
        fresh.step()
    behind = ab.by_samples(decay, loader_of(6))
    with pytest.raises(RuntimeError, match="load the states of loader, LR scheduler and `by_samples` together"):
        behind.step()
    with pytest.raises(ValueError, match="`base_batch_size` must be given when the loader has passed samples"):
        ab.by_samples(decay, loader)


def test_what_cannot_be_run_on_samples():
    optimizer = optimizer_of()
    decay = torch_lr.ExponentialLR(optimizer, gamma=0.5)
    with pytest.raises(TypeError, match=r"must be a function of progress, got ReduceLROnPlateau"):
        ab.by_samples(torch_lr.ReduceLROnPlateau(optimizer), loader_of(6))
    with pytest.raises(TypeError, match=r"`loader` must be an ab.DataLoader, got list"):
        ab.by_samples(decay, [1, 2])
    with pytest.raises(ValueError, match="`base_batch_size` must be at least 1, got 0"):
        ab.by_samples(decay, loader_of(6), base_batch_size=0)
    with pytest.raises(ValueError, match="`base_batch_size` must be at most the 60 samples of the data, got 61"):
        ab.by_samples(decay, loader_of(6, drop_last=True), base_batch_size=61)
    with pytest.raises(ValueError, match="`end` must be at least 1, got 0"):
        ab.by_samples(decay, loader_of(6), end=0)


# Under random histories: train, stop anywhere, make everything anew, load, go on; for every LR scheduler.

GROWTH = ab.schedules.steps("0:4 20:9 70:3 100:20 200:6")


class Training:
    """Everything that a script makes at its start."""

    def __init__(self, name, kind):
        self.optimizer = optimizer_of(kind=kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        self.lr_scheduler = MAKERS[name](self.optimizer)
        self.loader = ab.DataLoader(torch.arange(N), batch_size=4, seed=0)
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, GROWTH, coupling="power(0.75)")
        self.lr = ab.by_samples(self.lr_scheduler, self.loader, base_batch_size=4)

    def state(self):
        own = {name: json.loads(json.dumps(getattr(self, name).state_dict())) for name in ("loader", "batches", "lr")}
        return own | {name: getattr(self, name).state_dict() for name in ("optimizer", "lr_scheduler")}

    def load(self, state):
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


@pytest.mark.filterwarnings("ignore:the LR under `by_samples` is below")  # some are over long before the history is
@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MAKERS)),
    kind=st.sampled_from([torch.optim.SGD, torch.optim.AdamW]),
    stretches=st.lists(st.integers(1, 12), min_size=1, max_size=6),
)
def test_base_lr_and_lr_in_force_are_where_closed_form_says(name, kind, stretches):
    course = lrs(name, 400)
    baseline, training = Baseline(4, N), Training(name, kind)
    for stretch in stretches:
        left = stretch
        while left:
            for _ in training.loader:
                current = training.loader.current
                base = course[baseline.update_at(current.clock)]
                assert training.optimizer.param_groups[0]["lr"] == pytest.approx(base, rel=1e-12, abs=1e-15)
                training.optimizer.step()
                assert training.optimizer.param_groups[0]["lr"] == pytest.approx(base, rel=1e-12, abs=1e-15)
                training.batches.step()
                if base:
                    expected = base * (current.requested / 4) ** 0.75
                    assert training.batches.last_lr[0] == pytest.approx(expected, rel=1e-12)
                training.lr.step()
                left -= 1
                if not left:
                    break
        state = training.state()
        training = Training(name, kind)
        training.load(state)


# The baseline.


@pytest.mark.parametrize("mode", [{}, {"drop_last": True}, {"run_on": True}])
@pytest.mark.parametrize(("size", "N"), [(4, 10), (3, 9), (7, 10), (10, 10), (1, 3)])
def test_it_is_the_plan_of_the_constant_batch(size, N, mode):
    base, plan = Baseline(size, N, **mode), constant(size).plan(dataset_size=N, epochs=5, **mode)
    for update, batch in enumerate(plan):
        assert base.clock_of(update) == batch.clock
        for clock in range(batch.clock, batch.clock + batch.size):
            assert base.update_at(clock) == update
        for clock in range(batch.clock + batch.size, batch.end):  # dropped
            assert base.update_at(clock) == update + 1
    assert base.updates(5) == plan.updates
    assert base.update_at(5 * N) == plan.updates or mode == {"run_on": True}


def test_a_stream_has_no_epochs():
    base = Baseline(4, None)
    assert [base.clock_of(3), base.update_at(12), base.update_at(15)] == [12, 3, 3]
