import pytest
from hypothesis import given
from hypothesis import strategies as st

import adabatch as ab


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ({"to_lr": 0.5}, (0.5, 0.9, 640)),
        ({"to_lr": 0.5, "to_momentum": 0.98}, (0.5, 0.98, 3200)),
        ({"to_momentum": 0.95}, (0.1, 0.95, 256)),
        ({}, (0.1, 0.9, 128)),
    ],
)
def test_the_starts_of_the_paper(to, expected):
    assert ab.scale_up(lr=0.1, momentum=0.9, batch_size=128, **to) == expected


def test_the_momentum_series_on_imagenet():
    sizes = [
        ab.scale_up(lr=3.0, momentum=0.9, batch_size=8192, to_momentum=momentum).batch_size
        for momentum in (0.9, 0.95, 0.975)
    ]
    assert sizes == [8192, 16_384, 32_768]


@given(
    lr=st.floats(1e-4, 10),
    momentum=st.floats(0, 0.9),
    batch_size=st.integers(1, 5000),
    more=st.floats(1, 50),
    to_momentum=st.floats(0.9, 0.99),
    round_to=st.integers(1, 256),
)
def test_the_noise_scale_is_kept_whatever_is_rounded(lr, momentum, batch_size, more, to_momentum, round_to):
    start = ab.scale_up(
        lr=lr, momentum=momentum, batch_size=batch_size, to_lr=lr * more, to_momentum=to_momentum, round_to=round_to
    )
    before, after = lr / (batch_size * (1 - momentum)), start.lr / (start.batch_size * (1 - start.momentum))
    assert after == pytest.approx(before, rel=1e-12)
    assert start.batch_size % round_to == 0
    wanted = batch_size * more * (1 - momentum) / (1 - to_momentum)
    assert abs(start.batch_size - wanted) <= max(round_to / 2, round_to - wanted) + 1e-6 * wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "`momentum` must be less than 1, got 1.0; at 1 the velocity never decays"),
        ({"to_momentum": 1}, "`to_momentum` must be less than 1, got 1"),
        ({"to_momentum": 0.5}, "`to_momentum` must be at least 0.9, the value so far, got 0.5; this raises a start"),
        ({"to_lr": 0.05}, "`to_lr` must be at least 0.1, the value so far, got 0.05"),
        ({"lr": 0.0}, "`lr` must be greater than 0, got 0.0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        ab.scale_up(**{"lr": 0.1, "momentum": 0.9, "batch_size": 128, **settings})
