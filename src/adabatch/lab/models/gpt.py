"""A small transformer that predicts the next token."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adabatch import _checks
from adabatch._errors import ArgumentError


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, tokens, width]` to the same shape; a token sees itself and those before it."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and two linear layers, each after a layer norm and added to its input."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, tokens, width]` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """See `gpt`."""

    def __init__(self, *, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads=heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token.weight
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                residual = name.endswith((".out", ".down"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token at each place: `[batch, tokens]` to `[batch, vocabulary, tokens]`."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.token(tokens) + self.place(places))
        return self.head(self.norm(x)).transpose(1, 2)  # type: ignore[no-any-return]


def gpt(*, vocabulary: int = 65, context: int = 128, width: int = 128, layers: int = 4, heads: int = 4) -> GPT:
    """A small GPT: four blocks of width 128 with four heads, no dropout.

    The scores have the vocabulary in the second dimension, as `nn.CrossEntropyLoss` wants it.

    Args:
        vocabulary: number of different tokens, at least 2.
        context: tokens in a sequence, at most.
        width: size of a token's representation.
        layers: blocks of attention and linear layers.
        heads: attention heads; must divide `width`.

    Returns:
        The network; 818,048 parameters for the 65 characters of tiny Shakespeare.

    Raises:
        ValueError: if a number is too small or `heads` does not divide `width`.

    Example:
        >>> gpt()(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 65, 5])

    Source: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: a layer norm
    before each part and at the end; initial weights N(0, 0.02^2), divided by sqrt(2 * layers) in layers that write to
    the residual stream; input and output share the embedding of tokens.
    """
    _checks.whole("vocabulary", vocabulary, minimum=2)
    for name, value in (("context", context), ("width", width), ("layers", layers), ("heads", heads)):
        _checks.whole(name, value)
    if width % heads:
        raise ArgumentError("heads", f"must divide `width` = {width}", value=heads, remedy="use a divisor")
    return GPT(vocabulary=vocabulary, context=context, width=width, layers=layers, heads=heads)
