"""The cost of averaging gradients over ranks, in each update."""

from __future__ import annotations

from typing import NamedTuple

from adabatch import _distributed
from adabatch.lab.training.setup import Setup


class Cost(NamedTuple):
    """Bytes and seconds in an update, as `Evaluation` has them."""

    bytes: int | None = None
    seconds: float | None = None


class Communication:
    """Counts what this rank communicates; under FSDP2, which tells nothing, bytes follow from the parameters.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: Setup) -> None:
        config, parameters = setup.config, [p for p in setup.model.parameters() if p.requires_grad]
        self._alone, self._on_gpu = setup.ranks.world == 1, setup.device.type != "cpu"
        narrow = config.compress is not None
        sizes = (p.numel() * (2 if narrow else p.element_size()) for p in parameters)
        self._known = sum(sizes) if config.fsdp else None
        self._before = 0, _distributed.traffic()

    def of_an_update(self, updates: int) -> Cost:
        """The mean cost of the updates since the last call, by the number of `updates` so far."""
        (past, before), now = self._before, _distributed.traffic()
        self._before = updates, now
        count = updates - past
        if self._alone or count <= 0:
            return Cost()
        if self._known is not None:
            return Cost(self._known)
        seconds = None if self._on_gpu else (now.seconds - before.seconds) / count
        return Cost(round((now.bytes - before.bytes) / count), seconds)
