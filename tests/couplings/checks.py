"""The contract of every coupling; each coupling's test calls it."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from adabatch import couplings

RATIOS = (1e-3, 1 / 3, 0.5, 1.0, 1.5, 2.0, 16.0, 4096.0)


def check_coupling(coupling: couplings.Coupling, *, exponent: float) -> None:
    """Checks the contract, that the factor is `ratio ** exponent`, and that nothing but the LR follows."""
    for ratio in RATIOS:
        factor = coupling.lr_factor(ratio)
        assert factor == pytest.approx(ratio**exponent, rel=1e-12)
        assert coupling.in_force({"lr": 0.1, "momentum": 0.9}, ratio) == ({} if factor == 1 else {"lr": 0.1 * factor})
    check_contract(coupling)


GROUP = {"lr": 0.1, "momentum": 0.9, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def check_contract(coupling: couplings.Coupling) -> None:
    """Checks the contract of every coupling."""
    for ratio in (1 / 3, 1.0, 2.0, 4.0):
        assert coupling.lr_factor(ratio) == coupling.lr_factor(ratio), "it must not remember"
        group = dict(GROUP)
        found = coupling.in_force(group, ratio)
        assert found == coupling.in_force(group, ratio), "it must not remember"
        assert found.get("lr", 0.1) == pytest.approx(0.1 * coupling.lr_factor(ratio), rel=1e-15)
        assert group == GROUP, "it must not write"
        tensors = coupling.in_force(GROUP | {"lr": torch.tensor(0.1, dtype=torch.float64)}, ratio)
        assert {key: value if key != "lr" else float(value) for key, value in tensors.items()} == found
    assert coupling.in_force(GROUP, 1) == {}, "so that a constant batch changes no bit"
    assert coupling.lr_factor(1) == 1, "exactly, so that a constant batch changes no bit"
    assert couplings.Coupling.from_json(json.loads(json.dumps(coupling.to_json()))) == coupling
    assert couplings.get(coupling.describe()) == coupling
    assert couplings.get(coupling) is coupling
    assert pickle.loads(pickle.dumps(coupling)) == coupling
    assert hash(coupling) == hash(couplings.get(coupling.describe()))
    assert coupling.name in couplings.__all__
    with pytest.raises(ValueError, match="`ratio` must be greater than 0, got 0"):
        coupling.lr_factor(0)
    with pytest.raises(ValueError, match="`ratio` must be finite"):
        coupling.lr_factor(float("nan"))
    with pytest.raises(AttributeError):
        coupling.any_optimizer = True  # type: ignore[attr-defined]
