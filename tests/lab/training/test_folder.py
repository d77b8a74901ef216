from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
from tests.lab.training.test_records import evaluation

from adabatch import _files
from adabatch.lab.training import Evaluation, RunConfig, folder, saved_config, saved_result, train, writing
from adabatch.lab.training.folder import RunFolder
from adabatch.types import Decision


def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    """A limit on the size of files stands for a disk that fills up in the middle of a line."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from adabatch.lab.training import Evaluation, RunConfig; from adabatch.lab.training.folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]), config=RunConfig.for_task('digits'), versions={}, resume=False)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (800, resource.RLIM_INFINITY))\n"
        "folder._log_events = lambda evaluation: None\n"
        "try:\n"
        "    while True: folder.log(Evaluation(160, 1, 10, 0.5, 16, 0.1, 1.0, 0.5, 0.75))\n"
        "except OSError as error: print(error)\n"
    )
    out = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"`out` must be a folder that can be written, got '{out}' (No space left on device")
    text = (out / "metrics.jsonl").read_text()
    assert text.endswith("}\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) >= 2
    assert all(line["samples"] == 160 for line in lines)


def test_errors_of_the_file_system_name_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    message = "`out` must be a folder that can be written, got .*; free space or take another folder$"
    with pytest.raises(NotADirectoryError, match=message), writing(tmp_path):
        (tmp_path / "file" / "below").write_text("")
    with pytest.raises(OSError, match=r"^already in words$"), writing(tmp_path):
        raise OSError("already in words")


def test_what_is_not_there_and_what_is_damaged(tmp_path):
    assert saved_result(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="`out` must hold a run to resume"):
        saved_config(tmp_path)
    (tmp_path / "result.json").write_text('{"test_accuracy": 1.0}')
    with pytest.raises(ValueError, match=r"got a damaged .*result.json .*; remove the file and resume"):
        saved_result(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "digits"}')
    with pytest.raises(ValueError, match=r"`out` must hold a run to resume, got a damaged .*config.json"):
        saved_config(tmp_path)


@pytest.mark.parametrize("other", ["comparison", "plan", "probe"])
def test_a_run_does_not_move_in_where_another_page_is(other, tmp_path):
    (tmp_path / f"{other}.json").write_text("{}")
    with pytest.raises(FileExistsError, match=rf"`out` must not hold a {other}, got .*; take another folder"):
        train(RunConfig.for_task("digits", epochs=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{other}.json"]


def test_only_one_process_trains_in_a_folder(tmp_path):
    config = RunConfig.for_task("digits", epochs=1, batch_size=512)
    message = "`out` must be a folder in which no other process trains, got "
    run = RunFolder(tmp_path / "run", config=config, versions={}, resume=False)
    before = sorted(tmp_path.rglob("*"))
    for resume in (False, True):
        with pytest.raises(BlockingIOError, match=message):
            train(config, tmp_path / "run", resume=resume)
    assert sorted(tmp_path.rglob("*")) == before
    run.close()
    assert train(config, tmp_path / "run", resume=True).updates == 3
    with pytest.raises(FileExistsError, match="`out` must not hold a run yet"):
        train(config, tmp_path / "run")
    assert not list(tmp_path.rglob(".lock"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread ends
@pytest.mark.parametrize("change", ["a file of that name", "a name that is not UTF-8", "gone in the middle"])
def test_events_that_cannot_be_written_end_no_training(tmp_path, change):
    """The warning comes once."""
    pytest.importorskip("tensorboard")
    out = tmp_path / (os.fsdecode(b"run-\xff") if change == "a name that is not UTF-8" else "run")
    out.mkdir()
    if change == "a file of that name":
        (out / "tensorboard").write_text("")
    message = r"^no more events for TensorBoard are written in .*run.* \(\w+: .*\); the training goes on without$"
    events = []

    def progress(now):
        if change == "gone in the middle" and now.epoch == 1 and not events:
            events.append(shutil.move(out / "tensorboard", tmp_path))
            (out / "tensorboard").write_text("")

    config = RunConfig.for_task("digits", model="mlp", epochs=4)
    with pytest.warns(UserWarning, match=message) as told:
        result = train(config, out, progress=progress)
    assert len(told) == 1
    assert len(result.history) == len((out / "metrics.jsonl").read_text().splitlines()) == 4
    assert saved_result(out) == result


# The logs: read back as far as a checkpoint knows them.


@pytest.fixture
def written(tmp_path):
    """A log of three evaluations; the file and the records."""
    path, records = tmp_path / "metrics.jsonl", [evaluation(160 * n, n / 10) for n in (1, 2, 3)]
    for record in records:
        _files.append(path, (json.dumps(asdict(record)) + "\n").encode())
    _files.sync(path)
    return path, records


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_first_lines_are_read_and_their_bytes_counted(written, count):
    path, records = written
    found, size = folder.read_log(path, Evaluation, count)
    assert found == records[:count]
    os.truncate(path, size)
    assert len(path.read_text().splitlines()) == count


def test_a_half_line_is_none(written):
    path, records = written
    with path.open("a") as file:
        file.write('{"samples": 640')
    assert folder.read_log(path, Evaluation, 3)[0] == records
    with pytest.raises(ValueError, match=r"^3 whole lines of 4$"):
        folder.read_log(path, Evaluation, 4)


def test_a_log_that_is_not_there_has_no_line(tmp_path):
    assert folder.read_log(tmp_path / "decisions.jsonl", Decision, 0) == ([], 0)
    with pytest.raises(ValueError, match=r"^0 whole lines of 2$"):
        folder.read_log(tmp_path / "decisions.jsonl", Decision, 2)


def test_a_pipe_in_place_of_a_log(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^a pipe in place of a file$"):
        folder.read_log(tmp_path / "pipe", Evaluation, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lr": "x"}, "`lr` must be a number from 0 on, got 'x'"),
        ({"lr": -1.0}, "`lr` must be a number from 0 on, got -1.0"),
        ({"updates": 1.5}, "`updates` must be a whole number from 0 on, got 1.5"),
        ({"samples": True}, "`samples` must be a whole number from 0 on, got True"),
        ({"test_accuracy": 1.5}, "`test_accuracy` must be at most 1, got 1.5"),
        ({"test_loss": []}, r"`test_loss` must be a number or null, got \[\]"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
        ({"seconds": 10**400}, "`seconds` must be a number from 0 on, got 10"),
    ],
    ids=str,
)
def test_a_line_of_something_else(written, change, reason):
    path, records = written
    lines = path.read_text().splitlines()
    lines[1] = str(asdict(records[1]) | change).replace("'", '"').replace("True", "true").replace("None", "null")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"^line 2: .*{reason}"):
        folder.read_log(path, Evaluation, 3)
    assert folder.read_log(path, Evaluation, 1)[0] == records[:1]


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "[" * 9999, "\udcff"])
def test_a_line_that_is_no_record(written, line):
    path, _ = written
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=r"^line 4: "):
        folder.read_log(path, Evaluation, 4)
