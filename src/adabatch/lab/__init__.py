"""The laboratory: what the command `adabatch` is made of. The library knows nothing of it."""
