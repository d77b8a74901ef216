"""What runs in a worker: its seeds and signals, what it collates, and what it sends of an error."""

import os
import signal

import numpy as np
import pytest
import torch
from tests.data.checks import source_of
from tests.data.sets import RAISED, Drawing, Raising, Rich, ranked
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from adabatch.data import DataLoader
from adabatch.data.workers.pool import WorkerDiedError


class SilentError(Exception):
    def __str__(self):
        raise TypeError("no text")


class Silent:
    def __len__(self):
        return 8

    def __getitem__(self, item):
        if item == 5:
            raise SilentError
        return item


def test_an_error_without_a_text_arrives():
    with pytest.raises(SilentError):
        list(DataLoader(Silent(), 2, num_workers=1, seed=0))


def test_workers_have_other_seeds_on_each_rank_and_in_each_epoch():
    loaders = ranked(2, lambda: DataLoader(Drawing(), 4, num_workers=2, seed=0))
    seeds = [seed for _ in range(2) for loader in loaders for *_, column in loader for seed in column.tolist()]
    assert len(set(seeds)) == 8


def test_a_signal_handler_of_the_main_process_does_not_run_in_workers(tmp_path):
    ran = tmp_path / "ran"
    before = signal.signal(signal.SIGTERM, lambda *_: ran.touch())
    try:
        loader = DataLoader(list(range(500)), 1, num_workers=1, seed=0)
        batches = iter(loader)
        next(batches)
        os.kill(source_of(loader).held.pool.pids()[0], signal.SIGTERM)
        with pytest.raises(WorkerDiedError, match="is killed by signal: 15"):
            list(batches)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ran.exists()


class Changing:
    """Samples of another form in every fifth batch of 4."""

    def __init__(self, one, other):
        self.forms = one, other

    def __len__(self):
        return 200

    def __getitem__(self, item):
        return self.forms[item // 4 % 5 == 4](item)


class ChangingStream(IterableDataset):
    def __init__(self, *forms):
        self.data = Changing(*forms)

    def __iter__(self):
        return map(self.data.__getitem__, range(200))


@pytest.mark.parametrize("make", [Changing, ChangingStream])
@pytest.mark.parametrize(
    "forms",
    [
        (lambda i: {"x": i}, lambda i: {"x": i, "y": i}),
        (lambda i: 2**24 + 1 + i, lambda i: 0.1 * i),
        (lambda i: torch.tensor(0.1 * i), lambda i: torch.tensor(2**24 + 1 + i)),
        (lambda i: (np.full(2, 0.1 * i), i), lambda i: (np.full(2, i), i)),
    ],
    ids=["keys", "types", "dtypes", "arrays"],
)
def test_samples_that_change_their_form_between_batches_are_collated_by_batches(forms, make):
    data = Changing(*forms)
    expected = [default_collate([data[item] for item in range(first, first + 4)]) for first in range(0, 200, 4)]
    found = list(DataLoader(make(*forms), 4, num_workers=1, seed=0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_exception_that_cannot_be_sent_is_told():
    loader = DataLoader(Raising(), 1, sampler=[len(RAISED)], num_workers=1)
    with pytest.raises(RuntimeError, match=r"sample 6 could not be fetched in worker 0 .*NeverError: \(1, 2\)"):
        next(iter(loader))


def test_samples_that_cannot_be_collated_or_sent_are_said():
    class Ragged(Rich):
        def __getitem__(self, item):
            return torch.zeros(item)

    with pytest.raises(RuntimeError, match="could not be collated in worker"):
        next(iter(DataLoader(Ragged(), 4, num_workers=1)))
    padded = DataLoader(Ragged(), 4, num_workers=1, collate_fn=torch.nn.utils.rnn.pad_sequence)
    assert next(iter(padded)).shape == (3, 4)

    class Lambda(Rich):
        def __getitem__(self, item):
            return lambda: item

    with pytest.raises((AttributeError, RuntimeError), match="could not be sent from worker"):
        next(iter(DataLoader(Lambda(), 4, num_workers=1, collate_fn=list)))


def test_worker_init_fn_and_worker_info():
    class Info(Rich):
        def __getitem__(self, item):
            info = get_worker_info()
            return info.id, info.num_workers, int(os.environ["SET_BY_INIT"]), torch.get_num_threads()

    def init(number):
        os.environ["SET_BY_INIT"] = str(number + 10)

    batch = next(iter(DataLoader(Info(), 4, num_workers=2, worker_init_fn=init)))
    assert [int(column[0]) for column in batch] in ([0, 2, 10, 1], [1, 2, 11, 1])

    def broken(number):
        raise ValueError("no licence")

    with pytest.raises(ValueError, match=r"(?s)`worker_init_fn` failed in worker 0.*no licence"):
        next(iter(DataLoader(Info(), 4, num_workers=1, worker_init_fn=broken)))


def test_worker_init_fn_sees_the_worker_info_of_a_stream():
    class Stream(IterableDataset):
        number = None

        def __iter__(self):
            assert get_worker_info() is None
            return iter([self.number] * 8)

    def init(_number):
        get_worker_info().dataset.number = 5

    assert [batch.tolist() for batch in DataLoader(Stream(), 4, num_workers=1, worker_init_fn=init)] == [[5] * 4] * 2
