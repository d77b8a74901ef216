from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.couplings.checks import GROUP, check_contract

from adabatch import couplings

WEIGHTS = [torch.zeros(2)]
FLAGS = [{}, {"exponential": True}, {"weight_decay": True}, {"exponential": True, "weight_decay": True}]


@pytest.mark.parametrize("flags", FLAGS)
def test_adam_sde_keeps_the_contract(flags):
    check_contract(couplings.adam_sde(**flags))


def test_the_rule_of_the_paper():
    """Adam's defaults, batch x4: LR x2, 1 - betas x4, eps / 2."""
    found = couplings.adam_sde().in_force(GROUP, 4)
    assert sorted(found) == ["betas", "eps", "lr"]
    assert found["lr"] == 0.2
    assert found["betas"] == pytest.approx((0.6, 0.996), rel=1e-15)
    assert found["eps"] == 5e-9


@given(st.floats(1e-3, 1e3), st.floats(0, 0.9999), st.floats(0, 0.9999))
def test_the_exponential_form_forgets_as_much_per_sample(ratio, first, second):
    found = couplings.adam_sde(exponential=True).in_force(GROUP | {"betas": (first, second)}, ratio)
    betas = found.get("betas", (first, second))
    assert betas == pytest.approx((math.pow(first, ratio), math.pow(second, ratio)), rel=1e-12)
    assert all(0 <= beta < 1 for beta in betas)


@given(st.floats(1e-3, 5), st.floats(1e-6, 1e-4))
def test_both_forms_agree_to_first_order(ratio, small):
    group = GROUP | {"betas": (1 - small, 1 - small)}
    one, other = (couplings.adam_sde(exponential=flag).in_force(group, ratio) for flag in (False, True))
    for beta, exponential in zip(one.get("betas", ()), other.get("betas", ()), strict=True):
        assert abs(beta - exponential) <= 20 * small**2 + 1e-15


def test_decoupled_weight_decay_keeps_its_time_constant():
    coupling = couplings.adam_sde(weight_decay=True)
    for group in (GROUP, GROUP | {"decoupled_weight_decay": True}):
        found = coupling.in_force(group, 4)
        assert 4 / (found["lr"] * found["weight_decay"]) == pytest.approx(1 / (0.1 * 0.1))
    assert "weight_decay" not in coupling.in_force(GROUP | {"decoupled_weight_decay": False}, 4), "L2 follows the LR"


def test_growth_beyond_the_form_of_the_paper():
    assert couplings.adam_sde().in_force(GROUP | {"betas": (0.75, 0.999)}, 4)["betas"][0] == 0
    said = (
        r"`ratio` must keep 1 - ratio \* \(1 - beta\) at 0 or above, got 16 with a beta of 0.9; "
        r"use `adam_sde\(exponential=True\)`, or let the batch grow less"
    )
    with pytest.raises(ValueError, match=said):
        couplings.adam_sde().in_force(GROUP, 16)
    assert couplings.adam_sde(exponential=True).in_force(GROUP, 16)["betas"][0] == pytest.approx(0.9**16)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_sde_is_for_adam(kind):
    couplings.adam_sde().check_optimizer(kind(WEIGHTS))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam, torch.optim.Muon])
def test_adam_sde_refuses_others(kind):
    said = rf"'adam_sde' was derived for Adam, AdamW, got {kind.__name__}; use `constant_noise` or `linear` for SGD"
    with pytest.raises(ValueError, match=said):
        couplings.adam_sde().check_optimizer(kind([torch.zeros(2, 2)]))


@pytest.mark.parametrize("name", ["exponential", "weight_decay"])
def test_flags_are_flags(name):
    with pytest.raises(TypeError, match=f"`{name}` must be True or False, got 1"):
        couplings.adam_sde(**{name: 1})
