"""What every test shares: one thread per process, so that two test processes on two cores do not stall each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that a test starts inherit it
