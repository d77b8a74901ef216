"""Several processes over gloo train one run: the very batches, weights and findings of one process."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.lab.training.checks import SMALL, logged, near, small_data, weights, without_seconds

from adabatch._distributed import RankError
from adabatch.lab.training import ranks as ranks_module
from adabatch.lab.training import train
from adabatch.lab.training.ranks import Ranks, Seen

EXACT = replace(SMALL, precision="float64", batch_size=10, max_batch_size=41, growth=2.5)


def they_decide_together(rank, world):
    ranks = Ranks()
    assert (ranks.rank, ranks.world, ranks.is_first) == (rank, world, rank == 0)
    assert ranks.from_first(lambda: f"of {rank}") == "of 0"
    assert ranks.gathered(rank) == list(range(world))
    assert ranks.sum(torch.tensor(rank + 1.0)) == sum(range(world + 1))
    made = []
    assert ranks.each_first(lambda: made.append(rank)) is None
    assert made == [rank]
    with pytest.raises(OSError if rank == 0 else RankError, match="full" if rank == 0 else "rank 0 failed"):
        ranks.from_first(partial(fail, rank))
    with pytest.raises(
        ValueError, match=f"`lr` must be the same on all ranks, got 1 on rank 0 and 2 on rank {world - 1}"
    ):
        ranks.check_same({"seed": 0, "lr": 2 if rank == world - 1 else 1})
    for clock in range(100, 107):
        first = ranks.first_clock(clock)
        assert clock <= first < clock + world
        assert first % world == rank


def fail(rank):
    assert rank == 0
    raise OSError("full")


def they_look_at_the_same_update(rank, world):
    clock = [0.0]
    vars(ranks_module)["time"] = SimpleNamespace(perf_counter=lambda: clock[0])
    ranks, looks = Ranks(), []
    nothing = Seen(0, over=False, diverged=False)
    for updates in range(1, 200):
        clock[0] += 0.1 if rank == 1 else 0.001
        if ranks.is_due(updates):
            looks.append(updates)
            mine = Seen(15, over=False, diverged=False) if rank == 1 and updates > 100 else nothing
            if seen := ranks.look(mine, updates):
                break
    assert seen == Seen(15, over=False, diverged=False)
    assert ranks.gathered(looks) == [looks] * world
    assert looks[:6] == [1, 3, 7, 12, 17, 22]  # they double up to half a second of the slowest rank
    vars(ranks_module)["time"] = time


def test_what_ranks_see_apart_they_learn_together():
    on_ranks(3, they_decide_together, they_look_at_the_same_update)


def trained(rank, world, *, config, out):
    result = train(config, out, data=small_data())
    if rank == 0:
        (out / "found.json").write_text(json.dumps(without_seconds(result)))
    assert Ranks().gathered(without_seconds(result)) == [without_seconds(result)] * world


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize(
    ("world", "config", "ways"),
    [
        (2, EXACT, [{}, {"fsdp": True}]),
        pytest.param(3, replace(EXACT, micro_batch_size=3), [{}], marks=pytest.mark.slow),
        (3, replace(EXACT, batch_size=2, max_batch_size=4), [{}]),  # shares of no sample
    ],
)
def test_the_weights_and_findings_of_one_process(tmp_path, world, config, ways):
    alone = without_seconds(train(config, tmp_path / "one", data=small_data()))
    folders = [tmp_path / f"many {number}" for number in range(len(ways))]
    runs = [partial(trained, config=replace(config, **way), out=out) for way, out in zip(ways, folders, strict=True)]
    on_ranks(world, *runs)
    for folder in folders:
        found = json.loads((folder / "found.json").read_text())
        for mine, theirs in zip(alone["history"], found["history"], strict=True):
            assert mine == near(theirs)
        assert {**alone, "history": None} == {**found, "history": None}
        assert largest_difference(weights(tmp_path / "one"), weights(folder)) < 1e-10


def trained_twice(rank, world, *, config, out):
    for fsdp in (False, True):
        train(replace(config, fsdp=fsdp), out / f"{world} {fsdp}", data=small_data())


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_a_hundred_updates_in_single_precision(tmp_path, world):
    config = replace(SMALL, batch_size=9, max_batch_size=13, growth=1.5, every="2 epochs")
    assert train(config, tmp_path / "one", data=small_data()).updates > 100
    on_ranks(world, partial(trained_twice, config=config, out=tmp_path))
    for fsdp in (False, True):
        assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / f"{world} {fsdp}")) < 1e-6


def resumed(rank, world, *, config, out):
    train(config, out, data=small_data(), resume=True)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    """1, then 3, then 2 with shards, then 1 process: as one process alone, and the history is whole."""
    whole = replace(EXACT, epochs=8, lr_schedule="step:0.5:2")
    train(whole, tmp_path / "one", data=small_data())
    train(replace(whole, epochs=2), tmp_path / "many", data=small_data())
    for world, epochs, fsdp in ((3, 4, False), (2, 6, True)):
        on_ranks(world, partial(resumed, config=replace(whole, epochs=epochs, fsdp=fsdp), out=tmp_path / "many"))
    train(whole, tmp_path / "many", data=small_data(), resume=True)
    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "many")) < 1e-10
    for mine, theirs in zip(logged(tmp_path / "many"), logged(tmp_path / "one"), strict=True):
        assert mine == near(theirs)


def other_settings(rank, world, *, out):
    with pytest.raises(ValueError, match="`seed` must be the same on all ranks, got 0 on rank 0 and 1 on rank 1"):
        train(replace(SMALL, seed=rank), out, data=small_data())
    data = small_data()
    mine = data if rank == 0 else replace(data, x_train=data.x_train + 1)
    with pytest.raises(ValueError, match="`data` must be the same on all ranks"):
        train(SMALL, out, data=mine)
    assert not out.exists()


def what_diverges_ends_everywhere(rank, world, *, out):
    result = train(replace(SMALL, lr=1e6), out, data=small_data())
    assert result.diverged
    assert len(set(Ranks().gathered(result.updates))) == 1


def test_ranks_that_differ_are_told_before_the_first_update(tmp_path):
    on_ranks(2, partial(other_settings, out=tmp_path / "a"), partial(what_diverges_ends_everywhere, out=tmp_path / "b"))


def test_shards_need_torchrun(tmp_path):
    with pytest.raises(ValueError, match=r"`fsdp` must be used under torchrun, .*; start with torchrun, or train with"):
        train(replace(SMALL, fsdp=True), tmp_path, data=small_data())
