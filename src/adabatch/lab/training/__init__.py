"""Training runs: the loop that the command calls, with evaluation, checkpoints, metrics and resume around it.

Importing this loads nothing until a name needs it; `adabatch.lab.training.interrupt` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from adabatch.lab.training.config import RunConfig, on_top
    from adabatch.lab.training.device import pick_device, versions
    from adabatch.lab.training.folder import saved_config, saved_result
    from adabatch.lab.training.interrupt import Interrupted
    from adabatch.lab.training.lock import writing
    from adabatch.lab.training.loop import train
    from adabatch.lab.training.records import Evaluation, Progress, RunResult, unpacked
    from adabatch.lab.training.settings_file import read_settings
    from adabatch.lab.training.setup import with_fastest_micro_batch

_HOME: Final = {
    "Evaluation": "records",
    "Interrupted": "interrupt",
    "Progress": "records",
    "RunConfig": "config",
    "RunResult": "records",
    "on_top": "config",
    "pick_device": "device",
    "read_settings": "settings_file",
    "saved_config": "folder",
    "saved_result": "folder",
    "train": "loop",
    "unpacked": "records",
    "versions": "device",
    "with_fastest_micro_batch": "setup",
    "writing": "lock",
}
__all__ = [
    "Evaluation", "Interrupted", "Progress", "RunConfig", "RunResult", "on_top", "pick_device", "read_settings",
    "saved_config", "saved_result", "train", "unpacked", "versions", "with_fastest_micro_batch", "writing",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
