"""The benchmark of two processes against loops by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_loop_is_timed_against_one_by_hand(tmp_path):
    out = tmp_path / "distributed.json"
    few = ["--rounds", "1", "--pairs", "2", "--samples", "64", "--batch-size", "16", "--networks", "small_cnn"]
    subprocess.run([sys.executable, "benchmarks/distributed.py", *few, "--out", out], cwd=ROOT, check=True)
    saved = json.loads(out.read_text())
    loops = [f"small_cnn, {how}, {loop}" for how in ("DistributedDataParallel", "fully_shard") for loop in LOOPS]
    assert list(saved["ratios"]) == loops
    for found in saved["ratios"].values():
        assert (found["rounds"], found["pairs"], found["bound"]) == (1, 2, 1.02)
        assert found["ratio"]["median"] > 0


LOOPS = ("plain", "accumulate")
