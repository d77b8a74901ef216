"""A batch schedule known before training: updates, LRs, noise scale, seconds; presets, ramps, other trainers' forms."""

from adabatch.lab.planner.emission import FOREIGN, FORMATS, Emission, Emitted, emit, python, python_by_rule
from adabatch.lab.planner.forecast import Forecast, LRTable, Timing, forecast
from adabatch.lab.planner.performance import LINKS, PAYS, Link, Performance, link_of, of_probes
from adabatch.lab.planner.presets import PRESETS, Preset, find
from adabatch.lab.planner.ramps import RAMPS, Ramp

__all__ = [
    "FOREIGN", "FORMATS", "LINKS", "PAYS", "PRESETS", "RAMPS", "Emission", "Emitted", "Forecast", "LRTable", "Link",
    "Performance", "Preset", "Ramp", "Timing", "emit", "find", "forecast", "link_of", "of_probes", "python",
    "python_by_rule",
]  # fmt: skip
