"""Loss and accuracy on a test set."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

CHUNK: Final = 1024


def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a classifier.

    Args:
        model: returns a score for each class; it is put into evaluation mode, and back into its own.
        inputs: on the model's device, `[samples, ...]`.
        targets: classes, int64, `[samples]`.

    Returns:
        The mean loss and the share of samples whose highest score is the right one's.

    Example:
        >>> evaluate(nn.Identity(), torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0]))[1]
        0.5
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=targets.device)
    right = torch.zeros((), dtype=torch.int64, device=targets.device)
    try:
        with torch.inference_mode():
            for start in range(0, len(targets), CHUNK):
                scores, wanted = model(inputs[start : start + CHUNK]), targets[start : start + CHUNK]
                loss += nn.functional.cross_entropy(scores, wanted, reduction="sum")
                right += (scores.argmax(dim=1) == wanted).sum()
    finally:
        model.train(was_training)
    return loss.item() / len(targets), right.item() / len(targets)
