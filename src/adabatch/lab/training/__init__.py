"""The loop behind the command line: training with evaluation, checkpoints, metrics and resume."""

from __future__ import annotations

from adabatch.lab.training.auto import with_fastest_micro_batch
from adabatch.lab.training.config import RunConfig
from adabatch.lab.training.device import pick_device, versions
from adabatch.lab.training.folder import saved_config, saved_result, writing
from adabatch.lab.training.interrupt import Interrupted
from adabatch.lab.training.loop import train
from adabatch.lab.training.records import Evaluation, Progress, RunResult, unpacked
from adabatch.lab.training.settings_file import on_top, read_settings

__all__ = [
    "Evaluation",
    "Interrupted",
    "Progress",
    "RunConfig",
    "RunResult",
    "on_top",
    "pick_device",
    "read_settings",
    "saved_config",
    "saved_result",
    "train",
    "unpacked",
    "versions",
    "with_fastest_micro_batch",
    "writing",
]
