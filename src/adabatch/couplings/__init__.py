"""Couplings: how LR, momentum, betas and eps follow the batch size, one file each. No torch here."""

from __future__ import annotations

import ast
from dataclasses import fields
from typing import Any

from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.couplings._base import Coupling
from adabatch.couplings.adam_sde import adam_sde
from adabatch.couplings.linear import linear
from adabatch.couplings.noise_scale import noise_scale
from adabatch.couplings.none import none
from adabatch.couplings.power import power
from adabatch.couplings.sqrt import sqrt
from adabatch.couplings.token_half_life import token_half_life

__all__ = ["Coupling", "adam_sde", "get", "linear", "noise_scale", "none", "power", "sqrt", "token_half_life"]


def get(coupling: str | Coupling) -> Coupling:
    """The coupling of that name.

    Args:
        coupling: a coupling, which is returned as it is; a name; or a call such as `"power(0.75)"` or
            `"linear(any_optimizer=True)"`.

    Returns:
        The coupling.

    Raises:
        TypeError: if it is neither text nor a coupling.
        ValueError: if the name is unknown or the arguments do not fit.

    Example:
        >>> get("power(0.75)").lr_factor(16)
        8.0
    """
    if isinstance(coupling, Coupling):
        return coupling
    if not isinstance(coupling, str):
        raise ArgumentTypeError(
            "coupling", "must be a name or a coupling", value=coupling, remedy="write for example 'linear'"
        )
    name, positional, named = _call(coupling)
    if name not in Coupling.kinds:
        form = "; write it as a name or a call with numbers, such as 'power(0.75)'" if "(" in coupling else ""
        raise ArgumentError(
            "coupling", f"must be one of {', '.join(sorted(Coupling.kinds))}", got=f"{coupling!r}{form}"
        )
    try:
        return Coupling.kinds[name](*positional, **named)
    except TypeError:
        known = ", ".join(entry.name for entry in fields(Coupling.kinds[name]))
        form = "power(0.75)" if name == "power" else f"{name}(NAME=VALUE)" if known else name
        raise ArgumentError(
            "coupling", f"{name!r} must get arguments among {known or 'none'}", value=coupling, remedy=f"write {form}"
        ) from None


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and arguments in `"linear"` or `"power(0.75)"`; nothing is evaluated but literals."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            named = {word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg is not None}
            if len(named) == len(tree.keywords):
                return tree.func.id, [ast.literal_eval(item) for item in tree.args], named
    except (SyntaxError, ValueError):
        pass
    return text.strip(), [], {}
