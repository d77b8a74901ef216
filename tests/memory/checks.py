"""A small network, its data and its step; and all that a measurement must leave alone."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import TensorDataset


def data(count=32):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator))


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(8, 1)
    )


def step_of(model):
    def step(batch):
        torch.nn.functional.mse_loss(model(batch[0]), batch[1]).backward()

    return step


def everything(model, optimizer):
    """Bytes of all that a probe must not touch."""
    state = {str(key): value for key, value in optimizer.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    rng = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    return repr((model.state_dict(), state, grads, modes, rng))


def timed(cost, model, clock):
    """A step that takes `cost(samples)` seconds of `clock`, a list of one number."""

    def step(batch):
        step_of(model)(batch)
        clock[0] += cost(len(batch[0]))

    return step
