"""The policy of a run in text, such as `noise-scale:1,factor=4`, and how often the noise is measured for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from adabatch import _checks, _files, policies
from adabatch._errors import AdabatchError, ArgumentError, ArgumentTypeError

KINDS: Final[Mapping[str, type[policies.Policy]]] = {
    name.replace("_", "-"): getattr(policies, name) for name in policies.__all__ if name.islower()
}
"""The policies by the names that users write."""
_EVERY: Final = "measure_every"
_MOST: Final = 10  # updates of which one is measured; more cost more time than they save
_IN_AN_EPOCH: Final = 20  # measured updates, at least, if there are as many: the memory of a tap
_OPEN: Final = 2**62  # stands for the maximum, which is another setting
_MORE: Final = re.compile(r",(?=[A-Za-z_-]+=)")  # before each argument with a name; a path may have commas
_PAIRS: Final = re.compile(r"\d+:[\d.e+]+( +\d+:[\d.e+]+)*")
_VALUES: Final = {
    "branch": "branch:0.01",
    "noise-scale": "noise-scale:1",
    "norm-test": "norm-test:0.5",
    "diversity": "diversity:0.1",
    "similarity": "similarity:0.8",
    "goodput": "goodput:FOLDER, of an `adabatch probe`, or 'goodput:16:3000 32:5500', with samples per second",
    "cabs": "cabs:0",
    "sign-noise": "sign-noise:0.6",
}
_READ: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "int": ("a whole number", int),
    "float": ("a number", float),
    "bool": ("true or false", {"true": True, "false": False}.__getitem__),
}


class Chosen(NamedTuple):
    """A policy as users choose it.

    Attributes:
        policy: with a maximum of 2**62, which stands for none.
        every: the updates of which one is measured; None for `usual_every`.
    """

    policy: policies.Policy
    every: int | None

    def with_maximum(self, maximum: int) -> policies.Policy:
        """The policy with the largest batch size, in samples."""
        return replace(self.policy, maximum=maximum)


def chosen(text: Any) -> Chosen:
    """The policy that text asks for: `NAME`, `NAME:VALUE` or `NAME:VALUE,KEY=VALUE`.

    Args:
        text: the policy's name with hyphens, its first argument, and others by name; `measure-every` is the tap's.

    Raises:
        TypeError: if it is no text.
        ValueError: if it names no policy, or an argument is missing, unknown or out of range.

    Example:
        >>> found = chosen("similarity:0.8,shrinks=true,measure-every=4")
        >>> found.every, found.with_maximum(512).describe()
        (4, 'similarity(maximum=512, factor=2, warmup_samples=0, shrinks=True, c=0.8)')
    """
    if not isinstance(text, str):
        raise ArgumentTypeError("policy", "must be text", value=text, remedy=_remedy("noise-scale"))
    head, *more = _MORE.split(text.strip())
    name, colon, value = head.partition(":")
    name = name.strip().replace("_", "-")
    if name not in KINDS:
        rule = f"must be one of {', '.join(KINDS)}"
        raise ArgumentError("policy", rule, value=text, remedy=_remedy("noise-scale"))
    known = {each.name: each for each in _arguments(KINDS[name])}
    first = next(iter(known))
    given = {first: value.strip()} if colon else {}
    for key, _, told in (item.partition("=") for item in more):
        key = key.replace("-", "_")
        if key == "maximum":
            rule = f"{name} must come without a maximum, which is the setting `max_batch_size`"
            raise ArgumentError("policy", rule, value=text, remedy="give it there")
        if key in given or key not in (*known, _EVERY):
            got = f"{_shown(key)} twice" if key in given else _shown(key)
            rule = f"{name} must have arguments among {', '.join(map(_shown, (*known, _EVERY)))}, each once"
            raise ArgumentError("policy", rule, got=got, remedy=_remedy(name))
        given[key] = told.strip()
    if first not in given and known[first].default is MISSING:
        raise ArgumentError("policy", f"{name} must have a value: {first}", value=text, remedy=_remedy(name))
    read = {key: _value(name, key, str(known[key].type) if key in known else "int", it) for key, it in given.items()}
    try:
        every = read.pop(_EVERY, None)
        if every is not None:
            _checks.whole(_shown(_EVERY), every)
        return Chosen(KINDS[name](**read, maximum=_OPEN), every)
    except AdabatchError as error:
        raise type(error)("policy", f"{name}: {error}") from None


def text_of(value: Any) -> str:
    """The text of a policy that is the same for equal policies; a curve stands in it in place of its file.

    Raises:
        TypeError: as `chosen`.
        ValueError: as `chosen`.

    Example:
        >>> text_of("noise_scale"), text_of("norm-test:0.50,factor=2,shrinks=true")
        ('noise-scale:1', 'norm-test:0.5,shrinks=true')
        >>> text_of("goodput:16:3e3 32:5500,measure-every=4")
        'goodput:16:3000 32:5500,measure-every=4'
    """
    policy, every = chosen(value)
    first, *others = _arguments(type(policy))
    told = f"{policy.name.replace('_', '-')}:{_in_text(getattr(policy, first.name))}"
    given = {each.name: getattr(policy, each.name) for each in others if getattr(policy, each.name) != each.default}
    given |= {} if every is None else {_EVERY: every}
    return ",".join([told, *(f"{_shown(key)}={_in_text(it)}" for key, it in given.items())])


def usual_every(updates_in_epoch: int) -> int:
    """The updates of which one is measured: ten, or fewer where an epoch would have less than twenty measured ones.

    Args:
        updates_in_epoch: at the first batch size.

    Example:
        >>> usual_every(1000), usual_every(45), usual_every(5)
        (10, 2, 1)
    """
    return max(1, min(_MOST, updates_in_epoch // _IN_AN_EPOCH))


def _arguments(kind: type[policies.Policy]) -> list[Field[Any]]:
    """The arguments of a policy, those of its own first, without the maximum."""
    found = [each for each in fields(kind) if each.name != "maximum"]
    return [each for each in found if not each.kw_only] + [each for each in found if each.kw_only]


def _value(name: str, key: str, kind: str, text: str) -> Any:
    """The value of an argument, read from text."""
    if kind not in _READ:
        return _curve(text)
    words, read = _READ[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        rule = f"{name} must have {words} as {_shown(key)}"
        raise ArgumentError("policy", rule, value=text, remedy=_remedy(name)) from None


def _curve(text: str) -> Any:
    """Samples per second by batch size: in text, or from what a probe wrote."""
    if _PAIRS.fullmatch(text):
        return tuple((int(size), float(rate)) for size, _, rate in (pair.partition(":") for pair in text.split()))
    path = Path(text)
    try:
        found = _files.json_of(path / "probe.json" if path.is_dir() else path)
        return {point["batch_size"]: point["samples_per_second"]["median"] for point in found["curve"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{text!r} ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        raise ArgumentError("policy", "goodput must name a probe", got=got, remedy=_remedy("goodput")) from None


def _in_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{size}:{_in_text(float(f'{rate:.6g}'))}" for size, rate in value)
    return str(value).lower() if isinstance(value, bool) else repr(value).removesuffix(".0")


def _shown(key: str) -> str:
    return key.replace("_", "-")


def _remedy(name: str) -> str:
    return f"write for example {_VALUES[name]}"
