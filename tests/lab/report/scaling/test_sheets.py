import csv
import io

import pytest
from tests.lab.report.page_studies import SIZES, probe, study

from adabatch.lab.report.scaling.machine import Machine
from adabatch.lab.report.scaling.sheets import sheets


@pytest.fixture(scope="module")
def found():
    return study(models=("mlp", "cnn_small"), rules=("linear", "constant"))


def rows_of(found, name):
    return list(csv.DictReader(io.StringIO(sheets(found)[name])))


def test_a_row_for_each_network_rule_loss_and_batch_size(found):
    rows = rows_of(found, "study.csv")
    assert len(rows) == 2 * 2 * 2 * len(SIZES)
    keys = {(row["model"], row["lr_rule"], row["loss"], row["batch_size"]) for row in rows}
    assert len(keys) == len(rows)
    (row,) = [
        row
        for row in rows
        if (row["model"], row["lr_rule"], row["loss"], row["batch_size"]) == ("mlp", "linear", "train", "64")
    ]
    true = found.panels[0].rules[0].train.to_target[2]
    assert float(row["updates"]) == true.updates.estimate
    assert float(row["updates_low"]) == true.updates.low
    assert float(row["cost_high"]) == true.cost.high
    assert float(row["form_1_updates"]) == found.panels[0].rules[0].train.fits.form_1.updates(64)
    assert (row["target"], row["lr"], row["runs"], row["arrived"], row["ideal_speedup"]) == (
        "0.15",
        "0.024",
        "3",
        "3",
        "4.0",
    )


def test_what_is_not_known_is_empty(found):
    late = [row for row in rows_of(found, "study.csv") if row["arrived"] == "0"]
    assert late
    assert {row["updates"] for row in late} == {""}
    assert {row["updates_high"] for row in late} == {""}
    assert all(float(row["updates_low"]) > 0 for row in late)


def test_a_row_for_each_run(found):
    rows = rows_of(found, "study-runs.csv")
    assert len(rows) == 2 * 2 * 2 * len(SIZES) * 3
    assert {row["arrived"] for row in rows} == {"yes", "not yet"}
    first = found.panels[0].rules[0].test.to_target[0].runs[0]
    assert (float(rows[0]["updates"]), float(rows[0]["samples"])) == (first.updates, first.samples)


def test_a_row_for_each_fit_and_one_of_two_is_used(found):
    rows = rows_of(found, "study-fits.csv")
    assert [row["form"] for row in rows] == ["1", "2"] * 8
    assert [row["used"] for row in rows].count("True") == 8
    fit = found.panels[0].rules[0].test.fits.form_1
    assert float(rows[0]["critical_batch_low"]) == fit.critical_batch.low


def test_a_row_for_each_cooled_loss(found):
    rows = rows_of(found, "study-curves.csv")
    curves = [c for p in found.panels for r in p.rules for cell in r.cells for c in cell.curves]
    assert len(rows) == sum(len(curve.points) for curve in curves)
    assert [float(rows[0][key]) for key in ("updates", "samples", "seconds", "train_loss", "test_loss")] == [
        float(value) for value in curves[0].points[0]
    ]


def test_the_limits_of_the_machine_stand_beside_the_borders():
    found = study(models=("mlp", "cnn_small"), rules=("linear",))
    text = sheets(found, {("digits", "mlp"): Machine.of(probe())})["study-fits.csv"]
    rows = list(csv.DictReader(io.StringIO(text)))
    names = ("batch_at_95_percent_of_throughput", "largest_batch_probed", "out_of_memory_at")
    assert {tuple(row[name] for name in names) for row in rows if row["model"] == "mlp"} == {("64", "128", "256")}
    assert {tuple(row[name] for name in names) for row in rows if row["model"] == "cnn_small"} == {("", "", "")}


def test_errors_of_the_linear_approximation(found):
    row = rows_of(found, "study.csv")[0]
    assert [float(row[f"linear_approximation_error{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
        [16 / 100, 16 / 110, 16 / 90]
    )
