"""States written by the revision before the house was rebuilt load and go on; tensors are kept as shapes alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import adabatch as ab
from adabatch.lab.training import saved_config, train

BEFORE = Path(__file__).parent / "compatibility"


def load(name):
    return json.loads((BEFORE / f"{name}.json").read_text())


def rebuilt(told):
    """The state of a JSON file; scalars have their values, other tensors type and shape alone."""
    if isinstance(told, list):
        return [rebuilt(each) for each in told]
    if not isinstance(told, dict):
        return told
    if "tensor" in told:
        kind, shape = told["tensor"]
        if kind == "uint8":  # the state of torch's generator
            return torch.get_rng_state()
        kind = getattr(torch, kind)
        return torch.full(shape, 0.01, dtype=kind) if isinstance(shape, list) else torch.tensor(shape, dtype=kind)
    if "dict" in told:
        return {rebuilt(key): rebuilt(value) for key, value in told["dict"]}
    if "tuple" in told:
        return tuple(rebuilt(each) for each in told["tuple"])
    return {key: rebuilt(value) for key, value in told.items()}


@pytest.mark.parametrize("name", load("runs"))
def test_a_run_goes_on(name, tmp_path):
    before = load("runs")[name]
    (tmp_path / "checkpoints").mkdir()
    for file, text in before["files"].items():
        (tmp_path / file).write_text(text)
    torch.save(rebuilt(before["checkpoint"]), tmp_path / "checkpoints" / "last.pt")
    result = train(saved_config(tmp_path), tmp_path, resume=True)
    assert (result.updates, result.samples) == (before["updates"], before["samples"])
    assert list(result.batch_sizes) == before["batch_sizes"]
    assert [[found.clock, found.batch_size, found.reason] for found in result.decisions] == before["decisions"]
    assert len(result.history) == before["evaluations"]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from range(100)


class Saved(torch.utils.data.IterableDataset):
    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 100:
            self.at += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


DATASETS = {"map": lambda: list(range(100)), "tensor": lambda: torch.arange(100), "stream": Stream, "saved": Saved}


@pytest.mark.filterwarnings("ignore:.*samples of the stream are read and dropped:UserWarning")
@pytest.mark.parametrize("number", range(len(load("loaders"))))
def test_a_loader_goes_on(number):
    before = load("loaders")[number]
    loader = ab.DataLoader(DATASETS[before["dataset"]](), **before["arguments"])
    loader.load_state_dict(before["state"])
    assert [batch.tolist() for batch in loader] == before["rest"]
    assert [batch.tolist() for batch in loader] == before["next_epoch"]


@pytest.mark.parametrize("number", range(len(load("schedulers"))))
def test_a_scheduler_goes_on(number):
    before = load("schedulers")[number]
    kind, state = before["coupling"], before["state"]
    model = torch.nn.Linear(4, 2)
    parameters = model.parameters()
    adam = kind == "adam_sde"
    optimizer = torch.optim.Adam(parameters, lr=0.01) if adam else torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    dataset = torch.utils.data.TensorDataset(torch.randn(96, 4), torch.arange(96) % 2)
    loader = ab.DataLoader(dataset, batch_size=8, shuffle=True, seed=7)
    growth = ab.schedules.geometric(factor=2, every=ab.epochs(1), maximum=32)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling=kind)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.load_state_dict(rebuilt(state["optimizer"]))
    lr_scheduler.load_state_dict(state["lr_scheduler"])
    loader.load_state_dict(state["loader"])
    batches.load_state_dict(state["batches"])
    trace = []
    while loader.epoch < 4:
        for inputs, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            batches.step()
            trace.append([len(targets), batches.last_lr[0]])
        lr_scheduler.step()
    assert trace == before["rest"]
