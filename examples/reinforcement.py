"""Reinforcement learning: each update trains on as many samples as its episodes gave, and the LR follows exactly.

Run it: pip install 'adabatch[torch]', then: python examples/reinforcement.py

A pole is balanced on a cart that is pushed left or right. The policy gradient takes every step of some episodes at
once, so the batch has another size at each update, and it grows as episodes get longer. `ab.Clock` counts the samples,
for a loop that makes its own; `BatchSizeScheduler` without a schedule takes the sizes that are assigned.
"""

import math
from typing import NamedTuple

import torch

import adabatch as ab

UPDATES, EPISODES, LONGEST, BASE = 60, 8, 200, 256


class Steps(NamedTuple):
    """Steps of some episodes: states `[n, 4]`, actions `[n]` and what followed each, `[n]`."""

    states: torch.Tensor
    actions: torch.Tensor
    returns: torch.Tensor


def pushed(state: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The states `[n, 4]` of cart and pole a 50th of a second after a push of 10 newtons to a side."""
    _, speed, angle, spin = state.unbind(1)
    sine, cosine, force = angle.sin(), angle.cos(), 20.0 * right - 10.0
    drive = (force + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * drive) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    return state + 0.02 * torch.stack([speed, drive - 0.05 * turn * cosine / 1.1, spin, turn], 1)


@torch.no_grad()
def collect(model: torch.nn.Module) -> Steps:
    """Plays all episodes at once, each until its pole falls."""
    state = torch.rand(EPISODES, 4) * 0.1 - 0.05
    alive, episodes = torch.ones(EPISODES, dtype=torch.bool), []
    for _ in range(LONGEST):
        action = torch.bernoulli(model(state).squeeze(1).sigmoid())
        episodes.append((state, action, alive))
        state = pushed(state, action)
        alive = alive & (state[:, 0].abs() < 2.4) & (state[:, 2].abs() < 12 * math.pi / 180)
        if not alive.any():
            break
    states, actions, counts = (torch.stack(each) for each in zip(*episodes, strict=True))
    rest = counts.flip(0).cumsum(0).flip(0)  # steps that were still to come
    return Steps(states[counts], actions[counts], rest[counts].float())


def main() -> None:
    """Trains, and says how long the poles stood."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    clock = ab.Clock(batch_size=BASE, micro_batch_size=512)  # the LR is meant for batches of 256
    batches = ab.BatchSizeScheduler(optimizer, clock, coupling="sqrt")
    lengths, factors = [], []
    for _ in range(UPDATES):
        steps = collect(model)
        clock.batch_size = len(steps.actions)  # holds for the very next batch, and so does the coupling
        advantages = (steps.returns - steps.returns.mean()) / (steps.returns.std() + 1e-6)
        optimizer.zero_grad()
        done = 0
        for draw in clock.begin():  # micro-batches, where there are too many steps for one pass
            some = slice(done, done := done + draw.size)
            wrong = torch.nn.functional.binary_cross_entropy_with_logits(
                model(steps.states[some]).squeeze(1), steps.actions[some], reduction="none"
            )
            ((wrong * advantages[some]).mean() * draw.weight).backward()
        optimizer.step()
        factors.append(batches.last_lr[0] / 0.01)
        batches.step()
        lengths.append(done / EPISODES)
        assert math.isclose(factors[-1], math.sqrt(done / BASE), rel_tol=1e-12)
    first, last = sum(lengths[:5]) / 5, sum(lengths[-5:]) / 5
    print(f"{UPDATES} updates on {clock.clock:,} samples, in batches of {min(lengths) * EPISODES:.0f} to "
          f"{max(lengths) * EPISODES:.0f}; LR x{min(factors):.2f} to x{max(factors):.2f}; "
          f"poles stood {first:.0f} steps at first and {last:.0f} at last")  # fmt: skip


if __name__ == "__main__":
    main()
