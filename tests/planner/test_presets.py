import pytest
import torch

import adabatch as ab
from adabatch.planner import PRESETS
from adabatch.training import lr_schedule


def plan_of(preset, **mode):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=preset.lr, momentum=preset.momentum)
    scheduler = lr_schedule.build(preset.lr_schedule, optimizer, epochs=preset.epochs)
    growth = ab.from_lr(scheduler, epochs=preset.epochs, maximum=preset.maximum, rule=preset.rule)
    settings = {"dataset_size": preset.dataset_size, "epochs": preset.epochs, "batch_size": preset.batch_size}
    return growth.plan(**settings, **mode)


@pytest.mark.parametrize(
    ("name", "updates", "sizes"),
    [
        ("smith-decay", 78_200, (128,)),
        ("smith-hybrid", 34_520, (128, 640)),
        ("smith-increase", 29_240, (128, 640, 3200, 5120)),
        ("smith-lr", 6_500, (640, 3200, 5120)),
        ("smith-momentum", 2_360, (3200, 5120)),
    ],
)
def test_updates_on_cifar(name, updates, sizes):
    plan = plan_of(PRESETS[name])
    assert (plan.updates, plan.sizes) == (updates, sizes)


@pytest.mark.parametrize(
    ("name", "updates", "sizes"), [("smith-large", 5_630, (8192, 81_920)), ("smith-resnet50", 9_383, (8192, 16_384))]
)
def test_updates_on_imagenet(name, updates, sizes):
    plan = plan_of(PRESETS[name], run_on=True)
    assert plan.sizes == sizes
    assert abs(sum(batch.size / batch.requested for batch in plan) - updates) < 1


def test_they_are_the_scaled_starts_of_the_first():
    for name, to in (("smith-lr", {"to_lr": 0.5}), ("smith-momentum", {"to_lr": 0.5, "to_momentum": 0.98})):
        preset = PRESETS[name]
        assert ab.scale_up(lr=0.1, momentum=0.9, batch_size=128, **to) == (
            preset.lr,
            preset.momentum,
            preset.batch_size,
        )


def test_each_says_where_it_is_from_and_what_is_recalled():
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert "arXiv 1711.00489" in preset.source
        assert preset.recalled
