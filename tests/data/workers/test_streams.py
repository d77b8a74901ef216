"""Streams: passes that begin, go on and end, data sets that know where they stand, and readers that must agree."""

import copy
import json
import multiprocessing
import pickle
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sets import SKIPS, Stateful, Stream, StreamOnce, items, ranked, refuse
from torch.utils.data import IterableDataset, get_worker_info

from adabatch.accumulate import accumulate
from adabatch.data import DataLoader
from adabatch.data.workers.streams import changed, packed, print_of, unpacked


class Epochs(IterableDataset):
    """Counts up, a hundred for each epoch; its state holds the epoch."""

    def __init__(self, size=12):
        self.size, self.at, self.epoch = size, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        while self.at < self.size:
            self.at += 1
            yield self.epoch * 100 + self.at - 1
        self.at = 0

    def state_dict(self):
        return {"at": self.at, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.at, self.epoch = state["at"], state["epoch"]


def whole(loader):
    return torch.cat(list(loader)).tolist()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_a_state_of_the_beginning_is_the_beginning(workers, sharding):
    loader = DataLoader(Epochs(), 4, num_workers=workers, sharding=sharding)
    beginning = loader.state_dict()
    for steps in (1, 2, 3):
        iterator = iter(loader)
        for _ in range(steps):
            next(iterator)
        iterator.close()
        loader.load_state_dict(beginning)
    assert whole(loader) == list(range(12))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_states_can_be_loaded_in_any_order_in_one_process(data):
    loader = DataLoader(Stateful(20), 3)
    states = [(0, loader.state_dict())]
    for batch in loader:
        states.append((batch[0][-1].item() + 1, loader.state_dict()))
    for _ in range(3):
        first, state = data.draw(st.sampled_from(states[:-1]))
        loader.load_state_dict(state)
        iterator = iter(loader)
        assert next(iterator)[0][0] == first
        if data.draw(st.booleans()):
            iterator.close()
        else:
            assert items(iterator) == list(range(min(first + 3, 20), 20))


def test_the_first_batch_is_repeated_whole():
    loader = DataLoader(Epochs(), 4, micro_batch_size=2)
    seen, broken = [], False

    def train():
        nonlocal broken
        for micro in accumulate(loader, torch.nn.Linear(1, 1)):
            with micro as batch:
                if not broken:
                    broken = True
                    raise torch.OutOfMemoryError("once")
                seen.extend(batch.tolist())

    with pytest.warns(RuntimeWarning, match="memory ran out"):
        train()
    assert seen == list(range(12))


def test_the_first_pass_begins_where_the_set_stands_and_the_next_where_that_left_it():
    data = Epochs()
    data.load_state_dict({"at": 5, "epoch": 0})
    loader = DataLoader(data, 4)
    twin = pickle.loads(pickle.dumps(loader))
    for first in (5, 0):
        assert [item % 100 for item in whole(loader)] == list(range(first, 12))
    assert whole(twin) == list(range(5, 12))


def from_seven(_number):
    torch.utils.data.get_worker_info().dataset.at = 7


def test_a_worker_may_be_told_to_begin_elsewhere():
    loader = DataLoader(Epochs(), 4, num_workers=1, worker_init_fn=from_seven)
    for epoch in range(2):
        assert whole(loader) == [100 * epoch + item for item in range(7, 12)]


class Itself(IterableDataset):
    """An iterator over itself, which stays at its end."""

    def __init__(self, size=6):
        self.at, self.size = 0, size

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.size:
            raise StopIteration
        self.at += 1
        return self.at - 1

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Staying(Itself):
    """The same as a generator."""

    def __iter__(self):
        while self.at < self.size:
            self.at += 1
            yield self.at - 1


class Afresh(Itself):
    """Begins anew with each `iter()`; only a state that was loaded says otherwise, for once."""

    start = 0

    def __iter__(self):
        self.at, self.start = self.start, 0
        while self.at < self.size:
            self.at += 1
            yield self.at - 1

    def load_state_dict(self, state):
        self.start = state["at"]


def huggingface():
    return pytest.importorskip("datasets").Dataset.from_dict({"i": list(range(6))}).to_iterable_dataset()


def values(batches):
    return [int(v) for batch in batches for v in (batch["i"] if isinstance(batch, dict) else batch)]


AFRESH = [Afresh, huggingface]


HOW = [{}, {"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}]


HOW += [{"num_workers": 2, "persistent_workers": True}, {"sharding": "dataset"}]


@pytest.mark.parametrize("make", AFRESH)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("looked", [1, 6])
def test_a_stream_that_was_looked_at_begins_at_its_beginning(make, how, looked):
    data = make()
    assert len([row for row, _ in zip(data, range(looked), strict=False)]) == looked
    if looked == 6:
        list(data)
    loader = DataLoader(data, 2, **how)
    beginning = loader.state_dict()
    for _ in range(2):
        assert values(loader) == list(range(6))
        next(iter(loader))  # and is left
    other = DataLoader(data, 2, **how)
    other.load_state_dict(beginning)
    assert values(other) == list(range(6))


@pytest.mark.parametrize("make", [Itself, Staying, *AFRESH])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_pass_left_early_does_not_go_on_in_the_next_one(make, how, steps):
    loader = DataLoader(make(), 2, **how)
    beginning = loader.state_dict()
    for again in (False, True, False):
        iterator = iter(loader)
        for _ in range(steps):
            next(iterator)
        iterator.close()
        if again:
            loader.load_state_dict(beginning)
    for _ in range(2):
        assert values(loader) == list(range(6))


@pytest.mark.parametrize("make", [Itself, Staying, *AFRESH])
def test_a_resumed_pass_left_early_does_not_go_on_in_the_next_one(make):
    begun = DataLoader(make(), 2)
    next(iter(begun))
    loader = DataLoader(make(), 2)
    loader.load_state_dict(begun.state_dict())
    assert values([next(iter(loader))]) == [2, 3]
    assert values(loader) == list(range(6))


class OwnEpochs(IterableDataset):
    epoch = 0

    def __iter__(self):
        yield from [self.epoch] * 3
        self.epoch += 1

    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


@pytest.mark.parametrize("how", [{}, {"num_workers": 1, "persistent_workers": True}, {"sharding": "dataset"}])
def test_a_streams_own_count_of_epochs_goes_on(how):
    loader = DataLoader(OwnEpochs(), 2, **how)
    assert [whole(loader) for _ in range(3)] == [[0] * 3, [1] * 3, [2] * 3]
    if not how.get("num_workers"):  # a worker has read ahead, to the end
        next(iter(loader))
    assert [whole(loader) for _ in range(2)] == [[3] * 3, [4] * 3]  # a pass that was left is not counted by it


@pytest.mark.parametrize("how", [{"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_workers_that_walk_one_stream_agree_on_its_epoch_whoever_saw_the_end(how):
    loader = DataLoader(OwnEpochs(), 2, **how)
    assert [whole(loader) for _ in range(3)] == [[0] * 3] * 3


class LateState(IterableDataset):
    """Its place exists only once it is iterated."""

    place: Any

    def __iter__(self):
        self.place = iter(range(4))
        return self.place

    def state_dict(self):
        return {"left": self.place.__length_hint__()}

    def load_state_dict(self, state):
        self.place = None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_a_state_may_be_there_only_after_the_first_iter(workers, sharding):
    loader = DataLoader(LateState(), 2, num_workers=workers, sharding=sharding)
    for _ in range(2):
        assert whole(loader) == [0, 1, 2, 3]
    assert next(iter(loader)).tolist() == [0, 1]
    assert loader.state_dict()["stream"]["place"] is not None


class TensorState(Staying):
    """Two states of it are neither equal nor unequal."""

    def state_dict(self):
        return {"at": self.at, "more": torch.zeros(2)}


def test_states_that_cannot_be_compared_are_loaded_again():
    loader = DataLoader(TensorState(), 2)
    with pytest.warns(UserWarning, match="must hold what JSON does not change"):
        next(iter(loader))
    assert values(loader) == list(range(6))


@pytest.mark.parametrize("how", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_the_epoch_is_told_after_the_beginning_is_restored(how):
    loader = DataLoader(Epochs(), 4, **how)
    for epoch in range(3):
        assert whole(loader) == [100 * epoch + item for item in range(12)]
    resumed = DataLoader(Epochs(), 4)
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    assert whole(resumed) == [300 + item for item in range(4, 12)]


class Drawing(Itself):
    """Its state holds that of a generator."""

    def state_dict(self):
        return {"at": self.at, "random": torch.get_rng_state()}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        torch.set_rng_state(state["random"])


def through_json(loader):
    return json.loads(json.dumps(loader.state_dict()))


@pytest.mark.parametrize("make", [Itself, Staying, Drawing, *AFRESH])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("used", [1, 6])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.filterwarnings("ignore:`state_dict` of the data set:UserWarning")
def test_the_state_of_a_beginning_is_loaded_over_a_used_stream(make, how, used, begun):
    data = make()
    loader = DataLoader(data, 2, **how)
    if begun:
        iterator = iter(loader)
        next(iterator)
        iterator.close()
        loader.set_epoch(3)
    beginning = through_json(loader)
    for _ in zip(iter(data), range(used), strict=False):
        pass
    resumed = DataLoader(data, 2, **how)
    resumed.load_state_dict(beginning)
    assert through_json(resumed) == beginning
    for _ in range(2):
        assert values(resumed) == list(range(6))
        next(iter(resumed))


@pytest.mark.filterwarnings("ignore:`state_dict` of the data set:UserWarning")
@pytest.mark.parametrize("steps", [1, 2])
def test_what_is_read_and_dropped_is_so_from_the_beginning_of_its_pass(steps):
    data = Drawing()
    loader = DataLoader(data, 2)
    iterator = iter(loader)
    seen = [next(iterator) for _ in range(steps)]
    state = through_json(loader)
    rest = values(iterator)
    assert values(seen) + rest == list(range(6))
    resumed = DataLoader(data, 2)
    resumed.load_state_dict(state)
    with pytest.warns(UserWarning, match=SKIPS):
        assert values(resumed) == rest


def test_a_state_without_a_beginning_is_loaded_as_before():
    data = Itself()
    loader = DataLoader(data, 2)
    state = loader.state_dict()
    assert state["stream"].pop("begins") == {"at": 0}
    data.at = 4
    loader.load_state_dict(state)
    assert values(loader) == [4, 5]


def test_ranks_of_a_stream_that_shares_itself_out_begin_where_each_stands():
    def states(sharding):
        loaders = ranked(2, lambda: DataLoader(Itself(), 2, seed=0, sharding=sharding))
        return [loader.state_dict()["stream"].get("begins") for loader in loaders]

    assert states("dataset") == [None, None]
    assert states("stride") == [{"at": 0}] * 2


class LongerEpochs(OwnEpochs):
    """Its state at an epoch's end is where the next begins."""

    at, start = 0, None

    def __iter__(self):
        self.at, self.start = self.start or 0, None
        while self.at < 5:
            self.at += 1
            yield self.epoch * 10 + self.at - 1
        self.at = 0
        self.epoch += 1

    def state_dict(self):
        return {"at": self.at, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.start, self.epoch = state["at"], state["epoch"]


class Unheld(LongerEpochs):
    """The same with a state that JSON cannot hold within a pass."""

    def state_dict(self):
        return super().state_dict() | {"more": torch.zeros(3, dtype=torch.float64)[: self.epoch]}


@pytest.mark.parametrize("make", [LongerEpochs, Unheld])
@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (0, 2), (1, 0), (1, 2), (1, 3), (2, 0)])
@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_streams_own_count_of_epochs_goes_on_after_a_resume(make, epochs, steps, used, workers):
    loader = DataLoader(make(), 2)
    for _ in range(epochs):
        whole(loader)
    iterator = iter(loader)
    for _ in range(steps):
        next(iterator)
    state = through_json(loader)
    rest = [values(iterator), values(loader), values(loader)]
    other = make()
    resumed = DataLoader(other, 2)
    for _ in zip(resumed, range(used), strict=False):
        pass
    if workers:
        resumed = DataLoader(other, 2, num_workers=1, persistent_workers=True)
    resumed.load_state_dict(state)
    assert [values(resumed) for _ in range(3)] == rest


def test_an_epoch_whose_last_batch_is_out_has_not_ended():
    loader = DataLoader(LongerEpochs(), 8, micro_batch_size=4)
    parts = loader.parts()
    next(parts)
    resumed = DataLoader(LongerEpochs(), 8)
    resumed.load_state_dict(through_json(loader))
    assert [values(resumed) for _ in range(2)] == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]


class Threes(Itself):
    """Goes on in each pass behind the one before, by three samples."""

    def __iter__(self):
        while True:
            self.at += 1
            yield self.at - 1
            if self.at % 3 == 0:
                return


def test_a_pass_after_a_resume_that_was_left_begins_again_where_the_resume_began():
    loader = DataLoader(Threes(), 2)
    assert values(loader) + values(loader) == list(range(6))
    resumed = DataLoader(Threes(), 2)
    resumed.load_state_dict(through_json(loader))
    assert "ended" in through_json(resumed)["stream"]
    assert next(iter(resumed)).tolist() == [6, 7]
    assert "ended" not in through_json(resumed)["stream"]
    assert [values(resumed) for _ in range(2)] == [[6, 7, 8], [9, 10, 11]]


def test_a_stream_that_stands_where_it_began_is_read_once_after_a_resume():
    resumed = DataLoader(Stateful(20), 4)
    resumed.load_state_dict(through_json(DataLoader(Stateful(20), 4)))
    assert items(resumed) == list(range(20))
    assert resumed.dataset.read == 20


@pytest.mark.parametrize("make", [Itself, Staying, Drawing, *AFRESH])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.filterwarnings("ignore:`state_dict` of the data set:UserWarning")
def test_a_stream_that_ends_where_nothing_follows_begins_anew_after_a_resume(make, again):
    data = make()
    loader = DataLoader(data, 2)
    for _ in range(2):
        assert values(loader) == list(range(6))
        resumed = DataLoader(data if again else make(), 2)
        resumed.load_state_dict(through_json(loader))
        for _ in range(2):
            assert values(resumed) == list(range(6))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.shuffle(seed=1, buffer_size=4),
        lambda data: data.map(lambda rows: rows, batched=True, batch_size=4),
        lambda data: data.filter(lambda row: row["i"] != 2).take(4),
    ],
)
def test_huggingface_streams_begin_anew_after_a_resume(change):
    loader = DataLoader(change(huggingface()), 2)
    for _ in range(2):
        values(loader)
        state = through_json(loader)
        expected = values(DataLoader(change(huggingface()), 2))
        resumed = DataLoader(change(huggingface()), 2)
        resumed.load_state_dict(state)
        assert sorted(values(resumed)) == sorted(expected)


class MadeByIter(IterableDataset):
    """An iterator over itself with a place that only `iter()` makes; what is loaded before that is lost."""

    calls = 0

    def __iter__(self):
        self.calls += 1
        self.place = {"at": 0}
        return self

    def __next__(self):
        if self.place["at"] == 8:
            raise StopIteration
        self.place["at"] += 1
        return self.place["at"] - 1

    def state_dict(self):
        return {"place": dict(self.place), "calls": self.calls}

    def load_state_dict(self, state):
        if not hasattr(self, "place"):
            raise AttributeError("no place yet")
        self.place.update(state["place"])


class OnlyOnce(Afresh):
    """An iterator over itself that takes a state by `iter()`, for once."""

    def __iter__(self):
        self.at, self.start = self.start, 0
        return self


@pytest.mark.parametrize("make", [MadeByIter, OnlyOnce])
@pytest.mark.parametrize("workers", [(0, 0), (0, 2), (2, 0), (2, 2)])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_iterator_over_itself_is_told_its_state_when_it_takes_it(make, workers, same, steps):
    data = make()
    loader = DataLoader(data, 2, num_workers=workers[0])
    iterator = iter(loader)
    for _ in range(steps):
        next(iterator)
    state = through_json(loader)
    rest, all_of_it = values(iterator), values(loader)
    resumed = DataLoader(data if same else make(), 2, num_workers=workers[1])
    resumed.load_state_dict(state)
    assert [values(resumed) for _ in range(3)] == [rest, all_of_it, all_of_it]


def test_an_iterator_over_itself_that_refuses_a_state_says_so():
    class Refusing(Itself):
        def load_state_dict(self, state):
            raise RuntimeError("of another make")

    loader = DataLoader(Refusing(), 2)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="of another make"):
        next(iter(loader))


@given(st.sampled_from([torch.uint8, torch.bool, torch.float64, torch.bfloat16, torch.int64]), st.data())
def test_tensors_of_a_state_come_back_as_they_were(dtype, data):
    shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
    tensor = torch.randint(0, 2, shape).to(dtype)
    state = {"a": [tensor.T if tensor.dim() == 2 else tensor, 1, {"b": None}]}
    found = unpacked(json.loads(json.dumps(packed(state))))
    assert found["a"][1:] == [1, {"b": None}]
    assert found["a"][0].dtype == dtype
    assert torch.equal(found["a"][0], state["a"][0])


def test_what_cannot_be_packed_is_left_out_and_what_is_damaged_refused():
    circle = {}
    circle["circle"] = circle
    for state in ({"a": (1, 2)}, {1: 2}, {"adabatch.tensor": 1}, [object()], circle):
        assert packed(state) is None
    loader = DataLoader(Drawing(), 2)
    state = through_json(loader)
    state["stream"]["begins"]["random"]["adabatch.tensor"][0] = "nothing"
    with pytest.raises(ValueError, match=r"`state` is damaged: `adabatch.tensor` must hold a tensor, got \['nothing'"):
        loader.load_state_dict(state)


@pytest.mark.parametrize("make", [lambda: Stateful(14), lambda: Stream(14)])
@pytest.mark.parametrize("collate", [None, lambda samples: [torch.tensor([sample[0] for sample in samples])]])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_spare_batches_leave_the_order_alone(make, collate, sharding):
    world, found = 4, []
    for loader in ranked(world, lambda: DataLoader(make(), 3, seed=0, collate_fn=collate, sharding=sharding)):
        mine, spares = [], 0
        for values, part in loader.parts():
            assert len(values[0]) == max(part.size, 1)
            mine += values[0][: part.size].tolist()
            spares += part.size == 0
            if part.size == 0:
                values[0].fill_(-1)  # what is done to one does not show in the next
        assert spares
        found.append(mine)
        read = loader.dataset.read
        assert sharding == "dataset" or read == 14
    if sharding == "stride":
        assert found == [list(range(rank, 14, world)) for rank in range(world)]


def test_a_rank_that_never_had_a_sample_reads_one_from_a_copy():
    def spare(data):
        loader = ranked(4, lambda: DataLoader(data, 8, seed=0))[3]
        return [(values[0].tolist(), part.size) for values, part in loader.parts()], data

    found, data = spare(Stateful(3))
    assert found == [([0], 0)]
    assert data.read == 3

    class Locked(Stateful):
        def __init__(self, size):
            super().__init__(size)
            self.lock = threading.Lock()

    with pytest.raises(TypeError, match="pickle"):
        spare(Locked(3))


def test_a_spare_that_cannot_be_read_is_an_error():
    class Copied(Stateful):
        def __deepcopy__(self, memo):
            return Broken(3)

    class Broken(Stateful):
        def __iter__(self):
            raise OSError("gone")

    loader = ranked(4, lambda: DataLoader(Copied(3), 8, seed=0))[3]
    with pytest.raises(OSError, match="gone"):
        next(loader.parts())


def test_collators_that_change_samples_do_not_change_the_spare():
    class Records(IterableDataset):
        def __iter__(self):
            return ({"x": item, "label": -item} for item in range(14))

    def collate(samples):
        return torch.tensor([sample.pop("label") for sample in samples])

    loader = ranked(4, lambda: DataLoader(Records(), 3, seed=0, collate_fn=collate))[3]
    found = [(values.tolist(), part.size) for values, part in loader.parts()]
    assert [value for value, size in found if size == 0] == [[-3]] * sum(size == 0 for _, size in found)


class Keyed(IterableDataset):
    """Keeps a count for each shard, by its number."""

    def __init__(self, key=int):
        self.done, self.key = {}, key

    def state_dict(self):
        return {"done": dict(self.done)}

    def load_state_dict(self, state):
        self.done = dict(state["done"])

    def __iter__(self):
        for shard in range(2):
            for item in range(self.done.get(self.key(shard), 0), 8):
                self.done[self.key(shard)] = item + 1
                yield shard * 100 + item
        self.done = {}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_state_that_json_changes_is_dropped_with_a_warning(workers):
    why = r"the keys of `state\['done'\]` must be text, got 0"
    loader = DataLoader(Keyed(int), 2, num_workers=workers)
    iterator = iter(loader)
    with pytest.warns(UserWarning, match="hold what JSON does not change: " + why):
        begun = next(iterator).tolist()  # and never again
    for _ in range(4):
        begun += next(iterator).tolist()
    state = json.loads(json.dumps(loader.state_dict()))
    rest = whole(iterator)
    assert begun + rest == [*range(8), *range(100, 108)]
    resumed = DataLoader(Keyed(int), 2)
    resumed.load_state_dict(state)
    with pytest.warns(UserWarning, match=SKIPS), pytest.warns(UserWarning, match=why):
        assert whole(resumed) == rest


def test_a_state_that_json_keeps_is_used():
    loader = DataLoader(Keyed(str), 2)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    resumed = DataLoader(Keyed(str), 2)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert whole(resumed) == whole(iterator) == list(range(102, 108))


def test_what_json_changes():
    for same in ({"a": [1, 2.5, None, True, "x", {"b": []}]}, [], 3, float("nan"), {}):
        assert changed(same, json.loads(json.dumps(same))) is None
    for other, why in (
        ({"a": (1, 2)}, r"`state['a']` is a tuple and comes back as a list"),
        ({1: 2}, "the keys of `state` must be text, got 1"),
        ([0, {"k": {None: 1}}], "the keys of `state[1]['k']` must be text, got None"),
        (random.Random(0).getstate(), "`state` is a tuple and comes back as a list"),
    ):
        assert changed(other, json.loads(json.dumps(other))) == why


@pytest.mark.parametrize("kind", ["circle", "tensor", "tuple"])
def test_states_that_json_cannot_hold_are_dropped_too(kind):
    class Odd(Stateful):
        def state_dict(self):
            found = {"at": self.at, "more": torch.zeros(1) if kind == "tensor" else (1, 2)}
            if kind == "circle":
                found["more"] = found
            return copy.copy(found)

    loader = DataLoader(Odd(20), 4)
    iterator = iter(loader)
    with pytest.warns(UserWarning, match="must hold what JSON does not change"):
        next(iterator)
    next(iterator)
    assert loader.state_dict()["stream"]["place"] == {"offset": 0, "state": None}


def test_a_loader_over_a_stream_can_be_pickled():
    loader = DataLoader(Stateful(20), 4)
    assert items(pickle.loads(pickle.dumps(loader))) == list(range(20))
    iterator = iter(loader)
    next(iterator)
    twin = pickle.loads(pickle.dumps(loader))
    assert items(twin) == list(range(4, 20))
    assert items(copy.deepcopy(loader)) == list(range(4, 20))
    assert items(iterator) == list(range(4, 20))


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

    first: int

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


class NoEpoch(IterableDataset):
    def set_epoch(self, epoch):
        raise ValueError("no such epoch")

    def __iter__(self):
        return iter(range(8))


class NoPlace(IterableDataset):
    """Counts up; the place after sample 3 can be asked for or returned to only where `asked` or `returned` says so."""

    def __init__(self, asked=False, returned=False):
        self.at, self.asked, self.returned = 0, asked, returned

    def state_dict(self):
        if self.at > 3 and not self.asked:
            raise ValueError("cannot tell the place")
        return {"at": self.at}

    def load_state_dict(self, state):
        if state["at"] > 3 and not self.returned:
            raise ValueError("cannot go there")
        self.at = state["at"]

    def __iter__(self):
        while self.at < 40:
            self.at += 1
            yield self.at - 1


@pytest.mark.parametrize("sharding", ["stride", "dataset"])
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda mark: StreamOnce(mark, refuse, None),
            OSError,
            "sample 0 could not be fetched in worker 0.*no such shard",
        ),
        (lambda _: NoEpoch(), ValueError, "no such epoch"),
    ],
    ids=["__iter__", "set_epoch"],
)
def test_what_a_stream_raises_in_a_worker_arrives(make, kind, message, sharding, tmp_path):
    with pytest.raises(kind, match=message):
        list(DataLoader(make(tmp_path / "mark"), 4, num_workers=1, seed=0, sharding=sharding))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sharding", ["stride", "dataset"])
def test_a_place_that_a_stream_cannot_tell_is_told(sharding, workers):
    with pytest.raises(ValueError, match="cannot tell the place"):
        list(DataLoader(NoPlace(), 4, num_workers=workers, seed=0, sharding=sharding))


def test_a_state_that_a_stream_refuses_in_a_worker_is_told():
    def make(returned):
        return DataLoader(NoPlace(asked=True, returned=returned), 4, num_workers=1, seed=0)

    begun = make(returned=True)
    batches = iter(begun)
    next(batches), next(batches)
    loader = make(returned=False)
    loader.load_state_dict(begun.state_dict())
    with pytest.raises(ValueError, match="cannot go there"):
        list(loader)
