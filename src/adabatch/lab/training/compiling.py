"""What `torch.compile` and CUDA graphs need around them, and clear errors where they cannot be had."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch

from adabatch._errors import AdabatchError, ArgumentError

GRAPHS: Final = 32  # batch sizes up to which each gets a graph of its own
_HOMES: Final = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


@contextmanager
def static_shapes(count: int) -> Iterator[None]:
    """While entered, `torch.compile` makes a graph for each of a few sizes, or one for all of many."""
    from torch._dynamo import config

    limit, many = GRAPHS + 8, count > GRAPHS
    with config.patch(recompile_limit=limit, automatic_dynamic_shapes=many, assume_static_by_default=True):
        yield


def check_graphs(sizes: Sequence[int]) -> None:
    """Raises if there are more sizes than there may be CUDA graphs; each graph keeps its memory to the end.

    Args:
        sizes: of micro-batches, largest first.

    Raises:
        ValueError: if there are too many.

    Example:
        >>> check_graphs(range(40, 0, -1))
        Traceback (most recent call last):
        ...
        adabatch._errors.ArgumentError: `cuda_graphs` must come with at most 32 sizes of micro-batches, got 40 from 1 \
to 40, with those of short batches; use `drop_last`, grow by larger factors, or leave it out
    """
    if len(sizes) > GRAPHS:
        raise ArgumentError(
            "cuda_graphs",
            f"must come with at most {GRAPHS} sizes of micro-batches",
            got=f"{len(sizes)} from {sizes[-1]:,} to {sizes[0]:,}, with those of short batches",
            remedy="use `drop_last`, grow by larger factors, or leave it out",
        )


@contextmanager
def compiled(wanted: bool) -> Iterator[None]:
    """Turns any error of a pass that is to be compiled into one line; does nothing unless it is `wanted`.

    Raises:
        ValueError: if the network cannot be compiled.
    """
    try:
        yield
    except (AdabatchError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        if not wanted or "DefaultCPUAllocator: can't allocate memory" in str(error):
            raise
        raise ArgumentError("compile", "must be possible here", got=words_of(error), remedy="leave it out") from error


@contextmanager
def captured(device: torch.device) -> Iterator[None]:
    """Tells if torch could not capture in CUDA graphs what is compiled meanwhile, which it does without them.

    A warning where some parts are left out, such as one that works on the CPU.

    Raises:
        ValueError: if no graph was made.
    """
    from torch._dynamo.utils import counters

    before = counters["inductor"]["cudagraph_skips"]
    yield
    if left_out := counters["inductor"]["cudagraph_skips"] - before:
        tell_left_out(left_out, made=has_graphs(device))


def has_graphs(device: torch.device) -> bool:
    """Whether `torch.compile` has made a CUDA graph on a GPU."""
    from torch._inductor.cudagraph_trees import get_manager

    index = torch.cuda.current_device() if device.index is None else device.index
    return get_manager(index, create_if_none_exists=False) is not None


def tell_left_out(left_out: int, *, made: bool) -> None:
    """Warns of parts of the network that are in no CUDA graph, or raises if all are left out.

    Args:
        left_out: how many.
        made: whether there is a graph of others.

    Raises:
        ValueError: if there is none.
    """
    got = f"{left_out} of the compiled parts that torch left out, for the reasons that it printed"
    if not made:
        remedy = "leave it out, which compiles all the same"
        raise ArgumentError("cuda_graphs", "must be able to capture the network", got=got, remedy=remedy)
    warnings.warn(f"`cuda_graphs` is not in force everywhere: {got}", stacklevel=2)


def is_of_compiling(error: BaseException) -> bool:
    """Whether an error, or one that caused it, comes from the parts of torch that compile."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.startswith(_HOMES):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def words_of(error: BaseException) -> str:
    """The beginning of an error's message in one line; its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
