from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
FAULTS = """
import resource, sys, torch
from adabatch.memory import tune_allocator
if sys.argv[1] == "tuned":
    tune_allocator()
def step():
    [torch.ones(4_000_000) for _ in range(4)]  # 64 MB, as the activations of a step
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def python(code: str, *arguments: str, **variables: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | variables
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=clean
    )
    return done.stdout.strip()


@ON_GLIBC
def test_a_training_step_pays_no_page_faults():
    """By default glibc hands the memory of a step back to the kernel and takes each page anew at the next."""
    plain, tuned = int(python(FAULTS, "plain")), int(python(FAULTS, "tuned"))
    assert plain >= 20 * 32  # a step's huge pages of 2 MB; small ones are many more
    assert tuned < plain / 10


SAY = "from adabatch.memory import tune_allocator as t; print(t() is t(), t())"


@ON_GLIBC
def test_it_says_what_it_did():
    assert python(SAY) == "True AllocatorTuning(applied=True, reason='freed memory stays in the process')"


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
@ON_GLIBC
def test_what_the_environment_sets_is_left_alone(name):
    value = "glibc.malloc.trim_threshold=1000000" if name == "GLIBC_TUNABLES" else "1000000"
    assert python(SAY, **{name: value}) == f"True AllocatorTuning(applied=False, reason='the environment sets {name}')"


def test_another_c_library():
    code = f"import platform; platform.libc_ver = lambda *a: ('', ''); {SAY}"
    assert python(code) == "True AllocatorTuning(applied=False, reason='the C library is not glibc')"
