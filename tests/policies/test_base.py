from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import FIRST, follow, known, seen

from adabatch import policies
from adabatch.types import NoiseEstimate


@given(st.integers(1, 300), st.sampled_from([2, 3, 10]), st.integers(0, 5000))
def test_sizes_are_the_first_one_times_powers_of_the_factor(first, factor, more):
    found = policies.noise_scale(maximum=first + more, factor=factor).sizes(first)
    powers = (first * factor**number for number in range(14))
    assert found == (*(size for size in powers if size < first + more), first + more)


@given(st.integers(1, 300), st.sampled_from([1.001, 1.1, 1.25, 1.5, 2.5]), st.integers(0, 5000))
def test_each_size_is_the_one_before_times_the_factor(first, factor, more):
    found = policies.noise_scale(maximum=first + more, factor=factor).sizes(first)
    assert found[0] == first
    assert found[-1] == first + more
    for size, larger in pairwise(found[:-1]):
        assert larger == max(math.floor(size * factor + 1e-9), size + 1)


def test_each_reason():
    policy = policies.noise_scale(maximum=128, warmup_samples=10 * FIRST, shrinks=True)
    reasons = [each.reason for each in follow(policy, [None, *(known(300.0, number=n) for n in range(600))])]
    assert reasons[0] == "no noise was measured yet"
    assert reasons[9] == "warm-up of 320 samples"
    assert reasons[12] == "too little is new since the last look"
    grown = [reason for reason in reasons if "grows" in reason]
    assert [reason.rpartition(" ")[2] for reason in grown] == ["64", "128"]
    assert grown[0].startswith("noise scale 300, noise_scale asks for 299.")
    assert any(reason.endswith(": stays at the maximum of 128") for reason in reasons)

    def last(noise_scale, width):
        return follow(policy, [known(noise_scale, number=number, width=width) for number in range(400)])[-1]

    few = known(300.0, measured=12.0)
    assert follow(policy, [few] * 20)[-1].reason == "the noise was measured at 12 updates, a look takes 20"
    nothing = NoiseEstimate(float("nan"), 0.0, float("inf"), float("nan"), 1.0, 100.0)
    assert follow(policy, [nothing])[-1].reason == "the noise that was measured is no number"
    looks = [each for each in follow(policy, [known(70.0, number=n, width=1.5) for n in range(400)]) if each.interval]
    assert looks[-1].reason.endswith(": cannot tell, the next step is 64")
    lost = [NoiseEstimate(-300.0, 40.0, float("inf"), 300.0 + n / 1e6, -1.0, 100.0) for n in range(400)]
    looks = [each for each in follow(policy, lost) if each.interval]
    assert looks[-1].reason.startswith("noise scale inf, noise_scale asks for ")
    looks = [each for each in follow(policy, [known(20.0, number=n) for n in range(400)]) if each.interval]
    assert looks[-1].reason.endswith(": stays, the next step is 64")
    back = [known(300.0, number=n) for n in range(900)] + [known(1.0, number=900 + n) for n in range(900)]
    assert any(each.reason.endswith(": shrinks to 64") for each in follow(policy, back))


def test_a_look_takes_an_eighth_of_new_measurements():
    decisions = follow(policies.noise_scale(maximum=64), [known(1.0, number=n, measured=80.0) for n in range(100)])
    looks = [index for index, each in enumerate(decisions) if each.interval]
    assert looks == list(range(9, 100, 10))


def test_the_warm_up_counts_from_the_first_decision():
    policy, state = policies.noise_scale(maximum=64, warmup_samples=100), None
    state = policy.init()
    for clock in (1000, 1050, 1099):
        decision, state = policy.decide(seen(known(1e6, measured=20.0), number=clock // FIRST), state)
        assert decision.reason == "warm-up of 100 samples"


@pytest.mark.parametrize(
    ("given_arguments", "error", "message"),
    [
        ({"maximum": 0}, ValueError, "`maximum` must be at least 1, got 0"),
        ({"maximum": 1.5}, TypeError, "`maximum` must be a whole number, got 1.5"),
        ({"factor": 1}, ValueError, "`factor` must be greater than 1, got 1; 2 doubles the batch at each step"),
        ({"factor": "2"}, TypeError, "`factor` must be a number"),
        ({"warmup_samples": -1}, ValueError, "`warmup_samples` must be at least 0, got -1"),
        ({"shrinks": 1}, TypeError, "`shrinks` must be True or False, got 1"),
    ],
)
def test_arguments_out_of_range(given_arguments, error, message):
    with pytest.raises(error, match=message):
        policies.noise_scale(**{"maximum": 64} | given_arguments)


def test_a_maximum_is_needed():
    with pytest.raises(TypeError, match="maximum"):
        policies.noise_scale(1.0)  # type: ignore[call-arg]


@dataclass(frozen=True)
class root(policies.Policy):  # noqa: N801
    """A user's policy: the root of the noise scale times the batch size."""

    def wanted(self, noise_scale, seen):
        return (noise_scale * seen.batch_size) ** 0.5


def test_a_policy_of_ones_own():
    policy = root(maximum=512)
    assert follow(policy, [known(600.0, number=number) for number in range(3000)])[-1].batch_size == 256
    assert policies.Policy.kinds["root"] is root
    assert policy.describe() == "root(maximum=512, factor=2, warmup_samples=0, shrinks=False)"
    with pytest.raises(ValueError, match="must have a name of its own, got that of"):
        type("noise_scale", (policies.Policy,), {})


def test_policies_need_no_torch():
    code = (
        "import sys, adabatch as ab; p = ab.policies.noise_scale(maximum=64); p.decide\n"
        "from adabatch.types import Observation; p.decide(Observation(0, 0, 32), p.init())\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
