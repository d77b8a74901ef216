from __future__ import annotations

import pytest

from adabatch.lab import models, tasks
from adabatch.lab.training import RunConfig, optimizers


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
    assert 0.5 <= task.target < 1
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
    assert all(set(settings) <= set(task.defaults) - {"optimizer"} for settings in task.by_optimizer.values())
    for optimizer in optimizers.NAMES:
        config = RunConfig.for_task(name, optimizer=optimizer)
        expected = {**task.defaults, **task.by_optimizer.get(optimizer, {}), "optimizer": optimizer}
        assert {key: getattr(config, key) for key in expected} == expected
        assert (config.lr <= 0.002) == optimizer.startswith("adam")
    assert RunConfig.for_task(name) == RunConfig.for_task(name, optimizer=own)


def test_what_another_optimizer_changes():
    text, mnist = tasks.get("gpt-tiny"), tasks.get("mnist")
    assert mnist.in_place_of("sgd", "adam") == {"lr": 0.001}
    assert mnist.in_place_of("adam", "sgd") == {"lr": 0.02}
    assert mnist.in_place_of("sgd", "nesterov") == mnist.in_place_of("adam", "adamw") == {}
    assert text.in_place_of("adamw", "adam") == {"weight_decay": 0.0}
    assert text.in_place_of("adam", "adamw") == {"weight_decay": 0.1}
