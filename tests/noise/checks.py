"""The contract of everything that estimates the noise: estimators and taps."""

from __future__ import annotations

import io
import json
import math

import torch

from adabatch.types import NoiseEstimate


def check_estimator(make, feed, *, updates=12):
    """Checks an estimator, or a tap with its training, against the contract.

    - It says None before it has seen anything, then a sound `NoiseEstimate`; asking changes nothing.
    - Its state is JSON-safe, loads with `weights_only`, and a resumed one goes on bit for bit from any update.

    Args:
        make: a new one, in a training that begins anew.
        feed: called with it and the number of an update: lets it see that update.
    """
    whole, states = make(), []
    assert whole.estimate() is None
    for update in range(updates):
        feed(whole, update)
        states.append(json.loads(json.dumps(whole.state_dict())))
        found = whole.estimate()
        assert found is None or check_sound(found)
        assert whole.estimate() == found
        assert whole.state_dict() == states[-1]
    assert whole.estimate() is not None
    whole_state = whole.state_dict()
    _close(whole)
    for stop in (1, updates // 2, updates - 1):
        first = make()
        for update in range(stop):
            feed(first, update)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        _close(first)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        assert state == states[stop - 1]
        resumed = make()
        for update in range(stop):  # the training goes where it was; what the tap saw on the way is replaced
            feed(resumed, update)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        for update in range(stop, updates):
            feed(resumed, update)
        assert resumed.state_dict() == whole_state
        _close(resumed)


def check_sound(found):
    """Whether a record is one."""
    assert isinstance(found, NoiseEstimate)
    assert 0 <= found.low <= found.high
    assert found.measured > 0
    assert all(not math.isnan(value) for value in (found.noise_scale, found.trace, found.signal))
    return True


def _close(estimator):
    if hasattr(estimator, "close"):
        estimator.close()
