"""A small model, data and loop that the tests of the scheduler and of `accumulate` share."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

import adabatch as ab

torch.set_num_threads(1)


def data(count=64, features=3):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, features, generator=generator), torch.randn(count, 1, generator=generator))


def loader_of(count=64, batch_size=4, **arguments):
    return ab.DataLoader(data(count), batch_size=batch_size, shuffle=True, seed=0, **arguments)


def model_of(features=3):
    torch.manual_seed(1)
    return torch.nn.Linear(features, 1)


def sgd(model, lr=0.1, **arguments):
    return torch.optim.SGD(model.parameters(), lr=lr, **arguments)


def backward(model, batch):
    inputs, targets = batch
    model.zero_grad()
    torch.nn.functional.mse_loss(model(inputs), targets).backward()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
