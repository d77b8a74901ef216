from __future__ import annotations

import torch
from tests.couplings.checks import check_coupling

from adabatch import couplings


def test_none_keeps_the_lr_of_any_optimizer():
    check_coupling(couplings.none(), exponent=0)
    assert couplings.none().optimizers is None
    couplings.none().check_optimizer(torch.optim.Rprop([torch.zeros(1)]))
