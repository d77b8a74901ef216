"""Branches of a run for a policy that asks for them: trained from its present state, in a network of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import torch

import adabatch as ab
from adabatch.lab.training import device as devices
from adabatch.lab.training.checkpoint import copied
from adabatch.lab.training.records import RunState
from adabatch.lab.training.setup import Setup
from adabatch.types import Decision, Fork, Observation

_APART: Final = 0x632BE59BD9B4E019  # the seeds of orders
_FAR, _ROOM = 2**20, 2**8  # the epoch of the first order, which no run comes to, and epochs for each


class BranchingPolicy(Protocol):
    """A policy that asks for branches, as a run uses it."""

    def init(self) -> dict[str, Any]:
        """The state before the first decision; JSON."""

    def decide(self, observation: Observation, state: Mapping[str, Any], /) -> tuple[Decision, dict[str, Any]]:
        """The decision, a `Fork` or a `Rollback` among them, and the state for the next one."""

    def next_clock(self, state: Mapping[str, Any], samples: int) -> int:
        """The clock at which it wants to be asked next, in a training of so many samples."""

    def on_trial(self, state: Mapping[str, Any]) -> bool:
        """Whether it may still go back to before the last growth."""

    def checked(self, state: Any) -> dict[str, Any]:
        """A state that was saved; raises a ValueError if it is damaged."""


class Branching:
    """Asks a policy that branches, and trains the branches that it asks for.

    Args:
        policy: the policy.
        samples: of the whole training.

    Attributes:
        policy: see above.
        state: of the policy, JSON.
        before: the state of the run before the last growth, as long as the policy may go back to it; else None. The
            run sets it.
    """

    def __init__(self, policy: BranchingPolicy, *, samples: int) -> None:
        self.policy, self.samples = policy, samples
        self.state: Mapping[str, Any] = policy.init()
        self.before: RunState | None = None
        self._setup: Setup | None = None  # in which branches are trained

    @property
    def next_clock(self) -> int:
        """The clock at which it is to be asked next."""
        return self.policy.next_clock(self.state, self.samples)

    def decide(
        self,
        seen: Callable[..., Observation],
        *,
        run: Setup,
        tell: Callable[[str], object],
        look: Callable[[], object],
    ) -> Decision:
        """Asks the policy, with the branches that it wants. What was decided counts once it has returned.

        Args:
            seen: makes an observation, with fields that are added to it.
            run: the training from which branches go off.
            tell: called with the branches to come, in words.
            look: called after each update of a branch; it may raise.
        """
        decision, state = self.policy.decide(seen(), self.state)
        while isinstance(decision, Fork):
            tell(decision.reason)
            branches = tuple(
                tuple(self._loss(run, decision, size, order, look) for order in decision.orders)
                for size in decision.sizes
            )
            decision, state = self.policy.decide(seen(branches=branches), state)
        self.state = state
        return decision

    @property
    def on_trial(self) -> bool:
        """Whether the policy may still go back to before the last growth."""
        return self.policy.on_trial(self.state)

    def load(self, state: Any, before: RunState | None) -> None:
        """Goes on from a state of the policy.

        Raises:
            ValueError: if it is damaged.
        """
        self.state, self.before = self.policy.checked(state), before

    def _loss(self, run: Setup, fork: Fork, size: int, order: int, look: Callable[[], object]) -> float:
        """The loss on training samples after a branch; infinite where it is not finite."""
        with devices.entered(run.device):
            setup = self._from(run, order)
            torch.manual_seed((run.config.seed + (order + 1) * _APART) % 2**63)
            start, lrs = setup.loader.clock, [group["lr"] for group in run.optimizer.param_groups]
            setup.loader.batch_size = size
            setup.optimizer.zero_grad()
            before = 0  # samples of the batch before this micro-batch
            while (passed := setup.loader.clock - start) < fork.window:
                for micro in ab.accumulate(setup.loader, setup.wrapped):
                    before = 0 if micro.index == 0 else before
                    with micro as (inputs, targets):
                        if not setup.prepared:
                            inputs, targets = setup.prepare(inputs, targets, clock=setup.loader.clock, before=before)
                        (setup.loss(setup.forward(inputs), targets) * micro.weight).backward()
                    if micro.failed:
                        continue
                    before += micro.size
                    if not micro.is_last:
                        continue
                    for group, lr in zip(setup.optimizer.param_groups, lrs, strict=True):
                        group["lr"] = lr * cooled(passed + size / 2, fork.window)
                    setup.optimizer.step()
                    setup.optimizer.zero_grad()
                    setup.batches.step()
                    look()
                    if (passed := setup.loader.clock - start) >= fork.window:
                        break
            loss = setup.evaluate(of_training=True, after=look)[0]
            return loss if math.isfinite(loss) else math.inf

    def _from(self, run: Setup, order: int) -> Setup:
        """A training like the run, in its present state, before an order of the data that the run never has."""
        if self._setup is None:
            self._setup = Setup(run.config, run.data, run.device)
            self._setup.close_tap()
        state = run.state_dict()
        for part in ("loader", "batches"):
            state[part] = {**state[part], "clock": (_FAR + order * _ROOM) * run.data.dataset_size}
        state["loader"].pop("open_epoch", None)
        self._setup.take(copied({name: state[name] for name in ("model", "optimizer", "loader", "batches")}))
        return self._setup


def cooled(passed: float, window: int) -> float:
    """The share of the LR at a place of a branch: all of it over half the window, then linearly to 0.

    An update takes that of its middle, so that LR times samples comes to the same at every batch size.

    Args:
        passed: samples of the branch before the place.
        window: samples of the branch.

    Example:
        >>> [cooled(passed, 64) for passed in (8, 24, 40, 56)]
        [1.0, 1.0, 0.75, 0.25]
    """
    return min(1.0, (window - passed) / (window / 2))
