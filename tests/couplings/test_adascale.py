from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.couplings.checks import RATIOS, check_contract

from adabatch import couplings, policies
from adabatch.types import Observation

FIXED = couplings.adascale(noise=3.0)


def test_contract():
    check_contract(FIXED)
    check_contract(couplings.adascale(noise=0.0, any_optimizer=True))


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6), st.integers(1, 4096), st.integers(1, 4096))
def test_the_gain_is_that_of_the_paper(trace, signal, first, batch_size):
    """In its own words: variance and squared mean of the gradient at the first size, and the ratio of sizes."""
    variance, ratio = trace / first, batch_size / first
    wanted = (variance + signal) / (variance / ratio + signal)
    found = couplings.adascale().with_noise(trace / signal / first).lr_factor(ratio)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert min(1, ratio) * (1 - 1e-12) <= found <= max(1, ratio) * (1 + 1e-12)


@given(st.floats(1, 1e5), st.sampled_from([16, 32, 64]))
def test_it_is_linear_times_the_progress_that_goodput_weighs(noise_scale, first):
    """At a throughput where sizes gain equally, goodput is as good at both."""
    gain = couplings.adascale().with_noise(noise_scale / first).lr_factor(2)
    seen = Observation(0, 0, first)
    for above, wanted in ((0.999, first), (1.001, 2 * first)):  # throughput over the one at which nothing is gained
        curve = {first // 2: 1e-9, first: 1.0, 2 * first: 2 / gain * above}
        assert policies.goodput(curve, gain=0, maximum=2 * first).wanted(noise_scale, seen) == wanted


def test_between_none_and_linear():
    assert [FIXED.lr_factor(ratio) for ratio in (1, 4)] == [1, 16 / 7]
    for ratio in RATIOS:
        assert couplings.adascale(noise=0).lr_factor(ratio) == pytest.approx(1)
        assert couplings.adascale().with_noise(math.inf).lr_factor(ratio) == ratio
        assert couplings.adascale().with_noise(1e18).lr_factor(ratio) == pytest.approx(ratio)


def test_only_one_without_a_noise_of_its_own_follows():
    assert couplings.adascale().follows_noise
    assert not FIXED.follows_noise
    assert FIXED.with_noise(8.0) is FIXED
    assert couplings.adascale().with_noise(8.0) == couplings.adascale(noise=8.0)
    assert couplings.linear().with_noise(8.0) == couplings.linear()
    assert not couplings.linear().follows_noise
    assert couplings.adascale().lr_factor(1) == 1
    with pytest.raises(
        RuntimeError, match="'adascale' must know the noise; give the BatchSizeScheduler a policy with a"
    ):
        couplings.adascale().lr_factor(2)


def test_the_optimizers_that_it_was_derived_for():
    weights = [torch.zeros(1)]
    FIXED.check_optimizer(torch.optim.SGD(weights, lr=0.1))
    with pytest.raises(ValueError, match="'adascale' was derived for SGD, got Adam; use `sqrt` for Adam, or insist"):
        FIXED.check_optimizer(torch.optim.Adam(weights))
    couplings.adascale(any_optimizer=True).check_optimizer(torch.optim.Adam(weights))
    assert couplings.adascale(any_optimizer=True).with_noise(math.inf).optimizers is None


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (-1, ValueError, "`noise` must be at least 0, got -1; where all is noise the gain is that of `linear`"),
        (math.inf, ValueError, "`noise` must be finite, got inf"),
        ("3", TypeError, "`noise` must be a number"),
    ],
)
def test_a_noise_out_of_range(noise, error, message):
    with pytest.raises(error, match=message):
        couplings.adascale(noise=noise)
