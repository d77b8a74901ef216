from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch import _random
from adabatch._random import GOLDEN, split_mix


def drawn(*generators):
    numbers = [torch.rand(3, generator=generator).tolist() for generator in generators]
    return random.random(), np.random.normal(), torch.rand(2).tolist(), numbers


def test_every_generator_is_as_before():
    own = torch.Generator().manual_seed(3)
    state = _random.RandomState(generators=[own, torch.default_generator, own])
    first = drawn(own)
    for _ in range(2):
        state.restore()
        assert drawn(own) == first


def test_so_it_is_after_an_error():
    own = torch.Generator().manual_seed(4)
    before = _random.RandomState(generators=[own])
    expected = drawn(own)
    before.restore()
    with pytest.raises(ZeroDivisionError), _random.kept(generators=[own], devices=[torch.device("cpu")]):
        assert drawn(own)[0] / 0
    assert drawn(own) == expected


def test_the_state_of_a_device_is_of_its_own(monkeypatch):
    """On Apple's GPU, of which there is one, it takes no device; the CPU's is torch's global one."""
    calls = []

    class Module:
        def get_rng_state(self, *device):
            calls.append(device)
            return torch.zeros(1)

        def set_rng_state(self, state, *device):
            calls.append((state.item(), *device))

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module())
    for device in (torch.device("mps"), torch.device("cuda", 1)):
        _random.set_state(device, _random.state_of(device) + 5)
    assert calls == [(), (5.0,), (torch.device("cuda", 1),), (5.0, torch.device("cuda", 1))]
    assert torch.equal(_random.state_of(torch.device("cpu")), torch.get_rng_state())


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 63))
def test_int64_hold_the_same_bits(words, bits):
    unsigned = np.array(words, dtype=np.uint64)
    signed = torch.tensor([_random.as_int64(word) for word in words])
    assert np.array_equal(signed.numpy().view(np.uint64), unsigned)
    assert np.array_equal(_random.split_mix_int64(signed).numpy().view(np.uint64), split_mix(unsigned))
    assert np.array_equal(_random.shifted(signed, bits).numpy().view(np.uint64), unsigned >> np.uint64(bits))


def test_it_gives_the_known_numbers_of_splitmix64():
    """The generator of seed 0 steps by the golden ratio and mixes."""
    states = np.arange(1, 4, dtype=np.uint64) * GOLDEN
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert split_mix(states).tolist() == known
    assert states.tolist() == (np.arange(1, 4, dtype=np.uint64) * GOLDEN).tolist()  # its argument stays
