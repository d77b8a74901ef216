"""One attempt at one batch: weights its micro-batches, and reduces the gradients or puts them back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from adabatch import _checks, _devices, _distributed
from adabatch._errors import ArgumentError, UsageError
from adabatch.accumulate._models import Models
from adabatch.accumulate._norms import Norms
from adabatch.accumulate._ranks import check_alike, check_ranks, warn_of_drift
from adabatch.memory.untouched import is_out_of_memory
from adabatch.noise.listening import tap_on
from adabatch.types import DrivenLoader, Part

_FREE = nullcontext()
_WEIGHT_OF_A_SAMPLE: Final[WeakKeyDictionary[Any, dict[bool, float]]] = WeakKeyDictionary()
"""By model, the weight of a sample at its first `weigh`; under True the mean over ranks, under False this rank's."""


class Setup:
    """How the batches of a loader are accumulated.

    Args:
        loader: the loader.
        model: the model that is trained, or several; None if not known.
        recover: whether a batch that ran out of memory is repeated.
        compress: how gradients travel where DistributedDataParallel would average them; None: whole.

    Attributes:
        models: the modules that are trained.
        loader: the loader.
        counted_late: whether the size of a batch is known only after its last micro-batch.
        group: the ranks that share a batch, `world` in number.
        compress: the argument.
        scale: the factor that undoes the average over ranks.
        norms: their batch norm layers.
        why_not: why a batch cannot be repeated; empty if it can.
        snapshot: copies what an attempt may change; None where a batch cannot be repeated.
    """

    def __init__(self, loader: DrivenLoader, model: Any, *, recover: bool, compress: str | None) -> None:
        self.models = models = Models(model)
        self.loader = loader
        self.counted_late = loader.counted_late
        self.group, _, self.world = sharing = loader.sharing()
        self.compress = compress
        self._set_compression()
        self.scale = self.world if models.averaged_over > 1 else 1
        self.vote_group = models.group if models.is_ddp else self.group
        self.voters = models.averaged_over if models.is_ddp else self.world
        reasons = {
            "`recover` is False": not recover,
            "`accumulate` was not given the model": not models,
            "parameters are sharded, so the other ranks wait in this one's passes": models.sharded,
            "batch norm over ranks makes the others wait in this one's passes": models.synchronises_forward,
            "a loader of another make cannot go back": self.counted_late,
        }
        self.why_not = next((reason for reason, holds in reasons.items() if holds), "")
        self._drifted = False
        if self.world > 1:
            check_ranks(models, self.group)
        self.norms = Norms(models.modules, sharing)
        self.snapshot = None if self.why_not else Snapshot(models.modules, models.parameters)

    def _set_compression(self) -> None:
        if self.compress is not None:
            _checks.one_of("compress", self.compress, _checks.COMPRESSIONS)
            if self.world > 1 and not self.models.reduces:
                raise ArgumentError(
                    "compress",
                    "must come with a model under DistributedDataParallel where batches are shared between ranks",
                    value=self.compress,
                    remedy="wrap the model, or leave it out and average gradients yourself",
                )
        self.models.compress(self.compress)

    def check_others(self, loader: DrivenLoader, part: Part, *, first: bool) -> None:
        """Compares the ranks before the first two batches; all must call it.

        Raises:
            ValueError: if they iterate differently.
        """
        if first:
            check_alike(loader, part, self.group)
        if not self.models.reduces and not self._drifted:
            self._drifted = warn_of_drift(self.models, self.group)

    def check_model(self) -> None:
        """Raises unless the model is given where weights or corrections need it."""
        if not self.models and (self.world > 1 or self.counted_late):
            where = (
                "batches are shared between ranks, since the weights depend on whether it averages gradients over them"
                if self.world > 1
                else "the loader is of another make, since the gradient of a short last batch is corrected"
            )
            raise ArgumentError("model", f"must be given where {where}", remedy="write `accumulate(loader, model)`")


class Attempt:
    """One attempt at one batch. If it may be repeated, gradients are reduced only after every rank reports success.

    Args:
        setup: how batches are accumulated.
        part: the first micro-batch.

    Attributes:
        failed: whether the batch must be repeated.
        error: the out-of-memory error of this rank, if it is the one that failed.
        corrected: whether gradients were multiplied.
        deferred: whether gradients are averaged after the backward passes instead of during the last one.
        joined: parameters outside the models that a loss of this batch reached together with theirs; by `id`.
    """

    def __init__(self, setup: Setup, part: Part) -> None:
        self._setup, self._part, self._tap = setup, part, tap_on(setup.loader)
        self.failed, self.error, self.corrected = False, "", False
        self._entered = False
        self._weights: dict[int, float | Tensor] = {}
        self._nominal = 0.0
        self.deferred = setup.snapshot is not None and setup.models.may_defer()
        self.joined: dict[int, ref[Tensor]] = {}

    def weight_of(self, part: Part) -> float:
        """The factor on the mean loss of a micro-batch."""
        self._part = part
        nominal = part.batch.requested if self._setup.counted_late else part.batch.size
        return part.size * self._setup.scale / nominal

    def weigh(self, index: int, size: int, total: float | Tensor) -> float:
        """The factor on the summed loss of a micro-batch that weighs `total`."""
        if not self._setup.models:
            raise ArgumentError(
                "model",
                "must be given where micro-batches are weighed, since its gradients are corrected after the last one",
                remedy="write `accumulate(loader, model)`",
            )
        if not self._nominal:
            self._nominal = self._guess(total, size)
        self._weights[index] = total if size else 0
        return 1 / self._nominal if size else 0.0

    def _guess(self, total: float | Tensor, size: int) -> float:
        """A power of two near the weight of this rank's share of the batch; the same on all ranks where they reduce.

        The weight of a sample is read once for each model, since that waits for the device.
        """
        setup, batch_size = self._setup, self._part.batch.size
        agree = setup.models.reduces and not self.deferred
        known = _WEIGHT_OF_A_SAMPLE.setdefault(setup.models.modules[0], {})
        if agree not in known:
            weight, samples = (float(total), float(size)) if size else (0.0, 0.0)
            if agree and setup.world > 1:
                seen = torch.tensor([weight, samples], dtype=torch.float64, device=setup.models.device)
                weight, samples = _distributed.summed(seen, setup.group).tolist()
            if not weight or not samples:
                return power_of_two(batch_size / setup.world)
            known[agree] = weight / samples
        return power_of_two(known[agree] * batch_size / setup.world)

    def enter(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """The context of a micro-batch's passes."""
        self._setup.norms.begin(self._part)
        if self._tap is not None:
            self._tap.enter(self._part)
        models, snapshot = self._setup.models, self._setup.snapshot
        if not self.deferred or snapshot is None:
            return _FREE if is_last or models.must_sync() else models.no_sync()
        if not self._entered:
            self._entered = True
            models.sync_buffers()
            snapshot.keep()
        return models.no_sync() if models.reduces else _FREE

    def leave(self, error: BaseException | None, *, is_last: bool) -> bool:
        """Ends a micro-batch's passes; returns whether the batch must be repeated. Raises if it must and cannot."""
        self._setup.norms.end()
        if error is not None:
            self._tell(over=False)
            if not is_out_of_memory(error):
                return False
            if not self.deferred:
                self._explain(error)
                return False
            self.failed, self.error = True, str(error)
            self._vote()
            return self.failed
        self._tell(over=True)
        if is_last and self.deferred:
            self._reduce()
        elif is_last:
            self._setup.models.synced()
            self._correct()
        if is_last and self._tap is not None:
            if self.failed:
                self._tap.forget()
            else:
                self._tap.whole(self._part)
        return self.failed

    def _tell(self, *, over: bool) -> None:
        """Tells a tap of the micro-batch: that its passes are over, or that they failed."""
        if self._tap is None:
            return
        part, weight = self._part, self._weights.get(self._part.index)
        if not over:
            self._tap.forget()
        elif weight is None:
            self._tap.leave(part, self.weight_of(part), part.size)
        else:
            self._tap.leave(part, weight / self._nominal, weight)

    def must_know_all(self) -> bool:
        """Whether it matters that a parameter outside the models gets a gradient."""
        setup = self._setup
        return not setup.why_not or setup.counted_late or bool(self._weights) or setup.models.averaged_over > 1

    def keep_also(self, others: list[Tensor]) -> None:
        """Keeps the gradients of parameters outside the models, which a backward pass is about to reach."""
        if self.deferred and self._setup.snapshot is not None:
            self._setup.snapshot.keep_also(others)

    def joined_now(self) -> list[Tensor]:
        """The `joined` parameters that still exist."""
        return [found for reference in self.joined.values() if (found := reference()) is not None]

    def _explain(self, error: BaseException) -> None:
        """Adds a remedy to an out-of-memory error of a batch that cannot be repeated."""
        setup = self._setup
        remedy = "make its batches smaller" if setup.counted_late else "set a smaller `loader.micro_batch_size`"
        if setup.models.sharded:
            raise torch.OutOfMemoryError(
                f"memory ran out on this rank, and the batch cannot be repeated: {setup.why_not}. The run ends on all "
                f"ranks; start again from the last checkpoint and {remedy} on every rank. {error}"
            ) from error
        why = setup.why_not or "DistributedDataParallel reduces gradients itself here"
        error.add_note(f"adabatch: the batch was not repeated in smaller micro-batches: {why}; {remedy}")

    def _vote(self, *flags: bool) -> list[bool]:
        """Reduces `failed`, and each flag, to whether it is True on any rank; returns the flags."""
        setup = self._setup
        if setup.voters == 1:
            return list(flags)
        given = [self.failed, *(flags or (False,) * len(setup.models.parameters))]
        self.failed, *found = _distributed.any_of(given, device=setup.models.device, group=setup.vote_group)
        return found

    def _reduce(self) -> None:
        """Votes; if no rank failed, corrects the gradients and averages them in the wrapper's place."""
        models, average = self._setup.models, None
        mine = [p.grad is not None for p in models.parameters]
        averaging = models.is_ddp and models.averaged_over > 1
        if averaging:
            try:
                average = self._average(mine)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.failed, self.error = True, str(error)
        union = self._vote(*mine)
        if self.failed:
            return
        self._correct()
        if averaging:
            if union != mine or average is None:
                for parameter, needed in zip(models.parameters, union, strict=True):
                    if needed and parameter.grad is None and id(parameter) not in models.ignored:
                        parameter.grad = torch.zeros_like(parameter)
                average = self._average(union)
            average.run()
        models.expect_sync(True)

    def _average(self, chosen: list[bool]) -> _distributed.Average:
        models = self._setup.models
        pairs = zip(models.parameters, chosen, strict=True)
        found = [p.grad for p, wanted in pairs if wanted and id(p) not in models.ignored]
        if any(grad is not None and grad.is_sparse for grad in found):
            if self._setup.compress is not None:
                raise ArgumentError(
                    "compress",
                    "must be None for a model with sparse gradients",
                    value=self._setup.compress,
                    remedy="leave it out",
                )
            raise ArgumentError(
                "recover",
                "must be False for a model with sparse gradients under DistributedDataParallel, which averages them "
                "itself",
                remedy="write `accumulate(loader, model, recover=False)`",
            )
        return _distributed.Average([grad for grad in found if grad is not None], models.group, self._setup.compress)

    @torch.no_grad()
    def _correct(self) -> None:
        """Multiplies the gradients by guess / weight of the batch, where the weight was not known ahead."""
        setup, part = self._setup, self._part
        if self._weights:
            if len(self._weights) != part.count:
                raise UsageError(
                    None,
                    f"{len(self._weights)} of {part.count} micro-batches of a batch were weighed, so the gradient is "
                    "not the batch's",
                    remedy="call `micro.weigh(total)` for each, or for none",
                )
            total = self._total()
            factor: Any = torch.where(total > 0, setup.scale * self._nominal / total, 1.0)
        elif setup.counted_late and part.batch.size != part.batch.requested:
            factor = part.batch.requested / part.batch.size
        else:
            return
        self.corrected = True
        factors: dict[torch.device, Any] = {}
        for parameter in (*setup.models.parameters, *self.joined_now()):
            grad: Any = parameter.grad
            if grad is not None:
                grad = grad.to_local() if hasattr(grad, "to_local") else grad
                if grad.device not in factors:
                    factors[grad.device] = factor.to(grad.device) if isinstance(factor, Tensor) else factor
                grad.mul_(factors[grad.device])

    def _total(self) -> Tensor:
        """The weight of the batch, over micro-batches and ranks, on the model's device."""
        device = self._setup.models.device
        total = torch.zeros((), dtype=_devices.longest_float(device), device=device)
        for weight in self._weights.values():
            total += weight.to(total) if isinstance(weight, Tensor) else weight
        return _distributed.summed(total, self._setup.group) if self._setup.world > 1 else total


class Snapshot:
    """Copies of the gradients and buffers of modules, put back bit for bit. Gradients that are None cost nothing."""

    def __init__(self, modules: Iterable[torch.nn.Module], parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        every = (vars(inner)["_buffers"] for module in modules for inner in module.modules())
        self._slots: list[tuple[dict[str, Tensor | None], str]] = [(held, name) for held in every for name in held]
        self.devices = {p.device for p in self._parameters if p.device.type not in ("cpu", "meta")}
        self._gradients: list[tuple[Tensor | None, Tensor | None]] = []
        self._others: dict[int, tuple[ref[Tensor], Tensor | None, Tensor | None]] = {}
        self._buffers: list[Tensor | None] = []
        self._copies: list[Tensor] = []
        self._by_type: list[list[int]] = []  # numbers of copies: a GPU copies a list at once if it is of one type

    @torch.no_grad()
    def keep(self) -> None:
        """Copies gradients and buffers."""
        self._gradients = [(grad, _copy(grad)) for grad in (p.grad for p in self._parameters)]
        self._others = {}
        self._buffers = [buffers.get(name) for buffers, name in self._slots]
        present = [buffer for buffer in self._buffers if buffer is not None]
        if not _alike(self._copies, present):
            self._copies = [torch.empty_like(buffer) for buffer in present]
            types = dict.fromkeys(buffer.dtype for buffer in present)
            self._by_type = [[i for i, each in enumerate(present) if each.dtype == kind] for kind in types]
        for chosen in self._by_type:
            torch._foreach_copy_([self._copies[i] for i in chosen], [present[i] for i in chosen])

    @torch.no_grad()
    def keep_also(self, others: Iterable[Tensor]) -> None:
        """Copies the gradients of other parameters, once after each `keep`."""
        for other in others:
            known = self._others.get(id(other))
            if known is None or known[0]() is not other:
                self._others[id(other)] = (ref(other), other.grad, _copy(other.grad))

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the copies back."""
        for parameter, kept in zip(self._parameters, self._gradients, strict=True):
            _put(parameter, *kept)
        for reference, gradient, copy in self._others.values():
            other = reference()
            if other is not None:
                _put(other, gradient, copy)
        copies = iter(self._copies)
        for (buffers, name), buffer in zip(self._slots, self._buffers, strict=True):
            if buffer is not None:
                buffers[name] = buffer.copy_(next(copies))


def _put(parameter: Tensor, gradient: Tensor | None, copy: Tensor | None) -> None:
    parameter.grad = gradient
    if gradient is not None and copy is not None:
        gradient.copy_(copy)


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()


def _alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        for one, other in zip(ours, theirs, strict=True)
    )


def power_of_two(value: float) -> float:
    """The power of two nearest to `value` in ratio; 1 for 0.

    Example:
        >>> power_of_two(100), power_of_two(0.0)
        (128.0, 1.0)
    """
    return 2.0 ** round(math.log2(value)) if value > 0 else 1.0
