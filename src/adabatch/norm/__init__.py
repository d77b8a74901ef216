"""Normalisation whose noise does not follow the batch size, and statistics over ranks or of the last batch."""

from __future__ import annotations

from adabatch import _torch as _torch
from adabatch.norm.ghost import ghost
from adabatch.norm.last_batch import LastBatch, LastBatchNorm, last_batch, recompute
from adabatch.norm.sync import Share, SyncBatchNorm, sync

__all__ = ["LastBatch", "LastBatchNorm", "Share", "SyncBatchNorm", "ghost", "last_batch", "recompute", "sync"]
