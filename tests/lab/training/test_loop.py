from __future__ import annotations

import json
import math
import os
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds

import adabatch as ab
from adabatch.lab import models, tasks
from adabatch.lab.tasks.augment import CropFlip
from adabatch.lab.training import (
    Interrupted,
    RunConfig,
    RunResult,
    checkpoint,
    folder,
    reporting,
    saved_result,
    train,
    unpacked,
)
from adabatch.lab.training import device as devices
from adabatch.lab.training.setup import Setup


def by_hand(config: RunConfig, data) -> tuple[dict[str, torch.Tensor], list[tuple[int, int, float]]]:
    """The weights of a naive run (tensor slices, the LR written into the optimizer), and for each update the clock
    after it, its samples and loss."""
    torch.manual_seed(config.seed)
    model = models.build(config.model, in_channels=1, image_size=8, classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    N, clock, updates = len(data.y_train), 0, []
    order = ab.DataLoader(range(N), batch_size=N, shuffle=True, seed=config.seed)
    for epoch in range(config.epochs):
        permutation = next(iter(order))
        while clock < (epoch + 1) * N:
            size = 16 * 2 ** min(clock // 390, 2)
            lr = config.lr * min(1, (epoch + 1) / 3) * 0.5 ** (epoch // 2)
            optimizer.param_groups[0]["lr"] = lr * size / 16
            offset = clock - epoch * N
            chosen = permutation[offset : offset + size]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(data.x_train[chosen]), data.y_train[chosen])
            loss.backward()
            optimizer.step()
            clock += len(chosen)
            updates.append((clock, len(chosen), loss.item()))
    return model.state_dict(), updates


def test_it_is_the_run_that_one_would_write_by_hand(tmp_path):
    torch.manual_seed(0)
    result = train(SMALL, tmp_path / "run", data=small_data())
    expected, updates = by_hand(SMALL, small_data())
    assert result.updates == len(updates)
    found = weights(tmp_path / "run")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_the_result():
    result = train(SMALL, data=small_data(), target=0.5)
    plan = SMALL.plan(300)
    assert (result.updates, result.samples, result.epochs) == (plan.updates, 1200, 4)
    assert result.batch_sizes == (16, 32, 64) == tuple(result.samples_per_second)
    assert [(d.clock, d.batch_size) for d in result.decisions] == [(396, 32), (792, 64)]
    assert [found.samples for found in result.history] == [300, 600, 900, 1200]
    assert [found.epoch for found in result.history] == [1, 2, 3, 4]
    assert [found.updates for found in result.history] == [plan.update_at(k * 300) for k in (1, 2, 3, 4)]
    assert [found.batch_size for found in result.history] == [16, 32, 64, 64]
    base = [SMALL.lr * factor for factor in (1 / 3, 2 / 3, 1 / 2, 1 / 2)]
    assert [found.lr for found in result.history] == pytest.approx([base[0], 2 * base[1], 4 * base[2], 4 * base[3]])
    assert result.test_accuracy == result.history[-1].test_accuracy
    assert result.best_accuracy == max(found.test_accuracy for found in result.history) > 0.5
    first = next(found for found in result.history if found.test_accuracy >= 0.5)
    assert (result.updates_to_target, result.seconds_to_target) == (first.updates, first.seconds)
    assert sorted(found.seconds for found in result.history) == [found.seconds for found in result.history]
    assert result.train_seconds == result.history[-1].seconds
    rates = result.samples_per_second
    trained = {16: 396, 32: 396, 64: 408}  # a batch that starts before the change keeps its size
    assert sum(trained[size] / rate for size, rate in rates.items()) == pytest.approx(result.train_seconds, rel=0.05)


@pytest.mark.parametrize("every", ["1 epoch", "2 epochs", "0.5 epochs", "20 updates", "1000 epochs"])
@pytest.mark.parametrize("micro", [None, 10])
def test_the_train_loss_is_the_mean_over_the_samples_since_the_evaluation_before(every, micro):
    result = train(replace(SMALL, evaluate_every=every, micro_batch_size=micro), data=small_data())
    _, updates = by_hand(SMALL, small_data())
    before, expected = 0, []
    for found in result.history:
        since = [(samples, loss) for clock, samples, loss in updates if before < clock <= found.samples]
        expected.append(sum(samples * loss for samples, loss in since) / sum(samples for samples, _ in since))
        before = found.samples
    assert [found.train_loss for found in result.history] == pytest.approx(expected, rel=1e-4)


def test_of_equal_evaluations_the_first_is_the_best(tmp_path):
    """The checkpoint kept as the best is never worse than the one before."""
    config = replace(SMALL, growth=None, lr=1e-12, lr_schedule="constant")  # nothing is learnt: all are equal
    result = train(config, tmp_path, data=small_data(), target=1.0)
    assert len({found.test_accuracy for found in result.history}) == 1
    assert checkpoint.read(tmp_path / "checkpoints" / "best.pt")["evaluations"] == 1
    assert checkpoint.read(tmp_path / "checkpoints" / "last.pt")["evaluations"] == 4


def test_a_target_that_is_met_exactly_is_reached():
    accuracy = train(SMALL, data=small_data()).best_accuracy
    result = train(SMALL, data=small_data(), target=accuracy)
    assert result.updates_to_target == result.first_at(accuracy).updates


def test_a_target_that_is_never_reached():
    result = train(SMALL, data=small_data(), target=1.0)
    assert (result.target, result.updates_to_target, result.seconds_to_target) == (1.0, None, None)


def test_a_run_is_a_function_of_its_settings():
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = train(SMALL, data=small_data())
    assert torch.equal(torch.get_rng_state(), state), "the user's random state is as before"
    torch.manual_seed(321)
    assert without_seconds(train(SMALL, data=small_data())) == without_seconds(first)
    other = train(replace(SMALL, seed=1), data=small_data())
    assert other.history[0].train_loss != first.history[0].train_loss


def test_arms_of_one_seed_start_from_the_same_weights():
    tiny = {"lr": 1e-12, "epochs": 1, "lr_schedule": "constant"}
    losses = [
        train(replace(SMALL, **tiny, **arm), data=small_data()).history[0].test_loss
        for arm in ({}, {"growth": None}, {"growth": None, "batch_size": 64}, {"growth": None, "optimizer": "adam"})
    ]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-6)


def test_micro_batches_give_the_same_run():
    whole = train(SMALL, data=small_data())
    cut = train(replace(SMALL, micro_batch_size=10), data=small_data())
    assert (cut.updates, cut.batch_sizes) == (whole.updates, whole.batch_sizes)
    for a, b in zip(cut.history, whole.history, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)
        assert a.test_loss == pytest.approx(b.test_loss, rel=1e-3)


class ByClock:
    """A transform that makes every sample depend on its clock."""

    on_device = True
    shape = {"in_channels": 1, "image_size": 8, "classes": 10}  # noqa: RUF012

    def __init__(self):
        self.clocks = []

    def to(self, device):
        return self

    def train(self, inputs, *, seed, clock, stride=1):
        assert (seed, stride) == (SMALL.seed, 1)
        clocks = torch.arange(clock, clock + len(inputs))
        self.clocks += clocks.tolist()
        return inputs + (clocks % 7).view(-1, 1, 1, 1)

    def test(self, inputs):
        return inputs + 3


@pytest.mark.parametrize("micro", [None, 10])
def test_a_transform_gets_every_sample_with_its_clock(micro):
    transform = ByClock()
    config = replace(SMALL, micro_batch_size=micro)
    result = train(config, data=replace(small_data(), transform=transform))
    assert transform.clocks == list(range(1200))
    whole = train(SMALL, data=replace(small_data(), transform=ByClock()))
    assert result.history[-1].test_loss == pytest.approx(whole.history[-1].test_loss, rel=1e-3)
    assert result.history[-1].test_loss != pytest.approx(
        train(SMALL, data=small_data()).history[-1].test_loss, rel=1e-3
    )


def test_samples_read_from_disk():
    """A data set read by the indices in `x_train` gives the same run as its samples in memory."""
    data = small_data()
    files = torch.utils.data.TensorDataset(data.x_train, data.y_train)
    read = replace(data, x_train=torch.arange(300), files=files, transform=ByClock())
    held = replace(data, transform=ByClock())
    assert without_seconds(train(SMALL, data=read)) == without_seconds(train(SMALL, data=held))


def test_text():
    """Targets at every token: loss and accuracy are means over tokens."""
    tokens = torch.randint(0, 5, (100, 9), generator=torch.Generator().manual_seed(0))
    text = tasks.Data(
        tokens[:80, :-1], tokens[:80, 1:], tokens[80:, :-1], tokens[80:, 1:], classes=5, note="", tokens_per_sample=8
    )
    config = RunConfig.for_task("gpt-tiny", epochs=1, batch_size=8, max_batch_size=None, lr=1e-9, threads=1)
    found = train(config, data=text).history[0]
    assert found.train_loss == pytest.approx(found.test_loss, rel=0.05)
    assert 0.5 < found.test_loss / torch.tensor(5.0).log().item() < 2
    assert (found.test_accuracy * 20 * 8) % 1 == pytest.approx(0, abs=1e-9)


def test_text_counts_tokens():
    tokens = torch.randint(0, 5, (64, 129), generator=torch.Generator().manual_seed(0))
    rows = tokens[:, :-1], tokens[:, 1:]
    text = tasks.Data(*rows, rows[0][:8], rows[1][:8], classes=5, note="", tokens_per_sample=128)
    settings = {"growth": 2.0, "every": "4096 tokens", "max_batch_size": 16, "evaluate_every": "3K tokens"}
    config = RunConfig.for_task("gpt-tiny", epochs=1, batch_size=4, threads=1, **settings)
    found = train(config, data=text)
    assert found.batch_sizes == (4, 8)
    assert [(decision.clock, decision.batch_size) for decision in found.decisions] == [(32, 8)]
    assert [line.samples for line in found.history] == [24, 48, 64]


def test_a_constant_batch_takes_no_notice_of_the_coupling():
    """A coupling that was not derived for the optimizer is refused only where it would act."""
    config = replace(SMALL, growth=None, optimizer="adam", coupling="linear", lr=0.001)
    assert train(config, data=small_data()).best_accuracy > 0.3
    with pytest.raises(ValueError, match="linear"):
        train(replace(config, growth=2.0), data=small_data())


@pytest.mark.parametrize(
    ("every", "clocks"),
    [
        ("2 epochs", [600, 1200]),
        ("0.5 epochs", [160, 300, 460, 600, 760, 900, 1092, 1200]),
        ("1000 samples", [1028, 1200]),
        ("20 updates", [316, 900, 1200]),
        ("1000 epochs", [1200]),
    ],
)
def test_evaluations_come_when_they_are_due_and_at_the_end(every, clocks):
    result = train(replace(SMALL, evaluate_every=every), data=small_data())
    assert [found.samples for found in result.history] == clocks


def test_a_length_that_no_sample_ends_is_over_with_the_next_one():
    """0.333 epochs are 99.9 samples: they are not over at 99, where a batch ends."""
    config = replace(SMALL, growth=None, batch_size=33, epochs=1, evaluate_every="0.333 epochs")
    assert [found.samples for found in train(config, data=small_data()).history] == [132, 231, 300]


def test_evaluating_more_often_changes_nothing_else():
    often = train(replace(SMALL, evaluate_every="3 updates"), data=small_data())
    rarely = train(SMALL, data=small_data())
    assert often.history[-1].test_loss == rarely.history[-1].test_loss
    assert len(often.history) > len(rarely.history)


def test_progress(monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)
    seen = []
    train(SMALL, data=small_data(), progress=seen.append)
    seen = [now for now in seen if now.evaluation is None]
    assert len(seen) > 20
    assert [now.samples for now in seen] == sorted(now.samples for now in seen)
    assert {now.batch_size for now in seen} == {16, 32, 64}
    assert all(now.total_samples == 1200 and now.epochs == 4 and now.samples_per_second > 0 for now in seen)
    assert seen[0].test_accuracy is None
    assert seen[-1].test_accuracy is not None
    assert (seen[0].lr, seen[-1].lr) == pytest.approx((SMALL.lr / 3, 4 * SMALL.lr / 2))


def test_progress_counts_seconds_of_the_run_and_samples_of_the_stretch(monkeypatch):
    """A stretch ends with an epoch and where the batch size changes."""
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)
    seen = []
    train(SMALL, data=small_data(), progress=seen.append)
    seen = [now for now in seen if now.evaluation is None]
    assert [now.seconds for now in seen] == sorted(now.seconds for now in seen)
    starts = [0, 300, 396, 600, 792, 900]
    pairs = 0
    for before, now in pairwise(seen):
        first, other = (max(start for start in starts if start < each.samples) for each in (before, now))
        if first == other:
            spent = [(each.samples - first) / each.samples_per_second for each in (before, now)]
            assert spent[1] - spent[0] == pytest.approx(now.seconds - before.seconds, rel=1e-6, abs=1e-9)
            pairs += 1
    assert pairs > 20


def test_progress_is_throttled():
    seen = []
    result = train(SMALL, data=small_data(), progress=seen.append)
    between = [now for now in seen if now.evaluation is None]
    assert len(between) <= 2 + result.train_seconds / reporting.REPORT_SECONDS


def test_the_run_folder(tmp_path):
    result = train(SMALL, tmp_path, data=small_data())
    assert RunConfig.from_json(json.loads((tmp_path / "config.json").read_text())) == SMALL
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert {"adabatch", "python", "torch", "numpy", "git", "device", "device_name", "threads"} <= set(versions)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.to_json()["history"]
    lines = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert lines == result.to_json()["decisions"]
    assert saved_result(tmp_path) == result
    assert RunResult.from_json(json.loads((tmp_path / "result.json").read_text())) == result
    last, best = (checkpoint.read(tmp_path / "checkpoints" / name) for name in ("last.pt", "best.pt"))
    assert last["evaluations"] == 4
    assert result.history[best["evaluations"] - 1].test_accuracy == result.best_accuracy
    assert not list(tmp_path.rglob(".*"))


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(SMALL, tmp_path, data=small_data())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("test_accuracy")]
    assert found == [(e.samples, pytest.approx(e.test_accuracy)) for e in result.history]
    assert [event.value for event in events.Scalars("batch_size")] == [16, 32, 64, 64]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_saves_at_the_next_update(tmp_path, monkeypatch, number):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)

    def stop(now):
        if now.samples >= 100:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match="interrupted; the run is saved in") as caught:
        train(SMALL, tmp_path, data=small_data(), progress=stop)
    assert (caught.value.out, caught.value.number) == (tmp_path, number)
    assert checkpoint.read(tmp_path / "checkpoints" / "last.pt")["updates"] in (7, 8)
    with pytest.raises(Interrupted, match="interrupted; nothing is saved"):
        train(SMALL, data=small_data(), progress=stop)


PLAN = SMALL.plan(300)


@pytest.fixture
def saves(monkeypatch):
    """For each save: clock, whether it is the best, bytes of the checkpoint, bytes written by this process so far."""
    found = []

    class Watched(folder.RunFolder):
        def save(self, state, *, best):
            super().save(state, best=best)
            written = Path("/proc/self/io").read_text().splitlines()[1].split()[1]
            size = (self.path / "checkpoints" / "last.pt").stat().st_size
            found.append((state.parts["loader"]["clock"], best, size, int(written)))

    monkeypatch.setattr(folder, "RunFolder", Watched)
    return found


@pytest.mark.parametrize(
    ("save_every", "clocks"),
    [
        (None, [160, 300, 460, 600, 760, 900, 1092, 1200]),
        ("1 epoch", [300, 600, 900, 1200]),
        ("1000 epochs", [1200]),
        ("10 updates", [PLAN.clock_of(update) for update in (10, 20, 30, 40)] + [1200]),
        (
            "500 samples",
            [min(c for c in map(PLAN.clock_of, range(PLAN.updates)) if c >= due) for due in (500, 1000)] + [1200],
        ),
        ("1 hour", [1200]),
    ],
)
def test_a_run_is_saved_when_it_is_due_where_it_is_the_best_and_at_the_end(tmp_path, saves, save_every, clocks):
    config = replace(SMALL, evaluate_every="0.5 epochs")
    expected = without_seconds(train(config, data=small_data()))
    result = train(replace(config, save_every=save_every), tmp_path, data=small_data())
    assert without_seconds(result) == expected
    history = result.history
    best = [e.samples for n, e in enumerate(history) if all(e.test_accuracy > b.test_accuracy for b in history[:n])]
    assert [clock for clock, is_best, *_ in saves if is_best] == best
    assert [clock for clock, *_ in saves] == sorted({*clocks, *best})


def test_a_run_is_saved_after_a_time(tmp_path, saves):
    result = train(replace(SMALL, save_every="0.000001 s"), tmp_path, data=small_data())
    assert len(saves) == result.updates
    assert without_seconds(result) == without_seconds(train(SMALL, data=small_data()))
    nowhere = train(replace(SMALL, save_every="0.000001 s"), data=small_data())
    assert without_seconds(nowhere) == without_seconds(result)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux, which counts bytes written")
def test_checkpoints_are_of_one_size_and_each_evaluation_writes_as_much_as_the_one_before(tmp_path, saves):
    """That holds for runs of any length: lines are added to the history, and it is not written again."""
    config = replace(SMALL, growth=None, batch_size=8, evaluate_every="1 updates", lr_schedule="constant")
    result = train(config, tmp_path, data=small_data())
    assert len(result.history) == len(saves) == 152
    _, _, sizes, written = zip(*saves, strict=True)
    assert max(sizes) - min(sizes) <= 192, "counters grow by bytes, and files are padded"
    steps = [after - before for before, after in pairwise(written)]
    assert max(steps[-50:]) <= max(steps[:50]) + 192
    assert max(steps) < 2 * max(sizes)


class Deadly(torch.utils.data.TensorDataset):
    """In a worker the signal that ends a run comes to both processes while the main one waits for a sample."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.read = 0

    def __getitem__(self, index):
        self.read += torch.utils.data.get_worker_info() is not None
        if self.read == 100:
            time.sleep(0.5)
            os.kill(os.getppid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return super().__getitem__(index)


def test_a_signal_that_its_workers_got_too_saves_a_run(tmp_path):
    data, config = small_data(), replace(SMALL, workers=1)
    parts = {"x_train": torch.arange(300), "transform": ByClock()}
    deadly = replace(data, files=Deadly(data.x_train, data.y_train), **parts)
    with pytest.raises(Interrupted, match="the run is saved") as caught:
        train(config, tmp_path, data=deadly)
    assert caught.value.number == signal.SIGTERM
    assert 0 < checkpoint.read(tmp_path / "checkpoints" / "last.pt")["samples"] < 100
    read = replace(data, files=torch.utils.data.TensorDataset(data.x_train, data.y_train), **parts)
    result = train(config, tmp_path, data=read, resume=True)
    assert without_seconds(result) == without_seconds(train(SMALL, data=replace(data, transform=ByClock())))


def test_an_interrupt_in_the_last_update_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)

    def stop(now):
        if now.samples == 1200 and now.evaluation is None:
            signal.raise_signal(signal.SIGINT)

    result = train(SMALL, tmp_path, data=small_data(), progress=stop)
    assert result.samples == 1200
    assert saved_result(tmp_path) == result


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"`target` must be at most 1, got 95; it is a test accuracy as a fraction"):
        train(SMALL, data=small_data(), target=95)
    with pytest.raises(ValueError, match="`target` must be greater than 0"):
        train(SMALL, data=small_data(), target=0.0)
    with pytest.raises(ValueError, match="`resume` must come with `out`"):
        train(SMALL, data=small_data(), resume=True)
    with pytest.raises(ValueError, match="`batch_size` must be at most the 300 samples"):
        train(replace(SMALL, batch_size=301, growth=None), tmp_path / "a", data=small_data())
    with pytest.raises(ValueError, match=r"`lr` must stay below 1e.35 with its schedule and coupling"):
        train(replace(SMALL, coupling="power(400)"), tmp_path / "a", data=small_data())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw"])
def test_the_largest_lr_trains_to_nothing(optimizer):
    config = replace(SMALL, optimizer=optimizer, growth=None, lr=9.9e34, lr_schedule="constant", weight_decay=0.01)
    result = train(config, data=small_data())
    assert result.updates < 76
    assert result.diverged_at is not None


def test_same_sees_a_difference():
    assert same({"a": [torch.zeros(2)]}, {"a": [torch.zeros(2)]})
    assert not same({"a": [torch.zeros(2)]}, {"a": [torch.tensor([0.0, 1e-45])]})


def test_ghost_batch_norm():
    config = RunConfig.for_task("cifar10", model="resnet20", batch_size=8, epochs=1, threads=1, ghost_batch_size=4)
    pixels = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (24,))
    transform = CropFlip((0.5,) * 3, (0.25,) * 3, image_size=32, classes=10)
    images = tasks.Data(pixels, labels, pixels[:4], labels[:4], 10, "", transform=transform)
    parts = Setup(config, images, torch.device("cpu"))
    assert {layer.size for layer in parts.model.modules() if hasattr(layer, "running_mean")} == {4}
    ghosts, whole = (train(replace(config, ghost_batch_size=size), data=images).history[-1] for size in (4, None))
    assert ghosts.train_loss != whole.train_loss
    assert train(replace(config, ghost_batch_size=8), data=images).history[-1].train_loss == whole.train_loss
    with pytest.raises(ValueError, match=r"`ghost_batch_size` must come with .* batch norm, got alexnet"):
        Setup(replace(config, model="alexnet"), images, torch.device("cpu"))


def test_the_result_keeps_which_test_samples_were_right_at_the_end(tmp_path):
    data = small_data()
    result = train(SMALL, tmp_path, data=data)
    right = unpacked(result.test_right)
    assert (len(right), sum(right) / len(right)) == (len(data.y_test), result.test_accuracy)
    state = checkpoint.read(tmp_path / "checkpoints" / "last.pt")
    assert state["test_right"] == result.test_right  # so it is there after a kill before the result was written


def first_lost(config: RunConfig) -> int:
    """The naive run's update whose loss is the first that is not finite, from 1."""
    _, updates = by_hand(config, small_data())
    return 1 + next(number for number, (_, _, loss) in enumerate(updates) if not math.isfinite(loss))


WILD = replace(SMALL, lr=1e28, epochs=4)


@pytest.mark.parametrize("micro", [None, 10])
def test_a_run_ends_with_the_update_whose_loss_is_not_finite(tmp_path, micro):
    result = train(replace(WILD, micro_batch_size=micro), tmp_path, data=small_data())
    assert result.updates == first_lost(WILD) < 18
    assert (result.samples, result.epochs, len(result.history)) == (16 * result.updates, 1, 1)
    assert result.diverged
    assert result.diverged_at == result.history[-1]
    assert result.history[-1].train_loss is None
    assert len(unpacked(result.test_right)) == 100
    assert saved_result(tmp_path) == result
    assert json.loads((tmp_path / "result.json").read_text())["diverged"] is True
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert not list((tmp_path / "checkpoints").iterdir())


def test_where_reading_the_loss_would_wait_it_is_read_at_the_end_of_the_epoch(monkeypatch):
    monkeypatch.setattr(devices, "is_read_freely", lambda device: False)
    result = train(WILD, data=small_data())
    assert (result.samples, result.epochs, len(result.history)) == (300, 1, 1)
    assert result.diverged
    often = train(replace(WILD, evaluate_every="5 updates"), data=small_data())
    assert often.samples == 16 * 5 * -(-first_lost(WILD) // 5)  # or with the next evaluation


def test_what_was_saved_before_a_run_diverged_stays(tmp_path):
    """Two good epochs, then an LR far too high: checkpoints are of the good ones, logs and result tell the end."""
    config = replace(SMALL, lr_schedule="milestones:1e30:2")
    result = train(config, tmp_path, data=small_data())
    assert [found.diverged for found in result.history] == [False, False, True]
    assert 600 < result.samples < 900
    good = train(replace(config, epochs=2), data=small_data())
    assert [found.test_loss for found in result.history[:2]] == [found.test_loss for found in good.history]
    last = checkpoint.read(tmp_path / "checkpoints" / "last.pt")
    assert last["evaluations"] == 2
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert train(config, tmp_path, data=small_data(), resume=True) == result
    (tmp_path / "result.json").unlink()  # a kill before the result was there
    again = train(config, tmp_path, data=small_data(), resume=True)
    assert without_seconds(again) == without_seconds(result)


def test_a_loss_that_is_not_finite_on_the_test_set_alone_ends_a_run():
    data = small_data()
    result = train(SMALL, data=replace(data, x_test=torch.full_like(data.x_test, float("inf"))))
    assert (result.samples, result.diverged) == (300, True)
    assert result.history[-1].train_loss is not None
    assert result.history[-1].test_loss is None


def test_an_accuracy_that_always_the_same_answer_has_too():
    data = small_data()
    most = torch.bincount(data.y_test).max().item() / 100
    dead = train(replace(SMALL, lr=1e-9), data=data)
    assert (dead.chance, dead.at_chance) == (most, dead.test_accuracy <= most + 3 * (most * (1 - most) / 100) ** 0.5)
    assert not train(SMALL, data=data).at_chance
    alike = replace(data, y_test=torch.full_like(data.y_test, 3))
    assert train(SMALL, data=alike).at_chance  # of one class nothing can be told


def test_each_evaluation_is_told(monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 1e9)
    seen = []
    result = train(replace(SMALL, evaluate_every="20 updates"), data=small_data(), progress=seen.append)
    told = [now for now in seen if now.evaluation is not None]
    assert [now.evaluation for now in told] == list(result.history)
    assert [(now.samples, now.batch_size, now.lr) for now in told] == [
        (found.samples, found.batch_size, found.lr) for found in result.history
    ]
    first, steps = result.history[0], pairwise(result.history)
    rates = [first.samples / first.seconds]
    rates += [(found.samples - before.samples) / (found.seconds - before.seconds) for before, found in steps]
    assert [now.samples_per_second for now in told] == pytest.approx(rates)
    assert told[-1].seconds_left == 0
    assert all(now.seconds_left > 0 for now in told[:-1])


@pytest.mark.gpu
def test_on_a_gpu_with_an_index():
    result = train(replace(WILD, device="cuda:0"), data=small_data())
    assert (result.samples, result.diverged) == (300, True)
    assert train(replace(SMALL, device="cuda:0"), data=small_data()).best_accuracy > 0.5
