"""Readers that walk one stream must see the same one."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from adabatch.data import DataLoader
from adabatch.data.workers.streams import print_of


class Ranged(IterableDataset):
    """A range, which workers may be told a part of."""

    def __init__(self, size=8):
        self.start, self.end = 0, size

    def __iter__(self):
        return iter(range(self.start, self.end))


def halves(worker):
    data = get_worker_info().dataset
    half = data.end // 2
    data.start, data.end = half * worker, half * (worker + 1)


def shorter(worker):
    get_worker_info().dataset.end -= worker


def seeds(worker):
    np.random.seed(worker)
    torch.manual_seed(worker)


SHARE = r"sample 0 is another in worker 1 than in worker 0. Where `worker_init_fn` shares the stream out use"


@pytest.mark.parametrize("size", [2, 8, 50])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 8, 9, 60])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_stream_shared_out_by_worker_init_fn_is_refused_before_anything_is_lost(size, batch_size, persistent):
    loader = DataLoader(
        Ranged(size), batch_size, num_workers=2, worker_init_fn=halves, persistent_workers=persistent, seed=0
    )
    seen = []

    def train():
        for batch in loader:
            seen.extend(batch.tolist())

    with pytest.raises(ValueError, match=SHARE + r" `sharding='dataset'`; where it only seeds"):
        train()
    assert seen == list(range(len(seen)))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_remedy_delivers_each_sample_once(workers):
    loader = DataLoader(
        Ranged(8), 2, num_workers=workers, worker_init_fn=halves if workers == 2 else None, sharding="dataset"
    )
    assert sorted(item for batch in loader for item in batch.tolist()) == list(range(8))


def test_three_workers_are_compared_though_one_would_do():
    def thirds(worker):
        get_worker_info().dataset.start = 2 * (worker == 2)

    loader = DataLoader(Ranged(6), 6, num_workers=3, worker_init_fn=thirds)
    with pytest.raises(ValueError, match="sample 0 is another in worker 2 than in worker 0"):
        list(loader)


@pytest.mark.parametrize("batch_size", [4, 100])
def test_streams_of_another_length_are_refused_too(batch_size):
    loader = DataLoader(Ranged(40), batch_size, num_workers=2, worker_init_fn=shorter)
    with pytest.raises(ValueError, match=r"one found (39|40) samples and worker [01] (39|40)"):
        list(loader)


class Noisy(Ranged):
    def __iter__(self):
        for item in super().__iter__():
            yield {"item": item, "noise": np.random.rand(3) + float(torch.rand(())), "text": [str(item)]}


@pytest.mark.parametrize("epochs", [2])
@pytest.mark.parametrize("batch_size", [3, 40])
def test_a_worker_init_fn_that_seeds_generators_is_none_of_its_business(epochs, batch_size):
    loader = DataLoader(Noisy(40), batch_size, num_workers=3, worker_init_fn=seeds)
    for _ in range(epochs):
        assert torch.cat([batch["item"] for batch in loader]).tolist() == list(range(40))


def test_a_resumed_pass_is_compared_from_where_it_goes_on():
    loader = DataLoader(Ranged(40), 4, num_workers=2, worker_init_fn=seeds)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    resumed = DataLoader(Ranged(40), 4, num_workers=2, worker_init_fn=halves)
    resumed.load_state_dict(state)
    with pytest.warns(UserWarning, match="read and dropped"), pytest.raises(ValueError, match="sample 0 is another"):
        list(resumed)


def test_prints_are_equal_for_equal_samples_only():
    class Opaque:
        pass

    def samples():
        return [
            1, True, 1.0, "1", b"1", None, 1j, np.float32(1), np.arange(3), np.arange(3.0), np.zeros((0, 2)),
            np.array([1, None]), torch.arange(3), torch.arange(3.0), torch.arange(3).reshape(3, 1),
            torch.ones(3, dtype=torch.bfloat16), torch.ones((), dtype=torch.bfloat16), torch.ones(3).to_sparse(),
            torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64).conj(),
            torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.uint16), [1, 2], [2, 1], {"a": 1}, {"a": 2},
            Opaque(), torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged),
            np.array("2020-01-01", "M8[D]"), torch.cat([torch.zeros(100_000), torch.ones(100_000)]),
        ]  # fmt: skip

    first, again = ([print_of(sample) for sample in samples()] for _ in range(2))
    assert first == again
    same = {18, 19}  # a number and its conjugate
    assert len(set(first)) == len(first) - len(same) + 1


class Uneven(IterableDataset):
    """Has another length in each worker."""

    def __iter__(self):
        number = int(multiprocessing.current_process().name.rsplit("-", 1)[1]) % 2
        for item in range(8 if number == self.first else 5):
            time.sleep(0.02)  # so that a run is one batch
            yield item


def test_streams_that_end_elsewhere_are_refused_where_that_shows():
    data = Uneven()
    data.first = (int(multiprocessing.Process().name.rsplit("-", 1)[1]) + 1) % 2
    loader = DataLoader(data, 4, num_workers=2, prefetch_factor=1)
    with pytest.raises(ValueError, match="one found 5 samples where others gave 8"):
        list(loader)
