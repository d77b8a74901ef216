"""Numbers that look random and are functions of what they are made of alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64


def split_mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scrambles the bits of each word.

    Source:
        Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: the mixing of SplitMix64.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
