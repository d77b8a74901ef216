"""The noise of gradients, measured while a network trains: `tap` collects norms, `Estimator` makes them an interval."""

from __future__ import annotations

from adabatch import _torch as _torch
from adabatch.noise.estimator import Estimator, Parts, parts, trace_and_signal
from adabatch.noise.tap import Tap, tap

__all__ = ["Estimator", "Parts", "Tap", "parts", "tap", "trace_and_signal"]
