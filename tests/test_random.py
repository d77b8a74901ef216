"""The mixing function of SplitMix64."""

import numpy as np

from adabatch._random import GOLDEN, split_mix


def test_it_gives_the_known_numbers_of_splitmix64():
    """The generator of seed 0 steps by the golden ratio and mixes."""
    states = np.arange(1, 4, dtype=np.uint64) * GOLDEN
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert split_mix(states).tolist() == known
    assert states.tolist() == (np.arange(1, 4, dtype=np.uint64) * GOLDEN).tolist()  # its argument stays
