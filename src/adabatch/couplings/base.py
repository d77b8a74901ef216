"""What every coupling is: how hyper-parameters follow the batch size, in closed form and without torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from adabatch import _checks


@dataclass(frozen=True)
class Coupling(ABC):
    """How an optimizer's hyper-parameters follow the batch size.

    A coupling is a pure function of the ratio of the batch size to the base batch size (the one that the base LR
    was chosen for). It never sees the past, so nothing accumulates and nothing can drift.

    To write your own, subclass it as a frozen dataclass with a `name` and `lr_factor`; when more than the LR follows
    the batch, override `in_force` as well.

    Attributes:
        name: how errors, states and the command line call it.
        derived_for: names of the optimizer classes that it was derived for (their subclasses count); None for any.
        instead: what to do with another optimizer, the end of that error's sentence.
    """

    name: ClassVar[str]
    derived_for: ClassVar[frozenset[str] | None] = None
    instead: ClassVar[str] = "use the coupling `none`, which leaves every hyper-parameter alone"

    @abstractmethod
    def lr_factor(self, ratio: float) -> float:
        """The factor on the LR of the user's scheduler.

        Args:
            ratio: batch size / base batch size, above 0.

        Returns:
            A factor above 0; exactly 1 where `ratio` is 1.
        """

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
        raise ValueError(
            f"`coupling` {self.name!r} was derived for {', '.join(sorted(self.optimizers))}, "
            f"got {type(optimizer).__name__}; {self.instead}"
        )

    def in_force(self, group: Mapping[str, Any], ratio: float) -> dict[str, Any]:
        """What an optimizer step uses in place of what a parameter group holds.

        Only `*` is applied to the values, so numbers and tensors serve alike.

        Args:
            group: hyper-parameters of one parameter group by name, such as `lr` and `momentum`.
            ratio: batch size / base batch size, above 0.

        Returns:
            The hyper-parameters that differ, by name; nothing where the factor is 1.

        Example:
            >>> from adabatch import couplings
            >>> couplings.linear().in_force({"lr": 0.5, "momentum": 0.9}, 4)
            {'lr': 2.0}
        """
        factor = self.lr_factor(ratio)
        return {} if factor == 1 else {"lr": group["lr"] * factor}

    def to_json(self) -> dict[str, Any]:
        """The coupling as JSON-safe data: its name and its arguments."""
        return {"name": self.name, **asdict(self)}

    def __str__(self) -> str:
        given = [f"{key}={value!r}" for key, value in asdict(self).items() if value is not False]
        return f"{self.name}({', '.join(given)})" if given else self.name


def checked_ratio(ratio: float) -> float:
    """`ratio` as a float.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite or not above 0.
    """
    return float(_checks.finite("ratio", ratio, above=0))


def checked_factor(factor: float, *, coupling: str, ratio: float) -> float:
    """`factor`, if an LR can be multiplied by it.

    Raises:
        ValueError: if it is infinite or 0, by overflow or underflow.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"`ratio` {ratio:g} gives the LR factor {factor:g} under {coupling}; use a smaller power")
    return factor
