"""The findings of a study against what its curves were made from, and against a task whose answer is known."""

import math
from dataclasses import replace

import pytest
from tests.lab.study.studies import curve, grid, played

from adabatch.lab import tasks
from adabatch.lab.scaling import Estimate, Study
from adabatch.lab.study import cooled
from adabatch.lab.study.curve import Curve, CurvePoint
from adabatch.lab.study.findings import expected_curve, findings
from adabatch.lab.study.grid import Grid, cooldown
from adabatch.lab.tasks.quadratic import expected_loss
from adabatch.lab.training import RunConfig

LEAST, CRITICAL = 40.0, 60.0  # updates of an infinite batch to a loss of 1, critical batch size


def scaling(job):
    """A curve whose loss reaches 1 after the updates of form 1, with a spread of 2 % between seeds."""
    k = LEAST * (1 + CRITICAL / job.batch_size) * (1.02 if job.seed else 1.0)
    last = job.epochs * 300 // job.batch_size
    updates = [round(last * 0.8**number) for number in range(12, -1, -1)]
    points = [
        CurvePoint(total, total * job.batch_size, 0.01 * total, (total / k) ** -0.5, 2 * (total / k) ** -0.5)
        for total in sorted(set(updates))
    ]
    return Curve(tuple(points), "budget", 1.0)


def found_of(study, train=curve, **more):
    curves, _ = played(study, train)
    return findings(study, curves, samples=dict.fromkeys(study.fractions, 300), versions={}, **more)


def test_the_critical_batch_size_is_that_of_the_curves():
    study = grid(batch_sizes=(10, 30, 75, 150), epochs=20, max_epochs=80)
    found = found_of(study, scaling)
    (panel,) = found.panels
    (rule,) = panel.rules
    for way, scale in ((rule.train, 1), (rule.test, 2)):
        k = {row.batch_size: row.updates.estimate for row in way.to_target}
        level = way.target.loss / scale
        wanted = {size: LEAST * (1 + CRITICAL / size) * math.sqrt(1.02) / level**2 for size in study.batch_sizes}
        assert k == pytest.approx(wanted, rel=0.02)
        assert way.fits.form_1.critical_batch.estimate == pytest.approx(CRITICAL, rel=0.1)
    short = found.critical_batch
    assert (short.estimate, short.low, short.high) == tuple(rule.test.fits.form_1.critical_batch.to_json().values())
    assert (short.model, short.rule, short.loss, short.truth) == ("mlp", "linear", "test", None)
    assert short.target == rule.test.target.loss


def test_cells_tell_how_their_trainings_ended():
    def train(job):
        return curve(job, loss=0.5 if job.batch_size == 10 else 0.9, stopped="diverged" if job.seed else "budget")

    (panel,) = found_of(grid(max_epochs=2), train).panels
    (rule,) = panel.rules
    assert [cell.stopped for cell in rule.cells] == [{"budget": 1, "diverged": 1}] * 2
    assert [cell.lr for cell in rule.cells] == pytest.approx([0.02, 0.06])
    assert [[run.seed for run in cell.curves] for cell in rule.cells] == [[0, 1]] * 2
    assert [cell.samples_per_second for cell in rule.cells] == pytest.approx([1000, 3000])


def test_rules_that_share_a_training_have_the_same_cell():
    study = grid(rules=("constant", "linear", "sqrt"))
    (panel,) = found_of(study, lambda job: curve(job, loss=0.5 + 0.01 * job.seed)).panels
    first = [rule.cells[0] for rule in panel.rules]
    assert first[0] == first[1] == first[2]
    assert [[run.seed for run in cell.curves] for cell in first] == [[0, 1]] * 3
    assert len({rule.cells[1].lr for rule in panel.rules}) == 3


def test_errors_of_the_linear_approximation_are_means_over_seeds():
    def train(job):
        return replace(curve(job), linear_approximation_error=0.1 * job.batch_size * (4.0 if job.seed else 1.0))

    (rule,) = found_of(grid(max_epochs=2), train).panels[0].rules
    errors = [cell.linear_approximation_error for cell in rule.cells]
    assert [error.estimate for error in errors] == pytest.approx([2.0, 6.0])
    assert [error.high / error.estimate for error in errors] == pytest.approx([19.74, 19.74], rel=1e-3)
    (rule,) = found_of(grid(max_epochs=2)).panels[0].rules
    assert {cell.linear_approximation_error for cell in rule.cells} == {Estimate()}


def test_trainings_that_left_nothing():
    """Lost at one batch size: the others are found; lost at all: nothing is, and it is said."""
    some = found_of(grid(), lambda job: Curve((), "lost") if job.batch_size == 30 else curve(job))
    (rule,) = some.panels[0].rules
    assert [row.batch_size for row in rule.test.to_target] == [10]
    assert (rule.test.fits, some.critical_batch) == (None, None)
    none = found_of(grid(), lambda job: Curve((), "out of memory"))
    (rule,) = none.panels[0].rules
    assert (rule.test.target, rule.test.to_target, none.critical_batch) == (None, (), None)
    for found in (some, none):
        assert not list(Study.faults(found.to_json()))


def test_the_rule_tuned_is_the_one_in_short():
    found = found_of(grid(rules=("constant", "tuned"), max_epochs=2))
    assert found.critical_batch is None or found.critical_batch.rule == "tuned"
    assert [rule.rule for rule in found.panels[0].rules] == ["constant", "tuned"]
    assert all(cell.at_edge in (True, False) for rule in found.panels[0].rules for cell in rule.cells)


# A known answer.

QUADRATIC = RunConfig.for_task("quadratic", batch_size=64, lr=0.012, epochs=1, lr_schedule="constant", device="cpu")


def known(**more):
    settings = {"batch_sizes": (64, 256, 1024), "models": ("quadratic",), "seeds": (0, 1), "epochs": 1}
    return Grid(base=QUADRATIC, **{**settings, "max_epochs": 4, **more})


@pytest.fixture(scope="module")
def trained():
    study, data = known(), tasks.get("quadratic").load(None)
    curves, _ = played(study, lambda job: cooled.train(job, study, data))
    samples = {1.0: data.dataset_size}
    return findings(study, curves, samples=samples, versions={}, expected_loss=tasks.get("quadratic").expected_loss)


def test_a_study_of_the_quadratic_finds_the_truth(trained):
    short = trained.critical_batch
    assert short.low < short.truth < short.high
    assert short.high < 3 * short.low
    assert short.truth == pytest.approx(short.estimate, rel=0.3)


def test_the_expected_curve_is_the_mean_of_many(trained):
    """The losses of both seeds lie about the computed ones: their mean ratio is 1 to a few standard errors."""
    study = known()
    for cell in trained.panels[0].rules[0].cells:
        computed = {point.updates: point.loss for point in expected_curve(study, cell, expected_loss, samples=2**14)}
        logs = [
            math.log(point[4] / computed[point[0]])
            for run in cell.curves
            for point in run.points
            if computed[point[0]] < 5
        ]
        assert len(logs) > 10
        assert abs(sum(logs) / len(logs)) < 0.08
        assert max(map(abs, logs)) < 0.6


def test_the_expected_curve_is_that_of_the_lrs():
    study = known(batch_sizes=(64, 256))
    (cell,) = (cell for cell in found_of(study, quarter).panels[0].rules[0].cells if cell.batch_size == 256)
    points = expected_curve(study, cell, expected_loss, samples=2**14)
    total = points[-1].updates
    assert total == 4 * 2**14 // 256
    warm, cool = round(0.05 * 64), cooldown(total)
    lrs = [0.012 + (0.048 - 0.012) * number / warm if number < warm else 0.048 for number in range(total - cool)]
    lrs += [0.048 * (cool - number) / cool for number in range(cool)]
    assert points[-1].loss == pytest.approx(expected_loss(lrs, 256, momentum=0.9)[-1], rel=1e-12)


def quarter(job):
    return replace(curve(job), stopped="budget")


def test_no_truth_for_an_optimizer_that_is_not_sgd():
    study = grid()
    changed = replace(study, base=replace(study.base, optimizer="nesterov"))
    found = found_of(changed, expected_loss=lambda *_, **__: 1 / 0)
    assert found.critical_batch is None or found.critical_batch.truth is None
