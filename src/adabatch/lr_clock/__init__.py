"""torch LR schedulers on the samples clock: their LRs as batch schedules, and their steps where the data stands."""

from adabatch.lr_clock._by_samples import MEANT, Baseline, SamplesLR, by_samples
from adabatch.lr_clock._from_lr_scheduler import from_lr_scheduler, table
from adabatch.lr_clock._interval import Interval, every
from adabatch.lr_clock._sample import last_step, parts_of, sample, steps_taken

__all__ = [
    "MEANT",
    "Baseline",
    "Interval",
    "SamplesLR",
    "by_samples",
    "every",
    "from_lr_scheduler",
    "last_step",
    "parts_of",
    "sample",
    "steps_taken",
    "table",
]
