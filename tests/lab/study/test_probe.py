import pytest
from tests.lab.study.checks import config

from adabatch.lab import tasks
from adabatch.lab.study import probe as module
from adabatch.lab.study.probe import Steps, batch_sizes, conclusion, probe


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
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found["out_of_memory_at"] is None


def test_the_steps_train_on_whole_batches(data, monkeypatch):
    import torch

    steps = Steps(config(growth=None), data, torch.device("cpu"))
    sizes = []
    steps._setup.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(inputs[0])))
    before = [parameter.clone() for parameter in steps._setup.model.parameters()]
    assert steps.time(1000, 3) > 0
    steps.time(64, 2)
    steps.time(1000, 1)
    assert sizes == [1000, 1000, 1000, 64, 64, 1000]
    assert all((old != new).any() for old, new in zip(before, steps._setup.model.parameters(), strict=True))


def test_out_of_memory_ends_the_curve(data, monkeypatch):
    import torch

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
    import torch

    before = torch.get_rng_state()
    probe(config(), max_batch_size=64, repeats=1, seconds=0.001, data=data)
    assert torch.equal(torch.get_rng_state(), before)


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
