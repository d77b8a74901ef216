"""The training loop: what a user's own loop does, with evaluation, checkpoints and resume around it."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

import adabatch as ab
from adabatch import _checks, memory, units
from adabatch._errors import ArgumentError
from adabatch.data import WorkerDiedError
from adabatch.lab import tasks
from adabatch.lab.shapes import setting_in_words
from adabatch.lab.training import checkpoint, failures, job, saving
from adabatch.lab.training import device as devices
from adabatch.lab.training import folder as folders
from adabatch.lab.training.branching import Branching
from adabatch.lab.training.communication import Communication
from adabatch.lab.training.config import SETTINGS, RunConfig, checked_target
from adabatch.lab.training.evaluation import accuracy_of, chance_end
from adabatch.lab.training.folder import SharedRunFolder
from adabatch.lab.training.interrupt import Interrupted, Interrupts
from adabatch.lab.training.ranks import Ranks, Seen
from adabatch.lab.training.records import Evaluation, Progress, RunResult, RunState, packed
from adabatch.lab.training.reporting import Reporter
from adabatch.lab.training.setup import Setup
from adabatch.lab.training.tally import Tally
from adabatch.types import Decision, Observation, Rollback


def train(
    config: RunConfig,
    out: Path | None = None,
    *,
    resume: bool = False,
    resume_from: str = "last",
    data: tasks.Data | None = None,
    progress: Callable[[Progress], None] | None = None,
    target: float | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> RunResult:
    """Trains as `config` says; on the CPU of one machine the settings determine the result, bit for bit.

    Afterwards random states and torch's number of threads are as before. On the CPU glibc's allocator is tuned, see
    `memory.tune_allocator`. During training, Ctrl-C, SIGTERM and SIGHUP take effect after the current update.

    When torchrun starts the processes again, as many or another number, the run goes on from its last checkpoint, also
    without `resume`.

    Args:
        config: the settings.
        out: the run folder; None keeps nothing. Where several processes train, that of the first one counts.
        resume: go on with the run in `out`, from its last checkpoint. The result of a finished run is returned, unless
            it may and should train for more epochs, see `RunConfig.check_longer`.
        resume_from: with `resume`, the checkpoint to go on from: `"last"`; or `"previous"` or `"best"` if that is lost.
        data: the task's data if they are loaded already.
        progress: called a few times per second.
        target: test accuracy in (0, 1] up to which updates and seconds are counted; None: the task's.
        tuning: the measurement that chose settings of speed, kept in the folder of a new run as `tune.json`.

    Returns:
        The result; a run whose loss is not finite ends there, see `RunResult.diverged`.

    Raises:
        ValueError: if settings do not fit the data or the device, or those of the run to resume; if the device or
            compiling fails, see `failures.told`.
        FileExistsError: if `out` holds a run and `resume` is False.
        FileNotFoundError: if there is no run to resume, or no data.
        BlockingIOError: if another process trains in `out`.
        OSError: if `out` cannot be written.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; the state is saved.

    Example:
        >>> result = train(RunConfig.for_task("digits", epochs=1, batch_size=64))
        >>> result.updates
        23
    """
    ranks = Ranks()
    out = ranks.from_first(lambda: out)
    if target is not None:
        checked_target(target)
    if resume and out is None:
        raise ArgumentError("resume", "must come with `out`, the folder of the run", got="none")
    _checks.one_of("resume_from", resume_from, folders.CHECKPOINTS)
    if resume_from != folders.CHECKPOINTS[0] and not resume:
        raise ArgumentError("resume_from", "must come with `resume`", got=f"{resume_from!r} alone")
    device = devices.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    task = tasks.get(config.task)
    aim = task.target if target is None else target
    if out is not None and ranks.from_first(lambda: job.goes_on(out)):
        resume, resume_from = True, folders.CHECKPOINTS[0]
    if resume and out is not None and (done := ranks.from_first(lambda: _finished(config, out))) is not None:
        return done
    loaded = ranks.each_first(lambda: task.load(config.data)) if data is None else data
    config.check_lr(loaded.dataset_size)
    with ExitStack() as around:
        around.enter_context(failures.told(config, device, out))
        around.enter_context(devices.threads(config.threads))
        around.enter_context(devices.entered(device))
        interrupts = around.enter_context(Interrupts())
        if ranks.world > 1:
            ranks.check_same(_decisive(config, loaded, device))
        setup = Setup(config, loaded, device, ranks)
        folder = None
        if out is not None:
            how = {"config": config, "versions": devices.versions(device), "resume": resume, "resume_from": resume_from}
            how["tuning"] = tuning
            folder = SharedRunFolder(out, ranks=ranks, shares=setup.shares_checkpoints, **how)
            around.callback(folder.close)
        trainer = Trainer(setup, folder=folder, interrupts=interrupts, progress=progress)
        around.callback(trainer.close)
        return trainer.train(target=aim)


def _decisive(config: RunConfig, data: tasks.Data, device: torch.device) -> dict[str, Any]:
    """Settings, versions and data: all that must be the same on all ranks."""
    alike = ("compile", "cuda_graphs")  # may be given up when a run goes on, by all
    kept = {name: value for name, value in config.to_json().items() if name in alike or not SETTINGS[name].may_change}
    found = {name: setting_in_words(name, value) for name, value in kept.items()}
    versions = devices.versions(device)
    return found | {name: versions[name] for name in ("adabatch", "torch", "git")} | {"data": data.fingerprint()}


def _finished(config: RunConfig, out: Path) -> RunResult | None:
    """The result in `out` if its run is finished and has these settings."""
    saved = folders.saved_config(out)
    folders.check_same(config, saved)
    return folders.saved_result(out) if config.epochs == saved.epochs else None


class _DivergedError(Exception):
    """A loss was not finite; the run ends with its result so far."""


class _BranchesInterruptedError(Exception):
    """The user interrupts the run while branches are trained."""


class Trainer:
    """Trains one run."""

    def __init__(
        self,
        setup: Setup,
        *,
        folder: SharedRunFolder | None,
        interrupts: Interrupts,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._ranks, self._folder, self._interrupts = setup.ranks, folder, interrupts
        self._take(setup)
        self._plan, self._N = setup.plan, setup.data.dataset_size
        told = progress if setup.ranks.is_first else None
        self._reporter = Reporter(told, setup.config, plan=self._plan, dataset_size=self._N, world=setup.ranks.world)
        self._decides = setup.plan is None  # a policy
        self._decided: str | None = None  # the reason of its latest look; before the first one, of its latest decision
        self._looked = False
        self._end = self._N * setup.config.epochs
        policy: Any = setup.config.schedule() if setup.branches else None
        self._branching = None if policy is None else Branching(policy, samples=self._end)
        self._fingerprint = "" if folder is None else setup.data.fingerprint()
        self._tally = Tally(setup.device, setup.ranks)
        self._communication = Communication(setup)
        self._compress: Any = None if setup.config.fsdp else setup.config.compress  # FSDP2 averages by itself
        self._history: list[Evaluation] = []
        self._best = -1.0  # accuracy so far
        self._decisions: list[Decision] = []
        self._right: str | None = None  # of the last evaluation, once it is there
        self._began = 0  # the clock at which the current stretch began
        self._stop = self._end  # the next clock at which a stretch ends
        self._read_losses = devices.is_read_freely(setup.device)
        save_every = None if setup.config.save_every is None else saving.interval(setup.config.save_every)
        self._save_every = save_every if isinstance(save_every, units.Duration) else None
        self._timer = saving.Timer(save_every if isinstance(save_every, float) and folder is not None else None)
        self._saved = (0, 0)  # clock and updates of the last checkpoint
        self._beside = 0.0  # seconds beside the training at the last evaluation

    def train(self, *, target: float) -> RunResult:
        """Trains to the end."""
        self._restore()
        self._setup.try_sizes(tell=self._note)
        if self._setup.noise is not None:
            self._note(f"noise from {self._setup.noise.measured_from}")
        self._begin_reports()
        self._communication.of_an_update(self._tally.updates)  # from here on
        with suppress(_DivergedError):
            while self._loader.clock < self._end:
                try:
                    self._train_epoch()
                except _DivergedError:
                    if not self._consult(diverged=True):
                        raise
        result = self._result(target)
        if self._folder is not None:
            self._folder.finish(result)
        return result

    def close(self) -> None:
        """Stops measuring the gradient's noise."""
        self._setup.close_tap()

    def _take(self, setup: Setup) -> None:
        self._setup, self._loader = setup, setup.loader

    def _train_epoch(self) -> None:
        """Trains to the end of the epoch, or to where the run goes back to an earlier state."""
        if self._consult():
            return
        self._begin_stretch()
        try:
            whole = self._setup.takes_whole_batches
            goes_on = (self._epoch if whole else self._epoch_of_micro_batches)()
        except WorkerDiedError:  # of a signal to the whole process group, which ends the run
            if not self._interrupts.seen:
                raise
            self._end_stretch()
            goes_on = True
        if goes_on:
            self._end_stretch(epoch_ended=True)

    # The loops, as a user would write them. They return False if the run went back to an earlier state.

    def _epoch(self) -> bool:
        """The rest of an epoch, in whole batches."""
        setup, loader, batches = self._setup, self._loader, self._setup.batches
        model, loss_fn, optimizer = setup.forward, setup.loss, setup.optimizer
        prepared = setup.prepared
        for inputs, targets in loader:
            if not prepared:
                inputs, targets = setup.prepare(inputs, targets, clock=loader.clock)
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            batches.step()
            self._tally.add(loss.detach(), len(targets), times=len(targets))
            self._after_update()
        return True

    def _epoch_of_micro_batches(self) -> bool:
        """The rest of an epoch, in micro-batches, or in batches that may be repeated in micro-batches."""
        setup, loader, batches = self._setup, self._loader, self._setup.batches
        model, loss_fn, optimizer = setup.forward, setup.loss, setup.optimizer
        prepared = setup.prepared
        optimizer.zero_grad()
        before, loss_sum = 0, self._tally.new_sum()  # this rank's samples and losses before this micro-batch
        for micro in ab.accumulate(loader, setup.wrapped, compress=self._compress):
            if micro.index == 0:
                before = 0
                loss_sum.zero_()
            with micro as (inputs, targets):
                if not prepared:
                    inputs, targets = setup.prepare(inputs, targets, clock=loader.clock, before=before)
                loss = loss_fn(model(inputs), targets)
                (loss * micro.weight).backward()
            if micro.failed:  # out of memory: the batch comes again, in smaller micro-batches
                continue
            loss_sum.add_(loss.detach(), alpha=micro.size)
            before += micro.size
            if micro.is_last:
                assert loader.current is not None
                size = loader.current.size
                optimizer.step()
                optimizer.zero_grad()
                batches.step(loss_sum / before if self._decides and before else None)
                self._tally.add(loss_sum, size)
                if not self._after_update():
                    return False
        return True

    def _after_update(self) -> bool:
        """Ends the stretch if it is time and begins the next one; at the end of an epoch `train` does so.

        Returns:
            Whether the loop goes on; False if the run went back to an earlier state.
        """
        clock = self._loader.clock
        changed = self._decides and self._take_decision()
        stops = clock >= self._stop or changed or (self._ranks.is_due(self._tally.updates) and self._look(quickly=True))
        if stops and clock % self._N:
            self._end_stretch()
            if self._consult():
                return False
            self._begin_stretch()
        elif self._reporter.is_due:
            self._reporter.stands(clock, self._tally, began=self._began, lr=self._setup.batches.last_lr[0])
        return True

    def _take_decision(self) -> bool:
        """Keeps the reason of the policy's latest decision if it looked; returns whether the batch size changed."""
        batches = self._setup.batches
        if (last := batches.last_decision) is not None and (last.interval is not None or not self._looked):
            self._decided, self._looked = last.reason, last.interval is not None
        return bool(batches.decisions)

    def _look(self, *, quickly: bool = False) -> Seen:
        """Events on any rank that end a stretch or the run; `quickly` does not wait for a GPU."""
        diverged = (self._read_losses or not quickly) and self._tally.diverged
        writing = self._folder is not None and self._folder.busy
        mine = Seen(self._interrupts.number or 0, self._timer.over, diverged, writing)
        seen = self._ranks.look(mine, self._tally.updates)
        if self._folder is not None and not seen.writing:
            with self._interrupts.held():
                self._folder.settle()
        return seen

    # A policy that asks for branches. It is asked between two stretches.

    def _consult(self, *, diverged: bool = False) -> bool:
        """Asks a policy that branches, if it is time; returns whether the run went back to an earlier state."""
        branching, clock = self._branching, self._loader.clock
        if branching is None or (clock < branching.next_clock and not diverged):
            return False
        began, size = time.perf_counter(), self._loader.batch_size

        def seen(**more: Any) -> Observation:
            noise = None if self._setup.noise is None else self._setup.noise.estimate()
            loss = math.nan if diverged else None
            return Observation(clock, self._tally.updates, size, loss=loss, noise=noise, samples=self._end, **more)

        def look() -> None:
            if self._interrupts.seen:
                raise _BranchesInterruptedError

        decision = None
        try:
            decision = branching.decide(seen, run=self._setup, tell=self._note, look=look)
        except (_BranchesInterruptedError, WorkerDiedError):
            if not self._interrupts.seen:
                raise
        self._tally.seconds_beside += time.perf_counter() - began
        if decision is None:
            self._leave(self._interrupts.number or 0)
        self._decided = decision.reason
        before, branching.before = branching.before, branching.before if branching.on_trial else None
        if isinstance(decision, Rollback):
            assert before is not None
            self._go_back(decision, before)
            return True
        if decision.batch_size != size:
            branching.before = self._state(copied=True)
            self._loader.batch_size = decision.batch_size
            self._log(decision)
        return False

    def _go_back(self, to: Rollback, before: RunState) -> None:
        """Goes back to the state before the last growth; its time is spent, and its traces are the decisions."""
        spent, old = self._tally.seconds, self._setup
        old.close_tap()
        old.batches.close()
        self._take(Setup(old.config, old.data, old.device, self._ranks))
        self._communication = Communication(self._setup)
        self._setup.load_state_dict(checkpoint.copied(before.parts))
        self._tally.load(before)
        self._beside = before.seconds_beside
        self._tally.seconds_beside += spent - self._tally.seconds
        self._communication.of_an_update(self._tally.updates)
        self._history = self._history[: before.evaluations]
        self._best = max((found.test_accuracy for found in self._history), default=-1.0)
        self._right, self._saved = None, (self._loader.clock, self._tally.updates)
        self._begin_reports()
        self._log(to)  # after the growth, so a checkpoint that counts both finds both
        if self._folder is not None:
            with self._interrupts.held():
                state = self._state()
                self._folder.save(state, best=False, wait=True)
                self._folder.go_back(state)

    def _log(self, decision: Decision) -> None:
        """Keeps a decision of a policy that branches."""
        seen = decision.observation
        if seen is not None and seen.loss is not None and not math.isfinite(seen.loss):
            seen = replace(seen, loss=None)
        kept = Decision(decision.clock, decision.batch_size, decision.reason, observation=seen)
        self._decisions.append(kept)
        if self._folder is not None:
            self._folder.log(kept)

    def _leave(self, signal: int) -> NoReturn:
        """Saves and ends the run that the user interrupts."""
        if self._folder is not None:
            with self._interrupts.held():
                self._folder.save(self._state(), best=False, wait=True)
        raise Interrupted(self._folder.path if self._folder is not None else None, signal)

    # Stretches of training. One ends where the batch size changes, or an evaluation or a checkpoint is due.

    def _begin_stretch(self) -> None:
        """Starts to count, and notes where the stretch ends."""
        self._began = clock = self._loader.clock
        starts = () if self._plan is None else self._plan.starts_samples
        following = bisect_right(starts, clock)
        self._stop = min(*starts[following : following + 1], self._next_evaluation(), self._next_save(), self._end)
        if self._branching is not None:
            self._stop = min(self._stop, max(self._branching.next_clock, clock + 1))
        self._tally.start(self._setup.batches.batch_size_at(clock))

    def _end_stretch(self, *, epoch_ended: bool = False) -> None:
        """Evaluates and saves if that is due; ends a run that diverged or that the user interrupts.

        A diverged state is not saved: the checkpoint before it stays.
        """
        self._tally.stop()
        seen = self._look()
        clock, lr, best = self._loader.clock, self._setup.batches.last_lr[0], False
        if epoch_ended:
            self._setup.lr_scheduler.step()
        self._log_decisions()
        due = epoch_ended
        trained = self._tally.loss_samples > 0  # not where a growth drops the rest of an epoch after an evaluation
        if trained and (seen.diverged or clock >= self._next_evaluation() or clock == self._end):
            best, due = self._evaluate(lr), True
            if self._history[-1].diverged:
                raise _DivergedError
        if self._setup.config.save_every is not None:
            due = best or clock >= min(self._next_save(), self._end) or seen.over
        if self._folder is not None and (due or seen.signal):
            state = self._state()
            with self._interrupts.held():
                self._folder.save(state, best=best, wait=bool(seen.signal) or clock == self._end)
            self._saved = (clock, self._tally.updates)
            self._timer.restart()
        if seen.signal and clock < self._end:
            raise Interrupted(self._folder.path if self._folder is not None else None, seen.signal)

    def _next_evaluation(self) -> int:
        """The clock of the next evaluation."""
        last = (self._history[-1].samples, self._history[-1].updates) if self._history else (0, 0)
        return self._next(units.duration(self._setup.config.evaluate_every), *last)

    def _next_save(self) -> int:
        """The clock of the next checkpoint; the end if checkpoints follow evaluations or time."""
        return self._end if self._save_every is None else self._next(self._save_every, *self._saved)

    def _next(self, every: units.Duration, clock: int, updates: int) -> int:
        """The clock at which something is due that was last done at `clock`, after `updates`."""
        of_data: dict[str, Any] = {"dataset_size": self._N, "tokens_per_sample": self._setup.config.tokens_per_sample}
        return saving.next_clock(every, self._clock_of, clock=clock, updates=updates, **of_data)

    def _clock_of(self, update: int) -> int:
        """The clock where an update starts, at most the end.

        Under a policy as if the batch size stayed and no epoch ended before it; where one does, this is asked anew.
        """
        if self._plan is not None:
            return self._plan.clock_of(min(update, self._plan.updates))
        clock = self._loader.clock
        return clock + (update - self._tally.updates) * self._setup.batches.batch_size_at(clock)

    def _log_decisions(self) -> None:
        new = self._setup.batches.decisions
        for decision in new:
            self._decisions.append(decision)
            if self._folder is not None:
                self._folder.log(decision)
        new.clear()

    def _evaluate(self, lr: float) -> bool:
        """Evaluates the test set; returns whether it was the best so far."""
        clock, tally = self._loader.clock, self._tally
        test_loss, right = self._setup.evaluate()
        seconds = tally.seconds - (self._history[-1].seconds if self._history else 0.0)
        beside, self._beside = tally.seconds_beside - self._beside, tally.seconds_beside
        rate = tally.loss_samples / (seconds - beside)
        of_an_update = self._communication.of_an_update(tally.updates)
        noise = None if self._setup.noise is None else self._setup.noise.estimate()
        found = Evaluation(
            samples=clock,
            epoch=clock // self._N,
            updates=tally.updates,
            seconds=tally.seconds,
            batch_size=tally.batch_size,
            lr=lr,
            train_loss=_finite(tally.mean_loss()),
            test_loss=_finite(test_loss),
            test_accuracy=accuracy_of(right),
            communication_bytes=of_an_update.bytes,
            communication_seconds=of_an_update.seconds,
            noise_scale=None if noise is None or noise.signal <= 0 else _finite(noise.noise_scale),
            noise_low=None if noise is None else _finite(noise.low),
            noise_high=None if noise is None else _finite(noise.high),
            decided=self._decided,
        )
        best = not found.diverged and found.test_accuracy > self._best
        self._best = max(found.test_accuracy, self._best)
        if clock == self._end or found.diverged:
            self._right = packed(right) if right.shape == self._setup.data.y_test.shape else None
        self._history.append(found)
        if self._folder is not None:
            self._folder.log(found)
        self._reporter.evaluated(found, samples_per_second=rate)
        return best

    def _begin_reports(self) -> None:
        self._reporter.begin(self._loader.clock, accuracy=self._history[-1].test_accuracy if self._history else None)

    def _note(self, note: str) -> None:
        """Reports work beside the training."""
        size, lr = self._loader.batch_size, self._setup.batches.last_lr[0]
        self._reporter.note(note, self._loader.clock, seconds=self._tally.seconds, batch_size=size, lr=lr)

    # State and result.

    def _state(self, *, copied: bool = False) -> RunState:
        """The state now; its tensors are the living ones unless they shall be copied."""
        parts, branching = self._setup.state_dict(), self._branching
        return RunState(
            config=self._setup.config,
            data=self._fingerprint,
            parts=checkpoint.copied(parts) if copied else parts,
            evaluations=len(self._history),
            decisions=len(self._decisions),
            test_right=self._right,
            decided=self._decided,
            branching=None if branching is None else dict(branching.state),
            before=None if branching is None or copied else branching.before,
            **self._tally.state_dict(),
        )

    def _restore(self) -> None:
        """Goes on from the run folder's state, if there is one."""
        if self._folder is None:
            return
        state = self._folder.state()
        if state is not None:
            folders.check_same(self._setup.config, state.config)
            if state.data != self._fingerprint:
                remedy = "give the former data, in whatever folder, or start a new run"
                raise ArgumentError("data", "must hold what the run began with", got="other samples", remedy=remedy)
            with self._folder.fitting():
                self._setup.load_state_dict(state.parts, shards=self._folder.shards(state))
            self._setup.config.check_longer(state.config, epochs=self._loader.clock // self._N)
            with self._folder.fitting():
                self._go_on(state)
        self._history, self._decisions = self._folder.restart(state)
        self._best = max((found.test_accuracy for found in self._history), default=-1.0)

    def _go_on(self, state: RunState) -> None:
        """Goes on from the counts of a state; raises if they do not fit the loader's position."""
        self._tally.load(state)
        self._beside = state.seconds_beside
        clock, updates = self._loader.clock, state.updates
        self._right = state.test_right if clock == self._end else None
        self._saved, self._decided = (clock, updates), state.decided
        if self._branching is not None:
            self._branching.load(state.branching, state.before)
        if self._plan is None:
            decided = state.parts["batches"]["decided"]
            fits, self._looked = decided["updates"] == updates, bool(decided["policy"].get("looks"))
        else:
            fits = updates <= self._plan.updates and self._plan.clock_of(updates) == clock
        if not fits:
            raise ArgumentError("updates", f"must lead to sample {clock:,}", got=f"{updates:,}")
        if not state.loss_samples <= state.samples <= clock:
            raise ArgumentError("samples", f"must be those trained on up to sample {clock:,}", got=f"{state.samples:,}")

    def _result(self, target: float) -> RunResult:
        reached = next((found for found in self._history if found.test_accuracy >= target), None)
        last, tally, data = self._history[-1], self._tally, self._setup.data
        most, count = data.objective.chance(data.y_test), int(data.objective.counted(data.y_test).sum())
        return RunResult(
            test_accuracy=last.test_accuracy,
            best_accuracy=max(found.test_accuracy for found in self._history),
            updates=tally.updates,
            samples=tally.samples,
            epochs=-(-last.samples // self._N),
            train_seconds=tally.seconds,
            samples_per_second=tally.samples_per_second(),
            batch_sizes=tally.batch_sizes,
            history=tuple(self._history),
            decisions=tuple(self._decisions),
            target=target,
            updates_to_target=reached.updates if reached else None,
            seconds_to_target=reached.seconds if reached else None,
            test_right=self._right,
            chance=most,
            at_chance=most is not None and last.test_accuracy <= chance_end(most, count=count),
            noise_from=None if self._setup.noise is None else self._setup.noise.measured_from,
        )


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
