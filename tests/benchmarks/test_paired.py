"""The measuring itself: intervals that cover where luck lasts a round, bounds, and results of a known revision."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adabatch.lab.study.statistics import paired_ratio

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("paired", ROOT / "benchmarks" / "paired.py")
paired = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(paired)


def drawn(generator, *, rounds, pairs, luck, noise):
    """Seconds of a pair of equal speed but for `luck`, which each side draws once a round, and `noise`."""
    sides = []
    for _ in range(2):
        lasting = generator.normal(0, luck, (rounds, 1))
        sides.append(np.exp(lasting + generator.normal(0, noise, (rounds, pairs))))
    return sides[0] * 1.03, sides[1]


@pytest.mark.parametrize(("luck", "noise"), [(0.05, 0.01), (0.02, 0.02), (0.0, 0.02)])
@pytest.mark.parametrize("rounds", [8, 12])
def test_coverage_of_the_interval_by_simulation(rounds, luck, noise):
    generator = np.random.default_rng(0)
    hits, trials = 0, 2000
    for _ in range(trials):
        ratio = paired.told(*drawn(generator, rounds=rounds, pairs=5, luck=luck, noise=noise))["ratio"]
        hits += ratio["low"] <= 1.03 <= ratio["high"]
    assert hits / trials >= 0.945


def test_pairs_of_a_round_are_not_independent():
    """The interval over all pairs, as if each were on its own, misses far too often: why rounds count."""
    generator = np.random.default_rng(0)
    hits, trials = 0, 1000
    for _ in range(trials):
        ours, theirs = drawn(generator, rounds=8, pairs=5, luck=0.05, noise=0.01)
        found = paired_ratio(list(ours.ravel()), list(theirs.ravel()))
        hits += found.low <= 1.03 <= found.high
    assert hits / trials < 0.75


def test_a_round_gives_one_ratio_and_all_seconds_are_kept():
    ours = [[1.0, 2.0, 9.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]
    found = paired.told(ours, [[1.0, 1.0, 1.0]] * 3)
    assert (found["rounds"], found["pairs"], found["ratio"]["median"]) == (3, 9, 2.0)
    assert found["ours_seconds"] == ours
    assert found["ratio"] == paired_ratio([2.0, 2.0, 3.0], [1.0] * 3).to_json()


def test_both_sides_are_made_anew_for_each_round_and_lead_in_turn():
    calls = []

    def maker(side):
        def make():
            calls.append(f"make {side}")
            return side

        return make

    def timed(side):
        calls.append(side)
        return 1.0

    paired.compare(maker("a"), maker("b"), rounds=2, pairs=2, warm_up=1, timed=timed)
    first = ["make b", "b", "make a", "a", "b", "a", "a", "b"]
    second = ["make a", "a", "make b", "b", "a", "b", "b", "a"]
    assert calls == first + second


def test_speeds_are_above_1_where_ours_is_faster():
    times = {"ours": 1.0, "theirs": 2.0}
    found = paired.speeds(lambda: "ours", lambda: "theirs", rounds=6, pairs=1, timed=times.get)
    assert found["ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert (found["ours_seconds"][0], found["theirs_seconds"][0]) == ([1.0], [2.0])
    found = paired.trainings(lambda: 1.0, lambda: 2.0, pairs=6)
    assert (found["rounds"], found["ratio"]["median"]) == (6, 2.0)


@pytest.mark.parametrize(
    ("low", "high", "most", "least"),
    [(0.9, 1.04, True, False), (0.9, 1.06, False, False), (1.05, 1.2, False, True), (None, None, False, False)],
)
def test_a_bound_is_held_by_the_end_that_is_against_us(low, high, most, least):
    found = {"ratio": {"median": 1.0, "low": low, "high": high}}
    assert paired.at_most(found, 1.05) == {**found, "bound": 1.05, "holds": most}
    assert paired.at_least(found, 1.05)["holds"] is least


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A committed tree with a folder of kept results."""

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "code.py").write_text("x = 1\n")
    git("init")
    git("add", "code.py")
    git("commit", "-m", "first")
    monkeypatch.setattr(paired, "ROOT", tmp_path)
    return tmp_path


def test_a_result_records_its_revision(project, capsys):
    out = project / "benchmarks" / "results" / "some.json"
    environment = paired.begin(out)
    paired.write(out, "some", environment, {"seconds": [1.5, 2e-05], "names": ["a"]})
    (project / "notes.txt").write_text("untracked files are no change of the code")
    paired.write(out, "some", environment, {"seconds": [1.5, 2e-05], "names": ["a"]})
    saved = json.loads(out.read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True)
    assert saved["environment"]["git"] == {"revision": head.stdout.strip(), "changed": False}
    assert saved["environment"]["threads"] == 1
    assert '"seconds": [1.5, 2e-05]' in out.read_text()
    assert capsys.readouterr().out == 2 * out.read_text()


def test_a_committed_result_is_written_anew(project):
    """Several times in a run, as results that grow case by case are."""
    out = project / "benchmarks" / "results" / "some.json"
    paired.write(out, "some", paired.begin(out), {"seconds": [1.5]})
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for words in (["add", "."], [*who, "commit", "-m", "second"]):
        subprocess.run(["git", *words], cwd=project, check=True, capture_output=True)
    environment = paired.begin(out)
    for seconds in (2.5, 3.5):
        paired.write(out, "some", environment, {"seconds": [seconds]})
    assert json.loads(out.read_text())["environment"]["git"]["changed"] is False
    (project / "code.py").write_text("x = 2\n")
    with pytest.raises(SystemExit, match="got changes"):
        paired.write(out, "some", environment, {})


def test_a_result_of_a_changed_tree_is_not_kept(project, tmp_path, capsys):
    out = project / "benchmarks" / "results" / "some.json"
    environment = paired.begin(out)
    (project / "code.py").write_text("x = 2\n")
    message = r"some.json must be the result of a committed tree, got changes; commit them and run again, or write to"
    with pytest.raises(SystemExit, match=message):
        paired.begin(out)
    with pytest.raises(SystemExit, match=message):  # changed while it ran
        paired.write(out, "some", environment, {})
    assert not out.exists()
    elsewhere = tmp_path / "elsewhere.json"
    paired.write(elsewhere, "some", paired.begin(elsewhere), {})
    assert json.loads(elsewhere.read_text())["environment"]["git"]["changed"] is True


@pytest.mark.slow
def test_a_benchmark_runs_and_tells_what_it_measured(tmp_path):
    out = tmp_path / "loop.json"
    subprocess.run([sys.executable, "benchmarks/loop.py", "--rounds", "1", "--out", out], cwd=ROOT, check=True)
    saved = json.loads(out.read_text())
    assert saved["environment"]["git"]["revision"]
    for found in saved["batch_sizes"].values():
        assert (found["rounds"], found["pairs"], found["holds"]) == (1, 5, False)  # one round has no interval
