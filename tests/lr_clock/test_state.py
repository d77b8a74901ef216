"""LR state under random histories: train, stop anywhere, make everything anew, load, go on; for every LR scheduler."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lr_clock.test_sample import MAKERS, optimizer_of

import adabatch as ab
from adabatch.lr_clock import Baseline, sample

N, BASE = 60, 4
GROWTH = ab.schedules.steps("0:4 20:9 70:3 100:20 200:6")


class Training:
    """Everything that a script makes at its start."""

    def __init__(self, name, kind):
        self.optimizer = optimizer_of(kind=kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        self.lr_scheduler = MAKERS[name](self.optimizer)
        self.loader = ab.DataLoader(torch.arange(N), batch_size=BASE, seed=0)
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, GROWTH, coupling="power(0.75)")
        self.lr = ab.by_samples(self.lr_scheduler, self.loader, base_batch_size=BASE)

    def state(self):
        own = {name: json.loads(json.dumps(getattr(self, name).state_dict())) for name in ("loader", "batches", "lr")}
        return own | {name: getattr(self, name).state_dict() for name in ("optimizer", "lr_scheduler")}

    def load(self, state):
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


@pytest.mark.filterwarnings("ignore:the LR under `by_samples` is below")  # some are over long before the history is
@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MAKERS)),
    kind=st.sampled_from([torch.optim.SGD, torch.optim.AdamW]),
    stretches=st.lists(st.integers(1, 12), min_size=1, max_size=6),
)
def test_base_lr_and_lr_in_force_are_where_closed_form_says(name, kind, stretches):
    course = sample(MAKERS[name](optimizer_of(momentum=0.9)), 400, freeze=True)
    baseline, training = Baseline(BASE, N), Training(name, kind)
    for stretch in stretches:
        left = stretch
        while left:
            for _ in training.loader:
                current = training.loader.current
                base = course[baseline.update_at(current.clock)]
                assert training.optimizer.param_groups[0]["lr"] == pytest.approx(base, rel=1e-12, abs=1e-15)
                training.optimizer.step()
                assert training.optimizer.param_groups[0]["lr"] == pytest.approx(base, rel=1e-12, abs=1e-15)
                training.batches.step()
                if base:
                    expected = base * (current.requested / BASE) ** 0.75
                    assert training.batches.last_lr[0] == pytest.approx(expected, rel=1e-12)
                training.lr.step()
                left -= 1
                if not left:
                    break
        state = training.state()
        training = Training(name, kind)
        training.load(state)
