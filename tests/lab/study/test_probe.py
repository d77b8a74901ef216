"""Throughput by batch size: the conclusion, what is measured, and that ranks agree."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.lab.study.checks import config

from adabatch.lab import tasks
from adabatch.lab.study import communication
from adabatch.lab.study import probe as module
from adabatch.lab.study.probe import Steps, batch_sizes, conclusion, probe
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.training.setup import Setup


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


def noisy(rate, repeats=9):
    """About 1 % of spread, different in every turn."""
    return [rate * (1 + 0.01 * ((7 * turn + int(rate)) % 5 - 2) / 2) for turn in range(repeats)]


def curve(*rates):
    return {16 * 2**k: noisy(rate) for k, rate in enumerate(rates)}


def test_a_curve_that_levels_off():
    found = conclusion(curve(1000, 1300, 1600, 1605, 1590))
    assert (found["fastest"], found["enough"]) in [(64, 64), (128, 64)]
    assert found["sentence"].startswith("growing the batch can make this task at most 1.6")
    said = "nothing is gained beyond 64" if found["fastest"] == 64 else "no gain is shown beyond 64"
    assert found["sentence"].endswith(said)
    assert found["speedup"]["median"] == pytest.approx(1.6, abs=0.03)


def test_a_flat_curve_brings_no_speed():
    found = conclusion(curve(1000, 1005, 995, 1010, 1002))
    assert (found["fastest"], found["enough"]) == (16, 16)
    assert found["sentence"].startswith(
        "growing the batch brings no speed here: no batch size up to 256 is shown to be at least 1.03x as fast as 16"
    )


def test_a_falling_curve_brings_no_speed():
    found = conclusion(curve(1000, 900, 800))
    assert found["enough"] == 16
    assert "brings no speed here" in found["sentence"]


def test_a_curve_that_still_rises_promises_no_bound():
    found = conclusion(curve(1000, 2000, 4000))
    assert (found["fastest"], found["enough"]) == (64, None)
    assert "faster here" in found["sentence"]
    assert found["sentence"].endswith("at 64, the largest batch size measured; larger ones may gain more")
    assert "at most" not in found["sentence"]


def test_a_gain_within_the_noise_is_none():
    """32 looks 1.2x faster in the middle, but the turns disagree."""
    rates = {16: [1000.0] * 9, 32: [500.0, 600, 700, 800, 1200, 1300, 1400, 1500, 1600]}
    found = conclusion(rates)
    assert found["fastest"] == 16
    assert "(the best, 32: 1.20x [0.60, 1.50])" in found["sentence"]


def test_a_peak_is_found_with_a_fall_behind_it():
    found = conclusion(curve(1000, 1800, 1200, 900))
    assert (found["fastest"], found["enough"]) == (32, 32)


def test_turns_are_paired():
    """The machine halves its speed after some turns: the ratio between batch sizes stays sharp."""
    drift = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5]
    rates = {16: [1000.0 * d for d in drift], 32: [1500.0 * d for d in drift]}
    assert conclusion(rates)["speedup"] == {"median": 1.5, "low": 1.5, "high": 1.5}


def test_one_turn_shows_nothing():
    found = conclusion({16: [100.0], 32: [300.0]})["sentence"]
    assert found == "no gain is shown: too few repeats for an interval (the best, 32: 3.00x)"
    assert conclusion({16: [100.0, 100.0]})["sentence"].endswith("16 is the only batch size measured")


def test_the_batch_sizes_double():
    assert batch_sizes(config(batch_size=24, max_batch_size=48), max_batch_size=None, dataset_size=1437) == [
        24,
        48,
        96,
        192,
    ]
    assert batch_sizes(config(batch_size=16), max_batch_size=100, dataset_size=1437) == [16, 32, 64]
    assert batch_sizes(config(batch_size=512, max_batch_size=None), max_batch_size=None, dataset_size=1437) == [
        512,
        1024,
    ]


def test_a_probe_measures_real_steps(data):
    calls = []
    found = probe(
        config(),
        max_batch_size=128,
        repeats=2,
        seconds=0.01,
        data=data,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert [point["batch_size"] for point in found["curve"]] == [64, 128]
    for point in found["curve"]:
        rate = point["samples_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert len(rate["values"]) == 2
    assert found["curve"][0]["against_first"] is None
    assert (found["task"], found["model"], found["device"]) == ("digits", "small_cnn", "cpu")
    assert "communication" not in found
    assert calls == [(done, 10) for done in range(1, 11)]
    assert all(len(point["compute_seconds"]["values"]) == 2 for point in found["curve"])
    assert found["optimizer_seconds"]["min"] > 0
    assert found["cores"] >= 1
    network = Setup(config(), data, torch.device("cpu")).model
    assert found["gradients"]["buckets"] == [sum(4 * p.numel() for p in network.parameters())]
    assert found["gradients"]["bytes"] == found["gradients"]["buckets"][0]
    assert 0.3 < found["gradients"]["ready"][0] <= 1, "the first layer's gradient comes last"
    assert found["out_of_memory_at"] is None
    few, many = (point["peak_bytes"] for point in found["curve"])
    assert few > found["gradients"]["bytes"], "activations, and gradients"
    assert 1.5 * few < many < 2 * few + 2**20


def test_the_peak_of_a_step_is_that_of_its_passes(data):
    """Of a network whose largest tensors are known: a hidden layer of 4 MiB, its gradient, and the rest below."""
    steps = Steps(config(growth=None, model="mlp"), data, torch.device("cpu"))
    steps.time(64, 1)
    wide = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 2**14), torch.nn.ReLU(), torch.nn.Linear(2**14, 10)
    )
    steps.setup.forward = wide
    assert steps.peak(64) >= 2 * 64 * 2**14 * 4


def test_later_layers_fill_the_first_bucket(data, monkeypatch):
    steps = Steps(config(growth=None), data, torch.device("cpu"))
    parameters = [*steps.setup.model.parameters()]
    steps.buckets = [parameters[-2:], parameters[:-2]]
    assert steps.filled() == [1.0, 1.0], "without a batch"
    steps.time(256, 1)
    first, last = steps.filled()
    assert 0 < first < last <= 1
    assert all(parameter.grad is None for parameter in parameters)


def test_the_steps_train_on_whole_batches(data, monkeypatch):
    steps = Steps(config(growth=None), data, torch.device("cpu"))
    sizes = []
    steps.setup.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(inputs[0])))
    before = [parameter.clone() for parameter in steps.setup.model.parameters()]
    assert steps.time(1000, 3) > 0
    steps.time(64, 2)
    steps.time(1000, 1)
    assert sizes == [1000, 1000, 1000, 64, 64, 1000]
    assert all((old != new).any() for old, new in zip(before, steps.setup.model.parameters(), strict=True))


def test_out_of_memory_ends_the_curve(data, monkeypatch):
    real = Steps.time

    def limited(self, batch_size, count):
        if batch_size >= 256:
            raise torch.OutOfMemoryError("no more")
        return real(self, batch_size, count)

    monkeypatch.setattr(module.Steps, "time", limited)
    found = probe(config(), max_batch_size=512, repeats=1, seconds=0.001, data=data)
    assert [point["batch_size"] for point in found["curve"]] == [64, 128]
    assert found["out_of_memory_at"] == 256
    with pytest.raises(ValueError, match="`batch_size` must fit the device's memory, got 256; start smaller"):
        probe(config(batch_size=256, max_batch_size=None), repeats=1, seconds=0.001, data=data)


def test_a_probe_leaves_torchs_generator_alone(data):
    before = torch.get_rng_state()
    probe(config(), max_batch_size=64, repeats=1, seconds=0.001, data=data)
    assert torch.equal(torch.get_rng_state(), before)


def test_smaller_batches_are_measured_after_memory_ran_out_in_a_pass(data, monkeypatch):
    monkeypatch.setattr(module, "Setup", partial(setup_with_less_memory, limit=100))
    found = probe(config(), max_batch_size=256, repeats=2, seconds=0.001, data=data)
    assert [point["batch_size"] for point in found["curve"]] == [64]
    assert found["out_of_memory_at"] == 128


# Ranks.


def setup_with_less_memory(config, data, device, *, limit, in_update=False):
    """A setup whose passes, or updates, run out of memory at more than `limit` samples on this rank."""
    setup = Setup(config, data, device)
    sizes = [0]

    def forward(layer, inputs):
        sizes[0] = len(inputs[0])
        if not in_update:
            fail()

    def fail(*_arguments):
        if sizes[0] > limit:
            raise torch.OutOfMemoryError("no more")

    setup.model.register_forward_pre_hook(forward)
    if in_update:
        setup.optimizer.register_step_pre_hook(fail)
    return setup


def measured(**changes):
    vars(communication)["SIZES_BYTES"] = (4096, 16384)
    settings = config(batch_size=31, max_batch_size=None, model="mlp", **changes)
    return probe(settings, max_batch_size=130, repeats=3, seconds=0.002, data=tasks.get("digits").load(None))


def check_ranks_measure_together(rank, world):
    found = measured()
    assert [point["batch_size"] for point in found["curve"]] == [31, 62, 124], "shares are uneven"
    for point in found["curve"]:
        size, passes = point["batch_size"], point["compute_seconds"]["values"]
        steps = [size / rate for rate in point["samples_per_second"]["values"]]
        assert len(passes) == 3
        assert all(seconds > 0 for seconds in passes)
        assert min(passes) < max(steps), "a step holds its passes"
    assert found["communication"]["world_size"] == world
    network = Setup(config(model="mlp"), tasks.get("digits").load(None), torch.device("cpu")).model
    assert found["communication"]["gradients"]["bytes"] == sum(4 * p.numel() for p in network.parameters())
    every = Ranks().gathered({name: found[name] for name in ("curve", "communication", "sentence")})
    assert every[0] == every[1], "all ranks hold the slowest one's seconds"


def check_one_rank_runs_out_of_memory(rank, world):
    """Whether in its passes or in the update, which the other rank finishes."""
    for in_update in (False, True):
        limit = 40 if rank == 1 else math.inf
        vars(module)["Setup"] = partial(setup_with_less_memory, limit=limit, in_update=in_update)
        found = measured()
        assert [point["batch_size"] for point in found["curve"]] == [31, 62], in_update
        assert found["out_of_memory_at"] == 124
    vars(module)["Setup"] = Setup


def check_shards(rank, world):
    found = measured(fsdp=True)
    assert not any("compute_seconds" in point for point in found["curve"])
    assert found["communication"]["gradients"]["bytes"] > 0
    assert "gradients" not in found
    assert found["optimizer_seconds"]["min"] > 0
    vars(module)["Setup"] = partial(setup_with_less_memory, limit=40)
    with pytest.raises(ValueError, match="`max_batch_size` must fit into memory where parameters are sharded, got 124"):
        measured(fsdp=True)


def check_passes(rank, world):
    """Passes alone: over this rank's share, and no gradient is averaged."""
    steps = Steps(config(batch_size=31, growth=None), tasks.get("digits").load(None), torch.device("cpu"))
    steps.time(31, 1)
    parameters = [*steps.setup.model.parameters()]
    sizes, norms = [], []
    steps.setup.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(inputs[0])))
    steps.setup.optimizer.zero_grad = lambda: norms.append(float(sum(p.grad.norm() for p in parameters)))
    before = [parameter.clone() for parameter in parameters]
    assert steps.passes(1) > 0
    assert sorted(Ranks().gathered(sizes)) == [[15], [16]]
    assert len({*Ranks().gathered(norms[0])}) == 2
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


@pytest.mark.world_size(2)
def test_ranks_measure_together_and_agree_on_what_fits():
    on_ranks(2, check_ranks_measure_together, check_one_rank_runs_out_of_memory, check_passes)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_a_probe_of_shards():
    on_ranks(2, check_shards)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "`repeats` must be at least 1, got 0"),
        ({"seconds": 0}, "`seconds` must be greater than 0, got 0"),
        ({"max_batch_size": 32}, "`max_batch_size` must be at least 64, got 32; the first batch size is 64"),
    ],
)
def test_errors(options, message, data):
    with pytest.raises(ValueError, match=message):
        probe(config(), data=data, **options)


def test_a_first_batch_beyond_the_data(data):
    with pytest.raises(ValueError, match="`batch_size` must be at most the 1,437 samples of the data set, got 2,000"):
        probe(config(batch_size=2000, max_batch_size=None), data=data)
