"""Small trainings with a tap, one update at a time, and what the tap must have seen, from a naive transcription."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.noise import Estimator

FOREVER = 1e12  # a half-life under which all updates count alike


def data(samples=96, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 5, generator=generator, dtype=dtype)
    return TensorDataset(
        inputs, inputs.sum(1, keepdim=True) + torch.randn(samples, 1, generator=generator, dtype=dtype)
    )


def network(dtype=torch.float64):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).to(dtype)


def squares_of(loss, parameters, scales=None):
    """The squared norm of a loss's gradient, and the gradient."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
    if scales is not None:
        found = [gradient / scale for gradient, scale in zip(found, scales, strict=True)]
    return sum(float(each.square().sum()) for each in found), found


def fallen_short(count):
    """The mean of the standard deviation of so many normal numbers of variance 1, by its integral."""
    middles = [(number + 0.5) / 1000 for number in range(20_000)]
    density = [x ** (count - 2) * math.exp(-x * x / 2) for x in middles]
    mean = sum(x * each for x, each in zip(middles, density, strict=True)) / sum(density)
    return mean / math.sqrt(count - 1)


class Naive:
    """The textbook: a mean gradient for each part and for the batch, and the formulas as they are printed."""

    def __init__(self, norm="l2"):
        self.estimator, self.norm = Estimator(FOREVER), norm

    def estimate(self):
        """In the l1 norm the estimator has lengths."""
        found = self.estimator.estimate()
        assert found is not None
        names = ("noise_scale", "low", "high", "trace", "signal")
        return found if self.norm == "l2" else replace(found, **{name: getattr(found, name) ** 2 for name in names})

    def see(self, losses, sizes, parameters, scales=None):
        """`losses` are the mean losses of parts of `sizes` samples."""
        pairs = [(squares_of(loss, parameters, scales), n) for loss, n in zip(losses, sizes, strict=True) if n]
        batch_size, count = sum(n for _, n in pairs), len(pairs)
        whole = [sum(n * each[i] for (_, each), n in pairs) / batch_size for i in range(len(parameters))]
        if self.norm == "l1":
            variances = [sum(n * (each[i] - mean).square() for (_, each), n in pairs) / (count - 1)
                         for i, mean in enumerate(whole)]  # fmt: skip
            deviations = sum(float(each.sqrt().sum()) for each in variances) / fallen_short(count)
            self.estimator.add(deviations, sum(float(each.abs().sum()) for each in whole), age=0)
            return
        square = sum(float(each.square().sum()) for each in whole)
        trace = (sum(n * own for (own, _), n in pairs) - batch_size * square) / (count - 1)
        self.estimator.add(trace, square - trace / batch_size, age=0)


class Training:
    """One update of a training at each `go()`; offers what a tap offers, for `check_estimator`."""

    def __init__(self, **how):
        self.naive = Naive(how.get("norm", "l2"))
        self.setup(**how)
        self._updates = self.updates()

    def setup(
        self, *, model=None, loader=None, optimizer=None, growth=None, batch_size=12, micro=None, device="cpu", **tapped
    ):
        self.device, self.model = device, (network() if model is None else model).to(device)
        self.loader = loader
        if loader is None:
            self.loader = ab.DataLoader(data(), batch_size=batch_size, shuffle=True, seed=0, micro_batch_size=micro)
        self.optimizer = optimizer or torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.5)
        self.batches = ab.BatchSizeScheduler(
            self.optimizer, self.loader, growth or ab.schedules.constant(), coupling="none"
        )
        self.tap = ab.noise.tap(self.model, self.optimizer, self.loader, **({"half_life": FOREVER} | tapped))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, part):
        inputs, targets = (column.to(self.device) for column in part)
        return mse_loss(self.model(inputs), targets)

    def backward(self, loss):
        loss.backward()

    def before_step(self):
        """After the last micro-batch."""

    def step(self):
        self.optimizer.step()
        self.optimizer.zero_grad()

    def updates(self):
        while True:
            seen = []
            for micro in ab.accumulate(self.loader, self.model):
                with micro as part:
                    self.backward(self.loss(part) * micro.weight)
                seen.append((part, micro.size))
                if micro.failed:
                    seen = []
                if micro.is_last:
                    if len(seen) > 1:
                        self.naive.see([self.loss(part) for part, _ in seen], [n for _, n in seen], self.parameters)
                    self.before_step()
                    self.step()
                    self.batches.step()
                    yield len(seen)
                    seen = []

    def go(self, updates=1):
        return [next(self._updates) for _ in range(updates)]

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def estimate(self):
        return self.tap.estimate()

    def state_dict(self):
        return self.tap.state_dict()

    def load_state_dict(self, state):
        self.tap.load_state_dict(state)

    def close(self):
        self._updates.close()
        self.tap.close()
