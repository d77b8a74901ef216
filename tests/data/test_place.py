"""Where a loader stands: iterations that look, states that are saved, loaded and refused."""

import copy
import io
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sets import Keeping, Plan, Stateful, items, order

from adabatch.data import DataLoader


def walked():
    return DataLoader(Stateful(40), 4, seed=0)


def shared_out():
    return DataLoader(Keeping(40), 4, num_workers=2, sharding="dataset", seed=0)


DAMAGES = [
    *[(make, lambda s, name=name: s.pop(name)) for make in (walked, shared_out) for name in ("epoch", "base")],
    *[(make, lambda s, name=name: s.pop(name)) for make in (walked, shared_out) for name in ("chunk", "place")],
    *[(make, lambda s: s.update(base=9)) for make in (walked, shared_out)],
    *[(make, lambda s, v=v: s.update(chunk=v)) for make in (walked, shared_out) for v in (0, -1, "2", 1.5)],
    *[(make, lambda s, v=v: s.update(place=v)) for make in (walked, shared_out) for v in (3, [], {"readers": 3}, {})],
    (walked, lambda s: s["place"].pop("state")),
    (walked, lambda s: s["place"].update(offset=9)),
    (walked, lambda s: s["place"].update(offset=None)),
    (shared_out, lambda s: s.update(place=None)),
    (shared_out, lambda s: s.update(chunk=None)),
    (shared_out, lambda s: s.update(place={"offset": 0, "state": None})),
    (shared_out, lambda s: s["place"].pop("turn")),
    (shared_out, lambda s: s["place"].update(turn=2)),
    (shared_out, lambda s: s["place"].pop("rank")),
    (shared_out, lambda s: s["place"].update(used=99)),
    (shared_out, lambda s: s["place"]["readers"].pop()),
    (shared_out, lambda s: s["place"]["readers"].append([0, 0, None])),
    (shared_out, lambda s: s["place"]["readers"].__setitem__(0, [1, 0])),
    (shared_out, lambda s: s["place"]["readers"].__setitem__(0, [1, 2, None])),
    (shared_out, lambda s: s["place"]["readers"].__setitem__(0, ["1", 0, None])),
    (shared_out, lambda s: s["place"]["readers"].__setitem__(0, [99, 0, None])),
]


@pytest.mark.parametrize(("make", "damage"), DAMAGES)
def test_a_damaged_place_in_a_stream_is_refused_and_changes_nothing(make, damage):
    loader = make()
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    rest = items(iterator)
    broken = copy.deepcopy(state)
    damage(broken["stream"])
    other = make()
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="`state` is damaged: `stream` must hold a place in the stream"):
        other.load_state_dict(broken)
    assert other.state_dict() == state
    assert items(other) == rest


@pytest.mark.parametrize("make", [walked, shared_out])
def test_a_state_after_set_epoch_can_be_loaded(make):
    loader = make()
    next(iter(loader))
    state = loader.state_dict()
    loader = make()
    loader.load_state_dict(state)
    loader.set_epoch(3)
    other = make()
    other.load_state_dict(loader.state_dict())
    assert (other.epoch, items(other)) == (3, items(loader))


def test_leaving_early_skips_the_rest_of_the_epoch():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    for _ in loader:
        break
    assert (loader.epoch, len(loader)) == (1, 3)
    assert torch.cat(list(loader)).tolist() == order(10, 0, 1)
    assert loader.epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_iterations_without_a_schedule_are_independent(workers):
    loader = DataLoader(torch.arange(6) if not workers else list(range(6)), 2, num_workers=workers)
    assert [(a.tolist(), b.tolist()) for a, b in zip(loader, loader, strict=True)] == [
        ([0, 1], [0, 1]),
        ([2, 3], [2, 3]),
        ([4, 5], [4, 5]),
    ]
    assert [(a[0].item(), b[0].item()) for a in loader for b in loader] == [
        (a, b) for a in (0, 2, 4) for b in (0, 2, 4)
    ]
    first = iter(loader)
    next(first)
    first.close()
    assert list(first) == []


def test_the_state_belongs_to_the_newest_iteration():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert loader.state_dict()["clock"] == 4  # it has not begun
    next(second)
    next(first)
    assert loader.state_dict()["clock"] == 14
    next(second)
    assert loader.state_dict()["clock"] == 18


def test_a_second_iteration_of_a_driven_loader_says_what_to_use():
    loader = DataLoader(torch.arange(10), 4)
    loader.attach(Plan((0, 4), size=10))
    first, second = iter(loader), iter(loader)
    next(first)
    loader.commit()
    with pytest.raises(RuntimeError, match="evaluate with another loader; this one drives the schedule"):
        next(second)
    assert len(list(first)) == 2


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_resumed_run_delivers_the_same_batches(data):
    size = data.draw(st.integers(2, 40))
    mode = data.draw(st.sampled_from([{}, {"drop_last": True}, {"run_on": True}]))
    batch_size = data.draw(st.integers(1, size))
    sizes = data.draw(st.lists(st.integers(1, size), min_size=12, max_size=12))
    stop = data.draw(st.integers(0, 11))

    def run(loader, first, last):
        batches = []
        update = first
        while update < last:
            for batch in loader:
                batches.append(batch.tolist())
                loader.batch_size = sizes[update]
                update += 1
                if update == last:
                    break
        return batches

    def make(seed):
        return DataLoader(torch.arange(size), batch_size, shuffle=True, seed=seed, **mode)

    whole = run(make(4), 0, 12)
    begun = make(4)
    before = run(begun, 0, stop)
    state = json.loads(json.dumps(begun.state_dict()))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    resumed = make(None)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert before + run(resumed, stop, 12) == whole


def test_a_state_of_something_else_is_refused_with_the_difference():
    state = DataLoader(torch.arange(10), 4, shuffle=True, seed=1).state_dict()
    assert next(iter(state)) == "format"
    with pytest.raises(ValueError, match="`dataset_size` is 10 there and 11 here"):
        DataLoader(torch.arange(11), 4, shuffle=True, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="`seed` is 1 there and 2 here, `shuffle` is True there and False here"):
        DataLoader(torch.arange(10), 4, seed=2).load_state_dict(state)
    drawn = DataLoader(torch.arange(10), 2, shuffle=True)
    drawn.load_state_dict(state)
    assert (drawn.seed, drawn.batch_size) == (1, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 1, got format 99"),
        ({"clock": None}, "`clock` must be a whole number of at least 0, got None"),
        ({"clock": -1}, "`clock` must be a whole number of at least 0, got -1"),
        ({"clock": True}, "`clock` must be a whole number of at least 0, got True"),
        ({"batch_size": True}, "`batch_size` must be a whole number of at least 0, got True"),
        ({"seed": True}, "`seed` must be a whole number of at least 0, got True"),
        ({"shuffle": 1}, "`shuffle` must be True or False, got 1"),
        ({"batch_size": 11}, "`batch_size` must be at most"),
        ({"seed": ...}, "`seed` is missing"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change, message):
    loader = DataLoader(torch.arange(10), 4, seed=1)
    next(iter(loader))
    before = loader.state_dict()
    state = {key: value for key, value in {**before, **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)
    assert loader.state_dict() == before
    with pytest.raises(TypeError, match="dict from `state_dict"):
        loader.load_state_dict([])


def test_states_are_not_loaded_in_the_middle_of_training():
    loader = DataLoader(torch.arange(10), 4, seed=1)
    iterator = iter(loader)
    state = loader.state_dict()
    next(iterator)
    loader.load_state_dict(state)
    assert list(iterator) == []  # it belonged to another course
    assert next(iter(loader)).tolist() == [0, 1, 2, 3]
    loader.load_state_dict(state)
    loader.attach(Plan((0, 4), size=10))
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(state)  # nothing was trained on
    with pytest.raises(RuntimeError, match="must not go on after a later one was trained on, or a state was loaded"):
        next(iterator)
    iterator = iter(loader)
    next(iterator)
    loader.commit()
    with pytest.raises(RuntimeError, match="load it before the loop"):
        loader.load_state_dict(state)


def test_set_epoch_moves_an_undriven_loader_only():
    loader = DataLoader(torch.arange(10), 4, shuffle=True, seed=0)
    loader.set_epoch(0)
    loader.set_epoch(3)
    assert torch.cat(list(loader)).tolist() == order(10, 0, 3)
    loader.attach(Plan((0, 4), size=10))
    loader.set_epoch(4)
    with pytest.raises(ValueError, match=r"`epoch` must be 4.*got 6"):
        loader.set_epoch(6)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(RuntimeError, match="before the loop"):
        loader.set_epoch(4)
    del iterator


def test_a_look_at_a_set_that_grew_shows_what_comes_and_moves_nothing():
    data = list(range(4))
    loader = DataLoader(data, 2, seed=0, shuffle=True)
    list(loader)
    data.extend(range(4, 8))
    before = loader.state_dict()
    seen = loader.peek()
    assert loader.state_dict() == before
    assert torch.equal(next(iter(loader)), seen)
