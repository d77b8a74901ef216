"""Watches a batch that is accumulated: optimizers that step too early, and parameters that are not in the model.

torch calls a hook before the step of any optimizer. Only the graph of the loss tells which parameters get a gradient,
so `torch.autograd.backward` is wrapped. Both are in place only while an `accumulate` goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.optim.optimizer import register_optimizer_step_pre_hook

from adabatch._distributed import is_phantom
from adabatch._errors import UsageError
from adabatch.accumulate._attempt import Attempt
from adabatch.accumulate._models import Models
from adabatch.types import Part

_FREE, _INSIDE, _BETWEEN, _BROKEN = range(4)
_LEAF: Final[Any] = type(get_gradient_edge(torch.zeros((), requires_grad=True)).node)


class Guard:
    """A context that watches one `accumulate`, which trains `models`."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._attempt: Attempt | None = None
        self._part: Part | None = None
        self._moment = _FREE
        self._thread = 0
        self._repeated = False  # whether the batch under way has failed before
        self._stepped = False  # whether an optimizer stepped for a batch that an error broke off
        self._left: dict[int, ref[Tensor]] = {}  # the batch's gradients of the parameters that joined

    def __enter__(self) -> Guard:
        _watch(self)
        return self

    def __exit__(self, *_error: object) -> None:
        _leave(self)
        self._attempt = self._part = None
        self._moment = _FREE

    # Called by micro-batches.

    def enter(self, part: Part, attempt: Attempt) -> None:
        """A micro-batch is entered."""
        if attempt is not self._attempt:
            self._repeated = self._attempt is not None and self._attempt.failed
            self._left = {}
        self._attempt, self._part, self._thread = attempt, part, threading.get_ident()
        self._moment, self._stepped = _INSIDE, False
        for other in _others(self):
            other.give_way(self._models)

    def leave(self) -> None:
        """The micro-batch is left; by an error, unless `settle` follows."""
        self._moment = _BROKEN

    def settle(self, *, whole: bool, again: bool) -> None:
        """The micro-batch was left without an error: its batch is `whole`, comes `again`, or goes on."""
        self._moment = _BETWEEN if again or (not whole and self._has_gradients()) else _FREE
        if whole and self._attempt is not None and self._models.averaged_over > 1:
            self._left = {id(p): ref(p.grad) for p in self._attempt.joined_now() if p.grad is not None}

    def give_way(self, models: Models) -> None:
        """Another `accumulate` trains now; if it has the same parameters, this one was only a look."""
        if self._moment == _BETWEEN and not (self._models and models and self._models.ids.isdisjoint(models.ids)):
            self._moment = _FREE

    def check_unbroken(self) -> None:
        """Raises if an optimizer stepped for a batch whose last micro-batch an error broke off.

        The step itself must pass: the loop may have ended with the error, and another trains the same parameters.
        """
        if self._stepped and self._part is not None:
            raise UsageError(
                "optimizer.step()",
                f"came after {self._part} was left by an error, so the gradients were not the batch's",
                remedy="call `optimizer.zero_grad()` there instead",
            )

    # Called by torch.

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step; raises if its gradients are not the batch's."""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        ours = any(id(p) in self._models.ids for p in held)
        if self._moment == _FREE:
            self._check_outside(optimizer, held, ours=ours)
        elif ours or (not self._models and self._thread == threading.get_ident()):
            self._check_moment(optimizer)

    def before_backward(self, roots: Any, inputs: Any) -> None:
        """A backward pass is about to start from `roots`, towards all leaves or `inputs` alone."""
        if self._moment != _INSIDE or self._attempt is None or self._thread != threading.get_ident():
            return
        if self._models.sharded or not self._attempt.must_know_all():
            return
        leaves = leaves_of(_listed(roots))
        if inputs is not None:
            wanted = {_node_of(each) for each in _listed(inputs)}
            leaves = [leaf for leaf in leaves if _node_of(leaf) in wanted]
        outside = [leaf for leaf in leaves if id(leaf) not in self._models.ids]
        if not outside:
            return
        self._attempt.keep_also(outside)
        if len(outside) < len(leaves):  # else the loss of another network
            self._attempt.joined |= {id(leaf): ref(leaf) for leaf in outside}

    def _has_gradients(self) -> bool:
        if not self._models or self._models.sharded:  # they cannot be seen
            return True
        return any(p.grad is not None for p in self._models.parameters)

    def _check_moment(self, optimizer: torch.optim.Optimizer) -> None:
        part, inside = self._part, self._moment == _INSIDE
        if part is None or self._attempt is None or is_phantom(optimizer):
            return
        if self._moment == _BROKEN:
            self._stepped = part.is_last
            return
        if inside and part.is_last and not self._models:
            return  # complete: what is corrected or averaged needs the model
        whose = "" if self._models else "; if it is another network's, write `accumulate(loader, model)` with yours"
        if inside:
            raise UsageError(
                "optimizer.step()",
                "must not be called inside `with micro`",
                got=f"it in {part}, where gradients are not the batch's yet",
                remedy="move it, and what clips or logs gradients, below the `with` block, under `if micro.is_last:`, "
                f"also out of hooks that step during `backward()`{whose}",
            )
        failed = ", which ran out of memory, and its batch comes again" if self._attempt.failed else ""
        raise UsageError(
            "optimizer.step()",
            f"came after {part}{failed}",
            remedy=f"step after the last one: `if micro.is_last:`{whose}",
        )

    def _check_outside(self, optimizer: torch.optim.Optimizer, held: Iterable[Tensor], *, ours: bool) -> None:
        """Raises if a stepped parameter outside the model should have been corrected, restored or averaged with it."""
        attempt, averaged = self._attempt, self._models.averaged_over > 1
        if attempt is None or not self._models or not (averaged or attempt.corrected or self._repeated):
            return
        strangers = [p for p in held if id(p) not in self._models.ids and p.grad is not None]
        if averaged:  # parameters that joined were not averaged either
            strangers = [p for p in strangers if ours or self._is_of_batch(p)]
        else:
            strangers = [p for p in strangers if ours and id(p) not in attempt.joined]
        if strangers and not is_phantom(optimizer):
            why = "corrected by its weight" if attempt.corrected else "put back before it was repeated"
            raise UsageError(
                "model",
                "of `accumulate` must hold all parameters that are trained",
                got=f"{len(strangers)} in this {type(optimizer).__name__} that it lacks, whose gradients of the batch "
                f"were not {'averaged over ranks' if averaged else why}",
                remedy="give all modules: `accumulate(loader, [encoder, head])`",
            )

    def _is_of_batch(self, parameter: Tensor) -> bool:
        """Whether its gradient is still the one that the batch left there."""
        left = self._left.get(id(parameter))
        return left is not None and left() is parameter.grad


def leaves_of(roots: Iterable[Any]) -> list[Tensor]:
    """The tensors that get a gradient if a backward pass starts from `roots`.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> len(leaves_of([layer(torch.zeros(3, 2)).sum()]))
        2
    """
    seen: set[Any] = {node for node in map(_node_of, roots) if node is not None}
    found: list[Tensor] = [node.variable for node in seen if type(node) is _LEAF]
    waiting = list(seen)
    while waiting:  # some hundred nodes in every backward pass: 0.3 microseconds for each
        for node, _ in waiting.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node) is _LEAF:
                found.append(node.variable)
            else:
                waiting.append(node)
    return found


def _node_of(root: Any) -> Any:
    """The graph's node of a tensor or a GradientEdge; None for a tensor without one."""
    if isinstance(root, Tensor):
        return get_gradient_edge(root).node if root.requires_grad else None
    return root.node


def _listed(given: Any) -> list[Any]:
    """The roots given to `torch.autograd.backward`: one or several tensors or GradientEdges, perhaps by name."""
    if isinstance(given, Tensor | GradientEdge):
        return [given]
    return list(given.values() if isinstance(given, Mapping) else given)


_WATCHING: Final[list[Guard]] = []
_LOCK: Final = threading.RLock()
_undo: list[Callable[[], None]] = []


def _watch(guard: Guard) -> None:
    with _LOCK:
        if not _WATCHING:
            untraced: Callable[[Any], Any] = torch.compiler.disable  # traced, it would recompile at every moment
            _undo.append(register_optimizer_step_pre_hook(untraced(_before_step)).remove)
            _undo.append(_stand_in())
        _WATCHING.append(guard)


def _leave(guard: Guard) -> None:
    with _LOCK:
        _WATCHING.remove(guard)
        if not _WATCHING:
            while _undo:
                _undo.pop()()


def _others(guard: Guard) -> list[Guard]:
    return [other for other in _WATCHING if other is not guard] if len(_WATCHING) > 1 else []


def _before_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    for guard in tuple(_WATCHING):
        guard.before_step(optimizer)


def _stand_in() -> Callable[[], None]:
    """Wraps `torch.autograd.backward` so that guards see its roots; returns a function that undoes it."""
    backward = torch.autograd.backward

    def told(tensors: Any, *args: Any, **kwargs: Any) -> None:
        inputs = kwargs.get("inputs", args[4] if len(args) > 4 else None)
        for guard in tuple(_WATCHING):
            guard.before_backward(tensors, inputs)
        backward(tensors, *args, **kwargs)

    def undo() -> None:
        if torch.autograd.backward is told:  # else another wrapper calls it, and it stays
            torch.autograd.backward = backward

    torch.autograd.backward = told
    return undo
