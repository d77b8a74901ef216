from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import seen

from adabatch import policies


@given(st.floats(0.01, 0.99), st.floats(1e-3, 1e6), st.floats(1e-6, 1e3))
def test_the_halves_of_the_batch_that_it_asks_for_have_that_cosine(c, trace, signal):
    B = policies.similarity(c, maximum=64).wanted(trace / signal, seen(None))
    assert signal / (signal + trace / (B / 2)) == pytest.approx(c)


def test_drawn_gradients_have_that_cosine():
    """In 1,000 directions the quotient is close to that of the means."""
    rng, directions, c = np.random.default_rng(0), 1000, 0.3
    G = np.full(directions, 0.5)
    B = policies.similarity(c, maximum=10**6).wanted(directions / (G**2).sum(), seen(None))
    one, other = (G + rng.normal(size=(400, directions)) / np.sqrt(B / 2) for _ in range(2))
    cosines = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))
    assert cosines.mean() == pytest.approx(c, abs=0.01)


@pytest.mark.parametrize("c", [0, 1, -0.5, 1.5, float("nan")])
def test_a_cosine_out_of_range(c):
    with pytest.raises(ValueError, match=r"`c` must be .*; it is a cosine, and 1 would take a batch without noise"):
        policies.similarity(c, maximum=64)
