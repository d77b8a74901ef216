from __future__ import annotations

import pytest

from adabatch import models, tasks
from adabatch.training import RunConfig


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
