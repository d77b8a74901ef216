"""Every kind of tap through the contract, in one process and in real ones; what sees the same finds the same."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.noise.checks import check_estimator
from tests.noise.trainings import Training, data, network
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab

# To add a kind of tap, add a row: where it trains, and how it is made.
ROWS = [
    ("alone", {"micro": 5, "every": 2}),
    ("alone", {"every": 3}),
    ("alone", {"micro": 4, "every": 1, "groups": "layer", "half_life": 100}),
    ("alone", {"micro": 4, "every": 1, "preconditioned": True}),
    ("alone", {"micro": 5, "every": 2, "norm": "l1"}),
    ("alone", {"every": 3, "norm": "l1", "groups": "layer"}),
    ("ddp", {"every": 2}),
    ("ddp", {"every": 1, "micro": 2, "groups": "layer", "half_life": 100}),
    ("ddp", {"every": 1, "kind": "halves"}),
    ("ddp", {"every": 2, "norm": "l1"}),
    ("ddp plain", {"every": 2}),
    ("ddp plain", {"every": 1, "norm": "l1", "groups": "layer"}),
    ("fsdp", {"every": 2}),
    ("fsdp", {"every": 1, "micro": 2, "norm": "l1"}),
    ("fsdp plain", {"every": 2}),
    ("fsdp plain", {"every": 1, "norm": "l1", "half_life": 100}),
]


class Trained(Training):
    """A training by any row; without the naive transcription, which would pass through the model as well."""

    def __init__(self, where, **how):
        self.where, self.plain = where.partition(" ")[0], where.endswith("plain")
        super().__init__(**how)

    def setup(self, *, micro=None, **how):
        model, dtype = network(torch.float64 if self.where != "fsdp" else torch.float32), torch.float64
        if self.where == "ddp":
            model = DistributedDataParallel(model)
        elif self.where == "fsdp":
            model, dtype = fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),))), torch.float32
        group = None if self.where == "alone" else dist.group.WORLD
        loader = ab.DataLoader(data(dtype=dtype), batch_size=12, shuffle=True, seed=0, group=group,
                               micro_batch_size=micro)  # fmt: skip
        kind = torch.optim.Adam if how.get("preconditioned") else torch.optim.SGD
        super().setup(model=model, loader=loader, optimizer=kind(model.parameters(), lr=0.02), **how)

    def updates(self):
        while True:
            if self.plain:
                for inputs, targets in self.loader:
                    mse_loss(self.model(inputs), targets).backward()
                    self.step()
                    self.batches.step()
                    yield 1
                continue
            for micro in ab.accumulate(self.loader, self.model):
                with micro as part:
                    (self.loss(part) * micro.weight).backward()
                if micro.is_last:
                    self.step()
                    self.batches.step()
                    yield micro.index

    def close(self):
        super().close()
        self.batches.close()


def check(where, how):
    check_estimator(lambda: Trained(where, **how), lambda training, _: training.go())


@pytest.mark.parametrize("row", [row for row in ROWS if row[0] == "alone"], ids=str)
def test_a_tap_keeps_the_contract(row):
    check(*row)


def each_row(rank, world):
    for where, how in ROWS:
        if where != "alone":
            check(where, how)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, each_row)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, each_row)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_halves_are_micro_batches_of_half_a_batch(norm):
    """Ranks, whose samples are other ones, are compared in `test_tap_ranks.py` and `test_watched_shards.py`."""
    found = []
    for how in ({"micro": 6}, {}):
        training = Trained("alone", every=1, norm=norm, **how)
        training.go(12)
        found.append(training.estimate())
    one, other = found
    for name in ("noise_scale", "low", "high", "trace", "signal", "measured"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6)
