from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.couplings.checks import RATIOS, check_coupling

from adabatch import couplings


@pytest.mark.parametrize("p", [-1, 0, 0.25, 0.75, 1])
def test_power_follows_any_exponent(p):
    check_coupling(couplings.power(p), exponent=p)
    couplings.power(p).check_optimizer(torch.optim.Adagrad([torch.zeros(1)]))


@pytest.mark.parametrize("ratio", RATIOS)
def test_power_joins_the_other_couplings(ratio):
    assert couplings.power(0).lr_factor(ratio) == couplings.none().lr_factor(ratio)
    assert couplings.power(0.5).lr_factor(ratio) == pytest.approx(couplings.sqrt().lr_factor(ratio), rel=1e-15)
    assert couplings.power(1).lr_factor(ratio) == couplings.linear().lr_factor(ratio)


@given(st.floats(-3, 3), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_growth_in_two_steps_is_growth_in_one(p, first, second):
    factor = couplings.power(p).lr_factor
    assert factor(first) * factor(second) == pytest.approx(factor(first * second), rel=1e-9)


@pytest.mark.parametrize("p", [math.inf, math.nan])
def test_power_refuses_infinite_exponents(p):
    with pytest.raises(ValueError, match=r"`p` must be finite, got .*; published values lie in 0 to 1"):
        couplings.power(p)


def test_power_refuses_text():
    with pytest.raises(TypeError, match=r"`p` must be a number, got '0.5'"):
        couplings.power("0.5")


@pytest.mark.parametrize("p", [1e4, -1e4])
def test_a_factor_that_no_float_holds(p):
    with pytest.raises(ValueError, match=r"`p` must give an LR factor that a float holds, got (inf|0) from 16"):
        couplings.power(p).lr_factor(16)
