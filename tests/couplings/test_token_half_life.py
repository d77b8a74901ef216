from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.couplings.checks import GROUP, check_contract

from adabatch import couplings

UNBOUNDED = couplings.token_half_life(beta_min=0, beta_max=1)


def test_token_half_life_keeps_the_contract():
    check_contract(couplings.token_half_life())
    check_contract(UNBOUNDED)
    check_contract(couplings.token_half_life(beta_min=0.9, beta_max=0.99))


@given(st.floats(1e-3, 1e3), st.floats(0.5, 0.9999))
def test_the_half_life_is_constant_in_tokens_and_nothing_else_changes(ratio, beta2):
    group = GROUP | {"betas": (0.9, beta2)}
    found = UNBOUNDED.in_force(group, ratio)
    assert set(found) <= {"betas"}
    first, second = found.get("betas", group["betas"])
    assert first == 0.9
    half_life = ratio * math.log(0.5) / math.log(second) if second else 0
    if second > 1e-300:
        assert half_life == pytest.approx(math.log(0.5) / math.log(beta2), rel=1e-6)


def test_figures():
    """Batch 512 and 0.95 means 0.9999 at batch 1."""
    found = couplings.token_half_life(beta_max=1).in_force(GROUP | {"betas": (0.9, 0.95)}, 1 / 512)
    assert found["betas"][1] == pytest.approx(0.9999, abs=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(0.5, 0.999999), st.floats(0, 0.999), st.floats(0, 1))
def test_beta2_stays_within_the_bounds_and_moves_no_further_out(ratio, beta2, low, rest):
    high = low + rest * (1 - low)
    bounded = couplings.token_half_life(beta_min=low, beta_max=high)
    _, found = bounded.in_force(GROUP | {"betas": (0.9, beta2)}, ratio).get("betas", (0.9, beta2))
    assert min(low, beta2) <= found <= max(high, beta2)
    if low <= beta2**ratio <= high:
        assert found == (beta2 if ratio == 1 else beta2**ratio)


def test_the_bounds_by_default():
    """From 0.999, 100 times the batch would ask for 0.905, and a hundredth for 0.99999."""
    bounded = couplings.token_half_life()
    assert bounded.in_force(GROUP, 100) == {"betas": (0.9, 0.95)}
    assert bounded.in_force(GROUP, 1 / 100) == {"betas": (0.9, 0.9999)}
    assert bounded.in_force(GROUP | {"betas": (0.9, 0.9)}, 4) == {"betas": (0.9, 0.9)}
    found = bounded.in_force(GROUP | {"betas": (0.9, torch.tensor(0.999, dtype=torch.float64))}, 100)
    assert isinstance(found["betas"][1], torch.Tensor)
    assert float(found["betas"][1]) == 0.95
    assert bounded.describe() == "token_half_life"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta_min": -0.1}, "`beta_min` must be at least 0, got -0.1; 0 sets no lower bound"),
        ({"beta_min": 1}, "`beta_min` must be less than 1, got 1"),
        ({"beta_max": 0.9}, "`beta_max` must be at least 0.95, got 0.9; 1 sets no upper bound"),
        ({"beta_max": 1.5}, "`beta_max` must be at most 1, got 1.5"),
    ],
)
def test_bounds_out_of_range(given, message):
    with pytest.raises(ValueError, match=message):
        couplings.token_half_life(**given)


def test_token_half_life_is_for_adam():
    couplings.token_half_life().check_optimizer(torch.optim.AdamW([torch.zeros(1)]))
    said = "'token_half_life' was derived for Adam, AdamW, got SGD; it changes beta2 alone, which others do not have"
    with pytest.raises(ValueError, match=said):
        couplings.token_half_life().check_optimizer(torch.optim.SGD([torch.zeros(1)]))
