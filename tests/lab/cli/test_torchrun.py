"""The command under torchrun, in real processes: one run, one voice, and whatever happens to one ends all."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.lab.cli.checks import run
from tests.lab.tasks.images import camvid, cifar
from tests.lab.training.checks import weights

from adabatch.lab.training import checkpoint, saved_result

DIGITS = ["train", "digits", "--batch-size", "16", "--precision", "float64"]
TRAIN = [*DIGITS, "--epochs", "4", "--growth", "2", "--every", "1"]


def started(*arguments, count=2):
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "adabatch", *arguments]
    pipe = subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", *command], stdout=pipe, stderr=pipe, text=True, env=environment)


def ended(process):
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def differ(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def rank(launcher, number):
    """The process of a rank."""
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"RANK={number}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise LookupError(number)


def wait_for(file):
    for _ in range(600):
        if file.exists() and file.read_text().count("\n") > 1:
            return
        time.sleep(0.1)
    raise TimeoutError(file)


def test_one_run_with_one_voice(tmp_path):
    code, output, errors = ended(started(*TRAIN, "--fsdp", "--json", "--progress", "--out", str(tmp_path / "two")))
    assert code == 0, errors
    found = json.loads(output)
    assert len([line for line in errors.splitlines() if line.startswith("epoch ")]) == 4
    assert run(*TRAIN, "--out", str(tmp_path / "one")) == 0
    alone = saved_result(tmp_path / "one")
    assert (found["test_accuracy"], found["updates"]) == (alone.test_accuracy, alone.updates)
    assert (tmp_path / "two" / "report.html").exists()
    assert differ(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-10


def test_ranks_with_other_commands_are_refused(tmp_path):
    both = "[ $RANK = 0 ] && set -- train || set -- compare --seeds 1; exec $PYTHON -m adabatch $@ digits --out $OUT"
    elastic = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    done = subprocess.run(
        [sys.executable, "-m", *elastic, "bash", "-c", both],
        check=False, env=environment, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert "error: `command` must be the same on all ranks, got 'train' on rank 0 and 'compare' on" in done.stderr
    assert "AttributeError" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen", [["camvid", "--batch-size", "4", "--sync-batch-norm"], ["quadratic", "--batch-size", "1001"]]
)
def test_other_objectives_are_exact_over_processes(chosen, tmp_path):
    """Shares of other sizes and with other numbers of void pixels, and micro-batches, give the run of one process."""
    if chosen[0] == "camvid":
        chosen = [*chosen, "--data", str(camvid(tmp_path, size=(80, 75), train=9, test=5))]
    else:
        chosen = [*chosen, "--micro-batch-size", "300"]
    command = ["train", *chosen, "--epochs", "1", "--precision", "float64", "--device", "cpu"]
    code, _, errors = ended(started(*command, "--out", str(tmp_path / "two")))
    assert code == 0, errors
    assert run(*command, "--out", str(tmp_path / "one")) == 0
    one, two = (saved_result(tmp_path / name).history[-1] for name in ("one", "two"))
    assert two.test_loss == pytest.approx(one.test_loss, rel=1e-10)
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-10)
    assert two.test_accuracy == one.test_accuracy


@pytest.mark.slow
def test_clocks_that_differ_make_one_folder(tmp_path):
    train = shlex.join([sys.executable, "-m", "adabatch", *TRAIN, "--quiet"])
    elastic = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, "-m", *elastic, "bash", "-c", f"TZ=UTC$RANK exec {train}"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    (folder,) = (tmp_path / "runs").iterdir()
    assert checkpoint.read(folder / "checkpoints" / "last.pt")["shards"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--sync-batch-norm", "--fsdp"), ("--ghost-batch-size", "4"), ("--ghost-batch-size", "4", "--fsdp")]
)
def test_batch_norm_with_a_tail_of_one_sample(tmp_path, monkeypatch, options):
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    images = ["--data", str(cifar(tmp_path / "data", train=41)), "--model", "resnet20", "--precision", "float64"]
    command = ["train", "cifar10", *images, "--batch-size", "10", "--lr", "0.01", "--epochs", "2", *options]
    code, _, errors = ended(started(*command, "--out", str(tmp_path / "two")))
    assert code == 0, errors
    found = weights(tmp_path / "two")
    assert all(bool(value.isfinite().all()) for value in found.values())
    if options:
        alone = [option for option in command if option != "--fsdp"]
        assert run(*alone, "--out", str(tmp_path / "one"), "--quiet") == 0
        assert differ(weights(tmp_path / "one"), found) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--no-fsdp", "--fsdp"])
def test_a_probe_tells_passes_and_all_reduces_once(tmp_path, how):
    sizes = ["--batch-size", "64", "--max-batch-size", "128", "--repeats", "2", "--seconds", "0.001"]
    code, output, errors = ended(started("probe", "digits", *sizes, how, "--out", str(tmp_path)))
    assert code == 0, errors
    assert output.count("All-reduce over 2 processes (gloo)") == 1
    assert output.count("An all-reduce over 2 processes (gloo) takes ") == 1
    assert ("seconds of passes alone" in output) is (how == "--no-fsdp")
    found = json.loads((tmp_path / "probe.json").read_text())
    assert [point["bytes"] for point in found["communication"]["curve"]] == [4**power for power in range(6, 14)]
    assert "Communication" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--no-fsdp", "--fsdp"])
@pytest.mark.parametrize("start", range(0, 25, 5))
def test_fifty_runs_end_with_code_0(tmp_path, start, how):
    """Gloo's threads may abort an interpreter that ends while a wrapped network is alive: about every second one."""
    few = [*DIGITS, "--batch-size", "256", "--epochs", "1", "--json", how]
    ends = [ended(started(*few, "--out", str(tmp_path / str(number)))) for number in range(start, start + 5)]
    failed = [(code, output, errors) for code, output, errors in ends if code != 0]
    assert not failed, failed[0]


def test_what_all_find_wrong_is_said_once():
    code, output, errors = ended(started("train", "digits", "--batch-size", "5000"))
    assert code != 0
    assert errors.count("error: `--batch-size` must be at most the 1,437 samples of the data set, got 5,000") == 1
    assert (output, "rank 1: " in errors) == ("", False)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "rank 0", "rank 1"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_any_process_saves_once_and_nothing_is_lost(tmp_path, whom, number):
    launcher = started(*DIGITS, "--epochs", "12", "--out", str(tmp_path / "run"))
    wait_for(tmp_path / "run" / "metrics.jsonl")
    os.kill(launcher.pid if whom == "launcher" else rank(launcher, int(whom[-1])), number)
    code, _, errors = ended(launcher)
    assert code != 0
    assert errors.count("interrupted; the run is saved in") == 1, errors
    assert "This is a fault of adabatch" not in errors
    assert not (tmp_path / "run" / "result.json").exists()
    assert run("train", "digits", "--out", str(tmp_path / "run"), "--resume", "--quiet") == 0
    assert run(*DIGITS, "--epochs", "12", "--out", str(tmp_path / "one"), "--quiet") == 0
    assert differ(weights(tmp_path / "one"), weights(tmp_path / "run")) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_ends_the_others_soon(tmp_path, number):
    launcher = started(*DIGITS, "--epochs", "3000", "--out", str(tmp_path / "run"))
    wait_for(tmp_path / "run" / "metrics.jsonl")
    os.kill(rank(launcher, number), signal.SIGKILL)
    begun = time.monotonic()
    code, _, errors = ended(launcher)
    assert code != 0
    assert time.monotonic() - begun < 30
    assert "exitcode  : -9" in errors
    assert "This is a fault of adabatch" not in errors


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0"}, "`WORLD_SIZE` must be a whole number in the environment of a launched process, got none"),
        ({"LOCAL_RANK": "0"}, "`RANK` must be a whole number in the environment of a launched process, got none"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "`RANK` must be below WORLD_SIZE = 2, got 2",
        ),
    ],
)
def test_a_half_set_environment_is_told(monkeypatch, capsys, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(*TRAIN) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("number", "says"), [("0", True), ("1", False)])
def test_what_does_not_train_is_done_by_the_first_process_alone(monkeypatch, capsys, number, says):
    monkeypatch.setenv("RANK", number)
    assert run("list") == 0
    assert bool(capsys.readouterr().out) is says
