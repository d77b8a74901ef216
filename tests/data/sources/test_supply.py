"""Sources over ranks and start methods, kept where workers persist and ended when the loader is gone."""

import gc
import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from tests.data.checks import source_of
from tests.data.sets import Plan, Rich, no_children, plain
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import (
    IterableDataset,
    default_collate,
)

from adabatch.data import DataLoader
from adabatch.data.order import permute


def gathered(values, world):
    boxes = [None] * world
    dist.all_gather_object(boxes, values)
    return boxes


def batches_of_all(loader, world):
    """The batches of an epoch, each as the set of samples over all ranks."""
    mine = []
    for data, part in loader.parts():
        mine.append((part.batch.clock, part.index, part.count, data[: part.size].tolist()))
    rows = gathered(mine, world)
    assert len({tuple(entry[:3] for entry in row) for row in rows}) == 1
    found = {}
    for row in rows:
        for clock, _, _, items in row:
            found.setdefault(clock, []).extend(items)
    return [sorted(items) for _, items in sorted(found.items())]


def one_order_for_all(rank, world):
    torch.manual_seed(rank)  # ranks that disagree
    loader = DataLoader(torch.arange(23), 5, shuffle=True, micro_batch_size=2)
    found = batches_of_all(loader, world)
    assert len(set(gathered(loader.seed, world))) == 1
    expected = permute(torch.arange(23).numpy(), size=23, seed=loader.seed, epoch=0).tolist()
    assert found == [sorted(expected[at : at + 5]) for at in range(0, 23, 5)]
    assert len(set(gathered(str(loader.state_dict()), world))) == 1


def workers_on_each_rank(rank, world):
    loader = DataLoader(list(range(40)), 8, shuffle=True, seed=1, num_workers=1, micro_batch_size=3)
    assert [len(batch) for batch in batches_of_all(loader, world)] == [8] * 5
    assert sorted(item for batch in batches_of_all(loader, world) for item in batch) == list(range(40))


def groups_and_meshes(rank, world):
    whole = DataLoader(torch.arange(8), 4, shard=False)
    assert [batch.tolist() for batch in whole] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("dp",))
    shared = DataLoader(torch.arange(8), 4, mesh=mesh)
    assert [batch.tolist() for batch in shared] == [list(range(rank, 4, 2)), list(range(4 + rank, 8, 2))]
    grid = init_device_mesh("cpu", (world, 1), mesh_dim_names=("dp", "tp"))
    with pytest.raises(ValueError, match=r"`mesh` must have one dimension.*got 2"):
        iter(DataLoader(torch.arange(8), 4, mesh=grid))
    alone = [dist.new_group([each]) for each in range(world)][rank]
    assert [len(batch) for batch in DataLoader(torch.arange(8), 4, group=alone)] == [4, 4]
    with pytest.raises(ValueError, match="`seed` must be given where a `group` or `mesh` is a part of the world, got"):
        iter(DataLoader(torch.arange(8), 4, group=alone, shuffle=True)).__next__()
    peers = init_device_mesh("cpu", (1, world), mesh_dim_names=("dp", "tp"))
    seen = DataLoader(torch.arange(8), 4, mesh=peers["dp"], shuffle=True, seed=3)
    first = gathered(next(iter(seen)).tolist(), world)
    assert first == [first[0]] * world
    with pytest.raises(ValueError, match="a batch of 3 samples does not divide over 2 ranks"):
        next(iter(DataLoader(torch.arange(9), 3)))


class ByRank(IterableDataset):
    """Shares itself out among ranks; the second has less."""

    def __iter__(self):
        rank = dist.get_rank()
        return iter(range(rank, 20 if rank == 0 else 15, 2))


def a_stream_that_shares_itself_out(rank, world):
    loader = DataLoader(ByRank(), 4, sharding="dataset", seed=0)
    mine = [batch.tolist() for batch in loader]
    assert len(set(gathered(len(mine), world))) == 1
    assert mine == [[rank, rank + 2], [rank + 4, rank + 6], [rank + 8, rank + 10], [rank + 12]]
    assert loader.epoch == 1


def a_shared_out_stream_with_uneven_batches_resumes(rank, world):
    def new():
        return DataLoader(ByRank(), 3, sharding="dataset", seed=0)

    def items(parts, count):
        return [data[: part.size].tolist() for _, (data, part) in zip(range(count), parts, strict=False)]

    whole = items(new().parts(), 99)
    begun = new()
    before = items(begun.parts(), 3)
    states = gathered(begun.state_dict(), world)
    resumed = new()
    with pytest.raises(ValueError, match=f"it is of rank {1 - rank}, this is rank {rank}; save and load a state on"):
        resumed.load_state_dict(states[1 - rank])
    resumed.load_state_dict(states[rank])
    with pytest.warns(UserWarning, match="read and dropped"):
        assert before + items(resumed.parts(), 99) == whole
    states = gathered(resumed.state_dict(), world)
    assert states[0] == states[1]  # between epochs
    new().load_state_dict(states[1 - rank])


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, one_order_for_all, workers_on_each_rank, groups_and_meshes, a_stream_that_shares_itself_out)
    on_ranks(2, a_shared_out_stream_with_uneven_batches_resumes)


SIZES = [7, 3, 20, 1, 64, 9]


def history(loader, epochs=2):
    found = []
    for _ in range(epochs):
        for batch in loader:
            found.append(plain(batch))
            loader.batch_size = SIZES[len(found) % len(SIZES)]
    return found


def tensors_alive():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


REFERENCE: list = []


def reference():
    if not REFERENCE:
        REFERENCE.extend(history(DataLoader(Rich(), 7, shuffle=True, seed=3)))
    return REFERENCE


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": 1, "prefetch_factor": 1},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 4, "prefetch_factor": 4},
        {"num_workers": 2, "collate_fn": lambda samples: default_collate(samples)},
    ],
)
def test_workers_change_nothing_but_where_samples_are_fetched(arguments):
    loader = DataLoader(Rich(), 7, shuffle=True, seed=3, **arguments)
    assert history(loader) == reference()
    del loader
    assert no_children()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_start_method_delivers_the_same(method):
    loader = DataLoader(Rich(), 7, shuffle=True, seed=3, num_workers=2, multiprocessing_context=method)
    assert history(loader, 1) == reference()[: len(history(DataLoader(Rich(), 7, shuffle=True, seed=3), 1))]


def test_leaving_early_and_dropping_a_loader_end_its_workers():
    for persistent in (False, True):
        loader = DataLoader(Rich(), 4, num_workers=2, persistent_workers=persistent)
        for _ in loader:
            break
        assert bool(multiprocessing.active_children()) == persistent
        assert len(next(iter(loader))["item"]) == 4
        del loader
        assert no_children()


def test_dropping_a_loader_in_the_middle_of_parts_ends_its_workers():
    loader = DataLoader(Rich(), 20, num_workers=2, persistent_workers=True, micro_batch_size=3)
    loader.attach(Plan((0, 20), size=100))
    loader._place.cursor.driver.loader = loader  # as a scheduler does
    for _ in loader.parts():
        break
    assert loader._place.front is None
    del loader
    assert no_children()


def test_memory_and_processes_return_after_many_loaders():
    def one():
        loader = DataLoader(Rich(), 8, num_workers=2, shuffle=True)
        for _, _batch in zip(range(3), loader, strict=False):
            pass

    one()
    gc.collect()
    files, tensors = len(os.listdir("/proc/self/fd")), tensors_alive()
    for _ in range(8):
        one()
    assert no_children()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert tensors_alive() <= tensors


def test_workers_that_persist_serve_one_iteration_as_torchs():
    loader = DataLoader(list(range(6)), 2, num_workers=2, persistent_workers=True)
    held = iter(loader)
    assert iter(loader) is held
    found = [(a.tolist(), b.tolist()) for a, b in zip(loader, loader, strict=False)]
    torchs = torch.utils.data.DataLoader(list(range(6)), 2, num_workers=2, persistent_workers=True)
    assert found == [(a.tolist(), b.tolist()) for a, b in zip(torchs, torchs, strict=False)]
    held = iter(loader)
    next(held)
    pids = source_of(loader).held.pool.pids()
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert source_of(loader).held.pool.pids() == pids
