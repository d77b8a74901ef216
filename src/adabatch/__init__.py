"""Grow the batch size while a network trains, exactly.

Importing this package loads no torch until a name needs it. Schedules, plans, couplings and policies work
without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from adabatch._errors import needing_torch
from adabatch._version import __version__ as __version__
from adabatch.accumulate import accumulate

_HOME = {
    "BatchSizeScheduler": "adabatch.scheduler",
    "Clock": "adabatch.data",
    "DataLoader": "adabatch.data",
    "Plan": "adabatch.schedules",
    "ResidentLoader": "adabatch.data",
    "by_samples": "adabatch.lr_clock",
    "couplings": "adabatch.couplings",
    "epochs": "adabatch.units",
    "from_lr_scheduler": "adabatch.lr_clock",
    "lr_clock": "adabatch.lr_clock",
    "micro_batches": "adabatch.accumulate._foreign",
    "noise": "adabatch.noise",
    "norm": "adabatch.norm",
    "optim": "adabatch.optim",
    "policies": "adabatch.policies",
    "profile_step": "adabatch.memory",
    "sample_seed": "adabatch.data",
    "samples": "adabatch.units",
    "scale_up": "adabatch.couplings._scale_up",
    "schedules": "adabatch.schedules",
    "tokens": "adabatch.units",
    "updates": "adabatch.units",
}
__all__ = [
    "BatchSizeScheduler", "Clock", "DataLoader", "Plan", "ResidentLoader", "accumulate", "by_samples", "couplings",
    "epochs", "from_lr_scheduler", "lr_clock", "micro_batches", "noise", "norm", "optim", "policies", "profile_step",
    "sample_seed", "samples", "scale_up", "schedules", "tokens", "updates",
]  # fmt: skip

if TYPE_CHECKING:
    from adabatch import couplings, lr_clock, noise, norm, optim, policies, schedules
    from adabatch.accumulate._foreign import micro_batches
    from adabatch.couplings._scale_up import scale_up
    from adabatch.data import Clock, DataLoader, ResidentLoader, sample_seed
    from adabatch.lr_clock import by_samples, from_lr_scheduler
    from adabatch.memory import profile_step
    from adabatch.scheduler import BatchSizeScheduler
    from adabatch.schedules import Plan
    from adabatch.units import epochs, samples, tokens, updates


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'adabatch' has no attribute {name!r}; it offers {', '.join(__all__)}")
    with needing_torch(f"`ab.{name}`"):
        module = importlib.import_module(home)
    value = module if home.rpartition(".")[2] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
