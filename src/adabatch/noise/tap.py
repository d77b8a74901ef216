"""The tap: collects the squared norms of a batch's parts and of the batch itself, and gives them to an estimator."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import torch
from torch import Tensor

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError
from adabatch.noise._autograd import Passes
from adabatch.noise._batch import MeasuredBatch
from adabatch.noise._coordinates import MeasuredCoordinates, WatchedCoordinates
from adabatch.noise._models import (
    has_batch_norm,
    held_by,
    is_averaged,
    optimized,
    scales_of,
    sharded_parts,
    trained,
    watched_parameters,
)  # fmt: skip
from adabatch.noise._watched import Watched
from adabatch.noise._watched_shards import WatchedShards
from adabatch.noise.estimator import Estimator
from adabatch.noise.listening import check_free, put_on, take_off
from adabatch.types import Batch, DrivenLoader, NoiseEstimate, Part

Kind = Literal["auto", "micro_batches", "ranks", "halves"]
KINDS: Final = ("micro_batches", "ranks", "halves")
EPOCHS: Final = 1.2
"""By how much the interval is widened to both sides where an epoch visits every sample once; see docs/policies.md."""
_FORMAT: Final = 1
_ALL: Final = "*"  # all parameters, among the groups of a state
MEASURED_IN_A_HALF_LIFE: Final = 20
_ACCUMULATE: Final = "loop over `for micro in ab.accumulate(loader, model)`, and step under `if micro.is_last:`"


def tap(
    model: torch.nn.Module | Iterable[torch.nn.Module],
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
    loader: DrivenLoader,
    *,
    every: int = 10,
    kind: Kind = "auto",
    groups: Literal["layer"] | None = None,
    half_life: float | None = None,
    preconditioned: bool = False,
    norm: Literal["l2", "l1"] = "l2",
) -> Tap:
    """Measures the noise of the gradients of one update in `every`, while the network trains as it would without.

    A batch must be trained on in two parts at least, whose own gradients are compared with the batch's:

    - `"micro_batches"`: the parts into which `loader.micro_batch_size` cuts it, in `ab.accumulate`.
    - `"ranks"`: those of the processes of DistributedDataParallel, each with its micro-batches if it has several, or of
      `fully_shard`, each as one. A plain loop needs a `BatchSizeScheduler` then.
    - `"halves"`: where a batch is one part, that of a measured update is cut in two, in `ab.accumulate`. The update is
      the same but for batch norm, whose statistics are then those of halves.

    Norms are taken before gradients are added up, averaged or clipped, and divided by the factor of a GradScaler. A
    gradient that is not finite is skipped and counted, with one warning. Zero the gradients between batches.

    In the l1 norm squares are summed coordinate by coordinate at measured updates: three gradients more in memory, and
    between ranks as much traffic as of another gradient. The sum of sigma_i is unbiased for normal gradients. The l1
    norm of the true gradient is not: no function of gradients with normal noise has it as its mean, since such a mean
    is smooth where G_i passes 0. That of the batch's gradient is taken, which is longer. So the noise scale comes out
    too low where noise prevails, and with normal noise at most pi / 2 times the batch size, on average.

    Args:
        model: the model that is trained, as it is wrapped, or a list of all such modules.
        optimizer: what trains it, or several; parameters that it lacks are not measured.
        loader: an `ab.DataLoader` or what takes its place in `ab.accumulate`.
        every: the updates of which one is measured.
        kind: where the parts come from; `"auto"` takes ranks, else micro-batches, else halves.
        groups: `"layer"`: the parameters of each module are also measured apart, see `Tap.by_group`.
        half_life: samples after which an update counts half; None: 20 measured updates.
        preconditioned: whether gradients are divided by Adam's `sqrt(v) + eps`, element by element, first. Those of
            parameters that Adam has not stepped yet are left out.
        norm: `"l1"`: the noise scale of sign descent, (sum of sigma_i)^2 / (sum of |G_i|)^2 over the coordinates, for
            the policy `sign_noise`. See above.

    Returns:
        The tap; `str()` says what it chose and found.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if it is out of range; there are no two parts; the model is not wrapped as a whole, or sharded in a
            way that shows no gradient of one rank; the optimizer trains nothing of it, or keeps no second moments
            although `preconditioned`; the norm is l1 as well; or the loader, or a sharded model, has a tap.

    Example:
        >>> import torch, adabatch as ab
        >>> generator = torch.Generator().manual_seed(0)
        >>> data = torch.utils.data.TensorDataset(1 + 2 * torch.randn(8192, 1, generator=generator))
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        >>> loader = ab.DataLoader(data, batch_size=16, shuffle=True, seed=0)
        >>> noise = tap(model, optimizer, loader, every=1, half_life=1e9)
        >>> for micro in ab.accumulate(loader, model):
        ...     with micro as (inputs,):
        ...         (model(inputs).mean() * micro.weight).backward()  # gradients of mean 1 and variance 4
        ...     if micro.is_last:
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> found = noise.estimate()
        >>> noise.kind, found.low < 4.0 < found.high
        ('halves', True)

    Source:
        McCandlish, Kaplan, Amodei 2018, arXiv 1812.06162 (the noise scale, B_simple).

    Departures:
        See `trace_and_signal`; with an interval.
    """
    return Tap(
        model, optimizer, loader,
        every=every, kind=kind, groups=groups, half_life=half_life, preconditioned=preconditioned, norm=norm,
    )  # fmt: skip


class Tap:
    """Listens to the gradients of a training; made by `tap`.

    Attributes:
        kind: where the parts come from: `"micro_batches"`, `"ranks"` or `"halves"`.
        norm: in which lengths are measured: `"l2"` or `"l1"`.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loader: Any,
        *,
        every: int,
        kind: str,
        groups: str | None,
        half_life: float | None,
        preconditioned: Any,
        norm: str,
    ) -> None:
        if not isinstance(loader, DrivenLoader):
            remedy = "`ab.micro_batches(loader, batch_size=...)` wraps any other"
            raise ArgumentTypeError("loader", "must be an ab.DataLoader", got=type(loader).__name__, remedy=remedy)
        if not isinstance(preconditioned, bool):
            raise ArgumentTypeError("preconditioned", "must be True or False", value=preconditioned)
        self._every = _checks.whole("every", every)
        self._half_life = None if half_life is None else float(_checks.finite("half_life", half_life, above=0))
        _checks.one_of("groups", groups, (None, "layer"))
        self.norm = _checks.one_of("norm", norm, ("l2", "l1"))
        if norm == "l1" and preconditioned:
            rule, remedy = "must be l2 where gradients are divided by Adam's scales", "leave `preconditioned` out"
            raise ArgumentError("norm", rule, value=norm, remedy=remedy)
        modules = trained(model)
        self._optimizers = optimized(optimizer, preconditioned=preconditioned)
        self._preconditioned = preconditioned
        self._loader: DrivenLoader = loader
        self._group, _, self._world = loader.sharing()
        self.kind = _chosen(kind, loader, self._world, averaged=is_averaged(modules))
        self._ghosts = self.kind == "halves" and has_batch_norm(modules)
        parameters, names = watched_parameters(modules, self._optimizers)
        self._modules, self._held = modules, held_by(self._optimizers)
        self._watched: Watched | WatchedShards
        self._places: list[Any] = [loader, *sharded_parts(modules)]
        if len(self._places) > 1:
            _check_sharded(self.kind, groups=groups, preconditioned=preconditioned)
            for module in self._places[1:]:
                check_free(module, name="model")
            self._watched = WatchedShards(modules, parameters, coordinates=norm == "l1")
        else:
            watched = WatchedCoordinates if norm == "l1" else Watched
            self._watched = watched(parameters, names if groups else None)
        unit = self._half_life or float(MEASURED_IN_A_HALF_LIFE)
        self._estimators = [Estimator(unit) for _ in range(len(self._watched.groups) + 1)]
        self._skipped, self._warned, self._closed = 0, False, False
        self._wait = 0  # updates until the next measured one
        self._clock: int | None = None  # the end of the batch read last
        self._due: MeasuredBatch | None = None  # measured and not read yet
        self._under_way: MeasuredBatch | None = None
        self._parts: list[tuple[float | Tensor, int, float | Tensor]] = []  # of it, where gradients are sharded
        self._micro: tuple[int, int | None] | None = None  # the micro-batch size that was set, and that of before
        self._phantom = False  # whether the step under way trains nothing
        self._told = False  # whether `accumulate` tells of its micro-batches
        self._batch: Batch | None = None  # in a plain loop, the batch under way
        self._whole: Any = None  # and its gradient's squared norms
        self._counted: Batch | None = None  # and the batch that was counted last
        self._stood_at: int | None = None  # the loader's clock at the last step for which no batch was out
        for place in self._places:
            put_on(place, self)
        self._passes = Passes(self._before_backward, self._after_backward)
        first = self._optimizers[0]
        untraced: Any = torch.compiler.disable
        self._hooks = [
            first.register_step_pre_hook(untraced(self._before_step)),
            first.register_step_post_hook(untraced(self._after_step)),
        ]
        self._get_ready()

    # Calls of the user.

    @property
    def loader(self) -> DrivenLoader:
        """The loader to which it listens."""
        return self._loader

    @property
    def closed(self) -> bool:
        """Whether it listens no longer."""
        return self._closed

    def rests_on(self, batch_size: int) -> float:
        """The effective number of updates on which an estimate comes to rest at batches of so many samples."""
        age = 1 / MEASURED_IN_A_HALF_LIFE if self._half_life is None else self._every * batch_size / self._half_life
        kept: float = 2.0**-age
        return (1 + kept) / (1 - kept)

    @property
    def skipped(self) -> int:
        """Measured updates that did not count, as a gradient was not finite, or not the batch's alone."""
        self._read()
        return self._skipped

    def estimate(self) -> NoiseEstimate | None:
        """The noise of all parameters; None before the first measured update. The same on every rank.

        The interval is meant to cover with 95 %. Where an epoch visits every sample once, the samples of a batch are
        those trained least recently, so their gradient is not one of independent samples; for that it is 1.2 times
        wider to both sides.
        """
        self._read()
        return self._told_of(self._estimators[-1].estimate())

    def by_group(self) -> dict[str, NoiseEstimate]:
        """The noise of each layer's parameters, by the layer's name; empty without `groups`."""
        self._read()
        pairs = zip(self._watched.groups, self._estimators, strict=False)
        return {name: found for name, each in pairs if (found := self._told_of(each.estimate())) is not None}

    def _told_of(self, found: NoiseEstimate | None) -> NoiseEstimate | None:
        if found is not None and self.norm == "l1":
            found = squared(found)
        return _widened(found)

    def __str__(self) -> str:
        return said(self.estimate(), self.measured_from, self._skipped)

    @property
    def measured_from(self) -> str:
        """The parts from which the noise is measured, and how often, in words."""
        ghosts = ", where batch norm sees halves" if self._ghosts else ""
        updates = "every update" if self._every == 1 else f"one of {self._every} updates"
        return f"{self.kind.replace('_', '-')} of {updates}{', in the l1 norm' if self.norm == 'l1' else ''}{ghosts}"

    def close(self) -> None:
        """Listens no longer; what was found stays."""
        if not self._closed:
            self._closed = True
            self.no_batch()
            self.forget()
            self._passes.close()
            for hook in self._hooks:
                hook.remove()
            for place in self._places:
                take_off(place, self)

    def state_dict(self) -> dict[str, Any]:
        """The sums, JSON-safe; a resumed tap goes on with the very result. The same on every rank."""
        self._read()
        names = [*self._watched.groups, _ALL]
        return {
            "format": _FORMAT,
            "half_life": self._half_life,
            "preconditioned": self._preconditioned,
            "norm": self.norm,
            "wait": self._wait,
            "clock": self._clock,
            "skipped": self._skipped,
            "sums": {name: each.state_dict() for name, each in zip(names, self._estimators, strict=True)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resumes.

        Args:
            state: what `state_dict` gave; `kind`, `every` and the number of ranks may have been others.

        Raises:
            ValueError: if it is damaged, or of another half-life, metric or grouping.
        """
        own = self.state_dict()
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT or set(state) != set(own):
            raise ArgumentError("state", "must be what `state_dict()` of a noise tap gave", value=state)
        for name in ("half_life", "preconditioned", "norm"):
            if state[name] != own[name]:
                remedy = f"resume with the same `{name}`"
                raise ArgumentError(name, f"must be {state[name]} as in the state", value=own[name], remedy=remedy)
        if set(state["sums"]) != set(own["sums"]):
            remedy = "resume with the same model and `groups`"
            raise ArgumentError("state", "must have the groups of this tap", value=sorted(state["sums"]), remedy=remedy)
        wait, skipped = (_checks.whole(name, state[name], minimum=0) for name in ("wait", "skipped"))
        clock = None if state["clock"] is None else _checks.whole("clock", state["clock"], minimum=0)
        estimators = []
        for name in own["sums"]:
            estimators.append(Estimator(self._estimators[-1].half_life))
            estimators[-1].load_state_dict(state["sums"][name])
        self._estimators, self._wait, self._skipped, self._clock = estimators, wait, skipped, clock
        self.forget()
        self._get_ready()

    # Calls of `accumulate`; see `Listener`.

    def next_batch(self) -> None:
        """See `Listener`."""
        self._put_back()
        if self.kind != "halves" or self._wait:
            return
        loader, before = self._loader, self._loader.micro_batch_size
        share = -(-loader.batch_size // self._world)
        if share > 1 and (before is None or before >= share):
            loader.micro_batch_size = half = -(-share // 2)
            self._micro = half, before

    def no_batch(self) -> None:
        """See `Listener`."""
        self._put_back()
        if self.kind == "ranks" and not self._closed and self._under_way is None:
            self._told, self._stood_at = False, None  # a plain loop may follow
            self._get_ready()

    def enter(self, part: Part) -> None:
        """See `Listener`."""
        self._told = True
        if part.index == 0:
            self.forget()
            self._put_back()
            self._passes.scaler = None
            if self._wait == 0 and part.count * self._world > 1:
                self._begin(part.batch)
        elif self._under_way is not None:
            self._watched.clear()

    def leave(self, part: Part, factor: float | Tensor, weight: float | Tensor) -> None:
        """See `Listener`."""
        if self._under_way is None:
            return
        if not self._watched.sharded:
            self._under_way.add(self._watched.own(), factor=factor, size=part.size, weight=weight)
            return
        self._parts.append((factor, part.size, weight))
        if part.is_last:  # what was scattered is the sum over the rank's micro-batches
            factors, sizes, weights = zip(*self._parts, strict=True)
            if self.norm == "l1" and (weights != sizes or not _sums_to(factors, self._factor(part.batch))):
                rule = "cannot measure the noise in the l1 norm where parameters are sharded and tokens weigh"
                raise UsageError("noise.tap", rule, remedy="leave `norm` out, or weigh by samples")
            self._under_way.add(self._watched.own(), factor=sum(factors), size=sum(sizes), weight=sum(weights))

    def whole(self, part: Part) -> None:
        """See `Listener`."""
        if self._under_way is not None:
            self._end(self._watched.whole(), part.batch)
        elif self._wait:
            self._wait -= 1

    def forget(self) -> None:
        """See `Listener`."""
        self._under_way = self._whole = self._batch = None
        self._parts = []
        self._watched.close()

    def _put_back(self) -> None:
        """Gives the loader its micro-batch size back, unless somebody has set another."""
        if self._micro is not None:
            half, before = self._micro
            self._micro = None
            if self._loader.micro_batch_size == half:
                self._loader.micro_batch_size = before

    # Calls of torch in a plain loop, where each rank's share is one part.

    def _get_ready(self) -> None:
        """Sets the hooks if the next update of a plain loop is measured."""
        if self.kind == "ranks" and self._wait == 0 and not self._told:
            self._watched.open(self._scales())

    def _before_backward(self) -> None:
        if not self._watched.is_open:
            return
        batch = self._loader.current
        if self._told or (batch is self._batch and self._under_way is not None):
            self._watched.drop_zeroed()
            return
        if self._whole is not None:
            self._skip(self._batch, "the optimizer did not step for it")
        self._batch, self._whole, self._under_way = batch, None, None
        self._watched.clear()
        if batch is not None:
            self._begin(batch)

    def _after_backward(self) -> None:
        if not self._told and self._under_way is not None and self._watched.seen:
            self._whole = self._watched.whole()

    def _before_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        self._phantom = _distributed.is_phantom(optimizer)
        if self._told or self._phantom:
            return
        batch = self._loader.current
        if batch is None:  # without a scheduler none ever is in a plain loop, but there the clock moves between steps
            before, self._stood_at = self._stood_at, self._loader.clock
            if before in (None, self._stood_at):
                return
        if self.kind != "ranks" or self._loader.driver is None:
            why = "a plain loop on one device has a batch in one part" if self.kind != "ranks" else (
                "in a plain loop only a scheduler knows the size of the batch"
            )  # fmt: skip
            other = "" if self.kind != "ranks" else ", or make an `ab.BatchSizeScheduler` for the loader"
            raise UsageError("noise.tap", f"cannot measure the noise: {why}", remedy=_ACCUMULATE + other)
        if self._whole is not None and self._under_way is not None and batch is self._batch and batch is not None:
            self._under_way.add(self._watched.own(), factor=1.0, size=batch.rank_size, weight=batch.rank_size)
            self._end(self._whole, batch)
            self._counted = batch

    def _after_step(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        batch, self._passes.scaler = self._loader.current, None
        if self._told or self._phantom or batch is None or self.kind != "ranks":
            return
        if batch is not self._counted and self._wait:
            self._wait -= 1
        self._counted = batch
        if not self._watched.is_open:
            self._get_ready()

    # Of both.

    def _scales(self) -> dict[int, Tensor] | None:
        return scales_of(self._watched.parameters, self._optimizers) if self._preconditioned else None

    def _look_again(self) -> None:
        """Watches what the optimizers hold now, if they were given other parameters since."""
        held = held_by(self._optimizers)
        if held == self._held:
            return
        if self._watched.groups or isinstance(self._watched, WatchedShards):
            rule = "cannot follow an optimizer that is given other parameters where layers, or shards, are measured"
            remedy = "give it all from the start: those with `requires_grad=False` are left out until they are thawed"
            raise UsageError("noise.tap", rule, remedy=remedy)
        self._watched.close()
        parameters, _ = watched_parameters(self._modules, self._optimizers)
        self._watched, self._held = type(self._watched)(parameters), held

    def _begin(self, batch: Batch) -> None:
        self._look_again()
        watched, scales = self._watched, self._scales()
        if self._preconditioned and scales is None:
            return  # before the first step
        watched.open(scales)
        before = watched.left() if watched.has_gradients() else None
        arguments: Any = (len(self._estimators), before, watched.device)
        if self.norm == "l2":
            self._under_way = MeasuredBatch(*arguments, end=batch.end, size=batch.size)
            return
        if isinstance(watched, WatchedShards):  # in `accumulate` what comes is `factor` times the rank's mean gradient
            factor = self._factor(batch) if self._told else 1.0
            watched.weigh(batch.rank_size / factor**2 if batch.rank_size else 0.0, batch.size)
        coordinates = watched if isinstance(watched, WatchedCoordinates) else None
        self._under_way = MeasuredCoordinates(coordinates, *arguments, end=batch.end, size=batch.size)

    def _factor(self, batch: Batch) -> float:
        """What `accumulate` weighs the mean gradient of this rank's share with, where samples weigh."""
        return batch.rank_size * self._world / batch.size

    def _end(self, whole: Any, batch: Batch) -> None:
        """The batch is whole: the next measured one is `every` updates later."""
        assert self._under_way is not None
        self._read()
        shared, scale = self._watched.sharded, self._passes.factor()
        self._under_way.close(whole, shared=shared, scale=scale, group=self._group, world=self._world)
        self._under_way.end, self._under_way.size = batch.end, batch.size
        self._due, self._wait = self._under_way, self._every - 1
        self.forget()

    def _read(self) -> None:
        """Gives the estimators what was measured last."""
        due, self._due = self._due, None
        if due is None:
            return
        found = due.read()
        if not found.values:
            self._skip(due, found.why_not)
            return
        passed = due.size if self._clock is None or due.end <= self._clock else due.end - self._clock
        self._clock = due.end
        age = 1 if self._half_life is None else passed
        for estimator, (trace, signal) in zip(self._estimators, found.values, strict=True):
            estimator.add(trace, signal, age=age)

    def _skip(self, batch: Batch | MeasuredBatch | None, why: str) -> None:
        self._skipped += 1
        if not self._warned:
            self._warned = True
            where = "" if batch is None else f" that ends at sample {batch.end:,}"
            warnings.warn(
                f"`noise.tap` leaves out the batch{where}: {why}; `skipped` counts such batches from now on",
                RuntimeWarning,
                stacklevel=3,
            )


def said(found: NoiseEstimate | None, measured_from: str, skipped: int) -> str:
    """An estimate in words.

    Args:
        found: the estimate; None for none yet.
        measured_from: the parts that it comes from.
        skipped: measured updates that did not count.

    Example:
        >>> said(NoiseEstimate(131.6, 98.0, float("inf"), 2.6, 0.02, 57.2), "halves of one of 10 updates", 0)
        'noise scale 132 samples (95 %: 98 to inf) from 57 updates; halves of one of 10 updates'
        >>> said(NoiseEstimate(-300.0, 98.0, float("inf"), 3.0, -0.01, 57.2), "halves of one of 10 updates", 2)
        'noise scale inf samples (95 %: 98 to inf) from 57 updates; halves of one of 10 updates; 2 left out'
    """
    tail = f"; {skipped} left out" if skipped else ""
    if found is None:
        return f"noise scale not measured yet; {measured_from}{tail}"
    scale = found.noise_scale if found.signal > 0 else math.inf  # below 0 the signal is lost in noise
    numbers = f"{scale:.3g} samples (95 %: {found.low:.3g} to {found.high:.3g})"
    return f"noise scale {numbers} from {found.measured:.0f} updates; {measured_from}{tail}"


def squared(found: NoiseEstimate) -> NoiseEstimate:
    """An estimate of squares from one of lengths: of the quotient of both, and of each.

    Example:
        >>> squared(NoiseEstimate(3.0, 2.0, 4.0, trace=6.0, signal=2.0, measured=10.0))
        NoiseEstimate(noise_scale=9.0, low=4.0, high=16.0, trace=36.0, signal=4.0, measured=10.0, margin=1.0)
    """
    ratio, low, high = found.noise_scale**2, found.low**2, found.high**2
    return NoiseEstimate(ratio, low, high, found.trace**2, found.signal**2, found.measured)


def _sums_to(numbers: Iterable[Any], total: float) -> bool:
    numbers = list(numbers)
    return not any(isinstance(each, Tensor) for each in numbers) and math.isclose(sum(numbers), total, rel_tol=1e-9)


def _widened(found: NoiseEstimate | None) -> NoiseEstimate | None:
    if found is None:
        return None
    return dataclasses.replace(found, low=found.low / EPOCHS, high=found.high * EPOCHS, margin=EPOCHS)


def _check_sharded(kind: str, *, groups: str | None, preconditioned: bool) -> None:
    """Raises for what cannot be told of gradients that are sharded."""
    given = {"kind": kind != "ranks" and kind, "groups": groups, "preconditioned": preconditioned}
    for name, value in given.items():
        if value:
            rule = "must be left out where parameters are sharded, since a rank's gradient is seen as a whole, once"
            raise ArgumentError(name, rule, value=value, remedy="measure under DistributedDataParallel")


def _chosen(kind: str, loader: DrivenLoader, world: int, *, averaged: bool) -> str:
    """Where the parts come from; raises if there would be no two."""
    _checks.one_of("kind", kind, ("auto", *KINDS))
    batch_size, micro = loader.batch_size, loader.micro_batch_size
    if world > 1 and not averaged:
        raise ArgumentError(
            "model",
            "must be wrapped in DistributedDataParallel or by `fully_shard` where batches are shared between ranks",
            got="one whose gradients nobody is known to average",
            remedy="write `DistributedDataParallel(model)`",
        )
    if kind == "auto":
        cut = loader.counted_late or (micro is not None and (batch_size is None or micro < batch_size))
        kind = "ranks" if world > 1 else "micro_batches" if cut else "halves"
    remedy = 'set `loader.micro_batch_size`, or write `kind="halves"`, and loop over `ab.accumulate(loader, model)`'
    if kind == "ranks" and world == 1:
        raise ArgumentError("kind", "must not be ranks where one rank has the whole batch", value=kind, remedy=remedy)
    if kind == "halves" and (loader.counted_late or batch_size is None):
        remedy = "let it give micro-batches of at most half a batch"
        raise ArgumentError("kind", "must not be halves where the loader's batches cannot be cut", value=kind,
                            remedy=remedy)  # fmt: skip
    if batch_size is not None and -(-batch_size // world) < 2 and kind == "halves":
        remedy = "begin with a batch size of 2 or more"
        raise ArgumentError("loader", "must have a batch of two samples to be cut", value=batch_size, remedy=remedy)
    if kind == "micro_batches" and world == 1:
        if loader.counted_late:
            remedy = "make the batches of the wrapped loader smaller"
        if (micro is None and not loader.counted_late) or (micro is not None and micro >= (batch_size or micro + 1)):
            raise ArgumentError("kind", "must not be micro_batches where a batch is one of them",
                                got=f"a micro-batch size of {micro}", remedy=remedy)  # fmt: skip
    return kind
