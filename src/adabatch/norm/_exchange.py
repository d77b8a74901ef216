"""Batch norm layers give way to others with the same parameters, buffers, settings and hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from adabatch._errors import ArgumentError

Module = TypeVar("Module", bound=nn.Module)
_REMEDIES: Final = {  # by the beginning of the kind's name
    "LastBatchNorm": "leave out `norm.last_batch`, or `close()` its handle before",
    "Ghost": "leave out `norm.ghost`",
    "Sync": "leave out `norm.sync` or `convert_sync_batchnorm`",
    "Lazy": "run one batch through the model first",
}
_Layer = TypeVar("_Layer", bound=_BatchNorm)


def layers_of(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """The batch norm layers of `model`, each with its name; raises if there are none."""
    found = [(name or "the model itself", each) for name, each in model.named_modules() if isinstance(each, _BatchNorm)]
    if not found:
        raise ArgumentError(
            "model", "must have batch norm layers", got=f"{type(model).__name__} without any", remedy="leave it as is"
        )
    return found


def like(module: _BatchNorm, kind: type[_Layer], **more: Any) -> _Layer:
    """A layer of another kind with the parameters, buffers, settings and hooks of `module`, and `more` settings."""
    layer = kind.__new__(kind)
    layer.__dict__ = {**module.__dict__, **more}
    return layer


def exchanged(model: Module, layers: Mapping[int, nn.Module]) -> Module:
    """`model` with layers put in the place of those whose `id` is given; the new one if that is `model` itself."""
    for parent in list(model.modules()):
        held = vars(parent)["_modules"]  # holds a child under each of its names
        held.update({name: layers[id(child)] for name, child in held.items() if id(child) in layers})
    return layers.get(id(model), model)  # type: ignore[return-value]


def remedy_for(layer: _BatchNorm) -> str:
    """The remedy for a layer of a kind that cannot be exchanged."""
    for word, remedy in _REMEDIES.items():
        if type(layer).__name__.startswith(word):
            return remedy
    return "put one of these in its place"
