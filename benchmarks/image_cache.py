"""First run of cifar10 (60,000 JPEGs, decoded into an empty cache) against pillow alone on all cores; second run.

python benchmarks/image_cache.py --data FOLDER [--pairs 5]

FOLDER holds cifar10/train-*.parquet and cifar10/test-*.parquet. Pillow's side is the decoding alone, of images that are
in memory already, by as many processes as there are cores, started before; ours is all that a first run does: hashing
and reading the files, starting processes, decoding, writing the cache to disk and reading it back. The second run is a
new process up to its first augmented batch, imports included; its time on the processor and the machine's load stand
beside it, since wall time means little while others run.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from paired import at_most, begin, compare, seconds, write
from PIL import Image

from adabatch.lab import tasks
from adabatch.lab.study.statistics import paired_ratio
from adabatch.lab.tasks.decode import cores

BOUND: Final = 1.3
SECOND_RUN_SECONDS: Final = 3.0
ENCODED: list[bytes] = []
SECOND_RUN = """
import sys
from adabatch import DataLoader
from adabatch.lab import tasks
data = tasks.get("cifar10").load(sys.argv[1])
loader = DataLoader(data.dataset, batch_size=128, shuffle=True, seed=0)
inputs, targets = next(iter(loader))
data.train_inputs(inputs, seed=0, clock=0)
"""


def part(bounds: tuple[int, int]) -> int:
    """Decodes some of the images, as everyone does."""
    return sum(np.asarray(Image.open(io.BytesIO(content))).nbytes for content in ENCODED[slice(*bounds)])


def main() -> None:
    """Times both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/image_cache.json"))
    options = parser.parse_args()
    environment = begin(options.out, threads=None)
    for split in ("train", "test"):
        for file in sorted((options.data / "cifar10").glob(f"{split}-*.parquet")):
            ENCODED.extend(pq.read_table(file)["img"].combine_chunks().field("bytes").to_pylist())
    bounds = list(pairwise(len(ENCODED) * index // cores() for index in range(cores() + 1)))
    with multiprocessing.get_context("fork").Pool(cores()) as pool, tempfile.TemporaryDirectory() as folder:
        pool.map(part, [(0, 100)] * cores())
        caches = iter(range(10**6))

        def ours() -> None:
            os.environ["ADABATCH_CACHE"] = f"{folder}/{next(caches)}"
            tasks.get("cifar10").load(options.data)

        def pillow() -> None:
            pool.map(part, bounds, chunksize=1)

        ours()
        pillow()
        found = compare(lambda: ours, lambda: pillow, rounds=options.pairs, pairs=1, warm_up=0)
        command = [sys.executable, "-c", SECOND_RUN, str(options.data)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        second = [seconds(lambda: subprocess.run(command, check=True)) for _ in range(options.pairs)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / options.pairs
    ratio = paired_ratio(second, [1.0] * len(second)).to_json()  # the median's interval, in seconds
    results = {
        "first_run": at_most(found, BOUND),
        "second_run": at_most({"ratio": ratio, "seconds": second}, SECOND_RUN_SECONDS),
    }
    loaded = {"second_run_processor_seconds": cpu, "load_average": os.getloadavg()}
    write(options.out, "image_cache", environment, {"images": len(ENCODED), **results, **loaded})


if __name__ == "__main__":
    main()
