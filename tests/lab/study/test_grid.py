"""The settings of a study, its jobs, and where a curve is measured."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.study.studies import BASE, grid

from adabatch._errors import ArgumentError
from adabatch.lab.study.grid import RATIO, RULES, SEARCH_SEED, SPAN, Case, Job, checkpoints, cooldown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_sizes": (16,)}, r"`batch_sizes` must be at least two, got \[16\]; one batch size tells nothing"),
        ({"batch_sizes": (32, 16)}, "`batch_sizes` must increase"),
        ({"batch_sizes": (0, 16)}, "`batch_sizes`"),
        ({"batch_sizes": (16, 16)}, "`batch_sizes` must hold at least one value, each once"),
        ({"models": ()}, "`models` must hold at least one value"),
        ({"rules": ("cubic",)}, "`rules` must be .*constant.*linear.*sqrt.*tuned.*'cubic'"),
        ({"rules": ("linear", "linear")}, "`rules` must hold at least one value, each once"),
        ({"fractions": (0.0,)}, "`fractions`"),
        ({"fractions": (1.5,)}, "`fractions` must be at most 1"),
        ({"fractions": (math.nan,)}, "`fractions`"),
        ({"fractions": (0.5, 1.0)}, "`fractions` must decrease"),
        ({"seeds": ()}, "`seeds` must hold at least one value"),
        ({"seeds": (-1,)}, "`seeds`"),
        ({"seeds": (SEARCH_SEED,)}, "`seeds` must not hold the seed of the search"),
        ({"epochs": 0}, "`epochs`"),
        ({"max_epochs": 1}, "`max_epochs` must be .*2.*it is at least `epochs`"),
        ({"target": "worst"}, "`target` must be .*best.*paper.*'worst'"),
        ({"train_samples": 0}, "`train_samples`"),
        ({"test_samples": 0}, "`test_samples`"),
        ({"base": replace(BASE, growth=2.0, every="1 epoch")}, "`growth` must be left out"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        grid(**changes)


def test_rules_scale_the_lr_of_the_smallest_batch():
    study = grid(batch_sizes=(10, 90))
    assert [study.scaled_lr(rule, 10) for rule in RULES] == [0.02] * 4
    assert [study.scaled_lr(rule, 90) for rule in RULES] == pytest.approx([0.02, 0.18, 0.06, 0.06])


def test_settings_of_a_training():
    study = grid(max_epochs=8)
    case = Case(model="small_cnn", fraction=0.5, rule="linear", batch_size=30)
    config = study.config(study.job(case, seed=7))
    assert (config.model, config.batch_size, config.seed) == ("small_cnn", 30, 7)
    assert config.lr == pytest.approx(0.06)
    assert (config.epochs, config.lr_schedule, config.drop_last, config.grows) == (8, "constant", True, False)


jobs = st.builds(
    Job,
    model=st.sampled_from(["mlp", "small_cnn"]),
    fraction=st.floats(0.001, 1),
    batch_size=st.integers(1, 2**20),
    seed=st.integers(0, 2**40),
    lr=st.sampled_from([0.01, 0.02, math.nextafter(0.02, 1), 0.04]),
    momentum=st.sampled_from([0.0, 0.9]),
    epochs=st.integers(1, 100),
    searches=st.booleans(),
    train_target=st.none() | st.floats(0, 10),
    test_target=st.none() | st.floats(0, 10),
    turn=st.integers(0, 3),
)


@given(jobs)
def test_a_job_goes_through_json_and_back(job):
    assert Job.of_json(json.loads(json.dumps(job.to_json()))) == job


@given(jobs, jobs, st.sets(st.sampled_from([field.name for field in fields(Job)])))
def test_two_jobs_have_one_key_where_they_are_one_training(first, other, names):
    """Whether it searches is told by its seed; targets are those of its panel at that moment."""
    second = replace(first, **{name: getattr(other, name) for name in names})

    def what(job):
        return replace(job, searches=False, train_target=None, test_target=None)

    assert (first.key == second.key) == (what(first) == what(second))


@given(st.floats(1e-12, 1e6), st.floats(0, 0.999), st.sampled_from([1, 7, 64]))
def test_at_the_smallest_batch_all_rules_ask_for_one_training_without_warm_up(lr, momentum, size):
    study = grid(base=replace(BASE, lr=lr, momentum=momentum), batch_sizes=(size, 3 * size))
    cases = [Case(model="mlp", fraction=1.0, rule=rule, batch_size=size) for rule in RULES]
    (job,) = {study.job(case, seed=0) for case in cases}
    assert (job.lr, job.momentum) == (lr, momentum)
    assert study.course(job.lr, base_updates=1000).warm_up == 0


def test_a_training_that_goes_on_is_the_same_run():
    job = grid().job(Case(model="mlp", fraction=1.0, rule="sqrt", batch_size=40), seed=2)
    longer = replace(job, epochs=4, train_target=0.1, turn=1)
    assert (job.run, longer.run) == ("mlp-40-1.0-lr0.04-m0.9-seed2",) * 2
    assert (job.key, longer.key) == ("mlp-40-1.0-lr0.04-m0.9-seed2-2epochs", "mlp-40-1.0-lr0.04-m0.9-seed2-4epochs-1")


def test_differences_are_named_and_what_may_differ_is_not():
    stored = json.loads(json.dumps(grid().to_json()))
    assert grid().differences(stored) == []
    free = replace(BASE, seed=9, data="/elsewhere", device="auto", threads=4, workers=3)
    assert grid(base=free, seeds=(0, 1, 2)).differences(stored) == []
    other = grid(base=replace(BASE, weight_decay=0.5), fractions=(1.0, 0.5))
    assert other.differences(stored) == [
        f"weight_decay {BASE.weight_decay} there and 0.5 here",
        "fractions [1.0] there and [1.0, 0.5] here",
    ]
    stored["base"]["task"] = "quadratic"
    assert other.differences(stored) == ["task quadratic there and digits here"]
    stored["base"]["task"] = "digits"
    stored["new setting"] = 1
    assert grid().differences(stored) == ["new setting 1 there and None here"]


@given(st.integers(1, 5000), st.integers(1, 5))
def test_checkpoints(base, times):
    found = checkpoints(base_updates=base, updates=times * base)
    assert found == sorted(set(found))
    assert found[-1] == times * base
    assert base in found
    assert found[0] >= base / SPAN
    assert all(later <= math.ceil(RATIO * total) for total, later in pairwise(found))
    assert [total for total in found if total <= base] == checkpoints(base_updates=base, updates=base)


@given(st.integers(1, 10**6))
def test_a_cooldown_is_a_sixth_of_its_point(total):
    assert 1 <= cooldown(total) <= total
    assert abs(cooldown(total) - total / 6) <= max(0.5, 1 - total / 6)
