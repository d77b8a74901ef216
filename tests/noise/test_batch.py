"""A measured batch on one rank: its sums, whatever the kinds of weights, and why it does not count."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch.noise import parts, trace_and_signal
from adabatch.noise._batch import MeasuredBatch

PART = st.tuples(st.integers(0, 5), st.floats(0.1, 9), st.floats(0.1, 5), st.integers(0, 7), st.booleans())


def measured(width=1, before=None):
    before = None if before is None else torch.tensor(before, dtype=torch.float64)
    return MeasuredBatch(width, before, torch.device("cpu"), end=8, size=8)


def close(batch, *whole, scale=1.0):
    batch.close(torch.tensor(whole, dtype=torch.float64), shared=False, scale=scale, group=None, world=1)
    return batch.read()


@settings(deadline=None)
@given(st.lists(PART, min_size=2, max_size=5), st.floats(0.1, 20), st.sampled_from([1.0, 1024.0]))
def test_numbers_and_tensors_as_weights(given_parts, whole, scale):
    """What came is the part's mean gradient times a factor, and the scaler's."""
    batch = measured()
    for size, square, factor, weight, as_tensor in given_parts:
        came = torch.tensor([square * factor**2 * scale**2], dtype=torch.float64)
        weight = torch.tensor(weight) if as_tensor else weight
        batch.add(
            came, factor=torch.tensor(factor, dtype=torch.float64) if as_tensor else factor, size=size, weight=weight
        )
    found = close(batch, whole * scale**2, scale=scale)
    sums = parts(*([each[i] for each in given_parts] for i in (0, 1, 3)))
    if sums.number < 2:
        assert found.values == []
        assert found.why_not == "fewer than two of its parts counted"
    else:
        assert found.values == [pytest.approx(trace_and_signal(sums, whole), rel=1e-6, abs=1e-6)]


def test_a_part_of_weight_zero_may_hold_anything():
    for weight in (0, torch.tensor(0)):
        batch = measured(2)
        for value in (4.0, 2.0):
            batch.add(torch.tensor([value, 2 * value], dtype=torch.float64), factor=1.0, size=2, weight=2)
        batch.add(torch.tensor([math.nan, math.inf], dtype=torch.float64), factor=0.0, size=2, weight=weight)
        found = close(batch, 2.5, 5.0)
        assert found.values == [trace_and_signal(parts([2, 2], [4.0, 2.0]), 2.5),
                                trace_and_signal(parts([2, 2], [8.0, 4.0]), 5.0)]  # fmt: skip


@pytest.mark.parametrize(
    ("square", "whole", "before", "why"),
    [
        (math.nan, 1.0, None, "was not finite"),
        (1.0, math.inf, None, "was not finite"),
        (1.0, 1.0, 0.5, "gradients of before"),
        (1.0, 1.0, math.nan, "gradients of before"),
        (1.0, 1.0, 0.0, ""),
    ],
)
def test_why_it_does_not_count(square, whole, before, why):
    batch = measured(before=before)
    for _ in range(2):
        batch.add(torch.tensor([square], dtype=torch.float64), factor=1.0, size=2, weight=2)
    found = close(batch, whole)
    assert why in found.why_not
    assert bool(found.values) == (not why)
