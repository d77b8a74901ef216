"""Taps whose numbers are known, in the place of one that measures a model."""

from __future__ import annotations

from math import inf

from adabatch.types import NoiseEstimate


class Numbers:
    """A tap of plain arithmetic: the noise scale is a function of how often it was asked, exact to a width.

    Args:
        noise_scale: a function of the number of measurements, or a number.
        every: the estimate becomes another at every so many calls.
        width: the ends of the interval are the noise scale over and times it.
        measured: what the estimate rests on, at most.
    """

    def __init__(self, noise_scale=1e6, *, every=1, width=1.01, measured=40.0):
        self.noise_scale = noise_scale if callable(noise_scale) else lambda _: noise_scale
        self.every, self.width, self.measured = every, width, measured
        self.asked, self.closed = 0, False

    def estimate(self):
        self.asked += 1
        number = self.asked // self.every
        if number == 0:
            return None
        found, signal = float(self.noise_scale(number)), 1 + number / 1e9
        ends = found / self.width, found * self.width
        return NoiseEstimate(found, *ends, found * signal, signal, min(float(number), self.measured))

    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state["asked"]

    def close(self):
        self.closed = True


def unbounded(number):
    """An estimate that tells nothing."""
    return NoiseEstimate(-5.0, 0.0, inf, 1.0 + number, -1.0, 100.0)
