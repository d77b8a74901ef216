"""Optimizers for very large batches: RMSprop warm-up, LARS, LAMB."""

from adabatch import _torch as _torch
from adabatch.optim._param_groups import param_groups
from adabatch.optim.lamb import LAMB
from adabatch.optim.lars import LARS
from adabatch.optim.rmsprop_warmup import RMSpropWarmup

__all__ = ["LAMB", "LARS", "RMSpropWarmup", "param_groups"]
