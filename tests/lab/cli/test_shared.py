"""Bad input: one clear line, exit code 2, nothing half-written; JSON when JSON was asked for."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.lab.cli.checks import refused, run

from adabatch.lab.cli import _shared
from adabatch.lab.training.interrupt import SIGNALS

ONE = ["--model", "mlp", "--epochs", "1", "--device", "cpu"]


BAD = {
    "a growth of 1": (
        ["--growth", "1"],
        "`--growth` must be greater than 1, got 1.0; leave it out for a constant batch",
    ),
    "a growth below 1": (["--growth", "0.5"], "`--growth` must be greater than 1, got 0.5"),
    "a maximum below the start": (
        ["--growth", "2", "--max-batch-size", "8"],
        "`--max-batch-size` must be at least `--batch-size` = 16, got 8; raise it or start smaller",
    ),
    "a batch above the data set": (
        ["--batch-size", "1438"],
        "`--batch-size` must be at most the 1,437 samples of the data set, got 1,438",
    ),
    "growth above the data set": (
        ["--growth", "10", "--every", "0.1", "--max-batch-size", "5000"],
        "`--growth` must not take the batch above the 1,437 samples of the data set",
    ),
    "an interval of zero": (["--growth", "2", "--every", "0"], "`--every` must be longer than 0, got '0'"),
    "an unknown unit": (
        ["--growth", "2", "--every", "4 parsecs"],
        "`--every` must be in epochs, samples, updates, tokens, got 'parsecs'",
    ),
    "an interval without growth": (["--every", "4"], "`--every` must come with `--growth`, got it alone"),
    "a coupling without growth": (["--coupling", "sqrt"], "`--coupling` must come with `--growth`, got it alone"),
    "an unknown coupling": (["--growth", "2", "--coupling", "cubic"], "`--coupling` must be one of"),
    "a coupling for another optimizer": (["--growth", "2", "--optimizer", "adam"], "linear"),
    "an unknown model": (["--model", "vgg"], "`--model` must be one of small_cnn, mlp, resnet20, got 'vgg'"),
    "an unknown optimizer": (["--optimizer", "lion"], "`--optimizer` must be one of sgd, nesterov, adam, adamw"),
    "an unknown device": (["--device", "tpu"], "`--device` must be one of auto, cpu, cuda, cuda:N, mps, got 'tpu'"),
    "an LR schedule": (["--lr-schedule", "step"], "`--lr-schedule` must be a schedule, got 'step'; write constant"),
    "an LR of 0": (["--lr", "0"], "`--lr` must be greater than 0, got 0.0"),
    "no whole number": (["--epochs", "x"], "'--epochs'"),
    "no such option": (["--grow", "2"], "--grow"),
    "a data folder for digits": (["--data", "here"], "`--data` must not be given for digits, got 'here'"),
    "a blank folder": (["--out", " "], "'--out': must name a folder or a file, got ' '"),
    "a blank data folder": (["--data", ""], "`--data` must name a folder, got ''; leave it out or write a name"),
    "a seed beyond the generators": (["--seed", str(2**64)], "`--seed` must be at most 9,223,372,036,854,775,807"),
    "far too many threads": (["--threads", "100000000"], "`--threads` must be at most 1,024, got 100000000"),
    "a coupling of something else": (["--growth", "2", "--coupling", "power(nan)"], "write it as a name or a call"),
    "resume without a folder": (["--resume"], "`--resume` must come with `--out`, the folder of the run, got none"),
}


@pytest.mark.parametrize("name", BAD)
def test_options(tmp_path, capsys, monkeypatch, name):
    options, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", "digits", *ONE, *options)
    assert os.listdir(tmp_path) == []


def test_the_largest_batch_is_named_as_it_is_typed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("To be, or not to be, that is the question.\n" * 280)
    options = ["gpt-tiny", "--data", "text.txt", "--epochs", "2", "--rule", "smith", "--lr-schedule", "cosine"]
    for command in ("train", "compare"):
        message = refused(capsys, command, *options, "--batch-size", "16")
        assert message.startswith("`--max-batch-size` must be given where the start, 16, is above a tenth of the ")


def test_an_unknown_task_and_an_unknown_command(capsys):
    message = refused(capsys, "train", "digts")
    assert message.startswith("`TASK` must be one of digits, mnist, fashion_mnist")
    assert message.endswith("got 'digts'")
    assert "'trian'" in refused(capsys, "trian")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path, capsys):
    out = tmp_path / "run"
    assert "`--device` must be there, got 'cuda'" in refused(
        capsys, "train", "digits", "--device", "cuda", "--out", str(out)
    )
    assert not out.exists()


def test_data_folders(tmp_path, capsys, monkeypatch):
    out, missing = tmp_path / "run", tmp_path / "missing"
    command = ["train", "mnist", "--epochs", "1", "--out", str(out)]
    message = refused(capsys, *command, "--data", str(missing))
    assert message.startswith(f"`--data` must be a folder, got '{missing}', which is none")
    assert "`--data` must hold mnist/train-*.parquet or train-*.parquet" in refused(
        capsys, *command, "--data", str(tmp_path)
    )
    monkeypatch.setenv("ADABATCH_DATA", str(missing))
    assert refused(capsys, *command).startswith(f"`ADABATCH_DATA` must be a folder, got '{missing}'")
    (tmp_path / "train-0.parquet").write_text("no Parquet")
    assert "must be a Parquet file" in refused(capsys, *command, "--data", str(tmp_path))
    assert not out.exists()


def test_a_folder_that_holds_a_run(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert run("train", "digits", *ONE, "--out", out) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}
    capsys.readouterr()
    assert "`--out` must not hold a run yet" in refused(capsys, "train", "digits", *ONE, "--out", out)
    message = refused(capsys, "train", "digits", "--lr", "0.5", "--seed", "9", "--out", out, "--resume")
    assert "got others (now and saved): lr: 0.5 and " in message
    assert "; seed: 9 and 0; leave them out or take another folder" in message
    message = refused(capsys, "train", "mnist", "--out", out, "--resume")
    assert "task: mnist and digits" in message
    assert "`--out` must hold a run to resume" in refused(capsys, "train", "digits", "--out", str(tmp_path), "--resume")
    assert before == {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}


def test_damaged_and_foreign_checkpoints(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "digits", *ONE, "--out", str(out)) == 0
    capsys.readouterr()
    (out / "result.json").unlink()
    last = out / "checkpoints" / "last.pt"
    whole = last.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"hello"):
        last.write_bytes(damaged)
        message = refused(capsys, "train", "digits", "--out", str(out), "--resume")
        assert f"`checkpoint` {last} must be whole, got a damaged" in message
        assert last.read_bytes() == damaged
    torch.save({"state_dict": {}}, last)
    assert "must be one of adabatch's runs" in refused(capsys, "train", "digits", "--out", str(out), "--resume")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "`--out` must hold a run to resume, got a damaged {file} ({what}); take another folder"),
        ("result.json", "`--out` must hold a run, got a damaged {file} ({what}); remove the file and resume"),
        ("checkpoints/last.pt", "`checkpoint` {file} must be whole, got {what}; best.pt is there: take best as "),
        ("metrics.jsonl", "`--out` must hold what its checkpoint last.pt counts on, got a damaged {file} ({what}); "),
    ],
)  # fmt: skip
def test_what_is_no_file_is_said_and_nothing_waits(tmp_path, capsys, name, words):
    out = tmp_path / "run"
    file = out / name
    assert run("train", "digits", *ONE, "--out", str(out)) == 0
    (out / "result.json").unlink()
    file.unlink(missing_ok=True)
    capsys.readouterr()
    for damage, what in (
        (os.mkfifo, "a pipe"),
        (os.mkdir, "a folder"),
        (lambda f: f.symlink_to("/dev/zero"), "a device"),
    ):
        damage(file)
        message = refused(capsys, "train", "digits", "--out", str(out), "--resume")
        assert message.startswith(words.format(file=file, what=f"{what} in place of a file"))
        file.rmdir() if what == "a folder" else file.unlink()
    if file.suffix == ".json":
        file.write_text('{"task": ' + "[" * 100_000 + "]" * 100_000 + "}")
        message = refused(capsys, "train", "digits", "--out", str(out), "--resume")
        assert message.startswith(words.format(file=file, what="more than 50 levels of values in each other"))


def test_an_output_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("here already")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/adabatch")):
        message = refused(capsys, "train", "digits", *ONE, "--out", str(out))
        assert message.startswith(f"`--out` must be a folder that can be written, got '{out}' (")
        assert message.endswith("; free space or take another folder")
    assert (tmp_path / "file").read_text() == "here already"


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
def test_a_read_only_output_folder(tmp_path):
    """Runs in a process that permissions apply to; they do not apply to root."""
    plain = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    tmp_path.chmod(0o500)
    command = [*plain, sys.executable, "-m", "adabatch", "train", "digits", *ONE, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: `--out` must be a folder that can be written")
    assert "Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [100, pytest.param(600, marks=pytest.mark.slow), 30_000])
def test_a_full_disk(tmp_path, limit):
    """A limit on the size of files stands for a disk that fills up: at the settings, the logs, a checkpoint."""
    code = (
        "import resource, sys; from adabatch.lab.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "main(sys.argv[1:])"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    out = tmp_path / "run"
    command = [sys.executable, "-c", code, "train", "digits", *ONE, "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == ""
    message = json.loads(done.stdout)["error"]["message"]
    assert message.startswith(f"`--out` must be a folder that can be written, got '{out}' (")
    assert not list(out.rglob(".*")), "no half of a file is left"
    assert not (out / "checkpoints" / "last.pt").exists()
    for name in ("config.json", "versions.json"):
        if (out / name).exists():
            json.loads((out / name).read_text())
    for name in ("metrics.jsonl", "decisions.jsonl"):
        if (out / name).exists():
            assert all(json.loads(line) for line in (out / name).read_text().splitlines())


def test_a_fault_of_the_program_keeps_its_traceback_and_asks_for_a_report():
    @_shared.guarded
    def command(as_json: bool) -> None:
        {}[1]

    with pytest.raises(KeyError):
        command(as_json=False)
    code = (
        "import sys; from adabatch.lab import cli, planner\n"
        "planner.find = lambda *_, **__: int('x')  # of a kind that bad input raises too, but by a bug\n"
        "cli.main(sys.argv[1:])"
    )
    for more in ([], ["--json"]):
        words = [sys.executable, "-c", code, "plan", "--preset", "adabatch", *more]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Traceback (most recent call last):\n")
        *_, error, _, line = done.stderr.strip().splitlines()
        assert error == "ValueError: invalid literal for int() with base 10: 'x'"
        assert line.startswith("This is a fault of adabatch, not yours: please report it, with the lines above")


def test_errors_in_json_name_the_option_at_fault(capsys):
    def argument(*typed):
        assert run(*typed, "--json") == 2
        return json.loads(capsys.readouterr().out)["error"]["argument"]

    assert argument("train", "digts") == "TASK"
    assert argument("train", "digits", "--growth", "2", "--optimizer", "adam") == "--coupling"
    assert argument("train", "digits", "--rule", "seesaw") == "--rule"
    assert argument("plan", "--preset", "smith-increase", "--max-batch-size", "8") == "--max-batch-size"
    assert argument("train", "digits", "--epochs", "x") == "--epochs"
    assert argument("trian") is None


@pytest.fixture
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    _shared.handle(before)


@pytest.mark.usefixtures("_signals_as_before")
def test_an_interrupt_outside_training():
    import typer

    @_shared.guarded
    def command(as_json: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        command(as_json=False)
    assert caught.value.exit_code == 130
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}, "it is ending"


def test_nothing_asked_for_prints_the_help_alone(capsys):
    assert run() == 2
    printed = capsys.readouterr()
    assert "Usage: adabatch" in printed.out
    assert printed.err == ""


def test_what_is_missing_is_named(capsys):
    assert refused(capsys, "report") == "Missing argument 'FOLDER'; --help shows what there is"


def test_the_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "adabatch", "list"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("schedules\n")
    done = subprocess.run([sys.executable, "-m", "adabatch", "train"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Missing argument 'TASK'")


def test_a_page_replaces_files_alone(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "digits", *ONE, "--out", str(out)) == 0
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    capsys.readouterr()
    message = refused(capsys, "report", str(out), "--out", str(pipe))
    assert message.startswith(f"`--out` must be a file, got '{pipe}', which is something else")
    assert pipe.is_fifo()
    (tmp_path / "page.html").write_text("old")
    link = tmp_path / "link.html"
    link.symlink_to(tmp_path / "page.html")
    assert run("report", str(out), "--out", str(link)) == 0
    assert link.is_symlink()
    assert (tmp_path / "page.html").stat().st_size > 20_000
    capsys.readouterr()
    assert "must name a folder or a file, got ''" in refused(capsys, "report", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [[], ["-u"]])
@pytest.mark.parametrize("given", [["list"], ["list", "--json"], ["--version"], ["--help"], ["train", "--help"], []])
def test_a_full_standard_output(given, buffered):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, *buffered, "-m", "adabatch", *given]
        plain = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=plain)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device: standard output; what was written elsewhere is there\n"
