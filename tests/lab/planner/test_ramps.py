import pytest

from adabatch import epochs, samples, tokens
from adabatch.lab.planner import RAMPS
from adabatch.lab.planner.ramps import nanochat, read_rampup, read_steps, small_gpt, write_rampup, write_steps
from adabatch.schedules import geometric, linear_ramp, steps


def plan_of(ramp):
    return ramp.schedule.plan(dataset_size=None, tokens_per_sample=ramp.tokens_per_sample)


def test_the_published_ramps():
    assert plan_of(RAMPS["deepseek-v2"]).batch_sizes[:: len(plan_of(RAMPS["deepseek-v2"]).batch_sizes) - 1] == (
        2304,
        9216,
    )
    assert plan_of(RAMPS["deepseek-v2"]).starts_samples[-1] * 4096 == pytest.approx(225e9, rel=1e-6)
    tokens_each = [size * 8192 for size in plan_of(RAMPS["minimax-01"]).batch_sizes]
    assert tokens_each == [2**24, 2**25, 2**26, 2**27]
    assert plan_of(RAMPS["small-gpt"]).batch_sizes == (8, 16, 24)
    for name, ramp in RAMPS.items():
        assert ramp.name == name
        assert ramp.source
        assert write_steps(ramp.schedule, tokens_per_sample=ramp.tokens_per_sample)


def test_the_small_gpt_ramp_at_any_length():
    ramp = small_gpt(3_000_000, tokens_per_sample=1000)
    assert plan_of(ramp).starts_samples == (0, 1000, 2000)
    assert ramp.lr_multipliers == pytest.approx((1, 2**0.6, 3**0.5), abs=0.01)
    assert small_gpt(100, sizes=(8, 9)).lr_multipliers == ()
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        small_gpt(0)


def test_the_nanochat_ramp_at_any_length():
    plan = plan_of(nanochat(100_000, batch_size=40, tokens_per_sample=100))
    assert plan.batch_sizes == (10, 20, 40)
    assert plan.starts_samples == (0, 30, 100)  # 3 % and 10 % of 1,000 sequences
    assert plan_of(RAMPS["nanochat"]).batch_sizes[-1] * 2048 == 524_288
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of 4, got 6; the ramp begins with a quarter"):
        nanochat(1000, batch_size=6)
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        nanochat(0)


@pytest.mark.parametrize("text", ["0:768 250B:1536 500B:3072 750B:6144", "0:8", "0:4 1500:8 2K:16 3M:32 1T:64"])
def test_megatrons_steps_are_read_and_written(text):
    assert write_steps(read_steps(text), tokens_per_sample=500) == text
    assert write_steps(read_steps(text, unit="samples")) == text
    assert read_steps(text, unit="samples") == steps(text)


def test_any_schedule_that_ends_is_written():
    assert write_steps(geometric(2, every=samples(1000), start=16, maximum=64)) == "0:16 1K:32 2K:64"
    with pytest.raises(ValueError, match="`epochs` must be given for a schedule that grows for ever"):
        write_steps(geometric(2, every=samples(1000), start=16))
    with pytest.raises(ValueError, match="`dataset_size` must be given to count 1 epoch"):
        write_steps(geometric(2, every=epochs(1), start=16, maximum=64))


@pytest.mark.parametrize("text", ["[256, 128, 50000000]", "256 128 50000000", (256, 128, 50_000_000)])
def test_nemos_ramp_is_read_and_written(text):
    ramp = read_rampup(text, batch_size=1024)
    assert write_rampup(ramp) == "[256, 128, 50000000]"
    plan = ramp.plan(dataset_size=None)
    assert plan.batch_sizes == (256, 384, 512, 640, 768, 896, 1024)
    assert plan.starts_samples[-1] == 50_000_000


@pytest.mark.parametrize("text", ["256 128", "a b c", "", "256 128 -5", "1.5 1 1"])
def test_a_ramp_that_is_none(text):
    with pytest.raises(ValueError, match="`text` must be first size, increment and samples"):
        read_rampup(text, batch_size=1024)


@pytest.mark.parametrize("text", [None, 256, 256.0])
def test_what_is_no_text_of_a_ramp(text):
    with pytest.raises(TypeError, match=f"`text` must be text or three numbers such as .*, got {text}"):
        read_rampup(text, batch_size=128)


def test_a_ramp_read_ends_with_a_size():
    with pytest.raises(TypeError, match="`batch_size` must be a whole number, got None"):
        read_rampup("[256, 128, 50000000]", batch_size=None)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (5, r"`sizes` must be batch sizes such as \(8, 16, 24\), got 5"),
        (None, r"`sizes` must be batch sizes such as \(8, 16, 24\), got None"),
        ("8,16", r"`sizes` must be a whole number, got '8'; write them as \(8, 16, 24\)"),
    ],
)
def test_the_small_gpt_ramp_has_a_size_for_each_share(sizes, message):
    with pytest.raises(TypeError, match=message):
        small_gpt(1000, sizes=sizes)


def test_ramps_that_the_text_cannot_hold():
    with pytest.raises(ValueError, match="`increment` must divide the way from 256 to 1000"):
        read_rampup("256 128 100", batch_size=1000)
    with pytest.raises(ValueError, match="`text` must start at most at the last size 1,024, got 2,048; a ramp grows"):
        read_rampup("2048 128 100", batch_size=1024)
    for ramp in (
        linear_ramp(64, over=tokens(10), start=8),
        linear_ramp(64, over=samples(10)),
        linear_ramp(2, over=samples(9), start=8),
    ):
        with pytest.raises(ValueError, match="`ramp` must grow from a start of its own over samples"):
            write_rampup(ramp)
