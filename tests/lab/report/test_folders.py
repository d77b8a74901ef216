import itertools
import json
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lab.report.page_folders import GROWING, N, result, write_comparison, write_run
from tests.lab.report.page_studies import write_study

from adabatch.lab.report import page
from adabatch.lab.report.folders import Finished, SavedRun, read, read_together


def run_of(config=GROWING, name="run"):
    found = result(config, name).to_json()
    return SavedRun(config.to_json(), {}, found["history"], found["decisions"], found)


RUN = run_of()


def test_a_comparison_has_its_runs(tmp_path):
    compare = write_comparison(tmp_path, seeds=2)
    found = read(tmp_path)
    assert isinstance(found, Finished)
    assert found.compare.to_json() == compare
    assert {name: [run.config["seed"] for run in runs] for name, runs in found.runs.items()} == {
        arm["name"]: [0, 1] for arm in compare["arms"]
    }


def test_a_run_is_read_from_its_logs_until_it_is_finished(tmp_path):
    write_run(tmp_path, finished=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"samples": 12')  # being written
    under_way = read(tmp_path)
    assert under_way.result is None
    assert len(under_way.history) == 5
    write_run(tmp_path)
    assert len(read(tmp_path).history) == 14


def test_the_staircase_starts_at_the_first_batch_size():
    assert [step[:2] for step in RUN.staircase()] == [(0, 16), (2 * N, 32), (4 * N, 64), (6 * N, 128), (8 * N, 256)]


def test_a_decision_at_the_start_replaces_the_setting():
    found = SavedRun(RUN.config, {}, RUN.history, [{"clock": 0, "batch_size": 8, "reason": "small"}], RUN.result)
    assert found.staircase() == [(0, 8, "small")]


def test_places_at_evaluations_are_exact():
    for found in RUN.history:
        place = RUN.at(found["samples"])
        assert place["updates"] == found["updates"]
        assert place["seconds"] == pytest.approx(found["seconds"])


def test_places_where_the_batch_grew_between_evaluations():
    """One evaluation at the end of 1,000 samples: 600 in batches of 10, 400 in batches of 40 at twice the speed."""
    history = [{"samples": 1000, "updates": 70, "seconds": 8.0}]
    rates = {"samples_per_second": {"10": 100.0, "40": 200.0}}
    found = SavedRun({"batch_size": 10}, {}, history, [{"clock": 600, "batch_size": 40}], rates)
    assert found.at(0) == {"samples": 0, "updates": 0, "seconds": 0.0}
    assert found.at(600) == {"samples": 600, "updates": 60, "seconds": pytest.approx(6.0)}
    assert found.at(800) == {"samples": 800, "updates": 65, "seconds": pytest.approx(7.0)}
    assert (found.size_at(599), found.size_at(600)) == (10, 40)


@given(st.lists(st.integers(0, 14 * N), min_size=2, max_size=8))
def test_places_run_forward(clocks):
    places = [RUN.at(clock) for clock in sorted(clocks)]
    for before, after in itertools.pairwise(places):
        assert before["updates"] <= after["updates"]
        assert before["seconds"] <= after["seconds"] + 1e-12


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"`folder` must be a folder that adabatch compare, train, plan, probe, study or advise wrote, .* without",
    ):
        read(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    gone, words = tmp_path / "gone", "`folder` must be there, got '.*gone', which is not; look for its name"
    with pytest.raises(FileNotFoundError, match=words):
        read(gone)
    write_study(tmp_path)
    with pytest.raises(FileNotFoundError, match=words):
        read_together([tmp_path, gone])


def test_a_comparison_that_has_no_runs_yet(tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"must hold at least one run, got the comparison .* none yet; let it train"
    ):
        read(tmp_path)


def test_a_run_that_is_gone(tmp_path):
    write_comparison(tmp_path, seeds=1)
    (tmp_path / "runs" / "adaptive" / "seed-0" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"`folder` must hold whole runs, but .*seed-0.config.json is missing"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["compare.json", "runs/adaptive/seed-0/result.json"])
@pytest.mark.parametrize("text", ['{"task": ', "[]", "{}"])
def test_damaged_and_foreign_files(tmp_path, name, text):
    write_comparison(tmp_path, seeds=1)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"`folder` must hold (whole files|files of this package), got .*\.json"):
        read(tmp_path)


def test_an_evaluation_that_lacks_something(tmp_path):
    write_run(tmp_path, finished=False)
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    del record["updates"]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="without updates"):
        read(tmp_path)


def test_a_damaged_log(tmp_path):
    write_run(tmp_path, finished=False)
    (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(ValueError, match=r"got a damaged .*metrics.jsonl"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "versions.json", "metrics.jsonl", "decisions.jsonl", "result.json", "compare.json"]
)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (os.mkfifo, "a pipe in place of a file"),
        (os.mkdir, "a folder in place of a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device in place of a file"),
        (lambda path: path.write_text("[" * 9000 + "]" * 9000 + "\n"), "more than 50 levels of values in each other"),
    ],
)
def test_what_is_no_file_is_said_and_nothing_waits(tmp_path, name, damage, words):
    write_run(tmp_path, finished=False)
    (tmp_path / name).unlink(missing_ok=True)
    damage(tmp_path / name)
    told = rf"^`folder` must hold whole files, got a damaged {tmp_path / name} \({words}\); "
    with pytest.raises(ValueError, match=f"{told}delete {tmp_path} and start the command that wrote it again$"):
        read(tmp_path)


def test_places_in_a_long_history_are_found_without_reading_all_of_it(tmp_path):
    """A page asks for as many places as there are evaluations."""
    write_run(tmp_path, finished=False)
    run = read(tmp_path)
    asked = []

    class Counted(dict):
        def __getitem__(self, key):
            asked.append(key)
            return super().__getitem__(key)

    step = run.history[0]
    history = [Counted(step, samples=n, updates=n, seconds=float(n)) for n in range(1, 10_001)]
    long = replace(run, history=history, decisions=[])
    for clock in (1, 5_000, 10_000):
        asked.clear()
        assert long.at(clock)["updates"] == clock
        assert len(asked) < 100


def test_a_run_that_was_never_evaluated(tmp_path):
    write_run(tmp_path, finished=False)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"evaluated at least once, .* let it train on"):
        read(tmp_path)


ODD = (None, 0, -1, 1.5, True, "x", "", [], {}, [None], {"x": None}, float("inf"), float("nan"), 10**400, 1e-320, 1e299)


def places_in(values, path=()):
    """The paths to all values in JSON; in lists only to the first."""
    yield path
    inner = (
        values.items() if isinstance(values, dict) else list(enumerate(values))[:1] if isinstance(values, list) else ()
    )
    for key, value in inner:
        yield from places_in(value, (*path, key))


def with_another(values, path, value):
    if not path:
        return value
    changed = dict(values) if isinstance(values, dict) else list(values)
    changed[path[0]] = with_another(values[path[0]], path[1:], value)
    return changed


def what_is_said(folder):
    """The error for a folder; empty if there is a page."""
    try:
        found = read(folder)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return "" if page._PAGES[type(found)](found).body else "no page"


OF_A_RUN = [f"runs/adaptive/seed-0/{it}.json" for it in ("config", "result")]


@pytest.mark.parametrize("name", [pytest.param("compare.json", marks=pytest.mark.slow), *OF_A_RUN])
def test_values_of_another_kind_are_named_or_do_no_harm(tmp_path, name):
    """With any other value in a valid JSON file there is a page, or an error that names the fault."""
    write_comparison(tmp_path, seeds=1, names=("fixed-small", "adaptive"))
    file, run = tmp_path / name, tmp_path / "runs" / "adaptive" / "seed-0"
    whole = json.loads(file.read_text())
    refused = 0
    for path in places_in(whole):
        for odd in ODD:
            file.write_text(json.dumps(with_another(whole, path, odd)))
            for folder in (tmp_path,) if name == "compare.json" else (tmp_path, run):
                said = what_is_said(folder)
                assert said == "" or said.startswith("`folder` must hold "), (path, odd)
                refused += said != ""
    assert refused > 50


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("result.json", "samples_per_second", None, "with samples_per_second None, which must be batch sizes with"),
        ("config.json", "batch_size", 0, "with batch_size 0, which must be a whole number from 1 on; delete "),
        ("config.json", "task", 3, "with task 3, which must be text"),
        ("result.json", "history", {}, "with history {}, which must be a list"),
        ("result.json", "target", "high", "with target 'high', which must be a finite number or null"),
    ],
)
def test_the_value_at_fault_is_named(tmp_path, name, key, value, message):
    write_run(tmp_path)
    values = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps(values | {key: value}))
    with pytest.raises(ValueError, match=f"files of this package, got .*{re.escape(name)} {re.escape(message)}"):
        read(tmp_path)


def test_a_comparison_of_arms_that_are_not_there(tmp_path):
    compare = write_comparison(tmp_path, seeds=1, names=("fixed-small", "adaptive"))
    for key, value, message in (
        ("arms", compare["arms"][1:], "without the arm 'fixed-small'"),
        ("arms", compare["arms"][:1], "without the arm 'adaptive'"),
        ("seeds", [0, 1], "without a value for each seed of fixed-small"),
    ):
        (tmp_path / "compare.json").write_text(json.dumps(compare | {key: value}))
        with pytest.raises(ValueError, match=message):
            read(tmp_path)
