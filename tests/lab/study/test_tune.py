"""Which switches pay: what is measured, how it is judged, and that ranks choose alike."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from tests.lab.test_tuning import TUNING
from tests.lab.training.checks import SMALL, small_data

from adabatch.lab import tasks
from adabatch.lab.comparison import Ratio
from adabatch.lab.study import tune as module
from adabatch.lab.study.probe import Steps
from adabatch.lab.study.tune import BF16, COMPILE, GRAPHS, judged, saved_tuning, shared_updates, switches, tune
from adabatch.lab.training import RunConfig, train
from adabatch.lab.training.folder import write_json
from adabatch.lab.training.ranks import Ranks
from adabatch.lab.training.setup import sizes
from adabatch.lab.tuning import MARGIN, Tried

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its own, when it compiles
CPU, GPU = torch.device("cpu"), torch.device("cuda")
IMAGES = replace(SMALL, model="small_cnn", lr_schedule="constant")
LAST = "channels last"


@given(
    ends=st.tuples(st.integers(1, 50), st.integers(51, 200)),
    inside=st.dictionaries(st.floats(0, 1), st.integers(1, 99), max_size=5),
    constant=st.floats(0, 10),
    of_a_sample=st.floats(0, 1),
)
def test_steps_at_both_ends_take_as_long_as_all_updates(ends, inside, constant, of_a_sample):
    low, high = ends
    counts = {low: 3, high: 2} | {round(low + share * (high - low)): count for share, count in inside.items()}

    def seconds(size):
        return constant + of_a_sample * size

    naive = sum(count * seconds(size) for size, count in counts.items())
    at_low, at_high = shared_updates(counts, ends)
    assert at_low * seconds(low) + at_high * seconds(high) == pytest.approx(naive)
    assert at_low + at_high == pytest.approx(sum(counts.values()))


def test_short_batches_count_as_the_smallest():
    assert shared_updates({3: 2, 16: 5}, [16]) == (7.0,)
    assert shared_updates({3: 2, 16: 5, 32: 1}, [16, 32]) == (7.0, 1.0)


@pytest.mark.parametrize(
    ("ratio", "preparation", "taken", "reason"),
    [
        (Ratio(1.3, 1.25, 1.4), None, True, "it saves at least 60 s of 300 s"),
        (Ratio(1.3, 1.25, 1.4), 59.0, True, "it saves at least 60 s of 300 s and takes 59 s to prepare"),
        (Ratio(1.3, 1.25, 1.4), 61.0, False, "it saves at least 60 s of 300 s and takes 61 s to prepare"),
        (Ratio(1.3, MARGIN, 1.4), None, False, "it is not shown to be more than 1.02 times as fast"),
        (Ratio(1.5, 0.9, 2.0), None, False, "it is not shown to be more than 1.02 times as fast"),
        (Ratio(1.5, None, None), None, False, "it is not shown to be more than 1.02 times as fast"),
    ],
)
def test_a_switch_must_be_shown_to_pay(ratio, preparation, taken, reason):
    found = judged(
        Tried(name="x", settings={}, training=ratio, preparation_seconds=preparation), training_seconds=300.0
    )
    assert (found.taken, found.reason) == (taken, reason)
    assert found.saved_seconds == pytest.approx(60.0 if ratio.low == 1.25 else 0.0)


def found_at(config, device, monkeypatch=None, *, fixed=(), images=True, planned=3, bf16=True):
    if monkeypatch is not None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    found, left = switches(config, device, fixed=fixed, images=images, planned=planned)
    return [(switch.name, switch.settings) for switch in found], left


def test_switches_on_a_gpu(monkeypatch):
    found, left = found_at(IMAGES, GPU, monkeypatch)
    assert found == [
        (GRAPHS, {"compile": True, "cuda_graphs": True}),
        (COMPILE, {"compile": True}),
        (BF16, {"precision": "bf16"}),
        (LAST, {"channels_last": True}),
    ]
    assert left == {}


@pytest.mark.parametrize(
    ("changes", "how", "left"),
    [
        ({}, {"fixed": ["compile"]}, {GRAPHS: "it is given", COMPILE: "it is given"}),
        ({"compile": True}, {"fixed": ["compile"]}, {COMPILE: "it is given"}),
        ({"compile": True}, {}, {COMPILE: "it is on already"}),
        ({"compile": True, "cuda_graphs": True}, {}, {GRAPHS: "they are on already", COMPILE: "it is on already"}),
        ({}, {"fixed": ["cuda_graphs", "precision"]}, {GRAPHS: "it is given", BF16: "it is given"}),
        ({"precision": "float64"}, {}, {BF16: "the precision is float64 already"}),
        ({"channels_last": False}, {}, {LAST: "it is given"}),
        ({"channels_last": True}, {}, {"channels first": "it is given"}),
        ({}, {"images": False}, {LAST: "inputs are no images"}),
        ({}, {"bf16": False}, {BF16: "this GPU computes no bfloat16"}),
        ({}, {"planned": 33}, {GRAPHS: "there are 33 sizes of micro-batches, and 32 graphs at most"}),
    ],
)
def test_switches_that_are_left(monkeypatch, changes, how, left):
    config = replace(IMAGES, **changes)
    found, reasons = found_at(config, GPU, monkeypatch, **how)
    assert reasons == left
    assert len(found) + len(left) == 4


def test_on_a_cpu_precision_stays_and_there_are_no_graphs():
    found, left = found_at(IMAGES, CPU)
    assert [name for name, _ in found] == [COMPILE, LAST]
    assert left[BF16].startswith("it changes numbers")
    resnet = RunConfig.for_task("cifar10", model="resnet20")
    assert found_at(resnet, CPU)[0][-1] == ("channels first", {"channels_last": False}), "last is on by itself there"


def test_a_tuning_measures_real_steps():
    state, said = torch.get_rng_state(), []
    found = tune(IMAGES, seconds=0.2, data=small_data(), tell=said.append)
    assert torch.equal(torch.get_rng_state(), state)
    (tried,) = found.tried
    assert (tried.name, set(tried.by_batch_size)) == (LAST, {"16", "64"})
    assert 3 <= tried.pairs <= 9
    assert all(0 < ratio.low <= ratio.median <= ratio.high for ratio in (*tried.by_batch_size.values(), tried.training))
    assert tried.preparation_seconds is None
    assert found.batch_sizes == (16, 64)
    assert sum(found.updates) == 45
    assert found.left[COMPILE].startswith("the training takes about ")
    assert 0 < found.training_seconds < 60
    assert said == ["measuring channels last (2 of 2)"]
    assert found.settings == ({"channels_last": True} if tried.taken else {})
    assert found.seconds > 0  # nine pairs may take less than was asked for


class Timed(Steps):
    """Real steps with the seconds of another machine: a switch gains or costs, the first step of a size compiles."""

    gains: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.compiled = set()

    def time(self, batch_size, count):
        assert super().time(batch_size, count) > 0
        config, seconds = self.setup.config, count * (0.001 + 0.0001 * batch_size)
        if config.compile and batch_size not in self.compiled:
            self.compiled.add(batch_size)
            return 3.0 + seconds / self.gains["compile"]
        for name in self.gains:
            seconds /= self.gains[name] if getattr(config, name) else 1.0
        return seconds


def timed(monkeypatch, **gains):
    """Switches whose gains are known; what compiles does so by a backend that does nothing."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: real(model, backend="eager"))
    monkeypatch.setattr(Timed, "gains", gains)
    monkeypatch.setattr(module, "Steps", Timed)


def seconds_of(config):
    """The seconds of all updates, one by one; short batches as long as the smallest."""
    return sum(0.001 + 0.0001 * max(batch.size, 16) for batch in config.plan(300))


@pytest.mark.parametrize(
    ("gain", "settings"), [(2.0, {"channels_last": True}), (1.021, {"channels_last": True}), (1.019, {}), (0.5, {})]
)
def test_what_is_shown_to_be_faster_is_taken(monkeypatch, gain, settings):
    timed(monkeypatch, channels_last=gain)
    found = tune(IMAGES, seconds=0.05, data=small_data())
    (tried,) = found.tried
    assert found.settings == settings
    assert tried.taken is bool(settings)
    ratios = [tried.training, *tried.by_batch_size.values()]
    assert [(ratio.low, ratio.median) for ratio in ratios] == [pytest.approx((gain, gain))] * 3
    assert found.training_seconds == pytest.approx(seconds_of(IMAGES))
    assert tried.saved_seconds == pytest.approx(found.training_seconds * (1 - 1 / gain) if settings else 0.0)
    assert tune(IMAGES, fixed=["channels_last"], seconds=0.05, data=small_data()).tried == ()


def test_a_gain_at_large_batches_alone_counts_for_their_updates(monkeypatch):
    """Small ones are slower by half, and there are more of them."""

    def time(self, batch_size, count):
        of = Steps.time(self, batch_size, count) and count * (0.001 + 0.0001 * batch_size)
        if not self.setup.config.channels_last:
            return of
        return of / 2 if batch_size == 64 else of * 1.5

    timed(monkeypatch)
    monkeypatch.setattr(Timed, "time", time)
    (tried,) = tune(IMAGES, seconds=0.05, data=small_data()).tried
    small, large = tried.by_batch_size.values()
    assert (small.median, large.median) == pytest.approx((1 / 1.5, 2.0))
    at = shared_updates(IMAGES.plan(300).batch_counts(), (16, 64))
    before, after = at[0] * 0.0026 + at[1] * 0.0074, at[0] * 0.0026 * 1.5 + at[1] * 0.0037
    assert tried.training.median == pytest.approx(before / after)
    assert tried.taken is (before / after > MARGIN)


@pytest.mark.parametrize("epochs", [400, 4000])
def test_a_compilation_must_pay_within_the_training(monkeypatch, epochs):
    """It takes 3 s for each of the sizes of the plan, and halves the time; what comes later is measured on top."""
    timed(monkeypatch, compile=2.0, channels_last=1.25)
    monkeypatch.setattr(module, "WORTH_SECONDS", 0.0)
    config = replace(IMAGES, epochs=epochs)
    found = tune(config, seconds=0.05, data=small_data())
    first, second = found.tried
    planned = len(sizes(config.plan(300), None))
    pays = 3.0 * planned < seconds_of(config) / 2
    assert pays is (epochs == 4000)
    assert (first.name, second.name) == (COMPILE, LAST)
    assert first.preparation_seconds == pytest.approx(3.0 * planned, rel=0.01)
    assert first.taken is pays
    assert first.reason.startswith("it saves at least ")
    assert first.reason.endswith(" s to prepare")
    assert second.preparation_seconds is None, "both compile, or none"
    assert second.saved_seconds == pytest.approx(seconds_of(config) / (2.0 if pays else 1.0) * (1 - 1 / 1.25), rel=0.01)
    assert found.settings == ({"compile": True} if pays else {}) | {"channels_last": True}


def test_a_switch_whose_steps_fail_is_left_out(monkeypatch):
    def broken(graph, inputs):
        raise OSError("no compiler here")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: real(model, backend=broken))
    monkeypatch.setattr(module, "WORTH_SECONDS", 0.0)
    found = tune(IMAGES, fixed=["channels_last"], seconds=0.2, data=small_data())
    (tried,) = found.tried
    assert (tried.name, tried.taken, tried.by_batch_size) == (COMPILE, False, {})
    assert tried.reason.startswith("it failed: ")
    assert "no compiler here" in tried.reason
    assert found.settings == {}


class Filled(Steps):
    """Steps whose memory runs out once two variants were warmed up."""

    turns = 0

    def time(self, batch_size, count):
        if self.setup.config.channels_last is not None:
            Filled.turns += 1
            if Filled.turns > 8:
                raise torch.OutOfMemoryError("full, beside the other")
        return super().time(batch_size, count)


def test_a_switch_that_fails_while_it_is_measured_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "Steps", Filled)
    monkeypatch.setattr(Filled, "turns", 0)
    found = tune(IMAGES, fixed=["compile"], seconds=0.5, data=small_data())
    (tried,) = found.tried
    assert (tried.taken, tried.reason, found.settings) == (False, "it failed: full, beside the other", {})
    assert Filled.turns > 8


def test_on_a_gpu_the_steps_are_those_of_the_run():
    """There batches are accumulated, as in the run's own loop."""
    steps = Steps(IMAGES.constant(), small_data(), torch.device("cpu"))
    assert "._of_batches " in repr(steps._begin())
    steps.setup.device = torch.device("cuda")
    assert "._of_micro_batches " in repr(steps._begin())


class Limited(Steps):
    """Steps whose memory runs out at 64 samples, under one layout."""

    full: bool | None = None

    def _train(self, count):
        if self.setup.loader.batch_size >= 64 and self.setup.config.channels_last is self.full:
            raise torch.OutOfMemoryError("full")
        super()._train(count)


@pytest.mark.parametrize("full", [None, True])
def test_memory_that_runs_out(monkeypatch, full):
    """Without the switch the run itself would not fit; with it the switch is not for it."""
    monkeypatch.setattr(Limited, "full", full)
    monkeypatch.setattr(module, "Steps", Limited)
    if full is None:
        with pytest.raises(ValueError, match=r"`micro_batch_size` must .*: 64 samples at once are too many; try 32"):
            tune(IMAGES, seconds=0.1, data=small_data())
    else:
        (tried,) = tune(IMAGES, seconds=0.1, data=small_data()).tried
        assert tried.reason.startswith("it failed: `micro_batch_size` must be given")


def test_micro_batches_are_measured_as_such(monkeypatch):
    sizes = []

    class Noting(Steps):
        def _backward(self, forward, inputs, targets, weight=1.0):
            sizes.append(len(inputs))
            super()._backward(forward, inputs, targets, weight)

    monkeypatch.setattr(module, "Steps", Noting)
    found = tune(replace(IMAGES, micro_batch_size=24), seconds=0.1, data=small_data())
    assert set(sizes) == {16, 21, 22}, "64 in three"
    assert found.batch_sizes == (16, 64)


def test_a_constant_batch_has_one_size():
    found = tune(IMAGES.constant(), seconds=0.1, data=small_data())
    assert (found.batch_sizes, found.updates) == ((16,), (4 * 19,))
    assert set(found.tried[0].by_batch_size) == {"16"}


def test_bad_input():
    with pytest.raises(ValueError, match="`seconds` must be"):
        tune(IMAGES, seconds=0.0, data=small_data())


@pytest.mark.slow
def test_a_real_compilation_is_weighed_against_the_training(monkeypatch):
    """It takes seconds, and the training at most as many."""
    monkeypatch.setattr(module, "WORTH_SECONDS", 0.0)
    found = tune(IMAGES, fixed=["channels_last"], seconds=0.5, data=small_data())
    (tried,) = found.tried
    assert tried.name == COMPILE
    assert tried.preparation_seconds > found.training_seconds
    assert not tried.taken
    assert train(replace(IMAGES, **found.settings), data=small_data()).updates == 45


# What a folder holds.


def test_a_folder_with_a_tuning(tmp_path):
    assert saved_tuning(tmp_path) is None
    write_json(tmp_path / "tune.json", TUNING.to_json())
    assert saved_tuning(tmp_path) == TUNING
    write_json(tmp_path / "tune.json", TUNING.to_json() | {"seconds": -1})
    with pytest.raises(
        ValueError, match=r"`out` must hold a whole measurement, got .*tune.json with seconds -1, which "
    ):
        saved_tuning(tmp_path)
    (tmp_path / "tune.json").write_text("{")
    with pytest.raises(ValueError, match=r"`out` must hold a whole measurement, got .*tune.json with damage"):
        saved_tuning(tmp_path)


# Ranks.


def check_ranks_choose_alike(rank, world):
    vars(module)["Steps"] = partial(slowed_on, rank)
    found = tune(IMAGES, seconds=0.3, data=tasks.get("digits").load(None))
    every = Ranks().gathered((found.settings, found.training_seconds, [each.to_json() for each in found.tried]))
    assert every[0] == every[1], "all hold the slowest one's seconds"


def slowed_on(rank, *arguments):
    """Steps that take longer with channels last on one rank alone."""
    steps = Steps(*arguments)
    if rank == 1 and steps.setup.config.channels_last:
        steps.setup.model.register_forward_hook(lambda *_: time.sleep(0.005))
    return steps


@pytest.mark.slow
def test_ranks_choose_alike():
    on_ranks(2, check_ranks_choose_alike)


@pytest.mark.gpu
def test_on_a_gpu_every_switch_is_measured_or_left_with_a_reason(monkeypatch):
    monkeypatch.setattr(module, "WORTH_SECONDS", 0.0)
    config = replace(IMAGES, device="cuda")
    found = tune(config, seconds=1.0, data=small_data())
    assert {each.name for each in found.tried} | set(found.left) == {GRAPHS, COMPILE, BF16, LAST}
    assert all(each.by_batch_size or each.reason.startswith("it failed") for each in found.tried)
    assert train(replace(config, **found.settings), data=small_data()).updates == 45
