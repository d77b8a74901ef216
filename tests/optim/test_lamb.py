from __future__ import annotations

import pytest
import pytorch_optimizer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.optim import checks

from adabatch.optim import LAMB


def reference(lr, betas, eps, decay, adapt_1d):
    def one(value, grad, state, step):
        beta1, beta2 = betas
        state["m"] = beta1 * state.get("m", torch.zeros_like(value)) + (1 - beta1) * grad
        state["v"] = beta2 * state.get("v", torch.zeros_like(value)) + (1 - beta2) * grad**2
        mean, square = state["m"] / (1 - beta1 ** (step + 1)), state["v"] / (1 - beta2 ** (step + 1))
        direction = mean / (square.sqrt() + eps)
        if value.ndim <= 1 and not adapt_1d:
            return value - lr * direction
        direction = direction + decay * value
        size, length = value.norm(), direction.norm()
        ratio = size / length if size > 0 and length > 0 else 1.0
        return value - lr * ratio * direction

    return one


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0, 1), st.sampled_from([(0.9, 0.999), (0.0, 0.5)]), st.sampled_from([1e-6, 1e-3]),
    st.sampled_from([0.0, 1e-2]), st.booleans(),
)  # fmt: skip
def test_equals_the_formula(lr, betas, eps, decay, adapt_1d):
    checks.check_against(
        lambda params: LAMB(params, lr, betas=betas, eps=eps, weight_decay=decay, adapt_1d=adapt_1d),
        reference(lr, betas, eps, decay, adapt_1d),
        steps=5,
    )


def test_has_the_paper_s_defaults():
    assert LAMB(checks.parameters()).defaults == {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "adapt_1d": False
    }  # fmt: skip


def test_a_layer_of_zeros_takes_the_step_of_adam():
    layers = [torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)) for _ in range(2)]
    for layer in layers:
        layer.grad = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)
    LAMB(layers[:1], 0.1).step()
    torch.optim.Adam(layers[1:], 0.1, eps=1e-6).step()
    torch.testing.assert_close(layers[0], layers[1], rtol=1e-12, atol=0)


def test_parameters_may_join_later():
    late, early = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LAMB([early, late], 0.1)
    alone = torch.nn.Parameter(torch.ones(2, 2))
    for step in range(3):
        early.grad = torch.ones(2, 2)
        late.grad = torch.full((2, 2), 2.0) if step == 2 else None
        optimizer.step()
    alone.grad = torch.full((2, 2), 2.0)
    LAMB([alone], 0.1).step()
    assert late.equal(alone)


def test_resumes():
    checks.check_resumes(lambda params: LAMB(params, 0.3, weight_decay=1e-3))


def test_habits():
    checks.check_habits(lambda params: LAMB(params, 0.3))
    for name, value in (("betas", (0.9, 1.0)), ("betas", 0.9), ("eps", 0.0)):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            LAMB(checks.parameters(), **{name: value})


def test_equals_another_package_where_the_bias_correction_cancels():
    """It has none: the trust ratio removes any factor, without decay and with a tiny eps."""
    mine, other = ([value for value in checks.parameters() if value.ndim > 1] for _ in range(2))
    checks.check_beside(
        LAMB(mine, 0.1, eps=1e-14),
        pytorch_optimizer.Lamb(other, 0.1, eps=1e-14, weight_decay=0.0, adam_debias=True, weight_decouple=False),
        tolerance=1e-6,
    )
