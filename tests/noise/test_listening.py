"""Which tap listens to which loader."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from adabatch.noise.listening import check_free, put_on, take_off, tap_on


class Some(Any):
    """Stands for a tap, or a loader."""


def test_one_tap_for_a_loader():
    loader, other, tap = Some(), Some(), Some()
    assert tap_on(loader) is None
    put_on(loader, tap)
    assert tap_on(loader) is tap
    assert tap_on(other) is None
    with pytest.raises(ValueError, match=r"`loader` must not have two taps; call `close\(\)` on the other first"):
        put_on(loader, Some())
    with pytest.raises(ValueError, match=r"`model` must not have two taps; call `close\(\)` on the other first"):
        check_free(loader, name="model")
    check_free(other, name="model")
    take_off(loader, Some())
    assert tap_on(loader) is tap
    take_off(loader, tap)
    assert tap_on(loader) is None


def test_a_tap_that_is_gone_holds_nothing():
    loader = Some()
    put_on(loader, Some())
    gc.collect()
    assert tap_on(loader) is None
    put_on(loader, again := Some())
    assert tap_on(loader) is again


def test_a_tap_goes_with_its_training():
    import adabatch as ab
    from adabatch.noise import listening

    def train():
        loader, model = ab.DataLoader(torch.zeros(8, 2), batch_size=4), torch.nn.Linear(2, 1)
        ab.noise.tap(model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
        return loader

    gc.collect()
    before = len(listening._TAPS)
    loader = train()
    gc.collect()
    assert tap_on(loader) is None, "its optimizer is gone"
    del loader
    gc.collect()
    assert len(listening._TAPS) == before
