"""The micro-batch that was measured fastest: torch's random state and the other settings stay as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.lab.training.checks import SMALL, small_data

from adabatch.lab.training import train, with_fastest_micro_batch


def test_it_is_none_or_a_power_of_two_below_the_largest_batch():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = with_fastest_micro_batch(replace(SMALL, micro_batch_size=5), data=small_data())
    assert torch.equal(torch.get_rng_state(), before)
    assert found.micro_batch_size in (None, 1, 2, 4, 8, 16, 32)  # the batch grows to 64
    assert replace(found, micro_batch_size=5) == replace(SMALL, micro_batch_size=5)
    assert train(found, data=small_data()).updates == 45


@pytest.mark.parametrize("given", [None, 1])
def test_whole_batches_need_no_size(given):
    single = replace(SMALL, growth=None, batch_size=1, micro_batch_size=given)
    assert with_fastest_micro_batch(single, data=small_data()).micro_batch_size is None
