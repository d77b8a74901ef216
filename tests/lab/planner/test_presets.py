import pytest
import torch

import adabatch as ab
from adabatch.lab.planner import PRESETS, find
from adabatch.lab.training import RunConfig, lr_schedule, train
from adabatch.lab.training.config import SETTINGS, rmsprop_transition


def plan_of(preset, **mode):
    found = preset.settings
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=found["lr"], momentum=found["momentum"])
    scheduler = lr_schedule.build(found["lr_schedule"], optimizer, epochs=found["epochs"])
    growth = ab.from_lr_scheduler(
        scheduler, epochs=found["epochs"], maximum=found["max_batch_size"], rule=found["rule"]
    )
    settings = {"dataset_size": preset.dataset_size, "epochs": found["epochs"], "batch_size": found["batch_size"]}
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
    plan = plan_of(find(name))
    assert (plan.updates, plan.sizes) == (updates, sizes)


@pytest.mark.parametrize(
    ("name", "updates", "sizes"), [("smith-large", 5_630, (8192, 81_920)), ("smith-resnet50", 9_383, (8192, 16_384))]
)
def test_updates_on_imagenet(name, updates, sizes):
    plan = plan_of(find(name), run_on=True)
    assert plan.sizes == sizes
    assert abs(sum(batch.size / batch.requested for batch in plan) - updates) < 1


@pytest.mark.parametrize(("name", "updates"), [("smith-large", 5_670), ("smith-resnet50", 9_450)])
def test_updates_on_imagenet_with_the_short_batch_of_each_epoch(name, updates):
    """The rule of `adabatch plan`: a batch ends with its epoch."""
    preset = find(name)
    plan = plan_of(preset)
    assert plan.updates == updates == 30 * 157 + 60 * -(-1_281_167 // plan.sizes[1])
    constant = ab.schedules.constant(preset.settings["batch_size"]).plan(
        dataset_size=preset.dataset_size, epochs=preset.settings["epochs"]
    )
    assert constant.updates == 14_130 == 90 * 157


def test_they_are_the_scaled_starts_of_the_first():
    for name, to in (("smith-lr", {"to_lr": 0.5}), ("smith-momentum", {"to_lr": 0.5, "to_momentum": 0.98})):
        preset = find(name)
        assert ab.scale_up(lr=0.1, momentum=0.9, batch_size=128, **to) == (
            preset.settings["lr"],
            preset.settings["momentum"],
            preset.settings["batch_size"],
        )


def test_each_says_where_it_is_from_and_what_is_recalled():
    for name, presets in PRESETS.items():
        paper = {"smith": "1711.00489", "akiba": "1711.04325", "lars": "1708.03888", "lamb": "1904.00962"}.get(
            name.partition("-")[0], "1712.02029"
        )
        for preset in presets:
            assert preset.name == name
            assert set(preset.settings) < set(SETTINGS)
            assert f"arXiv {paper}" in preset.source
            assert preset.recalled or (name in ("adabatch", "fixed") and preset.task != "imagenet")


# Updates over 100 epochs with short batches left out: PAPERS' arithmetic on the settings of AdaBatch, section 4.1.
@pytest.mark.parametrize("task", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    ("name", "model", "sizes", "updates"),
    [
        ("adabatch", "resnet20", (128, 256, 512, 1024, 2048), 15_080),
        ("adabatch", "vgg19_bn", (128, 256, 512, 1024, 2048), 15_080),
        ("adabatch", "alexnet", (256, 512, 1024, 2048, 4096), 7_520),
        ("fixed", "resnet20", (128,), 39_000),
        ("fixed", "alexnet", (256,), 19_500),
        ("fixed-large", "vgg19_bn", (2048,), 2_400),
        ("fixed-large", "alexnet", (4096,), 1_200),
        ("adabatch-multi", "resnet20", (1024, 2048, 4096, 8192, 16_384), 1_860),
    ],
)
def test_adabatch_on_cifar(task, name, model, sizes, updates):
    preset = find(name, task=task, model=model)
    plan = RunConfig.for_task(task, **preset.settings).plan(50_000)
    assert (plan.sizes, plan.tails, plan.updates) == (sizes, (), updates)
    assert (preset.settings["momentum"], preset.settings["weight_decay"]) == (0.9, 5e-4)


def lrs(preset):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=preset.settings["lr"])
    scheduler, found = (
        lr_schedule.build(preset.settings["lr_schedule"], optimizer, epochs=preset.settings["epochs"]),
        [],
    )
    for _ in range(preset.settings["epochs"]):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_lrs_of_one_gpu():
    # The paper's table: 0.01 x 0.375 every 20 epochs; with the batch twice as large each time, x 0.75.
    found = lrs(find("adabatch", task="cifar10", model="resnet20"))
    assert found[::20] == pytest.approx([0.01, 0.00375, 0.00140625, 0.00052734375, 0.000197754])
    assert [lr * 2**k for k, lr in enumerate(found[19::20])] == pytest.approx(
        [0.01, 0.0075, 0.005625, 0.00421875, 0.0031640625]
    )


def test_lrs_of_four_gpus_warm_up_as_in_the_authors_code():
    found = lrs(find("adabatch-multi", task="cifar100", model="resnet20"))
    step = (0.1 * 1024 / 128 - 0.1) / 4  # per epoch, reached at index 4
    assert found[:6] == pytest.approx([*(0.1 + step * k for k in range(5)), 0.8])
    assert found[20::20] == pytest.approx([0.8 * 0.25**k for k in range(1, 5)])


def test_lrs_on_imagenet():
    preset = find("adabatch", task="imagenet", model="resnet50")
    found = lrs(preset)
    assert (found[0], found[4], found[29]) == pytest.approx((0.1, 0.1 * 8192 / 256, 3.2))
    assert found[30] * 2 == pytest.approx(3.2 * 0.2), "the LR in force falls x0.2 as the batch doubles"
    assert preset.settings["weight_decay"] == 1e-4
    assert RunConfig.for_task("imagenet", **preset.settings).plan(1_281_167).sizes == (8192, 16_384, 32_768)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "smith-large"])
def test_each_is_the_settings_of_a_run(name):
    for preset in PRESETS[name]:
        config = RunConfig.for_task(preset.task, **preset.settings)
        assert config.model == preset.model
        plan = config.plan(preset.dataset_size)
        assert plan.sizes[0] == preset.settings["batch_size"]
        assert config.grows == (len(plan.sizes) > 1) or preset.settings["rule"] == "hybrid(0)"


@pytest.mark.parametrize(("name", "updates"), [("smith-increase", 29_240), ("smith-hybrid", 34_520)])
def test_a_run_of_smith_has_the_papers_updates(name, updates):
    config = RunConfig.for_task("cifar10", **find(name).settings)
    assert config.plan(50_000).updates == updates
    assert config.coupling == "linear(any_optimizer=True)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adabtch",), "`preset` must be one of adabatch, fixed, .*, got 'adabtch'"),
        (("adabatch", "mnist"), "`task` must be one of cifar10, cifar100, imagenet, got 'mnist'; the preset adabatch"),
        (("adabatch", "cifar10", "wrn16_4"), "`model` must be one of resnet20, vgg19_bn, alexnet, got 'wrn16_4'"),
        (("smith-increase", "cifar100"), "`task` must be one of cifar10, got 'cifar100'"),
    ],
)
def test_what_no_preset_has(arguments, message):
    name, *rest = arguments
    with pytest.raises(ValueError, match=message):
        find(name, **dict(zip(("task", "model"), rest, strict=False)))


def test_the_paper_of_very_large_batches():
    """PAPERS' figures: 3,600 updates, LRs of 6.4, 0.96, 0.128 and 0.0128, and the end of the transition at 12.5."""
    preset = find("akiba")
    config = RunConfig.for_task("imagenet", **preset.settings)
    assert config.plan(preset.dataset_size).updates == 90 * 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler, lrs = lr_schedule.build(config.lr_schedule, optimizer, epochs=90), []
    for _ in range(90):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [lrs[epoch] for epoch in (0, 39, 40, 69, 70, 84, 85, 89)] == pytest.approx(
        [6.4, 6.4, 0.96, 0.96, 0.128, 0.128, 0.0128, 0.0128]
    )
    assert rmsprop_transition(config) == (10, 5)


@pytest.mark.parametrize(("name", "decay"), [("lars", 1e-4), ("lamb", 0.01)])
def test_layer_wise_rates_at_the_same_batch_size(name, decay):
    preset = find(name)
    config = RunConfig.for_task("imagenet", **preset.settings)
    assert config.plan(preset.dataset_size).updates == 90 * 40  # 3,519 where batches run on
    assert (config.optimizer, config.weight_decay, config.decay_biases) == (name, decay, False)


def test_the_same_method_in_small_keeps_a_whole_batch_accurate():
    preset = find("akiba-small")
    plain = {"optimizer": "sgd", "lr_schedule": "warmup:1:0.03+milestones:0.1:6,12,16", "last_batch_norm": False}
    found = [
        train(RunConfig.for_task("digits", **{**preset.settings, **more}, evaluate_every="18 epochs")).test_accuracy
        for more in ({}, plain)
    ]
    assert found[0] > 0.95 > 0.9 > found[1], found
