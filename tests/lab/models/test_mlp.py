from __future__ import annotations

import pytest
from tests.lab.models import checks, naive


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_scores_are_those_of_one_hidden_layer(train):
    checks.check_scores("mlp", 1, 8, naive.mlp, train=train)
