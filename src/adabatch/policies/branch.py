"""Growth that short branches of the training have shown to do no harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, expm1, inf, isfinite, log, log1p, sqrt
from statistics import fmean, variance
from typing import Any, ClassVar, Final

from adabatch import _checks
from adabatch._errors import ArgumentError
from adabatch.policies import _evidence
from adabatch.policies._base import Policy
from adabatch.types import Decision, Fork, Observation, Rollback

_AT_ONCE: Final = 4  # orders that are trained on before the next look
_FEWEST: Final = 4  # updates of the larger batch in a branch


@dataclass(frozen=True)
class branch(Policy):  # noqa: N801
    """Grows where a larger batch is shown to do no harm, by branches; goes back where a growth did.

    Now and then short branches go off from the training: over a window of samples at the present batch size and at the
    next one, on the same samples up to the rest of a batch, each with a cooldown of the LR over its second half. Pairs
    on further orders of the data follow while it is open whether the larger batch is worse. The batch grows once it is
    shown not to be:

        mean + t std / sqrt(pairs) <= log(1 + tolerance),  of  log(loss at the next size / loss at the present one)

    A growth is on trial until the next branches. If their loss at the present size is then shown to be higher than it
    was before the growth, or a loss was not finite, the training goes back to where it grew. It does not try again
    before the place at which that was found. The two losses are of branches at their own places, so an LR that rises
    in between may look like harm, and one that falls may hide it.

    This costs samples: at each place up to twice `pairs` branches, so with the defaults 0.6 to 1.3 times the training
    itself, where a window is longer than four updates; and a loss on training samples after each. It finds the sizes
    for trainings to come, and the constant of the other policies, since each decision holds the noise scale beside the
    size. Only `adabatch train` can do this, which takes and restores the state of the whole training: a
    `BatchSizeScheduler` refuses it. The probability that a batch grows that is worse than tolerated, at any time, is at
    most 0.05, as for every policy, for differences that are normal.

    Args:
        tolerance: the share by which the loss after a branch may be higher, above 0.
        every: the share of the training after which branches go off, above 0 and below 1.
        window: the samples of a branch, as a share of the training, above 0 and below 1; at least four updates.
        pairs: of branches at most, at least 2.
        maximum: see `Policy`.
        factor: see `Policy`.
        warmup_samples: see `Policy`; no branches go off before.
        shrinks: False; a growth that hurt is taken back as a whole.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.

    Example:
        >>> policy = branch(0.01, maximum=256)
        >>> fork, state = policy.decide(Observation(10240, 160, 64, samples=51200), policy.init())
        >>> fork.sizes, fork.window, fork.orders
        ((64, 128), 1024, (0, 1, 2, 3))
        >>> losses = ((0.500, 0.502, 0.498, 0.501), (0.500, 0.501, 0.498, 0.500))
        >>> decision, state = policy.decide(Observation(10240, 160, 64, samples=51200, branches=losses), state)
        >>> decision.batch_size
        128

    Source:
        McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, section 2: the gain of one update against its batch
        size. Critical batch sizes by branches: Merrill et al. 2025, arXiv 2505.23971.

    Departures:
        Branches of many updates with a cooldown, paired by the order of the data; a test of non-inferiority that holds
        at all looks of a training; the way back.
    """

    needs_noise: ClassVar[bool] = False
    needs_branches: ClassVar[bool] = True

    tolerance: float = 0.01
    every: float = 0.2
    window: float = 0.02
    pairs: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = {"tolerance": "0.01 allows a loss of 1 % more", "every": "0.2 looks four times"}
        for name, remedy in {**shares, "window": "0.02 trains each branch for 2 % of the training"}.items():
            value = float(_checks.finite(name, getattr(self, name), above=0, below=1, remedy=remedy))
            object.__setattr__(self, name, value)
        object.__setattr__(self, "pairs", _checks.whole("pairs", self.pairs, minimum=2))
        if self.shrinks:
            remedy = "leave it out: a growth that hurt is taken back as a whole"
            raise ArgumentError("shrinks", "must be False for branches", value=True, remedy=remedy)

    def wanted(self, noise_scale: float, seen: Observation) -> float:  # noqa: ARG002
        """The present size, since it does not ask by the noise scale."""
        return seen.batch_size

    def init(self) -> dict[str, Any]:
        """The state before the first decision; JSON."""
        return {"first": None, "next": None, "looks": 0, "orders": 0, "losses": None, "before": None}

    def decide(self, observation: Observation, state: Mapping[str, Any]) -> tuple[Decision, dict[str, Any]]:
        """Decides whether branches shall be trained; from their losses, the size of the next batch.

        Args:
            observation: what is known before it; with `branches` after a `Fork`.
            state: from `init` or the decision before; it is left as it is.

        Returns:
            The decision, a `Fork` or a `Rollback` among them, and the state for the next one.

        Raises:
            ValueError: if the maximum is below the first batch size, or the length of the training is not known.
        """
        clock, after = observation.clock, dict(state)
        if after["first"] is None:
            self.sizes(observation.batch_size)
            after |= {"first": observation.batch_size, "next": max(self._every(observation), self.warmup_samples)}
        if observation.loss is not None and not isfinite(observation.loss):
            return self._back(observation, after, "a loss was not finite")
        if observation.branches is not None:
            return self._from_losses(observation, after)
        if clock < after["next"]:
            return _hold(observation, f"branches come at sample {after['next']:,}"), after
        return self._fork(observation, after)

    def on_trial(self, state: Mapping[str, Any]) -> bool:
        """Whether it may still go back to before the last growth."""
        return state["before"] is not None

    def next_clock(self, state: Mapping[str, Any], samples: int) -> int:
        """The clock at which it wants to be asked next, in a training of so many samples."""
        found = state["next"]
        return max(round(self.every * samples), self.warmup_samples) if found is None else int(found)

    def checked(self, state: Any) -> dict[str, Any]:
        """A state that was saved.

        Raises:
            ValueError: if it is damaged.
        """
        if not isinstance(state, Mapping) or set(state) != set(self.init()):
            rule = f"must hold {', '.join(self.init())} of the policy {self.name!r}"
            raise ArgumentError("state", rule, got="a damaged one", remedy="use an older checkpoint")
        return dict(state)

    def _every(self, seen: Observation) -> int:
        if seen.samples is None:
            remedy = "tell `Observation.samples`, the samples of the whole training"
            raise ArgumentError("samples", "must be known to place branches", got="none", remedy=remedy)
        return max(1, round(self.every * seen.samples))

    def _fork(self, seen: Observation, after: dict[str, Any]) -> tuple[Decision, dict[str, Any]]:
        """Asks for branches, if they can tell anything and there is room for them."""
        assert seen.samples is not None
        larger = self._larger(seen, after)
        if larger is None and after["before"] is None:
            after["next"] = seen.samples
            return _hold(seen, f"stays at the maximum of {seen.batch_size:,}"), after
        sizes = (seen.batch_size,) if larger is None else (seen.batch_size, larger)
        updates = max(_FEWEST, ceil(self.window * seen.samples / sizes[-1]))
        window = updates * sizes[-1]
        if seen.clock + window > seen.samples:
            after["next"] = seen.samples
            return _hold(seen, f"no room is left for branches of {window:,} samples"), after
        done = 0 if after["losses"] is None else len(after["losses"][0])
        orders = tuple(range(after["orders"], after["orders"] + min(_AT_ONCE, self.pairs - done)))
        after["orders"] += len(orders)
        named = " and ".join(f"{size:,}" for size in sizes)
        fork = Fork(
            seen.clock,
            seen.batch_size,
            f"{len(sizes) * len(orders)} branches of {window:,} samples at {named}",
            observation=seen,
            sizes=sizes,
            window=window,
            orders=orders,
        )
        return fork, after

    def _from_losses(self, seen: Observation, after: dict[str, Any]) -> tuple[Decision, dict[str, Any]]:
        """Decides from the losses of branches."""
        assert seen.branches is not None
        kept = after["losses"] or [[] for _ in seen.branches]
        kept = [[*row, *map(_log, new)] for row, new in zip(kept, seen.branches, strict=True)]
        after |= {"losses": kept, "looks": after["looks"] + 1}
        logs = [[inf if value is None else value for value in row] for row in kept]
        z, present = _evidence.quantile(after["looks"], sides=1), logs[0]
        if after["before"] is not None and (hurt := _rise(after["before"]["losses"], present, z)) > 0:
            return self._back(seen, after, f"the loss after a branch was {_told(hurt)} or more than before")
        larger = self._larger(seen, after)
        if larger is None or len(logs) == 1:
            return self._settled(seen, after, f"stays at the maximum of {seen.batch_size:,}")
        differences = [theirs - mine for theirs, mine in zip(logs[1], present, strict=True)]
        mean, most = _upper(differences, z)
        said = f"after {len(differences)} pairs of branches the loss at {larger:,} is {_told(mean)}, "
        said += f"at most {_told(most)}"
        if most <= log1p(self.tolerance):
            before = {"clock": seen.clock, "batch_size": seen.batch_size, "losses": present}
            return self._settled(seen, {**after, "before": before}, f"{said}: grows to {larger:,}", larger)
        if mean <= log1p(self.tolerance) and len(differences) < self.pairs:
            return self._fork(seen, after)
        return self._settled(seen, after, f"{said}: {'stays' if mean > log1p(self.tolerance) else 'cannot tell'}")

    def _settled(
        self, seen: Observation, after: dict[str, Any], reason: str, size: int | None = None
    ) -> tuple[Decision, dict[str, Any]]:
        """The decision at the end of branches; the growth before it, if there was one, stands."""
        if size is None:
            after["before"] = None
        after |= {"losses": None, "next": seen.clock + self._every(seen)}
        return Decision(seen.clock, size or seen.batch_size, reason, observation=seen), after

    def _back(self, seen: Observation, after: dict[str, Any], reason: str) -> tuple[Decision, dict[str, Any]]:
        """Goes back to before the last growth, if it is still on trial."""
        if (before := after["before"]) is None:
            return _hold(seen, reason), after
        after |= {"losses": None, "before": None, "next": max(seen.clock, before["clock"] + self._every(seen))}
        said = f"{reason} at sample {seen.clock:,}, after the growth to {seen.batch_size:,}: back to {{:,}}"
        return Rollback(
            before["clock"], before["batch_size"], said.format(before["batch_size"]), observation=seen
        ), after

    def _larger(self, seen: Observation, after: Mapping[str, Any]) -> int | None:
        return next((size for size in self.sizes(after["first"]) if size > seen.batch_size), None)


def _hold(seen: Observation, reason: str) -> Decision:
    return Decision(seen.clock, seen.batch_size, reason, observation=seen)


def _log(loss: float) -> float | None:
    """The logarithm of a loss, for a state in JSON; None where it is not finite."""
    return log(max(loss, 1e-300)) if isfinite(loss) else None


def _upper(values: Sequence[float], z: float) -> tuple[float, float]:
    """The mean of values and the upper end of its interval, one-sided."""
    if not all(map(isfinite, values)):
        return inf, inf
    mean = fmean(values)
    return mean, mean + _evidence.student(z, len(values) - 1) * sqrt(variance(values) / len(values))


def _rise(before: Sequence[float], after: Sequence[float], z: float) -> float:
    """The lower end of the interval of by how much the mean rose."""
    if not all(map(isfinite, after)):
        return inf
    freedom = len(before) + len(after) - 2
    pooled = (variance(before) * (len(before) - 1) + variance(after) * (len(after) - 1)) / freedom
    error = sqrt(pooled * (1 / len(before) + 1 / len(after)))
    return fmean(after) - fmean(before) - _evidence.student(z, freedom) * error


def _told(difference: float) -> str:
    """A difference of log losses in words."""
    share = 100 * expm1(min(difference, 50.0))
    return f"{abs(share):.2f} % {'lower' if share < 0 else 'higher'}" if share < 1e6 else "endlessly higher"
