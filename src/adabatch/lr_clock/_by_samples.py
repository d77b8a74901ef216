"""`by_samples`: an unmodified torch LR scheduler that counts updates, stepped by the position in the data."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import torch
from torch.optim import lr_scheduler as torch_lr

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.lr_clock._sample import (
    FAR,
    HOPELESS,
    check_scheduler,
    is_epochs,
    is_too_short,
    last_step,
    parts_of,
    places,
    steps_taken,
)
from adabatch.types import DrivenLoader, check_last

_FORMAT: Final = 1
_SAME: Final = 1e-6  # relative difference of equal LRs, since tensors round
_NOTHING: Final = 1e-4  # share of the highest LR that counts as next to nothing
MEANT: Final[WeakSet[torch_lr.LRScheduler]] = WeakSet()
"""LR schedulers whose steps need no warning, since they follow the data or were made for the updates of the plan."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Maps the updates of training at one batch size to the clock, and back.

    Attributes:
        batch_size: of the baseline, in samples.
        dataset_size: samples in an epoch; None for a stream.
        drop_last: whether the short batch at an epoch's end is dropped.
        run_on: whether batches run on into the next epoch.

    Example:
        >>> base = Baseline(batch_size=4, dataset_size=10)
        >>> [base.clock_of(update) for update in range(5)]
        [0, 4, 8, 10, 14]
        >>> base.update_at(8), base.update_at(9), base.update_at(10)
        (2, 2, 3)
    """

    batch_size: int
    dataset_size: int | None
    drop_last: bool = False
    run_on: bool = False

    @property
    def per_epoch(self) -> int | None:
        """Updates in an epoch; None where epochs cut no batch."""
        if self.dataset_size is None or self.run_on:
            return None
        full, rest = divmod(self.dataset_size, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def clock_of(self, update: int) -> int:
        """The clock where an update starts."""
        per_epoch = self.per_epoch
        if per_epoch is None or self.dataset_size is None:
            return update * self.batch_size
        epoch, index = divmod(update, per_epoch)
        return epoch * self.dataset_size + index * self.batch_size

    def update_at(self, clock: int) -> int:
        """The update whose batch holds `clock`; where a rest is dropped, the next update."""
        per_epoch = self.per_epoch
        if per_epoch is None or self.dataset_size is None:
            return clock // self.batch_size
        epoch, offset = divmod(clock, self.dataset_size)
        return epoch * per_epoch + offset // self.batch_size

    def updates(self, epochs: int) -> int:
        """Updates in so many epochs; not for a stream."""
        assert self.dataset_size is not None
        if self.per_epoch is None:
            return -(-epochs * self.dataset_size // self.batch_size)
        return epochs * self.per_epoch


class SamplesLR:
    """Steps an LR scheduler once for each update of the base batch size that has passed; made by `by_samples`.

    Call `step()` in place of the LR scheduler's, once for each batch, at the end of the loop's body.
    """

    def __init__(
        self,
        lr_scheduler: torch_lr.LRScheduler,
        loader: DrivenLoader,
        baseline: Baseline,
        end: int | None,
        *,
        meant: bool,
    ) -> None:
        self._lr_scheduler, self._loader, self._baseline, self._end = lr_scheduler, loader, baseline, end
        self._taken = steps_taken(lr_scheduler)
        self._places: list[int] | None = places(lr_scheduler)  # None until seen again after a state was loaded
        self._checked = False  # whether data and LR scheduler were seen to stand at the same update
        self._peak = _highest(lr_scheduler.get_last_lr())  # highest LR so far
        self._gone: int | None = None  # the update since which the LR is next to nothing
        self._told = meant  # whether a warning about the length was given, or none is wanted
        MEANT.update(parts_of(lr_scheduler))

    @property
    def updates(self) -> int:
        """Steps that the LR scheduler has taken."""
        return self._taken

    def step(self) -> None:
        """Steps the LR scheduler up to the start of the next batch: several times, once or not at all.

        Raises:
            RuntimeError: if someone else stepped it or one of its parts, a micro-batch is still to come, or the data
                set has another size than before; at the first call also if the data is at an earlier update or the
                optimizer has another LR.
            ValueError: if at the first call its end lies in the first hundredth of the training, or at the number of
                epochs.
        """
        check_last(self._loader.part, "step()", "of `by_samples` was called")
        self._check_owner()
        if self._loader.dataset_size != self._baseline.dataset_size:
            raise UsageError(
                "by_samples",
                f"was made for a data set of {self._baseline.dataset_size} samples, but the loader's has "
                f"{self._loader.dataset_size} now",
                remedy="step the LR scheduler itself from here on, once after each update",
            )
        batch = self._loader.current
        clock = self._loader.clock if batch is None else batch.end
        passed = self._baseline.update_at(clock)
        target = passed if self._end is None else min(passed, self._end)
        if target < self._taken and not self._checked:
            raise UsageError(
                "by_samples",
                f"stands after update {self._taken:,} of the base batch size, but the loader at sample {clock:,} is at "
                f"update {target:,}",
                remedy="load the states of loader, LR scheduler and `by_samples` together",
            )
        before = not self._checked and batch is None  # called once before the loop, to go on with another LR
        if not self._checked:
            self._check_length()
        self._checked = True  # from here on the clock goes back only if a rest is not dropped after all
        with warnings.catch_warnings() if before else contextlib.nullcontext():
            if before:
                warnings.filterwarnings("ignore", "Detected call of .lr_scheduler.step")  # before the optimizer's
            while self._taken < target:
                self._lr_scheduler.step()
                self._taken += 1
        self._places = places(self._lr_scheduler)
        self._look(passed)

    def get_last_lr(self) -> list[Any]:
        """The LR scheduler's own `get_last_lr`: the LRs that it set last, one for each parameter group."""
        return list(self._lr_scheduler.get_last_lr())

    def state_dict(self) -> dict[str, Any]:
        """The numbers that a resumed run must agree on. Save the LR scheduler's own state as well."""
        return {"format": _FORMAT, "updates": self._taken, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes; load the states of the LR scheduler and of the optimizer as well, before or after.

        Raises:
            ValueError: if it is no such state, or of another base batch size, data set or end.
        """
        identity = self._identity()
        names = {"format", "updates", *identity}
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or set(state) != names:
            found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ArgumentError("state", "must be what `state_dict()` of `by_samples` gave", value=found)
        for name, ours in identity.items():
            if state[name] != ours:
                raise ArgumentError(
                    "state",
                    f"must have the same {name}: it was saved with {state[name]}, this run has {ours}",
                    remedy="resume with the same settings",
                )
        self._taken, self._checked = _checks.whole("updates", state["updates"], minimum=0), False
        self._places = None

    def _identity(self) -> dict[str, Any]:
        baseline = self._baseline
        return {"base_batch_size": baseline.batch_size, "dataset_size": baseline.dataset_size, "end": self._end}

    def _check_length(self) -> None:
        """Compares its end with that of the training, if a plan with an end drives the loader."""
        driver, end = self._loader.driver, self._end
        epochs = None if driver is None or driver.plan is None else driver.plan.epochs
        if epochs is None or end is None or self._told:
            return
        steps, kind = self._baseline.updates(epochs), type(self._lr_scheduler).__name__
        said = (
            f"the LR scheduler of `by_samples` must count updates, got {kind}, which ends after {end:,} of them, the "
            f"training of {epochs:,} epochs after {steps:,}"
        )
        if is_epochs(end, epochs, steps) or is_too_short(end, steps) == HOPELESS:
            raise ArgumentError(
                None, said, remedy="one that counts epochs is stepped itself after each epoch, or give `end`"
            )
        if is_too_short(end, steps) or end > FAR * steps:
            remedy = "give it the length of the training, or `end` if it is meant"
            warnings.warn(f"{said}; {remedy}", UserWarning, stacklevel=3)

    def _look(self, passed: int) -> None:
        """Warns once when the LR has been next to nothing for as long as it took to get there."""
        lrs = self._lr_scheduler.get_last_lr()
        if self._told or any(isinstance(lr, torch.Tensor) and lr.device.type != "cpu" for lr in lrs):  # slow to read
            return
        lr = _highest(lrs)
        self._peak = max(self._peak, lr)
        if self._peak == 0 or lr > _NOTHING * self._peak * (1 + _SAME):
            self._gone = None
        elif self._gone is None:
            self._gone = passed
        elif passed >= 2 * self._gone:
            self._told = True
            warnings.warn(
                f"the LR under `by_samples` is below 1/{1 / _NOTHING:,.0f} of its highest since update "
                f"{self._gone:,} of the base batch size, and update {passed:,} is reached; an LR scheduler that counts "
                "epochs is stepped itself, after each epoch",
                UserWarning,
                stacklevel=3,
            )

    def _check_owner(self) -> None:
        found, rule = steps_taken(self._lr_scheduler), "must be stepped by `by_samples` alone"
        if found != self._taken:
            remedy = "take `lr_scheduler.step()` out of the loop, and when resuming load both states"
            raise UsageError("lr_scheduler", rule, got=f"{found:,} steps instead of {self._taken:,}", remedy=remedy)
        if self._places is None:
            self._check_optimizer()
        elif self._places != places(self._lr_scheduler):
            remedy = "take the `step()` of single parts out of the loop"
            raise UsageError("lr_scheduler", rule, got="one whose part took steps of its own", remedy=remedy)

    def _check_optimizer(self) -> None:
        """Checks, once resumed, that the optimizer has the LR from which most LR schedulers compute the next one."""
        groups = self._lr_scheduler.optimizer.param_groups
        for group, last in zip(groups, self._lr_scheduler.get_last_lr(), strict=True):
            if not math.isclose(float(group["lr"]), float(last), rel_tol=_SAME, abs_tol=_SAME * abs(float(last))):
                raise UsageError(
                    "optimizer",
                    f"must have the LR that its LR scheduler left, {float(last):g}, when `by_samples` resumes",
                    got=f"{float(group['lr']):g}, with which it was stepped already",
                    remedy="when resuming load the optimizer's state too, before training goes on; to go on with "
                    "another LR give every parameter group the new `lr` and `initial_lr`, make LR scheduler and "
                    "`by_samples` anew without their states, and call `step()` once before the loop",
                )


def _highest(lrs: Iterable[Any]) -> float:
    return max(map(float, lrs), default=0.0)


def by_samples(
    lr_scheduler: torch_lr.LRScheduler,
    loader: DrivenLoader,
    *,
    base_batch_size: int | None = None,
    end: int | None = None,
) -> SamplesLR:
    """Runs an unmodified LR scheduler that counts updates on the position in the data.

    However the batch grows, a batch starts with the LR that training with constant batches of `base_batch_size` has at
    that position. So warm-up, decay and cycle end where they were meant to. At that batch size each step is the LR
    scheduler's own. With a fixed number of tokens per sample this is the tokens clock too. If an epoch is left early,
    the LR follows after the first batch of the next epoch.

    An LR scheduler that counts epochs is over far too early here. If a `BatchSizeScheduler` that knows `epochs` drives
    the loader, the first `step()` refuses an end in the first hundredth of the training or at the number of epochs, and
    warns of one in the first tenth or ten times too late. In any case a warning comes once the LR has been below
    1/10,000 of its highest for as long as it took to fall so low. With `end` given there is neither.

    To go on with another LR after a restart, set `lr` and `initial_lr` of every parameter group, make the LR scheduler
    and this object anew, with `base_batch_size` and without their states, and call `step()` once before the loop.

    Args:
        lr_scheduler: any of torch's LR schedulers; do not step it yourself.
        loader: the loader that is trained on.
        base_batch_size: the batch size whose updates the LR scheduler counts, in samples; None for the loader's now.
        end: steps after which the LR is frozen; None for the end that the LR scheduler has, `lr_clock.last_step`.

    Returns:
        An object to `step()` in the LR scheduler's place.

    Raises:
        TypeError: if an argument is of the wrong kind, such as ReduceLROnPlateau.
        ValueError: if a number is out of range, or missing while the loader has passed samples.

    Example:
        >>> import torch, adabatch as ab
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
        >>> warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
        >>> loader, seen = ab.DataLoader(torch.arange(16), batch_size=4), []
        >>> lr = by_samples(warmup, loader)
        >>> for batch in loader:
        ...     seen.append((len(batch), optimizer.param_groups[0]["lr"]))
        ...     optimizer.step()
        ...     loader.batch_size = 8
        ...     lr.step()
        >>> seen
        [(4, 0.25), (8, 0.5), (4, 1.0)]
    """
    check_scheduler(lr_scheduler)
    if not isinstance(loader, DrivenLoader):
        raise ArgumentTypeError(
            "loader", "must be an ab.DataLoader", got=type(loader).__name__, remedy="it says where the data stands"
        )
    if base_batch_size is None:
        if loader.clock > 0:
            rule = f"must be given when the loader has passed samples ({loader.clock:,})"
            raise ArgumentError("base_batch_size", rule, value=None, remedy="its batch may have grown")
        base_batch_size = loader.batch_size
    baseline = Baseline(
        _checks.whole("base_batch_size", base_batch_size), loader.dataset_size, loader.drop_last, loader.run_on
    )
    if baseline.per_epoch == 0:
        raise ArgumentError(
            "base_batch_size", f"must be at most the {loader.dataset_size} samples of the data", value=base_batch_size
        )
    last = last_step(lr_scheduler) if end is None else _checks.whole("end", end)
    return SamplesLR(lr_scheduler, loader, baseline, last, meant=end is not None)
