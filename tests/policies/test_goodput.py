from __future__ import annotations

import json
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies.checks import FIRST, follow, known, seen

from adabatch import policies

CURVE = {32: 1000.0, 64: 1900.0, 128: 3000.0, 256: 3200.0}


@given(
    st.dictionaries(st.sampled_from([2**power for power in range(4, 12)]), st.floats(1, 1e4), min_size=1),
    st.floats(0, 1e5),
    st.sampled_from([32, 64, 512]),
    st.floats(0, 1),
)
def test_it_is_the_best_of_all_steps(curve, noise_scale, size, gain):
    policy = policies.goodput(curve, gain=gain, maximum=1024)

    def goodput(B):
        return policy.rate(B) * (noise_scale + 32) / (noise_scale + B)

    best = max((2**power for power in range(11)), key=lambda B: (goodput(B), -B))
    found = policy.wanted(noise_scale, seen(None, batch_size=size))
    if goodput(best) >= (1 + gain) * goodput(size) * (1 + 1e-9):
        assert goodput(found) == pytest.approx(goodput(best))
    elif goodput(best) < (1 + gain) * goodput(size) * (1 - 1e-9):
        assert found == size


def test_without_noise_the_batch_stays_and_without_signal_throughput_decides():
    policy = policies.goodput(CURVE, maximum=256)
    assert policy.wanted(0, seen(None)) == 32
    assert policy.wanted(inf, seen(None)) == 256
    assert policies.goodput({32: 1000, 256: 1050}, maximum=256).wanted(inf, seen(None)) == 32, "a gain of 5 % is none"
    assert policies.goodput({32: 1000, 256: 1050}, gain=0.04, maximum=256).wanted(inf, seen(None)) == 256


def test_it_grows_as_far_as_a_tenth_is_gained():
    """At a noise scale of 100: 1000 / 132, 1900 / 164, 3000 / 228, 3200 / 356."""
    sizes = [each.batch_size for each in follow(policies.goodput(CURVE, maximum=256), [
        known(100.0, number=number) for number in range(1000)
    ])]  # fmt: skip
    assert sizes[-1] == 128


@pytest.mark.parametrize("factor", [1.1, 1.5, 2, 2.5, 3])
def test_it_grows_to_the_maximum_by_any_factor(factor):
    """Where throughput rises with the size, the largest is best, and each step on the way is one of the policy's."""
    policy = policies.goodput({32: 1, 1000: 32}, maximum=1000, factor=factor, gain=0)
    found = follow(policy, [known(1e9, number=number) for number in range(200 * len(policy.sizes(FIRST)))])
    assert found[-1].batch_size == 1000
    for best in policy.sizes(FIRST)[1:]:
        curve = policies.goodput({32: 1, best: best / 32, best + 1: 1e-3}, maximum=1000, factor=factor, gain=0)
        size = policy.sizes(FIRST)[policy.sizes(FIRST).index(best) - 1]
        assert curve.wanted(inf, seen(None, batch_size=size)) == best


def test_between_measured_sizes_it_is_interpolated_and_outside_nothing_is_promised():
    policy = policies.goodput({32: 100, 128: 400, 512: 400}, maximum=1024)
    assert [policy.rate(size) for size in (8, 16, 32, 128, 1024)] == pytest.approx([25, 50, 100, 400, 400])
    assert policy.rate(64) == pytest.approx(200)
    assert policy.rate(256) == pytest.approx(400)


def test_the_curve_of_a_probe(tmp_path):
    content = {"curve": [{"batch_size": size, "samples_per_second": {"median": rate}} for size, rate in CURVE.items()]}
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(content))
    plain = policies.goodput(CURVE, maximum=256)
    for given_curve in (content, path, str(path), list(reversed(CURVE.items())), plain.throughput):
        assert policies.goodput(given_curve, maximum=256) == plain


def test_the_curve_that_the_command_writes():
    from adabatch.lab.study import probe

    rates = {size: [rate] * 6 for size, rate in CURVE.items()}
    assert policies.goodput(probe.conclusion(rates), maximum=256) == policies.goodput(CURVE, maximum=256)


@pytest.mark.parametrize(
    ("curve", "error", "message"),
    [
        ({}, TypeError, "`throughput` must be samples per second by batch size, got dict; give {batch size:"),
        (None, TypeError, "`throughput` must be samples per second by batch size, got NoneType"),
        ([1, 2], TypeError, "must be samples per second by batch size, got list"),
        ({32: 0}, ValueError, "`throughput` must be greater than 0, got 0"),
        ({0: 1}, ValueError, "`throughput` must be at least 1, got 0"),
        ({32.5: 1}, TypeError, "`throughput` must be a whole number"),
        ([(32, 1), (32, 2)], ValueError, "`throughput` must name each batch size once, got 2 pairs"),
    ],
)
def test_a_curve_that_is_none(curve, error, message):
    with pytest.raises(error, match=message):
        policies.goodput(curve, maximum=64)


def test_a_gain_out_of_range():
    with pytest.raises(ValueError, match=r"`gain` must be at least 0, got -1; 0.1 switches where 10 % are gained"):
        policies.goodput(CURVE, gain=-1, maximum=64)
