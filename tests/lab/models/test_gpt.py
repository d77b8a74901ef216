"""The small GPT: causal, initialised as published, with the classes where the loss wants them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.lab.models import checks, naive

from adabatch.lab import models


def test_parameter_count_by_arithmetic() -> None:
    width, layers = 128, 4
    block = 4 * width + (3 * width * width + 3 * width) + (width * width + width) + (8 * width * width + 5 * width)
    expected = 65 * width + 128 * width + layers * block + 2 * width
    assert expected == 818_048
    assert sum(parameter.numel() for parameter in models.gpt().parameters()) == expected


def test_a_token_sees_none_behind_it() -> None:
    torch.manual_seed(0)
    model = models.gpt(vocabulary=7, context=12, width=16, layers=2, heads=2)
    tokens = torch.randint(0, 7, (3, 12))
    changed = tokens.clone()
    changed[:, 5] = (tokens[:, 5] + 1) % 7
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 7, 12)
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5])
    assert all((before[:, :, i] != after[:, :, i]).any() for i in range(5, 12))
    torch.testing.assert_close(model(tokens[:, :4]), before[:, :, :4])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = models.gpt()
    block = model.blocks[1]
    for weight, std in (
        (model.token.weight, 0.02),
        (block.attention.qkv.weight, 0.02),
        (block.attention.out.weight, 0.02 / math.sqrt(8)),
        (block.down.weight, 0.02 / math.sqrt(8)),
        (block.up.weight, 0.02),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert not block.attention.qkv.bias.any()
    assert model.head.weight is model.token.weight
    loss = torch.nn.functional.cross_entropy(model(torch.randint(0, 65, (4, 128))), torch.randint(0, 65, (4, 128)))
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


def test_it_learns_to_repeat() -> None:
    torch.manual_seed(0)
    model = models.gpt(vocabulary=5, context=8, width=32, layers=1, heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    text = torch.arange(900) % 5
    sequences = text[: 8 * 100].view(100, 8), text[1 : 8 * 100 + 1].view(100, 8)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.CrossEntropyLoss()(model(sequences[0]), sequences[1])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_networks_for_images_and_for_text_are_not_mixed_up() -> None:
    assert models.build("gpt", vocabulary=3, context=4)(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 3, 4)
    with pytest.raises(
        ValueError, match="`image_size` must be given for resnet20, which is described by in_channels, i"
    ):
        models.build("resnet20", in_channels=3)
    with pytest.raises(ValueError, match="inputs described by in_channels, image_size, classes, got gpt, which"):
        models.build("gpt", in_channels=1, image_size=8, classes=2)
    with pytest.raises(ValueError, match="inputs described by vocabulary, context, got mlp, which is described by i"):
        models.build("mlp", vocabulary=3, context=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 1}, "`vocabulary` must be at least 2, got 1"),
        ({"context": 0}, "`context` must be at least 1, got 0"),
        ({"heads": 3}, "`heads` must divide `width` = 128, got 3; use a divisor"),
        ({"layers": 0}, "`layers` must be at least 1, got 0"),
    ],
)
def test_numbers_that_cannot_be(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.gpt(**change)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (3, 4)])
def test_scores_of_gpt_are_those_of_its_docstring(layers, heads):
    model = checks.with_weights(models.gpt, vocabulary=11, context=9, width=16, layers=layers, heads=heads)
    model.head.weight = model.token.weight  # moving the network from one device to another parts the two
    w = copy.deepcopy(dict(model.state_dict()))
    tokens = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        scores, wanted = model(tokens), naive.gpt(w, tokens, layers=layers, heads=heads)
    assert scores.std() > 1e-3
    torch.testing.assert_close(scores, wanted, rtol=1e-9, atol=1e-9)


def test_the_default_gpt_has_four_heads():
    model = models.build("gpt", vocabulary=11, context=9).eval()
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = naive.gpt(dict(model.state_dict()), tokens, layers=4, heads=4)
        torch.testing.assert_close(model(tokens), wanted)
