import json
import math

import pytest
import torch
from tests.lr_clock.test_by_samples import Growing

import adabatch as ab
from adabatch.lr_clock import every


def loader_of(batch_size=10, size=100):
    return ab.DataLoader(torch.arange(size), batch_size=batch_size)


def due_at(loader, interval, epochs=1):
    found = []
    for _ in range(epochs):
        for _ in loader:
            if interval.due():
                found.append(loader.clock)
    return found


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (ab.samples(30), [30, 60, 90, 120, 150, 180]),
        (ab.samples(45), [50, 90, 140, 180]),
        (ab.epochs(0.5), [50, 100, 150, 200]),
        (ab.samples(1), list(range(10, 201, 10))),
    ],
)
def test_intervals_end_with_the_first_batch_after_them(length, expected):
    loader = loader_of()
    assert due_at(loader, every(loader, length), epochs=2) == expected


def test_tokens_and_a_growing_batch():
    loader = loader_of()
    evaluate, found = every(loader, ab.tokens(400), tokens_per_sample=8), []
    for _ in loader:
        loader.batch_size = 30
        found.append(evaluate.due())
    assert found == [False, False, True, True]  # at 10, 40, 70 and 100 of 50, 100


@pytest.mark.parametrize(
    ("size", "length", "tokens_per_sample", "epochs"),
    [
        (101, ab.epochs(0.5), None, 20),
        (1437, ab.epochs(0.1), None, 10),
        (100, ab.epochs(1 / 3), None, 4),
        (300, ab.tokens(3000), 2048, 10),
        (50, ab.tokens(7), 5, 4),
    ],
)
def test_what_is_no_whole_number_of_samples_does_not_drift(size, length, tokens_per_sample, epochs):
    """Asked after each sample: as many as fit into the whole training, each at the first sample that reaches it."""
    loader = loader_of(batch_size=1, size=size)
    found = due_at(loader, every(loader, length, tokens_per_sample=tokens_per_sample), epochs=epochs)
    samples = length.exact * size if length.unit == "epochs" else length.exact / tokens_per_sample
    wished = [math.ceil(samples * number) for number in range(1, int(epochs * size / samples) + 1)]
    assert len(wished) in (11, 12, 40, 100, 142, 2048)
    assert found == wished


def test_a_batch_that_is_being_trained_on_counts():
    data = torch.utils.data.TensorDataset(torch.randn(20, 1))
    loader, model = ab.DataLoader(data, batch_size=10), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches, save = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant()), every(loader, ab.samples(20))
    found = []
    for _ in loader:
        optimizer.step()
        found.append(save.due())
        batches.step()
        found.append(save.due())
    assert found == [False, False, True, False]


def test_an_interval_that_ended_ends_once_also_where_a_rest_is_not_dropped_after_all():
    """30 of 60 after a first batch of 1: at size 30 the rest of 29 counts as passed, at size 1 it is trained on."""
    loader = ab.DataLoader(torch.arange(60), batch_size=1, drop_last=True)
    evaluate, found, clocks = every(loader, ab.epochs(1)), [], []
    sizes = iter([30, 1])
    for _ in range(2):
        for _ in loader:
            found.append(evaluate.due())
            clocks.append(loader.clock)
            loader.batch_size = next(sizes, loader.batch_size)
    assert clocks[:3] == [1, 60, 32]
    assert [clock for clock, due in zip(clocks, found, strict=True) if due] == [60, 120]


@pytest.mark.parametrize("length", [ab.epochs(1), ab.samples(10)])
def test_a_data_set_of_another_size_is_noticed(length):
    items = list(range(20))
    loader = Growing(items, batch_size=5)
    evaluate = every(loader, length)
    assert due_at(loader, evaluate) == [20] if length.unit == "epochs" else [10, 20]
    items += range(20, 40)
    with pytest.raises(
        RuntimeError,
        match="`every` was made for a data set of 20 samples, but the loader's has 40 now; call `every` again",
    ):
        evaluate.due()
    assert not every(loader, length).due()


def test_state():
    loader = loader_of()
    first = every(loader, ab.samples(30))
    due_at(loader, first)
    again = every(loader, ab.samples(30))
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert not again.due()
    with pytest.raises(ValueError, match="`state` must be of the same length, 31 samples, got 30 samples"):
        every(loader, ab.samples(31)).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="`state` must be what `state_dict\\(\\)` of `every` gave"):
        again.load_state_dict({})


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (ab.updates(5), "`length` must be above 0 in epochs, samples or tokens, got 5 updates"),
        (ab.samples(0), "`length` must be above 0"),
        (ab.tokens(5), "`tokens_per_sample` must be given to count 5 tokens"),
    ],
)
def test_errors(length, message):
    with pytest.raises(ValueError, match=message):
        every(loader_of(), length)


@pytest.mark.parametrize("length", [30, "5 samples", None])
def test_what_is_no_length(length):
    with pytest.raises(TypeError, match=f"`length` must be a length such as .*, got {length!r}"):
        every(loader_of(), length)


@pytest.mark.parametrize(("tokens", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("64", TypeError)])
def test_tokens_per_sample_that_are_none(tokens, error):
    with pytest.raises(error, match="`tokens_per_sample` must be"):
        every(loader_of(), ab.tokens(100), tokens_per_sample=tokens)
