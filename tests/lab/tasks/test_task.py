from __future__ import annotations

import pytest
import torch

from adabatch.lab import models, tasks
from adabatch.lab.training import RunConfig, optimizers, train


def test_names():
    assert tasks.names()[:3] == ["digits", "mnist", "fashion_mnist"]
    with pytest.raises(ValueError, match=r"`task` must be one of digits, mnist, fashion_mnist.*, got 'cifar'"):
        tasks.get("cifar")


@pytest.mark.parametrize("name", tasks.names())
def test_settings_are_whole_and_known(name):
    task = tasks.get(name)
    assert task.name == name
    assert task.default_model in task.models
    assert set(task.models) <= set(models.names())
    assert 0.5 <= task.target <= 1
    assert "growth" not in task.defaults
    config = RunConfig.for_task(name)
    assert config.growth is None
    assert config.model == task.default_model


@pytest.mark.parametrize("name", tasks.names())
def test_settings_go_with_the_optimizer(name):
    """Each optimizer has an LR, and it changes only settings that the task has."""
    task = tasks.get(name)
    own = task.defaults["optimizer"]
    assert own not in task.by_optimizer
    assert set(task.by_model) <= set(task.models[1:])
    for each in (task.by_optimizer, *task.by_model.values()):
        assert set(each) <= set(optimizers.NAMES)
        assert all(set(settings) <= set(task.defaults) - {"optimizer"} for settings in each.values())
    for optimizer in optimizers.NAMES:
        config = RunConfig.for_task(name, optimizer=optimizer)
        expected = {**task.defaults, **task.by_optimizer.get(optimizer, {}), "optimizer": optimizer}
        assert {key: getattr(config, key) for key in expected} == expected
        assert (config.lr <= 0.002) == optimizer.startswith("adam")
    assert RunConfig.for_task(name) == RunConfig.for_task(name, optimizer=own)


@pytest.mark.parametrize(
    ("task", "before", "given", "changes"),
    [
        ("mnist", {"optimizer": "sgd"}, {"optimizer": "adam"}, {"lr": 0.001}),
        ("mnist", {"optimizer": "adam"}, {"optimizer": "sgd"}, {"lr": 0.02}),
        ("mnist", {}, {"optimizer": "nesterov"}, {}),
        ("mnist", {"optimizer": "adam"}, {"optimizer": "adamw", "model": "mlp"}, {}),
        ("gpt-tiny", {}, {"optimizer": "adam"}, {"weight_decay": 0.0}),
        ("gpt-tiny", {"optimizer": "adam"}, {"optimizer": "adamw"}, {"weight_decay": 0.1}),
        ("gpt-tiny", {}, {"model": "lstm"}, {"lr": 0.003}),
        ("gpt-tiny", {"model": "lstm"}, {"model": "gpt"}, {"lr": 0.001}),
        ("gpt-tiny", {"model": "lstm"}, {"optimizer": "adam"}, {"weight_decay": 0.0}),
        ("gpt-tiny", {"model": "lstm", "optimizer": "sgd"}, {"model": "gpt"}, {}),
    ],
)
def test_what_another_optimizer_or_network_changes(task, before, given, changes):
    assert tasks.get(task).in_place_of(before, given) == changes


def test_a_network_may_have_an_lr_of_its_own():
    found = {model: RunConfig.for_task("gpt-tiny", model=model).lr for model in tasks.get("gpt-tiny").models}
    assert found == {"gpt": 0.001, "lstm": 0.003}
    assert RunConfig.for_task("gpt-tiny", model="lstm", lr=0.5).lr == 0.5
    assert RunConfig.for_task("gpt-tiny", model="lstm", optimizer="lamb").lr == 0.005


def data_of(x_train):
    classes = torch.arange(len(x_train)) % 3
    return tasks.Data(x_train, classes, x_train[:6], classes[:6], classes=3, note="drawn")


@pytest.mark.parametrize("shape", [(12, 5), (12, 8, 8), (12, 1, 8, 6)])
def test_inputs_that_are_no_images_are_refused_with_the_remedy(shape):
    words = rf"`x_train` must be square images .* got \({', '.join(map(str, shape))}\); .* as `\[features, 1, 1\]`"
    with pytest.raises(ValueError, match=words):
        train(RunConfig.for_task("digits", batch_size=4, max_batch_size=None), data=data_of(torch.zeros(shape)))


def test_rows_of_features_train_in_the_shape_that_the_remedy_names():
    data = data_of(torch.randn(12, 5, 1, 1, generator=torch.Generator().manual_seed(0)))
    found = train(RunConfig.for_task("digits", model="mlp", epochs=1, batch_size=4, max_batch_size=None), data=data)
    assert found.updates == 3
