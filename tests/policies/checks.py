"""The contract of every policy; each row of `test_contract.py` goes through it."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from math import exp, inf, nan, sin

import pytest

from adabatch import policies
from adabatch.types import Fork, NoiseEstimate, Observation, Rollback

FIRST = 32


def seen(noise, *, batch_size=FIRST, number=0, **other):
    """An observation with an LR and a loss, which some policies need."""
    return Observation(number * batch_size, number, batch_size, **{"lr": 1.0, "loss": 1.0, "noise": noise} | other)


def known(noise_scale, *, number=0, measured=1000.0, width=1.001):
    """A precise estimate, another one for each number."""
    signal = 1 + number / 1e9
    return NoiseEstimate(noise_scale, noise_scale / width, noise_scale * width, noise_scale * signal, signal, measured)


def follow(policy, noises, *, batch_size=FIRST, **other):
    """The decisions from one estimate after the other, each acted on; checks each against the contract."""
    state, sizes, found = policy.init(), policy.sizes(batch_size), []
    for number, noise in enumerate(noises):
        observation = seen(noise, batch_size=batch_size, number=number, **other)
        before = copy.deepcopy(state)
        decision, after = policy.decide(observation, state)
        assert state == before, "it must not write into the state that it was given"
        again = policy.decide(observation, json.loads(json.dumps(state, allow_nan=False)))
        assert again == (decision, after), "it must decide the same from a state that went through JSON"
        assert decision.clock == observation.clock
        assert decision.observation == observation
        assert decision.reason
        check_decision(policy, decision, sizes)
        state, batch_size = after, decision.batch_size
        found.append(decision)
    return found


def check_decision(policy, decision, sizes):
    """Checks that a decision moves by one step at most, and on the evidence of its interval alone."""
    size, index = decision.observation.batch_size, sizes.index(decision.observation.batch_size)
    assert decision.batch_size in sizes[max(index - 1, 0) : index + 2], "one step at a time"
    if decision.interval is None:
        assert decision.batch_size == size, "it must not act without a look"
        return
    low, high = decision.interval
    assert 0 <= low <= high
    if decision.batch_size > size:
        assert low >= decision.batch_size
    if decision.batch_size < size:
        assert policy.shrinks
        assert high <= decision.batch_size


def check_policy(policy):
    """Checks the contract of every policy; of those that decide by noise at precise and at useless estimates."""
    assert policy.init() == policy.init()
    assert policy.init() is not policy.init()
    sizes = policy.sizes(FIRST)
    assert sizes[0] == FIRST
    assert sizes[-1] == policy.maximum
    assert list(sizes) == sorted(set(sizes))
    assert policy.sizes(policy.maximum) == (policy.maximum,)
    with pytest.raises(
        ValueError, match=r"`maximum` must be at least the first batch size of .*; give the loader a sm"
    ):
        policy.sizes(policy.maximum + 1)
    with pytest.raises(ValueError, match="`maximum` must be at least the first batch size"):
        policy.decide(seen(None, batch_size=policy.maximum + 1, samples=10**6), policy.init())
    (check_by_branches if policy.needs_branches else check_by_noise)(policy, sizes)

    assert policy.name in policies.__all__
    assert type(policy) is policies.Policy.kinds[policy.name]
    assert json.loads(json.dumps(policy.to_json(), allow_nan=False))["kind"] == policy.name
    assert policy.describe().startswith(f"{policy.name}(")
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(copy.deepcopy(policy))
    with pytest.raises(AttributeError):
        policy.maximum = 1


def check_by_noise(policy, sizes):
    """Checks that it moves on evidence alone, and then does."""
    scales = [0.0, 1.0, 10.0, 1e2, 1e3, 1e4, 1e6, inf]
    for size in sizes:
        wanted = [policy.wanted(scale, seen(known(100.0), batch_size=size)) for scale in scales]
        assert wanted == sorted(wanted), "more noise must not ask for less"

    looks = 200 * len(sizes)  # precise estimates are looked at once they are renewed
    grown = follow(policy, [known(1e7, number=number) for number in range(looks)])
    assert grown[-1].batch_size == policy.maximum
    assert "maximum" in grown[-1].reason or "too little is new" in grown[-1].reason
    began = next(index for index, each in enumerate(grown) if each.batch_size > FIRST)
    assert grown[began].clock >= policy.warmup_samples

    still = follow(policy, [known(1e-6, number=number) for number in range(300)])
    assert {each.batch_size for each in still} == {FIRST}
    useless = [
        None,
        NoiseEstimate(nan, nan, nan, nan, nan, 1000.0),
        NoiseEstimate(inf, 1e9, inf, inf, 0.0, 1000.0),
        NoiseEstimate(nan, 0.0, inf, 0.0, 0.0, 1000.0),
        NoiseEstimate(-50.0, 0.0, inf, 100.0, -2.0, 3.0),
    ]
    assert {each.batch_size for each in follow(policy, useless * 40)} == {FIRST}
    same = follow(policy, [known(1e7)] * 500)
    assert {each.batch_size for each in same} == {FIRST}, "one measurement is no evidence, however often it is shown"

    back = [known(1e7, number=number) for number in range(looks)]
    back += [known(1e-3, number=looks + number) for number in range(looks)]
    last = follow(policy, back)[-1].batch_size
    assert last < policy.maximum if policy.shrinks else last == policy.maximum


def branched(policy, loss, *, batch_size=FIRST, samples=2**17):
    """The decisions of a training whose branches end with `loss(clock, size, order)`, each acted on and checked."""
    state, clock, found, went_back = policy.init(), 0, [], 0
    while clock < samples:
        observation, orders = Observation(clock, clock // batch_size, batch_size, lr=1.0, samples=samples), set()
        while True:
            before = copy.deepcopy(state)
            decision, after = policy.decide(observation, state)
            assert state == before, "it must not write into the state that it was given"
            again = policy.decide(observation, json.loads(json.dumps(state, allow_nan=False)))
            assert again == (decision, after), "it must decide the same from a state that went through JSON"
            assert decision.reason
            assert decision.observation == observation
            state = after
            if not isinstance(decision, Fork):
                break
            assert decision.sizes[0] == decision.batch_size == batch_size
            assert decision.clock + decision.window <= samples
            assert decision.window >= 4 * decision.sizes[-1]
            assert orders.isdisjoint(decision.orders), "each order of the data must be new"
            orders |= {*decision.orders}
            rows = tuple(tuple(loss(clock, size, order) for order in decision.orders) for size in decision.sizes)
            observation = replace(observation, branches=rows)
        assert decision.batch_size in policy.sizes(FIRST)
        found.append(decision)
        went_back += isinstance(decision, Rollback)
        assert went_back < 100, "it must not go back and forth for ever"
        batch_size = decision.batch_size
        clock = decision.clock if isinstance(decision, Rollback) else clock
        following = policy.next_clock(state, samples)
        assert following > clock or not isinstance(decision, Rollback)
        clock = max(following, clock + batch_size)
    return found


def check_by_branches(policy, sizes):
    """Checks that it grows where branches show no harm, stays where they show harm or nothing, and goes back."""
    assert not policy.needs_noise

    def noisy(level):
        return lambda clock, size, order: exp(level * sin(7 * order + size))

    assert branched(policy, noisy(1e-6))[-1].batch_size == sizes[min(len(sizes) - 1, int(1 / policy.every - 0.01))]
    assert {each.batch_size for each in branched(policy, noisy(3.0))} == {FIRST}
    assert {each.batch_size for each in branched(policy, lambda clock, size, order: size + order / 1e6)} == {FIRST}
    assert {each.batch_size for each in branched(policy, lambda *_: inf)} == {FIRST}

    def hurt(clock, size, order):  # a branch does not show it, later ones do
        return (1.0 if size == FIRST or clock <= 2**17 * policy.every + 1 else 2.0) + order / 1e6

    found = branched(policy, hurt)
    first = next(index for index, each in enumerate(found) if each.batch_size > FIRST)
    assert isinstance(found[first + 1], Rollback)
    assert (found[first + 1].clock, found[first + 1].batch_size) == (found[first].clock, FIRST)
