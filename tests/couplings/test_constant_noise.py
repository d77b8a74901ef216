from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.couplings.checks import check_contract

from adabatch import couplings

WEIGHTS = [torch.zeros(2, 2)]


def in_force(ratio, *, lr=0.1, momentum=0.9, limit=1.0):
    group = {"lr": lr, "momentum": momentum}
    return group | couplings.constant_noise(maximum_lr_factor=limit).in_force(group, ratio)


def test_constant_noise_keeps_the_contract():
    check_contract(couplings.constant_noise())
    check_contract(couplings.constant_noise(maximum_lr_factor=5))
    assert couplings.get("constant_noise(maximum_lr_factor=2)") == couplings.constant_noise(maximum_lr_factor=2.0)


@given(st.floats(1e-3, 1e4), st.floats(1e-4, 10), st.floats(0, 0.999), st.floats(1, 100))
def test_the_noise_is_constant(ratio, lr, momentum, limit):
    found = in_force(ratio, lr=lr, momentum=momentum, limit=limit)
    noise = found["lr"] / (ratio * (1 - found["momentum"]))
    assert noise == pytest.approx(lr / (1 - momentum), rel=1e-7)
    assert momentum <= found["momentum"] < 1
    assert found["lr"] <= lr * limit * (1 + 1e-12)


def test_the_starts_of_the_paper():
    """Section 5.2 from LR 0.1, momentum 0.9, batch 128: 0.5 at 640; then momentum 0.98 at 3,200."""
    assert in_force(640 / 128, limit=5) == {"lr": 0.5, "momentum": 0.9}
    assert in_force(3200 / 128, limit=5) == {"lr": 0.5, "momentum": pytest.approx(0.98, rel=1e-15)}


def test_the_momentum_series_of_the_paper():
    """ImageNet: batch 8,192, 16,384, 32,768 with momentum 0.9, 0.95, 0.975 at one LR."""
    found = [in_force(size / 8192, lr=3.0) for size in (8192, 16384, 32768)]
    assert [(each["lr"], each["momentum"]) for each in found] == [(3.0, 0.9), (3.0, 0.95), (3.0, 0.975)]


def test_a_smaller_batch_lowers_the_lr_alone():
    assert in_force(0.25) == {"lr": 0.025, "momentum": 0.9}


@pytest.mark.parametrize("momentum", [1, 1.0, 1.5, -0.1, math.nan])
@pytest.mark.parametrize("ratio", [1, 2])
def test_a_momentum_out_of_range(momentum, ratio):
    with pytest.raises(ValueError, match=r"`momentum` must be .*, got .*; at 1 the noise of SGD has no value"):
        in_force(ratio, momentum=momentum)


@pytest.mark.parametrize(("limit", "rule"), [(0.5, "at least 1, got 0.5"), (math.inf, "finite"), (math.nan, "finite")])
def test_a_limit_out_of_range(limit, rule):
    with pytest.raises(ValueError, match=f"`maximum_lr_factor` must be {rule}.*; at 1 the momentum alone follows"):
        couplings.constant_noise(maximum_lr_factor=limit)


def test_constant_noise_is_for_sgd():
    couplings.constant_noise().check_optimizer(torch.optim.SGD(WEIGHTS, momentum=0.9, nesterov=True))
    said = "'constant_noise' was derived for SGD, got Adam; use `adam_sde` or `sqrt` for Adam, `linear` for LARS"
    with pytest.raises(ValueError, match=said):
        couplings.constant_noise().check_optimizer(torch.optim.Adam(WEIGHTS))
