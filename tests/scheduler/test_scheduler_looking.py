"""Looking is free: uses of the train loader other than training move nothing, or are refused in one line."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

import adabatch as ab

SIZES = [12, 12, 6, 6, 3, 3]  # updates in each of six epochs


def data(size=96):
    torch.manual_seed(0)
    return TensorDataset(torch.randn(size, 4), torch.randn(size, 1))


class Rows(IterableDataset):
    """The same data as a stream."""

    def __init__(self, size=96):
        self.rows = data(size)

    def __iter__(self):
        return iter(self.rows)


class Run:
    """A plain training, whose batch doubles every two epochs."""

    loader: ab.DataLoader | ab.micro_batches
    held: Iterator[Any]

    def __init__(self, *, kind="map", schedule=None, foreign=False, before=None, epochs=None, **options):
        torch.manual_seed(1)
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        if foreign:
            inner = torch.utils.data.DataLoader(data(), batch_size=8, shuffle=True)
            self.loader = ab.micro_batches(inner, batch_size=8)
        elif kind == "stream":
            self.loader = ab.DataLoader(Rows(), batch_size=8, seed=0, **options)
        else:
            self.loader = ab.DataLoader(data(), batch_size=8, shuffle=True, seed=0, **options)
        if before is not None:
            before(self)
        schedule = schedule or ab.schedules.geometric(
            2, ab.samples(192) if kind == "stream" else ab.epochs(2), maximum=32
        )
        self.batches = ab.BatchSizeScheduler(self.optimizer, self.loader, schedule, epochs=epochs)

    def one(self, batch):
        self.optimizer.zero_grad()
        torch.nn.functional.mse_loss(self.model(batch[0]), batch[1]).backward()
        self.optimizer.step()
        self.batches.step()

    def epoch(self, each=lambda: None):
        count = 0
        if isinstance(self.loader, ab.DataLoader):
            for batch in self.loader:
                self.one(batch)
                count += 1
                each()
            return count
        for micro in ab.accumulate(self.loader, self.model):
            if micro.index == 0:
                self.optimizer.zero_grad()
            with micro as (inputs, targets):
                (torch.nn.functional.mse_loss(self.model(inputs), targets) * micro.weight).backward()
            if micro.is_last:
                self.optimizer.step()
                self.batches.step()
                count += 1
        return count


def peek(run):
    next(iter(run.loader))


def an_unused_iterator(run):
    iter(run.loader), run.loader.parts(), ab.accumulate(run.loader, run.model)


def some_batches(run):
    for number, _ in enumerate(run.loader):
        if number == 2:
            break


def a_whole_pass(run):
    for inputs, _ in run.loader:
        run.model(inputs)


def a_held_iterator(run):
    run.held = iter(run.loader)
    next(run.held)


def through_accumulate(run):
    next(iter(ab.accumulate(run.loader, run.model)))


def all_through_accumulate(run):
    for micro in ab.accumulate(run.loader, run.model):
        with micro as (inputs, _):
            run.model(inputs)


def by_peek(run):
    run.loader.peek()


def batch_norm_statistics(run):
    torch.optim.swa_utils.update_bn(((inputs,) for inputs, _ in run.loader), torch.nn.BatchNorm1d(4))


LOOKS = [
    peek, an_unused_iterator, some_batches, a_whole_pass, a_held_iterator, through_accumulate, all_through_accumulate,
    by_peek, batch_norm_statistics,
]  # fmt: skip


def weights(run):
    return [parameter.clone() for parameter in run.model.parameters()]


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"run_on": True}, {"kind": "stream"}, {"num_workers": 1}])
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_in_every_epoch_changes_nothing(look, options):
    plain, looking = Run(**options), Run(**options)
    for _ in range(6):
        look(looking)
        assert looking.epoch() == plain.epoch()
        look(looking)
        assert json.dumps(looking.loader.state_dict()) == json.dumps(plain.loader.state_dict())
        assert looking.batches.state_dict() == plain.batches.state_dict()
    assert all(map(torch.equal, weights(looking), weights(plain)))


@pytest.mark.parametrize("look", [an_unused_iterator, peek, some_batches, a_held_iterator, through_accumulate, by_peek])
def test_a_look_before_there_is_a_schedule_changes_nothing(look):
    run = Run(before=look)
    assert [run.epoch() for _ in range(6)] == SIZES


@pytest.mark.parametrize("look", [through_accumulate, all_through_accumulate, by_peek])
def test_a_look_at_a_loader_of_another_make_changes_nothing(look):
    plain, looking = Run(foreign=True), Run(foreign=True, before=None if look is all_through_accumulate else look)
    for _ in range(6):
        look(looking)
        assert looking.epoch() == plain.epoch()
        look(looking)
        assert looking.loader.state_dict() | {"seed": 0} == plain.loader.state_dict() | {"seed": 0}
    assert looking.loader.epoch == 6


def test_a_whole_pass_before_there_is_a_schedule_is_told_apart():
    run = Run(before=a_whole_pass)  # it may have been training
    with pytest.raises(RuntimeError, match="must be called before training goes on at sample 96"):
        run.epoch()
    run = Run(before=lambda run: (a_whole_pass(run), run.loader.set_epoch(0)))
    assert [run.epoch() for _ in range(6)] == SIZES


def test_the_batch_of_an_iterator_that_was_dropped_can_be_trained_on():
    run = Run()
    for _ in range(3):
        run.one(next(iter(run.loader)))  # each leaves its epoch
    assert run.loader.epoch == 3
    assert run.epoch() == 6


def test_a_look_inside_the_loop_before_its_first_update():
    run, plain = Run(), Run()
    for number, batch in enumerate(run.loader):
        if number == 0:
            peek(run)
            run.loader.peek()
            a_whole_pass(run)
        run.one(batch)
    plain.epoch()
    assert all(map(torch.equal, weights(run), weights(plain)))


def test_a_look_inside_a_batch_of_micro_batches():
    run = Run(micro_batch_size=4)
    for micro in ab.accumulate(run.loader, run.model):
        peek(run)
        assert (run.loader.part.index, run.loader.part.count) == (micro.index, 2)
        with micro as (inputs, targets):
            (torch.nn.functional.mse_loss(run.model(inputs), targets) * micro.weight).backward()
        if micro.is_last:
            break
        with pytest.raises(RuntimeError, match="after micro-batch 1 of 2"):
            run.optimizer.step()
    run.optimizer.step()
    run.batches.step()
    assert run.loader.clock == 8


class Numbers(IterableDataset):
    """A stream that keeps its place in itself."""

    at = 0

    def __iter__(self):
        while self.at < 20:
            self.at += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_peek_leaves_a_stream_alone_that_keeps_its_place_in_itself():
    loader, seen = ab.DataLoader(Numbers(), 4), []
    for batch in loader:
        seen += batch.tolist()
        loader.peek()
    assert seen == list(range(20))


def test_a_held_look_between_micro_batches():
    run, plain = Run(micro_batch_size=2), Run(micro_batch_size=2)

    def epoch(run, look=lambda: None):
        for micro in ab.accumulate(run.loader, run.model):
            with micro as (inputs, targets):
                (torch.nn.functional.mse_loss(run.model(inputs), targets) * micro.weight).backward()
            if micro.index == 1:
                look()
            if micro.is_last:
                run.optimizer.step()
                run.optimizer.zero_grad()
                run.batches.step()

    told = []

    def look():
        run.held = iter(run.loader)
        try:
            next(run.held)
        except RuntimeError as error:
            told.append(str(error))

    epoch(plain)
    epoch(run, look)
    assert len(told) == 11  # in the first batch nothing is trained yet
    assert all("evaluate with another loader" in text for text in told)
    assert all(map(torch.equal, weights(run), weights(plain)))


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("foreign", [False, True])
def test_an_accumulation_left_inside_a_batch_before_there_is_a_schedule_was_a_look(count, foreign):
    def look(run):
        for number, _ in enumerate(ab.accumulate(run.loader, run.model), 1):
            if number == count:
                break

    run = Run(foreign=foreign, before=look, **({} if foreign else {"micro_batch_size": 4}))
    assert run.loader.clock == 0
    assert run.epoch() == 12


def test_the_epoch_during_the_last_batch_is_the_one_that_goes_on():
    run = Run()
    epochs = []
    for batch in run.loader:
        epochs.append(run.loader.epoch)
        run.one(batch)
    assert epochs == [0] * 12
    assert run.loader.epoch == 1


def test_the_batches_of_an_epoch_that_another_ran_into():
    loader = ab.DataLoader(torch.arange(10), 4, run_on=True, shuffle=True, seed=0)
    for _ in range(3):
        listed = list(loader.batch_sampler)
        assert len(listed) == len(loader)
        assert [batch.tolist() for batch in loader] == listed


def test_a_state_of_the_last_batch_of_a_loader_of_another_make_leaves_the_end_to_be_told():
    run, states = Run(foreign=True), []
    for micro in ab.accumulate(run.loader, run.model):
        with micro as (inputs, targets):
            (torch.nn.functional.mse_loss(run.model(inputs), targets) * micro.weight).backward()
        run.optimizer.step()
        run.batches.step()
        states.append(run.loader.state_dict())
    states.append(run.loader.state_dict())
    left = []
    for state in states[-2:]:
        resumed = Run(foreign=True)
        resumed.loader.load_state_dict(json.loads(json.dumps(state)))
        left.append(resumed.epoch())
    assert left == [0, 12]


def test_batches_that_somebody_else_forms_take_no_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for how in ({"batch_sampler": [[0, 1], [2]]}, {"batch_size": None}):
        loader = ab.DataLoader(list(range(3)), **how)
        with pytest.raises(ValueError, match="`loader` must form its batches itself to be driven by a schedule"):
            ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)))
        with pytest.raises(ValueError, match="`batch_size` must not be set where a `batch_sampler` or the data set"):
            loader.batch_size = 2


def test_a_look_in_the_middle_of_training_is_refused_and_nothing_is_lost():
    run, plain = Run(), Run()

    told = []

    def look():
        run.loader.peek()
        try:
            peek(run)
        except RuntimeError as error:
            told.append(str(error))

    assert run.epoch(look) == plain.epoch() == 12
    assert len(told) == 11  # after the last batch it is free
    assert all("evaluate with another loader; this one drives the schedule" in text for text in told)
    assert all(map(torch.equal, weights(run), weights(plain)))


def test_a_pass_ends_with_its_last_batch():
    """A loop that takes `len()` batches, as Lightning does, and never fetches the end."""
    run = Run()
    for updates in SIZES:
        batches = iter(run.loader)
        assert len(batches) == len(run.loader) == updates
        for _ in range(len(run.loader)):
            run.one(next(batches))


def test_an_older_iterator_must_not_go_on():
    run = Run()
    a_held_iterator(run)
    for batch in run.loader:
        run.one(batch)
        break
    with pytest.raises(
        RuntimeError, match=r"must not go on after a later one was trained on.*the latest iterator only"
    ):
        next(run.held)


def test_the_length_after_the_plan_is_0_and_looking_is_free_there():
    run = Run(epochs=6)
    lengths = [len(run.loader)] + [run.epoch() and len(run.loader) for _ in range(6)]
    assert lengths == [*SIZES, 0]
    a_whole_pass(run)
    assert len(run.loader.batch_sampler) == len(iter(run.loader)) == 0
    before = weights(run)
    with pytest.raises(RuntimeError, match=r"came after the plan's end, sample 576 of 6 epochs; give `epochs=`"):
        run.epoch()
    assert all(map(torch.equal, weights(run), before))


def test_the_length_of_a_resumed_loader_is_the_epochs_and_its_iterators_what_is_left():
    for mode in ({}, {"drop_last": True}, {"run_on": True}):
        loader = ab.DataLoader(torch.arange(22), 4, **mode)
        whole = len(loader)
        for _, batches in zip(range(2), [iter(loader)] * 2, strict=True):
            next(batches)
        resumed = ab.DataLoader(torch.arange(22), 4, **mode)
        resumed.load_state_dict(loader.state_dict())
        assert (len(loader), len(resumed), len(iter(resumed)), len(list(resumed))) == (
            whole,
            whole,
            whole - 2,
            whole - 2,
        )


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("mode", [{}, {"drop_last": True}, {"run_on": True}])
def test_a_state_of_an_epochs_last_batch_leaves_the_end_to_be_told(scheduled, mode):
    """A loop that counts epochs gets no extra epoch, empty or whole."""

    def make():
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        loader = ab.DataLoader(torch.arange(10.0)[:, None], 4, shuffle=True, seed=0, **mode)
        batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant()) if scheduled else None

        def epoch(states):
            seen = []
            for batch in loader:
                seen.append(batch.flatten().tolist())
                if batches is not None:
                    optimizer.step()
                    batches.step()
                states.append(json.dumps(loader.state_dict()))
            states.append(json.dumps(loader.state_dict()))
            return seen

        return loader, epoch

    _, epoch = make()
    states, counts, whole = [], [], []
    for _ in range(3):
        whole.append(epoch(states))
        counts.append(len(states))
    for place, state in enumerate(states[:-1]):
        loader, epoch = make()
        loader.load_state_dict(json.loads(state))
        number = next(index for index, count in enumerate(counts) if place < count)
        done = place + 1 - (counts[number - 1] if number else 0)
        if done > len(whole[number]):  # after the loop
            number, done = number + 1, 0
        assert loader.epoch == number
        assert [epoch([]) for _ in range(number, 3)] == [whole[number][done:], *whole[number + 1 :]]


# A data set that changes its size.


def test_a_data_set_that_grows_or_shrinks_is_followed_where_no_plan_counts_on_it():
    items = list(range(20))
    loader = ab.DataLoader(items, 5, shuffle=True, seed=0)
    assert sorted(item for batch in loader for item in batch.tolist()) == list(range(20))
    items += range(20, 43)
    assert len(loader) == 9
    assert sorted(item for batch in loader for item in batch.tolist()) == list(range(43))
    assert (loader.epoch, loader.dataset_size) == (2, 43)
    del items[7:]
    assert sorted(item for batch in loader for item in batch.tolist()) == list(range(7))
    assert loader.epoch == 3
    resumed = ab.DataLoader(items, 5, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    assert next(iter(resumed)).tolist() == next(iter(loader)).tolist()


def test_a_data_set_that_grows_while_it_is_iterated_is_followed_at_the_next_epoch():
    items = list(range(6))
    loader, seen = ab.DataLoader(items, 2), []
    for batch in loader:
        seen += batch.tolist()
        items.append(len(items))
        assert len(loader) == 3
    assert seen == [0, 1, 2, 3, 4, 5]
    assert (len(loader), len(list(loader))) == (5, 5)


def test_a_data_set_of_another_size_is_refused_where_a_plan_counts_on_it():
    items = [torch.randn(4) for _ in range(20)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    loader = ab.DataLoader(items, 5)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1), maximum=10))
    for _ in loader:
        batches.step()
    items.append(torch.randn(4))
    message = (
        r"`dataset` must keep its size .*: it has 21 samples at epoch 1, and the plan counts on 20; call `close\(\)`"
    )
    with pytest.raises(ValueError, match=message):
        next(iter(loader))
    batches.close()
    assert sum(map(len, loader)) == 21


def test_by_samples_and_every_notice_a_loader_that_follows():
    items = list(range(20))
    loader = ab.DataLoader(items, 5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    lr = ab.by_samples(torch.optim.lr_scheduler.StepLR(optimizer, 3), loader)
    for _ in loader:
        optimizer.step()
        lr.step()
    items.append(20)
    next(iter(loader))
    with pytest.raises(RuntimeError, match=r"20.*21|21.*20"):
        lr.step()


# Loops that are not in step with the loader.


def ahead(loader):
    """A prefetcher as in many scripts: it takes the next batch before it gives the current one."""
    batches = iter(loader)
    following = next(batches)
    while following is not None:
        batch, following = following, next(batches, None)
        yield batch


def test_a_loop_that_is_one_batch_behind_is_told_at_once_and_refused_at_the_epochs_end():
    run = Run()

    def epoch():
        for batch in ahead(run.loader):
            run.one(batch)

    def refused():
        with pytest.raises(RuntimeError, match=r"batch at sample 0 was left without one: the loop is one batch behind"):
            epoch()

    with pytest.warns(RuntimeWarning, match=r"at sample 0 was left .* one batch behind.*`num_workers=` and `device=`"):
        refused()


def test_another_thread_that_takes_the_batches_is_refused():
    run, taken = Run(), []
    batches = iter(run.loader)
    thread = threading.Thread(target=lambda: taken.append(next(batches)))
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match=r"must be taken by the thread that trains on it.*`device=`"):
        run.one(taken[0])


def test_a_loader_that_was_made_again_is_told():
    run = Run()
    for _ in range(2):
        run.one(next(iter(run.loader)))
    run.loader = ab.DataLoader(data(), batch_size=8)
    with pytest.raises(RuntimeError, match="for a batch that is not of its loader: another loader is iterated, such"):
        run.one(next(iter(run.loader)))


def test_settings_are_taken_at_the_next_iteration_or_refused():
    loader = ab.DataLoader(list(range(6)), 2, num_workers=1)
    loader.collate_fn = tuple
    assert list(loader) == [(0, 1), (2, 3), (4, 5)]
    loader.num_workers = 0
    assert list(loader) == [(0, 1), (2, 3), (4, 5)]
    loader.num_workers = -1
    with pytest.raises(ValueError, match="`num_workers` must be at least 0, got -1"):
        next(iter(loader))
    for name in ("dataset", "sampler", "batch_sampler", "drop_last", "run_on", "shuffle", "seed"):
        with pytest.raises(ValueError, match=f"`{name}` must not be assigned once a loader is built, got 0"):
            setattr(loader, name, 0)
    tensors = TensorDataset(torch.arange(4))
    loader = ab.DataLoader(tensors, 4)
    assert next(iter(loader))[0].tolist() == [0, 1, 2, 3]
    tensors.tensors = (torch.arange(4) * 2,)
    assert next(iter(loader))[0].tolist() == [0, 2, 4, 6]
