"""A plan in other forms, each read by its reader's own arithmetic, restated here from what the reader documents."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import sys
import types
from collections import namedtuple
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.schedules.test_contract import ROWS

import adabatch as ab
from adabatch import couplings, epochs, samples, schedules, tokens, updates
from adabatch.lab.planner import FOREIGN, FORMATS, Emission, emit, python, python_by_rule
from adabatch.lab.planner.emission import olmo_starts, rows, source_of
from adabatch.lab.training import lr_schedule
from adabatch.lr_clock import Baseline
from adabatch.schedules import geometric, linear_ramp, steps


def emission_of(schedule, *, dataset_size=200, coupling="none", run_on=True, plan=None, **known):
    """An emission of one epoch, whose LR was chosen for the first batch size."""
    counted = {"tokens_per_sample": known.get("tokens_per_sample")}
    start = 8 if schedule is None else schedule.initial or 8
    if plan is None:
        plan = schedule.plan(dataset_size=dataset_size, epochs=1, batch_size=start, run_on=run_on, **counted)
    known.setdefault("batch_size", plan.batch_sizes[0])
    return Emission(plan=plan, coupling=couplings.get(coupling), **known)


def sizes_of(plan):
    """The size asked for at each update."""
    return [batch.requested for batch in plan]


@st.composite
def stepped(draw, *, factors=None, grows=True, largest=64):
    """Sizes from increasing clocks on; with `factors` each is one of these times the one before."""
    size, clock, changes = draw(st.integers(1, 8)), 0, []
    for _ in range(draw(st.integers(1, 5))):
        changes.append((clock, size))
        clock += draw(st.integers(1, 60))
        if factors is not None:
            size = size * draw(st.sampled_from(factors))
        else:
            size = size + draw(st.integers(1, 12)) if grows else draw(st.integers(1, 20))
        if size > largest:
            break
    return steps(changes)


# Tables


def naive_rows(plan, tokens_per_sample, factor):
    """The first update of each size, found by walking through all updates."""
    found, before = [], None
    for update, batch in enumerate(plan):
        if batch.requested != before:
            count = None if tokens_per_sample is None else batch.clock * tokens_per_sample
            found.append((update, batch.clock, count, batch.requested, factor(batch.requested)))
            before = batch.requested
    return found


@settings(max_examples=150, deadline=None)
@given(
    schedule=stepped(grows=False),
    dataset_size=st.integers(64, 90),
    passes=st.integers(1, 4),
    mode=st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]),
    per=st.none() | st.integers(1, 9),
)
def test_tables_are_the_first_updates_of_each_size(schedule, dataset_size, passes, mode, per):
    plan = schedule.plan(dataset_size=dataset_size, epochs=passes, **mode)
    emission = emission_of(schedule, plan=plan, coupling="sqrt", tokens_per_sample=per)
    base = schedule.initial
    expected = naive_rows(plan, per, lambda size: math.sqrt(size / base))
    assert [tuple(row.values()) for row in rows(emission)] == expected
    found = json.loads(emit("json", emission).text)
    assert [tuple(row.values()) for row in found["stages"]] == expected
    assert (found["updates"], found["dataset_size"], found["epochs"]) == (plan.updates, dataset_size, passes)
    assert (found["drop_last"], found["run_on"], found["tokens_per_sample"]) == (plan.drop_last, plan.run_on, per)
    assert couplings.Coupling.from_json(found["coupling"]) == couplings.sqrt()
    read = list(csv.DictReader(io.StringIO(emit("csv", emission).text)))
    assert [(int(row["update"]), int(row["samples"]), int(row["batch_size"])) for row in read] == [
        (update, clock, size) for update, clock, _, size, _ in expected
    ]
    assert [row["tokens"] for row in read] == ["" if per is None else str(row[2]) for row in expected]
    assert [float(row["lr_factor"]) for row in read] == [row[4] for row in expected]


# Python


@pytest.mark.parametrize(("schedule", "batch_size"), ROWS)
def test_a_schedule_as_python_is_the_schedule(schedule, batch_size):
    assert eval(source_of(schedule), {"ab": ab}) == schedule


def test_a_schedule_of_a_users_own_as_python():
    class doubled(schedules.Schedule):  # noqa: N801
        def stages(self, context):
            yield context.origin, 2 * context.batch_size

        def describe(self):
            return "twice as large"

        def to_json(self):
            return {"kind": "doubled"}

    try:
        assert source_of(doubled()) == "ab.schedules.Schedule.from_json({'kind': 'doubled'})"
    finally:
        del schedules.Schedule.kinds["doubled"]


@pytest.mark.parametrize(
    ("schedule", "per"),
    [
        (geometric(2, epochs(2), maximum=64), None),
        (geometric(2, tokens(3000), maximum=64), 10),
        (steps({0: 8, updates(5): 16}), None),
        (schedules.world_sizes(geometric(2, epochs(1), maximum=16), "0:1 16:2"), None),
    ],
)
def test_lines_of_any_plan_run(schedule, per):
    text = python(schedule, coupling="sqrt(any_optimizer=True)", epochs=4, tokens_per_sample=per)
    assert len(text.splitlines()) == 2
    space: dict[str, Any] = {"ab": ab, "loader": ab.DataLoader(torch.arange(200), 8)}
    space["optimizer"] = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    exec(text, space)
    assert space["batches"].plan == schedule.plan(dataset_size=200, epochs=4, batch_size=8, tokens_per_sample=per)


TEXTS = [
    "constant",
    "step:0.5:2",
    "milestones:0.2:3,5",
    "exponential:0.7",
    "cosine",
    "onecycle",
    "wsd:3",
    "warmup:2+wsd:4",
    "poly:2",
    "slowstart",
    "warmup:2+step:0.3:3",
    "warmup:3+cosine",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("rule", ["smith", "seesaw", "hybrid(1)"])
def test_the_lines_to_paste_give_what_was_forecast(text, rule):
    lines = python_by_rule(text, dataset_size=600, epochs=8, batch_size=8, max_batch_size=60, round_to=4, rule=rule)
    assert len(lines.splitlines()) == 3
    model = torch.nn.Linear(1, 1)
    kind = torch.optim.Adam if rule == "seesaw" else torch.optim.SGD
    space: dict[str, Any] = {
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


def test_lines_of_what_is_wrong():
    with pytest.raises(ValueError, match="`lr_schedule` must be a schedule, got 'sine'"):
        python_by_rule("sine", dataset_size=600, epochs=8, batch_size=8)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        python_by_rule("cosine", dataset_size=600, epochs=8, batch_size=0)


def test_lines_with_ranks_and_a_coupling():
    text = python_by_rule(
        "cosine", dataset_size=600, epochs=8, batch_size=8, coupling="none", world_sizes="0:1 16:2", max_batch_size=32
    )
    space: dict[str, Any] = {"ab": ab, "torch": torch, "loader": ab.DataLoader(torch.arange(600), 8)}
    space["optimizer"] = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    exec(text, space)
    assert space["growth"].world_sizes == ((0, 1), (16, 2))
    assert "coupling='none'" in text


# Megatron-LM


def megatron_reads(text, seq_length):
    """What `--step-batch-size-schedule` means there: a float times a suffix, cut to a whole number; tokens are divided
    by the sequence length and cut; the last threshold that the samples consumed have reached holds.
    """
    suffixes = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

    def number(word):
        return int(float(word[:-1]) * suffixes[word[-1]]) if word[-1] in suffixes else int(float(word))

    table = []
    for entry in text.split():
        threshold, size = map(number, entry.split(":"))
        table.append((threshold if seq_length is None else threshold // seq_length, size))
    assert table[0][0] == 0
    assert all(after[0] > before[0] for before, after in pairwise(table))
    return table


def megatron_sizes(text, seq_length, total):
    """The global batch of each iteration until `total` samples are consumed."""
    option, _, quoted = text.partition(" ")
    assert option == "--step-batch-size-schedule"
    table, consumed, found = megatron_reads(quoted.strip('"'), seq_length), 0, []
    while consumed < total:
        found.append([size for threshold, size in table if consumed >= threshold][-1])
        consumed += found[-1]
    return found


@settings(max_examples=300, deadline=None)
@given(schedule=stepped(), per=st.integers(1, 5000), total=st.integers(64, 300))
@example(schedule=steps("0:8 250:16"), per=4000, total=400)
def test_megatron_takes_the_sizes_of_the_plan(schedule, per, total):
    emission = emission_of(schedule, dataset_size=total, tokens_per_sample=per)
    text, notes = emit("megatron", emission)
    assert megatron_sizes(text, per, total) == sizes_of(emission.plan)
    assert notes == []


@settings(max_examples=200, deadline=None)
@given(threshold=st.integers(1, 10**6), per=st.integers(1, 5000), size=st.integers(1, 9))
def test_megatron_rounds_tokens_down_and_the_text_is_right_all_the_same(threshold, per, size):
    """A schedule in tokens begins a size at the next whole sample; the text has that sample's tokens."""
    schedule = steps({tokens(0): size, tokens(threshold): 2 * size})
    emission = emission_of(schedule, dataset_size=threshold // per + 50, tokens_per_sample=per)
    text, _ = emit("megatron", emission)
    assert megatron_sizes(text, per, emission.plan.end_samples) == sizes_of(emission.plan)
    begins = megatron_reads(text.split('"')[1], per)[1][0]
    assert begins * per >= threshold
    assert begins % size == 0


def test_what_megatron_cannot_do():
    with pytest.raises(
        ValueError, match="`plan` must not shrink the batch for Megatron-LM, which stops where it does, g"
    ):
        emit("megatron", emission_of(steps("0:8 50:4")))
    with pytest.raises(
        ValueError, match="`micro_batch_size` must divide every batch size for Megatron-LM, got 6 samples"
    ):
        emit("megatron", emission_of(steps("0:12 50:16"), micro_batch_size=3, ranks=2))
    with pytest.raises(
        ValueError, match="`ranks` must divide every batch size for Megatron-LM, got 3 samples on all ranks"
    ):
        emit("megatron", emission_of(steps("0:12 50:16"), ranks=3))
    plan = steps({0: 8, 2**50: 16}).plan(dataset_size=None)
    with pytest.raises(ValueError, match="must begin its last stage where Megatron-LM, which reads a float, is exact"):
        emit("megatron", emission_of(None, plan=plan, tokens_per_sample=1000))
    (note,) = emit("megatron", emission_of(steps("0:8 50:16"), coupling="linear", tokens_per_sample=2)).notes
    assert note == "Megatron-LM does not couple its LR to the batch: linear would multiply it by 2"


# OLMo-core


class Duration(namedtuple("Duration", "value unit")):
    """As much of theirs as the text needs."""

    @classmethod
    def tokens(cls, value):
        return cls(value, "tokens")


def olmo_batches(text, per, total):
    """Size in samples and LR factor of each batch, by the callback's own rule.

    Before a batch is loaded the latest size that is due is wanted. A larger one waits until the batches processed in
    the epoch are a multiple of the factor, and they are counted anew; a smaller one comes at once. The LR is multiplied
    by the root of the factor.
    """
    space: dict[str, Any] = {"Duration": Duration, "BatchSizeSchedulerCallback": lambda **given: given}
    given = eval(text, space)
    sizes, schedule = given["batch_sizes"], given["schedule"]
    assert len(sizes) == len(schedule)
    assert schedule[0].value == 0
    assert all(after.value > before.value for before, after in pairwise(schedule))
    assert all(max(pair) % min(pair) == 0 and pair[0] != pair[1] for pair in pairwise(sizes))
    current, processed, seen, factor, found = sizes[0], 0, 0, 1.0, []
    while seen < total * per:
        target = [size for size, start in zip(sizes, schedule, strict=True) if seen >= start.value][-1]
        ratio = target / current
        if target < current or (target > current and processed % (target // current) == 0):
            processed, current, factor = round(processed / ratio), target, factor * math.sqrt(ratio)
        found.append((current // per, factor))
        processed, seen = processed + 1, seen + current
    return found


@settings(max_examples=300, deadline=None)
@given(schedule=stepped(factors=(2, 3)), per=st.integers(1, 4096), total=st.integers(64, 400))
def test_olmo_takes_the_sizes_of_the_plan_or_says_where_it_waits(schedule, per, total):
    emission = emission_of(schedule, dataset_size=total, tokens_per_sample=per, coupling="sqrt")
    stages = emission.stages()
    if None in olmo_starts(stages, total):
        with pytest.raises(ValueError, match="must keep each batch size long enough for OLMo-core"):
            emit("olmo", emission)
        return
    text, notes = emit("olmo", emission)
    found = olmo_batches(text, per, total)
    clocks = [0, *accumulate(size for size, _ in found)]
    begins = [
        next(c for c, (size, _) in zip(clocks, found, strict=False) if size == stage.batch_size) for stage in stages
    ]
    assert begins == olmo_starts(stages, total)
    assert len(notes) == sum(start != stage.clock for start, stage in zip(begins, stages, strict=True))
    if not notes:
        assert [size for size, _ in found] == sizes_of(emission.plan)
    for size, factor in found:
        assert factor == pytest.approx(math.sqrt(size / stages[0].batch_size))


def test_olmo_waits_for_whole_batches_of_the_new_size():
    emission = emission_of(steps("0:8 8:16"), tokens_per_sample=4, coupling="sqrt")
    text, notes = emit("olmo", emission)
    assert notes == ["OLMo-core waits for whole batches of the new size: 16 from sample 16 on, in place of 8"]
    assert olmo_batches(text, 4, 40) == [(8, 1.0), (8, 1.0), (16, math.sqrt(2)), (16, math.sqrt(2))]
    assert emit("olmo", emission_of(steps("0:8 16:16"), tokens_per_sample=4, coupling="sqrt")).notes == []


def test_olmo_shrinks_at_once():
    emission = emission_of(steps("0:8 16:16 40:4"), tokens_per_sample=4, coupling="sqrt")
    text, notes = emit("olmo", emission)
    assert notes == []
    assert [size for size, _ in olmo_batches(text, 4, 200)] == sizes_of(emission.plan)


def test_what_olmo_cannot_do():
    with pytest.raises(
        ValueError, match="`tokens_per_sample` must be given for OLMo-core, which counts tokens, got none"
    ):
        emit("olmo", emission_of(steps("0:8"), coupling="sqrt"))
    for coupling in ("linear", "adam_sde"):
        with pytest.raises(ValueError, match="`coupling` must be `sqrt` from the first batch size on for OLMo-core"):
            emit("olmo", emission_of(steps("0:8 16:16"), coupling=coupling, tokens_per_sample=4))
    with pytest.raises(ValueError, match="must change the batch by whole factors for OLMo-core, got 12 after 8"):
        emit("olmo", emission_of(steps("0:8 24:12"), coupling="sqrt", tokens_per_sample=4))
    with pytest.raises(ValueError, match="must keep each batch size long enough for OLMo-core"):
        emit("olmo", emission_of(steps("0:8 190:40"), coupling="sqrt", tokens_per_sample=4))
    plan = steps("0:8").plan(dataset_size=80, epochs=2)
    with pytest.raises(
        ValueError, match="`epochs` must be 1 for OLMo-core, whose epochs end with a batch that it drops"
    ):
        emit("olmo", emission_of(None, plan=plan, coupling="sqrt", tokens_per_sample=4))


# MaxText


def maxtext_sizes(text, devices, total):
    """The global batch of each step: a size is held until as many samples have passed since the last increment as the
    ramp has for each of them.
    """
    values = dict(line.split(": ") for line in text.splitlines())
    assert values.pop("enable_rampup_batch_size") == "true"
    start, increment, end = (
        int(values[f"per_device_batch_size{name}"]) * devices for name in ("_start", "_increment", "")
    )
    assert end > start
    assert (end - start) % increment == 0
    per_increment = int(values["global_rampup_samples"]) / ((end - start) // increment)
    current, passed, consumed, found = start, 0, 0, []
    while consumed < total:
        found.append(current)
        consumed, passed = consumed + current, passed + current
        if passed >= per_increment and current < end:
            current, passed = min(current + increment, end), 0
    return found


def is_even(stages):
    """Whether some number of samples an increment gives every stage its updates, by trying all."""
    updates_of = [after.update - before.update for before, after in pairwise(stages)]
    sizes = [stage.batch_size for stage in stages]
    if not updates_of or len({after - before for before, after in pairwise(sizes)}) > 1:
        return False
    return any([math.ceil(each / size) for size in sizes[:-1]] == updates_of for each in range(1, 400))


@settings(max_examples=300, deadline=None)
@given(
    start=st.integers(1, 6),
    increment=st.integers(1, 6),
    count=st.integers(1, 5),
    over=st.integers(1, 200),
    devices=st.integers(1, 3),
)
def test_maxtext_takes_the_sizes_of_the_plan(start, increment, count, over, devices):
    end = start + count * increment
    ramp = linear_ramp(end * devices, over=samples(over), start=start * devices, increment=increment * devices)
    emission = emission_of(None, plan=ramp.plan(dataset_size=400, epochs=1, run_on=True), ranks=devices)
    if not is_even(emission.stages()):
        with pytest.raises(ValueError, match="for MaxText, which knows"):
            emit("maxtext", emission)
        return
    text, (note,) = emit("maxtext", emission)
    assert maxtext_sizes(text, devices, 400) == sizes_of(emission.plan)
    assert "its LR schedule counts updates" in note


def test_a_ramp_that_maxtext_takes():
    ramp = linear_ramp(16, over=samples(144), start=4, increment=4)
    emission = emission_of(None, plan=ramp.plan(dataset_size=400, epochs=1, run_on=True), ranks=2)
    assert emit("maxtext", emission).text.splitlines() == [
        "enable_rampup_batch_size: true",
        "per_device_batch_size_start: 2",
        "per_device_batch_size_increment: 2",
        "per_device_batch_size: 8",
        "global_rampup_samples: 144",
    ]


def test_what_maxtext_cannot_do():
    for schedule in (steps("0:8 24:16 56:32"), steps("0:8 24:4"), steps("0:8")):
        with pytest.raises(
            ValueError, match="must grow in even steps for MaxText, which knows linear ramps only, got 8"
        ):
            emit("maxtext", emission_of(schedule))
    with pytest.raises(
        ValueError, match="must hold each size for about as many samples for MaxText, which knows even ramp"
    ):
        emit("maxtext", emission_of(steps("0:8 24:16 152:24")))
    assert len(emit("maxtext", emission_of(steps("0:8 24:16"), coupling="sqrt", ranks=1)).notes) == 2


# modded-nanogpt

TrainingStage = namedtuple("TrainingStage", "duration batch_size lr_mul")


def nanogpt_stages(text):
    """The stage of each step: stages end at their shares of the scheduled iterations, added up and rounded."""
    space: dict[str, Any] = {"TrainingStage": TrainingStage}
    exec(text, space)
    iterations = int(text.splitlines()[0].removeprefix("# num_scheduled_iterations = "))
    stages = space["TRAINING_STAGES"]
    ends = [0, *[round(share * iterations) for share in accumulate(stage.duration for stage in stages)]]
    assert ends[-1] == iterations
    return [stage for stage, (start, end) in zip(stages, pairwise(ends), strict=True) for _ in range(start, end)]


@settings(max_examples=200, deadline=None)
@given(schedule=stepped(grows=False), per=st.integers(1, 4096), total=st.integers(64, 2000))
def test_nanogpt_takes_the_sizes_of_the_plan(schedule, per, total):
    emission = emission_of(schedule, dataset_size=total, tokens_per_sample=per, coupling="sqrt")
    text, (note,) = emit("nanogpt-stages", emission)
    found = nanogpt_stages(text)
    assert [stage.batch_size for stage in found] == [size * per for size in sizes_of(emission.plan)]
    for stage in found:
        assert stage.lr_mul == pytest.approx(math.sqrt(stage.batch_size / per / schedule.initial), rel=1e-11)
    assert "the extension stage, the last of the list there, and the other fields of a stage stay yours" in note


def test_nanogpt_counts_tokens():
    with pytest.raises(ValueError, match="`tokens_per_sample` must be given for modded-nanogpt, which counts tokens"):
        emit("nanogpt-stages", emission_of(steps("0:8")))


# optax


def optax_updates(text, base_lr, micro, total):
    """Samples and LR of each gradient step of `MultiSteps`: at every mini-step it asks for k at the current gradient
    step, and applies the gradients at the k-th; the schedule within counts gradient steps.

    numpy stands in for `jax.numpy`, of which the text uses `array` and `searchsorted` alone.
    """
    jax = types.ModuleType("jax")
    vars(jax)["numpy"] = np
    space: dict[str, Any] = {}
    before = {name: sys.modules.get(name) for name in ("jax", "jax.numpy")}
    sys.modules.update({"jax": jax, "jax.numpy": np})
    try:
        exec(text, space)
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    schedule, consumed, gradient_step, mini_step, found = space["in_force"](base_lr), 0, 0, 0, []
    while consumed < total:
        k = int(space["every_k"](gradient_step))
        consumed += micro
        if mini_step == k - 1:
            found.append((k * micro, float(schedule(gradient_step))))
            gradient_step += 1
        mini_step = (mini_step + 1) % k
    return found


@settings(max_examples=150, deadline=None)
@given(schedule=stepped(grows=False), micro=st.integers(1, 4), ranks=st.integers(1, 2), total=st.integers(64, 400))
def test_optax_takes_sizes_and_lrs(schedule, micro, ranks, total):
    unit = micro * ranks
    changes = [(start, size * unit) for start, size in schedule.changes]
    emission = emission_of(
        steps(changes), dataset_size=max(total, 60 * unit), coupling="sqrt", micro_batch_size=micro, ranks=ranks
    )
    plan, base = emission.plan, changes[0][1]
    text, notes = emit("optax", emission)
    assert notes == []

    def base_lr(update):
        return 1.0 + update

    found = optax_updates(text, base_lr, unit, plan.end_samples)
    assert [size for size, _ in found] == sizes_of(plan)[: len(found)]
    assert plan.updates - len(found) in (0, 1)  # the last one is cut by the end
    baseline = Baseline(base, None)
    expected = [
        (1.0 + baseline.update_at(batch.clock)) * math.sqrt(batch.requested / base)
        for batch in itertools.islice(plan, len(found))
    ]
    assert [lr for _, lr in found] == pytest.approx(expected)


def test_optax_needs_whole_micro_batches():
    assert "EVERY_K = jnp.array([1, 2])" in emit("optax", emission_of(steps("0:8 24:16"))).text
    with pytest.raises(
        ValueError,
        match="`micro_batch_size` must divide every batch size for optax, got 8 on all ranks and 12; 4 does, or",
    ):
        emit("optax", emission_of(steps("0:8 24:12")))
    plan = steps({0: 1000, 1_000_000: 1999}).plan(dataset_size=2**50, epochs=1, run_on=True)
    with pytest.raises(ValueError, match=r"must stay within the whole numbers of jax, which end at 2\*\*31"):
        emit("optax", emission_of(None, plan=plan, micro_batch_size=1))


# All of them


def test_what_is_wrong_for_all():
    with pytest.raises(
        ValueError, match="`emit` must be one of csv, json, megatron, olmo, maxtext, nanogpt-stages, optax"
    ):
        emit("excel", emission_of(steps("0:8")))
    with pytest.raises(ValueError, match="`ranks` must be at least 1, got 0"):
        emission_of(steps("0:8"), ranks=0)
    assert set(FORMATS) == {"python", "csv", "json", *FOREIGN}


def test_sizes_that_hold_for_no_update_are_left_out():
    emission = emission_of(steps("0:8 1:9 2:16 900:32"), dataset_size=100)
    assert [stage.batch_size for stage in emission.stages()] == [8, 16]
    assert emission_of(steps("0:8 1:9 2:8"), dataset_size=100).stages() == [(0, 0, 8)]


@pytest.mark.parametrize(
    ("form", "known", "message"),
    [
        ("megatron", {}, "`tokens_per_sample` must be given for Megatron-LM, which counts tokens, got none; it is the"),
        ("maxtext", {}, "`ranks` must be given for MaxText, which counts samples a device, got none; it is the number"),
    ],
)
def test_what_a_reader_counts_must_be_given(form, known, message):
    with pytest.raises(ValueError, match=message):
        emit(form, emission_of(steps("0:8 24:16"), **known))
    assert emit("megatron", emission_of(steps("0:8"))).text == '--step-batch-size-schedule "0:8"'


@pytest.mark.parametrize("form", ["csv", *FOREIGN])
@pytest.mark.parametrize(
    ("coupling", "named"),
    [("token_half_life", "betas"), ("adam_sde", "betas, eps"), ("constant_noise", "momentum"), ("linear", None)],
)
def test_what_a_coupling_changes_besides_is_named(form, coupling, named):
    if form == "olmo":
        return  # it takes the coupling sqrt alone
    given = {"coupling": couplings.get(coupling), "tokens_per_sample": 4, "ranks": 1}
    if coupling == "constant_noise":
        given["coupling"] = couplings.constant_noise(maximum_lr_factor=1.5)
    emission = Emission(plan=steps("0:8 24:16").plan(dataset_size=200, epochs=1, run_on=True), batch_size=8, **given)
    notes = [note for note in emit(form, emission).notes if "also changes" in note]
    expected = f"{coupling} also changes {named}, which is not in the text for "
    assert [note[: len(expected)] for note in notes] == ([] if named is None else [expected])


def test_numbers_of_processes_are_in_tables_and_else_named():
    schedule = schedules.world_sizes(steps("0:8 24:16"), "0:1 16:2")
    known = {"tokens_per_sample": 4, "ranks": 1}
    assert [row["world_size"] for row in json.loads(emit("json", emission_of(schedule)).text)["stages"]] == [1, 2]
    assert emit("csv", emission_of(schedule)).text.splitlines()[0].endswith(",lr_factor,world_size")
    for form in ("megatron", "maxtext", "nanogpt-stages", "optax"):
        assert emit(form, emission_of(schedule, **known)).notes[-1].endswith("so the plan's are left out")
        assert "left out" not in "".join(emit(form, emission_of(steps("0:8 24:16"), **known)).notes)
