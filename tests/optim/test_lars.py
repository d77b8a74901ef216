from __future__ import annotations

import pytest
import pytorch_optimizer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.optim import checks

from adabatch.optim import LARS


def reference(lr, momentum, decay, trust, adapt_1d):
    def one(value, grad, state, step):
        slope, size = grad.norm(), value.norm()
        ratio = torch.tensor(1.0)
        if value.ndim > 1 or adapt_1d:
            if size > 0 and slope + decay * size > 0:
                ratio = trust * size / (slope + decay * size)
            grad = grad + decay * value
        state["v"] = momentum * state.get("v", torch.zeros_like(value)) + ratio * grad
        return value - lr * state["v"]

    return one


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 10), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 1e-2]), st.floats(1e-4, 1), st.booleans())
def test_equals_the_formula(lr, momentum, decay, trust, adapt_1d):
    checks.check_against(
        lambda params: LARS(
            params, lr, momentum=momentum, weight_decay=decay, trust_coefficient=trust, adapt_1d=adapt_1d
        ),
        reference(lr, momentum, decay, trust, adapt_1d),
        steps=5,
    )


def test_follows_an_lr_that_changes_without_a_correction_of_the_momentum():
    lrs = [0.5, 1.0, 0.25, 4.0]

    def at(value, grad, state, step):
        return reference(lrs[step % 4], 0.9, 1e-3, 0.001, adapt_1d=False)(value, grad, state, step)

    def change(optimizer, step):
        optimizer.param_groups[0]["lr"] = lrs[step % 4]

    checks.check_against(lambda params: LARS(params, 1.0, weight_decay=1e-3), at, before=change)


def test_a_layer_of_zeros_or_without_slope_takes_the_step_of_sgd():
    layer = torch.nn.Parameter(torch.zeros(2, 2))
    layer.grad = torch.ones(2, 2)
    optimizer = LARS([layer], 0.5)
    optimizer.step()
    assert layer.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]
    layer.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.isfinite(layer).all()


def test_resumes():
    checks.check_resumes(lambda params: LARS(params, 0.3, weight_decay=1e-3))


def test_habits():
    checks.check_habits(lambda params: LARS(params, 0.3))
    for name, value in (("momentum", 1.0), ("trust_coefficient", 0.0), ("lr", float("nan"))):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            LARS(checks.parameters(), **{"lr": 0.1, name: value})
    with pytest.raises(TypeError, match="`adapt_1d` must be True or False"):
        LARS(checks.parameters(), 0.1, adapt_1d=1)


def test_steps_a_network_in_half_precision():
    layer = torch.nn.Linear(8, 8).bfloat16()
    layer(torch.ones(4, 8, dtype=torch.bfloat16)).sum().backward()
    LARS(layer.parameters(), 1.0, weight_decay=0.1).step()
    assert all(torch.isfinite(value).all() for value in layer.parameters())


def test_equals_another_package():
    mine, other = checks.parameters(), checks.parameters()
    checks.check_beside(
        LARS(mine, 3.0, weight_decay=1e-3),
        pytorch_optimizer.LARS(other, 3.0, weight_decay=1e-3, momentum=0.9, trust_coefficient=0.001),
    )
