"""What the integrations share: errors about frameworks, lengths of trainings, LR schedulers that follow the data."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim import lr_scheduler as torch_lr

from adabatch import _checks, schedules
from adabatch._errors import ArgumentError, ArgumentTypeError, MissingPackageError, UsageError
from adabatch._random import set_state, state_of
from adabatch.lr_clock import SamplesLR, by_samples
from adabatch.scheduler import BatchSizeScheduler
from adabatch.schedules import Plan, Schedule
from adabatch.types import DrivenLoader


def missing(name: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error to raise where importing a framework failed: with the extra to install, if it is the one missing.

    Args:
        name: the framework's name.
        extra: the extra of this package, which is also the module that is imported.
        error: what was raised.
    """
    if (error.name or "").partition(".")[0] != extra:
        return error  # something that the framework itself needs
    what = f"adabatch.integrations.{extra} needs {name}"
    return MissingPackageError(None, what, remedy=f"run: pip install 'adabatch[{extra}]'")


def check_schedule(schedule: Any) -> None:
    """Raises if it is no schedule."""
    if not isinstance(schedule, Schedule):
        remedy = "write for example `ab.schedules.geometric(2, ab.epochs(10))`"
        raise ArgumentTypeError("schedule", "must be a schedule", value=schedule, remedy=remedy)


def check_driven(loader: Any, batches: Any, *, remedy: str) -> None:
    """Raises unless `batches` is a scheduler of batch sizes, and drives `loader`; `remedy` is for another loader."""
    if not isinstance(batches, BatchSizeScheduler):
        raise ArgumentTypeError("batches", "must be an ab.BatchSizeScheduler", got=type(batches).__name__)
    if getattr(loader, "driver", None) is not batches:
        rule = "must be the loader that `batches` drives"
        raise ArgumentError("loader", rule, got=type(loader).__name__, remedy=remedy)


def in_place_of(own: Callable[..., Any], stand_in: Callable[..., Any]) -> Callable[..., Any]:
    """`stand_in` as a function that looks like `own`, whose signature a framework reads."""

    @functools.wraps(own)
    def found(*args: Any, **kwargs: Any) -> Any:
        return stand_in(*args, **kwargs)

    return found


def check_hooks(owner: Any, hooks: Mapping[str, tuple[str, ...]], *, package: str, works: str) -> None:
    """Raises if a framework's object lacks a method that is used, or a parameter of one.

    Args:
        owner: the object.
        hooks: the methods, each with the names of its first parameters.
        package: the distribution's name.
        works: the versions that work, in words.

    Raises:
        TypeError: naming the version that is installed, and those that work.
    """
    for name, wanted in hooks.items():
        method = getattr(owner, name, None)
        if callable(method):
            known = inspect.signature(method).parameters
            if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in known.values()):
                continue  # it is wrapped, and hands on what it gets
            if tuple(known)[: len(wanted)] == wanted:
                continue
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "of an unknown version"
        raise ArgumentTypeError(
            package,
            f"must have `{type(owner).__name__}.{name}({', '.join(wanted)})`, which this integration uses",
            got=f"{package} {installed}",
            remedy=f"install {package} {works}, or take out what overrides it with other parameters",
        )


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        plan: the schedule, resolved.
        epochs: epochs that the plan is made for; None for a stream.
        end: the clock at the end of the training, in samples.
        updates: of the training.
        base_updates: of the same samples at the loader's first batch size: what LR schedulers count.
    """

    plan: Plan
    epochs: int | None
    end: int
    updates: int
    base_updates: int


def length_of(
    schedule: Schedule,
    loader: DrivenLoader,
    *,
    base: int,
    epochs: float | None = None,
    updates: int | None = None,
    tokens_per_sample: int | None = None,
) -> Length:
    """How long a training of so many epochs, or of so many updates, is.

    Args:
        schedule: the growth.
        loader: gives the size of the data and how epochs end.
        base: the batch size at the start.
        epochs: of the training; a fraction ends within an epoch, after the update in which it lies.
        updates: of the training, in place of epochs.
        tokens_per_sample: for a schedule in tokens.

    Raises:
        ValueError: if neither is known, or the schedule does not fit the loader.
    """
    N = loader.dataset_size

    def resolved(by: Schedule, epochs: int | None) -> Plan:
        return by.plan(
            dataset_size=N,
            epochs=epochs,
            batch_size=base,
            drop_last=loader.drop_last,
            run_on=loader.run_on,
            tokens_per_sample=tokens_per_sample,
        )

    whole: int | None = None
    if updates is not None:
        updates = _checks.whole("max_steps", updates)
        if N is not None:
            whole = None if schedule.finite else 1
            while whole is not None and resolved(schedule, whole).updates < updates:
                whole *= 2
            whole = -(-resolved(schedule, whole).clock_of(updates) // N)
        plan = resolved(schedule, whole)
        end = plan.clock_of(updates)
    elif N is None or epochs is None:
        rule, remedy = "must be set where the data has no length", "say how many updates the training has"
        raise ArgumentError("max_steps", rule, value=updates, remedy=remedy)
    else:
        whole = -int(-epochs // 1)
        plan = resolved(schedule, whole)
        end = min(round(epochs * N), N * whole)
        updates = plan.update_at(end)
    return Length(plan, whole, end, updates, resolved(schedules.constant(), whole).update_at(end))


class GrowingLR:
    """An LR scheduler that a framework steps once an update, and that follows the position in the data instead.

    It takes one step for each update that training at the first batch size would have made, as `ab.by_samples` does.
    `get_last_lr` gives the LR in force, with the coupling; anything else is the LR scheduler's own.

    Args:
        lr_scheduler: counts updates at the first batch size.
        loader: the loader that is trained on.
        batches: drives it.
        base: the first batch size, in samples.
        end: steps after which the LR is frozen; None for the LR scheduler's own end.
    """

    def __init__(
        self,
        lr_scheduler: torch_lr.LRScheduler,
        loader: DrivenLoader,
        batches: BatchSizeScheduler,
        *,
        base: int,
        end: int | None = None,
    ) -> None:
        self.lr_scheduler, self._batches = lr_scheduler, batches
        self._clock: SamplesLR = by_samples(lr_scheduler, loader, base_batch_size=base, end=end)

    def step(self, *_: Any) -> None:
        """Steps the LR scheduler up to where the data stands: several times, once or not at all."""
        self._clock.step()

    def get_last_lr(self) -> list[float]:
        """The LRs in force at the latest update; with several optimizers the LR scheduler's own."""
        found, own = self._batches.last_lr, self.lr_scheduler.get_last_lr()
        return found if len(found) == len(own) else [float(lr) for lr in own]

    def state_dict(self) -> dict[str, Any]:
        """The states of the LR scheduler and of its clock."""
        return {"lr_scheduler": self.lr_scheduler.state_dict(), "by_samples": self._clock.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes.

        Raises:
            ValueError: if the state is of an LR scheduler that did not grow with the batch.
        """
        if not isinstance(state, Mapping) or not {"lr_scheduler", "by_samples"} <= set(state):
            raise ArgumentError(
                "state",
                "must be of an LR scheduler in a training with a growing batch",
                got="one of a training without",
                remedy="resume from a checkpoint that was saved with the growth, or start a new run",
            )
        self.lr_scheduler.load_state_dict(dict(state["lr_scheduler"]))
        self._clock.load_state_dict(state["by_samples"])

    def __getattr__(self, name: str) -> Any:
        if name == "lr_scheduler":  # before there is one
            raise AttributeError(name)
        return getattr(self.lr_scheduler, name)

    def __reduce__(self) -> Any:
        return _itself, (self.lr_scheduler,)  # a copy has no loader: it is the LR scheduler alone


def _itself(value: Any) -> Any:
    return value


def nothing_of(model: torch.nn.Module) -> torch.Tensor:
    """A loss of 0 that reaches every parameter, for a micro-batch in which nothing counts: its own mean is 0 / 0."""
    return torch.stack([p.sum().float() for p in model.parameters() if p.requires_grad]).sum() * 0


class _Placed:
    """A micro-batch whose data are placed as they are taken."""

    def __init__(self, micro: Any, place: Callable[[Any], Any]) -> None:
        self._micro, self._place = micro, place

    def __enter__(self) -> Any:
        return self._place(self._micro.__enter__())

    def __exit__(self, *error: Any) -> Any:
        return self._micro.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._micro, name)


class Update:
    """The micro-batches of one update, for a step that takes them all; fetched as they are iterated, once.

    Args:
        micros: from `ab.accumulate`.
        place: moves the data of each to the device; None to hand them out as they are.

    Attributes:
        is_over: whether there is no update any more.
    """

    def __init__(self, micros: Iterator[Any], place: Callable[[Any], Any] | None = None) -> None:
        self._micros, self._place = micros, place
        self._first = next(micros, None)
        self.is_over = self._first is None

    def __iter__(self) -> Iterator[Any]:
        micro, self._first = self._first, None
        if micro is None:
            rule = "must be iterated once, since its micro-batches are passed once"
            raise UsageError("batch", rule, remedy="loop over it in the step alone; give `self.log` its `batch_size=`")
        yield self._placed(micro)
        while not micro.is_last:
            micro = next(self._micros)
            yield self._placed(micro)

    def _placed(self, micro: Any) -> Any:
        return micro if self._place is None else _Placed(micro, self._place)


class RandomStates:
    """The random states of this process at one moment: python's, numpy's, torch's and its device's.

    Args:
        device: that of the model.
        state: what `saved` gave, in place of the present states; of another kind of device its own is not restored.
    """

    def __init__(self, device: torch.device, state: Mapping[str, Any] | None = None) -> None:
        self._device = device
        self._state: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "device": None if device.type == "cpu" else state_of(device),
        }
        if state is not None:
            version, words, gauss = state["python"]
            name, keys, *rest = state["numpy"]
            self._state = {
                "python": (version, tuple(words.tolist()), gauss),
                "numpy": (name, keys.numpy().astype(np.uint32), *rest),
                "torch": state["torch"].cpu(),
                "device": None if state["device"] is None or device.type == "cpu" else state["device"].cpu(),
            }

    def saved(self) -> dict[str, Any]:
        """The states in tensors, numbers and text, which `torch.load(weights_only=True)` reads."""
        version, words, gauss = self._state["python"]
        name, keys, *rest = self._state["numpy"]
        return self._state | {
            "python": [version, torch.tensor(words), gauss],
            "numpy": [str(name), torch.tensor(keys.astype(np.int64)), *rest],
        }

    def restore(self) -> None:
        """Puts the states back."""
        random.setstate(self._state["python"])
        np.random.set_state(self._state["numpy"])
        torch.set_rng_state(self._state["torch"])
        if self._state["device"] is not None:
            set_state(self._device, self._state["device"])


def dataset_of(own: Any) -> Any:
    """The data set of a Trainer's own loader, without the shard of it that Accelerate takes."""
    if not isinstance(own, torch.utils.data.DataLoader):
        raise ArgumentTypeError(
            "get_train_dataloader",
            "must return a torch DataLoader or an ab.DataLoader",
            got=type(own).__name__,
            remedy="return one of these, or leave the method as it is",
        )
    dataset: Any = own.dataset
    while type(dataset).__name__ == "IterableDatasetShard":
        dataset = dataset.dataset
    return dataset


def sampler_of(own: Any, dataset: Any) -> Any:
    """`"random"`, `"sequential"`, or a sampler of the user's own; raises where that cannot be told."""
    if isinstance(dataset, torch.utils.data.IterableDataset):
        return "sequential"
    formed = own.batch_sampler
    while hasattr(formed, "batch_sampler"):  # Accelerate's shard of it
        formed = formed.batch_sampler
    sampler = getattr(formed, "sampler", None)
    if sampler is None:
        raise ArgumentError(
            "get_train_dataloader",
            "must return a loader whose batches may be formed anew, by their samples",
            got=f"one with a {type(formed).__name__}",
            remedy="give it a sampler in place of the batch sampler",
        )
    if isinstance(sampler, torch.utils.data.SequentialSampler):
        return "sequential"
    whole = isinstance(sampler, torch.utils.data.RandomSampler) and not sampler.replacement
    return "random" if whole and sampler.num_samples == len(dataset) else sampler
