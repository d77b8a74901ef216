from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from adabatch.lab.tasks.objective import Classification


def drawn(seed: int, samples: int, *, classes: int = 4, places: tuple[int, ...] = (3, 5)):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(samples, classes, *places, dtype=torch.float64, generator=generator).requires_grad_()
    return scores, torch.randint(0, classes, (samples, *places), generator=generator)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_parts_of_a_batch_weighted_by_their_samples_give_its_loss_and_gradient(data: st.DataObject) -> None:
    """Also where the parts have other shares of void targets, or nothing else."""
    samples = data.draw(st.integers(2, 7))
    scores, targets = drawn(data.draw(st.integers(0, 999)), samples)
    targets[data.draw(st.integers(0, samples - 1))] = 2  # a sample without a label
    aim = Classification(void=data.draw(st.sampled_from([2, None]))).smoothed(data.draw(st.sampled_from([0.0, 0.3])))
    whole = aim.loss(scores, targets)
    (wanted,) = torch.autograd.grad(whole, scores)
    cuts = sorted(data.draw(st.sets(st.integers(1, samples - 1))))
    parts = zip([0, *cuts], [*cuts, samples], strict=True)
    total = sum(aim.loss(scores[a:b], targets[a:b]) * (b - a) / samples for a, b in parts)
    (found,) = torch.autograd.grad(total, scores)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(found, wanted)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.2]))
def test_void_targets_against_a_sum_over_the_others(seed: int, smoothing: float) -> None:
    scores, targets = drawn(seed, 4)
    aim = Classification(void=1, label_smoothing=smoothing)
    expected, right, labelled = 0.0, 0, 0
    for place in torch.cartesian_prod(*map(torch.arange, targets.shape)):
        sample, row, column = place.tolist()
        target = int(targets[sample, row, column])
        if target == 1:
            continue
        log_shares = functional.log_softmax(scores[sample, :, row, column], 0)
        expected -= (1 - smoothing) * log_shares[target].item() + smoothing * log_shares.mean().item()
        labelled += 1
        right += int(scores[sample, :, row, column].argmax()) == target
    assert aim.loss(scores, targets).item() == pytest.approx(expected / targets.numel())
    counted = aim.counted(targets)
    assert counted.sum() == labelled
    assert aim.right(scores, targets)[counted].sum() == right


def test_without_a_void_class_it_is_torchs_cross_entropy_bit_for_bit() -> None:
    scores, targets = drawn(0, 6)
    for smoothing in (0.0, 0.1):
        expected = functional.cross_entropy(scores, targets, label_smoothing=smoothing)
        assert torch.equal(Classification().smoothed(smoothing).loss(scores, targets), expected)
    assert Classification().counted(targets).all()


def test_chance_is_the_most_frequent_class() -> None:
    assert Classification().chance(torch.tensor([0, 2, 2, 1, 2, 0])) == 0.5
    assert Classification().chance(torch.tensor([[4, 4], [4, 1]])) == 0.75  # text: every token counts
    assert Classification(void=4).chance(torch.tensor([[4, 4], [2, 1], [4, 1]])) == 2 / 3  # void ones do not
    for classes in (2, 10):
        even = torch.arange(classes).repeat(7)
        assert Classification().chance(even) == pytest.approx(1 / classes)
