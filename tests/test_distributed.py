"""The collectives over two ranks, and what they are in one process."""

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh

from adabatch import _distributed

CPU = torch.device("cpu")


def test_one_process_is_alone():
    assert _distributed.rank_and_world() == (0, 1)
    assert _distributed.sharing_group() == (None, 0, 1)
    assert (_distributed.same_for_all({"a": 3}), _distributed.least(3)) == ({"a": 3}, 3)
    with pytest.raises(ValueError, match="`group` and `mesh` must not both be given"):
        _distributed.sharing_group(group=1, mesh=2)


def test_a_step_by_which_a_checkpoint_fills_an_empty_state():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=0.0)
    parameter.grad = torch.zeros(2)
    assert _distributed.is_phantom(optimizer)
    parameter.grad[0] = 1
    assert not _distributed.is_phantom(optimizer), "a gradient"
    parameter.grad = None
    optimizer.param_groups[0]["lr"] = 0.1
    assert not _distributed.is_phantom(optimizer), "an LR"
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.state[parameter] = {"step": torch.tensor(1.0)}
    assert not _distributed.is_phantom(optimizer), "a state"


def check_collectives(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    assert _distributed.sharing_group(mesh=mesh)[1:] == _distributed.rank_and_world() == (rank, world)
    assert _distributed.sharing_group(shard=False) == (None, 0, 1)
    assert _distributed.same_for_all(f"of {rank}") == "of 0"
    assert _distributed.least(rank + 5) == 5
    assert _distributed.any_of([rank == 1, False], device=CPU) == [True, False]
    assert _distributed.largest([rank, -rank], device=CPU) == [1.0, 0.0]
    value = torch.tensor(rank + 1.0)
    assert (float(_distributed.summed(value)), float(value)) == (3.0, rank + 1.0)
    assert _distributed.device_of() == CPU
    alone = [dist.new_group([each]) for each in range(world)]
    with pytest.raises(ValueError, match="`group` must contain this process"):
        _distributed.sharing_group(group=alone[1 - rank])


def check_average(rank, world):
    """Also of several types, and of more than a bucket holds."""
    tensors = [
        torch.full((3, 2), rank + 1.0),
        torch.full((2,), rank + 1.0).double(),
        torch.full((7 * 2**20,), rank + 1.0),
    ]
    _distributed.Average(tensors, None).run()
    assert all(bool((tensor == 1.5).all()) for tensor in tensors)


def check_buckets(rank, world):
    """The sizes of what DDP itself reduces, by its own hook, and their sums."""
    model = torch.nn.Sequential(
        torch.nn.Linear(400, 300), torch.nn.Linear(300, 1200), torch.nn.Linear(1200, 6000), torch.nn.Linear(6000, 8)
    )
    model.append(torch.nn.Linear(8, 5)).append(torch.nn.Linear(5, 600)).append(torch.nn.Linear(600, 500))
    wrapped, seen = torch.nn.parallel.DistributedDataParallel(model), []

    def hook(_state, bucket):
        seen.append(bucket.buffer().nbytes)
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])

    wrapped.register_comm_hook(None, hook)
    for _ in range(2):  # after the first update DDP knows the order of gradients
        seen.clear()
        wrapped(torch.ones(1, 400)).sum().backward()
    buckets = _distributed.ddp_buckets(model.parameters())
    assert [id(each) for bucket in buckets for each in bucket] == [*reversed([*map(id, model.parameters())])]
    buffers = [torch.zeros(sum(parameter.numel() for parameter in bucket)) for bucket in buckets]
    assert [buffer.nbytes for buffer in buffers] == seen
    assert len(seen) == 3
    for buffer in buffers:
        buffer += rank + 1
    _distributed.all_reduce(buffers)
    assert all(bool((buffer == 3).all()) for buffer in buffers)
    assert _distributed.backend_of(CPU) == "gloo"


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_collectives, check_average, check_buckets)
