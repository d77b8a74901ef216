import pytest

from adabatch import epochs, samples, tokens, updates
from adabatch.schedules import Schedule, steps


def test_text_pairs_and_mappings_say_the_same():
    text = steps("0:768 250B:1536", unit="tokens")
    assert text == steps(" 0:768,\n250B:1536, ", unit="tokens")
    assert text == steps({0: 768, 250 * 10**9: 1536}, unit="tokens")
    assert text == steps([(tokens(0), 768), (tokens(250 * 10**9), 1536)])
    assert text == Schedule.from_json(text.to_json())


def test_tokens_become_samples():
    plan = steps("0:768 250B:1536", unit="tokens").plan(dataset_size=None, tokens_per_sample=4096)
    assert plan.starts_samples == (0, -(-250 * 10**9 // 4096))
    with pytest.raises(ValueError, match="`tokens_per_sample` must be given to count 250,000,000,000 tokens, got None"):
        steps("0:768 250B:1536", unit="tokens").plan(dataset_size=None)


def test_smiths_updates_over_200_epochs_of_cifar():
    growing = steps({0: 128, epochs(60): 640, epochs(120): 3200, epochs(160): 16_000})
    assert growing.plan(dataset_size=50_000, epochs=200).updates == 29_000
    capped = steps({0: 128, epochs(60): 640, epochs(120): 3200, epochs(160): 5120})
    assert capped.plan(dataset_size=50_000, epochs=200).updates == 29_240
    hybrid = steps({0: 128, epochs(60): 640})
    assert hybrid.plan(dataset_size=50_000, epochs=200).updates == 34_520


def test_sizes_go_up_and_down():
    plan = steps("0:10 25:3 40:20").plan(dataset_size=100, epochs=1)
    assert [batch.clock for batch in plan] == [0, 10, 20, 30, 33, 36, 39, 42, 62, 82]


def test_thresholds_with_units():
    mixed = steps("0:8 9updates:12 3epochs:5")
    assert mixed == steps({0: 8, updates(9): 12, epochs(3): 5})
    assert mixed.plan(dataset_size=40, epochs=5).starts_samples == (0, 72, 120)


def test_thresholds_that_turn_out_not_to_increase():
    mixed = steps({0: 8, updates(9): 12, epochs(1): 5})
    message = r"`changes` must have increasing thresholds, got 1 epoch \(clock 40\) after 9 updates \(clock 72\)"
    with pytest.raises(ValueError, match=message):
        mixed.plan(dataset_size=40, epochs=5)
    with pytest.raises(ValueError, match=r"increasing thresholds, got 1 epoch .* after 40 samples"):
        steps({0: 8, 40: 12, epochs(1): 5}).plan(dataset_size=40, epochs=5)
    with pytest.raises(ValueError, match="increasing thresholds, got 50 samples after 100 samples"):
        steps("0:8 100:12 50:5")
    with pytest.raises(ValueError, match="increasing thresholds, got 100 samples after 100 samples"):
        steps("0:8 100:12 100:5")
    with pytest.raises(ValueError, match="increasing thresholds, got 0 epochs after 100 samples"):
        steps([(0, 8), (100, 12), (epochs(0), 5)])


@pytest.mark.parametrize(("changes", "found"), [("", "nothing"), ({}, "nothing"), ("5:8 9:12", "5 samples")])
def test_the_first_threshold_is_0(changes, found):
    with pytest.raises(ValueError, match=f"`changes` must begin at threshold 0, got {found}; write for example"):
        steps(changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:8 100", "`changes` must be thresholds and sizes such as '0:768 250B:1536', got '100'"),
        ("0:8 100:", "`changes` must be a number such as 768 or 250B, got ''"),
        ("0:8 100:1.5", "`changes` must have whole batch sizes, got '1.5'"),
        ("0:0", "`changes` must be at least 1, got 0"),
        ("0:8 :9", "`changes` must be a number and a unit"),
        ("0:8 3steps:9", "`changes` must be in epochs, samples, updates, tokens, got 'steps' in '3steps'"),
        ("0:8 0.5:9", "`count` of samples must be a whole number, got 0.5; use `epochs` for fractions"),
    ],
)
def test_text_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        steps(text)


def test_things_of_the_wrong_kind():
    with pytest.raises(TypeError, match="`changes` must be pairs of a threshold and a size, got 8"):
        steps([8])
    with pytest.raises(TypeError, match=r"`changes` must be a whole number, got 8.5; batch sizes count samples"):
        steps({0: 8.5})
    with pytest.raises(TypeError, match="`count` must be a number, got None"):
        steps({None: 8})
    with pytest.raises(ValueError, match="`unit` must be one of epochs, samples, updates, tokens, got 'steps'"):
        steps("0:8", unit="steps")


def test_it_says_what_it_is():
    assert steps({0: 8, epochs(1): 1000}).describe() == "8, 1,000 from 1 epoch"
    many = steps([(samples(k), k + 1) for k in range(9)]).describe()
    assert many == "1, 2 from 1 sample, 3 from 2 samples, 4 from 3 samples, 5 from 4 samples, ..., 9 from 8 samples"
