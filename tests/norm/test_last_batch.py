from __future__ import annotations

import collections
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from torch import nn

import adabatch as ab
from adabatch import norm


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)
    )


def of_first_layer(model, images):
    """Mean and biased variance of the first convolution's output."""
    out = model[0](images).double()
    return out.mean((0, 2, 3)), out.var((0, 2, 3), correction=0)


def check_first_layer(model, images, *, rtol=1e-6):
    mean, variance = of_first_layer(model, images)
    torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), variance, rtol=rtol, atol=1e-6)


def test_evaluation_takes_the_batch_trained_on_last_and_none_before():
    model, images = network(), torch.randn(3, 8, 2, 4, 4) * 3 + 5
    handle = norm.last_batch(model)
    for batch in images:
        model(batch)
    model.eval()
    model(images[0])
    check_first_layer(model, images[2])
    assert model[1].num_batches_tracked == 1
    handle.close()
    assert type(model[1]) is nn.BatchNorm2d
    check_first_layer(model, images[2])


def test_trains_as_ordinary_batch_norm_does():
    plain = network()
    mine = copy.deepcopy(plain)
    norm.last_batch(mine)
    images = torch.randn(8, 2, 4, 4)
    for model in (plain, mine):
        model(images).square().sum().backward()
    for value, twin in zip(plain.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(value.grad, twin.grad, rtol=0, atol=0)
    assert list(plain.state_dict()) == list(mine.state_dict())
    plain.load_state_dict(mine.state_dict())


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(2, 9), st.floats(-1e4, 1e4))
def test_micro_batches_of_a_batch_belong_together(size, micro, mean):
    images = torch.randn(40, 2, 4, 4, dtype=torch.float64) + mean
    model = network().double()
    handle = norm.last_batch(model)
    loader = ab.DataLoader(torch.utils.data.TensorDataset(images), batch_size=size, drop_last=True)
    loader.micro_batch_size = micro if size % micro != 1 else micro + 1
    last = None
    for part in ab.accumulate(loader, model):
        with part as (inputs,):
            (model(inputs).sum() * part.weight).backward()
        last = [inputs] if part.index == 0 else [*last, inputs]
    handle.settle()
    check_first_layer(model, torch.cat(last), rtol=1e-9)


IMAGES = torch.randn(31, 2, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 + 1


def they_put_the_global_batch_together(rank, world):
    model = network()
    with norm.last_batch(model):
        wrapped = nn.parallel.DistributedDataParallel(model)
        loader = ab.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=31)
        loader.micro_batch_size = 3  # shares of 10 and 11 samples in 4 micro-batches
        for part in ab.accumulate(loader, wrapped):
            assert part.count == 4
            with part as (inputs,):
                (wrapped(inputs).sum() * part.weight).backward()
        wrapped.eval()
        wrapped(IMAGES)
        check_first_layer(model, IMAGES)
        model.train()
        model(IMAGES[: 2 + rank])  # a pass outside is a batch of its own, over ranks
    check_first_layer(model, torch.cat([IMAGES[: 2 + each] for each in range(world)]))


def they_leave_out_repeated_samples(rank, world):
    model = network()
    handle = norm.last_batch(model)
    loader = ab.DataLoader(torch.utils.data.TensorDataset(IMAGES[:2]), batch_size=2)
    part = next(part for _, part in loader.parts())
    assert (part.size, world) == (rank < 2, 3)
    images = IMAGES[2 * rank : 2 * rank + 2] if rank < 2 else IMAGES[:1]
    for micro in ab.accumulate(ab.DataLoader(torch.utils.data.TensorDataset(IMAGES[:2]), batch_size=2), model):
        with micro:
            model(images)  # on the third rank a repeated sample
    handle.settle()
    check_first_layer(model, IMAGES[:4])


def they_recompute_over_ranks(rank, world):
    model = network()
    assert norm.recompute(model, IMAGES[rank::world].split(4)) == len(IMAGES[rank::world])
    check_first_layer(model, IMAGES)


def test_over_ranks():
    on_ranks(
        3,
        they_put_the_global_batch_together,
        they_leave_out_repeated_samples,
        they_recompute_over_ranks,
        they_recompute_over_the_loader_that_trains,
    )


def they_recompute_over_the_loader_that_trains(rank, world):
    """Shares are uneven, some empty; and a rank without any batch has the others' statistics, or the same error."""
    for batch_size, micro in ((7, None), (9, 2), (2, None)):
        model, data = network(), torch.utils.data.TensorDataset(IMAGES)
        loader = ab.DataLoader(data, batch_size=batch_size, micro_batch_size=micro, shuffle=True, seed=0)
        if batch_size > world:
            assert 0 < norm.recompute(model, loader) <= len(IMAGES)
            assert float(model[1].running_var.min()) > 0
        else:  # shares of one sample have no spread
            with pytest.raises(ValueError, match="`loader` must give a batch of two samples or more, got none"):
                norm.recompute(model, loader)
    loader = ab.DataLoader(torch.utils.data.TensorDataset(IMAGES[:10]), batch_size=10)
    one = network()
    assert norm.recompute(one, loader) == len(IMAGES[:10][rank::world])
    check_first_layer(one, IMAGES[:10])
    other = network()
    assert norm.recompute(other, [IMAGES[:10]] if rank == 0 else []) == (10 if rank == 0 else 0)
    check_first_layer(other, IMAGES[:10])


def test_recompute_is_of_all_samples_at_the_present_weights():
    model = network()
    model[2] = nn.Dropout(0.5)
    model.train()
    passed = norm.recompute(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=5))
    assert passed == 30
    assert model.training
    assert all(type(layer) in (nn.BatchNorm2d, nn.BatchNorm1d) and layer.training for layer in (model[1], model[5]))
    check_first_layer(model, IMAGES[:30])
    assert norm.recompute(model.eval(), IMAGES.split(4), samples=5) == 8
    assert not model[1].training
    check_first_layer(model, IMAGES[:8])
    assert norm.recompute(model, [(IMAGES[:8], "more")], forward=lambda batch: model(batch[0] + 1)) == 8
    check_first_layer(model, IMAGES[:8] + 1)


def test_a_pass_over_a_scheduled_loader_moves_nothing():
    loader = ab.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=5, shuffle=True, seed=0)
    optimizer = torch.optim.SGD(network().parameters(), 0.1)
    ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), coupling="none")
    first, *_ = (inputs for (inputs,) in loader)
    norm.recompute(network(), loader)
    assert loader.clock == 0
    assert next(iter(loader))[0].equal(first)


def test_no_batch_yet():
    model = network()
    norm.last_batch(model)
    model.eval()
    with pytest.raises(
        RuntimeError,
        match=r"`last_batch` needs a batch before the first evaluation, got none; train a batch first, or use `norm",
    ):
        model(IMAGES)
    model[1].num_batches_tracked.add_(1)
    model[5].num_batches_tracked.add_(1)  # as from a checkpoint
    model(IMAGES)


def test_models_that_do_not_suit():
    with pytest.raises(ValueError, match="`model` must have batch norm layers, got Linear without any"):
        norm.last_batch(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="`model` must be a network, got a batch norm layer; wrap it in a module"):
        norm.last_batch(nn.BatchNorm1d(2))
    with pytest.raises(TypeError, match=r"of the kinds BatchNorm1d, 2d and 3d only, got GhostBatchNorm2d: 1; leave"):
        norm.last_batch(norm.ghost(network()))
    with pytest.raises(ValueError, match="must have batch norm layers that keep statistics, got `track_running_stats"):
        norm.last_batch(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)))
    with pytest.raises(ValueError, match="`loader` must give a batch of two samples or more, got none"):
        norm.recompute(network(), [])
    with pytest.raises(ValueError, match="`samples` must be at least 1, got 0"):
        norm.recompute(network(), [IMAGES], samples=0)


def test_an_error_leaves_ordinary_layers(tmp_path):
    model = network()
    model[4].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"), norm.last_batch(model):
        model(IMAGES)
    assert type(model[1]) is nn.BatchNorm2d
    model = network()
    model(IMAGES)
    with pytest.raises(OSError, match="gone"), norm.last_batch(model):
        raise OSError("gone")
    assert type(model[1]) is nn.BatchNorm2d


def test_a_copy_is_on_its_own():
    model = network()
    norm.last_batch(model)
    model(IMAGES)
    twin = copy.deepcopy(model)
    twin.eval()
    twin(IMAGES)
    model(IMAGES + 1)
    check_first_layer(twin, IMAGES)


def test_a_state_dict_loaded_wins_over_the_batch_before():
    model = network()
    handle = norm.last_batch(model)
    model(IMAGES)
    best = copy.deepcopy(model.state_dict())
    plain = network()
    plain.load_state_dict(best)  # never evaluated, and yet it has the last batch
    check_first_layer(plain, IMAGES)
    model(IMAGES * 10 + 7)
    model.load_state_dict(best)
    model.eval()
    assert model(IMAGES).equal(plain.eval()(IMAGES))
    handle.settle()
    check_first_layer(model, IMAGES)


def they_load_save_and_close(rank, world):
    part = IMAGES[rank::world]
    model = network()
    handle = norm.last_batch(model)
    model(part)
    with pytest.warns(UserWarning, match="this rank's part of the last batch; call `settle\\(\\)` of the handle"):
        model.state_dict()
    handle.settle()
    best = copy.deepcopy(model.state_dict())
    check_first_layer(model, IMAGES)
    model(part * 10 + 7)
    model.load_state_dict(best)
    model.eval()
    model(part)
    check_first_layer(model, IMAGES)
    model.train()
    model(part + 1)
    norm.recompute(model, part.split(4))
    model.eval()
    model(part)
    check_first_layer(model, IMAGES)
    model.train()
    model(part + 1)
    handle.close()
    check_first_layer(model, IMAGES + 1)
    if rank == 0:
        handle.close()  # no collective any more


def test_load_save_and_close_over_ranks():
    on_ranks(2, they_load_save_and_close)


def test_close_keeps_the_last_batch_and_is_idempotent():
    model = network()
    handle = norm.last_batch(model)
    model(IMAGES)
    handle.close()
    check_first_layer(model, IMAGES)
    model.eval()
    with handle:
        handle.close()
    assert not model[1].training
    assert not model[1]._load_state_dict_post_hooks


def test_a_look_between_micro_batches_loses_none():
    model = network()
    handle = norm.last_batch(model)
    loader = ab.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=31)
    loader.micro_batch_size = 8
    for micro in ab.accumulate(loader, model):
        with micro as (inputs,):
            model(inputs)
        model.eval()
        model(IMAGES)
        model.train()
    handle.settle()
    check_first_layer(model, IMAGES)


def test_an_average_has_the_statistics_of_the_last_update():
    model = network()
    norm.last_batch(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    for shift in (0, 3):
        model.train()
        model(IMAGES + shift)
        average.update_parameters(model)
        average.eval()(IMAGES)
        check_first_layer(average.module, IMAGES + shift)
        model.eval()(IMAGES)
    norm.recompute(average.module, [IMAGES[:8]])
    average(IMAGES)
    check_first_layer(average.module, IMAGES[:8])
    torch.optim.swa_utils.update_bn([IMAGES[:8], IMAGES[8:]], average)
    average.eval()(IMAGES)
    check_first_layer(average.module, IMAGES[8:])


def test_recompute_of_a_model_with_the_last_batch():
    model = network()
    norm.last_batch(model)
    assert norm.recompute(model.eval(), IMAGES.split(4)) == 31
    model(IMAGES[:2])  # no "needs a batch"
    check_first_layer(model, IMAGES)
    model.train()
    model(IMAGES + 1)
    norm.recompute(model, IMAGES.split(4))
    model.eval()
    model(IMAGES[:2])
    check_first_layer(model, IMAGES)
    assert isinstance(model[1], norm.LastBatchNorm)


def test_recompute_with_batches_of_any_kind():
    model = network()
    batches = [{"x": IMAGES[:8], "name": "first"}, {"x": IMAGES[8:9]}, collections.UserDict(x=IMAGES[9:12])]
    assert norm.recompute(model, batches, forward=lambda batch: model(batch["x"])) == 11
    check_first_layer(model, torch.cat([IMAGES[:8], IMAGES[9:12]]))
    with pytest.raises(TypeError, match="`loader` must give tensors or tuples, got dict; pass `forward`"):
        norm.recompute(model, batches)
    with pytest.raises(TypeError, match="`loader` must give batches with tensors, got dict without any; add one"):
        norm.recompute(model, [{"x": 3}], forward=lambda batch: model(IMAGES))


def test_a_second_call_says_what_to_do():
    model = network()
    handle = norm.last_batch(model)
    with pytest.raises(ValueError, match="must not have batch norm of the last batch already, got a layer with it: 1;"):
        norm.last_batch(model)
    with pytest.raises(TypeError, match=r"got LastBatchNorm2d: 1; leave out `norm\.last_batch`, or `close"):
        norm.sync(model)
    handle.close()
    norm.last_batch(model)


@pytest.mark.gpu
def test_on_a_gpu():
    model, images = network().cuda(), (torch.randn(3, 8, 2, 4, 4) * 3 + 5).cuda()
    norm.last_batch(model)
    for batch in images:
        model(batch)
    model.eval()
    model(images[0])
    check_first_layer(model, images[2], rtol=1e-5)
