"""A growing training computed by hand, and what is traced of a framework's from outside: passes and steps."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

import adabatch as ab
from adabatch.data.order import permute

N, EPOCHS, BASE, LR, MOMENTUM, SEED = 500, 4, 16, 0.02, 0.5, 7
BASE_UPDATES = EPOCHS * math.ceil(N / BASE)  # 128, of training without growth
UPDATES = 32 + 16 + 8 + 4
SIZES = [min(size, N - start) for size in (16, 32, 64, 128) for start in range(0, N, size)]


def growth():
    return ab.schedules.geometric(2, ab.epochs(1), maximum=128)


def lr_at(clock, size):
    """The LR in force: it falls to 0 over the updates of 16 samples, and grows with the batch."""
    epoch, offset = divmod(clock, N)
    return LR * (1 - (32 * epoch + offset // BASE) / BASE_UPDATES) * (size / BASE)


def batches(seed=SEED):
    """Epoch, sample numbers, and LR in force of every update."""
    for epoch, size in enumerate((16, 32, 64, 128)):
        order = permute(np.arange(N), size=N, seed=seed, epoch=epoch)
        for start in range(0, N, size):
            yield epoch, torch.from_numpy(order[start : start + size]), lr_at(epoch * N + start, size)


LRS = [lr for _, _, lr in batches()]


def data():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(N, 4, generator=generator, dtype=torch.float64),
        torch.randn(N, 1, generator=generator, dtype=torch.float64),
    )


def network(dropout=0.0):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1)
    ).double()


def loss_of(model, inputs, targets):
    return torch.nn.functional.mse_loss(model(inputs), targets)


class SGD(torch.optim.SGD):
    """Plain SGD with momentum, which writes down the LR of each of its steps."""

    lrs: list

    def __init__(self, params, lr=LR):
        super().__init__(params, lr=lr, momentum=MOMENTUM)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            vars(self).setdefault("lrs", []).append(float(group["lr"]))  # a pickled optimizer has none
            for parameter in group["params"]:
                state = self.state[parameter]
                moved = state.get("momentum_buffer")
                gradient = parameter.grad
                state["momentum_buffer"] = gradient.clone() if moved is None else MOMENTUM * moved + gradient
                parameter -= group["lr"] * state["momentum_buffer"]
        return loss


def trained(model=None, loss=loss_of, tensors=None, weigh=None, seed=SEED, until=UPDATES):
    """The weights after training by hand: one pass and one step for each batch of the plan.

    `weigh`: the weight of each sample, where the loss of a batch is a weighted mean of those of its samples.
    """
    model = network() if model is None else model
    inputs, targets = data() if tensors is None else tensors
    moved = [torch.zeros_like(p) for p in model.parameters()]
    for number, (_, items, lr) in enumerate(batches(seed)):
        if number == until:
            break
        found = torch.autograd.grad(loss(model, inputs[items], targets[items]), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient, buffer in zip(model.parameters(), found, moved, strict=True):
                buffer.mul_(MOMENTUM).add_(gradient)
                parameter -= lr * buffer
    return weights(model)


def weights(model):
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def assert_trained(model, expected=None):
    torch.testing.assert_close(weights(model), trained() if expected is None else expected, rtol=1e-9, atol=1e-12)


def micro_sizes(micro, world=1, rank=0):
    """The samples of every pass of a rank: each share is cut into as many parts of at most `micro` as the largest."""
    found, clock = [], 0
    for _, items, _ in batches():
        size = len(items)
        count = math.ceil(math.ceil(size / world) / micro)
        share = len(range((rank - clock) % world, size, world))
        found += [share * (i + 1) // count - share * i // count for i in range(count)]
        clock += size
    return found


class Traced(torch.nn.Module):
    """A network that writes down how many samples each training pass has."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.net = network(dropout)
        self.passes = []

    def forward(self, inputs):
        if self.training:
            self.passes.append(len(inputs))
        return self.net(inputs)


@contextmanager
def reductions_of(model):
    """The all-reduces of whole gradients of `model`, as a list that grows; their buffers may be padded."""
    found, own, size = [], dist.all_reduce, sum(p.numel() for p in model.parameters())

    def counted(tensor, *args, **kwargs):
        if tensor.is_floating_point() and tensor.numel() >= size:
            found.append(tensor.numel())
        return own(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        yield found
    finally:
        dist.all_reduce = own


def quiet():
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
