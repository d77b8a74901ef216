"""Adam's bias correction under betas that change: one minus the product of the betas that were in force.

    m_t = beta1_t m_{t-1} + (1 - beta1_t) g_t,   P1_t = beta1_1 ... beta1_t,   m_t / (1 - P1_t) is a weighted mean of g

and alike for v with beta2. torch divides by `1 - beta1_t ** t` with the beta of now, which is the same only while it is
constant. An LR, eps and decoupled weight decay for the step make up for the difference, in closed form:

    r_i = (1 - Pi_t) / (1 - betai_t ** t)
    lr -> lr sqrt(r_2) / r_1,   eps -> eps sqrt(r_2),   wd -> wd r_1 / sqrt(r_2)

Nothing is recorded, and no bit changes, until a coupling first changes the betas. Steps before that count as made with
the betas that the group then holds, as in torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import sqrt
from typing import Any, Final

import torch

from adabatch import _checks
from adabatch._errors import ArgumentError, UsageError


@dataclass(frozen=True, slots=True)
class PastBetas:
    """The betas that were in force while a parameter's moments were made.

    Attributes:
        steps: the optimizer's for this parameter.
        products: the product of the first betas in force at those steps, and of the second.
    """

    steps: int
    products: tuple[float, float]

    def then(self, betas: tuple[float, float]) -> PastBetas:
        """The past after a step with `betas`."""
        return PastBetas(self.steps + 1, (self.products[0] * betas[0], self.products[1] * betas[1]))

    def corrections(self, betas: tuple[float, float]) -> tuple[float, float]:
        """The factors on torch's corrections at this step; exactly 1 where torch is right."""
        first, second = (
            (1 - product * beta) / (1 - beta ** (self.steps + 1))
            for product, beta in zip(self.products, betas, strict=True)
        )
        return first, second


_RIGHT: Final = (1.0, 1.0)
_FRESH: Final = PastBetas(0, (1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Parameters of one group that have one past.

    Attributes:
        params: the parameters.
        corrections: the factors on torch's bias corrections.
        changes: LR, eps and decoupled weight decay that make up for them; empty where torch is right.
    """

    params: list[torch.Tensor]
    corrections: tuple[float, float]
    changes: dict[str, Any]


class BiasCorrection:
    """The past betas of one optimizer's parameters.

    A parameter that sits steps out, or joined later, has a past of its own.

    Args:
        optimizer: torch's Adam or AdamW, or any other as long as no coupling changes its betas.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._past: dict[torch.Tensor, PastBetas] = {}
        self._loaded: dict[torch.Tensor, PastBetas] = {}
        self._pending: dict[torch.Tensor, PastBetas] = {}
        self._verified = True
        self._trained = True  # since a state was loaded

    def __bool__(self) -> bool:
        """Whether betas were ever changed."""
        return bool(self._past)

    def doubt(self) -> None:
        """Requires that the past is compared with the optimizer's own step counts before its next use."""
        self._verified = False

    def before(self, in_force: Sequence[Mapping[str, Any]]) -> list[list[Subgroup]]:
        """Splits each parameter group for a step under the betas in force.

        Args:
            in_force: the values of each parameter group during the step.

        Returns:
            For each group its subgroups, one for each past that its parameters have; mostly one.
        """
        check_adam(self._optimizer)
        self._settle()
        found = []
        for held, group in zip(self._optimizer.param_groups, in_force, strict=True):
            betas = (float(group["betas"][0]), float(group["betas"][1]))
            subgroups = []
            for past, params in self._by_past(held).items():
                self._pending |= dict.fromkeys(params, past.then(betas))
                corrections = past.corrections(betas)
                subgroups.append(Subgroup(params, corrections, _corrected(group, corrections)))
            found.append(subgroups or [Subgroup(held["params"], _RIGHT, {})])  # frozen throughout
        return found

    def after(self, *, trained: bool) -> None:
        """Records a step that was made, and whether it trained on a batch."""
        self._trained |= trained
        if not skips(self._optimizer):
            self._past |= {param: past for param, past in self._pending.items() if param.grad is not None}
        self._pending.clear()

    def state(self) -> list[dict[str, Any]]:
        """Every past, JSON-safe, with its parameters as [first, last] ranges of numbers in the optimizer's state."""
        self._settle()
        found: dict[PastBetas, list[int]] = {}
        for number, param in enumerate(self._params()):
            if param in self._past:
                found.setdefault(self._past[param], []).append(number)
        return [
            {"params": _runs(numbers), "steps": past.steps, "products": list(past.products)}
            for past, numbers in found.items()
        ]

    def load(self, pasts: dict[int, PastBetas]) -> None:
        """Sets the pasts that `read` gave."""
        params = list(self._params())
        self._loaded = {params[number]: past for number, past in pasts.items()}
        self._past, self._pending, self._verified = dict(self._loaded), {}, False
        self._trained = False

    def read(self, state: Any) -> dict[int, PastBetas]:
        """Pasts by parameter number, from a value of `state`.

        Raises:
            ValueError: if it is damaged, or of other parameters.
        """
        count = sum(1 for _ in self._params())
        try:
            found = {
                _checks.whole("params", number, minimum=0): PastBetas(
                    _checks.whole("steps", entry["steps"], minimum=0), _products(entry["products"])
                )
                for entry in state
                for first, last in entry["params"]
                for number in range(first, last + 1)
            }
        except (TypeError, KeyError, ValueError) as error:
            raise ArgumentError(
                "bias_correction", "must be what `BatchSizeScheduler.state_dict()` gave", got=f"{state!r} ({error})"
            ) from None
        if found and max(found) >= count:
            raise ArgumentError(
                "state",
                f"must be of the same parameters: it names number {max(found)} of an optimizer that has {count}",
                remedy="build model and optimizer as they were when it was saved",
            )
        return found

    def _params(self) -> Iterable[torch.Tensor]:
        return (param for group in self._optimizer.param_groups for param in group["params"])

    def _steps(self, param: torch.Tensor) -> int:
        """Steps that the optimizer counts for the parameter; waits for an accelerator."""
        return int(self._optimizer.state.get(param, {}).get("step", 0))

    def _by_past(self, group: dict[str, Any]) -> dict[PastBetas, list[torch.Tensor]]:
        found: dict[PastBetas, list[torch.Tensor]] = {}
        for param in group["params"]:
            if param.grad is None and not param.requires_grad:
                continue
            past = self._past.get(param)
            if past is None or (past.steps and not self._optimizer.state.get(param)):
                steps = self._steps(param)
                past = self._past[param] = PastBetas(
                    steps, (float(group["betas"][0]) ** steps, float(group["betas"][1]) ** steps)
                )
            found.setdefault(past, []).append(param)
        return found

    def _settle(self) -> None:
        """After a step that raised, or a loaded state: takes the pasts that fit the optimizer's own step counts."""
        if not self._pending and self._verified:
            return
        for param in self._params():
            if param in self._past:
                past = self._past_at(param, self._steps(param))
                if past is None:
                    del self._past[param]
                else:
                    self._past[param] = past
        self._pending.clear()
        self._verified = True

    def _past_at(self, param: torch.Tensor, steps: int) -> PastBetas | None:
        """The past after `steps`; None if no beta had changed by then."""
        for pasts in (self._past, self._pending, self._loaded):
            past = pasts.get(param)
            if past is not None and past.steps == steps:
                return past
        if steps == 0:
            return _FRESH
        if not self._trained and param not in self._loaded:  # no beta had changed in the run that saved the state
            return None
        raise UsageError(
            None,
            f"the state of {type(self._optimizer).__name__} counts {steps} steps where the bias correction of "
            f"BatchSizeScheduler stands at {self._past[param].steps}",
            remedy="load the states of both from one checkpoint",
        )


def read_states(state: Any, corrections: Sequence[BiasCorrection]) -> list[dict[int, PastBetas]]:
    """The pasts for each optimizer, from a list of what `state` gave; None stands for a run without changed betas.

    Raises:
        ValueError: if it is damaged, or of other optimizers or parameters.
    """
    if state is None:
        return [{} for _ in corrections]
    if not isinstance(state, Sequence) or len(state) != len(corrections):
        raise ArgumentError(
            "state",
            f"must have a `bias_correction` for each of {len(corrections)} optimizers",
            value=state,
            remedy="resume with the optimizers that it was saved with",
        )
    return [correction.read(each) for correction, each in zip(corrections, state, strict=True)]


def check_adam(optimizer: torch.optim.Optimizer) -> None:
    """Checks that the bias correction of the optimizer is known.

    Raises:
        ValueError: if it is not torch's Adam or AdamW.
    """
    if not isinstance(optimizer, torch.optim.Adam):
        kind = type(optimizer)
        raise ArgumentError(
            "coupling",
            "changes betas, which needs an optimizer whose bias correction is known: torch.optim.Adam or AdamW",
            got=f"{kind.__module__}.{kind.__qualname__}",
            remedy="use a coupling of the LR, such as `sqrt`",
        )


def _corrected(group: Mapping[str, Any], corrections: tuple[float, float]) -> dict[str, Any]:
    """LR, eps and decoupled weight decay where they differ."""
    if corrections == _RIGHT:
        return {}
    first, second = corrections[0], sqrt(corrections[1])
    changed = {"lr": group["lr"] * (second / first), "eps": group["eps"] * second}
    if group["decoupled_weight_decay"]:
        changed["weight_decay"] = group["weight_decay"] * (first / second)
    return changed


def _products(given: Any) -> tuple[float, float]:
    first, second = (float(_checks.finite("products", value, minimum=0)) for value in given)
    return first, second


def _runs(numbers: list[int]) -> list[list[int]]:
    """Rising numbers as [first, last] ranges."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0])]
    return [[run[0], run[-1]] for run in runs]


def skips(optimizer: torch.optim.Optimizer) -> bool:
    """Whether GradScaler makes a fused optimizer skip this step; waits for an accelerator."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
