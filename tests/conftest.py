"""What every test shares: one thread per process, so that two test processes on two cores do not stall each other."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that a test starts inherit it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; tests of Ctrl-C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)
