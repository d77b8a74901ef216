import json
import re
import shlex
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lab.report.page_branches import branching
from tests.lab.report.page_studies import study
from tests.lab.study.studies import BASE, grid

from adabatch.lab import cli
from adabatch.lab.cli import _studied
from adabatch.lab.training import lock


def test_the_files_of_a_study(tmp_path):
    (note,) = _studied.write_study(study(), tmp_path)
    names = re.findall(r"[\w-]+\.\w+", note.partition(": ")[2])
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "study.json").read_text())["task"] == "digits"


def test_the_files_of_a_branching(tmp_path):
    (note,) = _studied.write_branch(branching(), tmp_path)
    names = re.findall(r"[\w-]+\.\w+", note.partition(": ")[2])
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "schedule.json").read_text()) == json.loads(json.dumps(branching().schedule))
    assert "report.html" in names


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for write, found in ((_studied.write_study, study()), (_studied.write_branch, branching())):
        assert write(found, tmp_path)[1:] == ["For pictures run: pip install 'adabatch[plot]'"]


@pytest.mark.parametrize("place", ["runs/study of mine", "study", "."])
def test_the_commands_that_show_the_limits_of_the_machine(place, tmp_path):
    """They are of the study's network, optimizer and data, from its smallest batch size to beyond its largest."""
    of = grid(base=replace(BASE, data=str(tmp_path), optimizer="nesterov"), models=("mlp", "small_cnn"))
    _, _, line = _studied.to_probe(of, Path(place)).partition(": ")
    *probes, report = [shlex.split(command) for command in line.split(" && ")]
    assert [command[:5] for command in probes] == [["adabatch", "probe", "digits", "--model", "mlp"],
                                                   ["adabatch", "probe", "digits", "--model", "small_cnn"]]  # fmt: skip
    for command in probes:
        options = dict(zip(command[5::2], command[6::2], strict=True))
        assert options.pop("--out") in report
        assert options == {
            "--batch-size": "10", "--max-batch-size": "120", "--optimizer": "nesterov", "--device": "cpu",
            "--threads": "1", "--data": str(tmp_path),
        }  # fmt: skip
    assert report[:3] == ["adabatch", "report", str(Path(place))]


def test_the_commands_run_as_they_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    of, out = grid(), Path("runs") / "mine"
    out.mkdir(parents=True)
    _studied.write_study(study(rules=("linear",)), out)
    _, _, line = _studied.to_probe(of, out).partition(": ")
    probe, report = line.split(" && ")
    for command in (f"{probe} --repeats 2 --seconds 0.01", report):
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(command)[1:])
        assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "comes first" in printed
    assert "Which comes first" in (out / "report.html").read_text()


def test_the_command_that_trains_by_the_schedule():
    (line,) = _studied.to_train(branching(), BASE, Path("runs/b"))
    assert line == (
        "To train by it: adabatch train digits --model mlp --growth-file runs/b/schedule.json --coupling sqrt "
        "--lr 0.02 --epochs 2"
    )
    assert _studied.to_train(branching(growth="none"), BASE, Path("runs/b")) == []


def test_workers_that_end_together_write_in_turns(tmp_path):
    """While another one writes, nothing is written; afterwards all of it."""
    writer = threading.Thread(target=_studied.write_study, args=(study(), tmp_path))
    with lock.held(tmp_path):
        writer.start()
        writer.join(5 * lock.LOOK_SECONDS)
        assert writer.is_alive()
        assert not (tmp_path / "study.json").exists()
    writer.join(60)
    assert {"study.json", "study.csv", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.glob(".*"))
