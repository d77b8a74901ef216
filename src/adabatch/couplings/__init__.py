"""Couplings: how the LR follows the batch size. One file each; no torch.

`__all__` names the constructors; the command line and the report read it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from adabatch.couplings.base import Coupling as Coupling
from adabatch.couplings.linear import linear
from adabatch.couplings.none import none
from adabatch.couplings.power import power
from adabatch.couplings.sqrt import sqrt

__all__ = ["linear", "none", "power", "sqrt"]


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
        raise TypeError(f"`coupling` must be a name or a coupling, got {coupling!r}; write for example 'linear'")
    name, positional, named = _call(coupling)
    return _make(name, positional, named, given=coupling)


def from_json(data: Mapping[str, Any]) -> Coupling:
    """The coupling that `Coupling.to_json` wrote.

    Args:
        data: a name and arguments.

    Returns:
        An equal coupling.

    Raises:
        ValueError: if it is of another kind.

    Example:
        >>> from_json(power(0.75).to_json()) == power(0.75)
        True
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ValueError(f"`coupling` must be JSON such as {{'name': 'linear'}}, got {data!r}")
    return _make(data["name"], [], {key: value for key, value in data.items() if key != "name"}, given=data)


def _make(name: str, positional: list[Any], named: dict[str, Any], *, given: object) -> Coupling:
    if name not in __all__:
        raise ValueError(f"`coupling` must be one of {', '.join(__all__)}, got {given!r}")
    try:
        made = globals()[name](*positional, **named)
    except TypeError:
        remedy = "write for example 'power(0.75)'" if name == "power" else f"write {name!r}"
        raise ValueError(f"`coupling` {name!r} got arguments that do not fit, in {given!r}; {remedy}") from None
    assert isinstance(made, Coupling)
    return made


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and arguments in `"linear"` or `"power(0.75)"`; nothing is evaluated but literals."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            named = {word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg is not None}
            if len(named) == len(tree.keywords):
                return tree.func.id, [ast.literal_eval(item) for item in tree.args], named
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
    except (SyntaxError, ValueError):
        pass
    return text.strip(), [], {}
