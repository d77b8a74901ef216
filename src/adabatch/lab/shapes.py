"""Shapes of values in JSON files, their check, records that are read and written as JSON, and settings in words.

A shape is a kind such as `Size`; `Size | None`; `[Size]` or `tuple[Size, ...]` for a list that is not empty,
`Annotated[tuple[Size, ...], EMPTY_TOO]` for one that may be; `Mapping[str, Size]` for any names; a dict of names and
shapes, in which `"name?"` may be missing; or a `Record`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from adabatch.schedules import Schedule

_LARGEST: Final = 1e300


class Kind(NamedTuple):
    """The rule for a value, in words and as a function."""

    words: str
    fits: Callable[[Any], bool]


def _number(value: Any, above: float = -_LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value < _LARGEST


def _whole(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value < 2**63


def _rates(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        size.isdecimal() and 0 < len(size) < 19 and int(size) and _number(rate, 0) for size, rate in value.items()
    )


Text = Annotated[str, Kind("text", lambda value: isinstance(value, str))]
Json = Annotated[Mapping[str, Any], Kind("a record", lambda value: isinstance(value, Mapping))]
List = Annotated[Sequence[Any], Kind("a list", lambda value: isinstance(value, list))]
Number = Annotated[float, Kind("a finite number", _number)]
Positive = Annotated[float, Kind("a number above 0", lambda value: _number(value, 0))]
Amount = Annotated[float, Kind("a number from 0 on", lambda value: _number(value, -math.ulp(0.0)))]
Count = Annotated[int, Kind("a whole number from 0 on", lambda value: _whole(value, 0))]
Size = Annotated[int, Kind("a whole number from 1 on", lambda value: _whole(value, 1))]
Loss = Annotated[
    float | None,
    Kind("a number or null", lambda value: value is None or isinstance(value, float) or _number(value)),
]
Answer = Annotated[bool, Kind("true or false", lambda value: isinstance(value, bool))]
EMPTY_TOO: Final = Kind("a list", lambda value: isinstance(value, list))
Rates = Annotated[Mapping[str, float], Kind("batch sizes with their samples per second", _rates)]


class Record:
    """A dataclass for JSON: a field's type is the shape of its value, and a field with a default may be missing."""

    __slots__ = ()

    @classmethod
    def faults(cls, values: Any) -> Iterator[str]:
        """Where values are no such record, each in words that follow "got FILE"."""
        return faults(values, cls)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """The record of values without `faults`; names that are not fields are left out."""
        return _made(values, cls)  # type: ignore[no-any-return]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]


def faults(values: Any, shape: Any, at: str = "") -> Iterator[str]:
    """Where values do not fit a shape, each in words that follow "got FILE"; `at` is the path to the values."""
    origin: Any = get_origin(shape)
    inner = shape if isinstance(shape, list) else get_args(shape)
    if origin is Annotated:
        if not inner[1].fits(values):
            yield f"with {at or 'a value'} {repr(values)[:40]}, which must be {inner[1].words}"
        elif _is_tuple(inner[0]) and values:
            yield from faults(values, inner[0], at)
    elif origin in (Union, UnionType):
        if values is not None:
            kind: Any = get_origin(inner[0])
            end = " or null" if kind is Annotated else ""
            yield from (f"{fault}{end}" for fault in faults(values, inner[0], at))
    elif origin is tuple or isinstance(shape, list):
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            yield f"with {at} {repr(values)[:40]}, which must be a list that is not empty"
            return
        for place, value in enumerate(values):
            yield from faults(value, inner[0], f"{at}[{place}]")
    elif not isinstance(values, Mapping):
        yield f"without {'a record' if not at else f'a record in {at}'}"
    else:
        for name, one in (dict.fromkeys(values, inner[1]) if inner else _names(shape)).items():
            key = name if inner else name.removesuffix("?")
            path = f"{at}.{key}" if at else key
            if key in values:
                yield from faults(values[key], one, path)
            elif key == name:
                yield f"without {path}"


@cache
def _hints(shape: type) -> dict[str, Any]:
    found = get_type_hints(shape, include_extras=True)
    return {field.name: found[field.name] for field in fields(shape)}


def _names(shape: Any) -> Mapping[str, Any]:
    """The shapes in a record or dict, by name."""
    if isinstance(shape, Mapping):
        return shape
    needed = {field.name for field in fields(shape) if field.default is field.default_factory is MISSING}
    return {name if name in needed else f"{name}?": one for name, one in _hints(shape).items()}


def _is_tuple(shape: Any) -> bool:
    origin: Any = get_origin(shape)
    return origin is tuple


def _made(values: Any, shape: Any) -> Any:
    """The values, with records for the mappings whose shape is a record."""
    origin, inner = get_origin(shape), get_args(shape)
    if origin is Annotated and _is_tuple(inner[0]):
        return _made(values, inner[0])
    if values is None or origin is Annotated:
        return values
    if origin in (Union, UnionType):
        return _made(values, inner[0])
    if origin is tuple:
        return tuple(_made(value, inner[0]) for value in values)
    if inner:
        return {name: _made(value, inner[1]) for name, value in values.items()}
    return shape(**{name: _made(values[name], one) for name, one in _hints(shape).items() if name in values})


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def cut(text: str, most: int) -> str:
    """The text, or its first characters and dots if it has more than `most`."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def setting_in_words(name: str, value: Any) -> Any:
    """The value of a run's setting as pages and errors show it.

    Args:
        name: of the setting.
        value: its value; of `growth_file` the text of a schedule.

    Returns:
        For that text the schedule's description and the beginning of its fingerprint, since unequal schedules may have
        one description; for other text there its beginning. For another setting its value.

    Example:
        >>> setting_in_words("growth_file", '{"kind": "constant", "batch_size": 32}')
        'constant at 32 (df7cf62f)'
        >>> setting_in_words("growth", 2.0)
        2.0
    """
    if name != "growth_file" or not isinstance(value, str):
        return value
    try:
        schedule = Schedule.from_json(json.loads(value))
        return f"{cut(schedule.describe(), 160)} ({schedule.fingerprint()[:8]})"
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return cut(value, 60)  # of another version, or of a user's own kind
