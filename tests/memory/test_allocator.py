from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
FAULTS = """
import resource, sys, torch
from adabatch.lab import models
from adabatch.memory import tune_allocator
torch.set_num_threads(1)
if sys.argv[1] == "tuned":
    tune_allocator()
model = models.small_cnn(image_size=28, width=32)
inputs, targets = torch.randn(128, 1, 28, 28), torch.zeros(128, dtype=torch.int64)
def steps(count):
    for _ in range(count):
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        model.zero_grad()
steps(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(4)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4)
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
    tries = (int(python(FAULTS, "plain")) for _ in range(4))  # 0 where the kernel happens to give huge pages
    plain, tuned = next(faults for faults in tries if faults > 1000), int(python(FAULTS, "tuned"))
    assert tuned < plain / 4


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
