"""Settings for very large batches: what they change in a run, on one process and on several."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.lab.training.checks import SMALL, small_data, weights
from tests.lab.training.test_loop_resume import interrupted_at
from tests.lab.training.test_ranks_norm import NORM, differences, images, trained

from adabatch import optim
from adabatch.lab.training import train
from adabatch.lab.training.setup import Setup

CPU = torch.device("cpu")
LAST = replace(NORM, batch_size=20, growth=None, last_batch_norm=True, zero_init=True)


def of(**changes):
    return Setup(replace(SMALL, **changes), small_data(), CPU)


def test_the_transition_is_scaled_to_the_length_unless_given():
    found = of(optimizer="rmsprop-warmup", epochs=9)
    assert isinstance(found.optimizer, optim.RMSpropWarmup)
    group = found.optimizer.param_groups[0]
    assert (group["center"], group["period"]) == pytest.approx((1.0, 0.5))
    group = of(optimizer="rmsprop-warmup", transition="0.5:2").optimizer.param_groups[0]
    assert (group["center"], group["period"]) == (0.5, 2.0)
    found.optimizer.read_epoch()
    assert found.optimizer.param_groups[0]["sgd_share"] == optim.rmsprop_warmup.sgd_share(0, center=1.0, period=0.5)


def test_biases_without_decay():
    groups = of(weight_decay=0.1, decay_biases=False).optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(value.ndim == 1 for value in groups[1]["params"])
    assert [group["weight_decay"] for group in of(weight_decay=0.1).optimizer.param_groups] == [0.1]


def test_smoothed_labels():
    scores, targets = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    expected = torch.nn.functional.cross_entropy(scores, targets, label_smoothing=0.3)
    assert of(label_smoothing=0.3).loss(scores, targets) == expected != of().loss(scores, targets)


def test_residual_blocks_begin_as_their_shortcut():
    model = Setup(replace(NORM, zero_init=True), images(), CPU).model
    scales = {name: value for name, value in model.named_parameters() if "bn" in name and name.endswith("weight")}
    assert all(bool((value == 0).all()) is name.endswith("bn2.weight") for name, value in scales.items())
    assert sum(bool((value == 0).all()) for value in scales.values()) == 9


def test_evaluation_by_the_last_batch_goes_on_after_an_interrupt(tmp_path):
    result = train(LAST, tmp_path / "a", data=images())
    interrupted_at(1, LAST, tmp_path / "b", data=images())
    again = train(LAST, tmp_path / "b", data=images(), resume=True)
    assert again.history[-1].test_loss == result.history[-1].test_loss
    assert max(differences(tmp_path / "a", tmp_path / "b").values()) == 0
    assert weights(tmp_path / "a")["bn1.num_batches_tracked"] > 0


def test_the_last_batch_over_ranks(tmp_path):
    """With whole batches on each rank the weights differ, as batch norm per rank has it; the first layer's do not."""
    one = replace(LAST, epochs=1, batch_size=41, lr=1e-12)
    train(one, tmp_path / "one", data=images())
    on_ranks(2, partial(trained, runs=[(one, tmp_path / "two"), (replace(one, fsdp=True), tmp_path / "shards")]))
    mine = weights(tmp_path / "one")
    for name in ("two", "shards"):
        found = weights(tmp_path / name)
        for buffer in ("bn1.running_mean", "bn1.running_var"):
            torch.testing.assert_close(found[buffer], mine[buffer], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transition": "1:1"}, "`transition` must come with the optimizer rmsprop-warmup, got sgd; leave it out"),
        (
            {"transition": "3.5:2", "optimizer": "rmsprop-warmup"},
            "`transition` must end within the 4 epochs of the training, got 3.5:2, which ends after 4.5",
        ),
        ({"transition": "soon", "optimizer": "rmsprop-warmup"}, "`transition` must be CENTRE:LENGTH in epochs, got"),
        ({"transition": "-1:2", "optimizer": "rmsprop-warmup"}, "`transition` must be at least 0, got -1.0; write for"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be less than 1, got 1.0"),
        (
            {"last_batch_norm": True, "ghost_batch_size": 8},
            "`last_batch_norm` must come without `ghost_batch_size`, got both; leave out one of them",
        ),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(SMALL, **changes)


def test_networks_that_do_not_fit():
    with pytest.raises(ValueError, match="`last_batch_norm` must come with a network that has batch norm, got mlp"):
        of(last_batch_norm=True)
    with pytest.raises(
        ValueError, match="`zero_init` must come with a network whose residual blocks end in batch norm"
    ):
        of(zero_init=True)
