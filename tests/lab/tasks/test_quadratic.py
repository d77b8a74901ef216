"""The noisy quadratic: its samples, its expected loss, and the loop that trains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch.lab import models, tasks
from adabatch.lab.tasks.quadratic import HESSIAN, NOISE, expected_loss
from adabatch.lab.training import RunConfig, train

H, C = np.array(HESSIAN), np.array(NOISE)


def naive(lrs, sizes, momentum, h, c, start, velocity):
    """E[z z^T] of z = (theta, v) of all coordinates at once, by matrices that say what an update does."""
    d = len(h)
    moments = np.zeros((2 * d, 2 * d))
    moments[:, :] = np.outer([*start, *velocity], [*start, *velocity])
    losses = []
    for lr, size in zip(lrs, sizes, strict=True):
        gradient = np.hstack([np.diag(h), momentum * np.eye(d)])  # v after the update, without noise
        update = np.vstack([np.hstack([np.eye(d), np.zeros((d, d))]) - lr * gradient, gradient])
        shaken = np.vstack([-lr * np.eye(d), np.eye(d)])
        moments = update @ moments @ update.T + shaken @ np.diag(c / size) @ shaken.T
        losses.append(0.5 * np.trace(np.diag(h) @ moments[:d, :d]))
    return losses


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_expected_loss_against_matrices(data):
    d, updates = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    numbers = {"allow_nan": False, "allow_infinity": False}
    h, c, start, velocity = (
        np.array(data.draw(st.lists(st.floats(*ends, **numbers), min_size=d, max_size=d)))
        for ends in ((0.01, 1.5), (0.0, 5.0), (-2.0, 2.0), (-2.0, 2.0))
    )
    lrs = data.draw(st.lists(st.floats(0.0, 0.8, **numbers), min_size=updates, max_size=updates))
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=updates, max_size=updates))
    momentum = data.draw(st.sampled_from([0.0, 0.5, 0.9]))
    found = expected_loss(lrs, sizes, momentum=momentum, hessian=h, noise=c, start=start, velocity=velocity)
    np.testing.assert_allclose(found, naive(lrs, sizes, momentum, h, c, start, velocity), rtol=1e-9, atol=1e-12)


def test_several_trainings_at_once():
    lrs = np.linspace(0.05, 0.5, 18).reshape(6, 3)
    momenta = [0.0, 0.5, 0.9]
    together = expected_loss(lrs, [[8], [8], [16], [16], [32], [32]], momentum=momenta)
    for number, momentum in enumerate(momenta):
        alone = expected_loss(lrs[:, number], [8, 8, 16, 16, 32, 32], momentum=momentum)
        np.testing.assert_allclose(together[:, number], alone, rtol=1e-13)
    assert together.shape == (6, 3)


def test_the_expected_loss_against_many_simulated_runs():
    """20,000 runs with growing batches and a falling LR; the mean of each update's loss within 4 standard errors."""
    rng, runs, momentum = np.random.default_rng(0), 20_000, 0.9
    h, c = H[::8], C[::8]
    lrs, sizes = [0.3, 0.3, 0.2, 0.2, 0.1, 0.1], [2, 2, 2, 8, 8, 8]
    theta, v = np.ones((runs, len(h))), np.zeros((runs, len(h)))
    computed = expected_loss(lrs, sizes, momentum=momentum, hessian=h, noise=c)
    for lr, size, expected in zip(lrs, sizes, computed, strict=True):
        samples = rng.standard_normal((runs, len(h))) * np.sqrt(c / size) / h  # the mean of a batch
        v = momentum * v + h * (theta - samples)
        theta = theta - lr * v
        losses = 0.5 * theta**2 @ h
        error = losses.std() / runs**0.5
        assert abs(losses.mean() - expected) < 4 * error
        assert error < 0.01 * expected


def test_a_loss_that_diverges_is_not_finite():
    found = expected_loss(np.full(4000, 3.0), 8)
    assert found[0] < 100
    assert not np.isfinite(found[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.1}, r"`lr` must be an array `\[updates, ...\]`, got the shape \(\)"),
        ({"lr": []}, r"`lr` must be an array `\[updates, ...\]`, got the shape \(0,\)"),
        ({"lr": [0.1, -0.1]}, "`lr` must be at least 0, got -0.1"),
        ({"lr": [0.1, float("nan")]}, "`lr` must be finite, got nan"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0.0"),
        ({"batch_size": [1, 2, 3]}, r"`batch_size` must fit the shape \(2,\), got the shape \(3,\)"),
        ({"momentum": 1.0}, "`momentum` must be less than 1, got 1.0"),
        ({"hessian": [0.0], "noise": [1.0]}, "`hessian` must be greater than 0, got 0.0"),
        ({"hessian": 1.0}, r"`hessian` must be an array `\[dimensions\]`, got the shape \(\)"),
        ({"noise": -1.0}, "`noise` must be at least 0, got -1.0"),
        ({"start": float("inf")}, "`start` must be finite, got inf"),
        ({"velocity": [1.0, 2.0, 3.0]}, r"`velocity` must fit the shape \(256,\), got the shape \(3,\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        expected_loss(**{"lr": [0.1, 0.1], "batch_size": 4, **arguments})


def test_samples_have_the_set_spread_and_belong_to_seed_and_clock():
    data = tasks.get("quadratic").load(None)
    assert data.shape == {"dimensions": 256}
    numbers = data.x_train[:8192]
    drawn = data.train_inputs(numbers, seed=3, clock=500)
    assert drawn.dtype == torch.float32
    variances = C / H**2
    assert (drawn.double().mean(0) / torch.tensor(variances / 8192).sqrt()).abs().max() < 4.5
    np.testing.assert_allclose(drawn.double().var(0), variances, rtol=0.07)  # 4.5 standard errors
    correlations = torch.corrcoef(drawn.double().T) - torch.eye(256)
    assert correlations.abs().max() < 5 / 8192**0.5
    shares = [data.train_inputs(numbers[rank::3], seed=3, clock=500 + rank, stride=3) for rank in range(3)]
    assert all(torch.equal(share, drawn[rank::3]) for rank, share in enumerate(shares))
    assert torch.equal(data.train_inputs(numbers[7:20], seed=3, clock=507), drawn[7:20])
    again = data.train_inputs(numbers, seed=3, clock=500 + data.dataset_size)  # the next pass
    for others in (again, data.train_inputs(numbers, seed=4, clock=500)):
        assert (others == drawn).double().mean() < 1e-6  # of float32, some agree by chance
    assert not data.test_inputs(data.x_test).any()
    assert data.test_inputs(data.x_test).shape == (1, 256)


def test_loss_and_gradient_of_a_sample():
    data, model = tasks.get("quadratic").load(None), models.build("quadratic", dimensions=256).double()
    samples = data.train_inputs(data.x_train[:5], seed=0, clock=0).double()
    loss = data.objective.loss(model(samples), data.y_train[:5])
    loss.backward()
    differences = 1 - samples.numpy()
    assert loss.item() == pytest.approx(np.mean([0.5 * d @ np.diag(H) @ d for d in differences]))
    np.testing.assert_allclose(model.theta.grad, H * differences.mean(0))
    at_start = data.objective.loss(model(data.test_inputs(data.x_test).double()), data.y_test)
    assert at_start.item() == pytest.approx(0.5 * H.sum())
    assert data.objective.chance(data.y_test) is None
    with pytest.raises(ValueError, match="`label_smoothing` must be left out where targets are no classes"):
        data.objective.smoothed(0.1)
    with pytest.raises(ValueError, match="`data` must not be given for quadratic, got 'there'; its samples are drawn"):
        tasks.get("quadratic").load("there")


def test_the_loop_makes_the_updates_of_the_formula():
    """A growing batch and a falling LR, replayed update by update."""
    data = tasks.get("quadratic").load(None)
    small = replace(data, x_train=data.x_train[:64], y_train=data.y_train[:64])
    config = RunConfig.for_task("quadratic", batch_size=4, growth=2.0, every="1 epoch", max_batch_size=8, epochs=2,
        lr=0.1, lr_schedule="step:0.5:1", momentum=0.5, precision="float64")  # fmt: skip
    sizes = [4] * 16 + [8] * 8
    for seed in (0, 1):
        result = train(replace(config, seed=seed), data=small)
        theta, v, clock = np.ones(256), np.zeros(256), 0
        for size in sizes:
            samples = data.train_inputs(data.x_train[:size], seed=seed, clock=clock).double().numpy()
            v = 0.5 * v + H * (theta - samples.mean(0))
            theta -= 0.1 * v  # linear: twice the batch, so twice of half the LR
            clock += size
            if clock == 64:
                assert result.history[0].test_loss == pytest.approx(0.5 * H @ theta**2, rel=1e-9)
        assert result.history[1].test_loss == pytest.approx(0.5 * H @ theta**2, rel=1e-9)
        assert (result.chance, result.at_chance) == (None, False)
        expected = expected_loss([0.1] * 24, sizes, momentum=0.5)[-1]
        assert 0.5 * expected < result.history[1].test_loss < 2 * expected


def test_micro_batches_are_the_batch():
    """In float64 the same to rounding, since each sample's noise belongs to its clock."""
    config = RunConfig.for_task("quadratic", batch_size=4096, max_batch_size=None, epochs=1, precision="float64")
    whole, parts = (train(replace(config, micro_batch_size=size)) for size in (None, 1000))
    assert parts.history[-1].test_loss == pytest.approx(whole.history[-1].test_loss, rel=1e-9)
    assert parts.history[-1].train_loss == pytest.approx(whole.history[-1].train_loss, rel=1e-9)
    with pytest.raises(ValueError, match="`channels_last` must be left out where inputs are no images"):
        train(replace(config, channels_last=True))
