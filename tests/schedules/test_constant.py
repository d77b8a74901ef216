import numpy as np
import pytest

from adabatch import epochs
from adabatch.schedules import constant, geometric, steps


def test_one_size_from_start_to_end():
    plan = constant().plan(dataset_size=1000, epochs=3, batch_size=64)
    assert (plan.starts_samples, plan.batch_sizes) == ((0,), (64,))
    assert (plan.sizes, plan.tails, plan.updates) == ((64,), (40,), 48)


def test_a_size_of_its_own_needs_no_other():
    assert constant(64).plan(dataset_size=1000).batch_sizes == (64,)


def test_a_size_is_kept_as_pythons_int_and_the_coupling_is_linear_as_that_of_growth():
    assert type(constant(np.int64(64)).batch_size) is int
    assert constant(64).coupling == geometric(2, epochs(1)).coupling == steps("0:4 8:6").coupling == "linear"


def test_bad_sizes():
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        constant(0)
    with pytest.raises(TypeError, match=r"`batch_size` must be a whole number, got 2.5"):
        constant(2.5)


def test_it_says_what_it_is():
    assert constant().describe() == "constant at the loader's batch size"
    assert constant(4096).describe() == "constant at 4,096"
