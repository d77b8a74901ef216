"""Runs whose batch size a policy decides: what they train, what they keep, and how they go on."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import pytest
import torch
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds
from tests.lab.training.test_loop_resume import interrupted_at

import adabatch as ab
from adabatch.lab.training import RunConfig, RunResult, checkpoint, reporting, saved_result, train
from adabatch.lab.training.device import pick_device
from adabatch.lab.training.records import decision_json, decision_of
from adabatch.lab.training.setup import Setup, with_fastest_micro_batch

# Grows twice; the first measurement comes with the first update, so 20 are there in the second epoch.
DECIDED = RunConfig.for_task(
    "digits", model="mlp", batch_size=8, policy="noise-scale:4,measure-every=1", max_batch_size=64, epochs=5, lr=0.02,
    lr_schedule="step:0.5:2", evaluate_every="13 updates", device="cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def report_every_update(monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The result and the folder of an unbroken run."""
    out = tmp_path_factory.mktemp("unbroken")
    return train(DECIDED, out, data=small_data()), out


def by_hand(config):
    """The weights and decisions of a user's own loop."""
    data = small_data()
    setup = Setup(config, data, pick_device("cpu"))
    setup.batches.close()
    torch.manual_seed(config.seed)
    model = setup._network()
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    loader = ab.DataLoader(data.dataset, config.batch_size, shuffle=True, seed=config.seed)
    noise = ab.noise.tap(model, optimizer, loader, every=1)
    policy = ab.policies.noise_scale(4.0, maximum=config.max_batch_size)
    batches = ab.BatchSizeScheduler(optimizer, loader, policy, coupling="linear", noise=noise)
    for _ in range(config.epochs):
        for micro in ab.accumulate(loader, model):
            with micro as (inputs, targets):
                loss = torch.nn.functional.cross_entropy(model(inputs), targets)
                (loss * micro.weight).backward()
            if micro.is_last:
                optimizer.step()
                optimizer.zero_grad()
                batches.step()
        scheduler.step()
    return model.state_dict(), batches.decisions


def test_it_trains_as_a_users_own_loop_does(unbroken):
    result, folder = unbroken
    model, decisions = by_hand(DECIDED)
    assert len(decisions) > 1
    assert same(weights(folder), model)
    assert [(each.clock, each.batch_size, each.reason, each.interval) for each in result.decisions] == [
        (each.clock, each.batch_size, each.reason, each.interval) for each in decisions
    ]
    assert [each.observation.noise for each in result.decisions] == [each.observation.noise for each in decisions]


def test_its_logs_hold_what_was_seen_and_why(unbroken):
    result, folder = unbroken
    lines = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    assert tuple(map(decision_of, lines)) == result.decisions
    assert saved_result(folder) == result
    assert RunResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result
    assert result.batch_sizes == (8, *(each.batch_size for each in result.decisions))
    for each in result.decisions:
        assert each.observation.batch_size * 2 == each.batch_size <= each.interval[0]
        assert each.observation.noise.low < each.observation.noise.high
        assert each.observation.loss > 0
    for found in result.history:
        assert found.updates % 13 == 0 or found.samples == 5 * 300
        assert found.noise_low > 0
        assert found.noise_high is None or found.noise_high > found.noise_low
    assert [found.updates for found in result.history[:-1]] == [13 * k for k in range(1, len(result.history))]
    assert result.history[-1].decided.startswith("noise scale ")
    assert result.history[0].decided == "the noise was measured at 12.8 updates, a look takes 20"
    assert result.noise_from == "halves of every update"


def test_an_end_that_is_infinite_is_null_in_json(unbroken):
    decision = unbroken[0].decisions[0]
    noise = replace(decision.observation.noise, high=inf)
    decision = replace(decision, interval=(70.0, inf), observation=replace(decision.observation, noise=noise))
    values = json.loads(json.dumps(decision_json(decision), allow_nan=False))
    assert (values["interval"], values["observation"]["noise"]["high"]) == ([70.0, None], None)
    assert decision_of(values) == decision


# Before any look, around the first change of size, and later.
@pytest.mark.parametrize("update", [2, 14, 20, 22, 23, 26, 39, 55])
def test_bit_for_bit_from_any_update(tmp_path, unbroken, update):
    expected, folder = unbroken
    interrupted_at(update, DECIDED, tmp_path)
    torch.manual_seed(99)  # whatever the process did before
    result = train(DECIDED, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(expected)
    assert same(weights(tmp_path), weights(folder))
    ours, theirs = (checkpoint.read(out / "checkpoints" / "last.pt") for out in (tmp_path, folder))
    assert same(ours["parts"], theirs["parts"])
    assert (ours["decided"], ours["decisions"]) == (theirs["decided"], theirs["decisions"])
    assert (tmp_path / "decisions.jsonl").read_text() == (folder / "decisions.jsonl").read_text()


def test_it_may_be_extended(tmp_path, unbroken):
    train(replace(DECIDED, epochs=4), tmp_path, data=small_data())
    extended = train(DECIDED, tmp_path, data=small_data(), resume=True)
    assert extended.decisions == unbroken[0].decisions
    assert same(weights(tmp_path), weights(unbroken[1]))


def test_a_damaged_count_of_updates_is_found(tmp_path):
    train(replace(DECIDED, epochs=1), tmp_path, data=small_data())
    path = tmp_path / "checkpoints" / "last.pt"
    state = checkpoint.read(path)
    state["parts"]["batches"]["decided"]["updates"] += 1
    checkpoint.write(path, {name: value for name, value in state.items() if name not in ("kind", "format")})
    with pytest.raises(ValueError, match=r"`checkpoint` .* must be of this run, got one that does not fit it "):
        train(DECIDED, tmp_path, data=small_data(), resume=True)


def test_a_policy_that_asks_for_the_loss_gets_it():
    config = replace(DECIDED, policy="cabs:0,measure-every=1", momentum=0.0, coupling="none", lr=0.3, batch_size=4)
    result = train(config, data=small_data())
    assert len(result.batch_sizes) > 1
    for each in result.decisions:
        seen = each.observation
        assert each.interval[0] < seen.lr * seen.noise.trace / seen.loss < each.interval[1]
    assert {found.lr for found in result.history} == {0.3, 0.15, 0.075}


def test_micro_batches_are_the_parts_where_batches_are_cut(unbroken):
    """The same gradients in the same sums, so the same run, but for where the norms come from."""
    result = train(replace(DECIDED, micro_batch_size=4), data=small_data())
    assert result.noise_from == "micro-batches of every update"
    assert len(result.batch_sizes) > 1
    assert train(replace(DECIDED, micro_batch_size=8), data=small_data()).noise_from == "halves of every update"


def test_samples_that_drop_last_drops_pass(tmp_path):
    config = replace(DECIDED, drop_last=True)
    result = train(config, tmp_path, data=small_data())
    assert result.samples < 5 * 300 == result.history[-1].samples
    assert train(config, tmp_path, data=small_data(), resume=True) == result


def test_the_sizes_of_passes_are_those_of_batches_and_halves():
    made = Setup(replace(DECIDED, max_batch_size=50, batch_size=10), small_data(), pick_device("cpu"))
    assert made._sizes_of_passes() == (50, 40, 25, 20, 10, 5)
    cut = Setup(replace(DECIDED, max_batch_size=50, batch_size=10, micro_batch_size=5), small_data(), made.device)
    assert cut._sizes_of_passes() == (5,)
    for each in (made, cut):
        each.batches.close()


def test_without_a_policy_nothing_is_measured():
    result = train(SMALL, data=small_data())
    assert result.noise_from is None
    assert {(found.noise_scale, found.noise_low, found.decided) for found in result.history} == {(None, None, None)}


@pytest.mark.slow
def test_the_fastest_micro_batch_is_measured_up_to_the_largest_batch():
    found = with_fastest_micro_batch(DECIDED, data=small_data())
    assert replace(found, micro_batch_size=None) == DECIDED
    assert found.micro_batch_size is None or found.micro_batch_size <= 64
