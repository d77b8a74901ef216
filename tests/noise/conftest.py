"""Taps that a test did not close are closed, and torch is as it was for the tests that follow."""

import gc

import pytest

from adabatch.noise.listening import _TAPS


@pytest.fixture(autouse=True)
def closed():
    yield
    gc.collect()  # loops that were left in the middle
    for tap in [found for held in list(_TAPS.values()) if (found := held()) is not None]:
        if hasattr(tap, "close"):
            tap.close()
