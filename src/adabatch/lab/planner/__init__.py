"""What a batch schedule will do, known before training: updates, LRs, noise scale and seconds; presets and ramps."""

from adabatch.lab.planner.course import Course
from adabatch.lab.planner.emit import emit_python
from adabatch.lab.planner.forecast import Forecast, forecast
from adabatch.lab.planner.presets import PRESETS, Preset, find
from adabatch.lab.planner.ramps import RAMPS, Ramp
from adabatch.lab.planner.timing import Timing

__all__ = [
    "PRESETS",
    "RAMPS",
    "Course",
    "Forecast",
    "Preset",
    "Ramp",
    "Timing",
    "emit_python",
    "find",
    "forecast",
]
