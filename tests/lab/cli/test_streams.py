"""Pipes whose reader has gone away, closed streams, terminals that hung up: nothing is lost and nothing is said."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adabatch.lab import cli
from adabatch.lab.cli import _streams

QUICK = ["train", "digits", "--model", "mlp", "--epochs", "1", "--device", "cpu"]
PRINTING = {
    "list": ["list"],
    "list as JSON": ["list", "--json"],
    "the version": ["--version"],
    "the help": ["--help"],
    "the help of a command": ["train", "--help"],
    "nothing": [],
}


@pytest.fixture
def unread():
    """The writing end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def run(*arguments, **streams):
    command = [sys.executable, "-m", "adabatch", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(command, text=True, check=False, **streams)


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("name", PRINTING)
def test_a_reader_that_goes_away_ends_it_quietly(unread, monkeypatch, name, buffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    done = run(*PRINTING[name], stdout=unread)
    assert done.stderr == ""
    assert done.returncode == (2 if name == "nothing" else 141)


@pytest.mark.slow
def test_a_plan_that_nobody_reads_to_its_end(unread):
    done = run("plan", "--preset", "smith-increase", stdout=unread)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_error_that_nobody_reads_keeps_its_exit_code(unread):
    assert run("trian", stderr=unread).returncode == 2
    assert run("trian", "--json", stdout=unread).returncode == 2


@pytest.mark.slow
def test_a_training_goes_on_when_its_reader_goes_away(tmp_path, unread):
    done = run(*QUICK, "--micro-batch-size", 8, "--out", tmp_path / "deaf", stdout=unread, stderr=unread)
    assert done.returncode == 141
    assert json.loads((tmp_path / "deaf" / "result.json").read_text())["updates"] == 90
    assert (tmp_path / "deaf" / "report.html").exists()


@pytest.mark.slow
def test_who_reads_the_result_alone_gets_it(tmp_path, unread):
    done = run(*QUICK, "--json", "--out", tmp_path / "run", stderr=unread)
    assert done.returncode == 0
    assert json.loads(done.stdout)["updates"] == 90


@pytest.mark.slow
def test_a_comparison_goes_on_when_its_reader_goes_away(tmp_path, unread):
    arms = ["--every", "0.5", "--arm", "fixed-small", "--arm", "adaptive"]
    more = ["--seeds", "2", *arms, "--out", tmp_path / "compare"]
    done = run("compare", *QUICK[1:], *more, stdout=unread, stderr=unread)
    assert done.returncode == 141
    assert sorted(path.name for path in (tmp_path / "compare").glob("*.*") if not path.name.startswith(".")) == [
        "compare.json", "compare.md", "compare.png", "comparison.json", "report.html",
    ]  # fmt: skip


def run_closed(closed, *arguments):
    """Runs a command whose streams a shell closes first."""
    line = f'"$0" -m adabatch "$@" {closed}'
    command = ["sh", "-c", line, sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed):
    done = run_closed(closed, "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("schedules\n" if closed == "2>&-" else "")
    assert (done.stdout == "") == (closed != "2>&-")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_no_file_of_a_run_takes_the_place_of_a_closed_stream(tmp_path, closed):
    done = run_closed(closed, *QUICK, "--quiet", "--out", tmp_path / "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == "mlp"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "run" / "result.json").read_text().startswith("{")


def test_what_goes_to_a_closed_standard_error_does_not_come_out_elsewhere():
    done = run_closed("2>&-", "trian")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_terminal_that_hangs_up_is_a_reader_that_goes_away():
    there, here = os.openpty()
    with os.fdopen(here, "w") as terminal:
        stream = _streams.Stream(terminal)
        assert stream.write("seen\n") == 5
        stream.flush()
        before = stream.gone
        os.close(there)
        assert stream.write("lost\n") == 5
        stream.flush()
        assert (before, stream.gone) == (False, True)
        stream.end()


def test_other_errors_of_standard_output_stay_errors():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    stream = _streams.Stream(Full())
    with pytest.raises(OSError, match="No space left"):
        stream.write("text")
    assert not stream.gone
    assert _streams.Stream(Full(), forgives_all=True).write("text") == 4


def test_streams_are_as_before_afterwards(monkeypatch, capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    monkeypatch.setattr(cli, "app", lambda *_: {}["a fault of the program"])
    with pytest.raises(KeyError):
        cli.main(["list"])
    assert (sys.stdout, sys.stderr) == before


def test_no_reader_at_all_in_a_notebook(monkeypatch):
    """A stream without a file descriptor still works."""

    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    stream = _streams.Stream(Broken())
    assert (stream.write("lost"), stream.gone) == (4, True)


@pytest.mark.slow
def test_a_recipe_goes_on_when_its_reader_goes_away(tmp_path, unread):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 2_000)
    command = [
        sys.executable,
        "-m",
        "adabatch.lab.recipes.gpt_ramp",
        "--data",
        str(text),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, "--seeds", "1", "--tokens", "36864"], stdout=unread, stderr=unread, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out" / "gpt_ramp.json").exists()
    assert Path(tmp_path / "out" / "gpt-ramp.png").exists()
