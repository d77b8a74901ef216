"""`BatchSizeScheduler`: a schedule drives a loader's batch size, a coupling keeps the LR of the optimizers on course.

The coupling acts around `optimizer.step()` only, through the optimizer's own step hooks. Before and after a step, also
one that raised, the optimizer holds exactly what the user and their LR scheduler put there. So code that reads,
multiplies, saves or copies an LR never sees a scaled one.
"""

from adabatch import _torch as _torch
from adabatch.scheduler._scheduler import BatchSizeScheduler

__all__ = ["BatchSizeScheduler"]
