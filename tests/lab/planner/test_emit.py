"""The lines to paste are executed: they give the LR schedule and the plan that were forecast."""

import pytest
import torch

import adabatch as ab
from adabatch.lab.planner import emit_python
from adabatch.lab.training import lr_schedule

TEXTS = [
    "constant",
    "step:0.5:2",
    "milestones:0.2:3,5",
    "exponential:0.7",
    "cosine",
    "onecycle",
    "wsd:3",
    "warmup:2+wsd:4",
    "warmup:2+step:0.3:3",
    "warmup:3+cosine",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("rule", ["smith", "seesaw", "hybrid(1)"])
def test_the_lines_run(text, rule):
    lines = emit_python(text, dataset_size=600, epochs=8, batch_size=8, maximum=60, round_to=4, rule=rule)
    assert len(lines.splitlines()) == 3
    model = torch.nn.Linear(1, 1)
    kind = torch.optim.Adam if rule == "seesaw" else torch.optim.SGD
    space = {
        "torch": torch,
        "ab": ab,
        "optimizer": kind(model.parameters(), lr=0.1),
        "loader": ab.DataLoader(torch.arange(600), batch_size=8),
    }
    exec(lines, space)
    twin = kind([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = lr_schedule.build(text, twin, epochs=8)
    growth = ab.from_lr_scheduler(expected, dataset_size=600, epochs=8, batch_size=8, maximum=60, round_to=4, rule=rule)
    assert space["growth"] == growth
    assert space["batches"].plan == growth.plan(dataset_size=600, epochs=8)
    for _ in range(8):
        assert space["lr_scheduler"].get_last_lr() == pytest.approx(expected.get_last_lr(), abs=1e-15)
        for scheduler in (space["lr_scheduler"], expected):
            scheduler.optimizer._opt_called = True  # as if the optimizer had stepped
            scheduler.step()


def test_errors():
    with pytest.raises(ValueError, match="`lr_schedule` must be a schedule, got 'sine'"):
        emit_python("sine", dataset_size=600, epochs=8, batch_size=8)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        emit_python("cosine", dataset_size=600, epochs=8, batch_size=0)
