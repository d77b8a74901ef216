"""Layers in the place of others, under each of their names."""

from __future__ import annotations

import pytest
from torch import nn

from adabatch.norm._exchange import exchanged, layers_of, like


def test_layers_are_found_by_name():
    norm = nn.BatchNorm1d(2)
    assert layers_of(norm) == [("the model itself", norm)]
    assert layers_of(nn.Sequential(nn.Linear(2, 2), nn.Sequential(norm))) == [("1.0", norm)]
    with pytest.raises(ValueError, match="`model` must have batch norm layers, got Linear without any; leave it as is"):
        layers_of(nn.Linear(2, 2))


def test_a_layer_like_another_shares_all_it_holds():
    norm = nn.BatchNorm1d(2)
    other = like(norm, nn.BatchNorm2d, momentum=0.5)
    assert (type(other), other.momentum, norm.momentum) == (nn.BatchNorm2d, 0.5, 0.1)
    assert other.weight is norm.weight
    assert other.running_mean is norm.running_mean


def test_all_names_of_a_layer_lead_to_the_new_one():
    norm, new = nn.BatchNorm1d(2), nn.Identity()
    model = nn.ModuleList([norm, nn.Sequential(norm)])
    assert exchanged(model, {id(norm): new}) is model
    assert model[0] is model[1][0] is new
    assert exchanged(norm, {id(norm): new}) is new
