"""Batch sizes that are not known ahead: a policy's, from observations that are the same on every rank, or assigned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, isfinite, nan
from numbers import Real
from typing import Any, Final

import torch

from adabatch import _checks
from adabatch._distributed import gathered
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.policies import Policy
from adabatch.types import Decision, DrivenLoader, NoiseEstimate, Observation, Tap

_KEYS: Final = ("policy", "batch_size", "sizes", "updates", "seen", "decided_on", "loss", "losses", "noise")


class Decided:
    """Holds the batch size, and asks a policy for another whenever something new was measured.

    The ranks exchange their numbers then: the noise is that of the first rank, the loss the mean. Where no tap
    measures, the policy is asked after every update.

    Args:
        policy: decides; None if the user assigns the sizes.
        noise: measures; None for a policy that needs no noise.
        loader: the loader that it drives.
        first: the first batch size.

    Attributes:
        policy: see above.
        size: the batch size now.
        used: the smallest and the largest size so far.
        last: the decision made last; None before the first.
    """

    def __init__(self, policy: Policy | None, noise: Any, loader: DrivenLoader, *, first: int) -> None:
        if noise is not None and not isinstance(noise, Tap):
            rule, got = "must be a tap, which measures the gradient's noise", type(noise).__name__
            raise ArgumentTypeError("noise", rule, got=got, remedy="make one with `ab.noise.tap(...)`")
        if noise is None and policy is not None and policy.needs_noise:
            rule = f"must be given, since the policy {policy.name!r} decides by the gradient's noise"
            raise ArgumentError("noise", rule, remedy="make one with `ab.noise.tap(...)`")
        if noise is not None and policy is not None and (norm := getattr(noise, "norm", "l2")) != policy.noise_norm:
            rule = f"must be measured in the {policy.noise_norm} norm for the policy {policy.name!r}"
            remedy = f'write `ab.noise.tap(..., norm="{policy.noise_norm}")`'
            raise ArgumentError("noise", rule, value=norm, remedy=remedy)
        if noise is not None and (getattr(noise, "closed", False) or getattr(noise, "loader", loader) is not loader):
            rule, got = "must be a tap that listens to the loader", "one that is closed, or listens to another"
            raise ArgumentError("noise", rule, got=got, remedy="make one with `ab.noise.tap(model, optimizer, loader)`")
        self.policy, self._loader = policy, loader
        self._noise: Tap | None = noise
        self.begin_with(first)
        N = loader.dataset_size
        if N is not None and self.sizes[-1] > N:
            rule, got = f"must be at most the data set's {N:,} samples", f"{self.sizes[-1]:,}"
            raise ArgumentError("maximum", rule, got=got, remedy="a batch of all samples has no noise")
        self.last: Decision | None = None
        self._state = {} if policy is None else policy.init()
        self._updates = 0
        self._seen: list[float] | None = None  # of this rank's estimate at the last decision
        self._decided_on: list[float] | None = None  # of the estimate that was decided on, which is the first rank's
        self._loss: Any = 0.0  # the sum since the last decision, on the loss's own device
        self._losses = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that batches may come to have, as far as they are known."""
        return self._steps or (self.size,)

    def begin_with(self, first: int) -> None:
        """Takes another first batch size, before anything was decided.

        Raises:
            ValueError: if the policy's maximum is below it, or the tap forgets too soon to be looked at.
        """
        self._steps = () if self.policy is None else self.policy.sizes(first)
        self._check_memory()
        self.size, self.used = first, (first, first)

    def _check_memory(self) -> None:
        """Raises if at some size that the policy may leave again an estimate never rests on enough updates."""
        policy, rests_on = self.policy, getattr(self._noise, "rests_on", None)
        if policy is None or not policy.needs_noise or rests_on is None:
            return
        for size in self._steps if policy.shrinks else self._steps[:-1]:
            if (found := rests_on(size)) < policy.fewest:
                rule = f"of the tap must let an estimate rest on {policy.fewest} updates at batches of {size:,}"
                remedy = "make it longer, leave it out, or measure more often by `every`"
                raise ArgumentError("half_life", rule, got=f"one that lets it rest on {found:.3g}", remedy=remedy)

    @property
    def noise_scale(self) -> float:
        """The noise scale at the last decision, from 0 to infinite; 0 before one that had it."""
        trace, signal = self._decided_on or (0.0, 0.0)
        return 0.0 if trace <= 0 else inf if signal <= 0 else trace / signal

    def assign(self, size: int) -> None:
        """Takes another size from the next batch on."""
        self.size, self.used = size, (min(size, self.used[0]), max(size, self.used[1]))

    def after_update(self, *, lr: Callable[[], float], loss: Any) -> Decision | None:
        """Counts an update, and asks the policy if something new was measured.

        Args:
            lr: gives the LR in force at it.
            loss: the mean loss of the batch; None if nobody told it.

        Returns:
            The decision, if it changes the batch size.
        """
        self._updates += 1
        if self.policy is None:
            return None
        if loss is not None:
            self._loss = self._loss + _number(loss)
            self._losses += 1
        noise = None if self._noise is None else self._noise.estimate()
        values = None if noise is None else [noise.trace, noise.signal]
        if self._noise is not None and values == self._seen:
            return None
        self._seen = values
        return self._decide(noise, lr=lr())

    def _decide(self, noise: NoiseEstimate | None, *, lr: float) -> Decision | None:
        policy, clock = self.policy, self._loader.clock
        assert policy is not None
        group, _, world = self._loader.sharing()
        told = [(noise, float(self._loss) if self._losses else 0.0, self._losses)]
        if world > 1:
            told = gathered(told[0], group)
        losses = sum(count for *_, count in told)
        if policy.needs_loss and not losses:
            rule = f"of BatchSizeScheduler was called without the loss, by which the policy {policy.name!r} decides"
            raise UsageError("step()", rule, remedy="call `batches.step(loss)`")
        loss = sum(total for _, total, _ in told) / losses if losses else None
        self._loss, self._losses = 0.0, 0
        shared = told[0][0]
        if shared is not None and isfinite(shared.trace) and isfinite(shared.signal):
            self._decided_on = [shared.trace, shared.signal]
        seen = Observation(clock, self._updates, self.size, lr=lr, loss=loss, noise=shared)
        decision, self._state = policy.decide(seen, self._state)
        size = _checks.whole("batch_size", decision.batch_size, remedy=f"the policy {policy.name!r} must decide one")
        if size not in self.sizes:
            rule = f"of a decision must be one of the policy's sizes {', '.join(f'{each:,}' for each in self.sizes)}"
            raise ArgumentError("batch_size", rule, got=f"{size:,}")
        changed = size != self.size
        self.assign(size)
        self.last = replace(decision, clock=self._loader.clock)  # where `drop_last` drops more, it is further on
        return self.last if changed else None

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The state of policy and tap, JSON-safe."""
        seen = None if self._seen is None or not all(map(isfinite, self._seen)) else self._seen
        loss = float(self._loss)
        values = (
            dict(self._state),
            self.size,
            list(self.used),
            self._updates,
            seen,
            self._decided_on,
            loss if isfinite(loss) else None,
            self._losses,
            None if self._noise is None else self._noise.state_dict(),
        )
        return dict(zip(_KEYS, values, strict=True))

    def check(self, state: Any, *, first: int) -> None:
        """Checks a state of `state_dict` in a training that began with batches of `first` samples.

        Raises:
            ValueError: if it is damaged.
        """
        if not isinstance(state, Mapping) or set(state) != set(_KEYS) or not isinstance(state["policy"], Mapping):
            raise _damaged("it must hold a policy's numbers")
        policy, used = self.policy, state["sizes"]
        known = {} if policy is None else policy.init()
        if set(state["policy"]) != set(known):
            raise _damaged(f"it must hold {', '.join(known) or 'nothing'} of the policy")
        if not isinstance(used, list | tuple) or len(used) != 2:
            raise _damaged("its sizes must be two numbers")
        found = {_checks.whole("batch_size", size) for size in (state["batch_size"], *used)}
        if policy is not None and not found <= set(policy.sizes(first)):
            raise _damaged(f"its sizes must be among {', '.join(map(str, policy.sizes(first)))}")
        shown = state["decided_on"]
        if shown is not None and not (
            isinstance(shown, list | tuple) and len(shown) == 2 and all(isinstance(each, Real) for each in shown)
        ):
            raise _damaged("it was decided on a trace and a signal, or on neither")
        if (state["noise"] is None) != (self._noise is None):
            raise _damaged("it must have been saved with a tap, or without one, as this training has it")

    def load_state_dict(self, state: Mapping[str, Any], *, first: int) -> None:
        """Goes on where a state that was checked was taken; the tap, which may refuse its own, before anything else."""
        if self._noise is not None:
            self._noise.load_state_dict(state["noise"])
        self.begin_with(first)
        self._state, self.size = dict(state["policy"]), int(state["batch_size"])
        self.used = (state["sizes"][0], state["sizes"][1])
        self._updates, self._seen = int(state["updates"]), None if state["seen"] is None else list(state["seen"])
        self._decided_on = None if state["decided_on"] is None else [float(each) for each in state["decided_on"]]
        self._loss = nan if state["loss"] is None else float(state["loss"])
        self._losses, self.last = int(state["losses"]), None

    def close(self) -> None:
        """Closes the tap."""
        if self._noise is not None:
            self._noise.close()


def _number(loss: Any) -> Any:
    """A loss as a number, or as a tensor without dimensions, on its own device.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss.detach().float().reshape(())
    if isinstance(loss, Real):
        return float(loss)
    got = f"a tensor of {loss.numel():,} numbers" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise ArgumentTypeError("loss", "must be one number, the mean of the batch", got=got, remedy="write `loss.mean()`")


def _damaged(rule: str) -> ArgumentError:
    return ArgumentError("state", f"has a damaged `decided`: {rule}", remedy="use an older checkpoint")
