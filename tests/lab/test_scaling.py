"""The records of a study: read as they were written, and the faults of damaged ones."""

import json
import math

import pytest
from tests.lab.report.page_branches import branching
from tests.lab.report.page_studies import study

from adabatch.lab.scaling import BranchFindings, Estimate, Study, ToTarget
from adabatch.lab.study.fits import fits
from adabatch.lab.study.measures import Arrival


@pytest.fixture(scope="module")
def found():
    return study(models=("mlp", "cnn_small"), fractions=(1.0, 0.5))


@pytest.fixture
def values(found):
    return json.loads(json.dumps(found.to_json(), allow_nan=False))


def test_what_is_read_is_what_was_written(found, values):
    assert list(Study.faults(values)) == []
    again = Study.of_json(values)
    assert again == found
    assert again.to_json() == found.to_json()
    row = again.panels[0].rules[0].test.to_target[0]
    assert isinstance(row, ToTarget)
    assert [type(run) for run in row.runs] == [Arrival] * 3
    assert len(again.panels[0].rules[0].cells[0].curves[0].points) == 5


def test_a_study_that_found_nothing_is_read_too(values):
    for loss in ("train", "test"):
        values["panels"][0]["rules"][0][loss] = {"target": None, "to_target": [], "fits": None}
    for cell in values["panels"][0]["rules"][0]["cells"]:
        cell["curves"] = []
    assert list(Study.faults(values)) == []
    assert Study.of_json(values).panels[0].rules[0].test.to_target == ()


def first(values, *path):
    """The place in the first panel's first rule."""
    place = values["panels"][0]["rules"][0]
    for key in path:
        place = place[key]
    return place


@pytest.mark.parametrize(
    ("path", "key", "value", "words"),
    [
        (("cells", 0), "batch_size", 0, "cells[0].batch_size 0, which must be a whole number from 1 on"),
        (("cells", 1), "stopped", {"budget": -1}, "stopped.budget -1, which must be a whole number from 0 on"),
        (("cells", 0, "curves", 0), "points", [[1, 2, 3.0, 4.0]], "which must be a list of points of a curve"),
        (("cells", 0, "curves", 0), "points", [[0, 2, 3.0, 4.0, None]], "which must be a list of points of a curve"),
        (("cells", 0, "curves", 0), "seed", "x", "curves[0].seed 'x', which must be a whole number from 0 on"),
        (("test", "to_target", 1), "cost", None, "without a record in panels[0].rules[0].test.to_target[1].cost"),
        (("test", "to_target", 0), "runs", [], "runs [], which must be a list that is not empty"),
        (("test",), "to_target", "x", "to_target 'x', which must be a list"),
        (("train", "fits", "form_2", "exponent"), "low", "x", "exponent.low 'x', which must be a number from 0 on"),
        (("test", "target"), "loss", None, "target.loss None, which must be a finite number"),
    ],
)
def test_damaged_values_are_named(values, path, key, value, words):
    first(values, *path)[key] = value
    (fault,) = Study.faults(values)
    assert words in fault


def test_a_batch_size_that_was_not_trained_is_a_fault(values):
    first(values, "test", "to_target", 1)["batch_size"] = 48
    assert list(Study.faults(values)) == ["without the trainings at batch size 48 of mlp, linear"]


def test_fits_of_nothing_are_a_fault(values):
    first(values, "test")["to_target"] = []
    assert list(Study.faults(values)) == ["without the batch sizes to which the fits of mlp, linear belong"]


def test_missing_parts_are_named(values):
    assert list(Study.faults([])) == ["without a record"]
    assert list(Study.faults({"task": "digits"})) == ["without panels"]


def test_an_estimate_keeps_what_is_not_finite_as_missing():
    assert Estimate.of(math.nan, 3.0) == Estimate(None, 3.0, None)
    assert Estimate.of(2.0, -math.inf, 5.0) == Estimate(2.0, 0.0, 5.0)
    assert Estimate(2.0, 1.0, None).interval == (1.0, math.inf)
    assert Estimate(2.0, 1.0, 3.0).interval == (1.0, 3.0)


@pytest.mark.parametrize("form", [1, 2])
def test_a_fit_says_the_updates_of_its_formula(form):
    """S = S_min (1 + (B_crit / B)^a)."""
    runs = {
        size: [Arrival(50 * (1 + (200 / size) ** 1.2) * wobble) for wobble in (0.99, 1.01)]
        for size in (16, 64, 256, 1024)
    }
    fit = getattr(fits(runs), f"form_{form}")
    a = fit.exponent.estimate
    for size in (8, 100, 5000):
        wanted = fit.min_updates.estimate * (1 + (fit.critical_batch.estimate / size) ** a)
        assert fit.updates(size) == pytest.approx(wanted, rel=1e-6)


def test_a_fit_of_a_straight_line_says_a_straight_line():
    """Without a critical batch size updates fall in proportion."""
    runs = {size: [Arrival(6400 / size * wobble) for wobble in (0.99, 1.01)] for size in (16, 64, 256)}
    fit = fits(runs).form_1
    if fit.critical_batch.estimate is None:
        assert fit.updates(32) == pytest.approx(200, rel=0.02)
    assert fit.updates(64) == pytest.approx(100, rel=0.02)


# Branchings.


@pytest.fixture
def branched():
    return json.loads(json.dumps(branching(truth=True).to_json(), allow_nan=False))


def test_a_branching_that_is_read_is_what_was_written(branched):
    assert list(BranchFindings.faults(branched)) == []
    again = BranchFindings.of_json(branched)
    assert again.to_json() == branched
    assert (again.base_batch_size, again.forks) == (16, (0.05, 0.15, 0.35, 0.65))
    assert again.cells[1].lr_factor == 2.0


@pytest.mark.parametrize(
    ("path", "key", "value", "words"),
    [
        (("cells", 0), "power", 9, "cells[0].power 9, which must be a number from 0 to 8"),
        (("cells", 0), "fork", 0.5, "with branches at forks that are not in settings.forks"),
        (("settings",), "forks", [0.1, 0.05], "with settings.forks [0.1, 0.05], which must be growing shares of"),
        (("settings",), "forks", [0.5, 1.5], "which must be growing shares of the training"),
        (("settings", "base"), "batch_size", 0, "settings.base.batch_size 0, which must be a whole number from 1 on"),
        (("harmless", 0), "factors", [1, 2], "without a harmless factor for each fork"),
        ((), "tolerance", 0.02, "without the harmless factors of the schedule's window and tolerance"),
        ((), "growth", "sometimes", "with growth 'sometimes', which must be early, late, any time, none"),
        ((), "settings", {}, "without settings.base"),
    ],
)
def test_damaged_values_of_a_branching_are_named(branched, path, key, value, words):
    place = branched
    for step in path:
        place = place[step]
    place[key] = value
    assert any(words in fault for fault in BranchFindings.faults(branched))
