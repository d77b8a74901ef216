from __future__ import annotations

import pytest
import torch
from tests.couplings.checks import check_coupling

from adabatch import couplings

WEIGHTS = [torch.zeros(2, 2)]


def test_linear_follows_the_batch_size():
    check_coupling(couplings.linear(), exponent=1)
    check_coupling(couplings.linear(any_optimizer=True), exponent=1)


def test_the_lrs_in_force_of_the_paper():
    """Base LR x0.375 and batch x2 every 20 epochs from 0.01 and 128: the table of AdaBatch's first experiment."""
    in_force = [
        couplings.linear().in_force({"lr": 0.01 * 0.375**stage}, 128 * 2**stage / 128).get("lr", 0.01)
        for stage in range(5)
    ]
    assert in_force == pytest.approx([0.01, 0.0075, 0.005625, 0.00421875, 0.0031640625], rel=1e-12)


class Subclass(torch.optim.SGD):
    pass


class LARS(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        return None


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.SGD(WEIGHTS, momentum=0.9, nesterov=True), Subclass(WEIGHTS), LARS(WEIGHTS)],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_linear_is_for_sgd_and_lars(optimizer):
    couplings.linear().check_optimizer(optimizer)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Muon])
def test_linear_refuses_others_unless_insisted(kind):
    optimizer = kind(WEIGHTS)
    refusal = (
        f"`coupling` 'linear' was derived for LARS, Lars, RMSpropWarmup, SGD, got {kind.__name__}; "
        "use `sqrt` for Adam and its kin, "
        r"`none` to leave the LR alone, or insist with `ab.couplings.linear\(any_optimizer=True\)`"
    )
    with pytest.raises(ValueError, match=refusal):
        couplings.linear().check_optimizer(optimizer)
    couplings.linear(any_optimizer=True).check_optimizer(optimizer)


def test_any_optimizer_is_a_flag():
    with pytest.raises(TypeError, match="`any_optimizer` must be True or False, got 1"):
        couplings.linear(any_optimizer=1)
