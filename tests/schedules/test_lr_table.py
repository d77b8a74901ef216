import pytest

from adabatch import epochs, updates
from adabatch.schedules._lr_table import check_peak, checked_lr, read_table


def test_pairs_of_a_mapping_and_of_pairs():
    assert read_table({0: 1, epochs(2): 0.5}) == [(0, 1.0), (epochs(2), 0.5)]
    assert read_table(iter([(0, 1), (9, 0)])) == [(0, 1.0), (9, 0.0)]


@pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        ({5: 0.1}, ValueError, "`lr` must begin at threshold 0, got 5"),
        ({}, ValueError, "`lr` must begin at threshold 0, got nothing"),
        ([(0, 1), (9, 2), (9, 1)], ValueError, "`lr` must have increasing thresholds, got 9 after 9"),
        ({0: 1, updates(5): 1}, ValueError, "`lr` must have thresholds in epochs, samples or tokens, got 5 updates"),
        ({0: -1}, ValueError, "`lr` must be at least 0, got -1; found at 0"),
        ({0: 1, -4: 1}, TypeError, "`lr` must have whole numbers of samples or Durations as thresholds, got -4"),
        ([3], TypeError, "`lr` must be pairs of a threshold and an LR, got 3"),
        ("cosine", TypeError, "`lr` must be a function of samples or a table such as"),
    ],
)
def test_bad_tables(lr, error, message):
    with pytest.raises(error, match=message):
        read_table(lr)


def test_bad_lrs():
    with pytest.raises(ValueError, match="`lr` must be finite, got nan; found at 3 samples"):
        checked_lr(float("nan"), "3 samples")
    with pytest.raises(ValueError, match="`lr` must be above 0 somewhere, got 0 throughout"):
        check_peak(0.0)
