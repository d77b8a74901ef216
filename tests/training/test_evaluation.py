from __future__ import annotations

import pytest
import torch
from torch import nn

from adabatch.training.evaluation import CHUNK, evaluate, judge, share


def test_loss_and_accuracy_over_several_chunks():
    torch.manual_seed(0)
    inputs, targets = torch.randn(2 * CHUNK + 7, 5), torch.randint(0, 3, (2 * CHUNK + 7,))
    model = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5))
    model.train()
    loss, accuracy = evaluate(model, inputs, targets)
    assert model.training
    model.eval()
    scores = model(inputs).detach()
    assert loss == pytest.approx(nn.functional.cross_entropy(scores, targets).item(), rel=1e-5)
    assert accuracy == (scores.argmax(1) == targets).double().mean().item()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_also_after_an_error(training):
    model, targets = nn.Linear(5, 3).train(training), torch.zeros(4, dtype=torch.int64)
    evaluate(model, torch.randn(4, 5), targets)
    assert model.training == training
    with pytest.raises(RuntimeError):
        evaluate(model, torch.randn(4, 6), targets)
    assert model.training == training


def test_what_is_right_is_told_for_each_target():
    torch.manual_seed(0)
    inputs, targets = torch.randn(CHUNK + 5, 5), torch.randint(0, 3, (CHUNK + 5,))
    model = nn.Linear(5, 3)
    loss, right = judge(model, inputs, targets)
    assert right.tolist() == (model(inputs).argmax(1) == targets).tolist()
    assert (loss, share(right)) == evaluate(model, inputs, targets)
    text = torch.randint(0, 3, (4, 7))
    _, right = judge(nn.Identity(), torch.randn(4, 3, 7), text)
    assert right.shape == (4, 7)
