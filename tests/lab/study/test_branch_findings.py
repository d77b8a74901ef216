import math

import numpy as np
import pytest
from scipy import stats

from adabatch.lab.scaling import BranchFindings
from adabatch.lab.study.branch import SHORTER, Branch, Branching
from adabatch.lab.study.branch_findings import findings
from adabatch.lab.training import RunConfig
from adabatch.schedules import Schedule

N = 1000


def setting(**more):
    base = RunConfig.for_task("digits", batch_size=16, epochs=10, lr=0.05, lr_schedule="constant")
    given = {"forks": (0.1, 0.3, 0.5, 0.7), "windows": (1 / 8,), "factors": (2, 4, 8), "powers": (0.5, 1.0)}
    return Branching(base=base, **{**given, "seeds": tuple(range(4)), **more})


def made(of, costs, *, noise=0.0, slope=0.3, best=1.0, worse=0.05, seed=0):
    """Branches in which a factor costs `costs[fork][factor]` times the samples, under a loss `samples ** -slope`.

    The power `best` is the right one; another adds `worse` to the log of the loss.
    """
    draw = np.random.default_rng(seed)
    found = {}
    for number in of.seeds:
        shift = 0.1 * draw.standard_normal()  # of a whole seed: pairs take it out
        branches = []
        for fork in range(len(of.forks)):
            for share in SHORTER:
                log = shift - slope * math.log(share) + noise * draw.standard_normal()
                branches.append(Branch(fork, 0, share, 1, 0.0, math.exp(log), math.exp(log)))
            for factor in of.factors:
                for power in of.powers:
                    log = shift + slope * math.log(costs[fork][factor]) + noise * draw.standard_normal()
                    log += worse * (power != best)
                    branches.append(Branch(fork, 0, 1.0, factor, power, math.exp(log), 2 * math.exp(log)))
        found[number] = branches
    return found


LATE = [{2: 1.2, 4: 1.5, 8: 1.9}, {2: 1.0, 4: 1.2, 8: 1.5}, {2: 1.0, 4: 1.0, 8: 1.2}, {2: 1.0, 4: 1.0, 8: 1.0}]


def told(of, costs, **more):
    how = {"loss": "train", "dataset_size": N}
    return findings(of, made(of, costs, **more), **how)


def test_costs_are_found():
    found = told(setting(), LATE, noise=1e-9)
    costs = {(cell.fork, cell.factor): cell.cost.estimate for cell in found.cells}
    for number, fork in enumerate(setting().forks):
        for factor in (2, 4, 8):
            assert costs[fork, factor] == pytest.approx(LATE[number][factor], rel=1e-3)
    assert {cell.power for cell in found.cells} == {1.0}


def test_growth_that_suits_late_or_early():
    late = told(setting(), LATE, noise=1e-9)
    assert [row.factors for row in late.harmless] == [(1, 2, 4, 8)] * 3
    assert late.growth == "late"
    assert told(setting(), LATE[::-1], noise=1e-9).growth == "early"
    assert told(setting(), [LATE[3]] * 4, noise=1e-9).growth == "any time"
    assert told(setting(), [{2: 1.3, 4: 1.5, 8: 1.9}] * 4, noise=1e-9).growth == "none"


def test_the_schedule_and_its_coupling():
    found = told(setting(), LATE, noise=1e-9)
    plan = Schedule.from_json(found.schedule).plan(dataset_size=N, epochs=10, batch_size=16)
    assert plan.sizes == (16, 32, 64, 128)
    assert [at - at % 1000 for at in plan.starts_samples] == [0, 3000, 5000, 7000]
    assert found.coupling == "linear"
    assert told(setting(), LATE, noise=1e-9, best=0.5).coupling == "sqrt"


def test_a_factor_above_a_harmful_one_does_no_good():
    costs = [{2: 1.4, 4: 1.0, 8: 1.0}] * 4
    assert told(setting(), costs, noise=1e-9).harmless[0].factors == (1, 1, 1, 1)


def test_the_test_of_non_inferiority_errs_as_often_as_it_says():
    """At the tolerance itself, a factor is called harmless in about 5 % of trials, not more."""
    of = setting(forks=(0.1,), factors=(2,), powers=(1.0,))
    costs = [{2: math.exp(math.log(1.03) / 0.3)}]  # 3 % more loss
    calls = 400
    wrong = sum(told(of, costs, noise=0.01, seed=seed).harmless[-1].factors == (2,) for seed in range(calls))
    assert wrong <= 0.05 * calls + 3 * math.sqrt(0.05 * 0.95 * calls)
    assert wrong > 0.01 * calls


def test_the_intervals_of_a_difference_are_those_of_textbooks():
    of = setting(forks=(0.1,), factors=(2,), powers=(1.0,))
    (cell,) = told(of, [{2: 1.1}], noise=0.01).cells
    runs = made(of, [{2: 1.1}], noise=0.01)
    whole = {seed: [branch for branch in branches if branch.share == 1] for seed, branches in runs.items()}
    values = [math.log(larger.train_loss / base.train_loss) for base, larger in whole.values()]
    one = stats.ttest_1samp(values, 0.0)
    assert cell.loss_ratio.interval == pytest.approx(np.exp(tuple(one.confidence_interval(0.95))))
    assert cell.worst_ratio == pytest.approx(math.exp(one.confidence_interval(0.90).high))  # 95 %, one-sided


def test_intervals_of_costs_cover():
    of = setting(forks=(0.1, 0.3), powers=(1.0,))
    costs = [{2: 1.05, 4: 1.2, 8: 1.4}, {2: 1.0, 4: 1.1, 8: 1.3}]
    covered = trials = 0
    for seed in range(100):
        for cell in told(of, costs, noise=0.01, seed=seed).cells:
            low, high = cell.cost.interval
            true = costs[of.forks.index(cell.fork)][cell.factor]
            covered += low <= true <= high
            trials += 1
    assert covered >= 0.9 * trials


def test_the_lr_is_not_chosen_by_the_seed_that_is_judged():
    """With powers that differ by noise alone, the best of them does not look better than the base."""
    of = setting(forks=(0.1,), factors=(2,), powers=(0.0, 0.25, 0.5, 0.75, 1.0))
    found = [told(of, [{2: 1.0}], noise=0.05, worse=0.0, seed=seed).cells[0].loss_ratio.estimate for seed in range(200)]
    naive = 0.05 * 1.16  # the mean of the lowest of five, in standard deviations
    assert abs(np.mean(np.log(found))) < 0.2 * naive


def test_a_branch_that_diverged_does_harm():
    of = setting()
    branches = made(of, LATE, noise=1e-9)
    branches[2] = [
        branch._replace(train_loss=None, test_loss=None) if branch.factor == 4 else branch for branch in branches[2]
    ]
    found = findings(of, branches, loss="train", dataset_size=N)
    cell = next(cell for cell in found.cells if cell.factor == 4)
    assert (cell.loss_ratio.estimate, cell.worst_ratio, cell.cost.high) == (None, None, None)
    assert max(found.harmless[-1].factors) == 2
    assert found.growth in ("late", "any time")


def test_costs_beyond_what_was_measured():
    """A base branch of half the window, or of 9/8 of it, ends the interval where the loss lies beyond it."""
    of = setting(forks=(0.1, 0.3), factors=(2,), powers=(1.0,))
    dear, cheap = told(of, [{2: 3.0}, {2: 0.5}], noise=1e-9).cells
    assert (dear.cost.estimate, dear.cost.interval) == (None, (2.0, math.inf))
    assert (cheap.cost.estimate, cheap.cost.interval) == (0.0, (0.0, 1 / 1.125))


def test_expected_losses_give_the_truth():
    of = setting()
    found = findings(of, made(of, LATE, noise=0.01), loss="train", dataset_size=N, expected=made(of, LATE))
    for cell in found.cells:
        assert cell.truth == pytest.approx(LATE[of.forks.index(cell.fork)][cell.factor], rel=1e-9)


def test_one_seed_shows_nothing():
    found = told(setting(seeds=(0,)), LATE, noise=0.01)
    assert all(cell.worst_ratio is None and cell.cost.interval == (0.0, math.inf) for cell in found.cells)
    assert found.growth == "none"


def test_json_round_trip():
    found = told(setting(), LATE, noise=0.01)
    assert not list(BranchFindings.faults(found.to_json()))
    assert BranchFindings.of_json(found.to_json()).to_json() == found.to_json()
