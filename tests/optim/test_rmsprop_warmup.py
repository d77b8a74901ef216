from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.optim import checks

import adabatch as ab
from adabatch.optim import RMSpropWarmup
from adabatch.optim.rmsprop_warmup import sgd_share


def reference(epochs, *, lr=0.1, momentum=0.9, alpha=0.99, eps=1e-8, rms_lr=3e-4, decay=0.0):
    """The paper's form: the direction is added, with its sign."""

    def one(value, grad, state, step):
        epoch = epochs[step]
        share = 0.5 * math.exp(2 * (epoch - 10) / 5) if epoch < 10 else min(1.0, 0.5 + (epoch - 10) / 5)
        rms = (1 - share) * rms_lr / lr if lr else 0.0
        grad = grad + decay * value
        state["m"] = alpha * state.get("m", torch.zeros_like(value)) + (1 - alpha) * grad**2
        state["d"] = (
            momentum * state.get("d", torch.zeros_like(value)) - (share + rms / (state["m"].sqrt() + eps)) * grad
        )
        return value + lr * state["d"]

    return one


@pytest.mark.parametrize("capturable", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    st.floats(0, 14), st.sampled_from([0.1, 3.2, 0.0]), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 1e-2]),
    st.booleans(),
)  # fmt: skip
def test_equals_the_paper_s_formula(capturable, start, lr, momentum, decay, as_tensor):
    epochs = [start + step * 0.37 for step in range(6)]
    now = iter(epochs)
    checks.check_against(
        lambda params: RMSpropWarmup(
            params,
            torch.tensor(lr, dtype=torch.float64) if as_tensor else lr,
            epochs=lambda: next(now),
            momentum=momentum,
            weight_decay=decay,
            capturable=capturable,
        ),
        reference(epochs, lr=lr, momentum=momentum, decay=decay),
        steps=6,
    )


@pytest.mark.parametrize("capturable", [False, True])
def test_is_momentum_sgd_bit_for_bit_after_the_transition(capturable):
    epoch = 12.0
    mine, other = checks.parameters(dtype=torch.float32), checks.parameters(dtype=torch.float32)
    optimizer = RMSpropWarmup(mine, 0.1, epochs=lambda: epoch, weight_decay=1e-3, capturable=capturable)
    for value, grad in zip(mine, checks.gradients(mine, 0), strict=True):
        value.grad = grad
    optimizer.step()
    epoch = 12.5
    sgd = torch.optim.SGD(other, 0.1, momentum=0.9, weight_decay=1e-3, foreach=True)
    for value, twin in zip(mine, other, strict=True):
        twin.data.copy_(value.data)
        sgd.state[twin]["momentum_buffer"] = optimizer.state[value]["momentum_buffer"].clone()
    for step in range(1, 20):
        for value, twin, grad in zip(mine, other, checks.gradients(mine, step), strict=True):
            value.grad, twin.grad = grad, grad.clone()
        optimizer.step()
        sgd.step()
        assert all(map(torch.equal, mine, other))


def test_the_share_is_smooth_and_ends_at_one():
    assert sgd_share(10 - 1e-9) == pytest.approx(0.5, abs=1e-8)
    assert sgd_share(10) == 0.5
    slopes = [(sgd_share(epoch + 1e-6) - sgd_share(epoch)) / 1e-6 for epoch in (10 - 2e-6, 10)]
    assert slopes == pytest.approx([1 / 5, 1 / 5], rel=1e-4)
    assert [sgd_share(epoch) for epoch in (12.5, 13, 1_000)] == [1, 1, 1]
    assert [sgd_share(epoch, center=0, period=0) for epoch in (0, 1)] == [1, 1]
    assert all(sgd_share(i / 100) < sgd_share((i + 1) / 100) for i in range(1_250))


def test_epochs_come_from_the_loader_with_their_fraction():
    data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randn(8, 1))
    model = torch.nn.Linear(3, 1)
    loader = ab.DataLoader(data, batch_size=2, shuffle=True, seed=0)
    optimizer = RMSpropWarmup(model.parameters(), 0.1, epochs=loader, center=1.0, period=1.0)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), coupling="linear")
    seen = []
    for _ in range(2):
        for inputs, targets in loader:
            optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
            seen.append(optimizer.param_groups[0]["sgd_share"])
            batches.step()
    assert seen == [sgd_share(update / 4, center=1.0, period=1.0) for update in range(8)]


def test_resumes():
    checks.check_resumes(lambda params: RMSpropWarmup(params, 0.1, epochs=Eleven()))


class Eleven:
    """Always epoch 11."""

    def __call__(self):
        return 11.0


def test_habits():
    checks.check_habits(lambda params: RMSpropWarmup(params, 0.3, epochs=lambda: 0))
    for name, value in (
        ("momentum", 1.0),
        ("alpha", -0.1),
        ("eps", 0.0),
        ("rms_lr", -1),
        ("center", -1),
        ("period", -1),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            RMSpropWarmup(checks.parameters(), 0.1, epochs=lambda: 0, **{name: value})
    with pytest.raises(TypeError, match="`epochs` must be a loader with a clock, or a function, got 5; pass the"):
        RMSpropWarmup(checks.parameters(), 0.1, epochs=5)
    stream = ab.DataLoader(Stream(), batch_size=2)
    with pytest.raises(ValueError, match="`epochs` must be a loader whose data set has a size, got a stream"):
        RMSpropWarmup(checks.parameters(), 0.1, epochs=stream)
    with pytest.raises(TypeError, match="`epochs` must be a number, got None"):
        RMSpropWarmup(checks.parameters(), 0.1, epochs=lambda: None).step()  # type: ignore[return-value]
    optimizer = RMSpropWarmup(checks.parameters(), 0.1, epochs=lambda: float("nan"))
    with pytest.raises(ValueError, match="`epochs` must be finite"):
        optimizer.step()


def test_a_copy_comes_without_the_loader_and_says_so():
    loader = ab.DataLoader(torch.utils.data.TensorDataset(torch.zeros(100_000)), batch_size=1_000)
    optimizer = RMSpropWarmup(checks.parameters(), 0.1, epochs=loader)
    assert optimizer.epochs is loader
    assert len(pickle.dumps(optimizer)) < 10_000
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.epochs is None
        with pytest.raises(RuntimeError, match="`RMSpropWarmup` needs its loader, which a copy comes without; write"):
            twin.step()
        twin.epochs = loader
        twin.step()
        assert twin.param_groups[0]["sgd_share"] == sgd_share(0)
    with pytest.raises(TypeError, match="`epochs` must be a loader with a clock, or a function, got None"):
        optimizer.epochs = None


def test_the_velocity_is_in_units_of_the_lr():
    """As the docstring says: after a change of the LR, steps change with it, and come back."""
    value = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSpropWarmup([value], 1e-3, epochs=lambda: 0.0, alpha=0.9, momentum=0.9)
    steps = []
    for update in range(400):
        optimizer.param_groups[0]["lr"] = 1e-3 if update < 200 else 1e-2
        value.grad, before = torch.full_like(value, 1e-3), value.item()
        optimizer.step()
        steps.append(before - value.item())
    assert steps[199] == pytest.approx(3e-3 * 0.99, rel=0.01)  # rms_lr / (1 - momentum), nearly all of it RMSprop's
    assert 8 < steps[200] / steps[199] < 10
    assert steps[399] == pytest.approx(steps[199], rel=0.03)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from range(10)


@pytest.mark.parametrize("scheduled", [False, True])
def test_without_a_scheduler_the_batch_in_hand_is_counted(scheduled):
    data = torch.utils.data.TensorDataset(torch.randn(100, 2))
    loader = ab.DataLoader(data, batch_size=30)
    model = torch.nn.Linear(2, 1)
    optimizer = RMSpropWarmup(model.parameters(), 0.1, epochs=loader, center=1.0, period=1.0)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(30)) if scheduled else None
    shares = []
    for _ in range(2):
        for (inputs,) in loader:
            model(inputs).sum().backward()
            optimizer.step()
            shares.append(optimizer.param_groups[0]["sgd_share"])
            if batches is not None:
                batches.step()
    clocks = (0, 30, 60, 90, 100, 130, 160, 190, 200)
    expected = clocks[:-1] if scheduled else clocks[1:]
    assert shares == [sgd_share(clock / 100, center=1.0, period=1.0) for clock in expected]


@pytest.mark.gpu
def test_a_captured_step_follows_the_epoch():
    passed = [0.0]
    trained = [value.detach().cuda().requires_grad_() for value in checks.parameters(dtype=torch.float32)]
    twins = [value.detach().clone().requires_grad_() for value in trained]
    captured, plain = (
        RMSpropWarmup(values, lr=torch.tensor(0.1, device="cuda"), epochs=lambda: passed[0], capturable=capturable)
        for values, capturable in ((trained, True), (twins, False))
    )
    for value in trained:
        value.grad = torch.ones_like(value)
    stream = torch.cuda.Stream()
    before = [value.detach().clone() for value in trained]
    with torch.cuda.stream(stream):  # torch wants a step outside before a capture
        captured.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured.step()
    with torch.no_grad():
        for value, first in zip(trained, before, strict=True):
            value.copy_(first)
            for moment in captured.state[value].values():
                moment.zero_()
    for epoch in (0.0, 9.0, 11.0, 30.0):
        passed[0] = epoch
        for value, twin, grad in zip(trained, twins, checks.gradients(trained, int(epoch)), strict=True):
            value.grad.copy_(grad)
            twin.grad = grad.cuda()
        captured.read_epoch()
        graph.replay()
        plain.step()
    for value, twin in zip(trained, twins, strict=True):
        torch.testing.assert_close(value, twin, rtol=1e-5, atol=1e-6)
