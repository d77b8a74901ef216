"""A batch schedule known before training: updates, LRs, noise scale and seconds; presets and ramps."""

from adabatch.lab.planner.forecast import Forecast, LRTable, Timing, emit_python, forecast
from adabatch.lab.planner.presets import PRESETS, Preset, find
from adabatch.lab.planner.ramps import RAMPS, Ramp

__all__ = ["PRESETS", "RAMPS", "Forecast", "LRTable", "Preset", "Ramp", "Timing", "emit_python", "find", "forecast"]
