"""The base of couplings: closed form, the optimizers that one was derived for, JSON. No torch here."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError

RENAMED: Final = {"noise_scale": "constant_noise"}
"""Names that couplings had, and those that they have."""


@dataclass(frozen=True)
class Coupling(ABC):
    """How an optimizer's hyper-parameters follow the batch size.

    A coupling is a pure function of the ratio of the batch size to the base batch size (the one that the base LR
    was chosen for), for some also of the noise that `with_noise` tells. It never sees the past, so nothing accumulates
    and nothing can drift.

    To add one: a frozen dataclass with a lower-case name, `lr_factor` and `derived_for`. If more than the LR follows
    the batch, it overrides `in_force` as well. A field `any_optimizer` lets a user insist. Fields declared as bool are
    checked to be one.

    Attributes:
        kinds: every coupling by name, also those of users; a second class of the same name is refused.
        derived_for: names of the optimizer classes that it was derived for (their subclasses count); None for any.
        instead: the remedy for another optimizer, which ends the sentence of that error.
    """

    kinds: ClassVar[dict[str, type[Coupling]]] = {}
    derived_for: ClassVar[frozenset[str] | None] = None
    instead: ClassVar[str] = "use the coupling `none`, which leaves every hyper-parameter alone"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _checks.register(Coupling.kinds, cls)

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type in ("bool", bool) and not isinstance(value := getattr(self, entry.name), bool):
                raise ArgumentTypeError(entry.name, "must be True or False", value=value)

    @abstractmethod
    def lr_factor(self, ratio: float) -> float:
        """The factor on the LR of the user's scheduler.

        Args:
            ratio: batch size / base batch size, above 0.

        Returns:
            A factor above 0; exactly 1 where `ratio` is 1.
        """

    @property
    def name(self) -> str:
        """Its name in errors, states and the command line."""
        return type(self).__name__

    @property
    def follows_noise(self) -> bool:
        """Whether it must be told the gradient's noise, by `with_noise`, again and again."""
        return False

    def with_noise(self, _noise: float) -> Coupling:
        """The coupling at a noise of the gradient; itself, unless it follows the noise.

        Args:
            _noise: the noise scale over the base batch size, from 0 to infinite.
        """
        return self

    @property
    def optimizers(self) -> frozenset[str] | None:
        """Names of the optimizer classes that it accepts, subclasses included; None for any."""
        return None if getattr(self, "any_optimizer", False) else self.derived_for

    def check_optimizer(self, optimizer: object) -> None:
        """Checks that the coupling was derived for an optimizer of this class.

        Args:
            optimizer: the optimizer; its class and all parent classes are compared by name.

        Raises:
            ValueError: if it was not; the message says what to do instead and how to insist.
        """
        if self.optimizers is None or any(parent.__name__ in self.optimizers for parent in type(optimizer).__mro__):
            return
        rule = f"{self.name!r} was derived for {', '.join(sorted(self.optimizers))}"
        raise ArgumentError("coupling", rule, got=type(optimizer).__name__, remedy=self.instead)

    def in_force(self, group: Mapping[str, Any], ratio: float) -> dict[str, Any]:
        """The values that an optimizer step uses in place of those that a parameter group holds.

        Only `*` is applied to the values, so numbers and tensors serve alike.

        Args:
            group: hyper-parameters of one parameter group by name, such as `lr` and `momentum`.
            ratio: batch size / base batch size, above 0.

        Returns:
            The hyper-parameters that differ, by name; where `ratio` is 1, nothing or the values as they are.

        Example:
            >>> from adabatch import couplings
            >>> couplings.linear().in_force({"lr": 0.5, "momentum": 0.9}, 4)
            {'lr': 2.0}
        """
        factor = self.lr_factor(ratio)
        return {} if factor == 1 else {"lr": group["lr"] * factor}

    def describe(self) -> str:
        """The coupling in one line, as `couplings.get` reads it."""
        values = asdict(self)
        given = [
            f"{entry.name}={values[entry.name]!r}" for entry in fields(self) if values[entry.name] != entry.default
        ]
        return f"{self.name}({', '.join(given)})" if given else self.name

    def to_json(self) -> dict[str, Any]:
        """The coupling as plain dicts and numbers."""
        return {"kind": self.name} | asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Coupling:
        """The coupling that `to_json` wrote.

        Raises:
            ValueError: if the kind is unknown, or a field is missing, unknown or out of range.
            TypeError: if a field has the wrong type.
        """
        if isinstance(data, Mapping):
            _check_renamed(data.get("kind"))
        cls, names = _checks.of_kind(Coupling.kinds, data, "coupling")
        return cls(**{name: data[name] for name in names})


def checked_ratio(ratio: float) -> float:
    """`ratio` as a float.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite or not above 0.
    """
    return float(_checks.finite("ratio", ratio, above=0))


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
        >>> from adabatch import couplings
        >>> couplings.get("power(0.75)").lr_factor(16)
        8.0
    """
    if isinstance(coupling, Coupling):
        return coupling
    if not isinstance(coupling, str):
        raise ArgumentTypeError(
            "coupling", "must be a name or a coupling", value=coupling, remedy="write for example 'linear'"
        )
    name, positional, named = _call(coupling)
    _check_renamed(name)
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


def _check_renamed(name: Any) -> None:
    """Raises if a coupling had that name once and no coupling has it now; says the new one."""
    if name in RENAMED and name not in Coupling.kinds:
        raise ArgumentError(
            "coupling", f"{name!r} is called {RENAMED[name]!r} now", remedy="a noise scale is what a policy measures"
        )


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
