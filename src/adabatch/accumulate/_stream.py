"""One epoch as micro-batches: the batches in turn, and a batch again when memory ran out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from adabatch._distributed import gradients
from adabatch._errors import ArgumentError, UsageError
from adabatch.accumulate._attempt import Attempt, power_of_two
from adabatch.accumulate._guard import Guard
from adabatch.accumulate._memento import Memento
from adabatch.accumulate._micro_batch import MicroBatch
from adabatch.accumulate._models import Models
from adabatch.memory.untouched import RandomStates
from adabatch.types import DrivenLoader, Part

_WEIGHT_OF_A_SAMPLE: Final[WeakKeyDictionary[Any, dict[bool, float]]] = WeakKeyDictionary()
"""By model, what a sample weighed when it was first looked at: on all ranks, or on this one."""


class Stream:
    """One epoch of a loader as micro-batches.

    Args:
        loader: the loader.
        model: the model that is trained, or several; None for one that is not known.
        recover: whether a batch that ran out of memory is repeated.
    """

    def __init__(self, loader: DrivenLoader, model: Any, *, recover: bool) -> None:
        self._loader, self.models = loader, Models(model)
        self.counted_late = bool(getattr(loader, "counted_late", False))
        self.group, _, self.world = loader.sharing()
        self.scale = self.world if self.models.averaged_over > 1 else 1
        self.vote_group = self.models.group if self.models.is_ddp else self.group
        self.voters = self.models.averaged_over if self.models.is_ddp else self.world
        self._why_not = self._reason(recover)
        self.repeats = not self._why_not
        self.memento = Memento(self.models.modules, self.models.parameters) if self.repeats else None
        self.guard = Guard(self.models)

    def _reason(self, recover: bool) -> str:
        """Why a batch cannot be repeated; empty if it can."""
        if not recover:
            return "`recover` is False"
        if not self.models:
            return "`accumulate` was not given the model"
        if self.models.sharded:
            return "parameters are sharded, so the other ranks wait in this one's passes"
        if self.models.synchronises_forward:
            return "SyncBatchNorm makes the other ranks wait in this one's passes"
        if not hasattr(self._loader, "load_state_dict") or self.counted_late:
            return "a loader of another make cannot go back"
        return ""

    def micro_batches(self) -> Iterator[MicroBatch]:
        """See `accumulate`."""
        self._check_model()
        with self.guard:
            for micro in self._in_turn():
                yield micro
                self.guard.check_unbroken()

    def _in_turn(self) -> Iterator[MicroBatch]:
        parts: Any = self._loader.parts()
        before: MicroBatch | None = None
        random = RandomStates(self.memento.devices) if self.memento is not None else None
        for data, part in parts:
            if part.index == 0:
                attempt = Attempt(self, part)
            micro = MicroBatch(data, part, attempt)
            del data
            yield micro
            if attempt.failed:
                assert random is not None
                self._again(parts, random, part, attempt.error)
                before = None
                continue
            _check_entered(before, micro)
            before = micro
            if part.is_last and self.memento is not None:
                random = RandomStates(self.memento.devices)

    def _check_model(self) -> None:
        if not self.models and (self.world > 1 or self.counted_late):
            where = (
                "batches are shared between ranks, since the weights depend on whether it averages gradients over them"
                if self.world > 1
                else "the loader is of another make, since the gradient of a short last batch is corrected"
            )
            raise ArgumentError("model", f"must be given where {where}", remedy="write `accumulate(loader, model)`")

    def _again(self, parts: Any, random: RandomStates, part: Part, error: str) -> None:
        """Goes back to the start of the batch, with half the micro-batch size."""
        share = -(-part.batch.size // self.world)
        size = -(-share // part.count)  # the largest micro-batch of the batch, on any rank
        where = "on this rank" if error else "on another rank"
        gc.collect()
        assert self.memento is not None
        self.memento.restore()
        if self.models.device.type not in ("cpu", "meta"):
            torch.get_device_module(self.models.device).empty_cache()
        if size == 1:
            raise torch.OutOfMemoryError(
                f"memory ran out {where} with micro-batches of one sample, which cannot be halved; use a smaller model "
                f"or activation checkpointing. {error}".rstrip()
            )
        self._loader.micro_batch_size = half = -(-size // 2)
        warnings.warn(
            f"memory ran out {where} with micro-batches of {size} samples; the batch at sample {part.batch.clock:,} is "
            f"repeated with {half}, and so are those that follow; set `micro_batch_size={half}` to begin with",
            RuntimeWarning,
            stacklevel=4,
        )
        random.restore()
        parts.again()

    def explain(self, error: BaseException) -> None:
        """Adds to an out-of-memory error what to do, where the batch cannot be repeated."""
        remedy = "make its batches smaller" if self.counted_late else "set a smaller `loader.micro_batch_size`"
        if self.models.sharded:
            raise torch.OutOfMemoryError(
                f"memory ran out on this rank, and the batch cannot be repeated: {self._why_not}. The run ends on all "
                f"ranks; start again from the last checkpoint and {remedy} on every rank. {error}"
            ) from error
        why = self._why_not or "DistributedDataParallel reduces gradients itself here"
        error.add_note(f"adabatch: the batch was not repeated in smaller micro-batches: {why}; {remedy}")

    def nominal(self, total: float | Tensor, size: int, *, batch_size: int, agree: bool) -> float:
        """A guess of the weight of this rank's share of a batch, a power of two; `agree`: the same on all ranks.

        What a sample weighs is looked at once for each model, since that waits for the device.
        """
        known = _WEIGHT_OF_A_SAMPLE.setdefault(self.models.modules[0], {})
        if agree not in known:
            weight, samples = (float(total), float(size)) if size else (0.0, 0.0)
            if agree and self.world > 1:
                seen = torch.tensor([weight, samples], dtype=torch.float64, device=self.models.device)
                weight, samples = gradients.summed(seen, self.group).tolist()
            if not weight or not samples:
                return power_of_two(batch_size / self.world)
            known[agree] = weight / samples
        return power_of_two(known[agree] * batch_size / self.world)


def _check_entered(before: MicroBatch | None, micro: MicroBatch) -> None:
    if before is not None and micro.index > 0 and micro.entered != before.entered:
        missing = before if micro.entered else micro
        raise UsageError(
            None,
            (
                f"micro-batch {missing.index + 1} of {missing.count} was not entered, others of its batch "
                "were, so the gradient is not the batch's"
            ),
            remedy="write `with micro as (inputs, targets):` for each",
        )
