"""Curves on disk, by what they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import torch

from adabatch._version import __version__
from adabatch.memory.allocator import tune_allocator
from adabatch.memory.curve import Curve

FORMAT: Final = 1


def key(
    step: Any,
    model: torch.nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    shapes: list[str],
    device: torch.device,
    ranks: int,
) -> str:
    """A hash of model, optimizers, the code of the step, a sample's shape, the device and the versions."""
    parts = {
        "format": FORMAT,
        "model": [
            repr(model),
            model.training,
            [f"{p.dtype}{tuple(p.shape)}{p.requires_grad}" for p in model.parameters()],
            [_settings(vars(module)) for module in model.modules()],
            sorted({str(_called(type(module).forward)) for module in model.modules()}),
        ],
        "optimizers": [
            [repr(type(each)), _settings(each.defaults), [len(group["params"]) for group in each.param_groups]]
            for each in optimizers
        ],
        "step": _called(step),
        "shapes": shapes,
        "device": [device.type, *_hardware(device)],
        "ranks": ranks,
        "versions": [__version__, torch.__version__, torch.version.cuda, platform.python_version()],
        "allocator": tune_allocator.cache_info().currsize,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _settings(values: Mapping[str, Any]) -> list[list[str]]:
    """What of some attributes is a plain value."""
    return sorted([name, repr(value)] for name, value in values.items() if isinstance(value, bool | int | float | str))


def _called(step: Any) -> Any:
    """What a callable does."""
    if isinstance(step, partial):
        more = [*step.args, *(item for pair in sorted(step.keywords.items()) for item in pair)]
        return [_called(step.func), [_word(each) for each in more]]
    function = getattr(step, "__func__", step)
    if hasattr(function, "__code__"):
        return _words(function.__code__, function)
    inner: Any = vars(type(step)).get("__call__")
    return [repr(type(step)), _words(inner.__code__, inner) if hasattr(inner, "__code__") else None]


def _words(code: CodeType, function: Any = None) -> list[Any]:
    """What a function does, with the values that it encloses and those of its defaults."""
    constants = [_words(each) if isinstance(each, CodeType) else _word(each) for each in code.co_consts]
    cells = getattr(function, "__closure__", None) or ()
    held = []
    for cell in cells:
        with contextlib.suppress(ValueError):  # an empty cell
            held.append(_word(cell.cell_contents))
    held += [_word(value) for value in getattr(function, "__defaults__", None) or ()]
    return [code.co_code.hex(), list(code.co_names), constants, held]


def _word(value: Any) -> Any:
    """A value, as far as it says the same in another process; of what may change, its type alone."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple):
        return [_word(each) for each in value]
    if isinstance(value, frozenset):
        return sorted(str(_word(each)) for each in value)
    if isinstance(value, FunctionType):
        return [value.__code__.co_code.hex(), [_word(each) for each in value.__code__.co_consts]]
    return repr(type(value))


def _hardware(device: torch.device) -> list[Any]:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return [found.name, found.total_memory, torch.backends.cuda.matmul.fp32_precision]
    return [platform.processor() or platform.machine(), os.cpu_count(), torch.get_num_threads()]


def _path(name: str) -> Path:
    given = os.environ.get("ADABATCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adabatch"
    return (Path(given) if given else base) / f"probe-{name}.json"


def load(name: str, *, budget: int | None, maximum: int) -> Curve | None:
    """The curve kept under `name`, if it answers what is asked now.

    Args:
        name: from `key`.
        budget: bytes that a pass may take now; larger sizes are left out.
        maximum: the largest size wanted.
    """
    try:
        curve = Curve.from_json(json.loads(_path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    points = [p for p in curve.points if p.micro_batch_size <= maximum]
    if budget is not None:
        points = [p for p in points if p.peak_bytes is None or p.peak_bytes <= budget]
    whole = len(points) == len(curve.points)
    if not points or (whole and 2 * points[-1].micro_batch_size <= maximum and not _still_stops(curve, budget)):
        return None
    stopped = curve.stopped if whole else ("maximum" if 2 * points[-1].micro_batch_size > maximum else "memory")
    return Curve(tuple(points), curve.update_seconds, curve.ranks, budget, stopped, curve.no_peak)


def _still_stops(curve: Curve, budget: int | None) -> bool:
    """Whether what stopped the curve would stop it now."""
    if curve.stopped == "memory":
        return budget is not None and curve.memory_budget is not None and budget <= 1.25 * curve.memory_budget
    return curve.stopped == "time"


def save(name: str, curve: Curve) -> None:
    """Keeps a curve; a folder that cannot be written keeps none."""
    path = _path(name)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(curve.to_json(), file)
        os.replace(partial, path)
