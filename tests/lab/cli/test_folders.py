"""Default names of folders are unique; earlier files are kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from adabatch.lab import cli
from adabatch.lab.cli import _folders

PLANNED = ["--batch-size", "8", "--dataset-size", "100", "--epochs", "2", "--lr", "0.1"]
QUICK = ["digits", "--model", "mlp", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_gets_a_folder_of_its_own(here):
    with ExitStack() as around:
        made = [around.enter_context(_folders.new(Path("runs/train"))) for _ in range(3)]
        assert [str(path) for path in made] == ["runs/train", "runs/train-2", "runs/train-3"]
        assert all(path.is_dir() for path in made)
        (made[1] / "config.json").write_text("{}")
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["train-2"]


def test_many_at_once_get_folders_of_their_own(here):
    made, barrier, release = [], threading.Barrier(20), threading.Event()

    def one():
        barrier.wait()
        with _folders.new(Path("runs/train")) as folder:
            made.append(folder)
            release.wait(20)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    while len(made) < 20 and any(thread.is_alive() for thread in threads):
        release.wait(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20
    assert not list(here.glob("runs/*")), "nothing came into them"


def test_a_folder_of_runs_that_was_there_stays(here):
    (here / "runs").mkdir()
    with pytest.raises(KeyError), _folders.new(Path("runs/train")):
        raise KeyError
    assert os.listdir(here / "runs") == []


def test_where_no_folder_can_be_made(here, capsys):
    (here / "runs").write_text("a file")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", *QUICK])
    assert capsys.readouterr().err == (
        "error: `--out` must be given where no folder can be made in runs, got none (File exists: runs); name one that "
        "can be written\n"
    )


@pytest.mark.slow
def test_runs_that_start_at_once(here):
    command = [sys.executable, "-m", "adabatch", "train", *QUICK, "--json"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outs = [json.loads(run.communicate()[0])["out"] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(set(outs)) == 3
    assert all(re.fullmatch(r"runs/train-digits-\d{8}-\d{6}(-\d)?", out) for out in outs)


def test_files_from_before_are_set_aside_together(here):
    def names():
        return sorted(os.listdir(here / "probe"))

    assert _folders.set_aside(here / "probe", "probe.json", "probe.png") is None
    (here / "probe").mkdir()
    for name in ("probe.json", "probe.png", "probe-1.png"):
        (here / "probe" / name).write_text(name)
    assert _folders.set_aside(here / "probe", "probe.json", "probe.png") == "probe-2.json"
    assert names() == ["probe-1.png", "probe-2.json", "probe-2.png"]
    assert _folders.set_aside(here / "probe", "probe.json", "probe.png") is None
    (here / "probe" / "probe.json").write_text("without a picture")
    assert _folders.set_aside(here / "probe", "probe.json", "probe.png") == "probe-3.json"
    assert names() == ["probe-1.png", "probe-2.json", "probe-2.png", "probe-3.json"]
    assert (here / "probe" / "probe-2.json").read_text() == "probe.json"


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
@pytest.mark.filterwarnings("default:no more events")
def test_names_that_are_not_unicode(here, capsys):
    """A folder's name may hold bytes of another encoding, as in old archives."""
    name = os.fsdecode(b"run-\xff")
    quick = [*QUICK, "--out", name]

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        assert ended.value.code == 0
        return capsys.readouterr()

    printed = run("train", *quick)
    assert printed.err.count("warning: no more events for TensorBoard are written in run-") == 1
    assert "run folder: run-?\npage: run-?/report.html" in printed.out.replace(f"{here}/", "")
    assert json.loads(run("train", *quick, "--resume", "--json").out)["out"] == name
    assert run("report", name).out.startswith("Written to ")
    assert (here / name / "report.html").stat().st_size > 10_000
    name = name.replace("run", "compare")
    run("compare", *QUICK, "--out", name, "--seeds", "1", "--every", "0.5", "--arm", "fixed-small", "--json")
    assert {"compare.json", "compare.png", "report.html"} <= set(os.listdir(here / name))
    probe = ["digits", "--batch-size", "64", "--max-batch-size", "128", "--repeats", "1", "--seconds", "0.01"]
    run("probe", *probe, "--out", name.replace("compare", "probe"))
    run("plan", "--preset", "adabatch", "--out", name.replace("compare", "plan"))


@pytest.mark.parametrize(
    ("file", "other"), [("config.json", "run"), ("comparison.json", "comparison"), ("probe.json", "probe")]
)
def test_a_plan_does_not_take_the_place_of_another_page(file, other, here, capsys):
    (here / "there").mkdir()
    (here / "there" / file).write_text("{}")
    (here / "there" / "report.html").write_text("its page")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan", "--lr-schedule", "cosine", "--out", "there", *PLANNED])
    assert f"`--out` must not hold a {other}, got 'there'; take another folder" in capsys.readouterr().err
    assert (here / "there" / "report.html").read_text() == "its page"
    assert not (here / "there" / "plan.json").exists()


def test_a_folder_that_was_made_and_stays_empty_is_removed_after_an_error(tmp_path):
    def fail(folder, *files):
        with suppress(ZeroDivisionError), _folders.kept(folder):
            for file in files:
                (folder / file).write_text("")
            raise ZeroDivisionError

    fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    fail(tmp_path / "a" / "b")
    fail(tmp_path / "a")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    fail(tmp_path / "a" / "c", "file")
    assert (tmp_path / "a" / "c" / "file").exists()
