"""One module or several are taken as one, wrapped or not; what does not fit together is refused."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.accumulate._models import unwrapped


def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(8, 3, generator=generator), torch.randn(8, 1, generator=generator))


def loader_of(micro=3):
    return ab.DataLoader(data(), batch_size=8, micro_batch_size=micro)


def linear(inputs=3, outputs=1):
    torch.manual_seed(1)
    return torch.nn.Linear(inputs, outputs)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ([], ValueError, "`model` must name at least one module, got an empty list; leave it out, or give what trains"),
        (3, TypeError, r"`model` must be a torch.nn.Module or a list of them, got int; .*\[encoder, head\]\)`"),
        ([torch.nn.Linear(1, 1), "head"], TypeError, "`model` must be a torch.nn.Module or a list of them, got str"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        ab.accumulate(loader_of(), model)


def test_compiled_models_are_looked_into():
    model = linear()
    assert unwrapped(torch.compile(model, backend="eager")) is model


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_buffers_and_compiled_modules_of_a_list():
    """Batch norm that two modules share is put back once and whole."""
    norm, failing = torch.nn.BatchNorm1d(3), [True]
    one, two = torch.nn.Sequential(norm, linear()), torch.nn.Sequential(norm)
    for micro in ab.accumulate(loader_of(None), [torch.compile(one, backend="eager"), two]):
        with micro as (x, _y):
            two(x)
            if failing:
                raise torch.OutOfMemoryError(f"no room {failing.pop()}")
    assert norm.num_batches_tracked == 2


def check_lists_alike(rank, world):
    encoder, head = linear(3, 4), linear(4, 1)
    model = DistributedDataParallel(encoder)
    with pytest.raises(
        ValueError, match="`model` must hold wrapped modules only where gradients are averaged over ranks, got a Linear"
    ):
        ab.accumulate(ab.DataLoader(data(), batch_size=8), [model, head])
    ab.accumulate(ab.DataLoader(data(), batch_size=8), [model, encoder, head.requires_grad_(requires_grad=False)])
    alone = [dist.new_group([each]) for each in range(world)][rank]
    other = DistributedDataParallel(linear(4, 1), process_group=alone)
    with pytest.raises(ValueError, match="averaged over the same ranks, got 2 and 1; wrap them over one process group"):
        ab.accumulate(ab.DataLoader(data(), batch_size=8), [model, other])
    del model, other


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_lists_alike)
