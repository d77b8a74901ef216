"""What the phases of `gpu.py` get: sizes, data, time left, and a file for what was found so far."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from paired import ROOT, revision

from adabatch.lab.training import pick_device


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        networks: by name; the first one has all options.
        without: names of options that are left out.
        sizes: batch sizes, growing by one factor.
        profiled: batch sizes of the tables of kernels.
        loops: batch sizes, and samples of an epoch at each.
        pairs: of epochs in each comparison of loops.
        samples: of a set of random pixels.
        resident: samples of the set that loaders read.
        fetched: batch sizes of loaders.
        workers: of torch's loader.
        turns: of each measurement of speed.
        seconds: of each turn.
        probed: the largest batch size of the probe.
        too_large: a batch size that does not fit into `memory_bytes`.
        memory_bytes: to train in, where memory runs out.
        ramp: batch sizes in sequences.
        constants: batch sizes in sequences that the ramp is compared with.
        text_epochs: of each training on text.
        epochs: of the trainings on images.
        smaller: divides their batch sizes.
    """

    networks: tuple[str, ...] = ("resnet20", "vgg19_bn")
    without: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (128, 1_024, 8_192)
    profiled: tuple[int, ...] = (128, 8_192)
    loops: Mapping[int, int]
    pairs: int = 9
    samples: int = 16_384
    resident: int = 50_000
    fetched: tuple[int, ...] = (128, 1_024)
    workers: int = 4
    turns: int = 6
    seconds: float = 0.2
    probed: int = 8_192
    too_large: int = 4_096
    memory_bytes: int = 1_200_000_000
    ramp: tuple[int, ...] = (16, 32, 48)
    constants: tuple[int, ...] = (16, 32, 48, 96)
    text_epochs: int = 3
    epochs: int = 100
    smaller: int = 1


FULL: Final = Scale(loops={128: 6_400, 512: 12_800, 4_096: 16_384})
TOY: Final = Scale(
    networks=("small_cnn",),
    without=("compile, bf16, channels last", "graphs, bf16, channels last"),
    sizes=(8, 64),
    profiled=(8,),
    loops={8: 32},
    pairs=2,
    samples=256,
    resident=256,
    fetched=(32,),
    workers=1,
    turns=2,
    seconds=0.01,
    probed=16,
    memory_bytes=300_000_000,
    ramp=(2, 4, 6),
    constants=(2, 6),
    text_epochs=1,
    epochs=5,
    smaller=32,
)


class Job:
    """One phase under way.

    Args:
        options: of the command.
        into: the file for what was found.
        seconds: until the phase is ended from outside.
        former: the phases in the result file.

    Attributes:
        device: a GPU, else the CPU.
        scale: how much to measure.
        code: as `provenance` gives it.
    """

    def __init__(self, options: argparse.Namespace, *, into: Path, seconds: float, former: Mapping[str, Any]) -> None:
        self.options, self.former, self._into = options, former, into
        self.code = provenance()
        self._ends = time.perf_counter() + seconds
        self.device = pick_device(options.device)
        if self.device.type == "cuda":  # with its number, which some of torch's functions ask for
            self.device = torch.device("cuda", self.device.index or 0)
        self.scale = TOY if options.toy else FULL

    @property
    def left(self) -> float:
        """Seconds until the phase is ended from outside."""
        return self._ends - time.perf_counter()

    def report(self, found: Mapping[str, Any], *, error: str | None = None) -> None:
        """Keeps what was found so far, whatever happens to the process afterwards."""
        partial = self._into.with_suffix(".partial")
        partial.write_text(json.dumps({"found": found, "error": error}))
        os.replace(partial, self._into)

    def each(
        self,
        cases: Mapping[str, Callable[[], Any]],
        *,
        of: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda done: done,
    ) -> dict[str, Any]:
        """Does cases in turn, the most important first, and keeps what was found after each.

        An error is noted in its place, and the other cases go on. One that would take longer than is left, by the
        longest so far, is left out.

        Args:
            cases: what to measure, by name.
            of: makes what is kept of the cases that are done.
        """
        done: dict[str, Any] = {}
        longest = 0.0
        for name, case in cases.items():
            begun = time.perf_counter()
            if self.left < longest:
                done[name] = {"error": f"left out: {self.left:.0f} s are left, and the longest took {longest:.0f} s"}
                continue
            try:
                done[name] = case()
            except Exception as error:
                done[name] = {"error": in_words(error)}
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            longest = max(longest, time.perf_counter() - begun)
            print(f"  {name}: {done[name].get('error') or f'{time.perf_counter() - begun:.1f} s'}", flush=True)
            self.report(of(done))
        return done


def in_words(error: BaseException) -> str:
    """An error on one line, without the folders of this machine."""
    text = " ".join(str(error).split()).replace(str(ROOT), "").replace(str(Path.home()), "~")
    return f"{type(error).__name__}: {text[:300]}"


def provenance() -> dict[str, Any]:
    """The code that ran: git's revision, None where git cannot say; and a hash of the code, which then stands in.

    The hash is of all Python files of the package and of the benchmarks, with their names.
    """
    digest = hashlib.sha256()
    for folder in ("src/adabatch", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return {"git": revision(), "code_sha256": digest.hexdigest()}


def worked(found: Mapping[str, Any]) -> dict[str, Any]:
    """The cases of `Job.each` without those that failed or were left out."""
    return {name: of for name, of in found.items() if "error" not in of}
