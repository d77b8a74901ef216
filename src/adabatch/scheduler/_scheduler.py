"""The scheduler: the calls of users and of the loader, and the checks around each optimizer step."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

from adabatch import _checks, couplings
from adabatch._distributed import is_phantom
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.policies import Policy
from adabatch.scheduler._arguments import brought, check_belongs, check_follows, checked_loader, checked_optimizers
from adabatch.scheduler._bias_correction import read_states
from adabatch.scheduler._coupled_step import CoupledStep, check_sizes, is_captured
from adabatch.scheduler._decided import Decided
from adabatch.scheduler._lr_steps import LRSteps
from adabatch.scheduler._uncoupled import UncoupledSteps
from adabatch.schedules import Plan, Schedule, constant
from adabatch.types import Batch, Decision, DrivenLoader, Tap, check_last

_FORMAT: Final = 1
_KEYS: Final = ("format", "clock", "base_batch_size", "schedule", "coupling", "decisions")
_MOMENTS: Final = "bias_correction"  # in states once a coupling has changed betas
_HELD: Final = "batch_size"  # in states at the end of a plan, which gives no size from there on
_DECIDED: Final = "decided"  # in states under a policy
_EXTRA: Final = {_MOMENTS, _HELD, _DECIDED}
_LARGE_JSON: Final = 2000  # characters; longer schedules enter states as a fingerprint
_ALL_NOISE: Final = 1e9  # in first batch sizes; the gain of a coupling that follows the noise is then the ratio
_AHEAD: Final = "Let ab.DataLoader fetch ahead, with `num_workers=` and `device=`, instead of a prefetcher around it"


class BatchSizeScheduler:
    """Drives a loader's batch size by a schedule or a policy, and couples the LR of its optimizers to it.

        LR in force = LR of the user's scheduler * coupling(requested batch size / base batch size)

    The base batch size is the loader's when the scheduler is made. The requested size is that of the batch being
    trained on, so the short batch at the end of an epoch is not rescaled, and a constant schedule changes no bit.
    The optimizer holds the LR in force during `optimizer.step()` only; logs read `last_lr`. The same goes for momentum,
    betas, eps and weight decay where a coupling changes them. Adam's bias correction stays exact.

    Call `step()` once for each batch, after the optimizer, also when GradScaler or a NaN guard skipped the step. A
    batch that is left without an optimizer step and without `step()` counts as passed. `step()` raises if an optimizer
    without a coupling stepped in the place of a coupled one, over the same parameters.

    Under a policy the sizes are not known ahead: there is no plan, and `len(loader)` raises. `step()` asks the policy
    once the tap has measured anew, and the size that it decides holds for the very next batch, on all ranks. Without a
    policy, too, `loader.batch_size = n` holds for the very next batch, and so does the coupling.

    Compiled optimizer steps (`torch.compile(optimizer.step)`) need a tensor LR: a float recompiles at each batch
    size. The hooks are never traced. Capture of a step in a CUDA graph is refused, since a replay runs no hooks. A deep
    copy of an optimizer has no coupling. States of loader and scheduler are separate: save and load both. A scheduler
    for a loader that has passed samples must load its state too, or have a schedule with a start of its own.

    Args:
        optimizer: a `torch.optim.Optimizer`, or several. From a wrapper that shows the same parameter groups, as
            Accelerate's, the optimizer inside is taken.
        loader: an `ab.DataLoader` that nothing else drives.
        schedule: batch size against the position in the data, which must start at the loader's batch size; or a policy,
            which decides it from measurements; or None, if you assign `loader.batch_size` yourself, the same on all
            ranks.
        coupling: how the LR follows: a name, text such as `"power(0.75)"`, or a coupling. None for the one that the
            schedule or policy brings: `linear`, under `from_lr` that of its rule, under `last_iterate` and `cabs`
            `none`, under `sign_noise` `sqrt`.
        epochs: epochs of training, if known; the plan ends there. Not for a policy.
        tokens_per_sample: tokens in a sample, at least 1; needed by a schedule in tokens. Not for a policy.
        noise: the tap that measures the gradient's noise, for a policy; its state is saved here, and `close()` closes
            it.

    Attributes:
        plan: the schedule, resolved for the loader; None under a policy.
        decisions: the changes of batch size by schedule or policy since this object was made; a policy's hold what it
            saw, and the interval.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the coupling was not derived for an optimizer or takes its LR beyond what float32 holds, the
            schedule starts at another batch size than the loader, or one of them has a scheduler already; if a policy
            lacks its tap, was not derived for the training, or its maximum is below the loader's batch size or beyond
            the data set.

    Example:
        >>> import torch, adabatch as ab
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.randn(8, 1))
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> loader = ab.DataLoader(data, batch_size=2, shuffle=True, seed=0)
        >>> batches = BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=2)
        >>> for epoch in range(2):
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         torch.nn.functional.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        ...         batches.step()
        >>> batches.last_lr, optimizer.param_groups[0]["lr"]
        ([0.02], 0.01)

    Source:
        Devarakonda, Naumov, Garland 2017, arXiv 1712.02029 (growth with a coupled LR).

    Departures:
        The paper multiplies the LR itself at each resize; here the factor is a function of the batch size and never
        enters the LR that a scheduler sees.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
        loader: DrivenLoader,
        schedule: Schedule | Policy | None = None,
        *,
        coupling: str | couplings.Coupling | None = None,
        epochs: int | None = None,
        tokens_per_sample: int | None = None,
        noise: Tap | None = None,
    ) -> None:
        check_belongs(schedule, epochs=epochs, tokens_per_sample=tokens_per_sample, noise=noise)
        self._schedule = schedule
        self._coupling = couplings.get(brought(schedule) if coupling is None else coupling)
        self._followed = check_follows(self._coupling, schedule, noise)  # at the noise that was decided on last
        optimizers = checked_optimizers(optimizer, self._coupling)
        if isinstance(schedule, Policy):
            for each in optimizers:
                schedule.check_training(each, self._coupling.name)
        self._loader = checked_loader(loader)
        self._epochs = None if epochs is None else _checks.whole("epochs", epochs)
        self._tokens_per_sample = tokens_per_sample
        loader.forget_looks()
        self._resumed = loader.clock > 0  # its batch size may then have grown already
        self._base = (self._resumed and self._initial) or loader.batch_size
        self._decided: Decided | None = None
        self.plan: Plan | None = None
        if isinstance(schedule, Schedule):
            self.plan = self._resolve(self._base)
        else:
            self._decided = Decided(schedule, noise, loader, first=self._base)
        self.decisions: list[Decision] = []
        self._decisions_before = 0
        self._requested = self._logged = self.batch_size_at(loader.clock)
        self._closed = False
        self._trained: Batch | None = None  # the batch for which an optimizer stepped
        self._committed: Batch | None = None
        self._skipped = False  # whether the batch committed last had no optimizer step
        self._clock_of_state: int | None = None
        self._warned_of_left = False
        self._elsewhere = False  # whether an optimizer stepped last while no batch of the loader was out
        self._unaware = True  # whether no batch was trained on and no state loaded yet
        for each in optimizers:
            check_sizes(each, self._coupling.with_noise(_ALL_NOISE), [size / self._base for size in self.sizes])
        loader.attach(self)
        self._steps = [CoupledStep(each, self._followed, self._before_step, self._after_step) for each in optimizers]
        self._uncoupled = UncoupledSteps(self._steps, loader)
        self._lr_steps: LRSteps | None = LRSteps(optimizers)  # None once it is known
        self._follow()

    def _follow(self) -> None:
        if self._decided is not None and self._coupling.follows_noise:
            self._followed = self._coupling.with_noise(self._decided.noise_scale / self._base)
            for step in self._steps:
                step.take(self._followed)
        for step in self._steps:
            step.follow(size / self._base for size in (*self.sizes, *(self._decided.used if self._decided else ())))

    @property
    def _initial(self) -> int | None:
        """The first batch size that the schedule itself names."""
        return self._schedule.initial if isinstance(self._schedule, Schedule) else None

    def _resolve(self, base: int) -> Plan:
        assert isinstance(self._schedule, Schedule)
        start = self._schedule.initial
        if start not in (None, base):
            raise ArgumentError(
                "schedule",
                f"must start at the loader's batch size of {base}",
                got=f"a start of {start}",
                remedy=f"give the loader `batch_size={start}` and the optimizer the LR for that size, or leave the "
                "start out",
            )
        return self._schedule.plan(
            dataset_size=self._loader.dataset_size,
            batch_size=base,
            drop_last=self._loader.drop_last,
            run_on=self._loader.run_on,
            epochs=self._epochs,
            tokens_per_sample=self._tokens_per_sample,
        )

    # Calls of the user.

    @property
    def batch_size(self) -> int:
        """Requested size of the batch being trained on; between batches, of the next one."""
        batch = self._loader.current
        return self.batch_size_at(self._loader.clock) if batch is None else batch.requested

    @property
    def factor(self) -> float:
        """The coupling's factor on the LR at `batch_size`."""
        return self._followed.lr_factor(self.batch_size / self._base)

    @property
    def last_lr(self) -> list[float]:
        """LRs in force at the latest optimizer step, one for each parameter group; of new groups, those of the next."""
        return [lr for step in self._steps for lr in step.lr_in_force(self.batch_size / self._base)]

    def ema_decay(self, decay: float) -> float:
        """The decay of a weight average whose memory is equally long, in samples, at every batch size.

            decay -> decay ** k,  k = requested batch size / base batch size

        Args:
            decay: of the average at the base batch size, from 0 to 1.

        Returns:
            The decay for the batch being trained on; between batches, for the one before.

        Raises:
            ValueError: if `decay` is out of range.

        Source:
            Busbridge et al. 2023, arXiv 2307.13813 (scaling rule of the exponential moving average).
        """
        remedy = "published values lie from 0.99 to 0.9999"
        decay = _checks.finite("decay", decay, minimum=0, remedy=remedy)
        if decay > 1:
            raise ArgumentError("decay", "must be at most 1", value=decay, remedy=remedy)
        batch = self._loader.current
        return math.pow(decay, (self._requested if batch is None else batch.requested) / self._base)

    @property
    def last_decision(self) -> Decision | None:
        """The policy's latest decision, also one to keep the size; None before it, and under a schedule."""
        return None if self._decided is None else self._decided.last

    def step(self, loss: float | torch.Tensor | None = None) -> None:
        """Marks the batch as trained on. Call it once for each batch, after the optimizer.

        Args:
            loss: the mean loss of the batch on this rank, for policies that ask for it; a tensor waits for no device
                before the policy decides.

        Raises:
            RuntimeError: if no batch is being trained on, its last micro-batch is still to come, or an optimizer
                without a coupling stepped in the place of a coupled one.
        """
        self._restore()
        batch = self._loader.current
        if self._closed:
            raise UsageError("step()", "of BatchSizeScheduler was called after `close()`", remedy="make a new one")
        if batch is None and self._elsewhere:
            raise UsageError(
                "step()",
                "of BatchSizeScheduler was called for a batch that is not of its loader: another loader is iterated, "
                "such as one that `skip_first_batches` made of it, or the loop is one batch behind it",
                remedy=f"iterate the loader that it was made for, whose state holds its place. {_AHEAD}",
            )
        if batch is None:
            seen = "called twice for one batch" if self._committed is not None else "called before the first batch"
            raise UsageError(
                "step()", f"of BatchSizeScheduler was {seen}", remedy="call it once after each batch's optimizer step"
            )
        check_last(self._loader.part, "step()", "of BatchSizeScheduler was called")
        if self._clock_of_state is not None:
            self._check_clock()
        trained = self._trained is batch or self._trained == batch
        self._uncoupled.check(batch, batch.requested / self._base, coupled=trained)
        left = self._loader.left
        self._loader.commit()
        if left is not None and not self._warned_of_left:
            self._warn_of_left(left)
        self._skipped = not trained
        self._trained, self._committed, self._requested = None, batch, batch.requested
        if self._lr_steps is not None and batch.requested != self._base:
            self._look_at_lr_steps(self._lr_steps, batch)
        if self._decided is None:
            self._log_change(self._loader.clock)
        elif (decision := self._decided.after_update(lr=lambda: self.last_lr[0], loss=loss)) is not None:
            self.decisions.append(decision)
        if self._coupling.follows_noise:
            self._follow()

    def close(self) -> None:
        """Takes the coupling off the optimizers and lets go of the loader, whose batch size stays what it is."""
        if not self._closed:
            self._closed = True
            for step in self._steps:
                step.remove()
            self._uncoupled.close()
            if self._decided is not None:
                self._decided.close()
            self._loader.detach()

    # Calls of the loader.

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes that whole batches have or, under a policy, may come to have, growing."""
        return self._decided.sizes if self.plan is None and self._decided is not None else self._known().sizes

    def assign(self, batch_size: int) -> bool:
        """Takes a size that was assigned to the loader; False under a schedule and a policy.

        Raises:
            ValueError: if the coupling has no values for it.
        """
        if self._decided is None or self._decided.policy is not None:
            return False
        for step in self._steps:
            check_sizes(step.optimizer, self._coupling, [batch_size / self._base])
        self._decided.assign(batch_size)
        self._follow()
        return True

    def _known(self) -> Plan:
        """The plan.

        Raises:
            TypeError: without one.
        """
        if self.plan is None:
            source = "decided from measurements" if isinstance(self._schedule, Policy) else "assigned one by one"
            rule = f"a loader without a schedule has no length: the sizes to come are {source}"
            raise ArgumentTypeError(None, rule, remedy="count the batches, or give the BatchSizeScheduler a schedule")
        return self.plan

    def batch_size_at(self, clock: int) -> int:
        """The batch size of a batch that starts at `clock`, in samples; under a policy that of the next one."""
        if self.plan is None:
            assert self._decided is not None
            return self._decided.size
        end = self.plan.end_samples
        return self.plan.batch_size_at(clock if end is None else min(clock, end))  # a look after the end is allowed

    def sizes_between(self, start: int, stop: int) -> dict[int, int]:
        """How many batches of each size start in `[start, stop)` within one epoch, if one starts at `start`.

        Raises:
            TypeError: under a policy.
        """
        plan = self._known()
        if plan.end_samples is None:
            return plan.sizes_between(start, stop)
        return {} if start >= plan.end_samples else plan.sizes_between(start, min(stop, plan.end_samples))

    def check_next(self, *, begins: bool = False) -> None:
        """Checks that the current batch waits for no `step()`.

        Args:
            begins: whether an iteration begins, so that the batch before it may only have been looked at.

        Raises:
            RuntimeError: if the optimizer stepped for it and `step()` was not called.
        """
        self._restore()
        if not begins:  # a look may come between the loads of loader and scheduler
            self._check_clock()
        if self._trained is not None:
            raise UsageError(
                "step()",
                "of BatchSizeScheduler was not called after `optimizer.step()` for the batch at sample "
                f"{self._trained.clock:,}",
                remedy="call it right after the optimizer; if the loop was interrupted between the two, call it now",
            )

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The numbers that a resumed run must agree on, JSON-safe and small. The loader's own state is saved apart.

        Warns between `optimizer.step()` and `step()`: the weights then include the batch, the position does not.
        """
        self._restore()
        if self._trained is not None:
            warnings.warn(
                "`state_dict()` of BatchSizeScheduler was called between `optimizer.step()` and `step()`: a run that "
                f"goes on from it trains on the batch at sample {self._trained.clock:,} again; call `step()` first",
                RuntimeWarning,
                stacklevel=2,
            )
        moments = [step.bias_correction.state() for step in self._steps]
        clock, end = self._loader.clock, self._end
        found = {"format": _FORMAT, "clock": clock, **self._settings()}
        found["decisions"] = self._decisions_before + len(self.decisions)
        if any(moments) or self._changed_betas(self._past(self.plan, self._base, clock)):
            found[_MOMENTS] = moments
        if end is not None and clock >= end:
            found[_HELD] = self._logged
        if self._decided is not None:
            found[_DECIDED] = self._decided.state_dict()
        return found

    @property
    def _end(self) -> int | None:
        """Where the plan ends; None if it does not, and under a policy."""
        return None if self.plan is None else self.plan.end_samples

    def _settings(self) -> dict[str, Any]:
        schedule = None if self._schedule is None else json.loads(json.dumps(self._schedule.to_json()))
        if isinstance(self._schedule, Schedule) and len(json.dumps(schedule)) > _LARGE_JSON:
            schedule = {"fingerprint": self._schedule.fingerprint(), "describe": self._schedule.describe()}
        return {"base_batch_size": self._base, "schedule": schedule, "coupling": self._coupling.to_json()}

    def _past(self, plan: Plan | None, base: int, clock: int) -> set[float]:
        """The ratios of batch sizes before `clock`."""
        if plan is None:
            return {size / base for size in (self._decided.used if self._decided is not None and clock else ())}
        return {size / base for start, size in zip(plan.starts_samples, plan.batch_sizes, strict=True) if start < clock}

    def _changed_betas(self, past: set[float], *, stepped: bool = False) -> bool:
        """Whether the coupling changed betas at these ratios; with `stepped` only optimizers that made steps count."""
        return any(step.changes_betas(past) for step in self._steps if step.optimizer.state or not stepped)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes. Load the loader's state as well, before or after: both must stand at the same sample.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: if it is damaged, or of another schedule, coupling or base batch size.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or set(state) - _EXTRA != set(_KEYS):
            raise ArgumentError(
                "state",
                f"must be what `BatchSizeScheduler.state_dict()` gave (format {_FORMAT})",
                value=sorted(state) if isinstance(state, Mapping) else type(state).__name__,
                remedy="load the state of the scheduler, not of the loader or the optimizer",
            )
        self._restore()
        ours = self._settings()
        if self._resumed and self._initial is None:
            ours["base_batch_size"] = _checks.whole("base_batch_size", state["base_batch_size"])
        driver = "policy" if isinstance(self._schedule, Policy) else "schedule"
        for key, what in (("schedule", driver), ("coupling", "coupling"), ("base_batch_size", "base batch size")):
            if state[key] != ours[key]:
                raise ArgumentError(
                    "state",
                    f"must be of the same {what}: it was saved with {json.dumps(state[key])}, this run has "
                    f"{json.dumps(ours[key])}",
                    remedy="resume with the same settings, or start a new run",
                )
        clock = _checks.whole("clock", state["clock"], minimum=0)
        held = _checks.whole(_HELD, state[_HELD]) if _HELD in state else None
        base = ours["base_batch_size"]
        plan = self.plan if self.plan is None or base == self._base else self._resolve(base)
        past = self._past(plan, base, clock)
        if self._decided is not None:
            self._decided.check(state.get(_DECIDED), first=base)
            past = {size / base for size in state[_DECIDED]["sizes"] if clock}
        if state.get(_MOMENTS) is None and self._changed_betas(past):
            rule = f"must have a `{_MOMENTS}`, since {self._coupling.describe()} changed betas before sample {clock:,}"
            raise ArgumentError("state", rule, got="none", remedy="load a state that is not damaged")
        moments = read_states(state.get(_MOMENTS), [step.bias_correction for step in self._steps])
        decisions = _checks.whole("decisions", state["decisions"], minimum=0)
        if self._decided is not None:
            self._decided.load_state_dict(state[_DECIDED], first=base)
        self._decisions_before, self.decisions = decisions, []
        if self._base != base or self._decided is not None:
            self._base, self.plan = base, plan
            self._follow()
        self._clock_of_state, self._requested = clock, self.batch_size_at(clock)
        self._unaware = False
        self._logged, self._trained, self._committed, self._skipped = held or self._requested, None, None, False
        if self._decided is None:
            self._log_change(clock)
        for step, courses in zip(self._steps, moments, strict=True):
            step.forget()
            step.bias_correction.load(courses)
        self._uncoupled.forget()

    def __reduce__(self) -> Any:
        rule = "cannot be copied or pickled: it belongs to its optimizer"
        raise ArgumentTypeError("BatchSizeScheduler", rule, remedy="use `state_dict()`")

    # Around the optimizer's step.

    def _before_step(self, optimizer: torch.optim.Optimizer) -> tuple[float, bool]:
        """Checks that a step may come now; returns the ratio of batch sizes and whether the step trains on a batch."""
        if is_captured():
            raise UsageError(
                "optimizer.step()",
                "must not be captured in a CUDA graph while a BatchSizeScheduler couples its LR: a replay would keep "
                "one LR",
                remedy="capture forward and backward only",
            )
        batch = self._loader.current
        if batch is None:
            left = self._loader.left
            if left is not None and not is_phantom(optimizer):
                raise UsageError(
                    "optimizer.step()",
                    f"came after the loader had ended, and the batch at sample {left.clock:,} was left without one: "
                    f"the loop is one batch behind the loader. {_AHEAD}",
                )
            if self._skipped and not is_phantom(optimizer):
                raise UsageError(
                    "optimizer.step()", "came after `step()` of BatchSizeScheduler", remedy="call the optimizer first"
                )
            self._elsewhere = not is_phantom(optimizer)
            return self._requested / self._base, False
        self._elsewhere = False
        if is_phantom(optimizer):
            return batch.requested / self._base, False
        if self._clock_of_state is not None:
            self._check_clock()
        check_last(self._loader.part, "optimizer.step()", "came", do="step")
        if self._unaware:
            self._check_past(batch.clock)
        plan, end = self.plan, self._end
        if plan is not None and end is not None and batch.clock >= end and not plan.run_on:  # there the last size holds
            raise UsageError(
                "optimizer.step()",
                f"came after the plan's end, sample {end:,} of {plan.epochs} epochs",
                remedy="give `epochs=` the length of the whole training, or leave it out",
            )
        return batch.requested / self._base, True

    def _check_past(self, clock: int) -> None:
        """Checks once, at the first step, that no state had to be loaded: no batch grew and no betas changed before."""
        rule = f"of BatchSizeScheduler must be called before training goes on at sample {clock:,}"
        if self._resumed and self._initial is None and not isinstance(self._schedule, constant):
            or_else = ", or give the schedule its start" if self.plan is not None else ""
            raise UsageError(
                "load_state_dict",
                f"{rule}: the loader's batch may have grown, so its {self._base} may not be the size of the start",
                remedy=f"load the state of the same checkpoint{or_else}; if it was only looked at, call "
                "`loader.set_epoch(0)` before the scheduler is made",
            )
        if self._changed_betas(self._past(self.plan, self._base, clock), stepped=True):
            rule += f": {self._coupling.describe()} changed betas before it, which Adam's bias correction needs to know"
            raise UsageError("load_state_dict", rule, remedy="load the state of the same checkpoint")
        self._unaware = False

    def _warn_of_left(self, left: Batch) -> None:
        """Warns once that a batch was passed over without training."""
        self._warned_of_left = True
        warnings.warn(
            f"the batch at sample {left.clock:,} was left without `optimizer.step()` and `step()` of "
            "BatchSizeScheduler, and counts as passed; call `step()` for batches that are skipped on purpose. A loop "
            f"that takes a batch before it trains on the one before is one batch behind. {_AHEAD}",
            RuntimeWarning,
            stacklevel=3,
        )

    def _look_at_lr_steps(self, lr_steps: LRSteps, batch: Batch) -> None:
        """Warns once of LR schedulers that count updates, which have another number now."""
        updates = None if self.plan is None or self.plan.end_samples is None else self.plan.updates
        found = lr_steps.after(batch.epoch, ratio=batch.requested / self._base, updates=updates)
        if found is None:
            return
        self._lr_steps = None
        if found:
            many = "" if updates is None else f", {updates:,} in this plan"
            steps = [f"{name} is stepped {'once' if k == 1 else f'{k:,} times'} an update" for name, k in found]
            warnings.warn(
                f"{', '.join(steps)}, and the batch has another size than at the start: "
                f"there are other numbers of updates now{many}, so its course may not end with the training. Write "
                "`lr = ab.by_samples(lr_scheduler, loader)`, and `lr.step()` in its place",
                UserWarning,
                stacklevel=3,
            )

    def _after_step(self) -> None:
        self._trained = self._loader.current

    def _restore(self) -> None:
        for step in self._steps:
            step.restore()

    def _check_clock(self) -> None:
        """Checks once, after `load_state_dict`, that the loader resumed at the same sample."""
        if self._clock_of_state is None:
            return
        expected, clock = self._clock_of_state, self._loader.clock
        self._clock_of_state = None
        if expected != clock:
            raise UsageError(
                "load_state_dict",
                f"of BatchSizeScheduler resumed at sample {expected:,}, but the loader stands at {clock:,}",
                remedy="load the loader's state of the same checkpoint too",
            )

    def _log_change(self, clock: int) -> None:
        """Records a change of size by the schedule."""
        size = self.batch_size_at(clock)
        if size != self._logged:
            N = self._loader.dataset_size
            where = f"sample {clock:,}" if N is None else f"epoch {clock / N:.6g}"
            assert self._schedule is not None
            reason, ranks = f"{self._schedule.describe()}, at {where}", self._known().world_size_at(clock)
            if ranks is not None:
                reason += f", wants {ranks:,} {'rank' if ranks == 1 else 'ranks'}"
            self.decisions.append(Decision(clock, size, reason, ranks))
            self._logged = size
