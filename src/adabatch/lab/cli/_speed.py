"""The option `--tune`, and the settings of speed that are measured, or known, to be faster here."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adabatch._errors import ArgumentError
from adabatch.lab.cli import _folders, _shared
from adabatch.lab.training.config import SPEED, RunConfig

if TYPE_CHECKING:
    from adabatch.lab.tasks import Data
    from adabatch.lab.training.ranks import Ranks
    from adabatch.lab.tuning import Tuning

Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Before training, measure for about 20 s which of --channels-last, --compile and, on a CUDA GPU, "
        "--cuda-graphs and bf16 pay here, and take them; a given one stays as it is.",
        rich_help_panel=SPEED,
    ),
]


@dataclass(kw_only=True)
class Choice:
    """The choice of the switches of speed, for a run or a comparison.

    Attributes:
        wanted: whether to measure; else what is known of this kind of device is taken, see `training.measured`.
        fixed: names of settings that stay.
        ranks: the processes that train together.
        as_json: whether standard output is for JSON alone.
        show: whether to tell what goes on.
        tuning: what was measured, here or when the comparison began; None if nothing was.
    """

    wanted: bool
    fixed: Collection[str]
    ranks: Ranks
    as_json: bool
    show: bool
    tuning: Tuning | None = field(default=None, init=False)

    def for_run(self, run: RunConfig, out: Path | None, *, begun: Path | None) -> RunConfig:
        """The settings of a run; all processes must call it.

        Args:
            run: the settings without the choice.
            out: the user's folder; None for a new one.
            begun: the folder of the run that goes on, which keeps its own; None for a new run.

        Raises:
            FileExistsError: if a run is in `out` already.
        """
        if begun is None:
            self.ranks.from_first(lambda: _check_new(out))
            return self._of_new(run, None)
        if self.wanted and self.ranks.is_first:
            _shared.say("note: --tune measures nothing, since a run that goes on keeps its settings of speed")
        from adabatch.lab.training import saved_config

        return self._with(run, self.ranks.from_first(lambda: saved_config(begun)).to_json())

    def for_comparison(self, run: RunConfig, out: Path, data: Data) -> RunConfig:
        """The settings of a comparison; one that goes on keeps what was measured when it began.

        Raises:
            ValueError: if a comparison in `out` was begun without `--tune`, or its measurement is damaged.
        """
        if not self.wanted:
            return self._of_new(run, data)
        from adabatch.lab.study.tune import saved_tuning

        self.tuning = self.ranks.from_first(lambda: saved_tuning(out))
        if self.tuning is not None:
            return self._with(run, self.tuning.settings)
        if self.ranks.from_first((out / "comparison.json").exists):
            got, remedy = f"{out}, where one was begun without", "leave it out, or give another --out"
            raise ArgumentError("tune", "must come with a new comparison", got=got, remedy=remedy)
        return self._of_new(run, data)

    def _of_new(self, run: RunConfig, data: Data | None) -> RunConfig:
        if not self.wanted:
            known = known_to_be_faster(run, fixed=self.fixed)
            if known and self.ranks.is_first:
                words = ", ".join(f"{name} {value}" for name, value in known.items())
                print(f"note: measured to be faster on such a device, so taken: {words}", file=sys.stderr)
            return replace(run, **known)
        from adabatch.lab.study.tune import tune

        tell = (lambda note: _shared.say(f"--tune: {note}")) if self.show else None
        self.tuning = tune(run, fixed=self.fixed, data=data, tell=tell)
        if self.ranks.is_first and not self.as_json:
            show_tuning(self.tuning)
        return self._with(run, self.tuning.settings)

    def _with(self, run: RunConfig, found: Mapping[str, Any]) -> RunConfig:
        from adabatch.lab.tuning import SWITCHES

        return replace(run, **{name: found[name] for name in SWITCHES if name in found and name not in self.fixed})

    def kept(self) -> dict[str, Any] | None:
        """The content of `tune.json`; None if nothing was measured."""
        return None if self.tuning is None else self.tuning.to_json()

    def with_tuning(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What `--json` prints, with what was measured under `tune`."""
        return dict(found) if self.tuning is None else {**found, "tune": self.tuning.to_json()}


def known_to_be_faster(run: RunConfig, *, fixed: Collection[str]) -> dict[str, Any]:
    """Settings that were measured to be faster on such a device, but for those that are `fixed` or not the default.

    The layout is not among them: where it is not given, the run itself takes the faster one. Nor is compiling under a
    policy, whose sizes are not all known ahead.
    """
    from adabatch.lab.training import measured, pick_device

    left = {"channels_last", *(("compile", "cuda_graphs") if run.policy is not None else ())}
    usual = {each.name: each.default for each in fields(run)}
    return {
        name: value
        for name, value in measured.faster(run.model, pick_device(run.device)).items()
        if name not in fixed and name not in left and getattr(run, name) == usual[name]
    }


def show_tuning(found: Tuning) -> None:
    """Prints what was measured and chosen."""
    from adabatch.lab.report import words
    from adabatch.lab.report.terminal import tuning_table

    if found.tried:
        _shared.print_table(tuning_table(found))
    console = _shared.console()
    for sentence in words.tuned(found):
        console.print(sentence, markup=False)


def _check_new(out: Path | None) -> None:
    """Raises FileExistsError if something is in `out`, before minutes of measuring."""
    if out is None:
        return
    _folders.check_free(out, "run")
    if (out / "config.json").exists():
        raise FileExistsError(f"`out` must not hold a run yet, got {str(out)!r}; resume it or take another folder")
