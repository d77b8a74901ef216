"""A coupling around the `step()` of one optimizer, by its own step hooks and a guard against exceptions."""

from __future__ import annotations

import functools
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MethodType
from typing import Any, Final

import torch

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.couplings import Coupling
from adabatch.scheduler._bias_correction import BiasCorrection, Subgroup, check_adam, skips

_DOUBLE: Final = (torch.float64, torch.complex128)
COUPLED: Final[set[weakref.ref[torch.optim.Optimizer]]] = set()  # no WeakSet, which costs a call at each step
"""Optimizers that have a coupling."""
_MARK: Final = "_adabatch_guard"  # `functools.wraps` copies it to later wrappers, such as an LR scheduler's
_BUFFER: Final = "momentum_buffer"


class CoupledStep:
    """A coupling around the `step()` of one optimizer.

    Args:
        optimizer: the optimizer.
        coupling: what to put in force.
        before: called before a step; returns the ratio of batch sizes and whether the step trains on a batch.
        after: called after a step that trained on a batch.

    Attributes:
        optimizer: the optimizer.
        bias_correction: of its moments, where the coupling changes betas.
        changes: names of the hyper-parameters that the coupling changes at the ratios given to `follow`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        coupling: Coupling,
        before: Callable[[torch.optim.Optimizer], tuple[float, bool]],
        after: Callable[[], None],
    ) -> None:
        self.optimizer: Final = optimizer
        self._coupling, self._on_before, self._on_after = coupling, before, after
        self.changes: frozenset[str] = frozenset()
        self._undo: list[Callable[[], Any]] = []
        self._seen: list[tuple[dict[str, Any], Any]] = []  # groups, LRs in force at the latest step that trained
        self._training = False
        self.bias_correction: Final = BiasCorrection(optimizer)
        # Traced, the hooks would recompile at every batch size, and leave a scaled LR at the recompile limit.
        untraced: Callable[[Any], Any] = torch.compiler.disable
        post = optimizer.register_step_post_hook(untraced(self._after))
        # First of the post-hooks, so that an LR scheduler in a later one finds its own LR.
        hooks: OrderedDict[int, Any] = getattr(optimizer, "_optimizer_step_post_hooks")  # noqa: B009
        hooks.move_to_end(post.id, last=False)
        self._handles = [
            optimizer.register_step_pre_hook(untraced(self._before)),
            post,
            optimizer.register_state_dict_pre_hook(untraced(self._before_state_dict)),
            optimizer.register_load_state_dict_pre_hook(untraced(self._before_load)),
            optimizer.register_load_state_dict_post_hook(untraced(self._after_load)),
        ]
        # A bound `step` kept from before goes past the guard; then `restore` acts at the next call of any kind.
        self._guard = GuardedStep.of(optimizer)
        self._guard.on_exception = untraced(self.restore)
        COUPLED.add(weakref.ref(optimizer, COUPLED.discard))

    def take(self, coupling: Coupling) -> None:
        """Takes another coupling from the next step on; `follow` comes next."""
        self._coupling = coupling

    def follow(self, ratios: Iterable[float]) -> None:
        """Notes what the coupling changes at these ratios of batch sizes."""
        groups = self.optimizer.param_groups
        self.changes = frozenset(
            name for ratio in ratios if ratio != 1 for group in groups for name in self._coupling.in_force(group, ratio)
        )

    def acts_at(self, ratio: float) -> bool:
        """Whether the coupling changes something at a ratio of batch sizes."""
        return ratio != 1 and any(self._coupling.in_force(group, ratio) for group in self.optimizer.param_groups)

    def remove(self) -> None:
        """Restores what the optimizer held and takes the hooks off."""
        self.restore()
        for handle in self._handles:
            handle.remove()
        self._guard.remove(self.optimizer)
        COUPLED.discard(weakref.ref(self.optimizer))

    def restore(self) -> None:
        """Puts back what the groups held before a step, unless that is done."""
        if self._undo:
            with torch.no_grad():
                for undo in reversed(self._undo):
                    undo()
            self._undo.clear()

    def forget(self) -> None:
        """Forgets the latest step."""
        self._seen = []

    def lr_in_force(self, ratio: float) -> list[float]:
        """LRs of the latest step, one for each group; for groups added since, those at `ratio`."""
        if self._seen and self._undo:  # within the step, where the groups may be split, or after it raised
            return [float(lr) for _, lr in self._seen]
        self.restore()
        return [float(self._lr_in_force(group, ratio)) for group in self.optimizer.param_groups]

    def _lr_in_force(self, group: dict[str, Any], ratio: float) -> Any:
        for seen, lr in self._seen:
            if seen is group:
                return lr
        return (group | self._coupling.in_force(group, ratio))["lr"]

    def changes_betas(self, ratios: Iterable[float]) -> bool:
        """Whether the coupling changes betas at one of these ratios of batch sizes."""
        groups = self.optimizer.param_groups
        return any("betas" in self._coupling.in_force(group, ratio) for ratio in ratios for group in groups)

    def _before(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._undo:
            self.restore()
        ratio, self._training = self._on_before(optimizer)
        groups = optimizer.param_groups
        # All are computed before any is written, and undone in reverse: groups may share one tensor.
        changes: list[dict[str, Any]] = []
        seen, betas = [], False
        for group in groups:
            change = self._coupling.in_force(group, ratio) if ratio != 1 else {}
            lr = change.get("lr", group["lr"])
            seen.append((group, lr.detach().clone() if isinstance(lr, torch.Tensor) else lr))
            betas |= "betas" in change
            changes.append(change)
        if self._training:
            self._seen = seen
        if "momentum" in self.changes:
            settle_velocities(optimizer, [group | change for group, change in zip(groups, changes, strict=True)])
        if betas or self.bias_correction:
            in_force = [group | change for group, change in zip(groups, changes, strict=True)]
            subgroups = self.bias_correction.before(in_force)
            if not _fits_groups(groups, subgroups):
                self._split(in_force, subgroups)
                return
            changes = [change | only.changes for change, (only,) in zip(changes, subgroups, strict=True)]
        for group, values in zip(groups, changes, strict=True):
            for key, value in values.items():
                self._put(group, key, value)

    def _split(self, in_force: list[dict[str, Any]], subgroups: list[list[Subgroup]]) -> None:
        """Gives the optimizer a group for each subgroup until the step is done."""
        self._undo.append(partial(setattr, self.optimizer, "param_groups", self.optimizer.param_groups))
        self.optimizer.param_groups = [
            group | each.changes | {"params": each.params}
            for group, members in zip(in_force, subgroups, strict=True)
            for each in members
        ]

    def _put(self, group: dict[str, Any], key: str, value: Any) -> None:
        held = group[key]
        if isinstance(held, tuple) and any(_is_tensor(each) for each in held):
            for each, new in zip(held, value, strict=True):
                self._fill(each, new)
        elif _is_tensor(held):
            self._fill(held, value)
        else:
            self._undo.append(partial(group.__setitem__, key, held))
            group[key] = value

    def _fill(self, held: torch.Tensor, value: Any) -> None:
        self._undo.append(partial(held.copy_, held.detach().clone()))
        with torch.no_grad():
            held.copy_(value)

    def _after(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._undo:
            self.restore()
        if self.bias_correction:
            self.bias_correction.after(trained=self._training)
        if self._training:
            self._on_after()

    def _before_state_dict(self, _optimizer: torch.optim.Optimizer) -> None:
        self.restore()

    def _before_load(self, _optimizer: torch.optim.Optimizer, _state: Any) -> None:
        self.restore()

    def _after_load(self, _optimizer: torch.optim.Optimizer) -> None:
        self.bias_correction.doubt()


class GuardedStep:
    """A wrapper of one optimizer's `step()` that calls back when an exception leaves it.

    Like the wrappers of torch's LR schedulers it is a bound method on the instance, and it hands on the mark of one
    that it wraps. Copies of the optimizer do not get it. An optimizer has one guard, which its next coupling uses
    again: a guard that is itself wrapped cannot be taken out, so it stays and passes calls on.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        held = vars(optimizer).get("step")
        inner = type(optimizer).step if held is None else held

        def step(self: torch.optim.Optimizer, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return inner(self, *args, **kwargs) if held is None else inner(*args, **kwargs)
            except BaseException:
                if guard.on_exception is not None:
                    guard.on_exception()
                raise

        guard = self
        self.on_exception: Callable[[], Any] | None = None
        self._held, self._step = held, functools.update_wrapper(step, inner)
        setattr(step, _MARK, self)
        optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]

    @staticmethod
    def of(optimizer: torch.optim.Optimizer) -> GuardedStep:
        """The guard that the optimizer's `step()` has, else a new one."""
        found = getattr(optimizer.step, _MARK, None)
        return found if isinstance(found, GuardedStep) else GuardedStep(optimizer)

    def remove(self, optimizer: torch.optim.Optimizer) -> None:
        """Calls back no longer, and takes the wrapper off if nothing wraps it in turn."""
        self.on_exception = None
        if getattr(vars(optimizer).get("step"), "__func__", None) is self._step:
            if self._held is None:
                del optimizer.step
            else:
                optimizer.step = self._held  # type: ignore[method-assign]


def settle_velocities(optimizer: torch.optim.Optimizer, in_force: Iterable[Mapping[str, Any]]) -> None:
    """Before a step: forgets velocities where the momentum is 0, and gives RMSprop those that it lacks.

    At a momentum of 0 there is no velocity, so a later one begins afresh, as in a run that starts at 0. torch's
    optimizers keep their buffer at 0, and would use it, however old, once the momentum is above 0 again. RMSprop makes
    no buffer at 0, and fails later.

    Args:
        optimizer: the optimizer.
        in_force: what each of its parameter groups holds during the step.
    """
    for group, values in zip(optimizer.param_groups, in_force, strict=True):
        states = [(param, optimizer.state[param]) for param in group["params"] if optimizer.state.get(param)]
        if values.get("momentum") == 0:
            stale = [state for _, state in states if isinstance(state.get(_BUFFER), torch.Tensor)]
            if stale and not skips(optimizer):
                _forget(optimizer, stale)
        elif "momentum" in values and isinstance(optimizer, torch.optim.RMSprop):
            for param, state in states:
                if _BUFFER not in state:
                    state[_BUFFER] = torch.zeros_like(param, memory_format=torch.preserve_format)


def _forget(optimizer: torch.optim.Optimizer, states: list[dict[str, Any]]) -> None:
    for state in states:
        if isinstance(optimizer, torch.optim.SGD):  # without a buffer it begins with the undampened gradient
            del state[_BUFFER]
        else:
            state[_BUFFER].detach().zero_()


def _fits_groups(groups: list[dict[str, Any]], subgroups: list[list[Subgroup]]) -> bool:
    """Whether every group has one subgroup, and one tensor LR that several groups share can serve them all."""
    if any(len(members) != 1 for members in subgroups):
        return False
    corrections: dict[int, tuple[float, float]] = {}
    return all(
        corrections.setdefault(id(group["lr"]), only.corrections) == only.corrections
        for group, (only,) in zip(groups, subgroups, strict=True)
        if _is_tensor(group["lr"])
    )


def check_sizes(optimizer: torch.optim.Optimizer, coupling: Coupling, ratios: Iterable[float]) -> None:
    """Checks that the coupling has values for the optimizer at each ratio of batch sizes.

    Raises:
        ValueError: if it has none, also at the momentum to which an LR scheduler will cycle; names a hyper-parameter
            that a parameter group lacks; changes betas of an optimizer whose bias correction is not known; or takes an
            LR beyond the range of float32.
        TypeError: if its factor is no number, or `in_force` returns no dict.
    """
    ratios, at_base = (1.0, *ratios), f"{coupling.name!r} must leave the base batch size alone"
    for ratio in ratios:
        factor = _checks.finite(f"{coupling.name}.lr_factor({ratio:g})", coupling.lr_factor(ratio), minimum=0)
        if ratio == 1 and factor != 1:
            raise ArgumentError("coupling", at_base, got=f"the factor {factor:g}")
        for group in optimizer.param_groups:
            changes = _changes(coupling, group, ratio)
            if ratio == 1:  # at which steps do not ask the coupling
                changed = [key for key, value in changes.items() if key in group and not _equal(group[key], value)]
                if changed:
                    raise ArgumentError("coupling", at_base, got=f"another {changed[0]!r} from `in_force` there")
            if "betas" in changes:
                check_adam(optimizer)
            for key in changes:
                if key not in group:
                    raise ArgumentError(
                        "coupling",
                        f"{coupling.name!r} must change what {type(optimizer).__name__} has",
                        got=f"{key!r}, which is none of {', '.join(name for name in group if name != 'params')}",
                    )
            for where, cycled in _cycled(group):
                try:
                    coupling.in_force(cycled, ratio)
                except ValueError as error:
                    raise ArgumentError(
                        None, str(error), remedy=f"it is the `{where}` to which the LR scheduler cycles it"
                    ) from None
    for group in optimizer.param_groups:
        _check_lr(group, coupling, ratios)


def _changes(coupling: Coupling, group: dict[str, Any], ratio: float) -> Mapping[str, Any]:
    """The changes that the coupling makes in a group."""
    changes: Any = coupling.in_force(group, ratio)
    if not isinstance(changes, Mapping):
        rule = f"of the coupling {coupling.name!r} must return a dict of what differs"
        raise ArgumentTypeError("in_force", rule, value=changes, remedy="return {} where nothing does")
    return changes


def _check_lr(group: dict[str, Any], coupling: Coupling, ratios: Iterable[float]) -> None:
    """Checks the LRs in force, also at the highest LR that an LR scheduler noted in the group."""
    end = math.inf if all(param.dtype in _DOUBLE for param in group["params"]) else _checks.LR_END
    held = (group.get(name) for name in ("lr", "initial_lr", "max_lr"))
    highest = max((float(lr) for lr in held if lr is not None), default=0.0)
    for ratio in ratios:
        lr = float(coupling.in_force(group | {"lr": highest}, ratio).get("lr", 0.0))
        if lr >= end:
            raise ArgumentError(
                "coupling",
                f"{coupling.describe()} must keep the LR in force below {end:g}, where "
                f"{'float64' if end == math.inf else 'float32'} ends",
                got=f"{lr:.3g} at {ratio:g} times the base batch size",
                remedy="take another coupling, a smaller LR or less growth",
            )


def _cycled(group: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The group with the momentum, or first beta, at both ends of its cycle, as OneCycleLR and CyclicLR note them."""
    for where in ("base_momentum", "max_momentum"):
        if where in group and "betas" in group:
            yield where, group | {"betas": (group[where], *group["betas"][1:])}
        elif where in group and "momentum" in group:
            yield where, group | {"momentum": group[where]}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool((one == other).all()) if _is_tensor(one) else bool(one == other)


def is_captured() -> bool:
    """Whether a CUDA graph is being captured on the current stream."""
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    return initialized() and torch.cuda.is_current_stream_capturing()
