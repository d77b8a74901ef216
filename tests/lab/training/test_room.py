"""The bytes of a large pass from two small ones, and what is said of one that does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.training.checks import SMALL, small_data

from adabatch import memory
from adabatch.lab.training import room, train
from adabatch.lab.training.room import Line, check, fitting, too_large
from adabatch.lab.training.setup import Setup

CPU = torch.device("cpu")
numbers = st.integers(0, 2**40)


@given(
    constant=numbers, of_a_sample=numbers, few=st.integers(1, 1000), more=st.integers(1, 1000), at=st.integers(1, 10**6)
)
def test_a_line_gives_back_what_is_linear(constant, of_a_sample, few, more, at):
    def true(samples):
        return constant + of_a_sample * samples

    second = few + more
    line = Line.through((few, true(few)), (second, true(second)))
    assert line.bytes(at) == pytest.approx(true(at), rel=1e-6, abs=1)


@given(constant=st.integers(0, 10**6), of_a_sample=st.integers(1, 1000), space=st.integers(0, 10**7))
def test_the_largest_that_fits_is_the_last_one(constant, of_a_sample, space):
    line = Line.through((1, constant + of_a_sample), (2, constant + 2 * of_a_sample))
    most = line.largest(space)
    naive = max((space - constant) // of_a_sample, 0)
    assert most == naive
    assert most == 0 or line.bytes(most) <= space < line.bytes(most + 1)


def test_bytes_that_fall_or_stay_are_a_constant():
    line = Line.through((2, 500), (4, 300))
    assert (line.bytes(1000), line.largest(499), line.largest(500)) == (500, 0, 2**62)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, r"got none that does: 100 samples at once are too many; try 50"),
        ({"fits": 49}, r"too many; try 32"),
        ({"fits": 0}, r"too many; take a smaller network, since not even one sample fits"),
    ],
)
def test_what_is_said(how, said):
    error = too_large(100, **how)
    assert error.argument == "micro_batch_size"
    with pytest.raises(ValueError, match=f"`micro_batch_size` must be given where batches do not fit.*{said}"):
        raise error


def passes_of(bytes_of_a_sample, sizes):
    """A pass that takes so many bytes, and notes its samples."""

    def one_pass(samples):
        sizes.append(samples)
        torch.zeros(1000, dtype=torch.uint8).add(1)
        torch.zeros(samples * bytes_of_a_sample, dtype=torch.uint8)

    return one_pass


def test_two_small_passes_foretell_a_large_one(monkeypatch):
    """On the CPU, by torch's own allocator: a sample takes 1 MiB, and there are 100 MiB."""
    monkeypatch.setattr(memory, "all_bytes", lambda device: 100 * 2**20)
    sizes: list[int] = []
    check(passes_of(2**20, sizes), 96, CPU)
    assert sizes == [12, 12, 24]
    with pytest.raises(
        ValueError, match=r"128 samples at once would take about 0.125 GiB of the 0.0977 GiB that this "
    ):
        check(passes_of(2**20, sizes), 128, CPU)
    with pytest.raises(ValueError, match=r"96 samples .* this machine has; try 64"):
        check(passes_of(2**20, sizes), 96, CPU, more=10 * 2**20)
    assert max(sizes) <= 32, "the large one is never made"


def test_small_batches_and_large_machines_need_no_passes(monkeypatch):
    sizes: list[int] = []
    monkeypatch.setattr(memory, "all_bytes", lambda device: 1000)
    check(passes_of(1, sizes), 15, CPU)
    monkeypatch.setattr(memory, "all_bytes", lambda device: 2**40)
    check(passes_of(1, sizes), 2**14, CPU)
    monkeypatch.setattr(memory, "all_bytes", lambda device: None)
    check(passes_of(1, sizes), 2**30, CPU)
    assert sizes == []


def test_a_run_that_cannot_fit_says_so_before_its_first_update(tmp_path, monkeypatch):
    """A real network in a machine of which nearly all is taken; with small micro-batches it fits."""
    config, seen = replace(SMALL, model="small_cnn", lr_schedule="constant"), []
    made = Setup(config, small_data(), CPU)
    peaks = [
        memory.peak_bytes(
            lambda size=size: made.loss(made.forward(torch.zeros(size, 1, 8, 8)), torch.zeros(size).long()).backward(),
            CPU,
        )
        for size in (16, 64)
    ]
    monkeypatch.setattr(memory, "all_bytes", lambda device: (peaks[0] + peaks[1]) // 2)
    with pytest.raises(ValueError, match=r"`micro_batch_size` must .*: 64 samples at once would take about .*; try "):
        train(config, tmp_path, data=small_data(), progress=seen.append)
    assert seen == []
    assert not (tmp_path / "checkpoints" / "last.pt").exists()
    assert train(replace(config, micro_batch_size=8), data=small_data()).updates == 45


def test_foretelling_changes_nothing(monkeypatch):
    plain = train(SMALL, data=small_data())
    called = []
    monkeypatch.setattr(memory, "all_bytes", lambda device: called.append(device) or 2**32)
    monkeypatch.setattr(room, "OF_A_SAMPLE", 2**40)
    again = train(SMALL, data=small_data())
    assert called == [CPU]
    assert [found.test_loss for found in again.history] == [found.test_loss for found in plain.history]


def test_after_a_failure_the_line_says_what_fits(monkeypatch):
    """The half of the next test that needs no GPU."""
    monkeypatch.setattr(memory, "all_bytes", lambda device: 100 * 2**20)
    assert fitting(passes_of(2**20, []), 200, CPU) == pytest.approx(99, abs=1)
    assert fitting(passes_of(2**20, []), 200, CPU, more=20 * 2**20) == pytest.approx(79, abs=1)
    assert fitting(passes_of(1, []), 200, CPU) == 199, "as many have failed"
    assert fitting(passes_of(1, []), 15, CPU) is None

    def full(samples):
        raise torch.OutOfMemoryError("full")

    assert fitting(full, 200, CPU) is None


@pytest.mark.gpu
def test_a_batch_too_large_for_a_gpu_is_said_before_the_first_update(monkeypatch):
    device = torch.device("cuda")
    made = Setup(replace(SMALL, device="cuda", model="small_cnn", lr_schedule="constant"), small_data(), device)
    forward, seen = made.forward, []

    def full(inputs):
        seen.append(len(inputs))
        if len(inputs) == 64:
            raise torch.OutOfMemoryError("full")
        return forward(inputs)

    made.forward = full
    with pytest.raises(ValueError, match=r"`micro_batch_size` must .*: 64 samples at once are too many; try 32"):
        made.try_sizes(tell=lambda line: None)
    assert seen == [64]


@pytest.mark.gpu
def test_on_a_gpu_the_line_is_near_the_truth():
    """Of a network without workspaces of its own: linear layers."""
    device = torch.device("cuda")
    network = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8))).to(device)

    def one_pass(samples):
        network(torch.zeros(samples, 1024, device=device)).sum().backward()
        network.zero_grad()

    one_pass(64)
    points = [(size, memory.peak_bytes(lambda size=size: one_pass(size), device)) for size in (512, 1024)]
    truth = memory.peak_bytes(lambda: one_pass(8192), device)
    assert Line.through(*points).bytes(8192) == pytest.approx(truth, rel=0.1)
    with pytest.raises(ValueError, match=r"`micro_batch_size` must .* GiB that are free; try "):
        check(one_pass, 2**30, device)
