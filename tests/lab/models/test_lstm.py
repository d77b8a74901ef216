from __future__ import annotations

import pytest
import torch
from tests.lab.models.naive import lstm_scores

from adabatch.lab import models


def small(**more):
    torch.manual_seed(0)
    return models.lstm(**{"vocabulary": 7, "context": 6, "width": 5, **more})


def test_scores_against_the_formulas():
    model = small().double()
    tokens = torch.randint(0, 7, (3, 6))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    torch.testing.assert_close(model(tokens), lstm_scores(weights, tokens, layers=2))
    assert model(tokens).shape == (3, 7, 6)


def test_a_score_sees_no_later_token_and_no_other_sequence():
    model, tokens = small(), torch.randint(0, 7, (3, 6))
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 7
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :, :4], after[0, :, :4])
    assert not torch.equal(before[0, :, 4:], after[0, :, 4:])
    torch.testing.assert_close(before[1:], after[1:])
    torch.testing.assert_close(model(tokens)[1:2], model(tokens[1:2]))


def test_about_as_many_parameters_as_the_gpt():
    gpt, lstm = (
        sum(parameter.numel() for parameter in models.build(name, vocabulary=65, context=128).parameters())
        for name in ("gpt", "lstm")
    )
    assert lstm == 835_585
    assert 0.9 < lstm / gpt < 1.1
    assert f"{lstm:,}" in models.lstm.__doc__


def test_it_learns_what_follows_a_token():
    model = small(width=16, layers=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    sequences = (torch.arange(7).repeat(3)[None] + torch.arange(4)[:, None]) % 7
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(sequences[:, :-1]), sequences[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_bad_arguments():
    with pytest.raises(ValueError, match="`vocabulary` must be at least 2, got 1"):
        models.lstm(vocabulary=1)
    for name in ("context", "width", "layers"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            models.lstm(**{name: 0})
    with pytest.raises(ValueError, match=r"inputs described by in_channels.*, got lstm, which is described by vocabul"):
        models.build("lstm", in_channels=1, image_size=8, classes=10)
