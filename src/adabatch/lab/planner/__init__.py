"""A batch schedule known before training: updates, LRs, noise scale and seconds; presets and ramps."""

from adabatch.lab.planner.forecast import Forecast, LRTable, Timing, emit_python, forecast
from adabatch.lab.planner.performance import LINKS, PAYS, Link, Performance, link_of, of_probes
from adabatch.lab.planner.presets import PRESETS, Preset, find
from adabatch.lab.planner.ramps import RAMPS, Ramp

__all__ = [
    "LINKS", "PAYS", "PRESETS", "RAMPS", "Forecast", "LRTable", "Link", "Performance", "Preset", "Ramp", "Timing",
    "emit_python", "find", "forecast", "link_of", "of_probes",
]  # fmt: skip
