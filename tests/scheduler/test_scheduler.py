"""`BatchSizeScheduler`: sizes, LRs in force, decisions and guards, in a user's own loop."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from tests.scheduler.checks import backward, data, loader_of, model_of, sgd

import adabatch as ab

DOUBLING = ab.schedules.geometric(2, ab.epochs(1), maximum=16)


def test_growth_and_lr_in_force():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, DOUBLING, epochs=4)
    seen = []
    for _ in range(4):
        for batch in loader:
            backward(model, batch)
            seen_inside = len(batch[0])
            assert batches.batch_size == seen_inside
            assert batches.factor == seen_inside / 4
            optimizer.step()
            assert optimizer.param_groups[0]["lr"] == 0.1
            seen.append((seen_inside, *batches.last_lr))
            batches.step()
    assert seen == [(4, 0.1)] * 16 + [(8, 0.2)] * 8 + [(16, 0.4)] * 4 * 2
    assert len(seen) == batches.plan.updates == 32


def test_the_weights_move_by_the_lr_in_force():
    model, loader = model_of(), loader_of()
    by_hand = copy.deepcopy(model)
    optimizer = sgd(model, momentum=0.9, nesterov=True)
    reference = sgd(by_hand, momentum=0.9, nesterov=True)
    batches = ab.BatchSizeScheduler(optimizer, loader, DOUBLING)
    for _ in range(3):
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            batches.step()
            backward(by_hand, batch)
            reference.param_groups[0]["lr"] = 0.1 * len(batch[0]) / 4
            reference.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


def test_the_table_of_the_paper():
    """PAPERS: AdaBatch on one GPU; epochs of 2048 samples stand for those of 50,000."""
    model, loader = model_of(), loader_of(2048, 128, drop_last=True)
    optimizer = sgd(model, lr=0.01, momentum=0.9, weight_decay=5e-4)
    user = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.375)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1), maximum=2048))
    table = []
    for _ in range(5):
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            batches.step()
        table.append((len(batch[0]), batches.last_lr[0], optimizer.param_groups[0]["lr"]))
        user.step()
    assert [size for size, _, _ in table] == [128, 256, 512, 1024, 2048]
    assert [lr for _, lr, _ in table] == pytest.approx([0.01, 0.0075, 0.005625, 0.00421875, 0.0031640625], rel=1e-12)
    assert [lr for _, _, lr in table] == pytest.approx([0.01 * 0.375**stage for stage in range(5)], rel=1e-12)


def test_a_short_tail_is_not_rescaled():
    model, loader = model_of(), loader_of(10, 4)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    seen = []
    for batch in loader:
        backward(model, batch)
        optimizer.step()
        seen.append((len(batch[0]), batches.last_lr))
        batches.step()
    assert seen == [(4, [0.1]), (4, [0.1]), (2, [0.1])]


def test_decisions_say_when_what_and_why():
    model, loader = model_of(), loader_of(32)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, DOUBLING, epochs=3)
    for _ in range(3):
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            batches.step()
    assert [(each.clock, each.batch_size) for each in batches.decisions] == [(32, 8), (64, 16)]
    assert batches.decisions[0].reason == "x2 every 1 epoch, from the loader's batch size, at most 16, at epoch 1"


def test_decisions_say_how_many_ranks_are_wanted():
    model, loader = model_of(), loader_of(32)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.world_sizes(DOUBLING, "0:2 8:1 16:4"), epochs=3)
    for _ in range(3):
        for batch in loader:
            backward(model, batch)
            optimizer.step()
            batches.step()
    assert [(each.batch_size, each.world_size) for each in batches.decisions] == [(8, 1), (16, 4)]
    assert [each.reason.rpartition(", ")[2] for each in batches.decisions] == ["wants 1 rank", "wants 4 ranks"]


def test_growth_within_an_epoch():
    model, loader = model_of(), loader_of(32)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 10:8"))
    sizes = []
    for batch in loader:
        sizes.append(len(batch[0]))
        backward(model, batch)
        optimizer.step()
        batches.step()
    assert sizes == [4, 4, 4, 8, 8, 4]
    assert [(each.clock, each.batch_size) for each in batches.decisions] == [(12, 8)]
    assert batches.decisions[0].reason.endswith(", at epoch 0.375")


def test_last_lr_before_the_first_step_is_what_the_step_would_use():
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}], lr=0.25)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    assert batches.last_lr == [0.5, 0.25]
    optimizer.param_groups[0]["lr"] = 2.0
    assert batches.last_lr == [2.0, 0.25]


def test_last_lr_stays_that_of_the_latest_step():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, DOUBLING)
    backward(model, next(iter(loader)))
    optimizer.step()
    batches.step()
    optimizer.param_groups[0]["lr"] = 7.0
    assert batches.last_lr == [0.1]


def test_last_lr_of_a_tensor_is_that_of_the_latest_step():
    """A record, whatever is done to the tensor and however the batch size goes on."""
    model, loader = model_of(), loader_of()
    lr = torch.tensor(0.1)
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": torch.tensor(0.5)}], lr=lr)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8 12:16"))
    expected = []
    for number, batch in enumerate(loader):
        backward(model, batch)
        expected = [(0.1 + number) * batches.factor, 0.5 * batches.factor]
        optimizer.step()
        assert batches.last_lr == pytest.approx(expected, rel=1e-6)
        batches.step()
        lr.fill_(1.1 + number)  # in place, as LR schedulers do
        assert batches.last_lr == pytest.approx(expected, rel=1e-6)
    assert batches.factor == 4


def test_last_lr_that_is_read_within_a_step_leaves_the_coupling_in_force():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    read = []
    for _, batch in zip(range(3), loader, strict=False):
        backward(model, batch)
        before = model.weight.detach().clone()
        optimizer.step(lambda: read.extend(batches.last_lr))
        assert torch.allclose(model.weight, before - 0.1 * batches.factor * model.weight.grad)
        batches.step()
    assert read == [0.1, 0.2, 0.2]


def test_last_lr_has_an_entry_for_each_group_at_any_time():
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    batches.step()
    optimizer.add_param_group({"params": [model.bias], "lr": 1.0})
    assert batches.last_lr == [0.1, 2.0], "that of the latest step, and that of the next"
    backward(model, next(stream))
    optimizer.step()
    batches.step()
    assert batches.last_lr == [0.2, 2.0]
    optimizer.param_groups.pop(0)
    assert batches.last_lr == [2.0]
    optimizer.param_groups[0]["lr"] = 3.0
    assert batches.last_lr == [2.0]
    backward(model, next(stream))
    optimizer.step()
    assert batches.last_lr == [6.0]


def test_a_group_added_later_without_an_lr_has_that_of_the_optimizer():
    model, loader = model_of(), loader_of()
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    batches.step()
    optimizer.add_param_group({"params": [model.bias]})
    backward(model, next(stream))
    bias = model.bias.detach().clone()
    optimizer.step()
    assert torch.allclose(model.bias, bias - 0.2 * model.bias.grad)
    assert batches.last_lr == [0.2, 0.2]


def test_an_lr_that_the_user_sets_between_batches_is_the_base_from_there():
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:8"))
    for number, batch in zip(range(4), loader, strict=False):
        backward(model, batch)
        optimizer.param_groups[0]["lr"] = 0.01 * number
        before = model.weight.detach().clone()
        optimizer.step()
        assert torch.allclose(model.weight, before - 0.01 * number * batches.factor * model.weight.grad)
        assert optimizer.param_groups[0]["lr"] == 0.01 * number
        batches.step()


@pytest.mark.parametrize(
    ("coupling", "factor"), [("none", 1), ("power(0.25)", 2**0.5), (ab.couplings.sqrt(any_optimizer=True), 2)]
)
def test_other_couplings(coupling, factor):
    model, loader = model_of(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 4:16"), coupling=coupling)
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        optimizer.step()
        batches.step()
    assert batches.last_lr == [pytest.approx(0.1 * factor)]


FALLING = {0: 0.1, 8: 0.05, 16: 0.025}


@pytest.mark.parametrize(
    ("schedule", "kind", "described"),
    [
        (ab.schedules.geometric(2, ab.epochs(1)), torch.optim.SGD, ab.couplings.linear()),
        (ab.schedules.constant(), torch.optim.SGD, ab.couplings.linear()),
        (ab.schedules.from_lr(FALLING), torch.optim.Adam, ab.couplings.linear(any_optimizer=True)),
        (ab.schedules.from_lr(FALLING, rule="seesaw"), torch.optim.Adam, ab.couplings.sqrt()),
        (ab.schedules.from_lr(FALLING, rule="power(0.75)"), torch.optim.SGD, ab.couplings.power(0.75)),
        (
            ab.schedules.then(
                ab.schedules.constant(),
                ab.schedules.round_to(ab.schedules.clamp(ab.schedules.from_lr(FALLING, rule="seesaw"), maximum=8), 2),
                after=ab.samples(4),
            ),
            torch.optim.Adam,
            ab.couplings.sqrt(),
        ),
    ],
)
def test_a_schedule_brings_its_coupling(schedule, kind, described):
    optimizer = kind(model_of().parameters(), lr=0.1)
    batches = ab.BatchSizeScheduler(optimizer, loader_of(), schedule, epochs=2)
    assert batches.state_dict()["coupling"] == described.to_json()


def test_parts_of_a_schedule_that_bring_different_couplings_are_refused():
    growth = ab.schedules.geometric(2, ab.epochs(1))
    falling = ab.schedules.from_lr(FALLING, rule="seesaw")
    both = ab.schedules.then(growth, falling, after=ab.epochs(1))
    with pytest.raises(ValueError, match=r"`coupling` must be given for a schedule .* got linear and sqrt"):
        ab.BatchSizeScheduler(sgd(model_of()), loader_of(), both, epochs=2)
    ab.BatchSizeScheduler(sgd(model_of()), loader_of(), both, coupling="linear", epochs=2)


@pytest.mark.parametrize("tail", [{}, {"drop_last": True}, {"run_on": True}], ids=["kept", "dropped", "run on"])
def test_the_plan_is_what_happens(tail):
    model, loader = model_of(), loader_of(50, **tail)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.updates(9), maximum=16), epochs=3)
    seen = []
    for _ in range(3):
        expected = len(loader)
        for batch in loader:
            seen.append((loader.current.clock, loader.current.requested, loader.current.epoch))
            expected -= 1
            backward(model, batch)
            optimizer.step()
            batches.step()
        assert expected == 0
    assert seen == [(each.clock, each.requested, each.epoch) for each in batches.plan]


# Guards.


def started(schedule=DOUBLING, *, batches_in=0, **arguments):
    model, loader = model_of(), loader_of(**arguments)
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule)
    return model, loader, optimizer, batches


def test_step_before_the_first_batch():
    *_, batches = started()
    with pytest.raises(RuntimeError, match=r"`step\(\)` of BatchSizeScheduler was called before the first batch"):
        batches.step()


def test_step_twice_for_one_batch():
    model, loader, optimizer, batches = started()
    backward(model, next(iter(loader)))
    optimizer.step()
    batches.step()
    with pytest.raises(RuntimeError, match="was called twice for one batch; call it once after each batch's"):
        batches.step()


def test_a_forgotten_step_is_said_at_the_next_batch():
    model, loader, optimizer, _ = started()
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"was not called .* sample 0; .* interrupted between the two, call it now$"):
        next(stream)


def test_a_step_forgotten_at_the_end_of_an_epoch():
    model, loader, optimizer, _ = started(batch_size=64, schedule=ab.schedules.constant())
    backward(model, next(iter(loader)))
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"was not called after `optimizer.step\(\)` for the batch at sample 0"):
        list(loader)


def test_a_batch_left_out_counts_as_passed():
    model, loader, optimizer, batches = started()

    def epoch():
        for number, batch in enumerate(loader):
            if number % 3 == 1:
                continue
            backward(model, batch)
            optimizer.step()
            batches.step()

    with pytest.warns(RuntimeWarning, match="the batch at sample 4 was left without .* and counts as passed") as told:
        epoch()
    assert loader.clock == 64
    assert len(told) == 1


def test_the_optimizer_after_step():
    model, loader, optimizer, batches = started()
    backward(model, next(iter(loader)))
    batches.step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"`optimizer.step\(\)` came after `step\(\)`.*; call the optimizer first"):
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_optimizer_before_the_last_micro_batch():
    model, loader, optimizer, batches = started(schedule=ab.schedules.steps("0:4 4:8"), micro_batch_size=2)
    for micro in ab.accumulate(loader):
        with micro as (inputs, targets):
            (torch.nn.functional.mse_loss(model(inputs), targets) * micro.weight).backward()
        if loader.current.requested == 8 and not micro.is_last:
            before = model.weight.clone()
            with pytest.raises(RuntimeError, match=r"`optimizer.step\(\)` came after micro-batch 1 of 4; step after"):
                optimizer.step()
            with pytest.raises(RuntimeError, match=r"was called after micro-batch 1 of 4; call it after the last one"):
                batches.step()
            assert optimizer.param_groups[0]["lr"] == 0.1
            assert torch.equal(before, model.weight)
            break
        if micro.is_last:
            optimizer.step()
            optimizer.zero_grad()
            batches.step()


def test_two_schedulers_on_one_optimizer():
    _, loader, optimizer, batches = started()
    other = loader_of()
    with pytest.raises(ValueError, match=r"one BatchSizeScheduler, this SGD has one already; call `close\(\)` on that"):
        ab.BatchSizeScheduler(optimizer, other, DOUBLING)
    other.batch_size = 8  # nothing was attached
    batches.close()
    ab.BatchSizeScheduler(optimizer, loader, DOUBLING)


def test_two_schedulers_on_one_loader():
    _, loader, _, _ = started()
    fresh = sgd(model_of())
    with pytest.raises(ValueError, match="driven by another scheduler"):
        ab.BatchSizeScheduler(fresh, loader, DOUBLING)
    ab.BatchSizeScheduler(fresh, loader_of(), DOUBLING)  # no hook was left behind


def test_a_second_live_iterator():
    model, loader, optimizer, batches = started()
    stream = iter(loader)
    backward(model, next(stream))
    optimizer.step()
    batches.step()
    with pytest.raises(RuntimeError, match="evaluate with another loader; this one drives the schedule"):
        next(iter(loader))


@pytest.mark.parametrize(
    "schedule", [ab.schedules.constant(8), ab.schedules.geometric(2, ab.epochs(1), start=8, maximum=16)]
)
def test_a_schedule_that_starts_elsewhere(schedule):
    loader, optimizer = loader_of(), sgd(model_of())
    remedy = "give the loader `batch_size=8` and the optimizer the LR for that size, or leave the start out"
    with pytest.raises(ValueError, match=f"must start at the loader's batch size of 4, got a start of 8; {remedy}"):
        ab.BatchSizeScheduler(optimizer, loader, schedule)
    ab.BatchSizeScheduler(optimizer, loader, DOUBLING)


def test_arguments_of_the_wrong_kind():
    loader, optimizer = loader_of(), sgd(model_of())
    torch_loader = torch.utils.data.DataLoader(data())
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got Linear"):
        ab.BatchSizeScheduler(model_of(), loader, DOUBLING)
    with pytest.raises(TypeError, match=r"`loader` must be an ab.DataLoader, got torch.utils.data.*DataLoader"):
        ab.BatchSizeScheduler(optimizer, torch_loader, DOUBLING)
    with pytest.raises(TypeError, match=r"`schedule` must be a schedule or a policy, got 'constant'"):
        ab.BatchSizeScheduler(optimizer, loader, "constant")
    with pytest.raises(ValueError, match=r"`optimizer` must be one or a list of different ones, got 2"):
        ab.BatchSizeScheduler([optimizer, optimizer], loader, DOUBLING)
    with pytest.raises(ValueError, match=r"`optimizer` must be one or a list of different ones, got 0"):
        ab.BatchSizeScheduler([], loader, DOUBLING)
    with pytest.raises(ValueError, match=r"`coupling` 'linear' was derived for .*, got Adam; use `sqrt`"):
        ab.BatchSizeScheduler(torch.optim.Adam(model_of().parameters()), loader, DOUBLING)
    with pytest.raises(ValueError, match=r"`epochs` must be at least 1, got 0"):
        ab.BatchSizeScheduler(optimizer, loader, DOUBLING, epochs=0)
    ab.BatchSizeScheduler(optimizer, loader, DOUBLING)  # nothing was left behind


def test_an_optimizer_without_an_lr():
    class Bare(torch.optim.Optimizer):
        def step(self, closure=None):
            return None

    bare = Bare(model_of().parameters(), {})
    with pytest.raises(ValueError, match="`optimizer` must have an LR in every parameter group, got Bare without"):
        ab.BatchSizeScheduler(bare, loader_of(), DOUBLING, coupling="none")


# Leaving.


def test_close_takes_everything_off():
    model, loader, optimizer, batches = started(schedule=ab.schedules.steps("0:4 4:8"))
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        optimizer.step()
        batches.step()
    batches.close()
    batches.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_state_dict_pre_hooks
    assert loader.batch_size == 8
    loader.batch_size = 16
    before = model.weight.clone()
    backward(model, next(iter(loader)))
    optimizer.step()
    assert torch.allclose(model.weight, before - 0.1 * model.weight.grad)
    with pytest.raises(RuntimeError, match=r"was called after `close\(\)`; make a new one"):
        batches.step()


def test_nothing_is_kept_alive():
    model, loader, optimizer, batches = started()
    gone = [weakref.ref(each) for each in (model, loader, optimizer, batches)]
    del model, loader, optimizer, batches
    gc.collect()
    assert [each() for each in gone] == [None] * 4


def test_a_copied_optimizer_carries_no_hooks():
    model, loader, optimizer, batches = started(schedule=ab.schedules.steps("0:4 4:8"))
    for _, batch in zip(range(2), loader, strict=False):
        backward(model, batch)
        optimizer.step()
        batches.step()
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied.param_groups[0]["lr"] == 0.1
        assert not copied._optimizer_step_pre_hooks
        ab.BatchSizeScheduler(copied, loader_of(), DOUBLING)


def test_the_scheduler_itself_is_not_copied():
    *_, batches = started()
    for copies in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(
            TypeError, match="cannot be copied or pickled: it belongs to its optimizer; use `state_dict"
        ):
            copies(batches)


def test_schedules_in_tokens():
    def scheduler(**arguments):
        loader = loader_of(64, 4)
        growth = ab.schedules.steps({0: 4, ab.tokens(16 * 10): 8})
        return ab.BatchSizeScheduler(sgd(model_of()), loader, growth, epochs=1, **arguments)

    assert scheduler(tokens_per_sample=10).plan.starts_samples == (0, 16)
    assert scheduler(tokens_per_sample=5).plan.starts_samples == (0, 32)
    with pytest.raises(ValueError, match="`tokens_per_sample`"):
        scheduler()
    with pytest.raises(ValueError, match="`tokens_per_sample` must be at least 1, got 0"):
        scheduler(tokens_per_sample=0)
