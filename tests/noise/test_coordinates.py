"""The l1 norm coordinate by coordinate: unbiased deviations, groups, pieces, sparse gradients, weights of any kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.noise.trainings import Training, fallen_short
from torch import nn

from adabatch.noise import parts
from adabatch.noise._coordinates import MeasuredCoordinates, WatchedCoordinates, deviation

PART = st.tuples(st.integers(0, 5), st.floats(0.1, 5), st.integers(0, 7), st.booleans())


def naive(gradients, sizes, weights):
    """The formula as it is printed, one coordinate at a time."""
    total, found = sum(weights), 0.0
    between = sum(w / n for w, n in zip(weights, sizes, strict=True))
    between -= sum(w * w / n for w, n in zip(weights, sizes, strict=True)) / total
    for column in zip(*gradients, strict=True):
        mean = sum(w * g for w, g in zip(weights, column, strict=True)) / total
        found += math.sqrt(sum(w * (g - mean) ** 2 for w, g in zip(weights, column, strict=True)) / between)
    return found / fallen_short(len(sizes))


def measured(watched, width=1):
    return MeasuredCoordinates(watched, width, None, torch.device("cpu"), end=8, size=8)


@settings(deadline=None)
@given(st.lists(PART, min_size=2, max_size=4), st.sampled_from([1.0, 1024.0]), st.integers(0, 99))
def test_parts_of_any_factor_and_weight(given_parts, scale, seed):
    """What comes is a part's mean gradient times a factor and a scaler's; the weights are numbers or tensors."""
    gradients = np.random.default_rng(seed).normal(size=(len(given_parts), 3))
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    watched = WatchedCoordinates([parameter])
    batch, kept = measured(watched), []
    for gradient, (size, factor, weight, as_tensor) in zip(gradients, given_parts, strict=True):
        watched.open()
        (parameter * torch.tensor(gradient * factor * scale)).sum().backward()
        factor = torch.tensor(factor, dtype=torch.float64) if as_tensor else factor
        batch.add(watched.own(), factor=factor, size=size, weight=torch.tensor(weight) if as_tensor else weight)
        if size and weight:
            kept.append((gradient, size, weight))
    watched.close()
    if len(kept) < 2:
        parameter.grad = None
        batch.close(watched.whole(), shared=False, scale=scale, group=None, world=1)
        assert batch.read().why_not == "fewer than two of its parts counted"
        return
    columns, sizes, weights = zip(*kept, strict=True)
    mean = sum(w * g for w, g in zip(weights, columns, strict=True)) / sum(weights)
    parameter.grad = torch.tensor(mean * scale)
    batch.close(watched.whole(), shared=False, scale=scale, group=None, world=1)
    assert batch.read().values == [pytest.approx((naive(columns, sizes, weights), np.abs(mean).sum()), rel=1e-5)]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (2, 2, 4), (1,) * 8])
def test_the_mean_over_normal_gradients_is_the_sum_of_the_deviations(sizes):
    rng, sigma = np.random.default_rng(0), np.array([0.5, 2.0, 0.0, 1.0])
    B, draws = sum(sizes), 4000
    means = [2.0 + sigma * rng.normal(size=(draws, n, 4)).mean(1) for n in sizes]
    whole = sum(n * mean for n, mean in zip(sizes, means, strict=True)) / B
    spreads = np.sqrt(sum(n * (mean - whole) ** 2 for n, mean in zip(sizes, means, strict=True))).sum(1)
    found = [deviation(parts(sizes, [0] * len(sizes)), spread) for spread in spreads]
    assert abs(np.mean(found) - sigma.sum()) < 4 * np.std(found) / math.sqrt(draws)


def test_where_all_is_noise_the_scale_is_the_batch_size_times_half_pi():
    """The l1 norm of the batch's gradient has the noise in it; the docstring says so."""
    rng, B = np.random.default_rng(0), 16
    halves = rng.normal(size=(2, 200_000)) / math.sqrt(B / 2)
    whole = halves.mean(0)
    spread = np.sqrt(B / 2 * ((halves - whole) ** 2).sum(0)).sum()
    ratio = deviation(parts([B // 2] * 2, [0, 0]), spread) / np.abs(whole).sum()
    assert ratio**2 == pytest.approx(math.pi / 2 * B, rel=0.02)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_groups_and_what_was_there_before():
    model = layers()
    watched = WatchedCoordinates([*model.parameters()], ["first", "first", "second", "second"])
    assert watched.left() == 0
    model(torch.randn(5, 3)).sum().backward()
    first, second = (sum(float(p.grad.abs().sum()) for p in layer.parameters()) for layer in model)
    assert watched.whole().lengths.tolist() == pytest.approx([first, second, first + second])
    assert float(watched.left()) == pytest.approx(first + second)
    assert watched.own() == {}


def test_pieces_are_summed_from_the_second_time_on():
    weight, watched = nn.Parameter(torch.ones(2)), None
    watched = WatchedCoordinates([weight])
    for turn in range(2):
        watched.open()
        weight.grad = None
        weight.sum().backward()
        (2 * weight).sum().backward()
        own = watched.own()[0].tolist()
        assert own == pytest.approx([9.0, 9.0]) if turn else all(math.isnan(each) for each in own)
    watched.close()


def test_what_was_seen_stays_when_gradients_are_added_up_in_place():
    weight = nn.Parameter(torch.ones(2))
    watched = WatchedCoordinates([weight])
    watched.open()
    (3 * weight).sum().backward()
    weight.grad.mul_(100)
    assert watched.own()[0].tolist() == [9.0, 9.0]
    watched.close()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    """The square of a gradient of 300 is beyond the range of fp16."""
    weight = nn.Parameter(torch.zeros(4, dtype=dtype))
    watched = WatchedCoordinates([weight])
    watched.open()
    (weight * 300).sum().backward()
    assert watched.own()[0].tolist() == pytest.approx([300.0**2] * 4, rel=1e-2)
    assert watched.whole().lengths.tolist() == pytest.approx([4 * 300.0], rel=1e-2)
    watched.close()


def test_sparse_gradients():
    """Rows that a part did not use have a gradient of 0, not none."""
    from torch.nn.functional import mse_loss

    class Rows(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            torch.manual_seed(2)
            self.table = nn.Embedding(6, 1, sparse=sparse, dtype=torch.float64)

        def forward(self, inputs):
            return self.table(inputs[:, 0].abs().mul(2).long().clamp(max=5))

    class Run(Training):
        def loss(self, part):
            inputs, targets = part
            return mse_loss(self.model(inputs), targets)

    found = []
    for sparse in (True, False):
        model = Rows(sparse)
        training = Run(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01), micro=4, every=1, norm="l1")
        training.naive.see = lambda *_: None
        training.go(5)
        found.append(training.estimate().noise_scale)
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_devices(device):
    training = Training(micro=5, every=1, groups="layer", device=device, norm="l1")
    training.go(9)
    assert training.estimate().noise_scale == pytest.approx(training.naive.estimate().noise_scale)


def test_a_gradient_that_is_no_number_is_left_out():
    class Broken(Training):
        def loss(self, part):
            return super().loss(part) * (math.nan if self.loader.clock == 24 else 1.0)

    training = Broken(micro=4, every=1, norm="l1")
    training.naive.see = lambda *_: None
    training.before_step = lambda: [p.grad.zero_() for p in training.parameters if p.grad.isnan().any()]
    with pytest.warns(RuntimeWarning, match="a gradient was not finite"):
        training.go(5)
    assert training.tap.skipped == 1
    assert training.estimate().measured == pytest.approx(4)
