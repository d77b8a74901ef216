from __future__ import annotations

import pytest
from tests.policies.checks import follow, known, seen

from adabatch import policies


def test_the_batch_is_that_multiple_of_the_noise_scale():
    """It stays between the multiple and half of it, after steps of 2."""
    for c in (0.5, 1.0, 3.0):
        policy = policies.noise_scale(c, maximum=4096)
        for noise_scale in (10.0, 100.0, 1000.0):
            last = follow(policy, [known(noise_scale, number=number) for number in range(2000)])[-1].batch_size
            assert last == max(32, 2 ** (int(c * noise_scale / 1.01).bit_length() - 1))


def test_a_batch_that_has_just_grown_stays():
    """Where it may shrink, too: between growth and shrinking lies a step."""
    policy = policies.noise_scale(maximum=4096, shrinks=True)
    sizes = [each.batch_size for each in follow(policy, [known(130.0, number=number) for number in range(3000)])]
    assert sizes[-1] == 128
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("c", [0, -1, float("inf"), float("nan")])
def test_a_multiple_out_of_range(c):
    with pytest.raises(ValueError, match=r"`c` must be .*; 1 is the noise scale itself"):
        policies.noise_scale(c, maximum=64)


def test_what_it_asks_for():
    assert policies.noise_scale(0.25, maximum=64).wanted(100, seen(None)) == 25
