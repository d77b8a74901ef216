from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from adabatch.lab.training import RunConfig, saved_config, saved_result, train, writing
from adabatch.lab.training.folder import RunFolder


def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    """A limit on the size of files stands for a disk that fills up in the middle of a line."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from adabatch.lab.training import Evaluation, RunConfig; from adabatch.lab.training.folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]), config=RunConfig.for_task('digits'), versions={}, resume=False)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))\n"
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


def test_a_run_does_not_move_into_a_comparison(tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"`out` must not hold a comparison, got .*; take another folder"):
        train(RunConfig.for_task("digits", epochs=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


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
    """They are said once."""
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
