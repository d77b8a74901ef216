"""Workers: processes that read runs of samples, and their readers."""
