"""Normalisation whose noise does not follow the batch size, and statistics over ranks."""

from __future__ import annotations

from adabatch.norm.ghost import ghost
from adabatch.norm.sync import Share, SyncBatchNorm, sync

__all__ = ["Share", "SyncBatchNorm", "ghost", "sync"]
