"""Arguments that are refused or warned of, each by its name."""

import os
import warnings

import numpy as np
import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.data.sets import Rich, Stream
from torch.utils.data import DistributedSampler, RandomSampler

import adabatch as ab
from adabatch.data import DataLoader, arguments


def test_bad_devices_are_named():
    with pytest.raises(ValueError, match="`device` must name a device such as"):
        DataLoader(torch.arange(4), device="disk")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="`device` must be one that this machine has"):
            DataLoader(torch.arange(4), device="cuda")


def test_bad_samplers_are_named():
    class Short(RandomSampler):
        def __len__(self):
            return 101

    with pytest.raises(ValueError, match=r"`sampler` must draw as many samples as its length 101, got 100"):
        list(DataLoader(Rich(), 10, sampler=Short(Rich())))
    with pytest.raises(TypeError, match="`sampler` must have a length"):
        DataLoader(Rich(), 10, sampler=iter([1]))
    with pytest.raises(ValueError, match="`shuffle` must be False"):
        DataLoader(Rich(), 10, sampler=[1], shuffle=True)
    with pytest.raises(ValueError, match="`sampler` must draw at least one"):
        DataLoader(Rich(), 10, sampler=[])


def test_more_workers_than_processors_are_warned_of():
    mine = len(os.sched_getaffinity(0))
    for kind in (DataLoader, torch.utils.data.DataLoader):
        with pytest.warns(UserWarning, match=f"{mine + 1}.*{mine}") as found:
            kind([1, 2], num_workers=mine + 1)
        assert len(found) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind([1, 2], num_workers=mine)
    with pytest.warns(UserWarning, match="`num_workers` of 1000 is more than the .* processors") as found:
        DataLoader([1, 2], num_workers=1000)
    assert found[0].filename == __file__


def test_flags_may_be_of_any_kind_that_is_true_or_false():
    assert len(set(DataLoader(range(9), 9, shuffle=1, seed=0).sampler)) == 9
    for flag in (True, False, np.bool_(True), np.bool_(False), 0, 1, np.True_):
        arguments.flags(shuffle=flag)
    for flag in (2, -1, "yes", None, 1.0, np.ones(2), torch.tensor(True)):
        with pytest.raises(TypeError, match="`shuffle` must be True or False, got"):
            arguments.flags(shuffle=flag)


def test_bad_worker_arguments_are_named():
    with pytest.raises(ValueError, match="`multiprocessing_context` must be one of"):
        DataLoader(Rich(), num_workers=1, multiprocessing_context="thread")
    with pytest.raises(TypeError, match="`multiprocessing_context` must be a start method or a context"):
        DataLoader(Rich(), num_workers=1, multiprocessing_context=3)
    with pytest.raises(ValueError, match="`prefetch_factor` must be at least 1"):
        DataLoader(Rich(), num_workers=1, prefetch_factor=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": -4}, ValueError, "`batch_size` must be at least 1, got -4"),
        ({"batch_size": 2.5}, TypeError, r"`batch_size` must be a whole number, got 2\.5"),
        ({"batch_size": True}, TypeError, "`batch_size` must be a whole number, got True"),
        ({"batch_size": 11}, ValueError, "the data set's 10 samples, got 11; `batch_size=10` takes all of them"),
        ({"micro_batch_size": 0}, ValueError, "`micro_batch_size` must be at least 1"),
        ({"micro_batch_size": 11}, ValueError, "`micro_batch_size` must be at most"),
        ({"shuffle": 2}, TypeError, "`shuffle` must be True or False, got 2"),
        ({"drop_last": True, "run_on": True}, ValueError, "`drop_last` and `run_on`"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "`seed` and `generator`"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"num_workers": -1}, ValueError, "`num_workers` must be at least 0"),
        ({"timeout": -1}, ValueError, "`timeout` must be at least 0"),
        ({"prefetch_factor": 2}, ValueError, "`prefetch_factor` needs `num_workers`"),
        ({"persistent_workers": True}, ValueError, "`persistent_workers` needs `num_workers`"),
        (
            {"batch_sampler": [[1]], "batch_size": 4},
            ValueError,
            "`batch_size` must be left out with `batch_sampler`, got 4",
        ),
        ({"batch_sampler": [[1]], "batch_size": 1, "drop_last": True}, ValueError, "`drop_last` must be left out"),
        ({"batch_size": None, "drop_last": True}, ValueError, "`drop_last` must be left out with `batch_size=None`"),
        ({"batch_size": None, "micro_batch_size": 2}, ValueError, "`micro_batch_size` must be left out"),
        ({"sampler": DistributedSampler(range(10), 2, 0)}, ValueError, "must not be a DistributedSampler"),
        ({"group": 1, "mesh": 2}, ValueError, "`group` and `mesh`"),
        ({"dataset": []}, ValueError, "`dataset` must hold at least one sample"),
        ({"dataset": object()}, TypeError, "`dataset` must have a length"),
        ({"dataset": (torch.ones(3), torch.ones(2))}, ValueError, "tensors of one length, got 3, 2"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        iter(DataLoader(**{"dataset": torch.arange(10), **arguments}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shuffle": True}, "`shuffle` must be False for an IterableDataset"),
        ({"sampler": [1]}, "`sampler` must be None for an IterableDataset"),
        ({"run_on": True}, "`run_on` must be False for an IterableDataset"),
    ],
)
def test_arguments_that_do_not_go_with_streams(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(Stream(10), 2, **arguments)


def they_hear_what_a_rank_gets(rank, world):
    """A plain loop under torchrun says it once, on rank 0, where a DistributedSampler shows that ranks are meant."""
    data = torch.arange(8)

    def said(loop):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loop()
        return [(str(warning.message), warning.filename) for warning in seen]

    def plain(**more):
        for _ in DataLoader(data, 4, seed=0, **more):
            pass

    sampler = DistributedSampler(data)
    assert said(plain) == []  # these processes were not started by torchrun yet
    variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in variables.items()})
    assert said(lambda: plain(group=torch.distributed.group.WORLD)) == []
    assert said(lambda: plain(shard=False)) == []
    assert said(lambda: plain(micro_batch_size=2)) == []
    assert said(lambda: list(DataLoader(data, 4, seed=0).parts())) == []
    evaluation = torch.utils.data.DataLoader(data, 8, sampler=sampler)  # of the same data, with a number of its own
    batches = torch.utils.data.BatchSampler(DistributedSampler(data), 2, drop_last=False)
    assert said(plain) == []
    del evaluation, batches

    def heard_once(sign):
        arguments._SAID.clear()
        loader = DataLoader(data, 4, seed=0)
        found = said(lambda: list(loader)) + said(plain)
        assert len(found) == (rank == 0)
        if rank == 0:
            start = f"`batch_size` of 4 counts the samples of all 2 ranks, so a rank gets about 2; but {sign}. If "
            end = "write `batch_size=8`; to say that it is right, give `group=torch.distributed.group.WORLD`"
            assert found[0][0].startswith(start)
            assert found[0][0].endswith(end)
            assert found[0][1] == __file__

    heard_once("a DistributedSampler of the same data is left over, whose loader counted those of one rank")
    del sampler
    evaluation = torch.utils.data.DataLoader(torch.arange(6), 4, sampler=DistributedSampler(range(6)))
    heard_once("another loader, with a DistributedSampler, takes as many on each rank")
    del evaluation


def they_hear_nothing(rank, world):
    """A loop whose batch size is that of all ranks is told nothing, though torchrun started it."""
    arguments._SAID.clear()
    test = torch.utils.data.DataLoader(torch.arange(6), 2, sampler=DistributedSampler(range(6)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert len(list(DataLoader(torch.arange(8), 4, seed=0))) == 2
        clock = ab.Clock(batch_size=12, micro_batch_size=12)
        assert sum(micro.size for micro in clock.begin()) == 6
    assert len(test) == 2


@pytest.mark.world_size(2)
def test_a_batch_that_may_be_meant_for_one_rank_is_said():
    on_ranks(2, they_hear_what_a_rank_gets, they_hear_nothing)
