"""Loops in the manner of known scripts, before and after: how many lines change, and what is trained, from outside."""

from __future__ import annotations

import importlib
import math
import os
from difflib import SequenceMatcher
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.utils.data import TensorDataset

import adabatch as ab

N, EPOCHS, BASE, LR = 100, 3, 8, 0.05
BATCHES = [  # start and size; each epoch ends with a short batch
    (epoch * N + offset, min(BASE * 2**epoch, N - offset), epoch)
    for epoch in range(EPOCHS)
    for offset in range(0, N, BASE * 2**epoch)
]
LINES = {  # changed from before to after
    "mnist": 5,
    "cifar": 4,
    "ddp": 5,
    "mingpt": 6,  # it ends by samples, not by iterations
    "imagenet": 9,  # four of them save and load
    "accelerate_plain": 4,  # two imports, the schedule, `grow`
    "accelerate_accumulation": 4,
    "nanogpt": 13,  # no loader; it saves and loads too
}
LOOPS = {name: f"integrations/loops/{name}" for name in LINES} | {"nanogpt": "data/loops"}
FOLDER = Path(__file__).parents[1]
FUNCTIONAL = {"mnist": "adadelta", "imagenet": "sgd", "cifar": "sgd", "ddp": "sgd"}  # others have AdamW
FACTORS = {"none": lambda ratio: 1, "linear": lambda ratio: ratio, "sqrt": math.sqrt}
COUPLINGS = {"mnist": "none", "imagenet": "linear", "cifar": "linear", "ddp": "linear"}
COURSES = {  # the LR of the script's own scheduler, without growth
    "mnist": lambda clock, epoch: LR * 0.7**epoch,
    "imagenet": lambda clock, epoch: LR * 0.1**epoch,
    "cifar": lambda clock, epoch: LR * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2,
    "accelerate_plain": lambda clock, epoch: LR * (1 - (13 * epoch + clock % N // 8) / 39),
    "accelerate_accumulation": lambda clock, epoch: LR * max(0, 1 - (13 * epoch + clock % N // 8) / 37),  # 25 * 3 // 2
}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def changed(name):
    """Lines without blank ones and the title; a line that is replaced counts once."""
    before, after = (
        [line for line in (FOLDER / LOOPS[name] / f"{half}.py").read_text().splitlines()[1:] if line.strip()]
        for half in ("before", "after")
    )
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return sum(max(b - a, d - c) for kind, a, b, c, d in blocks if kind != "equal")


@pytest.mark.parametrize("name", LINES)
def test_the_lines_that_change(name):
    assert changed(name) == LINES[name]


def arguments(**more):
    usual = {"batch_size": BASE, "lr": LR, "epochs": EPOCHS, "log": [], "log_interval": 5, "print_freq": 5}
    return SimpleNamespace(**usual | {"resume": None, "folder": None} | more)


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def data(size=N):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(size, 4, generator=generator), torch.arange(size) % 3)


def traced(name, half="after", **more):
    """For each update the samples of its forward passes, the LR that the optimizer's arithmetic gets, and the data.

    Seen by a hook on the model and in the place of torch's functional optimizer: nothing of the library is asked.
    """
    loop = importlib.import_module(f"tests.integrations.loops.{name}.{half}")
    functional = FUNCTIONAL.get(name, "adam")
    room = importlib.import_module(f"torch.optim.{functional}")
    own, model, passes, updates, args = getattr(room, functional), network(), [], [], arguments(**more)

    def seen(module, inputs):
        if module.training:
            passes.append(inputs[0].detach().clone())

    def stepped(*given, lr, **rest):
        updates.append((tuple(map(len, passes)), float(lr), torch.cat(passes)))
        passes.clear()
        return own(*given, lr=lr, **rest)

    model.register_forward_pre_hook(seen)
    setattr(room, functional, stepped)
    try:
        loop.main(args, model, data(), data(30))
    finally:
        setattr(room, functional, own)
    return updates, args


def check(name, updates, batches=BATCHES, world=1, micro=None):
    coupling, course = COUPLINGS.get(name, "sqrt"), COURSES.get(name, lambda clock, epoch: LR)
    sizes = [size // world for _, size, _ in batches]
    assert [sum(passes) for passes, _, _ in updates] == sizes
    if micro is None:
        assert [passes for passes, _, _ in updates] == [(size,) for size in sizes]
    else:
        assert all(max(passes) <= micro and len(passes) == -(-sum(passes) // micro) for passes, _, _ in updates)
    expected = [course(clock, epoch) * FACTORS[coupling](2**epoch) for clock, _, epoch in batches]
    assert [lr for _, lr, _ in updates] == pytest.approx(expected, rel=1e-6)
    if world == 1 and batches is BATCHES:
        for epoch in range(EPOCHS):  # each sample once an epoch
            inputs = torch.cat([x for (_, _, x), (_, _, e) in zip(updates, batches, strict=True) if e == epoch])
            assert torch.equal(inputs.sort(0).values, data().tensors[0].sort(0).values)


def test_the_batches_are_those_of_the_plan():
    plan = ab.schedules.geometric(2, ab.epochs(1)).plan(dataset_size=N, epochs=EPOCHS, batch_size=BASE)
    found = [(plan.clock_of(update), plan.clock_of(update + 1)) for update in range(plan.updates - 1)]
    assert [(start, stop - start) for start, stop in found] == [(start, size) for start, size, _ in BATCHES[:-1]]
    assert plan.updates == len(BATCHES)


@pytest.mark.parametrize("name", ["mnist", "imagenet", "cifar"])
def test_a_plain_loop(name, tmp_path):
    before, _ = traced(name, "before", folder=tmp_path)
    assert [passes for passes, _, _ in before] == [*[(8,)] * 12, (4,)] * 3
    check(name, traced(name, folder=tmp_path)[0])


def test_the_imagenet_loop_resumes(tmp_path):
    whole, _ = traced("imagenet", folder=tmp_path)
    torch.manual_seed(99)
    resumed, _ = traced("imagenet", folder=tmp_path, resume=tmp_path / "0.pt")
    assert [(passes, lr) for passes, lr, _ in resumed] == [(passes, lr) for passes, lr, _ in whole[13:]]
    for (_, _, mine), (_, _, theirs) in zip(resumed, whole[13:], strict=True):
        assert torch.equal(mine, theirs)


def test_the_loop_of_mingpt():
    """It counts iterations: the same data are passed in fewer of them."""
    iterations = EPOCHS * N // BASE
    before = [(BASE,)] * iterations
    assert [passes for passes, _, _ in traced("mingpt", "before")[0]] == before
    check("mingpt", traced("mingpt")[0], [batch for batch in BATCHES if batch[0] < iterations * BASE])


@pytest.mark.parametrize(("name", "micro"), [("accelerate_plain", 8), ("accelerate_accumulation", 4)])
def test_the_loops_of_accelerate(name, micro):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    before, _ = traced(name, "before")
    assert {passes for passes, _, _ in before} <= {(8,), (4,), (4, 4)}
    accelerate.state.AcceleratorState._reset_state(True)
    updates, args = traced(name)
    check(name, updates, micro=micro)
    assert len(args.log) == EPOCHS  # of one batch of test data each


def _ddp(rank, world):
    before, _ = traced("ddp", "before")
    assert [passes for passes, _, _ in before] == [*[(4,)] * 12, (2,)] * 3
    updates, args = traced("ddp")
    check("ddp", updates, world=world)
    assert args.log == [(epoch, BASE * 2**epoch // world, count) for epoch, count in enumerate((13, 7, 4))]
    inputs = torch.cat([x for _, _, x in updates[:13]])
    found = [torch.empty_like(inputs) for _ in range(world)]
    dist.all_gather(found, inputs)
    assert torch.equal(torch.cat(found).sort(0).values, data().tensors[0].sort(0).values)


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_the_loop_of_ddp():
    on_ranks(2, _ddp)


def test_the_loop_of_ddp_on_one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        check("ddp", traced("ddp")[0])
    finally:
        dist.destroy_process_group()
    assert "RANK" not in os.environ
