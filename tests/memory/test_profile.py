"""The profile of a step: what follows from its points, and when one kept on disk is used again."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.memory.checks import data, step_of, timed

import adabatch as ab
from adabatch.memory import Point, StepProfile, _profile


def test_the_cache(tmp_path):
    model, calls = torch.nn.Linear(3, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = ab.DataLoader(data(), batch_size=8)

    def step(batch):
        calls.append(len(batch[0]))
        step_of(model)(batch)

    def probe(model=model, loader=loader, **arguments):
        calls.clear()
        return ab.profile_step(step, loader, model, optimizer, **arguments), bool(calls)

    first, measured = probe(maximum=8, memory_budget=2**30)
    assert measured
    assert probe(maximum=8, memory_budget=2**30) == (first, False)
    smaller, measured = probe(maximum=4, memory_budget=2**30)
    assert (smaller.points, smaller.stopped, measured) == (first.points[:3], "maximum", False)
    tight, measured = probe(maximum=8, memory_budget=first.points[1].peak_bytes)
    assert (tight.largest, tight.stopped, measured) == (first.points[1].micro_batch_size, "memory", False)
    assert probe(maximum=16, memory_budget=2**30)[1], "no larger size was kept"
    other = ab.DataLoader(data(), batch_size=4)
    assert not probe(loader=other, maximum=16, memory_budget=2**30)[1], "another loader of the same shapes"
    model.bias.requires_grad_(False)
    assert probe(maximum=8)[1], "another model"
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2
    files[0].write_text("{")
    files[1].write_text("[]")
    assert probe(maximum=8)[1], "a damaged file is measured anew"


def test_what_the_key_depends_on():
    model = torch.nn.Linear(3, 1)

    def key(step=None, model=model, shapes=("a",), ranks=1):
        return _profile.key_of(step or step_of(model), model, [], list(shapes), torch.device("cpu"), ranks)

    ours = key()
    assert ours == key(step=step_of(torch.nn.Linear(3, 1)))
    others = [key(step=timed(float, model, [0.0])), key(model=torch.nn.Linear(3, 2)), key(shapes=("b",)), key(ranks=2)]
    assert len({ours, *others}) == 5

    def passes(count, scale):
        def step(batch, times=count):
            for _ in range(times):
                model(batch[0]).sum().mul(scale).backward()

        return step

    def twice(batch):
        for _ in range(2):
            model(batch[0])

    def often(batch):
        for _ in range(50):
            model(batch[0])

    steps = [passes(1, 1.0), passes(50, 1.0), passes(1, 2.0), twice, often]
    assert len({key(step=step) for step in steps}) == 5
    assert key(step=passes(1, 2.0)) == key(step=passes(1, 2.0))


def test_seconds_against_every_cut():
    profile = StepProfile((Point(1, 1.0, None), Point(2, 1.5, None), Point(4, 2.0, None)), 0.5, 2, None, "maximum")
    passes = {1: 1.0, 2: 1.5, 3: 1.75, 4: 2.0}
    best = {0: 0.0}
    for size in range(1, 30):
        best[size] = min(best[size - part] + passes[part] for part in passes if part <= size)
        assert best[size] <= profile.seconds(size) <= best[size] + 0.5
    assert profile.seconds(8) == 4.0
    assert profile.speedup([2, 8]) == {2: 1.0, 8: pytest.approx((8 / 2.5) / (2 / 1.5))}
    with pytest.raises(ValueError, match="`batch_sizes` must name at least one batch size, got none"):
        profile.speedup([])


def test_partials_optimizers_and_settings_of_modules_have_profiles_of_their_own():
    def keys(step, model, optimizers):
        return _profile.key_of(step, model, optimizers, ["a"], torch.device("cpu"), 1)

    def step(batch, times):
        return batch * times

    class Callable:
        def __init__(self, times):
            self.times = times

        def __call__(self, batch):
            return batch

    class Other(Callable):
        def __call__(self, batch):
            return batch * 2

    model, flagged = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    flagged.checkpointing = True
    adam, sgd, fused = (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.optim.SGD(model.parameters(), lr=0.1, fused=True),
    )
    found = [
        keys(functools.partial(step, times=2), model, [sgd]),
        keys(functools.partial(step, times=3), model, [sgd]),
        keys(functools.partial(Callable(1), 3), model, [sgd]),
        keys(Callable(1), model, [sgd]),
        keys(Other(1), model, [sgd]),
        keys(step, model, [sgd]),
        keys(step, model, [adam]),
        keys(step, model, [fused]),
        keys(step, flagged, [sgd]),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == keys(functools.partial(step, times=2), torch.nn.Linear(3, 1), [sgd])
