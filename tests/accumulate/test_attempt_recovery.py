"""Out of memory: the same batch again, in halves, and nothing of the failed attempt left."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, TensorDataset

import adabatch as ab


class Limited(torch.nn.Module):
    """A model that runs out of memory, as a device would, above `fits` samples; `when` picks forward or backward."""

    def __init__(self, fits, *, rank=None, when="forward"):
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.3),
            torch.nn.Tanh(),
            torch.nn.Linear(8, 1),
        )
        self.fits, self.when, self.calls, self.failures = fits, when, 0, 0
        self.here = rank is None or dist.get_rank() == rank

    def forward(self, x):
        self.calls += 1
        out = self.layers(x)  # the failed pass has touched buffers and random states already
        if self.here and len(x) > self.fits:
            if self.when == "forward":
                self.fail()
            out.register_hook(lambda _gradient: self.fail())
        return out + random.random() * 1e-3 + np.random.rand() * 1e-3

    def fail(self):
        self.failures += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def data(count=44):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator))


class Noisy(Dataset):
    """Samples with a random transform."""

    def __init__(self):
        self.data = data()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + torch.randn(3) * 0.1, y


def train(model, micro, *, wrap=lambda model: model, epochs=2, scheduled=True, dataset=None, **arguments):
    """Parameters, buffers, optimizer state, and random states after training."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(7)
    wrapped = wrap(model)
    loader = ab.DataLoader(dataset or data(), batch_size=16, shuffle=True, seed=0, micro_batch_size=micro, **arguments)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = None
    if scheduled:
        batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=epochs)
    updates = 0
    for _ in range(epochs):
        for part in ab.accumulate(loader, wrapped):
            with part as (x, y):
                (torch.nn.functional.mse_loss(wrapped(x), y) * part.weight).backward()
            if part.is_last:
                optimizer.step()
                optimizer.zero_grad()
                updates += 1
                if batches is not None:
                    batches.step()
    del wrapped
    momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
    found = [*model.state_dict().values(), *momentum, torch.get_rng_state(), torch.tensor(random.random())]
    found += [torch.tensor(np.random.rand()), torch.tensor([updates, loader.clock, loader.micro_batch_size])]
    return found


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other), (one, other)


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("micro", [None, 16, 12])
def test_as_if_begun_with_the_halved_size(when, scheduled, micro):
    model = Limited(7 if micro == 12 else 8, when=when)
    with pytest.warns(RuntimeWarning, match=r"memory ran out on this rank .* of \d+ samples; .* is repeated with \d+"):
        found = train(model, micro, scheduled=scheduled)
    half = int(found[-1][-1])
    assert half == {None: 8, 16: 8, 12: 4}[micro]
    assert model.failures == 1, "later batches begin with what fits"
    assert_equal(found, train(Limited(1000), half, scheduled=scheduled))


def test_several_halvings():
    found = []
    with pytest.warns(RuntimeWarning) as seen:
        found = train(Limited(3), 15)
    assert [str(each.message).split(" samples")[0].rsplit(" ", 1)[1] for each in seen] == ["8", "4"]
    assert_equal(found, train(Limited(1000), 2))


def test_a_failure_in_the_last_micro_batch():
    """The first micro-batch, of 5, fits; the second, of 6, does not."""
    results = []
    for fits, micro in ((5, 6), (1000, 3)):
        model = Limited(fits)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        stream = ab.accumulate(ab.DataLoader(data(11), batch_size=11, micro_batch_size=micro), model)
        if fits == 5:
            with pytest.warns(RuntimeWarning, match="of 6 samples; the batch at sample 0 is repeated with 3"):
                run(model, stream)
        else:
            run(model, stream)
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    assert_equal(*results)


@pytest.mark.parametrize("arguments", [{}, {"num_workers": 2}, {"sample_rng": False}, {"drop_last": True}])
def test_random_transforms_are_drawn_again(arguments):
    with pytest.warns(RuntimeWarning, match="is repeated with 4"):
        found = train(Limited(4), 8, dataset=Noisy(), **arguments)
    assert_equal(found, train(Limited(1000), 4, dataset=Noisy(), **arguments))


def test_gradients_that_were_there_are_put_back():
    """The first micro-batch, of 5, has added to them when the second, of 6, fails."""
    results = []
    for fits, micro in ((5, 6), (1000, 3)):
        model = Limited(fits)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        there = [p.grad for p in model.parameters()]
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        stream = ab.accumulate(ab.DataLoader(data(11), batch_size=11, micro_batch_size=micro), model)
        if fits == 5:
            with pytest.warns(RuntimeWarning, match="repeated with 3"):
                run(model, stream)
        else:
            run(model, stream)
        assert all(p.grad is grad for p, grad in zip(model.parameters(), there, strict=True))
        results.append(there)
    assert_equal(*results)


def run(model, stream):
    for micro in stream:
        with micro as (x, y):
            (torch.nn.functional.mse_loss(model(x), y) * micro.weight).backward()


def test_what_a_loop_sees():
    model, seen = Limited(2), []

    def loop():
        for micro in ab.accumulate(ab.DataLoader(data(8), batch_size=8, micro_batch_size=4), model):
            with micro as (x, _y):
                model(x).sum().backward()
            seen.append((micro.index, micro.count, micro.failed, micro.is_last))

    with pytest.warns(RuntimeWarning):
        loop()
    assert seen[:2] == [(0, 2, True, False), (0, 4, False, False)]
    assert seen[-1] == (3, 4, False, True)
    assert len(seen) == 5


def test_weighed_micro_batches():
    results = []
    for fits, micro_size in ((2, 8), (1000, 2)):
        model = Limited(fits)
        model.layers[1] = torch.nn.Identity()
        model.layers[2] = torch.nn.Identity()
        stream = ab.accumulate(ab.DataLoader(data(8), batch_size=8, micro_batch_size=micro_size), model)
        random.seed(0)
        np.random.seed(0)
        if fits == 2:
            with pytest.warns(RuntimeWarning):
                weigh(model, stream)
        else:
            weigh(model, stream)
        results.append([p.grad for p in model.parameters()])
    assert_equal(*results)


def weigh(model, stream):
    for micro in stream:
        with micro as (x, _y):
            factor = micro.weigh((x > 0).sum())
            (model(x).sum() * factor).backward()


def test_one_sample_does_not_fit():
    model = Limited(0)
    model.layers[1] = torch.nn.Identity()
    stream = ab.accumulate(ab.DataLoader(data(8), batch_size=8, micro_batch_size=2), model)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(
            torch.OutOfMemoryError, match=r"on this rank with micro-batches of one sample, .*Tried to allocate"
        ),
    ):
        run(model, stream)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [({"recover": False}, "`recover` is False"), ({"model": None}, "`accumulate` was not given the model")],
)
def test_not_repeated(arguments, why):
    model = Limited(2)
    arguments = {"model": model} | arguments
    stream = ab.accumulate(ab.DataLoader(data(8), batch_size=8, micro_batch_size=4), **arguments)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate") as caught:
        run(model, stream)
    assert f"not repeated in smaller micro-batches: {why}; set a smaller `loader.micro_b" in caught.value.__notes__[0]


def test_other_errors_pass():
    model = Limited(100)
    micro = next(ab.accumulate(ab.DataLoader(data(8), batch_size=8), model))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), micro:
        model(torch.zeros(2, 5))
    assert micro.is_last
    assert not micro.failed


def test_the_cpu_says_it_otherwise():
    model = torch.nn.Linear(3, 1)
    stream = ab.accumulate(ab.DataLoader(data(8), batch_size=8), model)
    micro = next(stream)
    with micro:
        torch.empty(2**60, dtype=torch.uint8)
    assert micro.failed
    with pytest.warns(RuntimeWarning, match="repeated with 4"):
        assert next(stream).count == 2


# Ranks.


def ddp(**arguments):
    return lambda model: DistributedDataParallel(model, **arguments)


def check_one_rank_fails(rank, world):
    for failing in range(world):
        for when, arguments in (
            ("forward", {}),
            ("backward", {"find_unused_parameters": True}),
            ("forward", {"gradient_as_bucket_view": True, "broadcast_buffers": False}),
        ):
            model = Limited(2, rank=failing, when=when)
            where = "this" if rank == failing else "another"
            with pytest.warns(RuntimeWarning, match=f"memory ran out on {where} rank with micro-batches of 4"):
                found = train(model, 4, wrap=ddp(**arguments))
            assert model.failures == (rank == failing)
            assert_equal(found, train(Limited(1000), 2, wrap=ddp(**arguments)))


def check_against_ddp(rank, world):
    """Without a failure the result is what DDP's own reduction gives, buffers included."""
    random.seed(0)
    ours = train(Limited(1000), 4, wrap=ddp())
    plain = Limited(1000)
    assert_equal(ours, train(plain, 4, wrap=_hooked))


def _hooked(model):
    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(None, _reduce)
    return wrapped


def _reduce(_state, bucket):
    buffer = bucket.buffer().div_(dist.get_world_size())
    return dist.all_reduce(buffer, async_op=True).get_future().then(lambda future: future.value()[0])


def check_static_graph(rank, world):
    """DDP must reduce the first batches of a static graph itself; a failure is mended after them."""

    class Late(Limited):
        def forward(self, x):
            self.fits = 1000 if self.calls < 8 else 2
            return super().forward(x)

    with pytest.warns(RuntimeWarning, match="is repeated with 2"):
        found = train(Late(2), 4, wrap=ddp(static_graph=True))
    assert all(torch.isfinite(each).all() for each in found)


def check_unused_parameters(rank, world):
    """A parameter that only one rank used is averaged over all; one that none used keeps no gradient."""
    model = torch.nn.ModuleList([torch.nn.Linear(3, 1, bias=False) for _ in range(3)])
    wrapped = DistributedDataParallel(Choice(model), find_unused_parameters=True)
    for micro in ab.accumulate(ab.DataLoader(data(8), batch_size=8), wrapped):
        with micro as (x, _y):
            (wrapped(x, rank).sum() * 0 + model[rank].weight.sum()).backward()
    assert torch.equal(model[0].weight.grad, torch.full((1, 3), 0.5))
    assert torch.equal(model[1].weight.grad, torch.full((1, 3), 0.5))
    assert model[2].weight.grad is None
    del wrapped


def check_ignored_parameters(rank, _world):
    """What DDP was told to leave alone stays the rank's own, as by DDP itself."""
    found = []
    for recover in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["1.weight", "1.bias"])
        wrapped = DistributedDataParallel(model)
        for micro in ab.accumulate(ab.DataLoader(data(8), batch_size=8, seed=0), wrapped, recover=recover):
            with micro as (x, _y):
                ((1 + rank) * wrapped(x).square().mean() * micro.weight).backward()
        found.append([p.grad.clone() for p in model.parameters()])
        del wrapped
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)
    own = [None, None]
    dist.all_gather_object(own, found[0][2])
    assert not torch.allclose(*own)


class Choice(torch.nn.Module):
    def __init__(self, models):
        super().__init__()
        self.models = models

    def forward(self, x, which):
        return self.models[which](x)


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_one_rank_fails, check_against_ddp, check_static_graph, check_unused_parameters)
    on_ranks(2, check_ignored_parameters)


def check_sharded(rank, world):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    try:
        for micro in ab.accumulate(ab.DataLoader(data(8), batch_size=8, micro_batch_size=2), model):
            with micro as (x, _y):
                out = model(x)
                if rank == 1:
                    raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
                out.sum().backward()
    except RuntimeError:
        if rank == 0:  # its peer is gone: it is terminated once that one's error is seen
            time.sleep(60)
        raise


@pytest.mark.world_size(2)
def test_sharded_parameters_end_all_ranks_with_one_message():
    message = (
        r"the batch cannot be repeated: parameters are sharded, so .*The run ends on all ranks; start again from the "
        r"last checkpoint and set a smaller `loader.micro_batch_size` on every rank. Tried to allocate 2.00 GiB"
    )
    with pytest.raises(ProcessRaisedException, match=message) as caught:
        on_ranks(2, check_sharded)
    assert caught.value.error_index == 1


def check_sync_batch_norm(rank, world):
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    model.module.register_module("norm", torch.nn.SyncBatchNorm(1))
    micro = next(ab.accumulate(ab.DataLoader(data(8), batch_size=8), model))
    with pytest.raises(torch.OutOfMemoryError) as caught, micro:
        raise torch.OutOfMemoryError("no room")
    assert "batch norm over ranks makes the others wait" in caught.value.__notes__[0]
    del model


@pytest.mark.world_size(2)
def test_sync_batch_norm_is_not_repeated():
    on_ranks(2, check_sync_batch_norm)


def batches_of(loader, model, *, change=None, leave=None):
    """Numbers of the samples of each batch; `change` gets its index and the loader before each of its attempts."""
    found = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    driven = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant()) if leave is not None else None
    for micro in ab.accumulate(loader, model):
        if micro.index == 0:
            found.append([])
            if change is not None:
                change(len(found) - 1, loader)
        with micro as (numbers,):
            (model(numbers[:, None].float()).sum() * micro.weight).backward()
        if micro.failed:
            found.pop()
            continue
        found[-1] += numbers.tolist()
        if micro.is_last and driven is not None and len(found) - 1 != leave:
            optimizer.step()
            driven.step()
    return found


class FullOnce(torch.nn.Linear):
    """Runs out of memory once, at the sample of that number."""

    def __init__(self, number):
        super().__init__(1, 1)
        self.number = number

    def forward(self, x):
        if self.number in x.flatten().tolist():
            self.number = None
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


@pytest.mark.filterwarnings("ignore:memory ran out")
@pytest.mark.parametrize("number", [1, 3])
def test_a_size_assigned_in_the_batch_that_fails_holds_after_it(number):
    loader = ab.DataLoader(TensorDataset(torch.arange(28)), batch_size=4, micro_batch_size=2)
    attempts = []

    def grow(index, loader):
        attempts.append(index)
        if len(attempts) == 1:  # not again where the batch is repeated
            loader.batch_size = 8

    found = batches_of(loader, FullOnce(number), change=grow)
    assert attempts == [0, 0, 1, 2, 3]
    assert [len(batch) for batch in found] == [4, 8, 8, 8]
    assert [number for batch in found for number in batch] == list(range(28))


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_a_batch_left_without_step_is_not_the_one_that_is_repeated():
    loader = ab.DataLoader(TensorDataset(torch.arange(16)), batch_size=4, micro_batch_size=2)
    with pytest.warns(RuntimeWarning, match="the batch at sample 0 was left without"):
        found = batches_of(loader, FullOnce(5), leave=0)
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
