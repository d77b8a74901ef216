import itertools

import pytest

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
    """Lightness and the two axes of colour (CIELAB) as someone with that blindness sees them."""
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
    assert set(look.ON_DARK) == set(palette("light"))
    assert len(set(look.ON_DARK.values())) == 10


def test_arms_differ_in_grey():
    assert [look.dash(name, STANDARD) for name in STANDARD] == ["solid", "dot", "solid", "dash"]
    names = list("abcdefghijklmnopqrst")
    found = look.colours(names)
    ways = [(found[name], look.dash(name, names)) for name in names]
    assert len({look.dash(name, names) for name in names}) == 5
    assert len(set(ways)) == len(names), "an eleventh arm repeats a colour, but not with the same dash"
    assert len({look.symbol(place) for place in range(10)}) == 10
