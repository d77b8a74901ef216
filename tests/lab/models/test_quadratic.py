from __future__ import annotations

import pytest
import torch

from adabatch.lab import models


def test_differences_from_a_point_that_starts_at_one_whatever_the_seed():
    torch.manual_seed(5)
    model, samples = models.build("quadratic", dimensions=3), torch.randn(4, 3)
    assert torch.equal(model(samples), 1 - samples)
    assert [parameter.shape for parameter in model.parameters()] == [(3,)]


def test_bad_arguments():
    with pytest.raises(ValueError, match="`dimensions` must be at least 1, got 0"):
        models.build("quadratic", dimensions=0)
    with pytest.raises(ValueError, match="`dimensions` must be given for quadratic"):
        models.build("quadratic")
