"""Batch norm over ranks: outputs, gradients and running statistics of one process, whatever share a rank has."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.norm.test_ghost import KINDS, LAST, filled
from torch import nn
from torch._dynamo.testing import CompileCounter

from adabatch.norm import Share, SyncBatchNorm, ghost, sync


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11, check_stride=False)


def check_equals_one_process(rank, world):
    """Cut as the loader does: positions congruent to a turn, of uneven and empty shares."""
    for number, (total, size, dims, momentum, affine, track) in enumerate(
        [
            (24, None, 1, 0.1, True, True),
            (13, None, 2, None, True, True),
            (2, None, 3, 0.5, False, True),
            (24, 4, 2, 0.1, True, True),
            (24, 5, 1, 0.3, True, True),
            (13, 4, 2, None, False, True),
            (9, 7, 2, 0.1, True, False),
            (2, 1, 2, 0.1, True, True),
        ]
    ):
        torch.manual_seed(number)
        layer = filled(KINDS[dims](3, momentum=momentum, affine=affine, track_running_stats=track))
        one = copy.deepcopy(layer) if size is None else ghost(copy.deepcopy(layer), size=size)
        many = sync(copy.deepcopy(one))
        assert many.state_dict().keys() == layer.state_dict().keys()
        for turn in range(world):
            whole = torch.randn(total, 3, *(2, 3, 2)[: 0 if dims == 1 else dims], dtype=torch.float64) + 5
            whole = whole.contiguous(memory_format=LAST[dims]) if dims > 1 and turn else whole
            whole.requires_grad_()
            weights, (first, step) = torch.randn_like(whole), ((rank + turn) % world, world)
            mine = torch.arange(first, total, step)
            share = Share(len(mine), total, first, step)
            given = mine if len(mine) else torch.tensor([0])  # a repeated sample, which does not count
            x = whole.detach()[given].requires_grad_()
            many.share = share
            y, expected = many(x), one(whole)
            close(y[: len(mine)], expected[mine])
            factor = weights[given] if len(mine) else torch.zeros_like(x)
            (y * factor).sum().backward()
            (expected * weights).sum().backward()
            close(x.grad[: len(mine)], whole.grad[mine])
            for parameter, other in zip(many.parameters(), one.parameters(), strict=True):
                dist.all_reduce(parameter.grad)
                close(parameter.grad, other.grad)
                parameter.grad = other.grad = None
            close(dict(many.named_buffers()), dict(one.named_buffers()))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return torch.relu(self.norm(self.linear(x)))


def check_that_compiling_leaves_it_alone(rank, world):
    """Shares are told anew in each batch: none compiles the network again."""
    torch.manual_seed(0)
    model = Block().double()
    synced, counter = sync(copy.deepcopy(model)), CompileCounter()
    compiled, frames = torch.compile(synced, backend=counter), []
    for turn in range(3):
        whole = torch.randn(8, 3, dtype=torch.float64)
        synced.norm.share = Share(4, 8, (rank + turn) % world, world) if turn else None
        close(compiled(whole[rank::world]), model(whole)[rank::world])
        frames.append(counter.frame_count)
    assert frames[0] > 0
    assert frames[1:] == frames[:1] * 2
    close(dict(synced.named_buffers()), dict(model.named_buffers()))
    torch._dynamo.reset()


def check_what_it_is_not_told(rank, world):
    """All samples count; sub-batches take those of rank 0 first."""
    torch.manual_seed(0)
    for size in (None, 4):
        layer = nn.BatchNorm1d(3).double()
        many = sync(ghost(copy.deepcopy(layer), size=size) if size else copy.deepcopy(layer))
        one = ghost(layer, size=size) if size else layer
        whole = torch.randn(13, 3, dtype=torch.float64)
        mine = slice(0, 6) if rank == 0 else slice(6, 13)
        close(many(whole[mine]), one(whole)[mine])
        many.share = Share(4, 8, rank, world)  # of other samples than these
        close(many(whole[mine]), one(whole)[mine])
        many.share = Share(0, 3, 3, world) if rank == 1 else Share(3, 3, 0, world)
        close(many(whole[mine])[: 6 if rank == 0 else 0], one(whole[:6])[: 6 if rank == 0 else 0])
        close(dict(many.named_buffers()), dict(one.named_buffers()))
        many.eval(), one.eval()
        close(many(whole[mine]), one(whole)[mine])


def check_gradients_of_gradients(rank, world):
    torch.manual_seed(0)
    one = nn.BatchNorm1d(2).double()
    many, whole = sync(copy.deepcopy(one)), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    x = whole.detach()[rank::world].requires_grad_()
    found = []
    for layer, inputs in ((many, x), (one, whole)):
        (of_input,) = torch.autograd.grad((layer(inputs) ** 3).sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad((of_input**2).sum(), inputs)[0])
    close(found[0], found[1][rank::world])


def check_far_means_in_single_precision(rank, world):
    """As exact as on one process, where sums of squares would cancel."""
    torch.manual_seed(0)
    whole = torch.randn(64, 5, 7, 9) + 1000
    exact, many = nn.BatchNorm2d(5).double(), sync(nn.BatchNorm2d(5))
    expected, one = exact(whole.double()), nn.BatchNorm2d(5)
    error = float((one(whole) - expected).abs().max())
    assert float((many(whole[rank::world]) - expected[rank::world]).abs().max()) <= 4 * error
    half = sync(nn.BatchNorm2d(5))(torch.randn(4, 5, 3, 3).bfloat16())
    assert half.dtype == torch.bfloat16


def check_compiled(rank, world):
    """Told and not told, as where sizes are compiled before training."""
    torch.manual_seed(0)
    for size in (None, 2):
        layer = filled(nn.BatchNorm1d(3))
        one = ghost(copy.deepcopy(layer), size=size) if size else layer
        many, whole = sync(copy.deepcopy(one)), torch.randn(8, 3, dtype=torch.float64)
        compiled = torch.compile(many, backend="aot_eager")
        for share in (None, Share(4, 8, rank, world)):
            many.share = share
            mine = whole[rank::world] if share else whole[4 * rank : 4 * rank + 4]
            y, expected = compiled(mine), one(whole)
            close(y, expected[rank::world] if share else expected[4 * rank : 4 * rank + 4])
            (y**3).sum().backward()
            (expected**3).sum().backward()
            dist.all_reduce(many.weight.grad)
            close(many.weight.grad, one.weight.grad)
            many.weight.grad = one.weight.grad = None
        close(dict(many.named_buffers()), dict(one.named_buffers()))


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_equals_one_process():
    on_ranks(3, check_equals_one_process)


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_what_it_is_not_told, check_gradients_of_gradients, check_far_means_in_single_precision)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_compiled():
    on_ranks(2, check_compiled, check_that_compiling_leaves_it_alone)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_process_alone_has_what_it_had(size, dims):
    torch.manual_seed(0)
    layer = KINDS[dims](3)
    layer = ghost(layer, size=size) if size else layer
    again = sync(copy.deepcopy(layer))
    assert isinstance(again, SyncBatchNorm)
    x = torch.randn(13, 3, *(2, 3, 2)[: 0 if dims == 1 else dims])
    assert torch.equal(again(x), layer(x))
    torch.testing.assert_close(again.state_dict(), layer.state_dict(), rtol=0, atol=0)


def test_layers_are_exchanged_in_place():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), ghost(nn.BatchNorm1d(3), size=2))
    parameters = [id(each) for each in model.parameters()]
    assert sync(model) is model
    assert [id(each) for each in model.parameters()] == parameters
    assert [getattr(layer, "size", None) for layer in model] == [None, None, 2]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(2, 2), ValueError, "`model` must have batch norm layers, got Linear without any; leave it as is"),
        (nn.SyncBatchNorm(2), TypeError, "only, got SyncBatchNorm: the model itself; leave out `norm.sync` or"),
    ],
)
def test_nothing_to_exchange(model, error, message):
    with pytest.raises(error, match=message):
        sync(model)


def test_ghosts_come_first():
    with pytest.raises(ValueError, match=r"ghost batch norm already, .*; to change the size set the layers' `size`"):
        ghost(sync(nn.BatchNorm1d(2)), size=2)


def test_a_second_call_changes_nothing():
    model = sync(ghost(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), size=4))
    kind = type(model[1])
    assert sync(model) is model
    assert type(model[1]) is kind
    assert model[1].size == 4
