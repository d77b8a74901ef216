import pytest

from adabatch import epochs, samples, updates
from adabatch.schedules import clamp, constant, geometric, then


@pytest.mark.parametrize(
    ("schedule", "batch_size", "expected"),
    [
        (constant(), 128, 39_000),
        (geometric(2, every=epochs(20), maximum=2048), 128, 15_080),
        (constant(), 2048, 2_400),
        (constant(), 256, 19_500),
        (geometric(2, every=epochs(20), maximum=4096), 256, 7_520),
    ],
)
def test_the_papers_updates_over_100_epochs_of_cifar(schedule, batch_size, expected):
    plan = schedule.plan(dataset_size=50_000, epochs=100, batch_size=batch_size, drop_last=True)
    assert plan.updates == expected


def test_the_papers_sizes():
    plan = geometric(2, every=epochs(20)).plan(dataset_size=50_000, epochs=100, batch_size=128)
    assert plan.batch_sizes == (128, 256, 512, 1024, 2048)
    assert plan.starts_samples == tuple(20 * 50_000 * k for k in range(5))


def test_sizes_are_floors_of_exact_products():
    # 1.1 is 11/10: 100 * 1.1**2 is 121, which neither binary floats nor floors of floors give for every k.
    plan = geometric(1.1, every=samples(1000), start=1000).plan(dataset_size=10_000, epochs=1)
    assert plan.batch_sizes == (1000, 1100, 1210, 1331, 1464, 1610, 1771, 1948, 2143, 2357)
    # 1.15 in binary is a little less, which would give 114.
    plan = geometric(1.15, every=samples(300), start=100).plan(dataset_size=900, epochs=1)
    assert plan.batch_sizes == (100, 115, 132)
    # Rounding down every time would stay at 3 for ever.
    plan = geometric(1.3, every=samples(100), start=3).plan(dataset_size=700, epochs=1)
    assert plan.batch_sizes == (3, 5, 6, 8, 11, 14)


def test_the_last_size_is_the_maximum():
    plan = geometric(2, every=updates(2), start=3, maximum=20).plan(dataset_size=None)
    assert plan.batch_sizes == (3, 6, 12, 20)
    assert plan.starts_samples == (0, 6, 18, 42)


def test_updates_are_those_delivered():
    # Two epochs of 10 in fours: 4 4 2 | 4 4 2; after the fourth update the batch is 8.
    plan = geometric(2, every=updates(4), maximum=8).plan(dataset_size=10, epochs=2, batch_size=4)
    assert [batch.size for batch in plan] == [4, 4, 2, 4, 6]
    dropped = geometric(2, every=updates(4), maximum=8).plan(dataset_size=10, epochs=3, batch_size=4, drop_last=True)
    assert [batch.size for batch in dropped] == [4, 4, 4, 4, 8]


def test_the_clock_is_the_position_in_the_data():
    # Each epoch of 10 trains on 8; the change comes after 20 samples of data, not of training.
    plan = geometric(2, every=samples(20), maximum=8).plan(dataset_size=10, epochs=3, batch_size=4, drop_last=True)
    assert plan.starts_samples == (0, 20)
    assert [batch.clock for batch in plan] == [0, 4, 10, 14, 20]


def test_a_growth_that_never_ends_needs_an_end():
    growth = geometric(2, every=epochs(1))
    message = (
        r"`epochs` must be given for a schedule that grows for ever, got None; or bound it with `maximum` or `clamp"
    )
    for dataset_size in (100, None):
        with pytest.raises(ValueError, match=message):
            growth.plan(dataset_size=dataset_size, batch_size=4)
    assert not growth.finite
    assert clamp(growth, maximum=64).plan(dataset_size=100, batch_size=4).sizes == (4, 8, 16, 32, 64)


def test_growth_beyond_the_data_set():
    growth = geometric(2, every=epochs(2))
    message = (
        r"`batch_size` must be at most the 100 samples of the data set, got 128 from epoch 10 \(clock 1,000\) on; "
        r"bound the schedule with `maximum` or `clamp\(schedule, maximum=100\)`"
    )
    assert growth.plan(dataset_size=100, epochs=10, batch_size=4).sizes == (4, 8, 16, 32, 64)
    with pytest.raises(ValueError, match=message):
        growth.plan(dataset_size=100, epochs=11, batch_size=4)


@pytest.mark.parametrize("factor", [1, 0.5, 0, -2])
def test_a_factor_of_1_or_less(factor):
    with pytest.raises(
        ValueError,
        match=f"`factor` must be greater than 1, got {factor}; 2 doubles the batch; to shrink it use `steps`",
    ):
        geometric(factor, every=epochs(1))


def test_bad_factors_and_intervals():
    with pytest.raises(TypeError, match="`factor` must be a number, got '2'"):
        geometric("2", every=epochs(1))
    with pytest.raises(ValueError, match="`factor` must be finite, got inf"):
        geometric(float("inf"), every=epochs(1))
    with pytest.raises(
        ValueError, match=r"`every` must be longer than 0, got 0 epochs; write for example epochs\(20\)"
    ):
        geometric(2, every=epochs(0))
    with pytest.raises(TypeError, match=r"`every` must be a length such as epochs\(20\) or updates\(500\), got 20"):
        geometric(2, every=20)


def test_a_maximum_below_the_start():
    message = (
        "`maximum` must be at least the batch size that growth starts from, 128, got 64; raise it or start smaller"
    )
    with pytest.raises(ValueError, match=message):
        geometric(2, every=epochs(1), start=128, maximum=64)
    with pytest.raises(ValueError, match=message):
        geometric(2, every=epochs(1), maximum=64).plan(dataset_size=1000, epochs=1, batch_size=128)
    with pytest.raises(ValueError, match="`maximum` must be at least 1, got 0"):
        geometric(2, every=epochs(1), maximum=0)


def test_a_start_that_is_not_the_loaders():
    with pytest.raises(ValueError, match="`batch_size` must be 128, the start of the schedule, got 64; change either"):
        geometric(2, every=epochs(1), start=128).plan(dataset_size=1000, epochs=1, batch_size=64)
    with pytest.raises(
        ValueError, match="`batch_size` must be given for a schedule without a start of its own, got None"
    ):
        geometric(2, every=epochs(1)).plan(dataset_size=1000, epochs=1)


def test_equal_factors_are_equal_schedules():
    assert geometric(2.0, every=epochs(1)) == geometric(2, every=epochs(1.0))
    assert geometric(2.0, every=epochs(1)).fingerprint() == geometric(2, every=epochs(1.0)).fingerprint()


def test_it_says_what_it_is():
    assert geometric(1.5, every=epochs(20), maximum=2048).describe() == (
        "x1.5 every 20 epochs, from the loader's batch size, at most 2,048"
    )
    assert geometric(2, every=updates(1), start=32).describe() == "x2 every 1 update, from 32"


def test_growth_beyond_any_batch_says_so_instead_of_computing_for_ever():
    growth = clamp(then(geometric(2, every=samples(1), start=1), constant(), after=epochs(1)), maximum=8)
    message = (
        "`maximum` must be given for growth that passes 2\\*\\*63 samples, as x2 every 1 sample does after 64 intervals"
    )
    with pytest.raises(ValueError, match=message):
        growth.plan(dataset_size=100, epochs=2)
    assert growth.plan(dataset_size=60, epochs=2).batch_sizes == (1, 2, 4, 8)
