"""The mean of gradients over ranks in 16 bits, against a naive mean in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel

from adabatch import _distributed

UNIT = {"bf16": 2.0**-8, "fp16": 2.0**-11, None: 0.0}
KINDS = ("bf16", "fp16")


def bound(parts, kind):
    """The bound of the module's docstring for each mean, and the exact means; `parts`: [ranks, values] in float64."""
    magnitude, mean, unit = parts.abs().mean(0), parts.mean(0), UNIT[kind]
    rounding = unit * (magnitude + mean.abs()) * (1 + unit) + len(parts) * 2.0**-23 * magnitude
    lost = 2.0**-38 * parts.abs().max() + 2.0**-124 if kind == "fp16" else 2.0**-132
    return rounding + lost, mean


def of_all(tensor):
    """The tensor of each rank, in float64, without rounding."""
    return torch.stack(_distributed.gathered(tensor.clone())).double()


def averaged(tensors, kind):
    """Averages the tensors."""
    _distributed.Average(tensors, None, kind).run()


def joined(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


SHAPES = [(3, 2), (1,), (257,), (0,), (5, 7, 2), ()]


def means_are_within_the_bound(rank, world):
    """Whatever the magnitudes: of each rank, of each tensor, of each value; the draws are the same on all ranks."""

    @settings(
        max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(
        st.integers(0, 2**31),
        st.floats(-36, 36),
        st.floats(0, 12),
        st.lists(st.floats(-3, 3), min_size=world, max_size=world),
        st.sampled_from(KINDS),
    )
    def check(seed, middle, spread, by_rank, kind):
        generator = torch.Generator().manual_seed(seed * world + rank)
        tensors = []
        for shape in SHAPES:
            sizes = middle + by_rank[rank] + spread * torch.randn(shape, generator=generator).clamp(-3, 3)
            values = torch.randn(shape, generator=generator).double() * 10 ** sizes.double()
            tensors.append(values.clamp(-1e38, 1e38).float())
        every = of_all(joined(tensors))
        averaged(tensors, kind)
        most, mean = bound(every, kind)
        found = of_all(joined(tensors))
        error = (found[rank] - mean).abs()
        assert bool((error <= most).all()), (kind, float((error / most).max()))
        assert torch.equal(found, found[:1].expand_as(found)), "ranks hold other means"

    check()


def few_digits_pass_exactly(rank, world):
    """Values of at most 7 bits, whose mean has as few: multiples of the number of ranks, and powers of two."""
    generator = torch.Generator().manual_seed(rank)
    for kind in KINDS:
        for exponent in (-70, -20, 0, 17, 100):
            # the mean of `world` such whole numbers is whole, and has 8 bits at most
            whole = torch.randint(-127 // world, 127 // world, (1001,), generator=generator) * world
            values = whole.float() * 2.0**exponent
            before = of_all(values)
            averaged([values], kind)
            assert torch.equal(values.double(), before.mean(0)), (kind, exponent)


def nothing_overflows_and_what_is_not_finite_stays(rank, world):
    large = torch.tensor([1e6, 65504.0, 7e4, 2.0**100, 3e38 if world == 2 else 1e38, -1e38, 1e-3, 0.0])
    parts = [torch.full((64,), float(value)) for value in large]  # each alone: next to 1e38 fp16 has no 0.001
    for value, part in zip(large, parts, strict=True):
        for kind in KINDS:
            tensor = part.clone()
            averaged([tensor], kind)
            assert bool(((tensor.double() - value).abs() <= 2 * UNIT[kind] * value.abs()).all()), (kind, value)
    together = large.clone()
    averaged([together], "fp16")
    assert bool(together.isfinite().all())
    for kind in (*KINDS, None):
        for odd in (math.inf, -math.inf, math.nan):
            values = torch.ones(100)
            if rank == 1:
                values[40] = odd
            averaged([values], kind)
            assert bool(values[40].isnan()) == math.isnan(odd), kind
            assert not values[40].isfinite(), kind
            assert bool((values[:40] == 1).all()), kind
            assert bool((values[41:] == 1).all()), kind
        values = torch.full((3,), math.inf if rank else -math.inf)
        averaged([values], kind)
        assert bool(values.isnan().all() if world == 2 else (~values.isfinite()).all())


def tiny_ones_are_kept(rank, world):
    for kind in KINDS:
        for exponent in (-40, -90, -114, -120):
            values = torch.full((10,), 2.0**exponent)
            averaged([values], kind)
            assert bool((values == 2.0**exponent).all()), (kind, exponent)
        values = torch.full((10,), 1e-42)  # fp16 need not keep what float32 hardly holds
        averaged([values], kind)
        assert bool(((values >= 0) & (values < 2e-42)).all())


def several_buckets_and_types(rank, world):
    """More than a bucket holds, and gradients of 16 bits, which stay as they are."""
    for kind in KINDS:
        tensors = [
            torch.full((7 * 2**20 + 1,), rank + 1.0),
            torch.full((5,), rank + 1.0, dtype=torch.bfloat16),
            torch.full((3, 3), rank + 1.0),
        ]
        before = _distributed.traffic()
        averaged(tensors, kind)
        after = _distributed.traffic()
        assert all(bool((tensor == (world + 1) / 2).all()) for tensor in tensors)
        assert after.bytes - before.bytes == 2 * sum(tensor.numel() for tensor in tensors)
        assert after.seconds > before.seconds
    before = _distributed.traffic().bytes
    averaged([torch.ones(7), torch.ones(7).double()], None)
    assert _distributed.traffic().bytes - before == 7 * (4 + 8)


CHECKS = (
    means_are_within_the_bound,
    few_digits_pass_exactly,
    nothing_overflows_and_what_is_not_finite_stays,
    tiny_ones_are_kept,
    several_buckets_and_types,
)


def wrapped(**how):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(31, 31) for _ in range(5)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(31, 1))
    return DistributedDataParallel(model, bucket_cap_mb=0.005, **how)  # several buckets


def backward(model, rank, scale=1.0):
    model.zero_grad()
    generator = torch.Generator().manual_seed(rank)
    (model(torch.randn(4, 31, generator=generator)).sum() * scale).backward()


def the_hook_of_ddp(rank, world, **how):
    local = wrapped().module
    plain, hooked = wrapped(**how), wrapped(**how)
    state = _distributed.hook_into(hooked)
    assert _distributed.hook_into(hooked) is state is _distributed.own_hook(hooked)
    parameters = [*hooked.parameters()]
    for turn, kind in enumerate((None, None, "bf16", "fp16", "bf16", None)):  # buckets are rebuilt after the first
        _distributed.hook_into(hooked, kind)
        scale = 10.0**turn
        backward(plain, rank, scale)
        before = _distributed.traffic().bytes
        backward(hooked, rank, scale)
        element = 2 if kind else 4
        assert _distributed.traffic().bytes - before == element * sum(each.numel() for each in parameters)
        backward(local, rank, scale)
        for mine, theirs, alone in zip(parameters, plain.parameters(), local.parameters(), strict=True):
            most, mean = bound(of_all(alone.grad), kind)
            lost = 2.0**-38 * 1e7 if kind == "fp16" else 0.0  # the largest gradient of a part is of another parameter
            assert bool(((mine.grad.double() - mean).abs() <= most + lost).all())
            if kind is None and world == 2:
                assert torch.equal(mine.grad, theirs.grad)
    del plain, hooked


def a_hook_of_another_make(rank, world):
    model = wrapped()
    model.register_comm_hook(None, another)
    with pytest.raises(ValueError, match=r"`compress` must be None where DistributedDataParallel has a communication"):
        _distributed.hook_into(model, "bf16")
    assert _distributed.own_hook(model) is None
    del model


def another(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


HOOKS = (
    the_hook_of_ddp,
    partial(the_hook_of_ddp, gradient_as_bucket_view=True, static_graph=True),
    partial(the_hook_of_ddp, find_unused_parameters=True),
    a_hook_of_another_make,
)


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, *CHECKS, *HOOKS)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, *CHECKS, *HOOKS[:2])


def test_one_rank_rounds_nothing():
    on_ranks(1, one_rank)


def one_rank(rank, world):
    plain, hooked = wrapped(), wrapped()
    _distributed.hook_into(hooked, "bf16")
    for model in (plain, hooked):
        backward(model, rank)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), hooked.parameters(), strict=True))
    del plain, hooked


def test_types_that_cannot_be_compressed():
    _distributed.check_types([torch.zeros(1, requires_grad=True), torch.zeros(1).double(), torch.zeros(1).half()])
    with pytest.raises(ValueError, match="`compress` must come with parameters of float32 or 16 bits, got float64; "):
        _distributed.check_types([torch.zeros(1, requires_grad=True, dtype=torch.float64)])
