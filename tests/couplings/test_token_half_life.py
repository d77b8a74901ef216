from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.couplings.checks import GROUP, check_contract

from adabatch import couplings


def test_token_half_life_keeps_the_contract():
    check_contract(couplings.token_half_life())


@given(st.floats(1e-3, 1e3), st.floats(0.5, 0.9999))
def test_the_half_life_is_constant_in_tokens_and_nothing_else_changes(ratio, beta2):
    group = GROUP | {"betas": (0.9, beta2)}
    found = couplings.token_half_life().in_force(group, ratio)
    assert set(found) <= {"betas"}
    first, second = found.get("betas", group["betas"])
    assert first == 0.9
    half_life = ratio * math.log(0.5) / math.log(second) if second else 0
    if second > 1e-300:
        assert half_life == pytest.approx(math.log(0.5) / math.log(beta2), rel=1e-6)


def test_figures():
    """Batch 512 and 0.95 means 0.9999 at batch 1."""
    found = couplings.token_half_life().in_force(GROUP | {"betas": (0.9, 0.95)}, 1 / 512)
    assert found["betas"][1] == pytest.approx(0.9999, abs=1e-6)


def test_token_half_life_is_for_adam():
    couplings.token_half_life().check_optimizer(torch.optim.AdamW([torch.zeros(1)]))
    said = "'token_half_life' was derived for Adam, AdamW, got SGD; it changes beta2 alone, which others do not have"
    with pytest.raises(ValueError, match=said):
        couplings.token_half_life().check_optimizer(torch.optim.SGD([torch.zeros(1)]))
