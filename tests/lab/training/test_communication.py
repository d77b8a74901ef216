"""Bytes and seconds of averaging gradients in a run's metrics, and gradients that travel in 16 bits."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from tests.accumulate.ranks import on_ranks
from tests.lab.training.checks import SMALL, small_data, weights

from adabatch.lab.training import train

SHORT = replace(SMALL, epochs=2, batch_size=10, growth=None, lr_schedule="constant")  # 1 sample in 10 has no peer


def trained(rank, world, *, config, out):
    result = train(config, out, data=small_data())
    told = [line["communication_bytes"] for line in metrics(out)]
    assert told == [found.communication_bytes for found in result.history]


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


KINDS = [(None, False), ("bf16", False), ("fp16", False), (None, True), ("bf16", True)]


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_half_the_bytes_and_nearly_the_losses(tmp_path):
    outs = {kind: tmp_path / str(number) for number, kind in enumerate(KINDS)}
    runs = [
        partial(trained, config=replace(SHORT, compress=compress, fsdp=fsdp), out=out)
        for (compress, fsdp), out in outs.items()
    ]
    on_ranks(2, *runs)
    parameters = sum(value.numel() for value in weights(outs[None, False]).values())
    for (compress, fsdp), out in outs.items():
        for one, other in zip(metrics(outs[None, fsdp]), metrics(out), strict=True):
            assert other["communication_bytes"] == parameters * (2 if compress else 4)
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.01)
            assert (one["train_loss"] == other["train_loss"]) == (compress is None), "rounded or not"
            seconds = other["communication_seconds"]
            assert seconds is None if fsdp else 0 < seconds < other["seconds"]

    told_to_tensorboard(outs["bf16", False], ["communication_bytes", "communication_seconds"])
    told_to_tensorboard(outs["bf16", True], ["communication_bytes"])


def told_to_tensorboard(out, names):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [name for name in events.Tags()["scalars"] if name.startswith("communication")] == names
    for name in names:
        assert [event.value for event in events.Scalars(name)] == pytest.approx([line[name] for line in metrics(out)])


def test_a_run_goes_on_in_one_process(tmp_path):
    """It compresses nothing then, and counts nothing."""
    config = replace(SHORT, compress="bf16")
    on_ranks(2, partial(trained, config=replace(config, epochs=1), out=tmp_path))
    result = train(config, tmp_path, data=small_data(), resume=True)
    assert [line.communication_bytes is None for line in result.history] == [False, True]
    assert [line.communication_seconds is None for line in result.history] == [False, True]
    with pytest.raises(ValueError, match=r"`resume` must keep the settings of the run, .*compress: None and bf16"):
        train(replace(config, compress=None), tmp_path, data=small_data(), resume=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"compress": "int8"}, "`compress` must be one of fp16, bf16, got 'int8'; leave it out to send them whole"),
        ({"compress": "bf16", "precision": "float64"}, "`compress` must come without `precision` float64, got 'bf16'"),
        ({"compress": "fp16", "fsdp": True}, "`compress` must not be fp16 with `fsdp`, .* got 'fp16'; take bf16"),
        ({"compress": "bf16", "fsdp": True, "micro_batch_size": 4}, "`compress` must come without `micro_batch_size`"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        replace(SHORT, **settings)
