"""Checkpoints that several processes write together: on other numbers of them, cut off, refused or half written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.lab.training import kill
from tests.lab.training.checks import SMALL, logged, near, same, small_data, weights, without_seconds
from torch.multiprocessing.spawn import ProcessExitedException

from adabatch._distributed import RankError, shards
from adabatch.lab.training import checkpoint, saved_result, train
from adabatch.lab.training.folder import CHECKPOINTS, RunFolder

EXACT = replace(SMALL, precision="float64", batch_size=10, max_batch_size=41, growth=2.5, threads=1)
EVERY = replace(SMALL, evaluate_every="4 updates", threads=1)


def trained(rank, world, *, config, out, **how):
    train(config, out, data=small_data(), **how)


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def folders(out):
    """The folders of shards that are there, all of which a checkpoint names."""
    there = {path.name for path in (out / "checkpoints").glob("at-*")}
    named = [checkpoint.shards_of(path) for path in (out / "checkpoints").glob("*.pt")]
    assert there == {folder.name for folder in named if folder is not None}
    return there


# On another number of processes.


@pytest.mark.slow
def test_what_two_processes_saved_one_goes_on_from_and_back(tmp_path):
    """Also on two again, from the file of one process."""
    train(EXACT, tmp_path / "one", data=small_data())
    out = tmp_path / "run"
    on_ranks(2, partial(trained, config=replace(EXACT, epochs=2, fsdp=True), out=out))
    assert len(folders(out)) >= 2
    assert (out / "checkpoints" / "last.pt").stat().st_size < 40_000
    train(replace(EXACT, epochs=3), out, data=small_data(), resume=True)
    assert checkpoint.read(out / "checkpoints" / "last.pt")["shards"] is None
    assert len(folders(out)) >= 1, "the previous one"
    on_ranks(2, partial(trained, config=replace(EXACT, fsdp=True), out=out, resume=True))
    assert largest_difference(weights(tmp_path / "one"), weights(out)) < 1e-10


def in_its_own_folder(rank, world, *, above):
    trained(rank, world, config=replace(EXACT, epochs=1), out=above / f"folder of {rank}")


@pytest.mark.slow
def test_the_folder_of_the_first_process_counts(tmp_path):
    on_ranks(2, partial(in_its_own_folder, above=tmp_path))
    assert [folder.name for folder in tmp_path.iterdir()] == ["folder of 0"]
    checkpoint.read(tmp_path / "folder of 0" / "checkpoints" / "last.pt")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_any_number_goes_on_from_any_other(tmp_path, optimizer):
    """Each of one process, DDP and FSDP2 on two, FSDP2 on three from each other one."""
    phases = [
        *("one", "ddp 2", "one", "fsdp 2", "one", "fsdp 3", "ddp 2", "fsdp 2", "fsdp 3", "fsdp 2", "ddp 2", "fsdp 3"),
        "one",
    ]
    kinds = set(phases)
    assert {(a, b) for a in kinds for b in kinds if a != b} == set(pairwise(phases))
    other = {"optimizer": "adamw", "lr": 0.001, "coupling": "sqrt"} if optimizer == "adamw" else {}
    whole = replace(EXACT, **other, epochs=len(phases), lr_schedule="step:0.5:2", max_batch_size=80)
    train(whole, tmp_path / "one", data=small_data())
    for epochs, phase in enumerate(phases, 1):
        kind, _, world = phase.partition(" ")
        how = {"config": replace(whole, epochs=epochs, fsdp=kind == "fsdp"), "out": tmp_path / "run"}
        start = partial(trained, **how, resume=epochs > 1)
        on_ranks(int(world), start) if world else start(0, 1)
    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "run")) < 1e-10
    for mine, theirs in zip(logged(tmp_path / "run"), logged(tmp_path / "one"), strict=True):
        assert mine == near(theirs)


# While training goes on.


def goes_on_meanwhile(rank, world, *, config, out):
    """Shards are written only once the metrics hold another line than when they were copied."""
    write, save, seen = shards._Files.write_data, RunFolder.save, []

    def later(self, *arguments):
        file, begun = out / "metrics.jsonl", time.monotonic()
        before = len(file.read_text().splitlines()) if file.exists() else 0
        while len(file.read_text().splitlines()) < min(before + 1, 12) and time.monotonic() < begun + 60:
            time.sleep(0.001)
        return write(self, *arguments)

    def note(self, state, *, best):
        seen.append((state.evaluations, len((out / "metrics.jsonl").read_text().splitlines())))
        save(self, state, best=best)

    shards._Files.write_data, RunFolder.save = later, note
    try:
        trained(rank, world, config=config, out=out)
    finally:
        shards._Files.write_data, RunFolder.save = write, save
    if rank == 0:
        assert all(lines > evaluations for evaluations, lines in seen[:-1]), seen
        assert len(seen) >= 4
    else:
        assert not seen


@pytest.mark.slow
def test_a_checkpoint_is_of_the_moment_at_which_it_was_begun(tmp_path):
    config = replace(SMALL, save_every="300 samples", evaluate_every="100 samples", lr=1e-4, threads=1)
    out = tmp_path / "run"
    on_ranks(2, partial(goes_on_meanwhile, config=config, out=out))
    expected, final = without_seconds(saved_result(out)), weights(out)
    (out / "result.json").unlink()
    before = checkpoint.read(out / "checkpoints" / "previous.pt")
    assert before["updates"] < expected["updates"]
    on_ranks(2, partial(trained, config=config, out=out, resume=True, resume_from="previous"))
    assert without_seconds(saved_result(out)) == expected
    assert same(weights(out), final)
    folders(out)


# Faults.


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_kill_9_of_any_rank_at_random_moments(tmp_path, wrapper):
    """Also while shards are written: each time the run goes on to the very same weights."""
    command = [sys.executable, "-m", "tests.lab.training.kill", str(tmp_path), "20", "2", wrapper]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    killed, while_writing, runs = map(int, done.stdout.split())
    assert killed == 20
    assert while_writing >= 5
    assert runs >= 1


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The result and weights of a run of two, and the folder of the same run up to its half."""
    out = tmp_path_factory.mktemp("unbroken")
    on_ranks(
        2,
        partial(trained, config=replace(EVERY, epochs=2), out=out / "half"),
        partial(trained, config=EVERY, out=out / "whole"),
    )
    return without_seconds(saved_result(out / "whole")), weights(out / "whole"), out / "half"


def check_it_went_on(unbroken, out):
    """Checks that two processes ended with the very result of the run that nothing happened to."""
    found = without_seconds(saved_result(out))
    for name in ("updates", "samples", "test_accuracy"):
        assert found[name] == unbroken[0][name]
    assert same(weights(out), unbroken[1])
    folders(out)


def killed(rank, world, *, victim, out, **how):
    """A rank is killed when it has written its shards but not forced them to the disk."""
    if rank == victim:
        kill.in_call("fsync", 7 if rank == 0 else 3)()  # rank 0 also forces logs, folders and files that name shards
    trained(rank, world, config=EVERY, out=out, **how)


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_checkpoint(tmp_path, unbroken):
    out = tmp_path / "run"
    for victim in (1, 0):
        with pytest.raises(ProcessExitedException, match=f"process {victim} terminated with signal SIGKILL"):
            on_ranks(2, partial(killed, victim=victim, out=out, resume=victim == 0))
        assert kill.is_half_written(out)
        assert not (out / "result.json").exists()
    on_ranks(2, partial(trained, config=EVERY, out=out, resume=True))
    check_it_went_on(unbroken, out)


def disk_is_full(rank, world, *, out, victim):
    """Files of a rank may have so many bytes only."""
    before = folders(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == victim:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    with pytest.raises(OSError if rank == 0 else RankError) as caught:
        train(EVERY, out, data=small_data(), resume=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if rank == 0:
        message = str(caught.value)
        assert message.startswith(f"`out` must be a folder that can be written, got {str(out)!r} (File too large")
        assert message.endswith("; free space or take another folder")
        assert folders(out) == before, "nothing half written is left"


def test_a_full_disk_is_told_and_the_checkpoint_before_stays(tmp_path, unbroken):
    out = tmp_path / "run"
    shutil.copytree(unbroken[2], out)
    full = [partial(disk_is_full, out=out, victim=victim) for victim in (0, 1)]
    on_ranks(2, *full, partial(trained, config=EVERY, out=out, resume=True))
    check_it_went_on(unbroken, out)


def refuses(rank, world, *, out, words):
    with pytest.raises((ValueError, RankError)) as caught:
        train(EVERY, out, data=small_data(), resume=True)
    assert words in str(caught.value) or rank > 0, str(caught.value)


@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "no folder"])
def test_shards_that_are_damaged_and_what_else_is_offered(tmp_path, unbroken, damage):
    out = tmp_path / "run"
    shutil.copytree(unbroken[2], out)
    last = out / "checkpoints" / "last.pt"
    folder = checkpoint.shards_of(last)
    file = folder / "__1_0.distcp"
    content = file.read_bytes()
    if damage == "no folder":
        shutil.rmtree(folder)
        file = folder / ".metadata"
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    words = f"`checkpoint` {last} must be whole, got a damaged {file} ("
    with pytest.raises(
        ValueError, match=r"; previous\.pt is there: take previous as `resume_from`, or remove"
    ) as caught:
        train(EVERY, out, data=small_data(), resume=True)
    assert words in str(caught.value)
    if damage == "cut":
        again = partial(trained, config=EVERY, out=out, resume=True, resume_from="previous")
        on_ranks(2, partial(refuses, out=out, words=words), again)
        check_it_went_on(unbroken, out)


def another_model(rank, world, *, out, other):
    """The tensors of another network in place of a run's own: in the folder of shards, then in the file too."""
    trained(rank, world, config=replace(EVERY, model="small_cnn", epochs=1), out=other)
    last, of_other = (path / "checkpoints" / "last.pt" for path in (out, other))
    state, theirs = torch.load(last, weights_only=True), torch.load(of_other, weights_only=True)
    words = f"`checkpoint` {last} must be of this run, got one that does not fit it ("
    if rank == 0:
        folder, theirs_folder = (path.parent / read["shards"] for path, read in ((last, state), (of_other, theirs)))
        shutil.rmtree(folder)
        shutil.copytree(theirs_folder, folder)
    refuses(rank, world, out=out, words=words)
    if rank == 0:
        parts = {**state["parts"], **{name: theirs["parts"][name] for name in ("model", "optimizer")}}
        checkpoint.write(last, {**state, "parts": parts})
    refuses(rank, world, out=out, words=words)


@pytest.mark.slow
def test_shards_of_another_model(tmp_path, unbroken):
    out = tmp_path / "run"
    shutil.copytree(unbroken[2], out)
    on_ranks(2, partial(another_model, out=out, other=tmp_path / "other"))
    refuses(0, 1, out=out, words="must be of this run, got one that does not fit it (")


def test_names_of_checkpoints():
    assert CHECKPOINTS == ("last", "previous", "best")
    for name in ("at-1", "at-12-2"):
        assert checkpoint.shards_in({"shards": name}, Path("run/last.pt")) == Path("run") / name
    for name in (None, 3, "", "elsewhere", "at-1/../..", f"at-1{os.sep}x", "../at-1"):
        assert checkpoint.shards_in({"shards": name}, Path("run/last.pt")) is None
