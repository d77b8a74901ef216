"""Damaged states are refused before anything is changed."""

import copy

import pytest
from tests.data.test_streams import Keeping, Stateful, items

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
