"""What a batch schedule will do, known before training: updates, LRs, noise scale and seconds; presets and ramps."""

from adabatch.planner.course import Course
from adabatch.planner.emit import emit_python
from adabatch.planner.forecast import Forecast, forecast
from adabatch.planner.presets import PRESETS, Preset, find
from adabatch.planner.ramps import RAMPS, Ramp
from adabatch.planner.start import Start, scale_up
from adabatch.planner.timing import Timing

__all__ = [
    "PRESETS",
    "RAMPS",
    "Course",
    "Forecast",
    "Preset",
    "Ramp",
    "Start",
    "Timing",
    "emit_python",
    "find",
    "forecast",
    "scale_up",
]
