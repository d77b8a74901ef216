"""A small recurrent network that predicts the next token."""

from __future__ import annotations

from torch import Tensor, nn

from adabatch import _checks


class LSTM(nn.Module):
    """See `lstm`."""

    def __init__(self, *, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.cells = nn.LSTM(width, width, num_layers=layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token at each place: `[batch, tokens]` to `[batch, vocabulary, tokens]`."""
        states, _ = self.cells(self.token(tokens))
        return self.head(states).transpose(1, 2)  # type: ignore[no-any-return]


def lstm(*, vocabulary: int = 65, context: int = 128, width: int = 224, layers: int = 2) -> LSTM:
    """An LSTM of two layers of 224 units for text, no dropout; each sequence begins without memory.

    The scores have the vocabulary in the second dimension, as `nn.CrossEntropyLoss` wants it. Weights start as in
    torch.

    Args:
        vocabulary: number of different tokens, at least 2.
        context: tokens in a sequence; the network is the same for any.
        width: size of a token's representation, and units in a layer.
        layers: of cells.

    Returns:
        The network; 835,585 parameters for the 65 characters of tiny Shakespeare.

    Raises:
        ValueError: if a number is too small.

    Example:
        >>> import torch
        >>> lstm()(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 65, 5])

    Source: Zaremba, Sutskever and Vinyals, 2014, 1409.2329: two layers, of 200 units in its small form, unrolled over a
        sequence. Departures: the memory of one sequence does not go into the next one, since samples are in any order.
    """
    _checks.whole("vocabulary", vocabulary, minimum=2)
    for name, value in (("context", context), ("width", width), ("layers", layers)):
        _checks.whole(name, value)
    return LSTM(vocabulary=vocabulary, width=width, layers=layers)
