"""Named checks of arguments. An error says argument, rule, value and remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Final, TypeVar

from adabatch._errors import ArgumentError, ArgumentTypeError

_Class = TypeVar("_Class")
COMPRESSIONS: Final = ("fp16", "bf16")
LR_END: Final = 1e35  # float32 ends at 3.4e38, and Adam divides by the bias correction before it rounds


def whole(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None, remedy: str = "") -> int:
    """`value` as an int that is at least `minimum` and at most `maximum`.

    Raises:
        TypeError: if `value` is not a whole number (a bool is none).
        ValueError: if it is out of bounds.
    """
    if type(value) is int:  # first, since the abstract class is slow to ask and each batch checks several numbers
        number = value
    elif isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentTypeError(name, "must be a whole number", value=value, got=repr(value), remedy=remedy)
    else:
        number = int(value)
    if number < minimum:
        raise ArgumentError(name, f"must be at least {minimum}", value=value, remedy=remedy)
    if maximum is not None and number > maximum:
        raise ArgumentError(name, f"must be at most {maximum:,}", value=value, remedy=remedy)
    return number


def finite(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    remedy: str = "",
) -> int | float:
    """`value` as a finite number within the bounds given (`minimum` inclusive, `above` and `below` exclusive).

    Raises:
        TypeError: if `value` is not a number.
        ValueError: if it is not finite or out of bounds.
    """
    number: int | float
    if type(value) in (int, float):
        number = value
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(name, "must be a number", value=value, got=repr(value), remedy=remedy)
    else:
        number = int(value) if isinstance(value, Integral) else float(value)
    if isinstance(number, float) and not math.isfinite(number):
        raise ArgumentError(name, "must be finite", value=value, remedy=remedy)
    if minimum is not None and number < minimum:
        raise ArgumentError(name, f"must be at least {minimum:g}", value=value, remedy=remedy)
    if above is not None and number <= above:
        raise ArgumentError(name, f"must be greater than {above:g}", value=value, remedy=remedy)
    if below is not None and number >= below:
        raise ArgumentError(name, f"must be less than {below:g}", value=value, remedy=remedy)
    return number


def one_of(name: str, value: Any, allowed: Iterable[Any], *, remedy: str = "") -> Any:
    """`value` if it is among `allowed`.

    Raises:
        ValueError: if it is not; the message lists what is.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ArgumentError(name, f"must be one of {', '.join(map(str, allowed))}", value=value, remedy=remedy)
    return value


def register(classes: dict[str, type[_Class]], new: type[_Class]) -> None:
    """Adds a class under its name; a class defined again, as by a notebook's cell, replaces its former self.

    Raises:
        ValueError: if another class has the name.
    """
    held = classes.setdefault(new.__name__, new)
    if (held.__module__, held.__qualname__) != (new.__module__, new.__qualname__):
        raise ArgumentError(
            f"class {new.__name__}",
            "must have a name of its own",
            got=f"that of {held.__module__}.{held.__qualname__}",
            remedy="give it another name",
        )
    classes[new.__name__] = new


def of_kind(classes: Mapping[str, type[_Class]], data: Any, noun: str) -> tuple[type[_Class], list[str]]:
    """The class that `data` names as its `kind`, and the names of its fields, which `data` has too.

    Raises:
        ValueError: if the kind is unknown, or a field is missing or unknown.
    """
    if not isinstance(data, Mapping) or "kind" not in data:
        got = f"fields {', '.join(map(str, data))}" if isinstance(data, Mapping) and data else None
        raise ArgumentError("data", f"must be a {noun} with a `kind`", value=data, got=got)
    cls: Any = classes[one_of("kind", data["kind"], sorted(classes))]
    names, found = [field.name for field in fields(cls)], [str(name) for name in data if name != "kind"]
    if sorted(found) != sorted(names):
        rule = f"of kind {data['kind']} must have {'the fields ' + ', '.join(names) if names else 'no fields'}"
        raise ArgumentError("data", rule, got=", ".join(found) or "none")
    return cls, names
