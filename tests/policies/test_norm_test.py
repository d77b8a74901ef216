from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import follow, known, seen

from adabatch import policies


@given(st.floats(0.05, 3), st.floats(1e-3, 1e6), st.floats(1e-6, 1e3))
def test_the_batch_that_it_asks_for_just_passes_the_test(eta, trace, signal):
    B = policies.norm_test(eta, maximum=64).wanted(trace / signal, seen(None))
    assert trace / B == pytest.approx(eta**2 * signal)


def test_it_is_the_rule_of_the_noise_scale():
    noises = [known(90.0 + number % 7, number=number) for number in range(2000)]
    mine = follow(policies.norm_test(0.5, maximum=4096), noises)
    theirs = follow(policies.noise_scale(4.0, maximum=4096), noises)
    assert [each.batch_size for each in mine] == [each.batch_size for each in theirs]
    assert mine[-1].batch_size == 256


@pytest.mark.parametrize("eta", [0, -1, float("nan")])
def test_a_share_out_of_range(eta):
    with pytest.raises(ValueError, match=r"`eta` must be .*; published values lie below 1"):
        policies.norm_test(eta, maximum=64)
