"""Runs of a recipe in turns, each kept once it is finished; the head of its result file; its claims in words.

The folder of a recipe:

    recipe.json             settings, versions and a hash of the code, which must stay the same when it goes on
    code/                   the files of the recipe, as they ran
    runs/ARM/seed-K.json    a finished run; it is never repeated
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich import progress as bars
from rich.console import Console

from adabatch import _checks, memory
from adabatch._errors import ArgumentError
from adabatch._files import write_json, write_text
from adabatch.lab import training
from adabatch.lab.recipes._command import Claim
from adabatch.lab.study import statistics
from adabatch.lab.study.compare import interleaved
from adabatch.lab.training.lock import writing

FORMAT: Final = 1
_FIXED: Final = ("adabatch", "torch", "device_name", "threads")  # versions on which times and results depend

Record = dict[str, Any]
Train = Callable[[str, int, Callable[[float], None]], Record]


def run_all(
    train: Train, *, arms: Sequence[str], seeds: int, out: Path, settings: Mapping[str, Any], files: Sequence[Path]
) -> tuple[dict[str, list[Record]], dict[str, Any]]:
    """Trains every arm with every seed in turns, so that a drift of the machine affects all arms.

    Args:
        train: trains one arm with one seed and returns a JSON-safe record; it calls its last argument with the share
            done, from 0 to 1.
        arms: names, which are also paths of folders.
        seeds: how many, from 0 on.
        out: the folder; finished runs in it are taken as they are.
        settings: of the recipe, JSON-safe.
        files: the code of the recipe, its own file first.

    Returns:
        Each arm's records in the order of seeds, and the head of the result file.

    Raises:
        ValueError: if `out` holds runs of other settings, code, versions or hardware, or `seeds` is below 1.
        OSError: if `out` cannot be written.
    """
    _checks.whole("seeds", seeds)
    memory.tune_allocator()
    code = {path.name: path.read_text() for path in files}
    head = {
        "format": FORMAT,
        "command": " ".join(["python", "-m", f"adabatch.lab.recipes.{files[0].stem}", *sys.argv[1:]]),
        "code_sha256": code_sum(code.values()),
        "versions": training.versions(torch.device("cpu")),
        "settings": json.loads(json.dumps(settings)),
    }
    _check_folder(out, head)
    with writing(out):
        (out / "code").mkdir(parents=True, exist_ok=True)
        for name, text in code.items():
            write_text(out / "code" / name, text)
        write_json(out / "recipe.json", head)
    records: dict[str, dict[int, Record]] = {arm: {} for arm in arms}
    with _bar() as bar:
        row = bar.add_task("starting", total=len(arms) * seeds)
        for number, (arm, seed) in enumerate(interleaved(list(arms), range(seeds))):  # type: ignore[arg-type]
            name = str(arm)
            bar.update(row, description=f"{name}, seed {seed}", completed=number)

            def tell(share: float, number: int = number) -> None:
                bar.update(row, completed=number + share)

            records[name][seed] = _once(out / "runs" / name / f"seed-{seed}.json", train, name, seed, tell)
    return {arm: [by_seed[seed] for seed in range(seeds)] for arm, by_seed in records.items()}, head


def _once(path: Path, train: Train, arm: str, seed: int, tell: Callable[[float], None]) -> Record:
    if not path.exists():
        record = train(arm, seed, tell)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
    return _read(path, "final values and `history`", {"history"})


def _read(path: Path, wanted: str, keys: set[str]) -> Record:
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or not keys <= record.keys():
        raise ArgumentError(
            "out", "must hold files as they were written", got=f"{str(path)!r} without {wanted}", remedy="remove it"
        )
    return record


def _check_folder(out: Path, head: Mapping[str, Any]) -> None:
    note = out / "recipe.json"
    if not note.exists():
        return
    before = _read(note, "settings and versions", {"settings", "versions"})
    pairs = [(key, before.get(key), head[key]) for key in ("format", "code_sha256", "settings")]
    pairs += [(key, before.get("versions", {}).get(key), head["versions"][key]) for key in _FIXED]
    for key, there, now in pairs:
        if there != now:
            raise ArgumentError(
                "out",
                f"must hold runs of this recipe with the same {key}",
                got=f"{there!r} in {str(note)!r} and now {now!r}",
                remedy="take another folder",
            )


def _bar() -> bars.Progress:
    console = Console(stderr=True)
    columns = (
        bars.TextColumn("[bold]{task.description}"),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.completed:.1f}/{task.total:.0f} runs"),
        bars.TimeRemainingColumn(),
    )
    return bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def code_sum(texts: Iterable[str]) -> str:
    r"""A hash of Python code without its layout and the files' docstrings, which state the figures that came out.

    Example:
        >>> code_sum(["'Expected: 1.'\nx = 1"]) == code_sum(["'Expected: 2.'\nx  =  1"])
        True
    """
    trees = [ast.parse(text) for text in texts]
    for tree in trees:
        if ast.get_docstring(tree) is not None:
            del tree.body[0]
    return hashlib.sha256("".join(ast.dump(tree) for tree in trees).encode()).hexdigest()


def over_seeds(records: Sequence[Record], key: str) -> dict[str, list[float]]:
    """`mean` and `std` over seeds of a value at each entry of an arm's `history`; for one seed `std` is 0."""
    columns = zip(*([entry[key] for entry in record["history"]] for record in records), strict=True)
    found = [statistics.summary(column) for column in columns]
    return {"mean": [one.mean for one in found], "std": [one.std or 0.0 for one in found]}


def against(records: Sequence[Record], baseline: Sequence[Record], *keys: str) -> dict[str, Any]:
    """Differences of final values, an arm minus a baseline, paired by seed, with 95 % intervals."""
    values = {key: [[record[key] for record in runs] for runs in (records, baseline)] for key in keys}
    return {key: statistics.paired_difference(ours, theirs).to_json() for key, (ours, theirs) in values.items()}


def told(difference: Mapping[str, float | None], unit: str, *, scale: float = 1.0, digits: int = 2) -> str:
    """A difference from `against` in words.

    Example:
        >>> told({"mean": 0.0125, "low": None, "high": None}, "points", scale=100)
        '+1.25 points, no interval'
    """
    mean, low, high = (f"{scale * (difference[name] or 0):+.{digits}f}" for name in ("mean", "low", "high"))
    known = difference["low"] is not None and difference["high"] is not None
    return f"{mean} {unit} [{low}, {high}]" if known else f"{mean} {unit}, no interval"


def above(difference: Mapping[str, float | None], bound: float) -> bool:
    """Whether the whole interval of a difference lies above a bound; False without an interval."""
    return difference["low"] is not None and difference["low"] > bound


def below(difference: Mapping[str, float | None], bound: float) -> bool:
    """Whether the whole interval of a difference lies below a bound; False without an interval."""
    return difference["high"] is not None and difference["high"] < bound


def as_planned(arms: Mapping[str, Mapping[str, Any]], name: str = "") -> Claim:
    """The claim that every arm took as many updates as planned."""
    counts = ", ".join(f"{arm} {of['updates'][0]:,}" for arm, of in arms.items())
    held = all(of["updates"] == of["planned_updates"] for of in arms.values())
    return Claim(f"{name}as many updates as planned", counts, held)
