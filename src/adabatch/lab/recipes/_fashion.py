"""The training of the Fashion-MNIST recipes: a plain loop whose LR scheduler is turned into growth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

import adabatch as ab
from adabatch._errors import ArgumentError
from adabatch.lab import tasks
from adabatch.lab.recipes._command import Claim
from adabatch.lab.recipes._runs import Record, above, below, over_seeds, told
from adabatch.lab.study import statistics
from adabatch.lab.training.evaluation import accuracy_of, evaluate

MARGIN: Final = 0.01  # of accuracy: one point


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of a run."""

    optimizer: str  # "sgd", "momentum", "nesterov" or "adam"
    lr: float
    momentum: float  # of SGD, where it has one
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run lasts and where its LR falls."""

    epochs: int
    falls: tuple[int, ...]  # epochs
    factor: float  # by which the LR falls


def load(data: Path | str | None, *, samples: int, batch_size: int) -> tasks.Data:
    """The first `samples` pictures of Fashion-MNIST's training set and all of its test set, averaged to 14x14.

    Args:
        data: as of the task `fashion_mnist`.
        samples: how many to train on.
        batch_size: the largest first batch size of a run.

    Raises:
        ValueError: if there are fewer samples, or fewer than ten times `batch_size`: a batch grows to a tenth of them.
    """
    whole = tasks.get("fashion_mnist").load(data)
    least, most = 10 * batch_size, whole.dataset_size
    if not least <= samples <= most:
        raise ArgumentError("samples", f"must be from {least:,} to {most:,}", value=samples)
    return replace(
        whole,
        x_train=avg_pool2d(whole.x_train[:samples], 2),
        y_train=whole.y_train[:samples],
        x_test=avg_pool2d(whole.x_test, 2),
        note=f"the first {samples:,} training pictures, all {len(whole.y_test):,} test pictures, averaged to 14x14",
    )


def build_optimizer(start: Start, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a run starts with."""
    if start.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=start.lr)
    momentum = {"sgd": 0.0, "momentum": start.momentum, "nesterov": start.momentum}[start.optimizer]
    return torch.optim.SGD(model.parameters(), lr=start.lr, momentum=momentum, nesterov=start.optimizer == "nesterov")


def train(
    data: tasks.Data,
    start: Start,
    length: Length,
    *,
    model: Callable[[], nn.Module],
    rule: str,
    coupling: str | None = None,
    seed: int,
    tell: Callable[[float], None],
) -> Record:
    """Trains once; initial weights and order of the data depend on the seed alone.

    Returns:
        A JSON-safe record: `history` (one entry per epoch), final values, `updates` and `planned_updates`.
    """
    torch.manual_seed(seed)
    net, loss_fn = model(), nn.CrossEntropyLoss()
    optimizer = build_optimizer(start, net)
    loader = ab.DataLoader(data.dataset, batch_size=start.batch_size, shuffle=True, seed=seed)
    lr_scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(length.falls), gamma=1 / length.factor)
    growth = ab.from_lr_scheduler(
        lr_scheduler, dataset_size=data.dataset_size, epochs=length.epochs, batch_size=start.batch_size, rule=rule
    )
    planned = growth.plan(dataset_size=data.dataset_size, epochs=length.epochs)
    batches = ab.BatchSizeScheduler(
        optimizer, loader, growth, coupling=coupling or growth.coupling, epochs=length.epochs
    )
    history: list[dict[str, float]] = []
    updates, seconds = 0, 0.0
    for epoch in range(length.epochs):
        began = time.perf_counter()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss_fn(net(inputs), targets).backward()
            optimizer.step()
            batches.step()
            updates += 1
        seconds += time.perf_counter() - began
        train_loss, _ = evaluate(net, data.x_train, data.y_train)
        test_loss, right = evaluate(net, data.x_test, data.y_test)
        history.append(
            {
                "epoch": epoch + 1,
                "updates": updates,
                "seconds": seconds,
                "batch_size": planned.batch_size_at(epoch * data.dataset_size),
                "lr": batches.last_lr[0],
                "train_loss": train_loss,
                "test_loss": test_loss,
                "test_accuracy": accuracy_of(right),
            }
        )
        lr_scheduler.step()
        tell((epoch + 1) / length.epochs)
    return {**history[-1], "planned_updates": planned.updates, "history": history}


def arm_of(records: Sequence[Record]) -> dict[str, Any]:
    """The result of an arm, from one record per seed."""
    history = records[0]["history"]
    return {
        "updates": sorted({record["updates"] for record in records}),
        "planned_updates": sorted({record["planned_updates"] for record in records}),
        "batch_sizes": [entry["batch_size"] for entry in history],
        "lr_in_force": [entry["lr"] for entry in history],
        "updates_by_epoch": [entry["updates"] for entry in history],
        "test_accuracy": statistics.summary([record["test_accuracy"] for record in records]).to_json(),
        "train_loss": statistics.summary([record["train_loss"] for record in records]).to_json(),
        "seconds": statistics.spread([record["seconds"] for record in records]).to_json(),
        "curves": {key: over_seeds(records, key) for key in ("train_loss", "test_accuracy")},
    }


def points(difference: Mapping[str, float | None]) -> str:
    """A difference of accuracies in words."""
    return told(difference, "points", scale=100)


def within(name: str, difference: Mapping[str, float | None]) -> Claim:
    """The claim that an arm is as accurate as `decay`, within one point."""
    inside = above(difference, -MARGIN) and below(difference, MARGIN)
    return Claim(f"{name}: accuracy within 1 point of decay's by the interval", points(difference), inside)
