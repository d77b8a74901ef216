"""A run goes on by itself for the torchrun job that began it, and for no other."""

from __future__ import annotations

import pytest
from tests.lab.training.checks import SMALL, small_data, without_seconds

from adabatch.lab.training import job, train


def launched_by(monkeypatch, *, name="none", logs=""):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", logs and f"/tmp/torchelastic_1/{logs}/attempt_1/0/error.json")


def test_the_job_that_began_a_run_goes_on(tmp_path, monkeypatch):
    launched_by(monkeypatch, name="one")
    assert not job.goes_on(tmp_path / "run")
    result = train(SMALL, tmp_path / "run", data=small_data())
    assert job.goes_on(tmp_path / "run")
    assert job.folder_of(tmp_path, "r*") == tmp_path / "run"
    assert job.folder_of(tmp_path, "s*") is None
    assert without_seconds(train(SMALL, tmp_path / "run", data=small_data())) == without_seconds(result)
    launched_by(monkeypatch, name="two")
    assert not job.goes_on(tmp_path / "run")
    with pytest.raises(FileExistsError, match="must not hold a run yet"):
        train(SMALL, tmp_path / "run", data=small_data())
    train(SMALL, tmp_path / "run", data=small_data(), resume=True)  # finished, so nothing is trained


def test_a_resumed_run_belongs_to_the_job_that_resumed_it(tmp_path, monkeypatch):
    launched_by(monkeypatch, name="one")
    train(SMALL, tmp_path / "run", data=small_data())
    (tmp_path / "run" / "result.json").unlink()
    launched_by(monkeypatch, name="two")
    train(SMALL, tmp_path / "run", data=small_data(), resume=True, resume_from="best")
    assert job.goes_on(tmp_path / "run")


def test_a_job_without_a_name_is_known_by_its_launcher(tmp_path, monkeypatch):
    launched_by(monkeypatch, logs="none_1")
    (tmp_path / "config.json").touch()
    job.note(tmp_path)
    assert job.goes_on(tmp_path)
    launched_by(monkeypatch, logs="none_2")
    assert not job.goes_on(tmp_path)
    launched_by(monkeypatch)
    job.note(tmp_path)
    assert not job.goes_on(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"job": 1}'])
def test_a_damaged_note_is_none(tmp_path, monkeypatch, text):
    launched_by(monkeypatch, name="one")
    (tmp_path / "config.json").touch()
    (tmp_path / job.NAME).write_text(text)
    assert not job.goes_on(tmp_path)


def test_without_torchrun_nothing_is_noted(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    job.note(tmp_path)
    assert not (tmp_path / job.NAME).exists()
