"""The base of policies: warm-up, steps, bounds and evidence, which all of them share. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields
from fractions import Fraction
from math import inf, isnan
from typing import Any, ClassVar, Literal

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.policies import _evidence
from adabatch.types import Decision, Observation


@dataclass(frozen=True)
class Policy(ABC):
    """Decides the batch size from what was observed. It returns decisions and touches nothing.

        policy.init() -> state,  policy.decide(observation, state) -> (decision, state)

    Floats go in and out, the state is JSON. All policies share this: they hold during a warm-up, move by a factor at a
    time, stay between the first batch size and a maximum, and act on evidence alone. To grow, the *lower* end of the
    interval of the batch size asked for must reach the next step. The interval holds at all looks of a training
    together: the probability that a batch grows falsely, at any time, is at most 0.05. Where the interval is too wide
    to tell, the batch stays.

    To add one: a frozen dataclass with a lower-case name and `wanted`. One whose evidence is not the noise scale
    overrides `interval`.

    Args:
        maximum: the largest batch size in samples over all ranks, at least the first one.
        factor: a step multiplies or divides the batch by it, above 1.
        warmup_samples: the batch holds for so many samples from the first decision on, at least 0.
        shrinks: whether the batch may shrink again, not below the first size: where the *upper* end of the interval
            asks for a step less. Between the two lies a step, so a batch that has just grown stays.

    Attributes:
        kinds: every policy by name, also those of users; a second class of the same name is refused.
        coupling: the name of the coupling that it brings.
        needs_noise: whether a tap must measure the gradient's noise.
        needs_loss: whether it must be told the loss.
        needs_branches: whether it asks for branches of the training, which only `adabatch train` trains.
        noise_norm: in which the tap must measure lengths, `"l2"` or `"l1"`.
        fewest: the updates on which an estimate of the noise must rest to be looked at.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if one is out of range.
    """

    kinds: ClassVar[dict[str, type[Policy]]] = {}
    coupling: ClassVar[str] = "linear"
    needs_noise: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = False
    needs_branches: ClassVar[bool] = False
    noise_norm: ClassVar[Literal["l2", "l1"]] = "l2"
    fewest: ClassVar[int] = _evidence.FEWEST

    _: KW_ONLY
    maximum: int
    factor: float = 2
    warmup_samples: int = 0
    shrinks: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _checks.register(Policy.kinds, cls)

    def __post_init__(self) -> None:
        object.__setattr__(self, "maximum", _checks.whole("maximum", self.maximum))
        factor = _checks.finite("factor", self.factor, above=1, remedy="2 doubles the batch at each step")
        object.__setattr__(self, "factor", int(factor) if factor == int(factor) else factor)
        object.__setattr__(self, "warmup_samples", _checks.whole("warmup_samples", self.warmup_samples, minimum=0))
        if not isinstance(self.shrinks, bool):
            raise ArgumentTypeError("shrinks", "must be True or False", value=self.shrinks)

    @abstractmethod
    def wanted(self, noise_scale: float, seen: Observation) -> float:
        """The batch size that the policy would ask for if it knew the noise scale.

        Args:
            noise_scale: B_simple in samples, from 0 to infinite.
            seen: everything else.

        Returns:
            A batch size in samples, which does not fall where the noise scale rises.
        """

    def missing(self, _seen: Observation) -> str:
        """What the policy needs and was not given, in words; empty if nothing is missing."""
        return ""

    def interval(self, seen: Observation, z: float) -> tuple[float, float]:
        """Between which batch sizes the one asked for lies, at `z` standard errors; `seen` has a usable noise."""
        assert seen.noise is not None
        low, high = _evidence.widened(seen.noise, z)
        return self.wanted(low, seen), self.wanted(high, seen)

    def check_training(self, _optimizer: object, _coupling: str) -> None:  # noqa: B027
        """Checks that the policy was derived for the optimizer and the coupling.

        Args:
            _optimizer: a torch optimizer.
            _coupling: the coupling's name.

        Raises:
            ValueError: if it was not.
        """

    def sizes(self, first: int) -> tuple[int, ...]:
        """The batch sizes that a training may have that begins with `first`, growing.

        Args:
            first: the first batch size.

        Raises:
            ValueError: if the maximum is below it.

        Example:
            >>> from adabatch import policies
            >>> policies.noise_scale(maximum=1000, factor=1.5).sizes(100)
            (100, 150, 225, 337, 505, 757, 1000)
        """
        if self.maximum < first:
            raise ArgumentError(
                "maximum",
                f"must be at least the first batch size of {first:,}",
                got=f"{self.maximum:,}",
                remedy="give the loader a smaller `batch_size`, or the policy a larger maximum",
            )
        found = [first]
        while found[-1] < self.maximum:
            found.append(self.size_above(found[-1]))
        return tuple(found)

    def size_above(self, size: int) -> int:
        """The batch size a step above another one: times `factor`, rounded down, at least one sample more."""
        return min(max(int(size * Fraction(str(self.factor))), size + 1), self.maximum)

    def init(self) -> dict[str, Any]:
        """The state before the first decision; JSON."""
        return {"first": None, "began": None, "looks": 0, "fresh": 0, "seen": None}

    def decide(self, observation: Observation, state: Mapping[str, Any]) -> tuple[Decision, dict[str, Any]]:
        """Decides the size of the next batch.

        Args:
            observation: what is known before it.
            state: from `init` or the decision before; it is left as it is.

        Returns:
            The decision, and the state for the next one.

        Raises:
            ValueError: if the maximum is below the first batch size.
        """
        after, noise = dict(state), observation.noise
        if after["first"] is None:
            self.sizes(observation.batch_size)
            after |= {"first": observation.batch_size, "began": observation.clock}

        def hold(reason: str) -> tuple[Decision, dict[str, Any]]:
            return Decision(observation.clock, observation.batch_size, reason, observation=observation), after

        if noise is None:
            return hold("no noise was measured yet")
        if not _evidence.usable(noise):
            return hold("the noise that was measured is no number")
        values = [noise.trace, noise.signal]
        after["fresh"] += values != after["seen"]
        after["seen"] = values
        if observation.clock - after["began"] < self.warmup_samples:
            return hold(f"warm-up of {self.warmup_samples:,} samples")
        if noise.measured < self.fewest:
            return hold(f"the noise was measured at {noise.measured:.3g} updates, a look takes {self.fewest}")
        if after["fresh"] < max(1.0, noise.measured / _evidence.RENEWED):
            return hold("too little is new since the last look")
        if missing := self.missing(observation):
            return hold(missing)
        after |= {"fresh": 0, "looks": after["looks"] + 1}
        interval = self.interval(observation, _evidence.quantile(after["looks"], sides=1 + self.shrinks))
        size, reason = self._judged(observation, interval, self.sizes(after["first"]))
        return Decision(observation.clock, size, reason, observation=observation, interval=interval), after

    def _judged(self, seen: Observation, interval: tuple[float, float], sizes: tuple[int, ...]) -> tuple[int, str]:
        """The batch size and the reason, from the interval of the one asked for."""
        assert seen.noise is not None
        (low, high), size = interval, seen.batch_size
        scale = seen.noise.noise_scale if seen.noise.signal > 0 else inf  # below 0 the signal is lost in noise
        said = f"noise scale {scale:,.4g}, {self.name} asks for {low:,.4g} to {high:,.4g}"
        larger = next((each for each in sizes if each > size), None)
        smaller = next((each for each in reversed(sizes) if each < size), None)
        if isnan(low) or isnan(high):
            return size, f"{said}: cannot tell"
        if larger is not None and low >= larger:
            return larger, f"{said}: grows to {larger:,}"
        if self.shrinks and smaller is not None and high <= smaller:
            return smaller, f"{said}: shrinks to {smaller:,}"
        if larger is None:
            return size, f"{said}: stays at the maximum of {size:,}"
        return size, f"{said}: {'stays' if high < larger else 'cannot tell'}, the next step is {larger:,}"

    @property
    def name(self) -> str:
        """Its name in errors, states and reasons."""
        return type(self).__name__

    def describe(self) -> str:
        """The policy in one line."""
        given = (f"{entry.name}={getattr(self, entry.name)!r}" for entry in fields(self))
        return f"{self.name}({', '.join(given)})"

    def to_json(self) -> dict[str, Any]:
        """The policy as plain dicts, lists and numbers."""
        return {"kind": self.name} | asdict(self)
