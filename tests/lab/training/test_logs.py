from __future__ import annotations

import os
from dataclasses import asdict

import pytest
from tests.lab.training.test_records import evaluation

from adabatch.lab.training import Evaluation, logs
from adabatch.types import Decision


@pytest.fixture
def written(tmp_path):
    """A log of three evaluations; the file and the records."""
    path, records = tmp_path / "metrics.jsonl", [evaluation(160 * n, n / 10) for n in (1, 2, 3)]
    for record in records:
        logs.append(path, record)
    logs.sync(path)
    return path, records


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_first_lines_are_read_and_their_bytes_counted(written, count):
    path, records = written
    found, size = logs.read(path, Evaluation, count)
    assert found == records[:count]
    os.truncate(path, size)
    assert len(path.read_text().splitlines()) == count


def test_a_half_line_is_none(written):
    path, records = written
    with path.open("a") as file:
        file.write('{"samples": 640')
    assert logs.read(path, Evaluation, 3)[0] == records
    with pytest.raises(ValueError, match=r"^3 whole lines of 4$"):
        logs.read(path, Evaluation, 4)


def test_a_log_that_is_not_there_has_no_line(tmp_path):
    assert logs.read(tmp_path / "decisions.jsonl", Decision, 0) == ([], 0)
    with pytest.raises(ValueError, match=r"^0 whole lines of 2$"):
        logs.read(tmp_path / "decisions.jsonl", Decision, 2)


def test_a_pipe_in_place_of_a_log(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^a pipe in place of a file$"):
        logs.read(tmp_path / "pipe", Evaluation, 1)


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
    lines[1] = str(asdict(records[1]) | change).replace("'", '"').replace("True", "true")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"^line 2: .*{reason}"):
        logs.read(path, Evaluation, 3)
    assert logs.read(path, Evaluation, 1)[0] == records[:1]


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "[" * 9999, "\udcff"])
def test_a_line_that_is_no_record(written, line):
    path, _ = written
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=r"^line 4: "):
        logs.read(path, Evaluation, 4)
