from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accumulate.ranks import on_ranks
from tests.policies.checks import FIRST, check_policy, follow
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab
from adabatch import policies
from adabatch.types import NoiseEstimate

CURVE = {size: size**0.8 for size in (32, 64, 128, 256, 512, 1024)}
# To add a policy, add a row.
ROWS = [
    policies.noise_scale(maximum=256),
    policies.noise_scale(0.1, maximum=1000, factor=1.5, warmup_samples=5000, shrinks=True),
    policies.norm_test(0.5, maximum=256),
    policies.norm_test(2.0, maximum=100, factor=3, shrinks=True),
    policies.diversity(0.1, maximum=256, warmup_samples=1000),
    policies.similarity(0.3, maximum=512, shrinks=True),
    policies.sign_noise(maximum=256),
    policies.sign_noise(0.9, maximum=700, factor=1.5, warmup_samples=500, shrinks=True),
    policies.goodput(CURVE, maximum=512),
    policies.goodput(CURVE, gain=0.3, maximum=1024, shrinks=True),
    policies.cabs(maximum=256),
    policies.cabs(0.1, maximum=500, factor=2.5, shrinks=True),
    policies.branch(maximum=256),
    policies.branch(0.05, maximum=100, factor=1.5, every=0.1, window=0.005, pairs=5, warmup_samples=3000),
]
BY_NOISE = [row for row in ROWS if not row.needs_branches]


@pytest.mark.parametrize("policy", ROWS, ids=lambda policy: policy.describe()[:50])
def test_a_policy_keeps_the_contract(policy):
    check_policy(policy)


def test_every_policy_has_a_row():
    assert {row.name for row in ROWS} == {name for name in policies.__all__ if name.islower()}


@st.composite
def any_estimates(draw):
    """Estimates that make no sense together, as far as the record allows."""
    finite = st.floats(-1e6, 1e6)
    found = []
    for _ in range(draw(st.integers(1, 40))):
        trace, signal = draw(st.floats(1e-3, 1e6)), draw(finite)
        low = draw(st.floats(0, 1e4))
        high = draw(st.one_of(st.just(float("inf")), st.floats(low, 1e6)))
        found.append(
            NoiseEstimate(trace / signal if signal else 0.0, low, high, trace, signal, draw(st.floats(1, 1e4)))
        )
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BY_NOISE), any_estimates())
def test_a_policy_keeps_the_contract_at_any_estimates(policy, estimates):
    follow(policy, [each for each in estimates for _ in range(3)])


def decided(policy, rank, model):
    """What a rank's policy decided, over a tap that measures, while it trained on noise."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(2048, columns, generator=generator) for columns in (16, 1))
    kind = torch.optim.AdamW if policy.coupling == "sqrt" else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.01)
    loader = ab.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=FIRST, shuffle=True, seed=0,
                           group=dist.group.WORLD)  # fmt: skip
    noise = ab.noise.tap(model, optimizer, loader, every=1, norm=policy.noise_norm)
    batches = ab.BatchSizeScheduler(optimizer, loader, policy, noise=noise)
    sizes = []
    while len(sizes) < 50:
        for micro in ab.accumulate(loader, model):
            with micro as (x, y):
                loss = mse_loss(model(x), y) + rank / 10
                (loss * micro.weight).backward()
            if micro.is_last:
                optimizer.step()
                optimizer.zero_grad()
                batches.step(loss)
                sizes.append(batches.batch_size)
    seen = [(each.clock, each.batch_size, each.reason, each.observation, each.interval) for each in batches.decisions]
    state = batches.state_dict()["decided"]
    state.pop("loss")  # since the decision before: each rank's own
    batches.close()
    return sizes, seen, state


def each_row_decides_alike(rank, world):
    mesh, grown = init_device_mesh("cpu", (world,)), set()
    for policy in BY_NOISE:
        for wrapped in (DistributedDataParallel, lambda model: fully_shard(model, mesh=mesh)):
            model = torch.nn.Linear(16, 1)
            for parameter in model.parameters():
                torch.nn.init.zeros_(parameter)  # so that the gradient is noise alone
            mine, every = decided(policy, rank, wrapped(model)), [None] * world
            dist.all_gather_object(every, mine)
            assert all(each == every[0] for each in every), policy.describe()
            if mine[1]:
                grown.add(policy.name)
    assert {"goodput", "noise_scale", "norm_test", "sign_noise", "similarity"} <= grown


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, each_row_decides_alike)


@pytest.mark.slow
@pytest.mark.world_size(3)
def test_three_ranks():
    on_ranks(3, each_row_decides_alike)
