"""The base of this room's optimizers: a step over lists of tensors, also of shards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError, UsageError

_CACHED: Final = 2**16  # elements for each thread: with their gradients and moments about as much as a core's cache


@dataclass(frozen=True)
class Tensors:
    """Parameters of one group, one type and one device, with their gradients and moments.

    Attributes:
        parameters: the parameters themselves.
        values: their values on this rank: shards of sharded ones.
        grads: the gradients, alike.
        states: what the optimizer keeps of each.
        adapted: whether the step follows the size of each: False for biases and norm scales, unless asked for.
    """

    parameters: list[Tensor]
    values: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Tensor]]
    adapted: bool

    def moments(self, name: str) -> list[Tensor]:
        """The moments of that name, which are zero at first; shards of sharded ones."""
        for parameter, state in zip(self.parameters, self.states, strict=True):
            if name not in state:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [_distributed.local(state[name]) for state in self.states]

    def counted(self) -> list[int]:
        """Counts a step of each parameter; returns the steps so far."""
        for state in self.states:
            state["step"] = state.get("step", torch.tensor(0.0)) + 1
        return [int(state["step"]) for state in self.states]

    def norms(self, tensors: list[Tensor]) -> Tensor:
        """The 2-norms of `tensors`, which lie as `values` do; one number each, over all shards."""
        return _distributed.norms(tensors, self.parameters)


class ForeachOptimizer(Optimizer):
    """An optimizer whose step works on lists of tensors.

    Gradients must be dense and real; they are left as they are.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its values are checked as those given to the constructor."""
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except (ValueError, TypeError):
            self.param_groups.pop()
            raise

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises for a value of a parameter group that is out of range."""
        lr = group["lr"]
        if not isinstance(lr, Tensor):
            _checks.finite("lr", lr, minimum=0)
        elif lr.numel() != 1:
            raise ArgumentError("lr", "must be one number", got=f"a tensor of shape {tuple(lr.shape)}")
        _checks.finite("weight_decay", group["weight_decay"], minimum=0)
        if not isinstance(adapt := group.get("adapt_1d", False), bool):
            raise ArgumentTypeError("adapt_1d", "must be True or False", value=adapt)
        if "adapt_1d" in group:
            refuse_flat(group["params"], "params")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one step.

        Args:
            closure: evaluates the model again and returns the loss; optional.

        Returns:
            What `closure` returned.

        Raises:
            RuntimeError: if a gradient is sparse or complex. No parameter has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, tensors) for group in self.param_groups for tensors in self._sorted(group)]
        for group, tensors in work:
            self.update(group, tensors)
        return loss

    @abstractmethod
    def update(self, group: Mapping[str, Any], tensors: Tensors) -> None:
        """Changes the values of `tensors` by one step."""

    def _sorted(self, group: Mapping[str, Any]) -> Iterator[Tensors]:
        """The group's parameters that have gradients, those alike together."""
        kinds: dict[Any, Tensors] = {}
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                name = type(self).__name__
                raise UsageError(name, "needs dense gradients", got=str(grad.layout), remedy="use torch.optim.SGD")
            if grad.is_complex():
                name, remedy = type(self).__name__, "use torch.optim.Adam, which takes them as pairs"
                raise UsageError(name, "needs real gradients", got=str(grad.dtype), remedy=remedy)
            value, grad = _distributed.local(parameter), _distributed.local(grad)
            adapted = parameter.ndim > 1 or group.get("adapt_1d", True)
            kind = (value.dtype, value.device, _distributed.layout(parameter), adapted)
            tensors = kinds.setdefault(kind, Tensors([], [], [], [], adapted))
            tensors.parameters.append(parameter)
            tensors.values.append(value)
            tensors.grads.append(grad)
            tensors.states.append(self.state[parameter])
        return iter(kinds.values())


def refuse_flat(parameters: Iterable[Tensor], name: str) -> None:
    """Raises for parameters that FullyShardedDataParallel has flattened: weights then look like biases."""
    if any(_distributed.is_flat(parameter) for parameter in parameters):
        raise ArgumentError(
            name,
            "must keep its shapes",
            got="parameters that FullyShardedDataParallel has flattened, so that weights look like biases",
            remedy="shard the model by `fully_shard(model)` instead",
        )


def fraction(name: str, value: Any) -> None:
    """Raises unless `value` lies in [0, 1)."""
    _checks.finite(name, value, minimum=0, below=1)


def trust(norms: Tensor, others: Tensor) -> list[Tensor]:
    """The ratios of norms, one number each; 1 where either is 0."""
    return list(torch.where((norms > 0) & (others > 0), norms / others, 1.0).unbind())


def pieces(*lists: list[Tensor]) -> Iterator[list[list[Tensor]]]:
    """Lists of tensors that lie alike, in pieces whose elements a CPU's cache holds from one operation to the next.

    For operations on elements alone. An accelerator does the most at once, so it gets the lists whole.
    """
    if lists[0][0].device.type != "cpu":
        yield list(lists)
        return
    most, held, found = _CACHED * torch.get_num_threads(), 0, [[] for _ in lists]  # type: ignore[var-annotated]
    for tensors in zip(*lists, strict=True):
        flat = all(tensor.is_contiguous() for tensor in tensors)
        parts = zip(*(tensor.view(-1).split(most) for tensor in tensors), strict=True) if flat else [tensors]
        for part in parts:
            for own, tensor in zip(found, part, strict=True):
                own.append(tensor)
            held += part[0].numel()
            if held >= most:
                yield found
                held, found = 0, [[] for _ in lists]
    if held:
        yield found


def momentum_step(group: Mapping[str, Any], values: list[Tensor], buffers: list[Tensor], grads: list[Tensor]) -> None:
    """The step of torch's SGD with momentum: the same operations in the same order, so the same bits."""
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_add_(buffers, grads)
    descend(values, buffers, group["lr"])


def descend(values: list[Tensor], steps: list[Tensor], lr: Any) -> None:
    """Subtracts `lr` times `steps` from `values`; an LR on an accelerator is not read."""
    if isinstance(lr, Tensor) and lr.device.type != "cpu":
        torch._foreach_sub_(values, torch._foreach_mul(steps, lr))
    else:
        torch._foreach_add_(values, steps, alpha=-float(lr))


def with_decay(group: Mapping[str, Any], values: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Gradients with weight decay; the gradients themselves if there is none."""
    decay = group["weight_decay"]
    return grads if decay == 0 else list(torch._foreach_add(grads, values, alpha=decay))
