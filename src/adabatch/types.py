"""Frozen records and protocols that the rooms exchange. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from adabatch._errors import UsageError


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as a loader hands it out.

    Attributes:
        clock: position in the data where the batch starts, in samples (`epoch * N + offset`).
        end: the clock once the batch is trained on; samples that `drop_last` drops after it count as passed.
        epoch: the epoch in which it starts.
        requested: the batch size that was asked for, in samples over all ranks; couplings follow this one.
        size: samples in the batch over all ranks; below `requested` only at the end of an epoch.
        rank_size: samples that this rank trains on.
    """

    clock: int
    end: int
    epoch: int
    requested: int
    size: int
    rank_size: int


@dataclass(frozen=True, slots=True)
class Part:
    """One micro-batch of a batch: samples in one forward and backward pass on one rank.

    Attributes:
        batch: the batch that it belongs to.
        index: its number within the batch, from 0.
        count: micro-batches in the batch, the same on every rank.
        size: samples that count; 0 for the repeated sample that keeps ranks in step.
        turn: position in the batch of this rank's first sample, the next are a world apart; None if that is not so.
    """

    batch: Batch
    index: int
    count: int
    size: int
    turn: int | None = None

    @property
    def is_last(self) -> bool:
        """Whether the optimizer steps after this one."""
        return self.index + 1 == self.count

    def __str__(self) -> str:
        return f"micro-batch {self.index + 1} of {self.count}"


def check_last(part: Part | None, name: str, said: str, *, do: str = "call it") -> None:
    """Raises a UsageError about `name` if micro-batches of the batch are still to come after `part`."""
    if part is not None and not part.is_last:
        raise UsageError(name, f"{said} after {part}", remedy=f"{do} after the last one: `if micro.is_last:`")


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """The gradient's noise as it was estimated, with an interval.

    From a tap in the l1 norm the squares of lengths are those of l1 norms: of sigma, the standard deviations of one
    sample's gradient in each coordinate, as `trace`, and of the gradient as `signal`.

    Attributes:
        noise_scale: B_simple = trace / signal, in samples; below 0 or infinite where the signal is not told from 0.
        low: lower end of the interval of `noise_scale`, in samples, at least 0.
        high: its upper end; infinite where the signal is not told from 0.
        trace: tr(Sigma), the variance of one sample's gradient, summed over the parameters.
        signal: |G|^2, the squared length of the true gradient; an unbiased estimate, which may fall below 0.
        measured: the effective number of updates on which this rests; weights by age count.
        margin: the factor by which both ends lie further out for what more updates would not tell, at least 1.
    """

    noise_scale: float
    low: float
    high: float
    trace: float
    signal: float
    measured: float
    margin: float = 1.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy sees before a batch, the same on every rank.

    Attributes:
        clock: position in the data, in samples.
        updates: updates done.
        batch_size: the batch size so far, in samples over all ranks.
        lr: the LR in force at the last update, of the first parameter group; None before it.
        loss: the mean loss since the last decision; None where nobody told it.
        noise: the gradient's noise; None where nothing was measured yet.
        samples: at the end of the training, in samples; None where it is not known.
        branches: losses after the branches that were asked for last: a row for each batch size, a column for each
            order of the data, infinite where one is not finite. None where none were trained.
    """

    clock: int
    updates: int
    batch_size: int
    lr: float | None = None
    loss: float | None = None
    noise: NoiseEstimate | None = None
    samples: int | None = None
    branches: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of the batch size; from a policy, also the decision to keep it.

    Attributes:
        clock: position in the data from which it holds, in samples.
        batch_size: the new batch size, in samples over all ranks.
        reason: why, in words.
        world_size: the number of ranks that the schedule wants for it; None if it names none.
        observation: what the policy saw; None from a schedule.
        interval: between which batch sizes the one asked for lies, in samples, at the level at which the policy acts;
            None where it did not look.
    """

    clock: int
    batch_size: int
    reason: str
    world_size: int | None = None
    observation: Observation | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Fork(Decision):
    """The decision to wait for branches: short trainings that begin where the training stands.

    Attributes:
        sizes: the batch sizes at which branches train, in samples, the present one first.
        window: the samples of each branch.
        orders: numbers of orders of the data, which no other branch of the training has had; each is trained on at
            every size.
    """

    sizes: tuple[int, ...] = ()
    window: int = 0
    orders: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollback(Decision):
    """The decision to go back to where the batch size changed last; `clock` and `batch_size` are those before it."""


@runtime_checkable
class Tap(Protocol):
    """Measures the gradient's noise while a network trains."""

    def estimate(self) -> NoiseEstimate | None:
        """The gradient's noise now; None before it was measured.

        It becomes another at the same updates on every rank; its `trace` and `signal` stay what they are in between.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state, JSON-safe and small."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Goes on where `state_dict` was taken."""

    def close(self) -> None:
        """Takes it off the model and the optimizer."""


class DrivingPlan(Protocol):
    """A plan, as far as loaders ask it."""

    @property
    def epochs(self) -> int | None:
        """Epochs of training; None for no end."""

    @property
    def end_samples(self) -> int | None:
        """The clock at the end of the training; None for no end."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes of whole batches."""

    @property
    def tails(self) -> tuple[int, ...]:
        """The distinct sizes of batches that an end cuts short."""

    def clock_of(self, update: int) -> int:
        """The clock where an update starts."""

    def update_at(self, clock: int) -> int:
        """The number of updates that start before `clock`."""


class Driver(Protocol):
    """Drives a loader's batch size, as a `BatchSizeScheduler` does. The loader asks at every batch start."""

    @property
    def plan(self) -> DrivingPlan | None:
        """The plan of all sizes; None if they are not known ahead."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes that whole batches have or may come to have."""

    def batch_size_at(self, clock: int) -> int:
        """The batch size of a batch that starts at `clock`."""

    def assign(self, batch_size: int) -> bool:
        """Takes a size that the user sets, from the next batch on; False if it decides sizes itself."""

    def sizes_between(self, start: int, stop: int) -> dict[int, int]:
        """How many batches of each size start in `[start, stop)` within one epoch, if one starts at `start`.

        Raises:
            TypeError: without a plan.
        """

    def check_next(self, *, begins: bool = False) -> None:
        """Raises if the batch before was trained on without `step()`; `begins`: at the start of an iteration."""


@runtime_checkable
class RepeatableParts(Iterator[tuple[Any, Part]], Protocol):
    """Micro-batches whose batch can come again."""

    def again(self) -> None:
        """Hands the current batch out again from its start."""


@runtime_checkable
class DrivenLoader(Protocol):
    """A loader as `BatchSizeScheduler`, `accumulate`, `by_samples` and `probe` use it."""

    batch_size: int
    micro_batch_size: int | None

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that would be short is dropped."""

    @property
    def run_on(self) -> bool:
        """Whether batches run on into the next epoch."""

    @property
    def counted_late(self) -> bool:
        """Whether a batch's size is known only after its last micro-batch; if not, `parts()` is `RepeatableParts`."""

    @property
    def driver(self) -> Driver | None:
        """Gives the batch size; None for none."""

    @property
    def dataset_size(self) -> int | None:
        """Samples in an epoch; None for a stream without a length."""

    @property
    def clock(self) -> int:
        """Position in the data up to which batches are committed, in samples."""

    @property
    def current(self) -> Batch | None:
        """The batch that was handed out and is not committed; None before the first and after `commit()`."""

    @property
    def left(self) -> Batch | None:
        """The iteration's last batch that was passed untrained; None without one."""

    @property
    def part(self) -> Part | None:
        """The micro-batch handed out last when iterated by `parts()`, else None."""

    def sharing(self) -> tuple[Any, int, int]:
        """The group over which batches are cut (None for the world), this process's rank in it, and its size."""

    def attach(self, driver: Driver) -> None:
        """From the next batch on, `driver` gives the batch size, and a batch commits at `commit()`."""

    def detach(self) -> None:
        """Undoes `attach`; the batch size stays."""

    def commit(self) -> None:
        """Marks the current batch as trained on."""

    def parts(self) -> Iterator[tuple[Any, Part]]:
        """The rest of an epoch as micro-batches."""

    def peek(self) -> Any:
        """The first micro-batch of the iteration that would begin now; nothing moves."""

    def forget_looks(self) -> None:
        """Undoes iterations that were left early, unless one reached its end or a state was loaded."""
