"""Batch norm layers of a model on several ranks: told of the samples of a micro-batch, kept from what are none."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from adabatch import _distributed
from adabatch._errors import ArgumentError
from adabatch.norm import Share, SyncBatchNorm
from adabatch.types import Part


class Norms:
    """The batch norm layers of modules, in the micro-batches of one rank.

    - Layers of `norm.sync` learn which samples of the batch the rank has.
    - A repeated sample, which keeps ranks in step, goes through other layers by their running statistics, and does not
      enter these. Layers of `norm.sync` leave it out of their statistics, so that ranks go on together.
    - One value for each channel has no spread: it goes by running statistics too, with a warning, since torch's error
      would end this rank alone.

    Args:
        modules: the models.
        sharing: the group that shares a batch, this process's rank and the number of ranks.

    Raises:
        ValueError: if a layer of `norm.sync` spans other ranks.
    """

    def __init__(self, modules: Iterable[nn.Module], sharing: tuple[Any, int, int]) -> None:
        _, rank, self._world = sharing
        found = {id(each): each for module in modules for each in module.modules() if isinstance(each, _BatchNorm)}
        self._synced = [each for each in found.values() if isinstance(each, SyncBatchNorm)]
        self._own = [each for each in found.values() if not isinstance(each, SyncBatchNorm | nn.SyncBatchNorm)]
        self._held: list[_BatchNorm] = []  # in evaluation until the micro-batch ends
        self._hooks: list[RemovableHandle] = []
        self._warned = False
        for layer in self._synced:
            of_layer = _distributed.rank_and_world(layer.group)
            if self._world > 1 and of_layer != (rank, self._world):
                raise ArgumentError(
                    "model",
                    "must have batch norm over the ranks that share a batch",
                    got=f"rank {of_layer[0]} of {of_layer[1]} in place of rank {rank} of {self._world}",
                    remedy="write `norm.sync(model, group=...)` with the loader's group",
                )

    def begin(self, part: Part) -> None:
        """A micro-batch is about to pass."""
        self.end()
        if self._world == 1:
            return
        share = share_of(part, self._world)
        for layer in self._synced:
            layer.share = share
        if part.size == 0:
            for own in self._own:
                self._hold(own)
        few = [*(self._own if part.size == 1 else ()), *(self._synced if share and share.total == 1 else ())]
        self._hooks = [layer.register_forward_pre_hook(self._look) for layer in few]

    def end(self) -> None:
        """The micro-batch has passed."""
        for hook in self._hooks:
            hook.remove()
        for held in self._held:
            held.training = True
        for layer in self._synced:
            layer.share = None
        self._hooks, self._held = [], []

    def _hold(self, layer: _BatchNorm) -> None:
        if layer.training:
            layer.training = False
            self._held.append(layer)

    def _look(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        if not isinstance(layer, _BatchNorm) or given[0].numel() != given[0].shape[1]:
            return
        self._hold(layer)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"a micro-batch of one sample has no spread for {type(layer).__name__}, which takes its running "
                "statistics for it; leave out short batches (`drop_last=True`), or synchronise batch norm over ranks",
                UserWarning,
                stacklevel=2,
            )


def share_of(part: Part, world: int) -> Share | None:
    """This rank's samples among those of the micro-batch on all ranks, which lie in a row; None if not known.

    Example:
        >>> from adabatch.types import Batch
        >>> batch = Batch(clock=0, end=7, epoch=0, requested=7, size=7, rank_size=3)
        >>> share_of(Part(batch, index=1, count=2, size=2, turn=1), world=2)  # of samples 1, 3 and 5 the last two
        Share(size=2, total=4, first=0, step=2)
    """
    turn = part.turn
    if turn is None:
        return None
    least, more = divmod(part.batch.size, world)

    def passed(index: int) -> tuple[int, int]:
        """Samples in the micro-batches before this one: of this rank, and of all."""
        of_least, of_most = least * index // part.count, (least + 1) * index // part.count
        return of_most if turn < more else of_least, more * of_most + (world - more) * of_least

    (mine, before), (_, after) = passed(part.index), passed(part.index + 1)
    return Share(part.size, after - before, turn + world * mine - before, world)
