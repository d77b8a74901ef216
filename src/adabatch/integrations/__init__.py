"""Exact growth inside the loops of other frameworks: one file each, which loads its framework and nothing else's.

`transformers.grow`, `lightning.BatchGrowth`, `accelerate.prepare`, `skorch.Growth` and `ignite.run`. In all of them one
step of the framework is one update: the micro-batches of a batch are taken here, so no accumulation number changes.
"""

from adabatch import _torch as _torch
