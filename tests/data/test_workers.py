import collections
import gc
import io
import multiprocessing
import os
import random
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from tests.data.checks import source_of
from tests.data.test_loader import Plan
from torch.utils.data import IterableDataset, RandomSampler, WeightedRandomSampler, default_collate, get_worker_info

from adabatch.data import DataLoader, arguments
from adabatch.data.sources import nested
from adabatch.data.workers.rng import sample_seed

SIZES = [7, 3, 20, 1, 64, 9]


class Rich:
    """Nested samples with random parts."""

    def __len__(self):
        return 100

    def __getitem__(self, item):
        drawn = (random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(()), sample_seed() % 2**62)
        return {"item": item, "row": torch.full((3,), float(item)), "name": f"s{item}", "drawn": drawn}


class Walked(IterableDataset):
    """The same as a stream."""

    def __iter__(self):
        return map(Rich().__getitem__, range(100))


class Wide(Rich):
    """Samples large enough to travel as shared memory."""

    def __getitem__(self, item):
        return {"row": torch.full((5000,), float(item))}


class Once(Rich):
    """Fails in its own ways at sample 5."""

    def __init__(self, how=None):
        self.how = how

    def __getitem__(self, item):
        if item == 5 and self.how is not None and not os.path.exists(self.how[1]):
            if self.how[0] == "kill":
                open(self.how[1], "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how[0] == "raise":
                raise OSError("disk")
            if self.how[0] == "sleep":
                time.sleep(30)
        return item


Pair = collections.namedtuple("Pair", "left right")


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(one, two)


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def history(loader, epochs=2):
    found = []
    for _ in range(epochs):
        for batch in loader:
            found.append(plain(batch))
            loader.batch_size = SIZES[len(found) % len(SIZES)]
    return found


def no_children():
    gc.collect()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def tensors_alive():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


REFERENCE: list = []


def reference():
    if not REFERENCE:
        REFERENCE.extend(history(DataLoader(Rich(), 7, shuffle=True, seed=3)))
    return REFERENCE


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": 1, "prefetch_factor": 1},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 4, "prefetch_factor": 4},
        {"num_workers": 2, "collate_fn": lambda samples: default_collate(samples)},
    ],
)
def test_workers_change_nothing_but_where_samples_are_fetched(arguments):
    loader = DataLoader(Rich(), 7, shuffle=True, seed=3, **arguments)
    assert history(loader) == reference()
    del loader
    assert no_children()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_start_method_delivers_the_same(method):
    loader = DataLoader(Rich(), 7, shuffle=True, seed=3, num_workers=2, multiprocessing_context=method)
    assert history(loader, 1) == reference()[: len(history(DataLoader(Rich(), 7, shuffle=True, seed=3), 1))]


def test_a_new_batch_size_holds_at_once_and_restarts_no_worker():
    loader = DataLoader(Rich(), 64, seed=3, num_workers=2, prefetch_factor=4, persistent_workers=True)
    iterator = iter(loader)
    assert len(next(iterator)["item"]) == 64
    before = source_of(loader).held.pool.pids()
    loader.batch_size = 5
    sizes = []
    for batch in iterator:
        sizes.append(len(batch["item"]))
        loader.batch_size = 31
    assert sizes == [5, 31]
    next(iter(loader))
    assert source_of(loader).held.pool.pids() == before


def test_batches_are_views_of_runs_in_a_steady_state_and_joined_once_after_a_change():
    loader = DataLoader(Wide(), 10, seed=3, num_workers=2, persistent_workers=True)
    batches = iter(loader)
    for _ in range(3):
        assert next(batches)["row"].is_shared()
    loader.batch_size = 25
    assert not next(batches)["row"].is_shared()


def test_parts_of_a_batch_come_from_aligned_runs(monkeypatch):
    joins = []
    monkeypatch.setattr(nested, "join", joins.append)
    loader = DataLoader(Wide(), 50, seed=3, num_workers=2, micro_batch_size=8)
    assert [part.size for _, part in loader.parts()] == [7, 7, 7, 7, 7, 7, 8] * 2
    assert joins == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", [Rich, Walked])
def test_a_batch_that_is_kept_or_saved_weighs_no_more_than_twice_its_samples(workers, make):
    loader = DataLoader(make(), 1, num_workers=workers, prefetch_factor=4 if workers else None)
    for batch in loader:
        assert batch["row"].untyped_storage().nbytes() <= 2 * batch["row"].nbytes
        file = io.BytesIO()
        torch.save(batch["row"], file)
        assert file.tell() < 2000


def test_a_cut_of_a_run_is_a_view_from_half_of_it_on():
    run = {"a": torch.arange(64), "b": [torch.zeros(64, 3)]}
    half, less = nested.cut(run, 8, 40), nested.cut(run, 8, 39)
    assert [half["a"].data_ptr() == run["a"][8:].data_ptr(), half["b"][0]._is_view()] == [True, True]
    assert [less["a"].untyped_storage().nbytes(), less["b"][0].untyped_storage().nbytes()] == [31 * 8, 31 * 12]
    assert less["a"].tolist() == list(range(8, 39))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_raises_is_named_and_the_loader_goes_on(workers, tmp_path):
    loader = DataLoader(Once(("raise", tmp_path / "fixed")), 4, num_workers=workers)
    batches = iter(loader)
    seen = next(batches).tolist()
    with pytest.raises(OSError, match=r"(?s)sample 5|while sample 5 was fetched") as raised:
        next(batches)
    assert "disk" in str(raised.value)
    if workers:
        assert "in worker" in raised.value.__notes__[-1]
        assert "in __getitem__" in raised.value.__notes__[-1]
    (tmp_path / "fixed").touch()
    for batch in loader:
        seen += batch.tolist()
    assert seen == list(range(100))


class NeedsLockError(OddError):
    """Cannot be sent, but made again from a text."""

    def __init__(self, text):
        Exception.__init__(self, text)
        self.lock = threading.Lock()


class NeverError(OddError):
    """Cannot be sent in any way."""

    def __reduce__(self):
        raise TypeError("never")


class MissingError(KeyError):
    """Made from two things."""

    def __init__(self, key, where):
        super().__init__(key, where)
        self.where = where


RAISED = [
    (lambda: OddError(1, 2), OddError, (1, 2)),
    (lambda: KeyError("k"), KeyError, ("k",)),
    (lambda: MissingError("k", "here"), MissingError, ("k", "here")),
    (lambda: FileNotFoundError(2, "no such file", "x.png"), FileNotFoundError, (2, "no such file")),
    (lambda: UnicodeDecodeError("utf8", b"x", 0, 1, "bad"), UnicodeDecodeError, ("utf8", b"x", 0, 1, "bad")),
    (lambda: NeedsLockError("v"), NeedsLockError, ("NeedsLockError: v",)),
]


class Raising(Rich):
    def __getitem__(self, item):
        raise (*(row[0] for row in RAISED), lambda: NeverError(1, 2))[item]()  # anew: tracebacks hold loaders


@pytest.mark.parametrize("item", range(len(RAISED)))
def test_an_exception_is_the_same_with_and_without_workers(item):
    make, kind, arguments = RAISED[item]
    raised = make()
    for workers in (0, 1):
        loader = DataLoader(Raising(), 1, sampler=[item], num_workers=workers)
        told = f"sample {item} could not be fetched in worker 0" if workers else f"while sample {item} was fetched"
        with pytest.raises(kind, match=told) as found:
            next(iter(loader))
        assert type(found.value) is kind
        assert found.value.args == arguments or (not workers and found.value.args == raised.args)
        assert getattr(found.value, "where", None) == getattr(raised, "where", None)
        assert getattr(found.value, "filename", None) == getattr(raised, "filename", None)


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


def test_a_killed_worker_is_named_and_nothing_is_lost(tmp_path):
    loader = DataLoader(Once(("kill", tmp_path / "killed")), 4, num_workers=2)
    seen = []
    for _ in range(2):
        killed = []
        try:
            for batch in loader:
                seen += batch.tolist()
        except RuntimeError as error:
            killed.append(str(error))
        assert all("is killed by signal: 9" in message for message in killed)
    assert seen == list(range(100))
    assert no_children()


def test_a_worker_that_is_late_is_named(tmp_path):
    loader = DataLoader(Once(("sleep", tmp_path / "never")), 2, num_workers=1, timeout=0.5)
    with pytest.raises(RuntimeError, match=r"timed out after 0\.5 seconds, in which worker 0 sent nothing"):
        list(loader)
    assert no_children()


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


def test_leaving_early_and_dropping_a_loader_end_its_workers():
    for persistent in (False, True):
        loader = DataLoader(Rich(), 4, num_workers=2, persistent_workers=persistent)
        for _ in loader:
            break
        assert bool(multiprocessing.active_children()) == persistent
        assert len(next(iter(loader))["item"]) == 4
        del loader
        assert no_children()


def test_dropping_a_loader_in_the_middle_of_parts_ends_its_workers():
    loader = DataLoader(Rich(), 20, num_workers=2, persistent_workers=True, micro_batch_size=3)
    loader.attach(Plan((0, 20), size=100))
    loader._place.cursor.driver.loader = loader  # as a scheduler does
    for _ in loader.parts():
        break
    assert loader._place.front is None
    del loader
    assert no_children()


def test_memory_and_processes_return_after_many_loaders():
    def one():
        loader = DataLoader(Rich(), 8, num_workers=2, shuffle=True)
        for _, _batch in zip(range(3), loader, strict=False):
            pass

    one()
    gc.collect()
    files, tensors = len(os.listdir("/proc/self/fd")), tensors_alive()
    for _ in range(8):
        one()
    assert no_children()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert tensors_alive() <= tensors


def test_named_tuples_and_other_mappings_survive_cutting_and_joining():
    class Named(Rich):
        def __getitem__(self, item):
            return Pair(item, collections.OrderedDict(text=str(item), deep=[torch.tensor([item]), 0.5]))

    def run(workers):
        loader = DataLoader(Named(), 7, num_workers=workers)
        found = []
        for batch in loader:
            assert type(batch) is Pair
            found.append((type(batch.right).__name__, plain(batch)))
            loader.batch_size = 30
        return found

    assert run(2) == run(0)


def test_getitems_is_used_unless_it_draws_at_random():
    class Many:
        def __init__(self, noisy):
            self.noisy = noisy

        def __len__(self):
            return 20

        def __getitem__(self, item):
            return item, float(np.random.rand()) if self.noisy else 0.0, 1

        def __getitems__(self, items):
            return [(item, float(np.random.rand()) if self.noisy else 0.0, len(items)) for item in items]

    plain_batch = next(iter(DataLoader(Many(False), 10)))
    assert plain_batch[2].tolist() == [10] * 10
    free = next(iter(DataLoader(Many(True), 10, sample_rng=False)))
    assert free[2].tolist() == [10] * 10
    whole = torch.cat([batch[1] for batch in DataLoader(Many(True), 10, seed=1)])
    halves = torch.cat([batch[1] for batch in DataLoader(Many(True), 3, seed=1, num_workers=2)])
    assert torch.equal(whole, halves)


def test_a_getitems_that_raises_names_the_sample():
    class Many:
        def __len__(self):
            return 20

        def __getitems__(self, items):
            if 7 in items:
                raise OSError("disk")
            return items

    for workers in (0, 1):
        with pytest.raises(OSError, match=r"sample 7"):
            next(iter(DataLoader(Many(), 10, num_workers=workers)))


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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_is_the_order(workers):
    loader = DataLoader(Rich(), 4, sampler=[5, 5, 9, 1, 0, 3, 2], num_workers=workers)
    assert (loader.dataset_size, len(loader)) == (7, 2)
    assert [item for batch in loader for item in batch["item"].tolist()] == [5, 5, 9, 1, 0, 3, 2]
    assert loader.sampler == [5, 5, 9, 1, 0, 3, 2]


@pytest.mark.parametrize("make", [RandomSampler, lambda data: WeightedRandomSampler([1.0] * 50 + [3.0] * 50, 60)])
def test_torchs_samplers_resume_exactly(make):
    def items(loader):
        return [item for batch in loader for item in batch["item"].tolist()]

    loader = DataLoader(Rich(), 7, sampler=make(Rich()), seed=1)
    epochs = [items(loader) for _ in range(2)]
    assert epochs[0] != epochs[1]
    begun = DataLoader(Rich(), 7, sampler=make(Rich()), seed=1)
    items(begun)
    iterator = iter(begun)
    for _ in range(3):
        next(iterator)
    resumed = DataLoader(Rich(), 20, sampler=make(Rich()), num_workers=2)
    resumed.load_state_dict(begun.state_dict())
    assert items(resumed) == epochs[1][21:]
    with pytest.raises(ValueError, match=r"`sampler` is 'RandomSampler' there and '' here|`dataset_size`"):
        DataLoader(Rich(), 7, seed=1).load_state_dict(begun.state_dict())


class Bulk:
    """Gives whole batches: a mapping, a tuple, a tensor or a list of another length, as `form` makes them."""

    x = torch.arange(20)

    def __init__(self, form, draws=False):
        self.form, self.draws = form, draws

    def __len__(self):
        return 20

    def __getitem__(self, item):
        return self.x[item]

    def __getitems__(self, items):
        if self.draws:
            return self.form(1000 * self.x[items] + torch.randint(1000, ()))
        return self.form(self.x[items])


FORMS = {
    "mapping": lambda x: {"x": x},
    "tuple": lambda x: (x, x),
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "longer": lambda x: [*x.tolist(), -1],
    "number": lambda x: int(x.sum()),
}


def passed(batch):
    return batch


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_whole_batches_of_getitems_reach_the_collate_fn_as_they_are(form, workers):
    loader = DataLoader(Bulk(FORMS[form]), 2, collate_fn=passed, num_workers=workers)
    got, at = [], 0
    for batch in loader:
        items = torch.arange(at, min(at + loader.batch_size, 20))
        at = int(items[-1]) + 1
        expected = FORMS[form](items)
        assert type(batch) is type(expected)
        got.append((plain(batch) if not isinstance(batch, np.ndarray) else batch.tolist(), expected))
        loader.batch_size = [2, 5, 3, 1][len(got) % 4]
    assert at == 20
    for batch, expected in got:
        assert str(batch) == str(plain(expected) if not isinstance(expected, np.ndarray) else expected.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_batches_are_micro_batches_and_their_draws_are_seeded(workers):
    def parts(batch_size):
        loader = DataLoader(
            Bulk(FORMS["mapping"], draws=True), batch_size, collate_fn=passed, num_workers=workers, seed=3,
            micro_batch_size=3,
        )  # fmt: skip
        return [batch["x"].tolist() for batch, _ in loader.parts()]

    assert [len(part) for part in parts(5)] == [2, 3] * 4
    assert parts(6)[0] == [1000 * item + parts(3)[0][0] for item in range(3)]
    assert parts(6) == parts(6)


def test_a_batch_without_somebody_to_collate_it_is_refused():
    for workers in (0, 1):
        loader = DataLoader(Bulk(FORMS["mapping"]), 3, num_workers=workers)
        with pytest.raises(
            ValueError, match="3 were asked for and 1 came; where it returns batches give a `collate_fn`"
        ):
            next(iter(loader))


def test_bad_samplers_are_named():
    class Short(RandomSampler):
        def __len__(self):
            return 101

    with pytest.raises(ValueError, match=r"`sampler` must draw as many samples as its length 101, got 100"):
        list(DataLoader(Rich(), 10, sampler=Short(Rich())))
    with pytest.raises(TypeError, match="`sampler` must have a length"):
        DataLoader(Rich(), 10, sampler=iter([1]))
    with pytest.raises(ValueError, match="`shuffle` must be False"):
        DataLoader(Rich(), 10, sampler=[1], shuffle=True)
    with pytest.raises(ValueError, match="`sampler` must draw at least one"):
        DataLoader(Rich(), 10, sampler=[])


def test_a_tensor_set_starts_no_worker():
    loader = DataLoader(torch.arange(10), 4, num_workers=2)
    batches = iter(loader)
    assert next(batches).tolist() == [0, 1, 2, 3]
    assert source_of(loader).__class__.__name__ == "Columns"


def test_more_workers_than_processors_are_warned_of():
    mine = len(os.sched_getaffinity(0))
    for kind in (DataLoader, torch.utils.data.DataLoader):
        with pytest.warns(UserWarning, match=f"{mine + 1}.*{mine}") as found:
            kind([1, 2], num_workers=mine + 1)
        assert len(found) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind([1, 2], num_workers=mine)
    with pytest.warns(UserWarning, match="`num_workers` of 1000 is more than the .* processors") as found:
        DataLoader([1, 2], num_workers=1000)
    assert found[0].filename == __file__


def test_flags_may_be_of_any_kind_that_is_true_or_false():
    assert len(set(DataLoader(range(9), 9, shuffle=1, seed=0).sampler)) == 9
    for flag in (True, False, np.bool_(True), np.bool_(False), 0, 1, np.True_):
        arguments.check_flags(shuffle=flag)
    for flag in (2, -1, "yes", None, 1.0, np.ones(2), torch.tensor(True)):
        with pytest.raises(TypeError, match="`shuffle` must be True or False, got"):
            arguments.check_flags(shuffle=flag)


def test_bad_worker_arguments_are_named():
    with pytest.raises(ValueError, match="`multiprocessing_context` must be one of"):
        DataLoader(Rich(), num_workers=1, multiprocessing_context="thread")
    with pytest.raises(TypeError, match="`multiprocessing_context` must be a start method or a context"):
        DataLoader(Rich(), num_workers=1, multiprocessing_context=3)
    with pytest.raises(ValueError, match="`prefetch_factor` must be at least 1"):
        DataLoader(Rich(), num_workers=1, prefetch_factor=0)


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


def test_a_change_from_inside_a_worker_is_refused():
    class Changing(Rich):
        def __getitem__(self, item):
            self.loader.batch_size = 8
            return item

    data = Changing()
    data.loader = DataLoader(data, 4, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="`batch_size` must be set in the main process, not inside a worker"):
        next(iter(data.loader))


def test_a_batch_of_many_micro_batches_is_never_in_flight_as_a_whole():
    loader = DataLoader(Rich(), 96, num_workers=2, prefetch_factor=2, micro_batch_size=1)
    most = 0
    for _ in loader.parts():
        most = max(most, sum(run.last - run.first for run in source_of(loader).runs))
    assert 0 < most <= 4 * 64
    loader = DataLoader(list(range(100_000)), 100_000, num_workers=2, prefetch_factor=2, micro_batch_size=100)
    for _, part in loader.parts():
        assert sum(run.last - run.first for run in source_of(loader).runs) <= 5 * 100
        if part.index == 20:
            break


def test_the_micro_batch_size_is_not_set_inside_a_worker_but_a_loader_may_be_made_there():
    class Changing(Rich):
        loader = None

        def __getitem__(self, item):
            if self.loader is None:
                return float(next(iter(DataLoader(torch.ones(4), 2, micro_batch_size=1))).sum())
            self.loader.micro_batch_size = 2
            return item

    data = Changing()
    assert next(iter(DataLoader(data, 2, num_workers=1))).tolist() == [2.0, 2.0]
    data.loader = DataLoader(data, 4, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="`micro_batch_size` must be set in the main process, not inside a worker"):
        next(iter(data.loader))


class Buckets(Rich):
    """Rows as long as others of their four; lists as long as others of their eight."""

    def __getitem__(self, item):
        return {"row": torch.full((1 + item // 4,), float(item)), "list": [item] * (1 + item // 8)}


@pytest.mark.parametrize("device", [None, "meta"])
@pytest.mark.parametrize("arguments", [{"num_workers": 1}, {"num_workers": 3, "prefetch_factor": 4}])
def test_samples_of_different_batches_need_not_stack(arguments, device):
    here = [plain(batch) for batch in DataLoader(Buckets(), 4)]
    assert len(here) == 25
    loader = DataLoader(Buckets(), 4, device=device, **arguments)
    for _ in range(2):
        batches = list(loader)
        if device is None:
            assert [plain(batch) for batch in batches] == here
        else:
            assert [(batch["row"].shape, batch["row"].device.type) for batch in batches] == [
                ((4, 1 + i), "meta") for i in range(25)
            ]


def test_a_run_that_does_not_stack_is_cut_where_the_size_changes():
    loader = DataLoader(Buckets(), 4, num_workers=2)
    batches = iter(loader)
    found = next(batches)["row"][:, 0].tolist()
    loader.batch_size = 2
    found += [value for _ in range(4) for value in next(batches)["row"][:, 0].tolist()]
    loader.batch_size = 4
    found += [value for batch in batches for value in batch["row"][:, 0].tolist()]
    assert found == [float(item) for item in range(100)]


def test_after_a_run_that_does_not_stack_workers_collate_batches():
    class Wider(Rich):
        def __getitem__(self, item):
            return torch.zeros(5000 + item // 4)

    loader = DataLoader(Wider(), 4, num_workers=2)
    list(loader)
    assert all(batch.is_shared() for batch in loader)


def test_where_a_batch_does_not_stack_the_error_is_the_main_process_own():
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size") as raised:
        list(DataLoader(Buckets(), 6, num_workers=2))
    assert "could not be collated in worker" in raised.value.__notes__[0]

    class Unsendable(Rich):
        def __getitem__(self, item):
            return lambda: item

    with pytest.raises(TypeError, match=r"(?s)could not be collated in worker 0.*must contain tensors"):
        next(iter(DataLoader(Unsendable(), 4, num_workers=1)))


def test_a_collate_fn_of_ones_own_gets_samples_and_its_batches_are_moved():
    for workers in (0, 1):
        loader = DataLoader(list(range(20)), 4, num_workers=workers, device="meta", collate_fn=torch.tensor)
        assert [batch.device.type for batch in loader] == ["meta"] * 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_getitems_that_returns_another_number_is_refused(workers, change):
    class Many:
        noisy = False

        def __len__(self):
            return 20

        def __getitems__(self, items):
            if self.noisy:
                np.random.rand()
            return [0] * (len(items) + (change if 7 in items else 0))

    message = r"`__getitems__` must return one sample for each number: {} were asked for and {} came"
    for rng in (True, False):
        with pytest.raises(ValueError, match=message.format(10, 10 + change)):
            next(iter(DataLoader(Many(), 10, num_workers=workers, sample_rng=rng)))
    Many.noisy = True
    with pytest.raises(ValueError, match=message.format(1, 1 + change)):
        next(iter(DataLoader(Many(), 10, num_workers=workers)))


def test_worker_init_fn_sees_the_worker_info_of_a_stream():
    class Stream(IterableDataset):
        number = None

        def __iter__(self):
            assert get_worker_info() is None
            return iter([self.number] * 8)

    def init(_number):
        get_worker_info().dataset.number = 5

    assert [batch.tolist() for batch in DataLoader(Stream(), 4, num_workers=1, worker_init_fn=init)] == [[5] * 4] * 2


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
