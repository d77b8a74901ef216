"""Settings of a run from a file that the user names: a run folder's config.json, or one written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from adabatch._errors import ArgumentError
from adabatch.lab import tasks
from adabatch.lab.training.config import RunConfig

_REMEDY: Final = "give a run folder, its config.json, or a file like it with some of its settings"


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file, all of `RunConfig` or some.

    Args:
        path: the file, or a run folder, whose config.json is read.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, or holds something else.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        if file.exists():
            raise ArgumentError(
                "config", "must be a file", got=f"{str(file)!r}, which is something else", remedy=_REMEDY
            )
        if (path / "comparison.json").exists():
            raise FileNotFoundError(
                f"`config` must be of one run, got the comparison {str(path)!r}; each run in it has one: "
                f"{path / 'runs' / 'ARM' / 'seed-0'}"
            )
        raise FileNotFoundError(f"`config` must be there, got {str(file)!r}, which is not; {_REMEDY}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArgumentError("config", "must hold JSON", got=f"a damaged {file} ({error})", remedy=_REMEDY) from None
    if not isinstance(values, dict):
        raise ArgumentError(
            "config", "must hold settings by name", got=f"{file} with {str(values)[:40]!r}", remedy=_REMEDY
        )
    known = [field.name for field in fields(RunConfig)]
    if unknown := [name for name in values if name not in known]:
        raise ArgumentError(
            "config",
            f"must have settings among {', '.join(known)}",
            got=f"{', '.join(map(repr, unknown[:5]))} in {file}",
        )
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise ArgumentError("config", f"must have one value for {name}", got=f"{str(value)[:40]!r} in {file}")
    return values


def on_top(base: Mapping[str, Any], given: Mapping[str, Any], *, task: str) -> dict[str, Any]:
    """Settings that were given, on top of others.

    One way to grow takes the place of another one, and a rule brings its own coupling. An LR belongs to an optimizer:
    another optimizer brings the one that the task has for it, and what else goes with it, unless they are given.

    Args:
        base: fields of `RunConfig`, of a preset or a file.
        given: the same, of the user's.
        task: name of the task.

    Example:
        >>> on_top({"optimizer": "sgd", "lr": 0.5}, {"optimizer": "adam", "seed": 3}, task="mnist")
        {'optimizer': 'adam', 'lr': 0.001, 'seed': 3}
    """
    found, kept = tasks.get(task), dict(base)
    if "growth" in given or "rule" in given:
        kept |= {"growth": None, "rule": None}
    if "rule" in given:
        kept.pop("coupling", None)
    if "optimizer" in given:
        kept |= found.in_place_of(base.get("optimizer", found.defaults["optimizer"]), given["optimizer"])
    return {**kept, **given}
