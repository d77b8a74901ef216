from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest
from tests.lab.cli.checks import QUICK, run

from adabatch.lab import cli
from adabatch.lab.training import RunConfig, checkpoint, reporting, saved_config, saved_result, train


def test_a_growing_run(tmp_path, capsys):
    out = tmp_path / "run"
    growth = ["--growth", "2", "--every", "1", "--max-batch-size", "32", "--coupling", "sqrt(any_optimizer=True)"]
    more = [
        "--lr",
        "0.01",
        "--lr-schedule",
        "step:0.5:1",
        "--momentum",
        "0.8",
        "--weight-decay",
        "0.001",
        "--seed",
        "3",
    ]
    last = ["--optimizer", "nesterov", "--micro-batch-size", "20", "--batch-size", "24", "--threads", "1"]
    assert run("train", "digits", *QUICK, *growth, *more, *last, "--out", str(out)) == 0
    expected = RunConfig.for_task(
        "digits", model="mlp", epochs=2, device="cpu", growth=2.0, every="1", max_batch_size=32, lr=0.01,
        coupling="sqrt(any_optimizer=True)", lr_schedule="step:0.5:1", momentum=0.8, weight_decay=0.001, seed=3,
        optimizer="nesterov", micro_batch_size=20, batch_size=24, threads=1,
    )  # fmt: skip
    assert saved_config(out) == expected
    result = saved_result(out)
    assert result is not None
    assert result.batch_sizes == (24, 32)
    printed = capsys.readouterr().out
    assert f"{100 * result.test_accuracy:.2f} %" in printed
    assert f"{result.updates:,}" in printed
    assert str(out) in printed
    assert "\x1b" not in printed, "no colours when it is not a terminal"


def test_without_growth_the_batch_is_constant(tmp_path, capsys):
    assert run("train", "digits", *QUICK, "--out", str(tmp_path / "run"), "--json") == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert captured.err == ""
    assert printed["batch_sizes"] == [16]
    assert printed["config"]["growth"] is None
    assert (printed["task"], printed["out"], printed["updates"]) == ("digits", str(tmp_path / "run"), 180)
    assert printed["test_accuracy"] == saved_result(tmp_path / "run").test_accuracy


def test_the_folder_without_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "digits", *QUICK, "--json") == 0
    out = json.loads(capsys.readouterr().out)["out"]
    assert out.startswith("runs/train-digits-")
    assert saved_result(tmp_path / out) is not None


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)
    out, flags = tmp_path / "a run", [*QUICK, "--growth", "2", "--every", "1"]
    original = reporting.Reporter.stands

    def stop(self, clock, tally, **more):
        original(self, clock, tally, **more)
        if tally.updates == 50:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(reporting.Reporter, "stands", stop)
    assert run("train", "digits", *flags, "--out", str(out)) == 130
    printed = capsys.readouterr()
    again = f"adabatch train digits --out '{out}' --resume"
    assert printed.err == f"interrupted; the run is saved in {out}; to go on: {again}\n"
    assert printed.out == ""
    monkeypatch.undo()
    assert run("train", "digits", "--out", str(out), "--resume", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    whole = train(RunConfig.for_task("digits", model="mlp", epochs=2, device="cpu", growth=2.0, every="1"))
    assert found["test_accuracy"] == whole.test_accuracy
    assert [line["test_loss"] for line in found["history"]] == [line.test_loss for line in whole.history]
    assert run("train", "digits", *flags, "--out", str(out), "--resume") == 0, "the same settings may be repeated"


MAIN = [sys.executable, "-c", "from adabatch.lab.cli import main; main()", "train", "digits", "--model", "mlp"]


RARELY = ["--evaluate-every", "4000 epochs", "--save-every", "1 hour"]


def started(out, *options: str, before=(), until="config.json", **how):
    """A process that trains, or is about to; it may not have saved yet unless the caller waits for that."""
    command = [*before, *MAIN, "--epochs", "5000", "--out", str(out), *options]
    process = subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how})
    while not (out / until).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def updates(out) -> int:
    return int(checkpoint.read(out / "checkpoints" / "last.pt")["updates"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_real_signal_to_a_real_process(tmp_path, number):
    """The exit code is the one that shells expect after a signal: 130, 143, 129."""
    out = tmp_path / "run"
    process = started(out, "--json", *RARELY)
    process.send_signal(number)
    printed, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (128 + number, "")
    assert f"adabatch train digits --out {out} --resume" in json.loads(printed)["interrupted"]["message"]
    assert updates(out) > 0
    assert not (out / "result.json").exists()


def test_a_closed_connection_ends_nothing_that_is_to_outlive_it(tmp_path):
    out = tmp_path / "run"
    process = started(out, before=["nohup"], until="checkpoints/last.pt", stdin=subprocess.DEVNULL)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    before = updates(out)
    while updates(out) == before:
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 143


def test_a_terminal_that_is_closed(tmp_path):
    """The terminal is gone before anything can be printed: the run is saved, and all its processes have ended."""
    out = tmp_path / "run"
    master, slave = pty.openpty()
    process = started(
        out, *RARELY,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    os.close(master)
    assert process.wait(timeout=120) == 129
    assert updates(out) > 0
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize(
    ("number", "pause"),
    [(signal.SIGINT, 0.001), *(pytest.param(n, p, marks=pytest.mark.slow) for n in (2, 15, 1) for p in (0.0, 0.01))],
)
def test_a_key_that_is_held_down(tmp_path, number, pause):
    """Further signals print no traceback and lose neither the checkpoint nor the message."""
    out = tmp_path / "run"
    process = started(out, *RARELY)
    deadline = time.monotonic() + 0.9
    for _ in range(5 if not pause else 10**6):
        if process.poll() is not None or time.monotonic() > deadline:
            break
        process.send_signal(number)
        time.sleep(pause)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert said == f"interrupted; the run is saved in {out}; to go on: adabatch train digits --out {out} --resume\n"
    assert updates(out) > 0
    assert not list(out.rglob(".*"))


@pytest.mark.slow
def test_a_key_that_is_held_down_before_it_trains(tmp_path):
    out = tmp_path / "run"
    for after in (0.3, 0.6, 0.9, 1.2):
        process = subprocess.Popen([*MAIN, "--epochs", "5000", "--out", str(out / str(after))], stderr=subprocess.PIPE)
        time.sleep(after)
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        _, said = process.communicate(timeout=120)
        assert process.returncode in (130, -signal.SIGINT)  # before the command is there, it is Python that ends
        assert b"Exception ignored" not in said


def test_from_the_best_checkpoint_where_the_last_is_gone(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "digits", *QUICK, "--out", str(out), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (out / "result.json").unlink()
    (out / "checkpoints" / "last.pt").unlink()
    metrics = (out / "metrics.jsonl").read_bytes()
    assert run("train", "digits", "--out", str(out), "--resume") == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: `--resume` must find {out}/checkpoints/last.pt, which is not there; previous.pt and best.pt are "
        "there: take previous or best as `--resume-from`, or remove the run folder to start again\n"
    )
    assert (out / "metrics.jsonl").read_bytes() == metrics
    assert run("train", "digits", "--out", str(out), "--resume-from", "best", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == found["test_accuracy"]


def test_more_epochs(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "digits", *QUICK[:2], "--epochs", "1", "--out", str(out)) == 0
    assert run("train", "digits", "--out", str(out), "--resume", "--epochs", "2") == 0
    whole = train(RunConfig.for_task("digits", model="mlp", epochs=2))
    assert saved_result(out).test_accuracy == whole.test_accuracy
    assert saved_config(out).epochs == 2
    assert run("train", "digits", *QUICK[:2], "--epochs", "1", "--lr-schedule", "cosine", "--out", str(out) + "2") == 0
    capsys.readouterr()
    assert run("train", "digits", "--out", str(out) + "2", "--resume", "--epochs", "2") == 2
    assert capsys.readouterr().err == (
        "error: `--epochs` must stay 1, got 2: the LRs of `--lr-schedule` cosine up to epoch 1 depend on the length of "
        "the training; leave it out, or start a new run of that length\n"
    )


def test_how_often_it_is_evaluated_and_saved(tmp_path):
    out = tmp_path / "run"
    options = ["--evaluate-every", "60 updates", "--save-every", "5min"]
    assert run("train", "digits", *QUICK, *options, "--out", str(out)) == 0
    assert [found.updates for found in saved_result(out).history] == [60, 120, 180]
    assert (saved_config(out).evaluate_every, saved_config(out).save_every) == ("60 updates", "5min")


def test_help_is_quick_and_loads_no_torch():
    code = (
        "import sys; from adabatch.lab import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as done: print(done.code, [m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    for arguments in (["--help"], *([name, "--help"] for name in cli.COMMANDS), ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 []"
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    assert "adabatch train digits --growth 2 --every 4 --max-batch-size 256" in done.stdout
    flags = (
        "model batch-size growth every max-batch-size coupling lr lr-schedule momentum weight-decay optimizer epochs "
        "micro-batch-size resume resume-from evaluate-every save-every json seed device out data"
    )
    for flag in flags.split():
        assert f"--{flag} " in done.stdout


def test_a_missing_package_is_named():
    code = (
        "import sys, importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'rich' else real(name, *more)\n"
        "from adabatch.lab.cli import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "the command line needs rich; run: pip install 'adabatch[cli]'\n"


def test_the_fastest_micro_batch(tmp_path, monkeypatch):
    """`auto` measures once; the run is the one with the size found."""
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    auto, out = ["--micro-batch-size", "auto", "--batch-size", "64"], tmp_path / "auto"
    assert run("train", "digits", *QUICK, *auto, "--out", str(out)) == 0
    (kept,) = (tmp_path / "cache").glob("probe-*.json")
    points = json.loads(kept.read_text())["points"]
    assert [point["micro_batch_size"] for point in points] == [1, 2, 4, 8, 16, 32, 64]
    fastest = max(points, key=lambda point: point["micro_batch_size"] / point["seconds"])["micro_batch_size"]
    config = saved_config(out)
    assert config.micro_batch_size == (None if fastest == 64 else fastest)
    assert train(config).test_accuracy == saved_result(out).test_accuracy
    for point in points:  # as on a machine where small pieces are faster
        point["seconds"] = 1.0 if point["micro_batch_size"] == 64 else 0.001
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"points": points}))
    assert run("train", "digits", *QUICK, *auto, "--out", str(tmp_path / "second")) == 0
    assert saved_config(tmp_path / "second").micro_batch_size == 32


def test_a_micro_batch_size_that_is_none(tmp_path, capsys):
    assert run("train", "digits", *QUICK, "--micro-batch-size", "many", "--out", str(tmp_path / "run")) == 2
    assert "`--micro-batch-size` must be a whole number or auto, got 'many'" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_says_that_it_starts_from_its_beginning(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "digits", *QUICK, "--out", str(out)) == 0
    (out / "result.json").unlink()
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    capsys.readouterr()
    assert run("train", "digits", "--out", str(out), "--resume", "--quiet") == 0
    assert capsys.readouterr().err == f"no checkpoint was saved in {out} yet; the run starts from its beginning\n"


def test_growth_that_never_comes_is_noted(tmp_path, capsys):
    assert (
        run("train", "digits", *QUICK, "--growth", "2", "--every", "2", "--out", str(tmp_path / "run"), "--json") == 0
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out)["batch_sizes"] == [16]
    assert "note: the batch did not grow" in printed.err
    assert run("train", "digits", *QUICK, "--growth", "2", "--every", "1", "--out", str(tmp_path / "grown")) == 0
    assert "note:" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m[/b]", "m[red]x", ":snake:"])
def test_a_path_is_printed_as_it_is(tmp_path, capsys, name):
    out = tmp_path / name
    assert run("train", "digits", *QUICK[:2], "--epochs", "1", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"run folder: {out}\npage: {out / 'report.html'}\n")
    assert "test accuracy" in printed


def test_a_page_that_cannot_be_written_is_said_in_words(tmp_path, capsys):
    out = tmp_path / "run"
    (out / "report.html").mkdir(parents=True)
    assert run("train", "digits", *QUICK[:2], "--epochs", "1", "--out", str(out)) == 0
    assert capsys.readouterr().out.endswith(
        f"no page: out must be a file, got '{out / 'report.html'}', which is something else; take another place\n"
    )
