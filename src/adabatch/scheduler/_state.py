"""The state of a scheduler: what a resumed run must agree on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from adabatch._errors import ArgumentError
from adabatch.schedules import Schedule

FORMAT: Final = 1
_KEYS: Final = ("format", "clock", "base_batch_size", "schedule", "coupling", "decisions")
MOMENTS: Final = "bias_correction"  # in states of couplings that change betas
HELD: Final = "batch_size"  # in states at the end of a plan, which does not say what holds from there
_LARGE_JSON: Final = 2000  # characters; longer schedules enter states as a fingerprint


def identity(schedule: Schedule) -> dict[str, Any]:
    """The schedule as JSON, or its fingerprint if that is long."""
    data = json.loads(json.dumps(schedule.to_json()))
    if len(json.dumps(data)) > _LARGE_JSON:
        return {"fingerprint": schedule.fingerprint(), "describe": schedule.describe()}
    assert isinstance(data, dict)
    return data


def checked_state(state: object) -> Mapping[str, Any]:
    """The state.

    Raises:
        ValueError: if it has other keys than `state_dict` gives.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT or set(state) - {MOMENTS, HELD} != set(_KEYS):
        found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise ArgumentError(
            "state",
            f"must be what `BatchSizeScheduler.state_dict()` gave (format {FORMAT})",
            value=found,
            remedy="load the state of the scheduler, not of the loader or the optimizer",
        )
    return state
