"""Randomness that belongs to a sample."""

import random

import numpy as np
import pytest
import torch
from tests.data.sets import Drawing, Rich, plain
from torch.utils.data import IterableDataset

from adabatch.data import DataLoader
from adabatch.data.workers.rng import sample_seed


class DrawingStream(IterableDataset):
    def __iter__(self):
        for _ in range(8):
            yield np.random.rand(), float(torch.rand(())), random.random()


@pytest.mark.parametrize(
    ("make", "sharding"), [(Drawing, "stride"), (DrawingStream, "stride"), (DrawingStream, "dataset")]
)
def test_without_sample_rng_each_epoch_draws_anew(make, sharding):
    loader = DataLoader(make(), 4, num_workers=2, seed=0, sample_rng=False, sharding=sharding)
    first, second = ([column.tolist() for column in next(iter(loader))] for _ in range(2))
    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("how", [{}, {"persistent_workers": True}])
def test_without_sample_rng_each_worker_draws_its_own(how):
    loader = DataLoader(Drawing(), 1, num_workers=2, seed=0, sample_rng=False, **how)
    *drawn, seeds = ([float(batch[i]) for _ in range(2) for batch in loader] for i in range(4))
    assert [len(set(column)) for column in drawn] == [16] * 3
    assert len({seed for batch in loader for seed in batch[3].tolist()}) == 2
    assert len(seeds) == 16


class Gauss:
    """Draws half a pair of normal numbers, for one sample."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return random.gauss(0, 1) if item == 5 else 0.0


def test_half_a_pair_of_normal_numbers_left_over_before_is_not_a_samples():
    was, found = random.getstate(), []
    for drawn in (1, 2):
        random.seed(0)
        for _ in range(drawn):
            random.gauss(0, 1)
        found.append([value for batch in DataLoader(Gauss(), 4, seed=0) for value in batch])
    random.setstate(was)
    assert found[0] == found[1]


def test_the_main_process_keeps_its_random_state():
    def draw():
        return random.gauss(0, 1), np.random.normal(), torch.rand(()).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    loader = DataLoader(Rich(), 4, seed=1)
    draw()
    expected_next = None
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected_next = draw()
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
    list(loader)
    assert draw() == expected_next


def test_random_samples_are_the_same_after_a_restart_and_differ_between_epochs():
    loader = DataLoader(Rich(), 10, seed=1)
    first, second = (plain([batch["drawn"] for batch in loader]) for _ in range(2))
    assert first != second
    assert len({value for batch in first for value in batch[3]}) == 100
    resumed = DataLoader(Rich(), 25, seed=1)
    resumed.set_epoch(1)
    batches = [plain(batch["drawn"]) for batch in resumed]
    flat = [[value for batch in run for value in batch[column]] for column in range(5) for run in (second, batches)]
    assert flat[::2] == flat[1::2]


def test_sample_seed_says_where_it_belongs():
    with pytest.raises(RuntimeError, match="call it inside `__getitem__`"):
        sample_seed()
    with pytest.raises(RuntimeError, match="`sample_rng=True`"):
        next(iter(DataLoader(Rich(), 2, sample_rng=False)))


@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.rand()), lambda: float(torch.rand(()))])
def test_a_set_that_draws_late_and_seldom_does_not_depend_on_the_runs(draw):
    class Seldom(Rich):
        fails = -1

        def __getitem__(self, item):
            if item == self.fails:
                raise OSError("disk")
            return item, draw() if item % 17 == 5 else 0.0

    def run(size, **how):
        return torch.cat([values for _, values in DataLoader(Seldom(), size, seed=1, **how)]).tolist()

    reference = run(1)
    assert len({value for value in reference if value}) == 6
    for size in (4, 7, 100):
        assert run(size) == reference
    assert run(9, num_workers=2) == reference
    Seldom.fails = 40
    batches = iter(DataLoader(Seldom(), 10, seed=1))
    assert [value for _ in range(4) for value in next(batches)[1].tolist()] == reference[:40]
    with pytest.raises(OSError, match="disk"):
        next(batches)


def _one(draw):
    return lambda: np.asarray(draw()).ravel()[0]


DRAWS = {
    "numpy 312": _one(lambda: np.random.rand(104, 3)),
    "numpy 624": _one(lambda: np.random.rand(624)),
    "python 312": _one(lambda: [random.random() for _ in range(312)]),
    "python 624": _one(lambda: [random.random() for _ in range(624)]),
    "torch 624": _one(lambda: torch.rand(624).numpy()),
    "torch 312": _one(lambda: torch.rand(312, dtype=torch.float64).numpy()),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_drawing_whole_blocks_is_noticed(draw):
    class Noisy(Rich):
        def __getitem__(self, item):
            return draw()

    class NoisyMany(Noisy):
        def __getitems__(self, items):
            return [draw() for _ in items]

    found = [torch.cat(list(DataLoader(Noisy(), size, seed=1))).tolist() for size in (2, 5)]
    found.append(torch.cat(list(DataLoader(NoisyMany(), 10, seed=1))).tolist())
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 100


def test_half_a_pair_of_normal_numbers_is_dropped_also_after_whole_blocks():
    class Normal(Rich):
        def __getitem__(self, item):
            first = np.random.normal()
            while np.random.get_state()[2] != 624:
                np.random.randint(0, 2**32, dtype=np.uint32)
            return first

    found = [torch.cat(list(DataLoader(Normal(), size, seed=1))).tolist() for size in (2, 5)]
    assert found[0] == found[1]
    assert len(set(found[0])) == 100


class SeededItself:
    """Makes a generator of its own from torch's seed, as many data sets do."""

    def __init__(self, late):
        self.late = late  # items before it draw nothing

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return int(np.random.default_rng(torch.initial_seed() % 2**32).integers(2**30)) if item >= self.late else -1


@pytest.mark.parametrize("late", [0, 3])
def test_torchs_seed_belongs_to_the_sample(late):
    def draws(**options):
        return torch.cat(list(DataLoader(SeededItself(late), 4, seed=0, **options))).tolist()

    assert len(set(draws()[late:])) == 8 - late
    assert draws() == draws(num_workers=2) == draws(num_workers=3)
    assert torch.initial_seed.__module__ == "torch.random"
