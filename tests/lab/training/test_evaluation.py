from __future__ import annotations

import pytest
import torch
from torch import nn

from adabatch.lab.tasks.objective import Classification
from adabatch.lab.training.evaluation import CHUNK, accuracy_of, chance_end, evaluate
from adabatch.lab.training.ranks import Ranks


def test_loss_and_accuracy_over_several_chunks():
    torch.manual_seed(0)
    inputs, targets = torch.randn(2 * CHUNK + 7, 5), torch.randint(0, 3, (2 * CHUNK + 7,))
    model = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5))
    model.train()
    loss, right = evaluate(model, inputs, targets)
    assert model.training
    model.eval()
    scores = model(inputs).detach()
    assert loss == pytest.approx(nn.functional.cross_entropy(scores, targets).item(), rel=1e-5)
    assert accuracy_of(right) == (scores.argmax(1) == targets).double().mean().item()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_also_after_an_error(training):
    model, targets = nn.Linear(5, 3).train(training), torch.zeros(4, dtype=torch.int64)
    evaluate(model, torch.randn(4, 5), targets)
    assert model.training == training
    with pytest.raises(RuntimeError):
        evaluate(model, torch.randn(4, 6), targets)
    assert model.training == training


def test_somebody_may_look_after_each_chunk():
    seen, model = [], nn.Linear(5, 3).eval()

    def look():
        seen.append(model.training)
        if len(seen) == 4:
            raise KeyError("enough")

    inputs, targets = torch.randn(10, 5), torch.zeros(10, dtype=torch.int64)
    assert evaluate(model, inputs, targets, chunk=4, after=look)[0] == evaluate(model, inputs, targets, chunk=4)[0]
    assert seen == [False] * 3
    model.train()
    with pytest.raises(KeyError, match="enough"):
        evaluate(model, inputs, targets, chunk=4, after=look)
    assert model.training


def test_what_is_right_is_told_for_each_target():
    torch.manual_seed(0)
    inputs, targets = torch.randn(CHUNK + 5, 5), torch.randint(0, 3, (CHUNK + 5,))
    model = nn.Linear(5, 3)
    _, right = evaluate(model, inputs, targets)
    assert right.tolist() == (model(inputs).argmax(1) == targets).tolist()
    text = torch.randint(0, 3, (4, 7))
    _, right = evaluate(nn.Identity(), torch.randn(4, 3, 7), text)
    assert right.shape == (4, 7)


@pytest.mark.parametrize("world", [1, 3])
def test_where_some_targets_do_not_count(world):
    """The loss is divided by all of them, what is right is told of the others; ranks share the chunks exactly."""
    torch.manual_seed(0)
    scores, targets = torch.randn(10, 3, 4, 4), torch.randint(0, 3, (10, 4, 4))
    aim = Classification(void=1)
    how = {"objective": aim, "chunk": 3}
    found = [evaluate(nn.Identity(), scores, targets, ranks=Rank(n, world), **how) for n in range(world)]
    assert sum(loss for loss, _ in found) == pytest.approx(aim.loss(scores, targets).item(), rel=1e-6)
    right = sum(right.int() for _, right in found)
    assert right.tolist() == (scores.argmax(1) == targets)[targets != 1].tolist()


class Rank(Ranks):
    """One of several processes, whose sums are left to the test."""

    def __init__(self, rank, world):
        self.rank, self.world = rank, world

    def sum(self, value):
        return value


def test_the_end_of_chance_is_three_standard_errors_above():
    """Of a thousand guessers, few are above; one that knows anything to speak of is."""
    assert chance_end(0.1, count=900) == pytest.approx(0.13)
    torch.manual_seed(0)
    draws = torch.distributions.Binomial(360, torch.tensor(0.12)).sample((1000,)) / 360
    assert (draws > chance_end(0.12, count=360)).sum() <= 10
    assert chance_end(1.0, count=5) == 1.0
