"""How inputs go through the network: precision, memory layout, compilation; and trying every batch size beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from adabatch._errors import ArgumentError
from adabatch.lab.training import device as devices
from adabatch.lab.training.config import RunConfig
from adabatch.schedules import Plan

if TYPE_CHECKING:
    from adabatch.lab.training.parts import Parts

GRAPHS: Final = 32  # batch sizes up to which each gets a graph of its own

# Measured on a CPU with AVX-512, torch 2.13, batches of 64 to 512: 1.25 to 1.5 times the samples per second with
# ResNet-20, 0.73 to 0.75 with AlexNet. bf16 autocast was 0.41 to 0.5 with either. On a GPU nothing was measured yet.
FASTER_LAST: Final = ("resnet20", "resnet32", "resnet44")

Forward = Callable[[Tensor], Tensor]


def build(model: nn.Module, config: RunConfig, shape: Mapping[str, int], device: torch.device) -> Forward:
    """What takes prepared inputs to scores in float32: the network itself unless the settings ask for more.

    Args:
        model: the network; its weights change their layout in memory if the settings ask for it.
        config: the settings.
        shape: of the inputs, as `tasks.Data.shape` gives it.
        device: where it trains.

    Raises:
        ValueError: if channels are to be last of inputs without channels, or CUDA graphs be replayed elsewhere.
    """
    last = channels_last(config, device)
    if last:
        if "in_channels" not in shape:
            raise ArgumentError("channels_last", "must be left out for text", got="True", remedy="it is about images")
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    called: Callable[[Tensor], Tensor] = model
    if config.cuda_graphs and device.type != "cuda":
        raise ArgumentError(
            "cuda_graphs", "must be used on a GPU", got=f"the device {device.type}", remedy="leave it out"
        )
    if config.compile:
        called = torch.compile(model, mode="reduce-overhead" if config.cuda_graphs else None)
    if config.precision == "float32" and not last:
        return called

    def forward(inputs: Tensor) -> Tensor:
        if last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with precision(config, device):
            scores = called(inputs)
        return scores.float()

    return forward


def channels_last(config: RunConfig, device: torch.device) -> bool:
    """Whether channels are last in memory: as the settings say, else what was measured faster.

    Args:
        config: the settings.
        device: where it trains.
    """
    if config.channels_last is None:
        return device.type == "cpu" and config.model in FASTER_LAST
    return config.channels_last


def precision(config: RunConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Entered around the network: autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()


def sizes(plan: Plan, micro_batch_size: int | None) -> tuple[int, ...]:
    """The sizes that the network will see, the largest first: those of a plan, or of the parts of its batches.

    Args:
        plan: of the run.
        micro_batch_size: samples per forward and backward pass at most; None for whole batches.

    Example:
        >>> from adabatch.schedules import steps
        >>> plan = steps("0:4 16:8").plan(dataset_size=18, epochs=2)
        >>> sizes(plan, None), sizes(plan, 3)
        ((8, 4, 2), (3, 2))
    """
    whole = {*plan.sizes, *plan.tails}
    if micro_batch_size is None:
        return tuple(sorted(whole, reverse=True))
    parts = {size: -(-size // micro_batch_size) for size in whole}
    found = {size // count for size, count in parts.items()} | {-(-size // count) for size, count in parts.items()}
    return tuple(sorted(found, reverse=True))


def try_sizes(parts: Parts, *, tell: Callable[[str], None]) -> None:
    """One forward and backward pass at each size that will occur, so that nothing is compiled while it trains.

    Weights, statistics and random numbers are as before afterwards. It does something where the network is compiled,
    and on a GPU for the largest size, which shows whether it fits into memory.

    Args:
        parts: of the run, before it starts.
        tell: called with a line before each size.

    Raises:
        ValueError: if a size does not fit into memory, or the network cannot be compiled here.
    """
    config, wanted = parts.config, sizes(parts.plan, parts.config.micro_batch_size)
    if not config.compile:
        wanted = wanted[:1] if parts.device.type == "cuda" else ()
    doing = "compiling for" if config.compile else "trying"
    with _as_before(parts), _graphs(len(wanted)):
        for number, size in enumerate(wanted, 1):
            tell(f"{doing} {size:,} samples ({number} of {len(wanted)})")
            try:
                _one_pass(parts, size)
            except torch.OutOfMemoryError:
                raise ArgumentError(
                    "micro_batch_size",
                    "must be given where batches do not fit into memory",
                    got=f"none that does: {size:,} samples at once are too many",
                    remedy=f"try {max(1, size // 2)}",
                ) from None
            except RuntimeError as error:
                if not config.compile:
                    raise
                reason = " ".join(str(error).split())[:200]
                raise ArgumentError("compile", "must be possible here", got=reason, remedy="leave it out") from error


def _one_pass(parts: Parts, size: int) -> None:
    shape = parts.data.shape
    if "in_channels" in shape:
        side = shape["image_size"]
        inputs = torch.zeros(size, shape["in_channels"], side, side, device=parts.device)
        targets = torch.zeros(size, dtype=torch.int64, device=parts.device)
    else:
        inputs = torch.zeros(size, shape["context"], dtype=torch.int64, device=parts.device)
        targets = torch.zeros_like(inputs)
    parts.loss(parts.forward(inputs), targets).backward()
    parts.model.zero_grad()


@contextmanager
def _as_before(parts: Parts) -> Iterator[None]:
    """Batch norm's statistics and random numbers are as they were afterwards."""
    kept = [buffer.clone() for buffer in parts.model.buffers()]
    with devices.entered(parts.device):
        try:
            yield
        finally:
            parts.model.zero_grad()
            for buffer, before in zip(parts.model.buffers(), kept, strict=True):
                buffer.copy_(before)


@contextmanager
def _graphs(count: int) -> Iterator[None]:
    """A graph for each size, as long as they are few; else one for all sizes."""
    import torch._dynamo

    many = count > GRAPHS
    with torch._dynamo.config.patch(
        recompile_limit=GRAPHS + 8, automatic_dynamic_shapes=many, assume_static_by_default=True
    ):
        yield
