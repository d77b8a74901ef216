from __future__ import annotations

import pytest
import torch

from adabatch.training import optimizers


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("nesterov", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_each_name_with_its_settings(name, kind):
    made = optimizers.build(name, [torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.8, weight_decay=0.03)
    group = made.param_groups[0]
    assert type(made) is kind
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.03)  # no default of torch's
    if kind is torch.optim.SGD:
        assert (group["momentum"], group["nesterov"]) == (0.8, name == "nesterov")
