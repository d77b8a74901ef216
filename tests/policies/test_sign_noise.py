from __future__ import annotations

from dataclasses import replace
from math import inf, pi, sqrt
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import follow, known, seen
from tests.policies.model import Estimates, first_growth
from tests.scheduler.checks import backward, loader_of, model_of
from tests.scheduler.taps import Numbers

import adabatch as ab
from adabatch import policies
from adabatch.noise.tap import squared
from adabatch.types import NoiseEstimate


class Signum(torch.optim.Optimizer):
    """Sign descent with momentum."""

    def __init__(self, params, lr, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 1 - group["beta"])
                    parameter.sub_(group["lr"] * mean.sign())


class Signs(Numbers):
    """A tap in the l1 norm whose numbers are known."""

    norm = "l1"


@given(st.floats(0.05, 0.88), st.floats(1, 1e5))
def test_the_batch_has_noise_of_theta_times_the_gradient_in_the_l1_norm(theta, noise_scale):
    sigma, gradient = sqrt(noise_scale), 1.0
    wanted = policies.sign_noise(theta, maximum=64).wanted(noise_scale, seen(None))
    assert sigma / sqrt(wanted) == pytest.approx(theta * gradient)


def test_the_paper_takes_a_theta_of_0_6():
    assert policies.sign_noise(maximum=64) == policies.sign_noise(0.6, maximum=64)
    assert policies.sign_noise(maximum=64).coupling == "sqrt"
    assert not policies.sign_noise(maximum=64).shrinks


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 5)), min_size=1, max_size=5), st.floats(1, 1e4))
def test_the_bound_of_the_docstring(coordinates, batch_size):
    """The loss falls by at least |G|_1 - 2 |sigma|_1 / sqrt(B) for normal gradients, and by more in the mean."""
    falls = sum(abs(G) * (1 - 2 * NormalDist().cdf(-abs(G) / (sigma / sqrt(batch_size)))) for G, sigma in coordinates)
    lengths = sum(abs(G) for G, _ in coordinates), sum(sigma for _, sigma in coordinates)
    assert falls >= lengths[0] - 2 * lengths[1] / sqrt(batch_size) - 1e-9


@given(st.floats(1, 1e4), st.floats(1.01, 3), st.floats(0.5, 6))
def test_the_interval_is_widened_on_the_scale_of_lengths(noise_scale, width, z):
    """At 1.96 standard errors it is the one given; at z the ends of |G|_1 / |sigma|_1 are as many times further out."""
    policy = policies.sign_noise(1.0, maximum=64, factor=1.5)
    noise = NoiseEstimate(noise_scale, noise_scale / width, noise_scale * width, noise_scale, 1.0, 1e9)
    low, high = policy.interval(seen(noise), z)
    out = replace(noise, low=noise.low / 1.2, high=noise.high * 1.2, margin=1.2)
    assert policy.interval(seen(out), z) == pytest.approx((low / 1.2, high * 1.2)), "a margin is one of squares"
    middle, by = 1 / sqrt(noise_scale), z / 1.959964
    top = middle + (sqrt(width) * middle - middle) * by
    bottom = middle - (middle - middle / sqrt(width)) * by
    assert low == pytest.approx(1 / top**2, rel=1e-4)
    assert high == (inf if bottom <= 0 else pytest.approx(1 / bottom**2, rel=2e-2))


def test_the_last_size_is_below_what_it_asks_for():
    policy = policies.sign_noise(maximum=4096)
    last = follow(policy, [known(100.0, number=number) for number in range(2000)])[-1].batch_size
    assert last == 256 < 100 / 0.36 < 512


def trained(optimizer, **more):
    model = model_of()
    loader = loader_of(150, 4)
    made = optimizer(model.parameters())
    policy = policies.sign_noise(maximum=16)
    batches = ab.BatchSizeScheduler(made, loader, policy, noise=more.pop("noise", Signs()), **more)
    lrs = []
    while loader.clock < 600:
        for batch in loader:
            backward(model, batch)
            made.step()
            lrs.append(batches.last_lr[0] * 100)
            batches.step()
    return batches, lrs


def test_signum_steps_with_the_root_of_the_batch():
    batches, lrs = trained(lambda params: Signum(params, lr=0.01))
    assert [each.batch_size for each in batches.decisions] == [8, 16]
    assert sorted(set(lrs)) == pytest.approx([1, sqrt(2), 2])
    assert trained(lambda params: torch.optim.AdamW(params, lr=0.01))[0].decisions


def test_for_what_it_is_not():
    with pytest.raises(
        ValueError, match=r"derived for sign descent, such as Signum, .*, got SGD; use `norm_test`, the"
    ):
        trained(lambda params: torch.optim.SGD(params, lr=0.01), coupling="none")
    said = (
        r"`noise` must be measured in the l1 norm for the policy 'sign_noise', got 'l2'; write `.*\(..., norm=.l1.\)`"
    )
    with pytest.raises(ValueError, match=said):
        trained(lambda params: Signum(params, lr=0.01), noise=Numbers())
    model = model_of()
    with pytest.raises(
        ValueError, match="`noise` must be measured in the l2 norm for the policy 'noise_scale', got 'l1'"
    ):
        ab.BatchSizeScheduler(torch.optim.SGD(model.parameters(), lr=0.01), loader_of(150, 4),
                              policies.noise_scale(maximum=16), noise=Signs())  # fmt: skip


class Lengths(Estimates):
    """From halves of batches of normal gradients of deviation 1 and one mean in each of 20 coordinates."""

    def __init__(self, noise_scale, **more):
        super().__init__(noise_scale, **more)
        self.mean = 1 / sqrt(noise_scale)

    def draw(self):
        one, other = self.mean + self.rng.normal(size=(2, self.runs, 20)) / sqrt(self.batch_size / 2)
        deviations = abs(one - other) * sqrt(self.batch_size) / 2 * sqrt(pi / 2)
        return deviations.sum(-1), abs(one + other).sum(-1) / 2

    def estimates(self):
        return [squared(each) for each in super().estimates()]


def grown(theta, share, *, decisions, runs=40):
    """The first growth of each run where the rule asks for that share of the next step, from 64 to 128."""
    policy, noise_scale = policies.sign_noise(theta, maximum=4096), share * 128 * theta**2

    def observed(number, batch_size, noise):
        return seen(noise, batch_size=batch_size, number=number)

    found = first_growth(policy, noise_scale, decisions=decisions, observed=observed, kind=Lengths, runs=runs)
    return sum(each is not None for each in found)


@pytest.mark.parametrize("theta", [0.2, 0.6])
def test_it_does_not_act_on_noise(theta):
    """Whether the l1 norm of the batch's gradient is too long, as at 0.6, or hardly, as at 0.2."""
    assert grown(theta, 0.95, decisions=1000) <= 2


@pytest.mark.slow
def test_at_most_5_per_cent_of_200_runs_of_10_000_decisions_ever_grow_falsely():
    assert grown(0.2, 0.98, decisions=10_000, runs=200) <= 10


def test_it_grows_where_it_should():
    """At 0.6 the norm is so much too long that it takes more, and it grows yet where all is noise."""
    assert grown(0.2, 2, decisions=300, runs=20) == 20
    assert grown(0.6, 1e9, decisions=300, runs=20) == 20


@pytest.mark.parametrize("theta", [0, -1, float("inf"), float("nan")])
def test_a_theta_out_of_range(theta):
    with pytest.raises(ValueError, match=r"`theta` must be .*; 0.6 is the paper's"):
        policies.sign_noise(theta, maximum=64)


@pytest.mark.parametrize(("theta", "factor", "limit"), [(0.9, 2, "0.886"), (0.6, 5, "0.56"), (2.0, 1.5, "1.02")])
def test_a_theta_at_which_the_batch_could_never_grow(theta, factor, limit):
    with pytest.raises(
        ValueError, match=f"`theta` must be below {limit}, else the batch asked for stays below {factor}"
    ):
        policies.sign_noise(theta, maximum=64, factor=factor)


def test_over_a_tap_that_measures():
    """Near its optimum a regression's gradient is noise alone, and the batch grows."""
    torch.manual_seed(0)
    inputs = torch.randn(2048, 8)
    loaded = torch.utils.data.TensorDataset(inputs, torch.randn(2048, 1))
    model = torch.nn.Linear(8, 1)
    optimizer = Signum(model.parameters(), lr=0.001)
    loader = ab.DataLoader(loaded, batch_size=16, shuffle=True, seed=0)
    noise = ab.noise.tap(model, optimizer, loader, every=2, norm="l1")
    batches = ab.BatchSizeScheduler(optimizer, loader, policies.sign_noise(maximum=64), noise=noise)
    while loader.clock < 6 * 2048:
        for micro in ab.accumulate(loader, model):
            with micro as (x, y):
                (torch.nn.functional.mse_loss(model(x), y) * micro.weight).backward()
            if micro.is_last:
                optimizer.step()
                optimizer.zero_grad()
                batches.step()
    assert [each.batch_size for each in batches.decisions] == [32, 64][: len(batches.decisions)]
    assert batches.decisions
    assert str(noise).endswith("halves of one of 2 updates, in the l1 norm")
