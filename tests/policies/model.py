"""A normal model of gradients with a known noise scale, and a small estimator of numbers in the place of a tap.

The noise of one sample's gradient has variance 1 in each of some directions, and the true gradient lies in one of them.
So B_simple = directions / |G|^2 is known, and the squared norms of a batch's halves are drawn exactly, from chi-squared
variables, without any gradient.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from adabatch.types import NoiseEstimate

Z = 1.959964


class Estimates:
    """Estimates of the noise for many runs at once: U-statistics, weighted by age, with Fieller's interval of 95 %.

    Args:
        noise_scale: B_simple, in samples.
        directions: in which the noise lies.
        batch_size: of the batches whose two halves are measured.
        half_life: of the weights, in measurements; a tap's own by default.
        margin: by which both ends of intervals are widened.
        runs: how many.
        seed: of the draws.
    """

    def __init__(self, noise_scale, *, directions=10, batch_size=64, half_life=20, margin=1.0, runs=1, seed=0):
        self.signal, self.directions, self.batch_size = directions / noise_scale, directions, batch_size
        self.margin = margin
        self.decay, self.runs, self.rng = 0.5 ** (1 / half_life), runs, np.random.default_rng(seed)
        self.sums = np.zeros((5, runs))
        self.weight = self.square = 0.0

    def draw(self):
        """tr(Sigma) and |G|^2 of one batch, from its halves."""
        B, rng = self.batch_size, self.rng
        trace = rng.chisquare(self.directions, self.runs)
        along = sqrt(self.signal) + rng.normal(size=self.runs) / sqrt(B)
        across = rng.chisquare(self.directions - 1, self.runs) / B
        return trace, along**2 + across - trace / B

    def step(self):
        """Measures once; returns arrays of trace, signal, low and high, and the effective number of measurements."""
        trace, signal = self.draw()
        self.sums = self.sums * self.decay + np.stack([trace, signal, trace**2, signal**2, trace * signal])
        self.weight, self.square = self.weight * self.decay + 1, self.square * self.decay**2 + 1
        measured = self.weight**2 / self.square
        T, Q, TT, QQ, TQ = self.sums / self.weight
        part = 1 / (measured - 1) if measured > 1 else inf
        with np.errstate(all="ignore"):
            a, b, c = (
                T**2 - Z**2 * (TT - T**2) * part,
                T * Q - Z**2 * (TQ - T * Q) * part,
                Q**2 - Z**2 * (QQ - Q**2) * part,
            )
            root = np.sqrt(np.maximum(b**2 - a * c, 0))
            most, least = (b + root) / a, (b - root) / a  # of signal / trace
            low = np.where((a > 0) & (most > 0), 1 / most, 0.0)
            high = np.where((a > 0) & (least > 0), 1 / least, inf)
        return T, Q, low, high, measured

    def estimates(self):
        """One `NoiseEstimate` for each run, after one more measurement."""
        T, Q, low, high, measured = (each if np.ndim(each) == 0 else each.tolist() for each in self.step())
        measured = float(measured)
        rows = zip(T, Q, low, high, strict=True)
        out = self.margin
        return [NoiseEstimate(t / q, least / out, most * out, t, q, measured, out) for t, q, least, most in rows]


def first_growth(policy, noise_scale, *, decisions, observed, kind=Estimates, **arguments):
    """For each run the number of the first decision that grows the batch; None if none does.

    Args:
        policy: the policy.
        noise_scale: the true B_simple.
        decisions: how many at most.
        observed: the observation's other fields from clock and updates, given the estimate.
        kind: what estimates.
        **arguments: of `kind`.
    """
    source = kind(noise_scale, **arguments)
    states = [policy.init() for _ in range(source.runs)]
    found: list[int | None] = [None] * source.runs
    for number in range(decisions):
        estimates = source.estimates()
        for run in range(source.runs):
            if found[run] is None:
                seen = observed(number, source.batch_size, estimates[run])
                decision, states[run] = policy.decide(seen, states[run])
                if decision.batch_size > source.batch_size:
                    found[run] = number
        if all(each is not None for each in found):
            break
    return found
