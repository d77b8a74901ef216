from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import seen

from adabatch import policies


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 1000), st.floats(1e-3, 2))
def test_it_is_the_diversity_of_the_data_sets_gradients(count, features, seed, delta):
    gradients = np.random.default_rng(seed).normal(0.3, 1, (count, features))
    mean = gradients.mean(0)
    n_delta = count * (gradients**2).sum() / (gradients.sum(0) ** 2).sum()
    noise_scale = gradients.var(0).sum() / (mean**2).sum()
    assert policies.diversity(delta, maximum=64).wanted(noise_scale, seen(None)) == pytest.approx(delta * n_delta)


@pytest.mark.parametrize("delta", [0, -1, float("nan")])
def test_a_multiple_out_of_range(delta):
    with pytest.raises(ValueError, match=r"`delta` must be .*; it is the batch size over 1"):
        policies.diversity(delta, maximum=64)
