"""`--policy`: what it trains, says and keeps, in one process and under torchrun."""

from __future__ import annotations

import json

import pytest
from tests.lab.cli.checks import QUICK, refused, run
from tests.lab.cli.test_torchrun import ended, started
from tests.lab.training.checks import same, weights

from adabatch.lab.training import checkpoint, saved_result

POLICY = ["--policy", "noise-scale:2,measure-every=1"]
TRAIN = ["train", "digits", *QUICK, *POLICY]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "run"
    assert run(*TRAIN, "--quiet", "--out", str(out)) == 0
    return out


def test_a_run_says_what_it_measures_and_what_was_found(tmp_path, capsys):
    assert run(*TRAIN, "--progress", "--out", str(tmp_path / "run")) == 0
    said = capsys.readouterr()
    assert "noise from halves of every update\n" in said.err
    assert [line for line in said.err.splitlines() if line.startswith("epoch 2/2") and "  noise scale " in line]
    assert "noise scale" in said.out
    assert "from halves of every update" in said.out


def test_json_has_the_noise_and_the_decisions(trained, tmp_path, capsys):
    assert run(*TRAIN, "--json", "--out", str(tmp_path / "run")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["policy"] == "noise-scale:2,measure-every=1"
    assert found["noise_from"] == "halves of every update"
    assert all(each["noise_low"] > 0 and each["decided"] for each in found["history"])
    assert [each["batch_size"] for each in found["decisions"]] == list(map(int, found["samples_per_second"]))[1:] != []
    for each in found["decisions"]:
        assert each["observation"]["noise"]["low"] < each["interval"][0] * 2
        assert "noise_scale asks for " in each["reason"]
    kept = [json.loads(line) for line in (trained / "decisions.jsonl").read_text().splitlines()]
    assert found["decisions"] == kept


def test_its_settings_are_held_by_a_resume(trained, capsys):
    assert run("train", "--out", str(trained), "--resume", "--quiet") == 0
    assert (
        run("train", "--out", str(trained), "--resume", "--policy", "noise_scale:2.0,measure-every=1", "--quiet") == 0
    )
    capsys.readouterr()
    message = refused(capsys, "train", "--out", str(trained), "--resume", "--policy", "noise-scale:3")
    assert "policy: noise-scale:3 and noise-scale:2,measure-every=1; leave them out" in message


def test_a_batch_that_does_not_grow_says_why(tmp_path, capsys):
    few = ["train", "digits", *QUICK, "--policy", "noise-scale:0.001,measure-every=1", "--out", str(tmp_path / "run")]
    assert run(*few) == 0
    assert "note: the batch did not grow: noise scale " in capsys.readouterr().err


def test_a_curve_of_a_probe_is_kept_and_not_its_path(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = [{"batch_size": size, "samples_per_second": {"median": 100.0 * size}} for size in (16, 64)]
    (tmp_path / "probed").mkdir()
    (tmp_path / "probed" / "probe.json").write_text(json.dumps({"curve": curve}))
    more = ["--policy", "goodput:probed,measure-every=1", "--out", "run", "--json"]
    assert run("train", "digits", *QUICK, *more) == 0
    assert json.loads(capsys.readouterr().out)["config"]["policy"] == "goodput:16:1600 64:6400,measure-every=1"
    (tmp_path / "probed" / "probe.json").unlink()
    assert run("train", "--out", "run", "--resume", "--quiet") == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--policy", "nois"],
            "`--policy` must be one of branch, cabs, diversity, goodput, noise-scale, norm-test, ",
        ),
        (["--policy", "norm-test:0"], "`--policy` norm-test: `eta` must be greater than 0, got 0.0"),
        ([*POLICY, "--growth", "2"], "`--growth` must come without `--policy`, got both; the policy decides when the"),
        ([*POLICY, "--every", "2 epochs"], "`--every` must come without `--policy`, got both; the policy decides when"),
        (
            [*POLICY, "--max-batch-size", "8"],
            "`--max-batch-size` must be at least `--batch-size` = 16, got 8; raise it",
        ),
        ([*POLICY, "--max-batch-size", "2000"], "`--max-batch-size` must be at most the 1,437 samples of the data set"),
        ([*POLICY, "--tune"], "`--tune` must come without a policy, since nobody knows how long each batch size will"),
        (
            [*POLICY, "--compile"],
            "`--compile` must come with `--drop-last` under a policy, got it alone; the last batch",
        ),
    ],
)
def test_what_does_not_fit_is_refused(more, message, tmp_path, capsys):
    assert refused(capsys, "train", "digits", *QUICK, *more, "--out", str(tmp_path / "run")).startswith(message)
    assert not (tmp_path / "run" / "config.json").exists()


def test_more_than_memory_allows_is_refused_before_the_first_update(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("adabatch.memory.all_bytes", lambda device: 2**20)
    assert run(*TRAIN, "--max-batch-size", "1024", "--out", str(tmp_path / "run"), "--quiet") == 2
    message = capsys.readouterr().err
    start = "error: `--micro-batch-size` must be given where batches do not fit into memory, got none that does: "
    assert message.startswith(f"{start}1,024 samples at once would take about ")


def test_a_comparison_takes_arms_with_a_policy(tmp_path, capsys):
    arms = ["--arm", "noisy: policy=noise-scale:2,measure-every=1", "--arm", "norm: policy=norm-test:0.5"]
    assert run("compare", "digits", *QUICK, "--seeds", "2", *arms, "--out", str(tmp_path / "out"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [arm["name"] for arm in found["arms"]] == ["fixed-small", "noisy", "norm"]
    assert found["settings"]["noisy"]["policy"] == "noise-scale:2,measure-every=1"
    for seed in range(2):
        assert saved_result(tmp_path / "out" / "runs" / "noisy" / f"seed-{seed}").decisions
    assert "Noise scale" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--fsdp"]], ids=["ddp", "fsdp"])
def test_processes_decide_together_and_go_on_as_if_unbroken(tmp_path, more):
    """Every rank takes the same sizes, else the collectives would not match; a resumed run is the unbroken one."""
    command = ["train", "digits", *QUICK, *POLICY, *more]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, output, errors = ended(started(*command, "--json", "--out", str(whole)))
    assert code == 0, errors
    found = json.loads(output)
    assert found["noise_from"] == "ranks of every update"
    assert len(found["decisions"]) > 1
    code, _, errors = ended(started(*command, "--epochs", "1", "--quiet", "--out", str(broken)))
    assert code == 0, errors
    resume = ["train", "--out", str(broken), "--resume", "--epochs", "2", "--quiet"]
    code, _, errors = ended(started(*resume))
    assert code == 0, errors
    assert (broken / "decisions.jsonl").read_text() == (whole / "decisions.jsonl").read_text()
    assert same(weights(broken), weights(whole))
    states = [checkpoint.read(out / "checkpoints" / "last.pt")["parts"]["batches"] for out in (broken, whole)]
    assert same(*states)
