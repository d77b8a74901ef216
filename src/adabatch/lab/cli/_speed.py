"""The option `--tune`, and the settings of speed that are measured or known to be faster here."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adabatch.lab.cli import _shared
from adabatch.lab.training.config import SETTINGS, SPEED, RunConfig

if TYPE_CHECKING:
    from adabatch.lab.training.ranks import Ranks
    from adabatch.lab.tuning import Tuning

Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Before training, measure for about 20 s which of these switches pay here, and take them; a given one "
        "stays. bf16 on a CUDA GPU only.",
        rich_help_panel=SPEED,
    ),
]


def chosen(
    run: RunConfig, *, wanted: bool, fixed: Collection[str], ranks: Ranks, as_json: bool, show: bool
) -> tuple[RunConfig, Tuning | None]:
    """The settings with the switches that are faster here, and the measurement if one is `wanted`.

    Without one, what is known of this kind of device is taken, see `training.measured`. What is taken is printed.

    Args:
        run: the settings.
        wanted: whether to measure.
        fixed: names of settings that stay.
        ranks: the processes that train together, which all must call it.
        as_json: whether standard output is for JSON alone.
        show: whether to tell what is being measured.
    """
    if wanted:
        from adabatch.lab.study.tune import tune

        tell = (lambda note: _shared.say(f"--tune: {note}")) if show else None
        found = tune(run, fixed=fixed, tell=tell)
        if ranks.is_first and not as_json:
            show_tuning(found)
        return replace(run, **found.settings), found
    known = known_to_be_faster(run, fixed=fixed)
    if known and ranks.is_first:
        words = ", ".join(f"{name} {value}" for name, value in known.items())
        print(f"note: measured to be faster on such a device, so taken: {words}", file=sys.stderr)
    return replace(run, **known), None


def known_to_be_faster(run: RunConfig, *, fixed: Collection[str]) -> dict[str, Any]:
    """Settings that were measured to be faster on such a device, but for those that are `fixed` or not the default.

    The layout is not among them: where it is not given, the run itself takes the faster one.
    """
    from adabatch.lab.training import measured, pick_device

    usual = {each.name: each.default for each in fields(run)}
    return {
        name: value
        for name, value in measured.faster(run.model, pick_device(run.device)).items()
        if name not in fixed and name != "channels_last" and getattr(run, name) == usual[name]
    }


def as_saved(run: RunConfig, saved: RunConfig) -> RunConfig:
    """The settings with those of speed that a run was begun with."""
    return replace(run, **{name: getattr(saved, name) for name, each in SETTINGS.items() if each.panel == SPEED})


def show_tuning(found: Tuning) -> None:
    """Prints what was measured and chosen."""
    from adabatch.lab.report import words
    from adabatch.lab.report.terminal import tuning_table

    if found.tried:
        _shared.print_table(tuning_table(found))
    console = _shared.console()
    for sentence in words.tuned(found):
        console.print(sentence, markup=False)


def check_new(out: Path | None) -> None:
    """Raises FileExistsError if a run is in `out`, before minutes of measuring."""
    if out is not None and (out / "config.json").exists():
        raise FileExistsError(f"`out` must not hold a run yet, got {str(out)!r}; resume it or take another folder")
