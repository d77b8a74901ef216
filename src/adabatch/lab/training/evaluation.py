"""Loss and accuracy on a test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from adabatch._devices import longest_float
from adabatch.lab.tasks.objective import Classification, Objective
from adabatch.lab.training.ranks import Ranks

CHUNK: Final = 1024
NUMBERS: Final = 2**24  # most numbers in a chunk of inputs
ERRORS: Final = 3.0  # standard errors above chance up to which an accuracy is not told from it


def chunk_of(shape: Mapping[str, int]) -> int:
    """How many samples to evaluate at once, so that large images fit into memory.

    Example:
        >>> chunk_of({"in_channels": 1, "image_size": 8}), chunk_of({"in_channels": 3, "image_size": 224})
        (1024, 111)
    """
    image = shape.get("in_channels", 1) * shape.get("image_size", 1) ** 2
    text = shape.get("context", 1) * shape.get("vocabulary", 1)
    return max(1, min(CHUNK, NUMBERS // (image * text)))


def evaluate(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    objective: Objective | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    chunk: int = CHUNK,
    ranks: Ranks | None = None,
    after: Callable[[], object] | None = None,
) -> tuple[float, Tensor]:
    """Mean loss of a sample, and for each target that counts whether it is right.

    Args:
        model: returns what the objective takes: of classes a score for each, `[samples, classes]`, for text `[samples,
            classes, tokens]`; it is in evaluation mode meanwhile.
        inputs: `[samples, ...]`, on the model's device unless `prepare` moves them there.
        targets: of classes int64, `[samples]`; for text `[samples, tokens]`.
        objective: gives loss and what is right; None: cross-entropy, and the class with the highest score.
        prepare: turns a chunk of `inputs` into the network's inputs; None leaves them.
        chunk: samples at once.
        ranks: share the chunks, in turn, and all get the result; each passes as many, so that sharded models keep step.
        after: called after each chunk; it may raise.

    Returns:
        The loss, and what is right, bool, in the shape of `targets`; `[targets that count]` where some do not.

    Example:
        >>> evaluate(nn.Identity(), torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0]))[1]
        tensor([ True, False])
    """
    ranks, objective = ranks or Ranks(), objective or Classification()
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=longest_float(targets.device), device=targets.device)
    right = torch.zeros(targets.shape, dtype=torch.bool, device=targets.device)
    try:
        with torch.inference_mode():
            for turn in range(0, len(targets), chunk * ranks.world):
                start = turn + chunk * ranks.rank
                mine = start < len(targets)
                if not mine:
                    start = 0
                part, wanted = inputs[start : start + chunk], targets[start : start + chunk]
                scores = model(part if prepare is None else prepare(part))
                scores = scores if scores.dtype == torch.float64 else scores.float()
                if after is not None:
                    after()
                if not mine:
                    continue
                loss += objective.loss(scores, wanted).to(loss.dtype) * len(wanted)
                right[start : start + chunk] = objective.right(scores, wanted)
    finally:
        model.train(was_training)
    right = ranks.sum(right.byte()).bool() if ranks.world > 1 else right
    counted = objective.counted(targets)
    return ranks.sum(loss).item() / len(targets), right if counted.all() else right[counted]


def accuracy_of(right: Tensor) -> float:
    """The share of right targets, given the second value of `evaluate`."""
    return int(right.sum().item()) / right.numel()


def chance_end(share: float, *, count: int) -> float:
    """The accuracy up to which a classifier is not told from one that always answers the most frequent class.

    That is three standard errors above the share `p` of that class: `p + 3 sqrt(p (1 - p) / count)`. This covers
    guesses among all classes, since `p` is at least 1 / classes.

    Args:
        share: as `Classification.chance` returns it.
        count: number of targets that count.

    Example:
        >>> chance_end(0.5, count=900)
        0.55
    """
    return share + ERRORS * math.sqrt(share * (1 - share) / count)
