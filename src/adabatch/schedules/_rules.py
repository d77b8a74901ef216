"""Rules of conversion: how much of an LR's fall becomes growth of the batch, and the coupling that goes with it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError

_TEXT: Final = re.compile(r"\s*([a-z]+)\s*(?:\(\s*([^()\s]+)\s*\))?\s*")
_EXAMPLES: Final = "write smith, seesaw, hybrid(1) or power(0.75)"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, read from text.

    Attributes:
        text: how it is written.
        coupling: the coupling that keeps the optimizer on the course of the LR schedule, as `couplings.get` reads it.
        falls: how many falls of the LR become growth, the later ones stay falls of the LR; None for all.
    """

    text: str
    coupling: str
    falls: int | None = None


def rule(text: Any) -> Rule:
    """Reads a rule. Wherever the LR schedule cuts the LR to 1/a of its highest value so far, the batch is a times B0.

    | rule | LR in force where the schedule cuts by a | coupling |
    | --- | --- | --- |
    | `smith` | unchanged | linear |
    | `hybrid(k)` | unchanged for the first k falls, later ones cut it | linear |
    | `seesaw` | cut by sqrt(a) | sqrt |
    | `power(p)` | cut by a ** (1 - p) | power(p) |

    Args:
        text: as in the table; k a whole number from 0 on, p from 0 to 1.

    Raises:
        TypeError: if it is no text.
        ValueError: if the name is unknown or its number out of range.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError("rule", "must be text", value=text, remedy=_EXAMPLES)
    match = _TEXT.fullmatch(text)
    name, number = (match[1], match[2]) if match else ("", None)
    if name == "smith" and number is None:
        return Rule("smith", "linear(any_optimizer=True)")
    if name == "seesaw" and number is None:
        return Rule("seesaw", "sqrt")
    if name == "hybrid" and number is not None and re.fullmatch(r"[0-9]{1,9}", number):
        return Rule(f"hybrid({int(number)})", "linear(any_optimizer=True)", falls=int(number))
    if name == "power" and number is not None:
        return _power(number, text)
    raise ArgumentError("rule", "must be one of smith, seesaw, hybrid(k) and power(p)", value=text, remedy=_EXAMPLES)


def _power(number: str, text: str) -> Rule:
    try:
        p = float(number)
    except ValueError:
        p = math.nan
    if not 0 <= p <= 1:
        raise ArgumentError(
            "rule", "must have a power from 0 to 1", value=text, remedy="1 is smith, 0.5 the scaling of seesaw"
        )
    p = float(_checks.finite("rule", p))
    return Rule(f"power({p:g})" if float(f"{p:g}") == p else f"power({p!r})", f"power({p!r})")
