"""Two processes over gloo for a benchmark, which starts itself again under torchrun; the slower one's seconds count."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from paired import ROOT, seconds

from adabatch import _distributed

CPU = torch.device("cpu")


def torchrun(*arguments: str, count: int = 2) -> None:
    """Runs Python with `arguments` in `count` processes; a failure ends the benchmark."""
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    if code := subprocess.run([*started, *arguments], check=False).returncode:
        raise SystemExit(code)


@contextmanager
def joined(script: str) -> Iterator[int]:
    """A context of this process's rank among two; if it is alone, it runs the script in two and ends."""
    if _distributed.launched() is None:
        torchrun(str(ROOT / "benchmarks" / Path(script).name), *sys.argv[1:])
        raise SystemExit(0)
    with _distributed.process_group(CPU):
        yield _distributed.rank_and_world()[0]


def slowest(call: Callable[[], object]) -> float:
    """Seconds of a call that all processes begin together, on the slowest."""
    _distributed.largest([0.0], device=CPU)
    return _distributed.largest([seconds(call)], device=CPU)[0]
