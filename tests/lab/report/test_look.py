import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch.lab.report import look

STANDARD = ("fixed-small", "fixed-large", "adaptive", "uncoupled")
# Machado, Oliveira and Fernandes (2009): what is seen without one kind of cones, in linear light.
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
CARD = {"light": "#ffffff", "dark": "#171b20"}


def linear(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def seen(colour, kind):
    """Lightness and the two colour axes (CIELAB) as someone with that colour blindness sees them."""
    rgb = [min(max(sum(a * b for a, b in zip(row, linear(colour), strict=True)), 0), 1) for row in BLINDNESS[kind]]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    x, y, z = (
        sum(a * b for a, b in zip(row, rgb, strict=True)) / full for row, full in zip(to_xyz, white, strict=True)
    )
    f = [value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def apart(one, other, kind="none"):
    return sum((a - b) ** 2 for a, b in zip(seen(one, kind), seen(other, kind), strict=True)) ** 0.5


def contrast(one, other):
    lights = sorted(sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear(c), strict=True)) for c in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def palette(theme):
    light = look.colours([f"mine-{place}" for place in range(10)]).values()
    return [colour if theme == "light" else look.ON_DARK[colour] for colour in light]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ten_own_arms_have_ten_colours_that_stand_out(theme):
    found = palette(theme)
    assert len(set(found)) == 10
    assert min(contrast(colour, CARD[theme]) for colour in found) >= 3
    assert min(itertools.starmap(apart, itertools.combinations(found, 2))) > 35


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", [kind for kind in BLINDNESS if kind != "none"])
def test_they_are_told_apart_with_every_common_colour_blindness(theme, kind):
    assert min(apart(a, b, kind) for a, b in itertools.combinations(palette(theme), 2)) > 16


def test_standard_arms_keep_their_colours():
    assert look.colours(STANDARD) == {name: look.COLOURS[name] for name in STANDARD}
    found = look.colours([*STANDARD, *"abcdef"])
    assert {name: found[name] for name in STANDARD} == look.colours(STANDARD)
    assert len(set(found.values())) == 10


def test_an_own_arm_never_takes_the_colour_of_a_standard_arm_beside_it():
    found = look.colours(["adaptive", *"abcdefghi"])
    assert len(set(found.values())) == 10


def test_every_colour_has_one_for_a_dark_ground():
    assert {*palette("light"), *look.ramp("abcdefghij").values()} == {*look.ON_DARK}
    assert len({look.ON_DARK[colour] for colour in palette("light")}) == 10


def test_arms_differ_in_grey():
    assert [look.dash(name, STANDARD) for name in STANDARD] == ["solid", "dot", "solid", "dash"]
    names = list("abcdefghijklmnopqrst")
    found = look.colours(names)
    ways = [(found[name], look.dash(name, names)) for name in names]
    assert len({look.dash(name, names) for name in names}) == 5
    assert len(set(ways)) == len(names), "an eleventh arm repeats a colour, but not with the same dash"
    assert len({look.symbol(place) for place in range(10)}) == 10


# Ticks.


@pytest.mark.parametrize(
    ("sizes", "most", "wanted"),
    [
        ([64, 16, 32, 16], 5, [16, 32, 64]),
        ([128, 200, 321], 5, [128, 200, 321]),
        (range(128, 5121, 7), 6, [128, 256, 512, 1024, 2048, 4096]),
        (range(100, 5121, 7), 4, [128, 512, 2048]),
        (range(9, 16), 6, [10, 12, 14]),
        (range(5, 12), 6, [5, 10]),
    ],
)
def test_ticks_at_batch_sizes(sizes, most, wanted):
    assert look.size_ticks(sizes, most) == wanted


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(5, 12))
def test_there_are_enough_ticks_and_not_too_many(sizes, most):
    found = look.size_ticks(sizes, most)
    assert min(2, len(set(sizes))) <= len(found) <= most
    assert found == sorted(set(found))
    assert min(sizes) <= found[0] <= found[-1] <= max(sizes)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.9, 1100, [1, 10, 100, 1000]),
        (1, 10, [1, 2, 5, 10]),
        (3.2, 4.9, [3.5, 4.0, 4.5]),
        (70, 150, [80, 100, 120, 140]),
        (20, 400, [20, 50, 100, 200]),
        (1e-6, 1e6, [1e-6, 1e-3, 1, 1e3, 1e6]),
        (0.1, 0.1, [0.1]),
    ],
)
def test_ticks_of_a_log_axis(low, high, wanted):
    assert look.log_ticks(low, high) == pytest.approx(wanted)


@given(st.floats(1e-8, 1e8), st.floats(1.05, 1e10))
def test_a_log_axis_has_two_ticks_at_least(low, factor):
    found = look.log_ticks(low, low * factor)
    assert 2 <= len(found) <= 5
    assert all(math.log10(low) <= math.log10(tick) <= math.log10(low * factor) for tick in found)


def test_even_ticks():
    assert look.even_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert look.even_ticks(1, 1, 5) == [1]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (20_118, "20.118k"), (2_000_000, "2M"), (1.5e9, "1.5G"), (250, "250"), (0.5, "0.5")]
)
def test_short_numbers(value, text):
    assert look.short(value) == text


@pytest.mark.parametrize(
    ("first", "worst", "low"),
    [
        (33.6, 96.3, 80),
        (33.6, 48.0, 30),
        (96.0, 99.0, 95),
        (10.0, 98.0, 80),
        (8.6, 8.6, 0),
        (40.0, 34.9, 35),
        (0, 34.9, 0),
    ],
)
def test_an_accuracy_axis_begins_at_a_round_value(first, worst, low):
    assert look.floor(first, worst) == low


def test_ten_lines_in_a_row_differ_in_colour():
    found = look.palette([f"line {place}" for place in range(23)])
    colours = list(found.values())
    assert all(len(set(colours[place : place + 10])) == 10 for place in range(14))
    assert all(colour in look.ON_DARK for colour in colours)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_values_in_an_order_get_colours_from_dark_to_light(count):
    colours = list(look.ramp([f"batch {place}" for place in range(count)]).values())
    assert len(set(colours)) == count
    for ground in (colours, [look.ON_DARK[colour] for colour in colours]):
        light = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in ground]
        assert light == sorted(light)
