"""What is due follows from the grid and the curves alone; the search finds what there is to find."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lab.study.studies import BASE, bowl, curve, due, grid, played

from adabatch.lab.study import due as module
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.due import due_by_case, longest, search, target, targets
from adabatch.lab.study.grid import SEARCH_SEED, Case

TUNED = Case(model="mlp", fraction=1.0, rule="tuned", batch_size=10)
SEARCHES = f"-seed{SEARCH_SEED}-"  # in the keys of trainings that search


def found_by(train, **base):
    """The end of a search with these results, and its trainings."""
    study = grid(rules=("tuned",), base=replace(BASE, **base), max_epochs=2)
    curves, order = played(study, train)
    return search(study, TUNED, curves)[1], [key for key in order if key.startswith("mlp-10-") and SEARCHES in key]


# The search.


def test_a_best_value_in_the_middle_takes_nine_trainings():
    found, order = found_by(partial(bowl, lr=0.02, momentum=0.9))
    assert (found.lr, round(found.momentum, 9), found.at_edge) == (0.02, 0.9, False)
    assert len(order) == 9


@pytest.mark.parametrize("lr_steps", range(-4, 5))
@pytest.mark.parametrize("momentum_steps", [-3, 0, 3])
def test_a_best_value_that_can_be_reached_is_found(lr_steps, momentum_steps):
    lr, left = 0.02 * 2.0**lr_steps, 0.1 * 2.0**-momentum_steps
    found, _ = found_by(partial(bowl, lr=lr, momentum=1 - left))
    assert found.lr == pytest.approx(lr)
    assert found.momentum == pytest.approx(1 - left)
    assert not found.at_edge


@pytest.mark.parametrize(("lr_steps", "edge"), [(-9, -5), (9, 5), (-5, -5), (5, 5)])
def test_an_lr_at_the_end_of_the_largest_grid_is_flagged(lr_steps, edge):
    found, _ = found_by(partial(bowl, lr=0.02 * 2.0**lr_steps, momentum=0.9))
    assert found.lr == pytest.approx(0.02 * 2.0**edge)
    assert found.at_edge


@pytest.mark.parametrize(
    ("base", "best", "found_momentum", "at_edge"),
    [
        (0.9, 0.0, 0.0, False),  # no momentum lies below 0
        (0.0, 0.0, 0.0, False),
        (0.5, 0.0, 0.0, False),
        (0.0, 0.9999, 1 - 2.0**-5, True),
        (0.99, 0.9999, 1 - 0.01 / 8, False),  # beyond nothing is searched
        (0.9999, 0.9999, 0.9999, False),
    ],
)
def test_momentum_ends_at_0_and_below_1(base, best, found_momentum, at_edge):
    found, _ = found_by(lambda job: bowl(replace(job, lr=0.02), lr=0.02, momentum=best), momentum=base)
    assert found.momentum == pytest.approx(found_momentum)
    assert found.at_edge == at_edge


@pytest.mark.parametrize(
    ("optimizer", "count"),
    [("sgd", 9), ("nesterov", 9), ("lars", 9), ("rmsprop-warmup", 9), ("adam", 3), ("adamw", 3), ("lamb", 3)],
)
def test_momentum_is_searched_where_the_optimizer_has_one(optimizer, count):
    found, order = found_by(lambda job: bowl(job, lr=0.02, momentum=job.momentum), optimizer=optimizer)
    assert len(order) == count
    assert not found.at_edge


def test_a_search_in_which_all_diverged_goes_down_and_is_flagged():
    found, order = found_by(lambda job: curve(job, stopped="diverged" if job.searches else "budget"))
    assert found.lr == pytest.approx(0.02 / 32)
    assert found.at_edge
    assert not any("-lr0.00125-" in key for key in order[:9])


def test_a_diverged_or_lost_training_is_never_the_best():
    def train(job):
        if job.searches and job.lr < 0.015:
            return Curve((), "lost")
        return bowl(job, lr=0.001, momentum=0.9)

    found, _ = found_by(train)
    assert found.lr == 0.02


def test_of_equal_values_the_nearest_to_the_middle_is_taken():
    found, order = found_by(curve)
    assert (found.lr, found.at_edge, len(order)) == (0.02, False, 9)


def test_the_seed_of_the_search_takes_no_part_in_the_claim():
    study = grid(rules=("tuned",))
    curves, _ = played(study, partial(bowl, lr=0.04, momentum=0.9))
    kept = [key for key in curves if SEARCHES in key]
    assert kept
    assert set(longest(study, TUNED, curves)) == {0, 1}


# Which jobs, and in which order.


def slow(job):
    """A curve that arrives late for small batches and never for seed 1 of large ones."""
    loss = 0.5 + 0.05 * (job.batch_size > 10) + 0.01 * job.seed
    if job.train_target is not None and job.seed != 1:
        return curve(job, loss=job.train_target, stopped="arrived")
    return curve(job, loss=loss)


def test_a_study_goes_in_steps():
    study = grid(rules=("linear", "tuned"), fractions=(1.0, 0.5))
    _, order = played(study, slow)

    def step(key):
        part = "-0.5-" in key
        return part, "4epochs" in key

    assert [step(key) for key in order] == sorted(step(key) for key in order)
    linear = [case for case in study.cases(("mlp", 1.0)) if case.rule == "linear"]
    first = [study.job(case, seed=seed).key for seed in study.seeds for case in linear]
    assert order[:4] == first, "what needs no search comes first, and after a seed there is one of every case"
    assert len(order) == len(set(order))


# Trainings that several cases ask for.

ALIKE = ("constant", "linear", "sqrt")


def test_a_training_that_several_rules_ask_for_is_done_once():
    study = grid(rules=ALIKE)
    smallest = [case for case in study.cases(study.panels[0]) if case.batch_size == 10]
    waiting = [due_by_case(study, {})[case] for case in smallest]
    assert waiting[0] == waiting[1] == waiting[2] == due(study, {})[::4]
    curves, order = played(study, slow)
    assert sum(key.endswith("-2epochs") for key in order) == 2 * (1 + 3)
    assert len(order) == len(set(order)) > 8
    found = [longest(study, case, curves) for case in smallest]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("momentum", [0.9, 0.1, 0.0])
def test_a_search_that_ends_in_the_middle_takes_the_trainings_of_sqrt(momentum):
    study = grid(rules=("sqrt", "tuned"), base=replace(BASE, momentum=momentum))
    curves, order = played(study, lambda job: bowl(job, lr=study.scaled_lr("sqrt", job.batch_size), momentum=momentum))
    assert len([key for key in order if SEARCHES not in key]) == 4
    for case in study.cases(study.panels[0]):
        assert longest(study, case, curves) == longest(study, replace(case, rule="sqrt"), curves)


def test_a_search_that_ends_at_the_lr_of_linear_takes_its_trainings():
    study = grid(rules=("linear", "tuned"), batch_sizes=(10, 40))
    curves, order = played(study, lambda job: bowl(job, lr=0.002 * job.batch_size, momentum=0.9))
    assert len([key for key in order if SEARCHES not in key]) == 4
    assert search(study, replace(TUNED, batch_size=40), curves)[1].lr == 0.08


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 5), aim=st.sampled_from(["best", "paper"]))
def test_workers_agree_whatever_they_do_first(seed, workers, aim):
    """Workers that take any jobs that are due and finish in any order end with the curves of one."""
    rng = random.Random(seed)
    study = grid(rules=("linear", "sqrt", "tuned"), seeds=(0, 1, 2), target=aim)

    def train(job):
        return bowl(job, lr=0.04, momentum=0.8) if job.searches else slow(job)

    curves, running = {}, {}
    while jobs := due(study, curves):
        free = [job for job in jobs if job.key not in running]
        while free and len(running) < workers:
            job = free.pop(rng.randrange(len(free)))
            running[job.key] = job
        key = rng.choice(list(running))
        curves[key] = train(running.pop(key))
        shuffled = dict(rng.sample(list(curves.items()), len(curves)))
        assert due(study, shuffled) == due(study, curves)
    assert not running
    assert curves == played(study, train)[0]


def naive_longer(study, curves):
    """The runs of a panel that go on, from the definition."""
    best = {}
    for loss in ("train_loss", "test_loss"):
        worst = {}
        for case in study.cases(study.panels[0]):
            ends = [curves[study.job(case, seed=seed).key] for seed in study.seeds]
            worst[case] = max(min(getattr(point, loss) for point in one.points) for one in ends)
        best[loss] = min(worst.values())
    return {
        study.job(case, seed=seed).run
        for case in study.cases(study.panels[0])
        for seed in study.seeds
        for one in [curves[study.job(case, seed=seed).key]]
        if one.stopped == "budget"
        and any(min(getattr(point, loss) for point in one.points) > aim for loss, aim in best.items())
    }, best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 2), min_size=9, max_size=9), st.integers(0, 8))
def test_runs_that_have_not_arrived_go_on(losses, diverged):
    study, left = grid(rules=("linear", "sqrt"), seeds=(0, 1, 2)), list(enumerate(losses))

    def train(job):
        if job.epochs == 4:
            return curve(job, loss=0.01, stopped="arrived")
        number, loss = left.pop()
        return curve(job, loss=loss, stopped="diverged" if number == diverged else "budget")

    curves, order = played(study, train)
    runs, best = naive_longer(study, curves)
    assert {key.removesuffix("-4epochs") for key in order if key.endswith("-4epochs")} == runs
    assert targets(study, study.panels[0], curves).train_loss == best["train_loss"]
    assert len(order) == 9 + len(runs), "at the smallest batch size both rules are one training"


def test_no_run_goes_on_where_the_budget_may_not_grow():
    assert len(played(grid(max_epochs=2), slow)[1]) == 4


def test_a_study_whose_runs_all_failed_has_no_target_and_ends():
    study = grid()
    curves, order = played(study, lambda job: Curve((), "out of memory"))
    assert len(order) == 4
    assert target(study, study.panels[0], curves, "train") is None
    assert targets(study, study.panels[0], curves) == module.Targets(None, None)


def test_after_a_target_has_fallen_a_run_that_arrived_goes_on():
    """With fewer or other seeds a target can be lower than the one at which a run stopped."""
    three, two = grid(seeds=(0, 1, 2)), grid(seeds=(0, 1))

    def train(job):
        loss = 0.5 + 0.2 * (job.seed == 2) + 0.3 * (job.batch_size > 10)
        return curve(job, loss=job.train_target, stopped="arrived") if job.train_target else curve(job, loss=loss)

    curves, _ = played(three, train)
    (later,) = {job.turn for job in due(two, curves)}
    assert later == 1
    assert all(job.train_target == 0.5 for job in due(two, curves))
    more = dict(curves)
    while jobs := due(two, more):
        more[jobs[0].key] = train(jobs[0])
    case = Case(model="mlp", fraction=1.0, rule="linear", batch_size=30)
    losses = [point.train_loss for point in longest(two, case, more)[0].points if point.train_loss is not None]
    assert min(losses) == 0.5
    assert due(three, more) == []


def test_a_lost_longer_run_leaves_the_shorter_one():
    study = grid()
    curves, _ = played(study, lambda job: slow(job) if job.epochs == 2 else Curve((), "lost"))
    case = Case(model="mlp", fraction=1.0, rule="linear", batch_size=30)
    assert longest(study, case, curves)[0] == curves[study.job(case, seed=0).key]


def test_a_point_of_each_loss():
    found = curve(grid().job(TUNED, seed=0))
    assert [point.loss for point in module.points(found, "test")] == [point.test_loss for point in found.points]
    assert math.isclose(module.points(found, "train")[-1].loss, 0.5)
