"""Checks of the loader's arguments that torch's loader has too."""

from __future__ import annotations

from typing import Any

from torch.utils.data.distributed import DistributedSampler

from adabatch import _checks


def check_flags(**flags: Any) -> None:
    """Raises if a flag is not a bool."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"`{name}` must be True or False, got {flag!r}")


def check_together(*, drop_last: bool, run_on: bool, seed: int | None, generator: Any) -> None:
    """Raises if two arguments exclude each other."""
    if drop_last and run_on:
        raise ValueError("`drop_last` and `run_on` must not both be True: a batch that runs on is never short")
    if seed is not None and generator is not None:
        raise ValueError("`seed` and `generator` must not both be given; the generator only serves to draw a seed")


def check_samplers(sampler: Any, batch_sampler: Any) -> None:
    """Raises if a sampler is given that this loader cannot honour."""
    if isinstance(sampler, DistributedSampler):
        raise ValueError(
            "`sampler` must not be a DistributedSampler: this loader cuts each batch over the ranks itself; use"
            " `shuffle=True`, and `group=` for another group than the world"
        )
    if batch_sampler is not None:
        raise ValueError(
            "`batch_sampler` must be None: this loader forms batches of changing size itself; set `batch_size`"
        )
    if sampler is not None:
        raise ValueError("`sampler` must be None in this version; use `shuffle`")


def check_workers(num_workers: Any, prefetch: Any, persistent: Any, timeout: Any, context: Any) -> None:
    """Raises if the arguments about workers are out of range or do not go together."""
    if _checks.whole("num_workers", num_workers, minimum=0) > 0:
        raise ValueError(f"`num_workers` must be 0 in this version, got {num_workers}; the main process fetches")
    _checks.finite("timeout", timeout, minimum=0)
    given = {
        "prefetch_factor": prefetch is not None,
        "persistent_workers": persistent,
        "multiprocessing_context": context,
    }
    for name, set_ in given.items():
        if set_:
            raise ValueError(f"`{name}` needs `num_workers` of at least 1, got 0 workers; leave it out")
