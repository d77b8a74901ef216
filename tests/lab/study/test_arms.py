import json
import re
from dataclasses import replace

import pytest
from tests.lab.study.checks import config

from adabatch import schedules
from adabatch.lab.study.arms import STANDARD, chosen_arms, largest_batch, standard_arms
from adabatch.lab.training import RunConfig

N = 1437


def chosen(*texts, **changes):
    return {arm.name: arm.config for arm in chosen_arms(texts, config(**changes), dataset_size=N)}


def test_the_four_arms_differ_only_where_they_should():
    base = config(batch_size=16, max_batch_size=64, epochs=3, lr=0.01)
    arms = {arm.name: arm.config for arm in standard_arms(base, dataset_size=N)}
    assert tuple(arms) == STANDARD
    assert arms["adaptive"] == base
    assert arms["fixed-small"] == replace(base, growth=None)
    assert arms["uncoupled"] == replace(base, coupling="none")
    assert arms["fixed-large"] == replace(base, growth=None, batch_size=64, lr=0.04)
    assert {arm.lr_schedule for arm in arms.values()} == {base.lr_schedule}


def test_the_large_batch_is_the_one_that_growth_comes_to():
    """Two epochs double once, whatever the maximum allows."""
    base = config(batch_size=16, max_batch_size=256, epochs=2, lr=0.01)
    assert largest_batch(base, dataset_size=N) == 32
    assert chosen(batch_size=16, max_batch_size=256, epochs=2, lr=0.01)["fixed-large"].lr == pytest.approx(0.02)


def test_the_large_batch_is_scaled_by_the_coupling():
    arms = chosen(batch_size=16, max_batch_size=64, epochs=3, lr=0.01, coupling="sqrt", optimizer="adam")
    assert arms["fixed-large"].lr == pytest.approx(0.02)


def test_all_that_the_coupling_says_of_the_large_batch_holds_for_it():
    large = chosen(batch_size=16, max_batch_size=64, epochs=3, lr=0.01, momentum=0.8, coupling="constant_noise")
    assert large["fixed-large"].lr == pytest.approx(0.01)
    assert large["fixed-large"].momentum == pytest.approx(0.95)
    adam = {"optimizer": "adamw", "weight_decay": 0.1, "coupling": "adam_sde(weight_decay=True)"}
    large = chosen(batch_size=16, max_batch_size=64, epochs=3, lr=0.01, **adam)
    assert (large["fixed-large"].lr, large["fixed-large"].weight_decay) == pytest.approx((0.02, 0.2))


def test_arms_by_text():
    arms = chosen("adaptive", "fast: batch-size=32 growth=4 every='3 epochs' coupling=power(0.5) max-batch-size=none")
    assert list(arms) == ["fixed-small", "adaptive", "fast"]
    assert arms["adaptive"] == config()
    assert arms["fast"] == config(
        growth=4.0, batch_size=32, every="3 epochs", coupling="power(0.5)", max_batch_size=None
    )  # the rest is as in fixed-small


def test_an_arm_does_not_grow_unless_it_says_so():
    assert chosen("big: batch-size=96 lr=0.02")["big"] == config(growth=None, batch_size=96, lr=0.02)


def test_fixed_small_can_be_another():
    arms = chosen("adaptive", "fixed-small: lr=0.5")
    assert list(arms) == ["adaptive", "fixed-small"]
    assert arms["fixed-small"].lr == 0.5


EVERY_KEY = {
    "model=mlp": "mlp", "batch-size=8": 8, "growth=3": 3.0, "every=2": "2", "max-batch-size=64": 64,
    "drop-last=true": True, "coupling=power(0.75)": "power(0.75)", "lr-schedule=step:0.5:1": "step:0.5:1",
    "lr=0.1": 0.1, "momentum=0.5": 0.5, "weight-decay=0.001": 0.001, "optimizer=nesterov": "nesterov", "epochs=4": 4,
    "micro-batch-size=4": 4, "ghost-batch-size=2": 2, "sync-batch-norm=true": True,
    "evaluate-every='2 epochs'": "2 epochs", "save-every='5 min'": "5 min", "precision=bf16": "bf16",
    "channels-last=false": False, "compile=true": True, "cuda-graphs=false": False, "workers=0": 0, "fsdp=false": False,
    "compress=bf16": "bf16", "world-sizes='0:1 64:4'": "0:1 64:4", "decay-biases=false": False,
    "label-smoothing=0.1": 0.1, "zero-init=false": False, "last-batch-norm=false": False,
}  # fmt: skip


def test_every_setting_that_may_differ_is_a_key():
    found = chosen(f"a: {' '.join(EVERY_KEY)}")["a"].to_json()
    read = {text.partition("=")[0].replace("-", "_"): value for text, value in EVERY_KEY.items()}
    assert {name: found[name] for name in read} == read
    common = {"task", "seed", "device", "threads", "data"}
    assert {*read, "rule", "growth_file", "policy", "transition"} == set(found) - common


def test_an_arm_that_grows_by_a_rule():
    found = chosen("a: rule=seesaw optimizer=adam lr-schedule=cosine", growth=2.0)["a"]
    assert (found.growth, found.rule, found.coupling, found.lr) == (None, "seesaw", "sqrt", 0.002)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fast"], "`arm` must be one of fixed-small, fixed-large, adaptive, uncoupled or 'name: key=value ...'"),
        (["a/b: lr=1"], "`arm` must have a name of letters, digits, '.', '_' and '-', got 'a/b'"),
        ([": lr=1"], "`arm` must have a name of letters"),
        (["a:"], "`arm` a must set something, got nothing after the colon; for example"),
        (["a: lr"], "`arm` a must be made of key=value, got 'lr'"),
        (["a: lr="], "`arm` a must be made of key=value, got 'lr='"),
        (["a: rate=1"], "`arm` a must have keys among model, batch-size, .*, got 'rate'; for example"),
        (["a: lr=fast"], "`arm` a must have a number as lr, got 'fast'"),
        (["a: batch-size=1.5"], "`arm` a must have a whole number as batch-size, got '1.5'"),
        (["a: threads=half"], "`arm` a must have keys among model, batch-size, .*, got 'threads'; for example"),
        (["a: workers=half"], "`arm` a must have a whole number or none as workers, got 'half'"),
        (["a: drop-last=yes"], "`arm` a must have true or false as drop-last, got 'yes'"),
        (["a: growth=2 rule=smith"], "`arm` a: `rule` must come without `growth`, got 'smith' and 2"),
        (["a: lr=1 lr=2"], "`arm` a must set each key once, got lr twice"),
        (["a: every='2 epochs"], "`arm` a must have closed quotes"),
        (["a: lr=1", "a: lr=2"], "`arm` names must differ, got 'a' twice"),
        (["a: growth=1"], "`growth` must be greater than 1, got 1.0"),
        (["a: coupling=cubic"], "`coupling` must be one of"),
        (
            ["a: every=7 batch-size=32 coupling=sqrt"],
            "`arm` a must set growth where it sets every, coupling, got no gr",
        ),
        (["a: max-batch-size=96 growth=none"], "`arm` a must set growth where it sets max-batch-size, got no growth; "),
    ],
)
def test_malformed_arms(texts, message):
    with pytest.raises(ValueError, match=message):
        chosen_arms(texts, config(), dataset_size=N)


def test_arms_that_would_be_the_same():
    with pytest.raises(ValueError, match="`growth` must be given for the adaptive arm, got None"):
        standard_arms(config(growth=None), dataset_size=N)
    with pytest.raises(ValueError, match="`coupling` must not be none, which is the arm uncoupled already"):
        standard_arms(config(coupling="none"), dataset_size=N)


def test_arms_of_growth_by_a_rule():
    adaptive = RunConfig.for_task(
        "digits", rule="smith", batch_size=8, max_batch_size=32, epochs=4, lr_schedule="milestones:0.5:1,2"
    )
    arms = {arm.name: arm.config for arm in standard_arms(adaptive, dataset_size=1437)}
    assert {name: config.plan(1437).sizes for name, config in arms.items()} == {
        "fixed-small": (8,),
        "fixed-large": (32,),
        "adaptive": (8, 16, 32),
        "uncoupled": (8, 16, 32),
    }
    assert arms["fixed-large"].lr == pytest.approx(4 * adaptive.lr)
    assert arms["uncoupled"].coupling == "none"
    assert {config.rule for config in arms.values()} == {None, "smith"}
    (small, other) = chosen_arms(["big: batch-size=64"], adaptive, dataset_size=1437)
    assert (small.config.grows, other.config.grows) == (False, False)


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"max_batch_size": 16}, {"growth": 1.01}])
def test_growth_that_comes_to_nothing_is_no_comparison(changes):
    with pytest.raises(ValueError, match=r"`growth` must come to a batch above 16 within . epochs"):
        chosen(**{"batch_size": 16, "max_batch_size": 64, "epochs": 3} | changes)


def test_a_rule_under_an_lr_that_does_not_fall_is_no_comparison():
    with pytest.raises(ValueError, match=r"`rule` must come to a batch above 16 .*; let it follow an LR that falls or"):
        chosen(batch_size=16, max_batch_size=64, epochs=3, growth=None, rule="smith", lr_schedule="constant")


def test_an_arm_with_another_optimizer_has_the_tasks_learning_rate_for_it():
    texts = [
        "a: optimizer=adamw",
        "b: optimizer=adam lr=0.3",
        "c: optimizer=nesterov",
        "d: growth=2 optimizer=adam coupling=sqrt",
    ]
    arms = chosen(*texts, lr=0.05)
    assert {name: arms[name].lr for name in "abcd"} == {"a": 0.002, "b": 0.3, "c": 0.05, "d": 0.002}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a schedule into `schedule.json` of the working folder."""
    monkeypatch.chdir(tmp_path)
    return lambda schedule: (tmp_path / "schedule.json").write_text(json.dumps(schedule.to_json()))


def test_an_arm_that_grows_as_a_file_says(file):
    file(schedules.steps("0:16 1437:32"))
    found = chosen("a: growth-file=schedule.json lr=0.1", every="3 epochs", coupling="power(0.5)")["a"]
    assert (found.growth, found.batch_size, found.coupling, found.lr) == (None, 16, "power(0.5)", 0.1)
    assert found.plan(N).sizes == (16, 32)
    assert chosen("a: growth-file=none batch-size=32")["a"] == config(growth=None, batch_size=32)
    for text, message in {
        "a: growth-file=schedule.json every=2": "`arm` a: `every` must come without `growth_file`, got both",
        "a: growth-file=schedule.json max-batch-size=256": "`arm` a: `max_batch_size` must come without `growth_file`",
        "a: growth-file=schedule.json growth=2": "`arm` a: `growth` must come without `growth_file`, got both",
        "a: growth-file=schedule.json batch-size=32": "`arm` a: `growth_file` must be for `batch_size` = 32, got one f",
        "a: growth-file=other.json": "`arm` a: `growth_file` must be a file, got 'other.json', which is not there",
    }.items():
        with pytest.raises(ValueError, match=message):
            chosen(text)


def test_the_standard_arms_of_a_file(file):
    file(schedules.steps("0:16 1437:64 2874:32"))
    adaptive = RunConfig.for_task("digits", growth_file="schedule.json", epochs=4)
    arms = {arm.name: arm.config for arm in standard_arms(adaptive, dataset_size=N)}
    assert arms["adaptive"] == adaptive
    assert arms["fixed-small"] == replace(adaptive, growth_file=None)
    assert arms["fixed-large"] == replace(adaptive, growth_file=None, batch_size=64, lr=4 * adaptive.lr)
    assert arms["uncoupled"] == replace(adaptive, coupling="none")
    with pytest.raises(
        ValueError, match=r"`coupling` must not be none, .*; for example linear, or train the schedule as"
    ):
        standard_arms(replace(adaptive, coupling="none"), dataset_size=N)
    file(schedules.constant(16))
    with pytest.raises(
        ValueError, match=r"`growth_file` must come to a batch above 16 .*; let it hold a schedule that "
    ):
        standard_arms(RunConfig.for_task("digits", growth_file="schedule.json"), dataset_size=N)


def test_an_arm_with_a_policy():
    arms = chosen(
        "a: policy=noise-scale:2,factor=4 max-batch-size=128", "b: policy='goodput:16:3e3 32:5500'", growth=2.0
    )
    adaptive = config(growth=2.0)
    assert arms["a"] == replace(
        adaptive.constant(), policy="noise-scale:2,factor=4", max_batch_size=128, every="2 epochs"
    )
    assert arms["b"].policy == "goodput:16:3000 32:5500"
    assert largest_batch(arms["a"], dataset_size=N) == 128
    for text, message in {
        "a: policy=nois": "`arm` a: `policy` must be one of branch, cabs, ",
        "a: policy=cabs": "`arm` a: `policy` 'cabs' was derived for SGD without momentum, got a momentum of 0.9",
        "a: policy=noise-scale every=2": "`arm` a: `every` must come without `policy`, got both; the policy decides",
        "a: policy=noise-scale growth=2": "`arm` a: `growth` must come without `policy`, got both; the policy decides",
        "a: policy=noise-scale max-batch-size=8": "`arm` a: `max_batch_size` must be at least `batch_size` = 64, got 8",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            chosen(text)


def test_the_standard_arms_of_a_policy():
    adaptive = RunConfig.for_task("digits", policy="noise-scale", max_batch_size=64)
    arms = {arm.name: arm.config for arm in standard_arms(adaptive, dataset_size=N)}
    assert arms["adaptive"] == adaptive
    assert arms["fixed-small"] == replace(adaptive, policy=None)
    assert arms["fixed-large"] == replace(adaptive, policy=None, batch_size=64, lr=4 * adaptive.lr)
    assert arms["uncoupled"] == replace(adaptive, coupling="none")
    with pytest.raises(
        ValueError, match=r"`policy` must come to a batch above 16 .*; let it come to more \(`max_batch"
    ):
        standard_arms(replace(adaptive, max_batch_size=16), dataset_size=N)
    with pytest.raises(
        ValueError, match=r"`coupling` must not be none, .* as an arm: --arm 'mine: policy=noise-scale:1'"
    ):
        standard_arms(replace(adaptive, coupling="none"), dataset_size=N)
