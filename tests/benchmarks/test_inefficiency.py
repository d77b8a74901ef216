"""The benchmark of the fourth paper's findings: its grid, and that it is trained, goes on and is told."""

import importlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks.findings import form, of_critical, of_rules, rule, study, until
from tests.lab.cli.checks import refused

ROOT = Path(__file__).parents[2]
HOURS_AT_MOST = 6


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def benchmark(scripts):
    return scripts("inefficiency")


@pytest.fixture(scope="module")
def readme(scripts):
    return scripts("readme")


def test_the_grid_has_three_seeds_and_fits_the_time(benchmark):
    used = [name for part in benchmark.PARTS.values() for name in part.studies]
    assert set(used) == set(benchmark.GRID)
    assert sum(planned.hours for planned in benchmark.GRID.values()) <= HOURS_AT_MOST
    for planned in benchmark.GRID.values():
        assert int(planned.options["seeds"]) >= 3
        sizes = [int(size) for size in planned.options["batch-sizes"].split(",")]
        assert sizes == [sizes[0] * 2**power for power in range(len(sizes))]


def test_data_of_one_claim_are_equal_in_size(benchmark):
    grid = benchmark.GRID
    assert len({grid[name].options["train-samples"] for name in benchmark.PICTURES}) == 1
    for budget in ("epochs", "max-epochs"):
        shares = [grid[name].options for name in benchmark.PARTS["c"].studies]
        assert len({int(of[budget]) * float(of.get("fractions", "1")) for of in shares}) == 1


@pytest.mark.parametrize("toy", [False, True])
def test_every_command_is_one_that_the_study_takes(benchmark, toy, tmp_path, capsys, monkeypatch):
    """All options are right: what is refused is the missing data, and for the digits the storage."""
    monkeypatch.setenv("ADABATCH_DATA", str(tmp_path / "none"))
    for planned in benchmark.GRID.values():
        arguments = (planned.toy() if toy else planned).arguments()
        message = refused(capsys, *arguments, "--storage", "none.db", "--out", str(tmp_path / "out"))
        assert message.startswith("`--storage` must be" if planned.task == "digits" else "`ADABATCH_DATA` must be")


def test_an_estimate_counts_each_study_once(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inefficiency.py", "--estimate", "--parts", "b,a"])
    benchmark.main()
    hours = benchmark.GRID["rules"].hours
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"b: {hours:.1f} CPU-hours (rules)",
        "a: 0.0 CPU-hours (no more)",
        f"together: {hours:.1f} CPU-hours",
    ]


def test_an_unknown_part_is_refused(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["inefficiency.py", "--parts", "a,f"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "--parts must be of a, b, c, d, e, got f" in capsys.readouterr().err


def test_cpu_seconds_of_all_tries_add_up(benchmark, tmp_path):
    assert benchmark.spent(tmp_path / "runs", "one", 2.0) == 2.0
    assert benchmark.spent(tmp_path / "runs", "other", 1.0) == 1.0
    assert benchmark.spent(tmp_path / "runs", "one", 3.5) == 5.5


def synthetic(name, benchmark):
    """Studies for a part that find what the paper did."""
    studies = benchmark.PARTS[name].studies
    if name in "ab":
        return {"rules": of_rules(until(128, 1), until(512, 0.5), diverged=(1024, 2048))}
    if name == "c":
        networks = {"mlp": 30, "small_cnn": 100, "resnet20": 400}
        return {share: study(**{model: [rule(form(of))] for model, of in networks.items()}) for share in studies}
    critical = {"mnist": 600, "fashion": 300, "cifar10": 150, "text": 20, "camvid": 30}
    return {share: of_critical(critical[share]) for share in studies}


WORDS = {
    "a": r"perfect scaling ends at \S+ \[.*\], stagnation begins at 7\d\d \[.*\]; the slope is 0\.9\d \[.*\] "
    r"from 8 to 16, \S+ \[.*\] from 1,024 to 2,048; updates fall linearly in 2 doublings "
    "between 8 and 32, sub-linearly in 5 doublings between 32 and 1,024 and not at all in 1 doubling between 1,024 and",
    "b": "linear needs fewer updates than a constant LR at batch sizes 16, 32, 64 and 128, more at 256, 512, 1,024 and",
    "c": r"the largest ratio over networks 13\S* \[.*\], over shares 1 \[.*\]",
    "d": r"critical batch sizes: MNIST \d+ \[.*\], Fashion-MNIST \d+ \[.*\] and CIFAR-10 \d+ \[.*\]",
    "e": r"LSTM on tiny Shakespeare \S+ \[.*\], over it MNIST \S+ \[.*\]; segmentation of CamVid \S+ \[.*\], over it",
}


@pytest.mark.parametrize("name", WORDS)
def test_a_result_is_told_in_the_row_of_its_claim(name, benchmark, readme):
    found = json.loads(json.dumps(benchmark.judged(name, synthetic(name, benchmark)), allow_nan=False))
    assert found["n"] == 3
    (((page, marker), text),) = readme.inefficiency(found).items()
    assert f"<!-- {marker} -->" in page.read_text()
    figure, link, verdict = text.split(" | ")
    assert re.search(WORDS[name], figure)
    assert figure.endswith("; n = 3")
    assert link == f"[inefficiency_{name}](../benchmarks/results/inefficiency_{name}.json)"
    assert verdict == "shown in small"


def test_a_verdict_that_the_test_loss_does_not_share_is_told(benchmark, readme):
    found = benchmark.judged("d", synthetic("d", benchmark))
    found["verdicts"]["test"] = found["verdicts"]["test"] | {"verdict": "cannot tell"}
    (text,) = readme.inefficiency(found).values()
    assert text.endswith(" | shown in small; by the test loss not shown: the intervals cannot tell")


@pytest.mark.slow
def test_a_part_that_was_stopped_goes_on_and_is_told(benchmark, tmp_path):
    script = [sys.executable, "benchmarks/inefficiency.py", "--toy", "--parts", "c", "--runs", str(tmp_path)]
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("3 of "):
                process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not (tmp_path / "inefficiency_c.json").exists()
    again = subprocess.run(script, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(again.stderr.split(" of ")[0]) >= 3  # what was finished is not done again
    found = json.loads((tmp_path / "inefficiency_c.json").read_text())
    assert (found["claim"], found["rule"]) == benchmark.PARTS["c"][:2]
    assert list(found["studies"]) == ["whole", "half", "quarter"]
    spent = json.loads((tmp_path / "cpu_seconds.json").read_text())
    for name, one in found["studies"].items():
        assert one["command"].startswith("adabatch study digits --models mlp,small_cnn --batch-sizes 8,16 ")
        assert one["cpu_hours"] * 3600 == pytest.approx(spent[name])
        assert [line["model"] for line in one["study"]] == ["mlp", "small_cnn"]
        for line in one["study"]:
            assert [len(runs) for runs in line["train"]["updates"].values()] == [2, 2]
    for verdict in found["verdicts"].values():
        assert verdict["verdict"] in ("holds", "does not hold", "cannot tell")
        assert list(verdict["critical_batch"]) == ["mlp", "small_cnn"]
