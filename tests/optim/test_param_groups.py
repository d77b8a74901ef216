from __future__ import annotations

import pytest
import torch
from torch import nn

from adabatch.optim import param_groups


def test_biases_and_norm_scales_have_no_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    weights, rest = param_groups(model, weight_decay=0.1)
    assert [value.ndim for value in weights["params"]] == [4, 2]
    assert [value.ndim for value in rest["params"]] == [1, 1, 1, 1]
    assert (weights["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(torch.optim.SGD([weights, rest], lr=0.1).param_groups) == 2


def test_what_is_not_trained_is_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in param_groups(model, weight_decay=0.1)] == [1]


def test_bad_decay():
    with pytest.raises(ValueError, match="`weight_decay` must be at least 0"):
        param_groups(nn.Linear(2, 2), weight_decay=-1)
