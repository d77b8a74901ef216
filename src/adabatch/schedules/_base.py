"""The base of schedules: plans, JSON, a fingerprint; and the context in which stages are worked out."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, ClassVar, Final, cast

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.schedules._runs import Walk
from adabatch.schedules.plan import Plan, check_horizon, fingerprint
from adabatch.units import Duration

MAX_STAGES: Final = 100_000

Stage = tuple[Fraction, int]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The conditions under which a schedule's stages are worked out.

    Attributes:
        batch_size: the size in force where the schedule starts; a schedule without a start of its own begins with it,
            and one without a mean of its own has it as its mean.
        origin: the clock where the schedule starts, in samples; its lengths count from there.
        ceiling: sizes of at least this are not told apart, so a schedule that only grows may stop there.
        dataset_size: samples in an epoch; None for a stream.
        tokens_per_sample: tokens in a sample, if known.
        walk: the batches under the stages yielded so far.
    """

    batch_size: int
    origin: Fraction
    ceiling: int | None
    dataset_size: int | None
    tokens_per_sample: int | None
    walk: Walk

    def at(self, duration: Duration, share: Fraction | int = 1) -> Fraction:
        """The clock when `share * duration` has passed since the origin.

        Updates are counted on the batches of the stages yielded so far, so yield the stage before asking for its end.

        Args:
            duration: longer than 0.
            share: above 0; a share of an update counts as a whole one.

        Raises:
            ValueError: if the unit needs what the plan does not know.
        """
        count = duration.exact * share
        if duration.unit == "updates":
            first = self.walk.runs.update_at(math.ceil(self.origin))
            return Fraction(self.walk.end_of(first + math.ceil(count) - 1))
        if duration.unit == "epochs":
            if self.dataset_size is None:
                rule, got = f"must be given to count {duration}", "None, as of a stream"
                raise ArgumentError("dataset_size", rule, got=got, remedy="or use `samples`")
            count *= self.dataset_size
        elif duration.unit == "tokens":
            if self.tokens_per_sample is None:
                rule = f"must be given to count {duration}"
                raise ArgumentError("tokens_per_sample", rule, value=None, remedy="or use `samples`")
            count /= self.tokens_per_sample
        return self.origin + count

    def moved(self, origin: Fraction, batch_size: int) -> Context:
        """The context of a schedule that takes over at `origin` with `batch_size` in force."""
        return replace(self, origin=origin, batch_size=batch_size)

    def below(self, ceiling: int | None) -> Context:
        """The context with another ceiling."""
        return replace(self, ceiling=ceiling)


class Schedule(ABC):
    """The batch size as a pure function of the clock, symbolic until `plan` resolves it.

    To add one: a frozen dataclass with a lower-case name whose fields are numbers, Durations, schedules or tuples of
    these, with `stages` and `describe`, and `initial` and `finite` where they differ from those here. A schedule made
    of others starts as the first of its fields and ends as the last.

    Attributes:
        kinds: every schedule by name, also those of users; a second class of the same name is refused.
    """

    kinds: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _checks.register(Schedule.kinds, cls)

    @property
    def initial(self) -> int | None:
        """The loader's batch size that it goes with, its `start` unless it says otherwise; None for any."""
        within = self._within()
        return within[0].initial if within else getattr(self, "start", None)

    @property
    def finite(self) -> bool:
        """Whether the size stops changing at some point."""
        within = self._within()
        return not within or within[-1].finite

    @property
    def coupling(self) -> str:
        """The coupling that a BatchSizeScheduler takes if none is named: that of the schedules within, else `linear`.

        Raises:
            ValueError: if schedules within bring different ones.
        """
        found = self.brought()
        if len(found) > 1:
            rule = "must be given for a schedule whose parts bring different ones"
            remedy = "name the one that the optimizer needs"
            raise ArgumentError("coupling", rule, got=" and ".join(found), remedy=remedy)
        return found[0] if found else "linear"

    @property
    def world_sizes(self) -> tuple[tuple[int, int], ...]:
        """Batch sizes and the number of ranks wanted from each of them on; empty if it names none.

        Raises:
            ValueError: if schedules within name different ones.
        """
        found = {each.world_sizes for each in self._within()} - {()}
        if len(found) > 1:
            rule, remedy = "must name its world sizes once", "name them around the whole schedule"
            raise ArgumentError("schedule", rule, got=self.describe(), remedy=remedy)
        return found.pop() if found else ()

    def brought(self) -> list[str]:
        """The couplings that it brings, each once; none if its size never changes."""
        within = self._within()
        return sorted({each for schedule in within for each in schedule.brought()}) if within else ["linear"]

    def misfit(self, context: Context) -> str | None:
        """Why the schedule may have been meant for another length of training; asks a single schedule within."""
        within = self._within()
        return within[0].misfit(context) if len(within) == 1 else None

    def _within(self) -> list[Schedule]:
        """The schedules that it is made of, in the order of its fields."""
        return [value for value in vars(self).values() if isinstance(value, Schedule)]

    @abstractmethod
    def stages(self, context: Context) -> Iterator[Stage]:
        """Yields (clock from which a size holds, size), in order, the first at `context.origin`; may never end."""

    @abstractmethod
    def describe(self) -> str:
        """The schedule in one line."""

    def plan(
        self,
        *,
        dataset_size: int | None,
        epochs: int | None = None,
        batch_size: int | None = None,
        drop_last: bool = False,
        run_on: bool = False,
        tokens_per_sample: int | None = None,
    ) -> Plan:
        """Resolves the schedule for a data set and a length of training.

        Args:
            dataset_size: samples in an epoch; None for a stream, which is one epoch without end.
            epochs: epochs of training; None for no end, which needs a schedule that stops changing.
            batch_size: the loader's batch size, with which a schedule without a start of its own begins.
            drop_last: whether the short batch at an epoch's end is dropped, at the batch size then in force.
            run_on: whether batches run on into the next epoch, so that only the end of the training cuts one; not
                together with `drop_last`.
            tokens_per_sample: needed for lengths in tokens.

        Returns:
            The plan.

        Raises:
            ValueError: if the start is missing or not `batch_size`, a batch would be larger than the data set, the
                schedule never ends and `epochs` is missing, or a unit needs what is not given.
            TypeError: if a number is not whole.
        """
        check_horizon(dataset_size, epochs, drop_last=drop_last, run_on=run_on)
        if tokens_per_sample is not None:
            _checks.whole("tokens_per_sample", tokens_per_sample)
        if epochs is None and not self.finite:
            raise ArgumentError(
                "epochs",
                "must be given for a schedule that grows for ever",
                value=None,
                remedy="or bound it with `maximum` or `clamp(schedule, maximum=...)`",
            )
        walk = Walk(dataset_size=dataset_size, epochs=epochs, drop_last=drop_last, run_on=run_on)
        context = Context(
            batch_size=self._start(batch_size),
            origin=Fraction(0),
            ceiling=None if dataset_size is None else dataset_size + 1,
            dataset_size=dataset_size,
            tokens_per_sample=tokens_per_sample,
            walk=walk,
        )
        for number, (start, size) in enumerate(self.stages(context)):
            clock = math.ceil(start)
            if walk.end is not None and clock >= walk.end:
                break
            if number >= MAX_STAGES:
                rule = f"must change at most {MAX_STAGES:,} times in a plan"
                got, remedy = f"more by clock {clock:,}", "change less often, by more"
                raise ArgumentError("schedule", rule, got=got, remedy=remedy)
            walk.register(clock, size)
        misfit = self.misfit(context)
        if misfit is not None:
            warnings.warn(misfit, UserWarning, stacklevel=2)
        return Plan(
            starts_samples=tuple(walk.starts),
            batch_sizes=tuple(walk.sizes),
            dataset_size=dataset_size,
            epochs=epochs,
            drop_last=drop_last,
            run_on=run_on,
            world_sizes=self.world_sizes,
        )

    def to_json(self) -> dict[str, Any]:
        """The schedule as plain dicts, lists and numbers."""
        values = {entry.name: _encode(getattr(self, entry.name)) for entry in fields(cast("Any", self))}
        return {"kind": type(self).__name__} | values

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_json` wrote.

        Raises:
            ValueError: if the kind is unknown, or a field is missing, unknown or out of range.
            TypeError: if a field has the wrong type.
        """
        cls, names = _checks.of_kind(Schedule.kinds, data, "schedule")
        return cls(**{name: _decode(data[name]) for name in names})

    def fingerprint(self) -> str:
        """A short hash that two schedules share exactly when they are equal."""
        return fingerprint(self.to_json())

    def _start(self, batch_size: int | None) -> int:
        if batch_size is not None:
            _checks.whole("batch_size", batch_size)
        if self.initial is None:
            if batch_size is None:
                raise ArgumentError("batch_size", "must be given for a schedule without a start of its own", value=None)
            return int(batch_size)
        if batch_size is not None and batch_size != self.initial:
            rule, remedy = f"must be {self.initial}, the start of the schedule", "change either, or leave the start out"
            raise ArgumentError("batch_size", rule, value=batch_size, remedy=remedy)
        return self.initial

    def _make_whole(self, *names: str) -> None:
        """Checks fields that hold a whole number of at least 1 or None, and makes them ints."""
        for name in names:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checks.whole(name, getattr(self, name)))


def check_length(name: str, value: Any) -> None:
    """Checks a length of training that must be above 0.

    Raises:
        TypeError: if `value` is not a Duration.
        ValueError: if it is 0.
    """
    if not isinstance(value, Duration):
        raise ArgumentTypeError(name, "must be a length such as epochs(20) or updates(500)", value=value)
    if value.count == 0:
        raise ArgumentError(name, "must be longer than 0", value=value, remedy="write for example epochs(20)")


def check_maximum(maximum: int | None, start: int) -> None:
    """Checks that growth does not begin above the maximum.

    Raises:
        ValueError: if it does.
    """
    if maximum is not None and maximum < start:
        rule = f"must be at least the batch size that growth starts from, {start}"
        raise ArgumentError("maximum", rule, value=maximum, remedy="raise it or start smaller")


def check_schedule(name: str, value: Any) -> None:
    """Checks that `value` is a schedule.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(value, Schedule):
        raise ArgumentTypeError(name, "must be a schedule such as constant(128)", value=value)


def from_start(size: int | None) -> str:
    """Where a schedule starts, in words."""
    return "from the loader's batch size" if size is None else f"from {size:,}"


def _encode(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_json()
    if isinstance(value, Duration):
        return {"count": value.count, "unit": value.unit}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Duration(value["count"], value["unit"]) if set(value) == {"count", "unit"} else Schedule.from_json(value)
    if isinstance(value, list | tuple):
        return tuple(_decode(item) for item in value)
    return value
