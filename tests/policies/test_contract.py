from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.checks import check_policy, follow

from adabatch import policies
from adabatch.types import NoiseEstimate

CURVE = {size: size**0.8 for size in (32, 64, 128, 256, 512, 1024)}
# To add a policy, add a row.
ROWS = [
    policies.noise_scale(maximum=256),
    policies.noise_scale(0.1, maximum=1000, factor=1.5, warmup_samples=5000, shrinks=True),
    policies.norm_test(0.5, maximum=256),
    policies.norm_test(2.0, maximum=100, factor=3, shrinks=True),
    policies.diversity(0.1, maximum=256, warmup_samples=1000),
    policies.similarity(0.3, maximum=512, shrinks=True),
    policies.sign_noise(maximum=256),
    policies.sign_noise(2.0, maximum=700, factor=1.5, warmup_samples=500, shrinks=True),
    policies.goodput(CURVE, maximum=512),
    policies.goodput(CURVE, gain=0.3, maximum=1024, shrinks=True),
    policies.cabs(maximum=256),
    policies.cabs(0.1, maximum=500, factor=2.5, shrinks=True),
]


@pytest.mark.parametrize("policy", ROWS, ids=lambda policy: policy.describe()[:50])
def test_a_policy_keeps_the_contract(policy):
    check_policy(policy)


def test_every_policy_has_a_row():
    assert {row.name for row in ROWS} == {name for name in policies.__all__ if name.islower()}


@st.composite
def any_estimates(draw):
    """Estimates that make no sense together, as far as the record allows."""
    finite = st.floats(-1e6, 1e6)
    found = []
    for _ in range(draw(st.integers(1, 40))):
        trace, signal = draw(st.floats(1e-3, 1e6)), draw(finite)
        low = draw(st.floats(0, 1e4))
        high = draw(st.one_of(st.just(float("inf")), st.floats(low, 1e6)))
        found.append(
            NoiseEstimate(trace / signal if signal else 0.0, low, high, trace, signal, draw(st.floats(1, 1e4)))
        )
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ROWS), any_estimates())
def test_a_policy_keeps_the_contract_at_any_estimates(policy, estimates):
    follow(policy, [each for each in estimates for _ in range(3)])
