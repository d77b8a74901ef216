import json

import pytest
import torch

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
def test_intervals_end_with_the_first_batch_behind_them(length, expected):
    loader = loader_of()
    assert due_at(loader, every(loader, length), epochs=2) == expected


def test_tokens_and_a_growing_batch():
    loader = loader_of()
    evaluate, found = every(loader, ab.tokens(400), tokens_per_sample=8), []
    for _ in loader:
        loader.batch_size = 30
        found.append(evaluate.due())
    assert found == [False, False, True, True]  # at 10, 40, 70 and 100 of 50, 100


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
        (30, "`length` must be above 0 in epochs, samples or tokens, got 30"),
        (ab.tokens(5), "`tokens_per_sample` must be given to count 5 tokens"),
    ],
)
def test_errors(length, message):
    with pytest.raises(ValueError, match=message):
        every(loader_of(), length)
