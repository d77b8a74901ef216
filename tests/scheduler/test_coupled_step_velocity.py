"""A momentum that a coupling takes to 0 and up again forgets its velocity, where torch would bring it back."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
from tests.scheduler.checks import backward, equal, loader_of, model_of, sgd

import adabatch as ab

# Down to the base size and up again, twice; epochs of 64 samples.
UP_AND_DOWN = ab.schedules.steps("0:4 16:8 48:4 64:16 96:4 104:8 120:12")
ARGUMENTS = [{}, {"foreach": True}, {"fused": True}, {"dampening": 0.3}, {"weight_decay": 0.1}, {"maximize": True}]


class Naive:
    """SGD with momentum as it is written; without momentum there is no velocity, and the next one begins afresh."""

    def __init__(self, model, *, dampening=0.0, weight_decay=0.0, maximize=False, nesterov=False, **_):
        self.params = list(model.parameters())
        self.velocities = [None] * len(self.params)
        self.dampening, self.decay, self.sign, self.nesterov = dampening, weight_decay, 1 - 2 * maximize, nesterov

    @torch.no_grad()
    def step(self, lr, momentum):
        for number, param in enumerate(self.params):
            grad = self.sign * param.grad + self.decay * param
            velocity = self.velocities[number]
            velocity = grad.clone() if velocity is None else momentum * velocity + (1 - self.dampening) * grad
            self.velocities[number] = velocity if momentum else None
            param -= lr * (grad + momentum * velocity if self.nesterov else velocity if momentum else grad)


def sizes(loader, epochs=2):
    for _ in range(epochs):
        for batch in loader:
            yield batch, loader.current.requested / 4


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda each: "-".join(map(str, each)) or "plain")
def test_constant_noise_from_a_base_momentum_of_0(arguments):
    model, by_hand, loader = model_of().double(), model_of().double(), loader_of()
    optimizer, naive = sgd(model, lr=0.05, **arguments), Naive(by_hand, **arguments)
    batches = ab.BatchSizeScheduler(optimizer, loader, UP_AND_DOWN, coupling="constant_noise")
    seen = []
    for (inputs, targets), ratio in sizes(loader):
        for each in (model, by_hand):
            backward(each, (inputs.double(), targets.double()))
        optimizer.step()
        naive.step(0.05, 1 - 1 / ratio)
        batches.step()
        seen.append(ratio)
        for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)
    assert set(seen) == {1, 2, 3, 4}
    assert sum(before > 1 and after == 1 for before, after in itertools.pairwise(seen)) == 2


@dataclass(frozen=True)
class momentum_of(ab.couplings.Coupling):  # noqa: N801
    """A user's own: the momentum at each ratio, the base one elsewhere."""

    at: tuple[tuple[float, float], ...]

    def lr_factor(self, ratio):
        return 1.0

    def in_force(self, group, ratio):
        found = dict(self.at).get(ratio)
        return {} if ratio == 1 or found is None else {"momentum": found}


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_coupling_of_a_user_that_takes_the_momentum_to_0(nesterov):
    """0.9 at the base size, 0 at twice that, 0.5 beyond."""
    model, by_hand, loader = model_of().double(), model_of().double(), loader_of()
    optimizer, naive = sgd(model, lr=0.05, momentum=0.9, nesterov=nesterov), Naive(by_hand, nesterov=nesterov)
    coupling = momentum_of(((2, 0.0), (3, 0.5), (4, 0.5)))
    batches = ab.BatchSizeScheduler(optimizer, loader, UP_AND_DOWN, coupling=coupling)
    for (inputs, targets), ratio in sizes(loader):
        for each in (model, by_hand):
            backward(each, (inputs.double(), targets.double()))
        optimizer.step()
        naive.nesterov = nesterov and ratio != 2
        naive.step(0.05, {1: 0.9, 2: 0.0}.get(ratio, 0.5))
        batches.step()
        for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("base", [0.0, 0.9])
@pytest.mark.parametrize("arguments", [{}, {"foreach": True}, {"centered": True}], ids=["plain", "foreach", "centered"])
def test_rmsprop(base, arguments):
    """RMSprop divides the gradient first, and adds up a velocity all the same. Without one at first, torch fails."""
    model, by_hand, loader = model_of().double(), model_of().double(), loader_of()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=base, **arguments)
    coupling = momentum_of(((2, 0.0), (3, 0.5), (4, 0.5)))
    batches = ab.BatchSizeScheduler(optimizer, loader, UP_AND_DOWN, coupling=coupling)
    squares, means, velocities = ([torch.zeros_like(p) for p in by_hand.parameters()] for _ in range(3))
    for (inputs, targets), ratio in sizes(loader):
        for each in (model, by_hand):
            backward(each, (inputs.double(), targets.double()))
        optimizer.step()
        batches.step()
        momentum = {1: base, 2: 0.0}.get(ratio, 0.5)
        with torch.no_grad():
            for param, square, mean, velocity in zip(by_hand.parameters(), squares, means, velocities, strict=True):
                square.mul_(0.99).add_(0.01 * param.grad**2)
                mean.mul_(0.99).add_(0.01 * param.grad)
                root = (square - mean**2).sqrt() if "centered" in arguments else square.sqrt()
                velocity.mul_(momentum).add_(param.grad / (root + 1e-8))
                param -= 0.01 * velocity
                velocity.mul_(momentum > 0)
        for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("updates", range(1, 22, 2))
def test_resume_at_any_update_is_the_unbroken_run(updates):
    """Also right after the last grown batch, where the state still holds the velocity."""

    def make():
        model, loader = model_of(), loader_of()
        optimizer = sgd(model)
        return (
            model,
            optimizer,
            loader,
            ab.BatchSizeScheduler(optimizer, loader, UP_AND_DOWN, coupling="constant_noise"),
        )

    def train(stop, model, optimizer, loader, batches):
        while loader.clock < 128:
            for batch in loader:
                backward(model, batch)
                optimizer.step()
                batches.step()
                stop -= 1
                if stop == 0:
                    return

    whole, first, second = make(), make(), make()
    train(-1, *whole)
    train(updates, *first)
    for one, other in zip(first, second, strict=True):
        other.load_state_dict(copy.deepcopy(one.state_dict()))
    train(-1, *second)
    assert equal(second[0], whole[0])


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_grad_scaler_skips_forgets_nothing(fused):
    """Two grown batches, a skipped one at the base size, another grown one."""
    model, by_hand, loader = model_of(), model_of(), loader_of()
    optimizer, naive = sgd(model, fused=fused), Naive(by_hand)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    batches = ab.BatchSizeScheduler(
        optimizer, loader, ab.schedules.steps("0:4 4:8 20:4 24:8"), coupling="constant_noise"
    )
    for number, ((inputs, targets), ratio) in zip(range(5), sizes(loader), strict=False):
        assert ratio == (1, 2, 2, 1, 2)[number]
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        scaler.scale(loss * torch.inf if number == 3 else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        batches.step()
        if number != 3:
            backward(by_hand, (inputs, targets))
            naive.step(0.1, 1 - 1 / ratio)
        for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coupling", ["linear", "constant_noise"])
def test_where_no_coupling_moves_the_momentum_torch_has_its_way(coupling):
    """A momentum that the user sets to 0 and back under a constant schedule, or under a coupling of the LR alone."""
    schedule = ab.schedules.constant() if coupling == "constant_noise" else UP_AND_DOWN
    model, by_hand, loader = model_of(), model_of(), loader_of()
    optimizer, reference = sgd(model, momentum=0.9), sgd(by_hand, momentum=0.9)
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule, coupling=coupling)
    for number, (batch, ratio) in enumerate(sizes(loader)):
        for each, made, lr in ((model, optimizer, 0.1), (by_hand, reference, 0.1 * ratio)):
            backward(each, batch)
            made.param_groups[0].update(momentum=0.9 * (number % 3 != 2), lr=lr)
            made.step()
        batches.step()
    assert equal(model, by_hand)
