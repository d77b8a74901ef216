"""Growth by branches, against the formula transcribed with scipy's quantiles, and at the level that is claimed."""

from __future__ import annotations

import math
import random
import re
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.policies.checks import branched

import adabatch as ab
from adabatch import policies
from adabatch.policies import branch
from adabatch.types import Fork, Observation, Rollback

SAMPLES = 51200
AT = Observation(10240, 160, 64, samples=SAMPLES)
ERROR = 0.05 * 50 / (50 * 51)  # of the first look


def forked(policy, **state):
    """The state after the first fork."""
    fork, after = policy.decide(AT, policy.init())
    assert isinstance(fork, Fork)
    return fork, {**after, **state}


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-0.02, 0.02),
    st.floats(1e-5, 0.03),
    st.floats(0.003, 0.1),
    st.integers(0, 2**32),
)
def test_it_grows_where_the_upper_end_of_the_interval_is_tolerated(mean, std, tolerance, seed):
    policy, noise = branch(tolerance, maximum=256, pairs=4), random.Random(seed)
    _, state = forked(policy)
    present = [math.exp(noise.gauss(0, 1)) for _ in range(4)]
    larger = [loss * math.exp(noise.gauss(mean, std)) for loss in present]
    decision, _ = policy.decide(
        Observation(10240, 160, 64, samples=SAMPLES, branches=(tuple(present), tuple(larger))), state
    )
    logs = [math.log(theirs / mine) for theirs, mine in zip(larger, present, strict=True)]
    wide = stats.t.ppf(1 - ERROR, 3) * stdev(logs) / 2
    if fmean(logs) + wide > math.log(1 + tolerance):
        assert decision.batch_size == 64
    if fmean(logs) + 1.1 * wide <= math.log(1 + tolerance):  # the quantile in closed form is up to 10 % longer
        assert decision.batch_size == 128


@settings(max_examples=200, deadline=None)
@given(st.floats(-0.3, 0.3), st.floats(1e-4, 0.05), st.integers(0, 2**32))
def test_it_goes_back_where_the_loss_rose(rise, std, seed):
    policy, noise = branch(maximum=256), random.Random(seed)
    earlier = [noise.gauss(0, std) for _ in range(4)]
    before = {"clock": 5000, "batch_size": 32, "losses": earlier}
    _, state = forked(policy, before=before, first=32)
    present = [math.exp(noise.gauss(rise, std)) for _ in range(4)]
    seen = Observation(10240, 160, 64, samples=SAMPLES, branches=(tuple(present), (1e9,) * 4))
    decision, after = policy.decide(seen, state)
    logs = [math.log(loss) for loss in present]
    error = math.sqrt((stdev(earlier) ** 2 + stdev(logs) ** 2) / 4)
    low = fmean(logs) - fmean(earlier) - stats.t.ppf(1 - ERROR, 6) * error
    if low <= 0:
        assert (type(decision).__name__, decision.batch_size) == ("Decision", 64)
        assert after["before"] is None, "the growth stands"
    if low > 0.06 * error:  # the closed form at 6 degrees is longer by 0.051 of it
        assert isinstance(decision, Rollback)
        assert (decision.clock, decision.batch_size) == (5000, 32)
        assert "% higher or more than before" in decision.reason
        assert decision.reason.endswith("at sample 10,240, after the growth to 64: back to 32")
        assert (after["before"], after["next"]) == (None, 5000 + 10240), "it does not try again before that place"


def test_a_loss_that_is_not_finite_leads_back_only_if_a_growth_is_on_trial():
    policy = branch(maximum=256)
    seen = Observation(10240, 160, 64, samples=SAMPLES, loss=math.nan)
    decision, _ = policy.decide(seen, {**policy.init(), "first": 64, "next": 20480})
    assert (type(decision).__name__, decision.reason) == ("Decision", "a loss was not finite")
    before = {"clock": 5000, "batch_size": 32, "losses": [0.0] * 4}
    decision, after = policy.decide(seen, {**policy.init(), "first": 32, "next": 20480, "before": before})
    assert isinstance(decision, Rollback)
    assert after["next"] == 5000 + 10240, "not at once: it would diverge again and again"
    assert not policy.on_trial(after)


def test_pairs_follow_while_it_is_open():
    policy, orders = branch(0.01, maximum=256, pairs=10), []
    fork, state = forked(policy)
    while isinstance(fork, Fork):
        orders += fork.orders
        rows = tuple(
            tuple(math.exp(0.02 * math.sin(9 * order) * (size == 128)) for order in fork.orders) for size in fork.sizes
        )
        fork, state = policy.decide(Observation(10240, 160, 64, samples=SAMPLES, branches=rows), state)
    assert orders == list(range(10))
    assert re.fullmatch(
        r"after 10 pairs of branches the loss at 128 is 0\.\d\d % (higher|lower), .*: cannot tell", fork.reason
    )
    assert state["next"] == 20480


def test_it_rarely_grows_falsely():
    """The larger batch is worse by just what is tolerated, at each of four places, and noise is normal."""
    grown = 0
    for training in range(400):
        noise = random.Random(training)

        def loss(_clock, size, _order, noise=noise):
            return math.exp(noise.gauss(math.log1p(0.01) * (size > 32), 0.01))

        # It decides once from each state alone: a second call would see other noise.
        policy = branch(0.01, maximum=64)
        state, seen = policy.init(), Observation(0, 0, 32, samples=SAMPLES)
        for clock in range(10240, SAMPLES, 10240):
            decision, state = policy.decide(Observation(clock, clock // 32, 32, samples=SAMPLES), state)
            while isinstance(decision, Fork):
                rows = tuple(tuple(loss(clock, size, order) for order in decision.orders) for size in decision.sizes)
                seen = Observation(clock, clock // 32, 32, samples=SAMPLES, branches=rows)
                decision, state = policy.decide(seen, state)
            if decision.batch_size > 32:
                grown += 1
                break
    assert grown / 400 <= 0.05


def test_it_grows_soon_where_a_larger_batch_does_no_harm():
    found = branched(branch(0.01, maximum=256), lambda clock, size, order: math.exp(0.001 * math.sin(3 * order + size)))
    assert [each.batch_size for each in found][:4] == [32, 64, 128, 256]


def test_at_the_maximum_it_watches_the_last_growth_and_then_rests():
    found = branched(branch(0.01, maximum=64), lambda clock, size, order: 1.0 + order / 1e6)
    assert [each.batch_size for each in found][:3] == [32, 64, 64]
    assert found[-1].reason == "stays at the maximum of 64"


def test_there_must_be_room():
    found = branched(branch(0.01, maximum=64, every=0.5, window=0.6), lambda *_: 1.0)
    assert found[-1].reason == "no room is left for branches of 78,656 samples"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tolerance": 0}, "`tolerance` must be greater than 0"),
        ({"tolerance": 1.5}, "`tolerance` must be less than 1"),
        ({"every": 1}, "`every` must be less than 1"),
        ({"window": -1}, "`window` must be greater than 0"),
        ({"pairs": 1}, "`pairs` must be at least 2"),
        ({"pairs": 2.5}, "`pairs` must be a whole number"),
        (
            {"shrinks": True},
            "`shrinks` must be False for branches, got True; leave it out: a growth that hurt is taken",
        ),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        branch(**given, maximum=64)


def test_it_must_know_the_length():
    with pytest.raises(ValueError, match="`samples` must be known to place branches, got none; tell"):
        branch(maximum=64).decide(Observation(0, 0, 32), branch(maximum=64).init())


@pytest.mark.parametrize("state", [None, [], {}, {"first": 1}, {**branch(maximum=64).init(), "more": 1}])
def test_a_damaged_state(state):
    with pytest.raises(
        ValueError, match=r"`state` must hold first, next, .* of the policy 'branch', got a damaged one"
    ):
        branch(maximum=64).checked(state)


def test_a_scheduler_refuses_it():
    data = torch.utils.data.TensorDataset(torch.zeros(8, 1))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(
        ValueError, match=r"must not be the policy 'branch', .*; write `adabatch train TASK --policy br"
    ):
        ab.BatchSizeScheduler(optimizer, ab.DataLoader(data, batch_size=2), policies.branch(maximum=4))
