"""Samples of a map-style data set, one by one or many at once, and those that raise."""

import numpy as np
import pytest
import torch
from tests.data.sets import RAISED, Once, Raising, plain

from adabatch.data import DataLoader


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
