from __future__ import annotations

import pytest
import torch
from tests.couplings.checks import check_coupling

from adabatch import couplings

WEIGHTS = [torch.zeros(2)]


def test_sqrt_follows_the_root_of_the_batch_size():
    check_coupling(couplings.sqrt(), exponent=0.5)
    check_coupling(couplings.sqrt(any_optimizer=True), exponent=0.5)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_sqrt_is_for_adam_and_its_kin(kind):
    couplings.sqrt().check_optimizer(kind(WEIGHTS))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad])
def test_sqrt_refuses_others_unless_insisted(kind):
    refusal = (
        "'sqrt' was derived for Adam, AdamW, LAMB, Lamb, RMSprop, SignSGD, Signum, "
        f"got {kind.__name__}; use `linear` for SGD, "
        r"`none` to leave the LR alone, or insist with `ab.couplings.sqrt\(any_optimizer=True\)`"
    )
    with pytest.raises(ValueError, match=refusal):
        couplings.sqrt().check_optimizer(kind(WEIGHTS))
    couplings.sqrt(any_optimizer=True).check_optimizer(kind(WEIGHTS))


def test_any_optimizer_is_a_flag():
    with pytest.raises(TypeError, match="`any_optimizer` must be True or False, got 'yes'"):
        couplings.sqrt(any_optimizer="yes")
