"""Checkpoints and settings that something else has written into: refused in words, or without any effect."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.lab.training.checks import SMALL, small_data, without_seconds
from tests.lab.training.test_loop_resume import interrupted_at

from adabatch.lab.training import checkpoint, reporting, train

CONFIGS = {
    "sgd": replace(SMALL, evaluate_every="0.7 epochs", threads=1),
    "adam": replace(SMALL, optimizer="adamw", coupling="sqrt", lr=0.001, threads=1),
}
GONE = object()
WRONG = [GONE, None, -1, -1.0, "x", [], {}, True]


def places(values: Any, at: tuple = ()) -> Iterator[tuple]:
    """The path of every entry in nested dicts and lists."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


def entry(values: Any, at: tuple) -> Any:
    for key in at:
        values = values[key]
    return values


def with_another(values: dict, at: tuple, value: Any) -> dict:
    changed = copy.deepcopy(values)
    around = entry(changed, at[:-1])
    if value is GONE:
        del around[at[-1]]
    else:
        around[at[-1]] = value
    return changed


def wrongs(value: Any) -> list[Any]:
    """Replacements for a value: nothing, other kinds, and for a tensor other shapes and types."""
    if not isinstance(value, torch.Tensor):
        return [wrong for wrong in WRONG if wrong is GONE or (type(wrong), wrong) != (type(value), value)]
    other = torch.int64 if value.is_floating_point() else torch.float32
    return [GONE, None, -1, torch.zeros(3, 5, 7), value.to(other), value.double() if value.dim() == 0 else value[:0]]


@pytest.fixture(scope="module", params=CONFIGS)
def stopped(request, tmp_path_factory):
    """A run that was stopped in the middle of an epoch; its settings, folder, state, and the unbroken result."""
    config, out = CONFIGS[request.param], tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "REPORT_SECONDS", 0.0)
        interrupted_at(30, config, out)
    return config, out, checkpoint.read(out / "checkpoints" / "last.pt"), train(config, data=small_data())


def check(stopped, out, at, value):
    """Checks that a run with a changed entry in its checkpoint is refused, or ends like the unbroken one."""
    config, folder, state, expected = stopped
    shutil.copytree(folder, out)
    last = out / "checkpoints" / "last.pt"
    for other in ("previous", "best"):
        (out / "checkpoints" / f"{other}.pt").unlink(missing_ok=True)
    checkpoint.write(last, with_another(state, at, value))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    try:
        result = train(config, out, data=small_data(), resume=True)
    except ValueError as error:
        message = str(error)
        if at[0] == "data" and isinstance(value, str):  # any text may be that of other data
            assert message.startswith("`data` must hold what the run began with, got other samples; give the former")
        elif at[0] == "config" and message.startswith("`resume` must keep the settings of the run, got others"):
            assert f" {at[1]}: {getattr(config, at[1])} and " in message
        else:
            assert message.startswith(
                (f"`checkpoint` {last} must be", f"`out` must hold what its checkpoint {last.name}")
            )
            assert message.endswith("; remove the run folder to start again")
        assert "\n" not in message
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}, "nothing is lost"
    else:
        assert without_seconds(result) == without_seconds(expected), f"{at} with {value!r} had an effect"
        assert result.train_seconds > 0
        assert set(result.samples_per_second) == set(expected.samples_per_second)
    shutil.rmtree(out)


def all_wrongs(state):
    own = [at for at in places(state) if at[0] not in ("kind", "format")]
    return [(at, value) for at in own for value in wrongs(entry(state, at))]


def test_some_wrong_entries_of_a_checkpoint(stopped, tmp_path):
    found = all_wrongs(stopped[2])
    assert len(found) > 500
    for at, value in found[:: len(found) // 15]:
        check(stopped, tmp_path / "run", at, value)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_every_wrong_entry_of_a_checkpoint(stopped, tmp_path, part):
    for at, value in all_wrongs(stopped[2])[part::10]:
        check(stopped, tmp_path / "run", at, value)
