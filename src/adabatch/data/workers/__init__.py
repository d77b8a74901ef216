"""Workers: processes that read runs of samples, and what they read with."""
