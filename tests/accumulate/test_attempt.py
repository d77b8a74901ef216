"""Weights other than samples: the gradient is that of the batch's mean over tokens, whatever the cuts and the ranks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from tests.waits import Calls
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.accumulate import _attempt
from adabatch.accumulate._attempt import Snapshot, power_of_two

VOCABULARY, LENGTH = 7, 6


def sentences(count, *, most=LENGTH, seed=0):
    """Token rows of 0 to `most` tokens, the rest padding; some rows hold padding only."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (count, LENGTH), generator=generator)
    lengths = torch.randint(0, most + 1, (count, 1), generator=generator)
    return TensorDataset(tokens, torch.where(torch.arange(LENGTH) < lengths, tokens.roll(-1, 1), -100))


def language_model():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Embedding(VOCABULARY, 4), torch.nn.Tanh(), torch.nn.Linear(4, VOCABULARY)
    ).double()


def loss_sum(model, batch):
    tokens, targets = batch
    return torch.nn.functional.cross_entropy(
        model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )


def gradient(model):
    grads = (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in model.parameters())
    return torch.cat([grad.flatten() for grad in grads])


def expected(data, **arguments):
    """The gradient of each batch's mean loss over tokens, in one go."""
    model, found = language_model(), []
    for batch in ab.DataLoader(data, shard=False, **arguments):
        model.zero_grad()
        loss = loss_sum(model, batch)
        (loss / max(int((batch[1] != -100).sum()), 1)).backward()
        found.append(gradient(model).clone())
    return found


def found_by(model, loader, **arguments):
    found = []
    for micro in ab.accumulate(loader, model, **arguments):
        with micro as batch:
            (loss_sum(model, batch) * micro.weigh((batch[1] != -100).sum())).backward()
        if micro.is_last:
            found.append(gradient(model).clone())
            model.zero_grad()
    return found


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_token_weights(draw):
    count = draw.draw(st.integers(1, 30), label="samples")
    batch_size = draw.draw(st.integers(1, count), label="batch size")
    micro = draw.draw(st.none() | st.integers(1, count), label="micro-batch size")
    data = sentences(count, most=draw.draw(st.integers(0, LENGTH)), seed=draw.draw(st.integers(0, 5)))
    arguments = {"batch_size": batch_size, "shuffle": True, "seed": 0}
    loader = ab.DataLoader(data, micro_batch_size=micro, **arguments)
    recover = draw.draw(st.booleans(), label="recover")
    assert_same(found_by(language_model(), loader, recover=recover), expected(data, **arguments))


def test_numbers_and_tensors_weigh_the_same():
    data = sentences(12)
    results = []
    for convert in (int, float, lambda total: total, lambda total: total.float().reshape(1, 1)):
        model = language_model()
        for micro in ab.accumulate(ab.DataLoader(data, batch_size=12, micro_batch_size=5), model):
            with micro as batch:
                (loss_sum(model, batch) * micro.weigh(convert((batch[1] != -100).sum()))).backward()
        results.append(gradient(model))
    assert all(torch.equal(results[0], other) for other in results)


def test_the_guess_never_shows_in_the_result():
    data, results = sentences(24), []
    for guess in (2**-9, 0.9, 1.0, 700.0):
        model = language_model().float()
        _attempt._WEIGHT_OF_A_SAMPLE[model] = {False: guess}
        loader = ab.DataLoader(data, batch_size=24, micro_batch_size=5)
        results += found_by(model, loader)
    assert all(torch.equal(results[0], other) for other in results)


def test_the_loss_stays_the_size_of_a_mean():
    """A plain sum of the losses of a batch would overflow the loss scaling of half precision."""
    data = sentences(4096)
    for micro in ab.accumulate(ab.DataLoader(data, batch_size=4096, micro_batch_size=2048), language_model()):
        with micro as batch:
            tokens = (batch[1] != -100).sum()
            assert 0.3 < tokens * micro.weigh(tokens) < 0.7


def test_gradients_are_corrected_before_clipping():
    data, model = sentences(8), language_model()
    for micro in ab.accumulate(ab.DataLoader(data, batch_size=8, micro_batch_size=3), model):
        with micro as batch:
            (loss_sum(model, batch) * micro.weigh((batch[1] != -100).sum())).backward()
        if micro.is_last:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert norm.item() == pytest.approx(expected(data, batch_size=8)[0].norm().item(), rel=1e-10)


def test_a_batch_in_which_nothing_counts_has_gradient_zero():
    data = TensorDataset(torch.zeros(4, LENGTH, dtype=torch.long), torch.full((4, LENGTH), -100))
    (found,) = found_by(language_model(), ab.DataLoader(data, batch_size=4, micro_batch_size=3))
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize(
    ("total", "error", "message"),
    [
        (-1, ValueError, "`total` must be at least 0, got -1"),
        (float("nan"), ValueError, "`total` must be finite, got nan"),
        ("5", TypeError, "`total` must be a number, got '5'"),
        (torch.ones(3), TypeError, r"`total` must be one number, got a tensor of shape \(3,\); sum it: `mask.sum\(\)`"),
    ],
)
def test_bad_weights(total, error, message):
    micro = next(ab.accumulate(ab.DataLoader(sentences(4), batch_size=4), language_model()))
    with micro, pytest.raises(error, match=message):
        micro.weigh(total)


def test_weights_need_the_model():
    micro = next(ab.accumulate(ab.DataLoader(sentences(4), batch_size=4)))
    with (
        micro,
        pytest.raises(ValueError, match=r"`model` must be given where micro-batches are weighed.*accumulate\(lo"),
    ):
        micro.weigh(1)


def test_weighing_some_only():
    micros = ab.accumulate(ab.DataLoader(sentences(4), batch_size=4, micro_batch_size=2), language_model())
    with next(micros) as _batch:
        pass
    expected = pytest.raises(
        RuntimeError, match=r"1 of 2 micro-batches of a batch were weighed.*`micro.weigh\(total\)`"
    )
    with expected, (micro := next(micros)):
        micro.weigh(1)


def test_power_of_two():
    assert [power_of_two(value) for value in (0.0, 1e-3, 1, 90, 100, 2**20)] == [1, 2**-10, 1, 64, 128, 2**20]


# Ranks: uneven and empty shares.

CASES = ((22, 8, 2), (9, 7, 1), (7, 3, 1), (5, 1, None))


def check_ddp(rank, world):
    for recover in (True, False):
        for count, batch_size, micro in CASES:
            arguments = {"batch_size": batch_size, "shuffle": True, "seed": 0}
            data = sentences(count)
            loader = ab.DataLoader(data, micro_batch_size=micro, **arguments)
            model = DistributedDataParallel(language_model())
            found = found_by(model, loader, recover=recover)
            del model
            assert_same(found, expected(data, **arguments))


def check_without_wrapper(rank, world):
    for count, batch_size, micro in CASES:
        arguments = {"batch_size": batch_size, "shuffle": True, "seed": 0}
        data = sentences(count)
        found = found_by(language_model(), ab.DataLoader(data, micro_batch_size=micro, **arguments))
        for each in found:
            dist.all_reduce(each)
        assert_same(found, expected(data, **arguments))


def check_fully_shard(rank, world):
    for count, batch_size, micro in CASES[:2]:
        arguments = {"batch_size": batch_size, "shuffle": True, "seed": 0}
        data, model = sentences(count), language_model()
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
        found = found_by(model, ab.DataLoader(data, micro_batch_size=micro, **arguments))
        del model
        assert_same(found, expected(data, **arguments))


def check_whole_batches_on_each_rank(rank, world):
    """`shard=False`: every rank has the whole batch, so its mean is the mean."""
    data, model = sentences(12), DistributedDataParallel(language_model())
    arguments = {"batch_size": 5, "shuffle": True, "seed": 0}
    found = found_by(model, ab.DataLoader(data, micro_batch_size=2, shard=False, **arguments))
    assert_same(found, expected(data, **arguments))
    loader = ab.DataLoader(data, batch_size=4, micro_batch_size=2, shard=False)
    assert [micro.weight for micro in ab.accumulate(loader, model)] == [0.5] * 6
    del model


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_ddp, check_without_wrapper, check_fully_shard, check_whole_batches_on_each_rank)


@pytest.mark.parametrize("weighed", [False, True])
def test_loss_scaling_of_fp16_stands_around_the_weights(weighed):
    """With GradScaler the unscaled gradients are the batch's; a micro-batch that overflows skips the batch's step."""
    data = TensorDataset(torch.randn(14, 3), torch.randn(14, 1))
    model, whole = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    whole.load_state_dict(model.state_dict())
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    loader = ab.DataLoader(data, batch_size=6, micro_batch_size=4)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    skipped = []
    for micro in ab.accumulate(loader, model):
        with micro as (inputs, targets):
            losses = (model(inputs) - targets).square()
            loss = losses.sum() * micro.weigh(len(inputs)) if weighed else losses.mean() * micro.weight
            scaler.scale(loss * (torch.inf if loader.clock == 6 and micro.is_last else 1)).backward()
        if micro.is_last:
            scaler.unscale_(optimizer)
            whole.zero_grad()
            inputs, targets = data[loader.clock : loader.clock + 6]
            (whole(inputs) - targets).square().mean().backward()
            skipped.append(not torch.allclose(model.weight.grad, whole.weight.grad, rtol=1e-5))
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            assert (scaler.get_scale() < scale) == skipped[-1]
            optimizer.zero_grad()
            batches.step()
    assert skipped == [False, True, False]
    assert loader.clock == 14


def test_buffers_are_copied_by_one_call_for_each_type_and_put_back():
    """A list of several types a GPU would copy one by one, which takes longer than some steps."""
    model = torch.nn.Sequential(*(torch.nn.BatchNorm1d(3) for _ in range(4)))
    snapshot = Snapshot([model], list(model.parameters()))
    for _ in range(3):
        model(torch.randn(5, 3))
        with Calls() as calls:
            snapshot.keep()
        assert calls.counts["_foreach_copy_"] == 2  # float32 and int64
    expected = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(5, 3))
    assert model[3].num_batches_tracked == 4
    snapshot.restore()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name])
    model[0].running_mean = None  # as a network that changes
    snapshot.keep()
    snapshot.restore()
    assert model[0].running_mean is None
