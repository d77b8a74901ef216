"""Batch sizes as pure functions of the clock: data that a `Plan` resolves. No torch here."""

from adabatch.schedules import lr as lr
from adabatch.schedules._base import Schedule
from adabatch.schedules.clamp import clamp
from adabatch.schedules.constant import constant
from adabatch.schedules.from_lr import from_lr
from adabatch.schedules.geometric import geometric
from adabatch.schedules.last_iterate import last_iterate
from adabatch.schedules.linear_ramp import linear_ramp
from adabatch.schedules.plan import Plan
from adabatch.schedules.round_to import round_to
from adabatch.schedules.steps import steps
from adabatch.schedules.then import then
from adabatch.schedules.world_sizes import world_sizes

__all__ = [
    "Plan", "Schedule", "clamp", "constant", "from_lr", "geometric", "last_iterate", "linear_ramp", "round_to",
    "steps", "then", "world_sizes",
]  # fmt: skip
