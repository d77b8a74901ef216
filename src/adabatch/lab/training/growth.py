"""The growth of a run's batch: its schedule from settings or from a file that holds one in JSON, or its policy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from adabatch import _files, couplings, policies, schedules, units
from adabatch._errors import ArgumentError, ArgumentTypeError, naming
from adabatch.lab.shapes import cut
from adabatch.lab.training import deciding, lr_schedule

LARGEST_FILE: Final = 2**20  # bytes; a schedule of ten thousand stages has about half of that
SCHEDULE: Final = "schedule.json"  # its name in the folders of studies by branching and of advice
_ALONE: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {  # settings that say the same, and why they are refused
    "growth_file": (
        ("growth", "rule", "policy", "every", "max_batch_size"),
        "the schedule in the file says how the batch grows",
    ),
    "policy": (
        ("growth", "rule", "growth_file", "every", "world_sizes"),
        "the policy decides when the batch grows; `max_batch_size` is its limit",
    ),
}
_REMEDY: Final = "write json.dumps(schedule.to_json()) into a file"
# Errors that values may lead to which are no schedule.
_WRONG: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def batch_schedule(settings: Mapping[str, Any], **more: Any) -> schedules.Schedule:
    """The batch schedule that settings describe: constant, by a factor, by a rule where the LR falls, or of a file.

    Args:
        settings: fields of `RunConfig`: `growth`, `every`, `max_batch_size`, `rule`, `lr_schedule`, `epochs` and, if
            there are any, `growth_file` and `world_sizes`.
        **more: further arguments of `schedules.from_lr`, used for growth by a rule.

    Raises:
        ValueError: if one is out of range.

    Example:
        >>> batch_schedule({"growth": 2, "every": "4", "max_batch_size": 256, "rule": None}).describe()
        "x2 every 4 epochs, from the loader's batch size, at most 256"
    """
    table = settings["world_sizes"] if "world_sizes" in settings else None  # noqa: SIM401
    if table is not None:
        return world_sizes("world_sizes", batch_schedule({**settings, "world_sizes": None}, **more), table)
    text = settings["growth_file"] if "growth_file" in settings else None  # noqa: SIM401
    if text is not None:
        return schedule_of(text)
    maximum = settings["max_batch_size"]
    with naming(maximum="max_batch_size"):
        if settings["rule"] is not None:
            text, epochs = settings["lr_schedule"], settings["epochs"]
            lrs = lr_schedule.table(text, epochs=epochs)
            if (fall := lr_schedule.falls_after(text, epochs=epochs)) is not None:
                got = f"{text!r}, which falls first in epoch {fall:,} of {epochs:,}, so nothing grows"
                rule = "must fall within the training"
                remedy = f"let it fall earlier, or train for more than {fall:,} epochs"
                warnings.warn(
                    str(ArgumentError("lr_schedule", rule, got=got, remedy=remedy)), UserWarning, stacklevel=1
                )
            return schedules.from_lr(lrs, rule=settings["rule"], maximum=maximum, **more)
        if settings["growth"] is None:
            return schedules.constant()
        return schedules.geometric(settings["growth"], units.duration(settings["every"], name="every"), maximum=maximum)


def batch_policy(settings: Mapping[str, Any]) -> policies.Policy | None:
    """The policy that settings name; None if they name none.

    Args:
        settings: fields of `RunConfig`.

    Raises:
        ValueError: if there is no such policy, an argument is out of range, or `max_batch_size` is missing.

    Example:
        >>> batch_policy({"policy": "norm-test:0.5", "max_batch_size": 64}).describe()
        'norm_test(maximum=64, factor=2, warmup_samples=0, shrinks=False, eta=0.5)'
    """
    text, maximum = settings.get("policy"), settings.get("max_batch_size")
    if text is None:
        return None
    if maximum is None:
        rule, remedy = "must be given with a policy, as its largest batch size", "take what memory allows"
        raise ArgumentError("max_batch_size", rule, got="none", remedy=remedy)
    return deciding.chosen(text).with_maximum(maximum)


def world_sizes(name: str, schedule: schedules.Schedule, table: Any) -> schedules.Schedule:
    """The schedule with the numbers of processes that it wants.

    Args:
        name: of the setting.
        schedule: the batch schedule.
        table: text such as `"0:1 2048:4"`.

    Raises:
        ValueError: if the text cannot be read, or the schedule names numbers already.
        TypeError: if it is no text.
    """
    if not isinstance(table, str):
        raise ArgumentTypeError(name, "must be text such as '0:1 2048:4'", value=table)
    with naming(table=name):
        return schedules.world_sizes(schedule, table)


def brought(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a rule, a file or a policy brings, for where they are not given.

    A rule and a file need no `max_batch_size`: a rule's is a tenth of the data, a file says its own. A rule brings its
    coupling, and a schedule in a file the one of a rule within. A file brings its first batch size, if it has one. A
    policy brings its coupling, unless that is the library's default.

    Args:
        settings: fields of `RunConfig` that are given.

    Raises:
        ValueError: if a value is out of range, or a schedule brings several couplings and none is given.
        TypeError: if a value is not of its kind.

    Example:
        >>> brought({"rule": "seesaw"}), brought({"growth": 2.0})
        ({'max_batch_size': None, 'coupling': 'sqrt'}, {})
        >>> brought({"growth_file": '{"kind": "constant", "batch_size": 32}'})
        {'max_batch_size': None, 'batch_size': 32}
    """
    text, rule, policy = settings.get("growth_file"), settings.get("rule"), settings.get("policy")
    if policy is not None:
        coupling = deciding.chosen(policy).policy.coupling
        return {} if coupling == "linear" else {"coupling": coupling}
    if text is not None:
        found = {"max_batch_size": None, **start_of(text)}
        own = None if "coupling" in settings else own_coupling(schedule_of(text))
        return found if own is None else {**found, "coupling": own}
    return {} if rule is None else {"max_batch_size": None, "coupling": coupling_of_rule(rule)}


def start_of(text: str | None) -> dict[str, int]:
    """The batch size that the schedule of a `growth_file` starts with; empty if it takes any, or there is no file."""
    start = None if text is None else schedule_of(text).initial
    return {} if start is None else {"batch_size": start}


def coupling_of_rule(rule: str) -> str:
    """The coupling that goes with a rule.

    Raises:
        ValueError: if there is no such rule.
        TypeError: if it is no text.
    """
    return schedules.from_lr([(0, 1.0)], rule=rule).coupling


def own_coupling(schedule: schedules.Schedule) -> str | None:
    """The coupling that a schedule brings; None where it goes with any and its `linear` is the library's default.

    Raises:
        ValueError: if its parts bring different ones.
    """
    return None if schedule.brought() in ([], ["linear"]) else schedule.coupling


# Schedules in files.


def file_text(value: Any) -> str:
    """The schedule in a file as compact JSON text, which is the same for equal schedules.

    Args:
        value: the file's name; or that text, or other JSON that begins with `{`.

    Raises:
        ValueError: if the file is missing, too large or something else, or does not hold a schedule.
        TypeError: if `value` is no text.

    Example:
        >>> file_text('{"kind": "constant", "batch_size": 32}')
        '{"kind":"constant","batch_size":32}'
    """
    if not isinstance(value, str):
        raise ArgumentTypeError("growth_file", "must be text, the name of a file", value=value)
    return _parsed(value)[1]


def schedule_of(text: str) -> schedules.Schedule:
    """The schedule that `file_text` wrote, or that is in the file that `text` names; raises as `file_text` does."""
    return _parsed(text)[0]


def _parsed(value: str) -> tuple[schedules.Schedule, str]:
    """The schedule, and its own text."""
    inline = value.startswith("{")
    text = value if inline else _content(value)
    try:
        return _read(text)
    except _WRONG as error:
        rule, reason = "must hold a schedule as `to_json` gives it", cut(str(error).replace("`", ""), 200)
        got, beside = f"other JSON ({reason})" if inline else f"{value!r} ({reason})", Path(value).parent / SCHEDULE
        known = not inline and beside != Path(value) and beside.exists()
        remedy = f"take {beside}, which is beside it" if known else _REMEDY
        raise ArgumentError("growth_file", rule, got=got, remedy=remedy) from None


@lru_cache(maxsize=32)
def _read(text: str) -> tuple[schedules.Schedule, str]:
    found = schedules.Schedule.from_json(_files.values_of(text))
    return found, json.dumps(found.to_json(), separators=(",", ":"), allow_nan=False)


def _content(name: str) -> str:
    """The text in the file `name`."""
    path, rule, got, remedy = Path(name), "must be a file", "", _REMEDY
    try:
        _files.check_file(path)
        if path.stat().st_size <= LARGEST_FILE:
            return path.read_text(encoding="utf-8-sig")
        rule, got = f"must have at most {LARGEST_FILE:,} bytes", f"{name!r}, which has {path.stat().st_size:,}"
    except UnicodeDecodeError:
        rule, got = "must hold JSON text", f"{name!r}, which holds something else"
    except FileNotFoundError:
        got, remedy = f"{name!r}, which is not there", "look for its name"
    except OSError as error:
        rule, got = "must be a file that can be read", f"{name!r} ({error.strerror})"
    except ValueError as error:  # a folder, or a name that no file has
        got = f"{name!r} ({error})"
    raise ArgumentError("growth_file", rule, got=got, remedy=remedy)


def check_alone(given: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    """Checks that nothing is given beside a file or a policy that says how the batch grows.

    Args:
        given: settings by name; None stands for one that is not given.
        beside: all settings of the run; without a file and a policy there is nothing to check.

    Raises:
        ValueError: if another way to grow is given, an interval, or beside a file a largest batch size.
    """
    for alone, (others, remedy) in _ALONE.items():
        for name in others if beside.get(alone) is not None else ():
            if given.get(name) is not None:
                raise ArgumentError(name, f"must come without `{alone}`", got="both", remedy=remedy)


def check_noise(coupling: couplings.Coupling, settings: Mapping[str, Any]) -> None:
    """Checks that a policy measures the noise that a coupling follows.

    Args:
        coupling: of the settings.
        settings: fields of `RunConfig`.

    Raises:
        ValueError: if none does.
    """
    policy = None if settings["policy"] is None else deciding.chosen(settings["policy"]).policy
    if coupling.follows_noise and (policy is None or policy.needs_branches):
        rule = f"must be given with the coupling {coupling.name}, which follows the noise that a policy measures"
        remedy = f"give one, or a noise that stays: '{coupling.name}(noise=8.0)'"
        got = "none" if policy is None else f"{policy.name}, which decides by branches"
        raise ArgumentError("policy", rule, got=got, remedy=remedy)


def check_branches(settings: Mapping[str, Any]) -> None:
    """Checks that nothing is given that branches of a run cannot have.

    Args:
        settings: fields of `RunConfig`; without a policy that asks for branches there is nothing to check.

    Raises:
        ValueError: if something is.
    """
    if not deciding.chosen(settings["policy"]).policy.needs_branches:
        return
    said = f"must not be given under the policy {settings['policy']}"
    for name in ("compile", "cuda_graphs"):
        if settings[name]:
            remedy = "leave it out, since a second network would be compiled for its branches"
            raise ArgumentError(name, said, got="both", remedy=remedy)
    if settings["optimizer"] == "rmsprop-warmup":
        remedy = "take one whose updates do not depend on the epoch"
        raise ArgumentError("optimizer", said, value=settings["optimizer"], remedy=remedy)


def check_fits(text: str, *, batch_size: int, tokens: str | None) -> None:
    """Checks that a schedule starts with the run's batch size, and counts what there is.

    Args:
        text: as `file_text` gives it.
        batch_size: of the run, in samples.
        tokens: why no tokens are known; None if they are.

    Raises:
        ValueError: if one of these is not so.
    """
    schedule = schedule_of(text)
    if schedule.initial not in (None, batch_size):
        got = f"one for {schedule.initial:,} ({cut(schedule.describe(), 100)})"
        remedy = f"leave `batch_size` out, set it to {schedule.initial}, or take another file"
        raise ArgumentError("growth_file", f"must be for `batch_size` = {batch_size:,}", got=got, remedy=remedy)
    if tokens is not None and "tokens" in _units(schedule.to_json()):
        got = f"tokens ({cut(schedule.describe(), 100)})"
        raise ArgumentError("growth_file", "must count epochs, samples or updates", got=got, remedy=tokens)


def _units(values: Any) -> Iterator[str]:
    """The units of all durations in a schedule's JSON values."""
    if isinstance(values, dict) and set(values) == {"count", "unit"}:
        yield values["unit"]
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _units(value)


@contextmanager
def fitting(text: str | None, *, dataset_size: int, epochs: int) -> Iterator[None]:
    """A context in which errors name the file whose schedule does not fit the training.

    Args:
        text: as `file_text` gives it; None leaves errors as they are.
        dataset_size: samples in an epoch.
        epochs: of the training.

    Raises:
        ValueError: for one that is raised inside.
    """
    try:
        yield
    except ValueError as error:
        if text is None:
            raise
        rule = f"must fit a training of {epochs:,} epochs of {dataset_size:,} samples"
        got = f"{cut(schedule_of(text).describe(), 100)} ({str(error).replace('`', '')})"
        raise ArgumentError("growth_file", rule, got=got, remedy="take another file") from error
