"""Compiled optimizer steps: exact, and with a tensor LR without a recompilation when the batch grows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
import torch
from tests.scheduler.checks import backward, loader_of, model_of

import adabatch as ab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on CPU needs g++"),
    # torch's own compiler uses what torch deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.*:UserWarning"),
]


def train(lr, compiled, *, kind, arguments, sizes="0:4 24:8 56:16 120:32 184:64"):
    """The course of the weights, the sizes, and how often a step was compiled after the first two sizes."""
    torch._dynamo.reset()
    model, loader = model_of(), loader_of(512)
    optimizer = kind(model.parameters(), lr=lr, **arguments)
    batches = ab.BatchSizeScheduler(
        optimizer, loader, ab.schedules.steps(sizes), coupling=ab.couplings.linear(any_optimizer=True)
    )
    step = torch.compile(optimizer.step) if compiled else optimizer.step
    course, seen, compilations = [], [], 0
    for batch in loader:
        backward(model, batch)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        step()
        if batches.batch_size > 8:
            compilations += torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.01, rel=1e-6)
        assert batches.last_lr == pytest.approx([0.01 * batches.batch_size / 4], rel=1e-6)
        seen.append(batches.batch_size)
        batches.step()
        course.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return course, seen, compilations


@dataclass(frozen=True)
class watching(ab.couplings.Coupling):  # noqa: N801
    """Linear; notes whether it was traced."""

    traced: list[bool]

    def lr_factor(self, ratio: float) -> float:
        self.traced.append(torch.compiler.is_compiling())
        return ratio


def test_the_hooks_are_never_traced():
    torch._dynamo.reset()
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.01))
    coupling = watching([])
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 8:8"), coupling=coupling)
    coupling.traced.clear()  # calls at construction
    step = torch.compile(optimizer.step, backend="eager")
    for batch in loader:
        backward(model, batch)
        step()
        batches.step()
    assert coupling.traced == [False] * 7  # of 9 steps, since 2 are of the base batch size


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {})],
    ids=["sgd", "adam"],
)
def test_a_tensor_lr_needs_no_recompilation(kind, arguments):
    eager, sizes, _ = train(torch.tensor(0.01), False, kind=kind, arguments=arguments)
    compiled, compiled_sizes, compilations = train(torch.tensor(0.01), True, kind=kind, arguments=arguments)
    assert sizes == compiled_sizes
    assert set(sizes) == {4, 8, 16, 32, 64}
    for one, other in zip(eager, compiled, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert compilations == 0


def test_a_float_lr_is_exact_but_recompiles():
    """Also past dynamo's recompile limit, where a traced hook would leave a scaled LR in place."""
    sizes = " ".join(f"{clock}:{4 + index}" for index, clock in enumerate(range(0, 240, 20)))
    arguments = {"kind": torch.optim.SGD, "arguments": {"momentum": 0.9}, "sizes": sizes}
    eager, _, _ = train(0.01, False, **arguments)
    compiled, seen, compilations = train(0.01, True, **arguments)
    assert len(set(seen)) == 12
    for one, other in zip(eager, compiled, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert compilations > 0


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["float", "tensor"])
@pytest.mark.parametrize("missing", [False, True], ids=["all", "some"])
def test_betas_that_change_are_exact_in_a_compiled_step(lr, missing):
    """Each correction recompiles, until dynamo's limit; parameters that sit steps out split their group."""
    courses = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model, loader = model_of(), loader_of(160)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99))
        batches = ab.BatchSizeScheduler(
            optimizer, loader, ab.schedules.steps("0:4 24:8 56:16 100:12"), coupling="adam_sde"
        )
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        course = []
        for number, batch in enumerate(loader):
            backward(model, batch)
            if missing and number % 4 == 1:
                model.bias.grad = None
            step()
            batches.step()
            course.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert len(batches.state_dict()["bias_correction"][0]) == 1 + missing
        courses.append(course)
    for one, other in zip(*courses, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
