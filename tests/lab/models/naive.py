"""Naive references: each network as its paper or docstring says, from the tensors of a state dict alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]  # the running statistics in it move in training mode


def batch_norm(w: Weights, name: str, x: Tensor, train: bool) -> Tensor:
    if train:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        seen = x.numel() / x.shape[1]
        for kind, now in (("mean", mean), ("var", variance * seen / (seen - 1))):
            w[f"{name}.running_{kind}"] = 0.9 * w[f"{name}.running_{kind}"] + 0.1 * now.detach()
    else:
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / (variance + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    return functional.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride, padding, dilation)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def pool(x: Tensor, size: int = 2, stride: int | None = None, padding: int = 0) -> Tensor:
    return functional.max_pool2d(x, size, stride or size, padding)


def mlp(w: Weights, x: Tensor, train: bool) -> Tensor:
    """A perceptron with one hidden layer, as the docstring says."""
    return linear(w, "3", relu(linear(w, "1", x.flatten(1))))


def small_cnn(w: Weights, x: Tensor, train: bool) -> Tensor:
    """Convolution, pooling, two convolutions, pooling, a hidden layer and the classes, as the docstring says."""
    x = pool(relu(conv(w, "0", x, padding=1)))
    x = relu(conv(w, "3", x, padding=1))
    x = pool(relu(conv(w, "5", x, padding=1)))
    return linear(w, "11", relu(linear(w, "9", x.flatten(1))))


def alexnet_small(w: Weights, x: Tensor, train: bool) -> Tensor:
    """1404.5997 in the form for 32x32: poolings over 2x2 and one linear layer."""
    x = pool(relu(conv(w, "features.0", x, stride=4, padding=5)))
    x = pool(relu(conv(w, "features.3", x, padding=2)))
    for layer in (6, 8, 10):
        x = relu(conv(w, f"features.{layer}", x, padding=1))
    return linear(w, "classifier", pool(x).flatten(1))


def alexnet_large(w: Weights, x: Tensor, train: bool) -> Tensor:
    """1404.5997: overlapping poolings, 6x6 places, dropout before each of the first two linear layers."""
    x = pool(relu(conv(w, "features.0", x, stride=4, padding=2)), 3, 2)
    x = pool(relu(conv(w, "features.3", x, padding=2)), 3, 2)
    for layer in (6, 8, 10):
        x = relu(conv(w, f"features.{layer}", x, padding=1))
    x = functional.adaptive_avg_pool2d(pool(x, 3, 2), 6).flatten(1)
    x = relu(linear(w, "classifier.1", functional.dropout(x, 0.5, train)))
    x = relu(linear(w, "classifier.4", functional.dropout(x, 0.5, train)))
    return linear(w, "classifier.6", x)


def vgg_features(w: Weights, x: Tensor, train: bool) -> Tensor:
    """1409.1556, table 1, column E, with batch norm after each convolution."""
    layer = 0
    for convolutions in (2, 2, 4, 4, 4):
        for _ in range(convolutions):
            x = conv(w, f"features.{layer}", x, padding=1)
            x = relu(batch_norm(w, f"features.{layer + 1}", x, train))
            layer += 3
        x = pool(x)
        layer += 1
    return x


def vgg_small(w: Weights, x: Tensor, train: bool) -> Tensor:
    return linear(w, "classifier", vgg_features(w, x, train).flatten(1))


def vgg_large(w: Weights, x: Tensor, train: bool) -> Tensor:
    """Dropout after each of the first two linear layers."""
    x = functional.adaptive_avg_pool2d(vgg_features(w, x, train), 7).flatten(1)
    x = functional.dropout(relu(linear(w, "classifier.0", x)), 0.5, train)
    x = functional.dropout(relu(linear(w, "classifier.3", x)), 0.5, train)
    return linear(w, "classifier.6", x)


def shortcut(w: Weights, name: str, x: Tensor, stride: int, train: bool) -> Tensor:
    """1512.03385, section 3.3: the input itself, and by option B a projection where the shape changes."""
    if f"{name}.downsample.0.weight" not in w:
        return x
    return batch_norm(w, f"{name}.downsample.1", conv(w, f"{name}.downsample.0", x, stride=stride), train)


def basic(w: Weights, name: str, x: Tensor, stride: int, train: bool) -> Tensor:
    """1512.03385, figure 2: y = F(x) + x, then ReLU; F ends before its last ReLU."""
    y = relu(batch_norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x, stride=stride, padding=1), train))
    y = batch_norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", y, padding=1), train)
    return relu(y + shortcut(w, name, x, stride, train))


def bottleneck(w: Weights, name: str, x: Tensor, stride: int, train: bool) -> Tensor:
    """1512.03385, figure 5, right, with the stride in the 3x3 convolution."""
    y = relu(batch_norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x), train))
    y = relu(batch_norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", y, stride=stride, padding=1), train))
    y = batch_norm(w, f"{name}.bn3", conv(w, f"{name}.conv3", y), train)
    return relu(y + shortcut(w, name, x, stride, train))


def resnet_cifar(n: int, w: Weights, x: Tensor, train: bool) -> Tensor:
    """1512.03385, section 4.2: a 3x3 convolution, three stages of n blocks, global average pooling."""
    x = relu(batch_norm(w, "bn1", conv(w, "conv1", x, padding=1), train))
    for stage in (1, 2, 3):
        for block in range(n):
            x = basic(w, f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1, train)
    return linear(w, "fc", x.mean((2, 3)))


def resnet50(w: Weights, x: Tensor, train: bool) -> Tensor:
    """1512.03385, table 1, the column for 50 layers."""
    x = relu(batch_norm(w, "bn1", conv(w, "conv1", x, stride=2, padding=3), train))
    x = pool(x, 3, 2, 1)
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            x = bottleneck(w, f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1, train)
    return linear(w, "fc", x.mean((2, 3)))


def wide(w: Weights, name: str, x: Tensor, stride: int, train: bool) -> Tensor:
    """1605.07146, figure 1 b, in the order batch norm, ReLU, convolution; a projection starts after the first ReLU."""
    active = relu(batch_norm(w, f"{name}.bn1", x, train))
    y = conv(w, f"{name}.conv1", active, stride=stride, padding=1)
    y = conv(w, f"{name}.conv2", relu(batch_norm(w, f"{name}.bn2", y, train)), padding=1)
    return y + (conv(w, f"{name}.shortcut", active, stride=stride) if f"{name}.shortcut.weight" in w else x)


def wrn16_4(w: Weights, x: Tensor, train: bool) -> Tensor:
    """1605.07146, table 1, with two blocks a stage; the last block is followed by batch norm and ReLU."""
    x = conv(w, "conv1", x, padding=1)
    for stage in (1, 2, 3):
        for block in (0, 1):
            x = wide(w, f"block{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1, train)
    return linear(w, "fc", relu(batch_norm(w, "bn1", x, train)).mean((2, 3)))


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    """One head and one token after the other; a token sees itself and those before it."""
    width = x.shape[-1]
    each = width // heads
    query, key, value = linear(w, f"{name}.qkv", x).split(width, dim=-1)
    seen = torch.zeros_like(x)
    for head in range(heads):
        own = slice(head * each, (head + 1) * each)
        for token in range(x.shape[1]):
            before = slice(0, token + 1)
            scores = (key[:, before, own] * query[:, token, None, own]).sum(-1) / math.sqrt(each)
            shares = scores.exp() / scores.exp().sum(1, keepdim=True)
            seen[:, token, own] = (shares[:, :, None] * value[:, before, own]).sum(1)
    return linear(w, f"{name}.out", seen)


def gpt(w: Weights, tokens: Tensor, *, layers: int, heads: int) -> Tensor:
    """By the docstring: a norm before each part and at the end; scores from the tokens' embedding, classes second."""
    x = w["token.weight"][tokens] + w["place.weight"][: tokens.shape[1]]
    for layer in range(layers):
        name = f"blocks.{layer}"
        x = x + attention(w, f"{name}.attention", layer_norm(w, f"{name}.norm1", x), heads)
        hidden = linear(w, f"{name}.up", layer_norm(w, f"{name}.norm2", x))
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2  # GELU
        x = x + linear(w, f"{name}.down", hidden)
    return (layer_norm(w, "norm", x) @ w["token.weight"].T).transpose(1, 2)


def drn_scores(w: Weights, x: Tensor, train: bool) -> Tensor:
    """As the docstring says: dilation 2, then 4, in place of further strides; two layers without a shortcut."""

    def block(name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        y = relu(batch_norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x, stride, dilation, dilation), train))
        y = batch_norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", y, 1, dilation, dilation), train)
        if f"{name}.downsample.0.weight" in w:
            x = batch_norm(w, f"{name}.downsample.1", conv(w, f"{name}.downsample.0", x, stride), train)
        return relu(y + x)

    size = x.shape[-1]
    x = block("layer1", relu(batch_norm(w, "bn1", conv(w, "conv1", x, 2, 1), train)))
    for layer, stride, dilation in ((2, 2, 1), (3, 1, 2), (4, 1, 4)):
        x = block(f"layer{layer}.0", x, stride, dilation)
        x = block(f"layer{layer}.1", x, 1, dilation)
    for layer, dilation in ((5, 2), (6, 1)):
        x = relu(batch_norm(w, f"layer{layer}.1", conv(w, f"layer{layer}.0", x, 1, dilation, dilation), train))
    weights = _bilinear(x.shape[-1], size).to(x.dtype)
    return weights @ conv(w, "fc", x) @ weights.T


def _bilinear(few: int, many: int) -> Tensor:
    """The weight of each of `few` pixels in each of `many`, between the middles of pixels; the edge goes on."""
    found = torch.zeros(many, few, dtype=torch.float64)
    for place in range(many):
        at = max(0.0, (place + 0.5) * few / many - 0.5)
        low = int(at)
        found[place, low] += 1 - (at - low)
        found[place, min(low + 1, few - 1)] += at - low
    return found


def lstm_scores(w: Weights, tokens: Tensor, layers: int) -> Tensor:
    """1409.2329, section 3.1: the gates i, f and o and the candidate g, which torch keeps in the order ifgo."""
    x = w["token.weight"][tokens]
    for layer in range(layers):
        of = {kind: w[f"cells.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        h = c = x.new_zeros(len(x), of["weight_hh"].shape[1])
        states = []
        for place in range(x.shape[1]):
            sums = x[:, place] @ of["weight_ih"].T + of["bias_ih"] + h @ of["weight_hh"].T + of["bias_hh"]
            i, f, g, o = sums.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        x = torch.stack(states, dim=1)
    return (x @ w["head.weight"].T + w["head.bias"]).transpose(1, 2)
