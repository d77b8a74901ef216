"""Real processes over gloo, which end cleanly."""

from __future__ import annotations

import gc
import os
import tempfile
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def _on_each_rank(rank, world, store, checks):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=120)
    )
    for check in checks:
        check(rank, world)
        gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    gc.collect()
    os._exit(0)  # gloo's threads may abort an interpreter that finalizes


def on_ranks(world, *checks):
    """Runs each check, called with rank and world, in `world` processes."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_on_each_rank, args=(world, os.path.join(folder, "store"), checks), nprocs=world)
