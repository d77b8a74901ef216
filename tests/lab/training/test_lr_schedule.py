from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adabatch import units
from adabatch.lab.training import lr_schedule


def rates(text: str, epochs: int, lr: float = 1.0) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = lr_schedule.build(text, optimizer, epochs=epochs)
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def warm(epoch: int, length: int) -> float:
    return min(1.0, (epoch + 1) / (length + 1))


def one_cycle(epoch: int) -> float:
    """A cosine from 1/25 up to 1 at 30 % of the way, one from there down to 1/250,000 at the last of 12 epochs."""
    peak, low, end = 0.3 * 12 - 1, 1 / 25, 1 / 25 / 1e4
    if epoch <= peak:
        return 1 + (low - 1) * (1 + math.cos(math.pi * epoch / peak)) / 2
    return end + (1 - end) * (1 + math.cos(math.pi * (epoch - peak) / (11 - peak))) / 2


@pytest.mark.parametrize(
    ("text", "closed_form"),
    [
        ("constant", lambda e: 1.0),
        ("step:0.5:4", lambda e: 0.5 ** (e // 4)),
        ("milestones:0.2:3,5,9", lambda e: 0.2 ** sum(e >= m for m in (3, 5, 9))),
        ("exponential:0.95", lambda e: 0.95**e),
        ("cosine", lambda e: (1 + math.cos(math.pi * e / 12)) / 2),
        ("warmup:5+constant", lambda e: warm(e, 5)),
        ("warmup:3+step:0.5:4", lambda e: warm(e, 3) * 0.5 ** (e // 4)),
        ("warmup:2+milestones:0.1:6", lambda e: warm(e, 2) * 0.1 ** (e >= 6)),
        ("warmup:4+exponential:0.9", lambda e: warm(e, 4) * 0.9**e),
        ("wsd:3", lambda e: min(1.0, (12 - e) / 4)),
        ("warmup:2+wsd:11", lambda e: warm(e, 2) * (12 - e) / 12),
        ("onecycle", one_cycle),
        ("poly:2", lambda e: (1 - e / 12) ** 2),
        ("warmup:2+poly:0.5", lambda e: warm(e, 2) * math.sqrt(1 - e / 12)),
        ("slowstart", lambda e: (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.075, 0.075, 0.075, 0.075, 0.01, 0.01)[e]),
        ("warmup:2+cosine", lambda e: warm(e, 2) * (1 + math.cos(math.pi * e / 12)) / 2),
    ],
)
def test_closed_form(text, closed_form):
    assert rates(text, 12) == pytest.approx([closed_form(e) for e in range(12)], rel=1e-12)


def test_the_baseline_of_adabatch():
    """LR 0.01, x0.375 every 20 epochs: the table of the paper's settings."""
    seen = rates("step:0.375:20", 100, lr=0.01)
    assert seen[::20] == pytest.approx([0.01, 0.00375, 0.00140625, 0.00052734375, 0.00019775390625])


@pytest.mark.parametrize(
    "text",
    ["", "steps:0.5:4", "step:0.5", "step:half:4", "step:0.5:4.5", "milestones:0.2:", "cosine:3", "5+constant",
     "warmup:+constant", "warmup:5", "warmup:5:0.1:2+constant", "warmup:5:low+constant"],
)  # fmt: skip
def test_malformed_text(text):
    with pytest.raises(ValueError, match=r"`lr_schedule` must be a schedule, got .*; write constant, step:FACTOR"):
        lr_schedule.check(text)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"`lr_schedule` must be greater than 0, got 0.0; the factor in 'step:0:4'"):
        lr_schedule.check("step:0:4")
    with pytest.raises(ValueError, match=r"`lr_schedule` must be at least 1, got 0; the epochs in 'step:0.5:0'"):
        lr_schedule.check("step:0.5:0")
    with pytest.raises(ValueError, match="must have milestones in increasing order"):
        lr_schedule.check("milestones:0.5:4,4")
    with pytest.raises(ValueError, match=r"must decay in less than the 12 epochs of the training, got 'wsd:12'"):
        rates("wsd:12", 12)
    with pytest.raises(TypeError, match="`lr_schedule` must be text, got 3"):
        lr_schedule.check(3)


def test_shares_of_some_epochs_alone():
    assert lr_schedule.shares("step:0.5:2", epochs=5, count=3) == [1.0, 1.0, 0.5]
    assert lr_schedule.shares("step:0.5:2", epochs=2, count=3) == [1.0, 1.0, 0.5], "one more than the training has"


@pytest.mark.parametrize("text", ["constant", "step:0.5:1", "warmup:3+cosine", "warmup:2:0.5+onecycle", "wsd:2"])
def test_what_stays_below_the_first_lr(text):
    assert not lr_schedule.rises(text)
    assert max(lr_schedule.shares(text, epochs=9)) <= 1


@pytest.mark.parametrize("text", ["step:1.5:2", "exponential:1.01", "warmup:3+milestones:2:1,2"])
def test_what_may_rise_above_it(text):
    assert lr_schedule.rises(text)


def test_the_text_is_written_as_python():
    assert lr_schedule.python("warmup:5+wsd:3", epochs=9) == (
        "torch.optim.lr_scheduler.ChainedScheduler([torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 6, "
        "total_iters=5), torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lr_lambda=lambda e: (9 - e) / (10 - e) "
        "if e >= 6 else 1.0)])"
    )
    with pytest.raises(ValueError, match="`lr_schedule` must be a schedule, got 'sine'"):
        lr_schedule.python("sine", epochs=9)


def test_more_epochs_than_can_be_sampled():
    with pytest.raises(
        ValueError, match="`epochs` must be at most 10,000,000, got 20000000; give a function of samples"
    ):
        lr_schedule.table("constant", epochs=20_000_000)


def test_a_table_of_a_first_lr():
    assert lr_schedule.table("step:0.5:1", epochs=2, lr=0.5) == [(units.epochs(0), 0.5), (units.epochs(1), 0.25)]


factors, whole = st.floats(0.01, 1.5), st.integers(1, 40)
points = st.sets(whole, min_size=1).map(lambda epochs: ",".join(map(str, sorted(epochs))))
bodies = st.one_of(
    st.just("constant"),
    st.builds("step:{}:{}".format, factors, whole),
    st.builds("milestones:{}:{}".format, factors, points),
    st.builds("exponential:{}".format, factors),
    st.just("cosine"),
    st.just("onecycle"),
    st.builds("poly:{}".format, st.floats(0.1, 4)),
    st.just("slowstart"),
    st.builds("wsd:{}".format, whole),
)
warmups = st.one_of(
    st.just(""), st.builds("warmup:{}+".format, whole), st.builds("warmup:{}:{}+".format, whole, st.floats(0.01, 1))
)


@given(st.builds("{}{}".format, warmups, bodies), st.integers(1, 60), st.floats(1e-6, 1e3))
def test_computed_lrs_are_torch_s_to_the_last_bit(text, epochs, lr):
    """Torch's own schedulers are the reference, also after the last step."""
    if "wsd" in text and int(text.rpartition(":")[2]) >= epochs:
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = lr_schedule.build(text, optimizer, epochs=epochs)
    seen = []
    for _ in range(epochs + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(seen) <= epochs:
            scheduler.step()
    changes = [(0, seen[0]), *((e, seen[e]) for e in range(1, epochs) if seen[e] != seen[e - 1])]
    assert lr_schedule.table(text, epochs=epochs, lr=lr) == [(units.epochs(e), rate) for e, rate in changes]


@given(st.builds("{}{}".format, warmups, bodies), st.integers(1, 60))
def test_shares_go_on_to_the_end(text, epochs):
    if "wsd" in text and int(text.rpartition(":")[2]) >= epochs:
        return
    found = lr_schedule.shares(text, epochs=epochs, count=epochs + 1)
    assert found[:epochs] == rates(text, epochs)
    assert len(found) == epochs + 1


def test_an_lr_that_grows_out_of_range():
    with pytest.raises(
        ValueError,
        match=r"`lr_schedule` must give finite LRs of at least 0, got inf after 309 epochs .* at most 309 epochs",
    ):
        lr_schedule.table("exponential:10", epochs=400)


@pytest.mark.parametrize(
    ("text", "fall"),
    [("step:0.5:30", 30), ("warmup:3+milestones:0.1:25,40", 25), ("step:0.5:19", None), ("step:2:30", None),
     ("cosine", None), ("constant", None), ("slowstart", None), ("wsd:3", None)],
)  # fmt: skip
def test_falls_after_the_training(text, fall):
    assert lr_schedule.falls_after(text, epochs=20) == fall
