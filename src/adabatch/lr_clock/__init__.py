"""torch LR schedulers on the samples clock: their curves as batch schedules, and their steps where the data stands."""

from adabatch.lr_clock._baseline import Baseline
from adabatch.lr_clock._by_samples import SamplesLR, by_samples
from adabatch.lr_clock._from_lr import curve, from_lr
from adabatch.lr_clock._interval import Interval, every
from adabatch.lr_clock._sample import last_step, sample

__all__ = ["Baseline", "Interval", "SamplesLR", "by_samples", "curve", "every", "from_lr", "last_step", "sample"]
