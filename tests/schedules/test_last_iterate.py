"""`last_iterate`: the closed form minimises the bound that it comes from, and keeps the updates of the mean batch."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import adabatch as ab
from adabatch import epochs, lr_clock, samples, tokens, updates
from adabatch.schedules import Schedule, clamp, constant, last_iterate, then

N, E = 50_000, 30
COSINE = [(epochs(epoch), 1 + math.cos(math.pi * epoch / E)) for epoch in range(E)]
WSD = [(epochs(epoch), min(1.0, (E - epoch) / 6)) for epoch in range(E)]
STEPS = {0: 0.1, epochs(15): 0.02, epochs(25): 0.004}
TABLES = {"constant": {0: 0.1}, "cosine": COSINE, "wsd": WSD, "steps": STEPS}


def plan(lr, *, mean=64, minimum=16, maximum=256, over=None, **mode):
    growth = last_iterate(lr, over=over or epochs(E), minimum=minimum, maximum=maximum)
    return growth.plan(dataset_size=N, epochs=E, batch_size=mean, **({"run_on": True} | mode))


# The bound.


def left(lr):
    """The sum of the LRs after each update; after the last one its own."""
    after = np.cumsum(lr[::-1])[::-1]
    return np.append(after[1:], lr[-1])


def noise_bound(lr, sizes):
    """The part of the bound that the sizes change, for gradients of single samples with variance 1."""
    return float(np.sum(lr**2 / (left(lr) * sizes)) / 2)


def theorem(lr, squares):
    """The bound of Defazio et al. as it is printed, without the distance: `squares` are those of the gradients."""
    T, total = len(lr), np.sum(lr**2 * squares) / (2 * np.sum(lr))
    for k in range(T - 1):
        rest = np.sum(lr[k:] ** 2 * squares[k:]) / np.sum(lr[k:])
        total += lr[k] / np.sum(lr[k + 1 :]) * rest / 2
    return float(total)


def smallest(lr, samples_in_all, minimum=0.0, maximum=math.inf):
    """The sizes that minimise the bound at so many samples, within bounds: the condition of the Lagrangian, clamped."""
    shape, low, high = lr / np.sqrt(left(lr)), -40.0, 40.0

    def sizes(log_c):
        return np.clip(math.exp(log_c) * shape, minimum, maximum)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sizes(middle).sum() < samples_in_all else (low, middle)
    return sizes(high)


def in_updates(found, lr):
    """The LR and the size of each whole batch of a plan; `lr` is a table in epochs."""
    pairs = lr.items() if isinstance(lr, dict) else lr
    thresholds, lrs = zip(*((0 if at == 0 else int(at.count * N), value) for at, value in pairs), strict=True)
    batches = [batch for batch in found if batch.size == batch.requested]
    index = np.searchsorted(thresholds, [batch.clock for batch in batches], side="right") - 1
    return np.array(lrs)[index], np.array([float(batch.size) for batch in batches])


def test_the_bound_as_printed_is_one_sum():
    """The weights telescope to 1 / (sum of the LRs after the update)."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        lr, squares = generator.uniform(0.1, 2, 9), generator.uniform(0.1, 2, 9)
        assert theorem(lr, squares) == pytest.approx(np.sum(lr**2 * squares / left(lr)) / 2)


@pytest.mark.parametrize("bounds", [(1e-3, 1e3), (4.0, 20.0)])
def test_a_numeric_optimiser_finds_the_closed_form(bounds):
    lr = 0.2 + np.cos(np.arange(12) / 8) ** 2
    found = minimize(
        lambda sizes: 100 * noise_bound(lr, sizes),
        np.full(12, 10.0),
        bounds=[bounds] * 12,
        constraints={"type": "eq", "fun": lambda sizes: np.sum(sizes) - 120},
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success
    expected = smallest(lr, 120, *bounds)
    assert found.x == pytest.approx(expected, rel=1e-3)
    if bounds[1] > 100:
        shape = lr / np.sqrt(left(lr))
        assert expected == pytest.approx(120 * shape / shape.sum())


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("bounds", [(16, 256), (40, 100), (1, 2000)])
def test_a_plan_comes_near_the_smallest_bound(name, bounds):
    """For the LRs that its updates have, no whole batches within the bounds with as many samples do better by 1 %."""
    found = plan(TABLES[name], minimum=bounds[0], maximum=bounds[1])
    lr, sizes = in_updates(found, TABLES[name])
    best, flat = smallest(lr, sizes.sum(), *bounds), np.full(len(lr), sizes.mean())
    assert noise_bound(lr, best) * (1 - 1e-9) <= noise_bound(lr, sizes) <= 1.01 * noise_bound(lr, best)
    assert noise_bound(lr, sizes) < 0.95 * noise_bound(lr, flat)


# The schedule.


@pytest.mark.parametrize("name", TABLES)
def test_sizes_follow_the_lr_over_the_samples_left(name):
    found = plan(TABLES[name], minimum=1, maximum=N)
    lr, sizes = in_updates(found, TABLES[name])
    wanted = lr / (N * E - np.array([batch.clock for batch in found][: len(lr)]))
    k = np.median(sizes / wanted)
    assert np.all(np.abs(sizes - k * wanted) <= 0.5 + 0.005 * sizes)


def test_under_a_constant_lr_the_first_batch_is_half_the_mean():
    """B(t) = k / (S - t) and S**2 / (2 k) updates give k = S * mean / 2."""
    found = plan({0: 3.0}, minimum=1, maximum=N)
    for share in (0, 0.3, 0.5, 0.9):
        assert found.batch_size_at(int(share * N * E)) == math.floor(32 / (1 - share) + 0.5)


@settings(max_examples=60, deadline=None)
@given(
    lrs=st.lists(st.sampled_from([0, 1e-3, 0.1, 0.5, 1, 3]), min_size=1, max_size=6).filter(any),
    minimum=st.integers(1, 20),
    more=st.integers(0, 200),
    share=st.floats(0, 1),
)
# Nearly all batches at the minimum, or at the maximum: there the updates hardly depend on k.
@example([1, 0], 1, 299, 1 / 299)
@example([1e-3, 1], 1, 199, 198 / 199)
def test_the_updates_are_those_of_the_mean_batch(lrs, minimum, more, share):
    """Exactly so as an integral, but for the starts of sizes, which are rounded up to whole samples."""
    maximum, mean, S = minimum + more, minimum + round(share * more), 200_000
    table = [(S * place // len(lrs), lr) for place, lr in enumerate(lrs)]
    growth = last_iterate(table, over=samples(S), minimum=minimum, maximum=maximum, mean=mean)
    found = growth.plan(dataset_size=S, epochs=1)
    sizes, ends = found.batch_sizes, [*found.starts_samples[1:], S]
    integral = sum((end - start) / size for start, end, size in zip(found.starts_samples, ends, sizes, strict=True))
    rounding = sum(abs(1 / before - 1 / after) for before, after in itertools.pairwise(sizes))
    assert integral == pytest.approx(S / mean, abs=rounding + 1e-6)
    falls = sum(before / after for before, after in itertools.pairwise(sizes) if after < before)
    assert -1 - falls <= found.updates - S / mean <= 2 + len(lrs) + math.log(maximum / minimum) / 2
    assert all(minimum <= size <= maximum for size in sizes)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("mode", "off"), [({}, 2), ({"run_on": False}, E), ({"run_on": False, "drop_last": True}, E)])
def test_updates_of_whole_batches(name, mode, off):
    flat = constant(64).plan(dataset_size=N, epochs=E, **({"run_on": True} | mode))
    assert abs(plan(TABLES[name], **mode).updates - flat.updates) <= off


def test_an_lr_of_zero_takes_the_minimum():
    warm = plan({0: 0.0, epochs(2): 1.0})
    assert warm.batch_size_at(0) == warm.batch_size_at(2 * N - 1) == 16
    assert warm.batch_size_at(2 * N) > 16
    ended = plan({0: 1.0, epochs(25): 0.0})
    assert {ended.batch_size_at(clock) for clock in range(25 * N, 30 * N - 1, 9973)} == {16}
    # Where the mean asks for more than the maximum everywhere else, batches grow there too.
    more = plan({0: 1.0, epochs(20): 0.0}, mean=250)
    assert more.batch_size_at(0) == 256
    assert more.batch_size_at(20 * N) > 100
    assert abs(more.updates - N * E / 250) <= 2


@pytest.mark.parametrize("mean", [16, 256])
def test_a_mean_at_a_bound_is_a_constant_batch(mean):
    assert plan(STEPS, mean=mean).batch_sizes == (mean,)


def test_after_its_length_the_last_size_holds():
    growth = last_iterate({0: 1}, over=epochs(2), minimum=2, maximum=40)
    longer = growth.plan(dataset_size=1000, epochs=4, batch_size=8)
    assert longer.batch_size_at(2000) == longer.batch_sizes[-1] == 40
    assert growth.plan(dataset_size=1000, batch_size=8).starts_samples == longer.starts_samples
    stream = last_iterate({0: 1}, over=tokens(8000), minimum=2, maximum=40)
    assert stream.plan(dataset_size=None, batch_size=8, tokens_per_sample=4).starts_samples == longer.starts_samples


def test_functions_and_lr_schedulers():
    S = N * E

    def cosine(clock):
        return 1 + math.cos(math.pi * clock / S)

    function = plan(cosine, over=samples(S), minimum=4)
    for share in (0, 0.2, 0.5, 0.8, 0.95):
        shape = [cosine(share * S) / (1 - share), cosine(0)]
        assert function.batch_size_at(int(share * S)) == pytest.approx(
            function.batch_sizes[0] * shape[0] / shape[1], abs=0.6
        )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    by_epochs = lr_clock.table(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=E), epochs=E)
    assert plan(by_epochs).starts_samples == plan(COSINE).starts_samples
    each = last_iterate(lambda clock: 5.0 - clock, over=samples(4), minimum=1, maximum=4)
    assert [lr for _, lr in each.lr] == [1.0, 0.8, 0.6, 0.4]


def test_the_second_of_two_schedules_counts_from_where_it_begins():
    whole = last_iterate({0: 1, 300: 0.2}, over=samples(900), minimum=2, maximum=40)
    moved = then(constant(8), whole, after=samples(100)).plan(dataset_size=None)
    alone = whole.plan(dataset_size=None, batch_size=8)
    assert moved.starts_samples[1:] == tuple(100 + start for start in alone.starts_samples)
    assert moved.batch_sizes[1:] == alone.batch_sizes


# With a loader.


def trained(growth, *, stop=None, state=None):
    """Sizes and LRs in force of a training of 4 epochs, and its states after `stop` updates."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(101, 3), torch.randn(101, 1))
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = ab.DataLoader(data, batch_size=8, shuffle=True, seed=0)
    if state is not None:
        loader.load_state_dict(state[0])
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, epochs=4)
    if state is not None:
        batches.load_state_dict(state[1])
    seen = []
    while loader.clock < 4 * 101:
        for inputs, targets in loader:
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            seen.append((len(inputs), *batches.last_lr))
            batches.step()
            if len(seen) == stop:
                return seen, json.loads(json.dumps([loader.state_dict(), batches.state_dict()]))
    return seen, batches.plan


@pytest.mark.parametrize("mean", [None, 8])
def test_a_training_that_is_resumed_in_the_middle(mean):
    growth = last_iterate({0: 1, epochs(1): 2, epochs(3): 0}, over=epochs(4), minimum=2, maximum=20, mean=mean)
    seen, found = trained(growth)
    assert seen == [(batch.size, 0.01) for batch in found]
    assert len(found.sizes) > 3
    for stop in (3, 20, 40):
        before, state = trained(growth, stop=stop)
        after, _ = trained(Schedule.from_json(growth.to_json()), state=state)
        assert before + after == seen


def test_a_loader_of_another_size_than_the_mean():
    growth = last_iterate({0: 1}, over=epochs(4), minimum=2, maximum=20, mean=10)
    with pytest.raises(ValueError, match="`schedule` must start at the loader's batch size of 8, got a start of 10"):
        trained(growth)
    with pytest.raises(ValueError, match="`batch_size` must be 10, the start of the schedule, got 8"):
        growth.plan(dataset_size=101, epochs=4, batch_size=8)


# Words.


def test_lengths_that_may_be_in_a_wrong_unit():
    growth = last_iterate({0: 0.1, 20: 0.05}, over=epochs(E), minimum=4, maximum=99)
    with pytest.warns(
        UserWarning, match="the LR of `last_iterate` changes for the last time after 20 samples of 30 ep"
    ):
        growth.plan(dataset_size=N, epochs=E, batch_size=8)
    growth = last_iterate({0: 0.1}, over=samples(E), minimum=4, maximum=99)
    with pytest.warns(UserWarning, match="`over` of `last_iterate`, 30 samples, is over early in 1,500,000 samples"):
        growth.plan(dataset_size=N, epochs=E, batch_size=8)


GOOD = {"over": epochs(9), "minimum": 4, "maximum": 20}


@pytest.mark.parametrize(
    ("lr", "options", "message"),
    [
        ({0: 0}, {}, "`lr` must be above 0 somewhere, got 0 throughout"),
        ({0: 1, epochs(9): 2}, {}, "`lr` must have thresholds below `over` = 9 epochs, got 9 epochs; give `over` the"),
        ({0: 1}, {"over": updates(9)}, "`over` must be in epochs, samples or tokens, got '9 updates'; the batch size"),
        ({0: 1}, {"over": epochs(0)}, "`over` must be longer than 0"),
        (math.cos, {}, "`over` must be in samples for a function, got '9 epochs'; or give a table"),
        (lambda clock: -1.0, {"over": samples(8)}, "`lr` must be at least 0, got -1.0; found at 0 samples"),
        ({0: 1}, {"maximum": 3}, "`maximum` must be at least `minimum` = 4, got 3"),
        ({0: 1}, {"mean": 3}, "`mean` must be the mean size, from `minimum` = 4 to `maximum` = 20, got 3; no sizes"),
        ({0: 1}, {"mean": 21}, "`mean` must be the mean size, from `minimum` = 4 to `maximum` = 20, got 21"),
        ({0: 1}, {"round_to": 3}, "`minimum` must be a multiple of `round_to` = 3, got 4; write 3 or 6"),
        ({0: 1}, {"round_to": 0}, "`round_to` must be at least 1"),
        ({0: 1}, {"minimum": 0}, "`minimum` must be at least 1"),
    ],
)
def test_bad_arguments(lr, options, message):
    with pytest.raises(ValueError, match=message):
        last_iterate(lr, **GOOD | options)


def test_bad_kinds():
    with pytest.raises(TypeError, match=r"`over` must be a length such as epochs\(20\)"):
        last_iterate({0: 1}, over=9, minimum=4, maximum=20)
    with pytest.raises(TypeError, match=r"`mean` must be a whole number, got 6.5"):
        last_iterate({0: 1}, **GOOD, mean=6.5)


@pytest.mark.parametrize(
    ("lr", "arguments", "message"),
    [
        (
            {0: 1},
            {"batch_size": 21},
            "`batch_size` must be the mean size, from `minimum` = 4 to `maximum` = 20, got 21",
        ),
        ({0: 1}, {}, "`batch_size` must be given for a schedule without a start of its own"),
        ({0: 1, 900: 2}, {"batch_size": 8}, "`lr` must have thresholds below `over` = 9 epochs, got 900 samples"),
        ({0: 1, epochs(1): 2, 100: 3}, {"batch_size": 8}, "`lr` must have increasing thresholds, got 100 samples"),
        ({0: 1}, {"batch_size": 8, "dataset_size": None, "epochs": None}, "`dataset_size` must be given to count 9 ep"),
    ],
)
def test_what_a_plan_finds_out(lr, arguments, message):
    with pytest.raises(ValueError, match=message):
        last_iterate(lr, **GOOD).plan(**{"dataset_size": 100, "epochs": 9} | arguments)


def test_batches_larger_than_the_data_set():
    growth = last_iterate({0: 1}, over=epochs(4), minimum=2, maximum=50)
    with pytest.raises(ValueError, match="`batch_size` must be at most the 20 samples of the data set"):
        growth.plan(dataset_size=20, epochs=8, batch_size=8)
    assert max(clamp(growth, maximum=20).plan(dataset_size=20, epochs=8, batch_size=8).batch_sizes) == 20


def test_it_says_what_it_is():
    growth = last_iterate({0: 3, epochs(1): 3, epochs(2): 1.5}, **GOOD)
    assert (
        growth.describe()
        == "as the LR over what is left of 9 epochs, with the updates of the loader's batch size, from 4 to 20"
    )
    assert growth.lr == ((samples(0), 1.0), (epochs(2), 0.5))
    named = last_iterate({0: 1}, over=epochs(9), minimum=4, maximum=2000, mean=8, round_to=4)
    assert named.describe().endswith("with the updates of 8, from 4 to 2,000 in multiples of 4")
    assert (growth.coupling, growth.initial, named.initial) == ("none", None, 8)
