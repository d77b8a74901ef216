"""The micro-batch size of a run, measured: the fastest, which often is not the largest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import adabatch as ab
from adabatch import memory
from adabatch.lab import tasks
from adabatch.lab.training import device as devices
from adabatch.lab.training.config import RunConfig
from adabatch.lab.training.parts import Parts


def with_fastest_micro_batch(config: RunConfig, *, data: tasks.Data | None = None) -> RunConfig:
    """The settings with the micro-batch size that trains most samples per second here, by `ab.profile_step`.

    Args:
        config: the settings; their micro-batch size plays no part.
        data: the task's data if they are loaded already.

    Returns:
        `config` with the fastest power of two up to its largest batch; whole batches where the largest batch is that.

    Raises:
        ValueError: if not even one sample fits.
    """
    device = devices.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    loaded = tasks.get(config.task).load(config.data) if data is None else data
    config = replace(config, micro_batch_size=None)
    with devices.threads(config.threads), devices.entered(device):
        parts = Parts(config, loaded, device)

        def step(batch: Any) -> None:
            inputs, targets = batch if parts.prepared else parts.prepare(*batch, clock=0)
            parts.loss(parts.forward(inputs), targets).backward()

        largest = max(parts.plan.sizes)
        profile = ab.profile_step(step, parts.loader, parts.model, parts.optimizer, maximum=largest)
        parts.batches.close()
    return replace(config, micro_batch_size=None if profile.fastest == largest else profile.fastest)
