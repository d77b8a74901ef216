import copy
import pickle

import pytest
import torch
from tests.data.sets import Plan, Rich, order

from adabatch.data import DataLoader
from adabatch.types import DrivenLoader


def test_an_epoch_is_the_order_of_seed_and_epoch():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=3)
    for epoch in range(3):
        assert loader.epoch == epoch
        batches = list(loader)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert torch.cat(batches).tolist() == order(10, 3, epoch)


def test_the_seed_is_drawn_once_from_torchs_generator():
    torch.manual_seed(5)
    first, second = DataLoader(torch.arange(9), shuffle=True), DataLoader(torch.arange(9), shuffle=True)
    torch.manual_seed(5)
    again = DataLoader(torch.arange(9), shuffle=True)
    assert first.seed == again.seed != second.seed
    generator = torch.Generator().manual_seed(5)
    assert DataLoader(torch.arange(9), generator=generator).seed == first.seed


def test_len_is_the_number_of_batches():
    assert len(DataLoader(torch.arange(10), 4)) == 3
    assert len(DataLoader(torch.arange(10), 4, drop_last=True)) == 2
    loader = DataLoader(torch.arange(10), 4, run_on=True)
    for _ in range(4):
        expected = len(loader)
        assert len(list(loader)) == expected
    loader = DataLoader(torch.arange(10), 4)
    iterator = iter(loader)
    next(iterator)
    assert len(loader) == 3
    loader.batch_size = 2
    with pytest.raises(TypeError, match="no length"):
        len(loader)
    assert loader  # though it has no length
    assert len(list(iterator)) == 3
    assert len(loader) == 5


def test_each_iteration_has_the_order_of_an_epoch_of_its_own():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    first, second = iter(loader), iter(loader)
    seen = [torch.cat(list(batches)).tolist() for batches in (second, first)]  # the order in which they begin
    assert seen == [order(10, 0, 0), order(10, 0, 1)]


def test_a_driver_gives_the_size_at_each_batch_start():
    loader = DataLoader(torch.arange(20), 4)
    assert isinstance(loader, DrivenLoader)
    plan = Plan((0, 4), (8, 7), (20, 2), size=20)
    loader.attach(plan)
    assert len(loader) == 4
    sizes = []
    for batch in loader:
        sizes.append(len(batch))
        assert loader.current.size == len(batch) == loader.current.rank_size
        assert loader.batch_size == loader.current.requested
        assert loader.clock == loader.current.clock
        loader.commit()
        assert loader.current is None
    assert sizes == [4, 4, 7, 5]
    assert (loader.clock, loader.epoch, loader.batch_size, len(loader)) == (20, 1, 2, 10)
    loader.detach()
    assert loader.batch_size == 2
    loader.batch_size = 3


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", 11])
def test_bad_sizes_are_refused_and_the_old_one_stays(value):
    loader = DataLoader(torch.arange(10), 4)
    with pytest.raises((TypeError, ValueError), match="`batch_size` must be"):
        loader.batch_size = value
    assert loader.batch_size == 4
    loader.attach(Plan((0, 4), size=10))
    with pytest.raises(ValueError, match="while a schedule drives this loader"):
        loader.batch_size = 2
    with pytest.raises(ValueError, match="driven by another scheduler"):
        loader.attach(Plan((0, 4), size=10))
    with pytest.raises(RuntimeError, match="`commit` needs a batch"):
        loader.commit()


def test_it_has_the_attributes_of_torchs_loader():
    theirs = torch.utils.data.DataLoader(list(range(6)), 2)
    ours = DataLoader(list(range(6)), 2)
    for name in vars(theirs):
        if not name.startswith("_"):
            assert hasattr(ours, name), name
    assert list(ours.sampler) == list(theirs.sampler)
    assert torch.utils.data.DataLoader not in type(ours).__mro__


def test_type_checkers_see_a_misspelt_attribute():
    loader = DataLoader(torch.arange(4), 2)
    loader.bach_size = 3  # type: ignore[attr-defined]  # an ignore that is not needed fails `make lint`
    assert loader.batch_size == 2


def test_copies_go_their_own_way():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=1)
    iterator = iter(loader)
    next(iterator)
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert (other.clock, other.epoch) == (4, 0)  # it goes on as a loaded state does
        assert torch.cat(list(other)).tolist() == order(10, 1)[4:]
    assert torch.cat(list(iterator)).tolist() == order(10, 1)[4:]


def test_a_change_from_inside_a_worker_is_refused():
    class Changing(Rich):
        loader: DataLoader

        def __getitem__(self, item):
            self.loader.batch_size = 8
            return item

    data = Changing()
    data.loader = DataLoader(data, 4, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="`batch_size` must be set in the main process, not inside a worker"):
        next(iter(data.loader))


def test_the_micro_batch_size_is_not_set_inside_a_worker_but_a_loader_may_be_made_there():
    class Changing(Rich):
        loader: DataLoader | None = None

        def __getitem__(self, item):
            if self.loader is None:
                return float(next(iter(DataLoader(torch.ones(4), 2, micro_batch_size=2))).sum())
            self.loader.micro_batch_size = 2
            return item

    data = Changing()
    assert next(iter(DataLoader(data, 2, num_workers=1))).tolist() == [2.0, 2.0]
    data.loader = DataLoader(data, 4, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(RuntimeError, match="`micro_batch_size` must be set in the main process, not inside a worker"):
        next(iter(data.loader))
