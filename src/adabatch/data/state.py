"""Reading a loader's saved state: refused when damaged or foreign, with the difference named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from adabatch.data.cursor import Cursor

FORMAT: Final = 1
KINDS: Final[Mapping[str, type]] = {
    "clock": int,
    "batch_size": int,
    "seed": int,
    "dataset_size": int,
    "shuffle": bool,
    "sampler": str,
    "drop_last": bool,
    "run_on": bool,
    "sharding": str,
}
_REMEDY: Final = "load the state into a loader over the same data, built with the same arguments"


def checked(state: Any, *, kinds: Mapping[str, type]) -> dict[str, Any]:
    """`state` as a dict whose entries have the kinds that they must have.

    Args:
        state: what `load_state_dict` was given.
        kinds: every entry's type; a whole number must be at least 0.

    Raises:
        ValueError: if an entry is missing, of another type or negative, or the format is unknown.
        TypeError: if `state` is no mapping.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"`state` must be a dict from `state_dict()`, got {type(state).__name__}")
    if state.get("format") != FORMAT:
        raise ValueError(
            f"`state` must be a loader's state of format {FORMAT}, got format {state.get('format')!r}; it is damaged or"
            " written by another version"
        )
    for name, kind in kinds.items():
        if name not in state:
            raise ValueError(f"`state` is damaged: `{name}` is missing; save it again or use an older checkpoint")
        value: Any = state[name]
        if type(value) is not kind or (kind is int and state[name] < 0):
            raise ValueError(
                f"`state` is damaged: `{name}` must be {_described(kind)}, got {value!r}; use an older checkpoint"
            )
    return dict(state)


def sizes(cursor: Cursor) -> dict[str, int]:
    """Size of the batch that would be repeated, or comes next; and of those behind it, if assigned meanwhile."""
    size, behind = cursor.sizes
    return {"batch_size": size} if behind is None else {"batch_size": size, "next_batch_size": behind}


def postponed(state: Mapping[str, Any], checked: Callable[[Any], int]) -> int | None:
    """The size that holds behind the batch that is repeated; None where none was assigned.

    Args:
        state: of a loader.
        checked: gives a batch size back, or raises ValueError or TypeError.
    """
    return None if state.get("next_batch_size") is None else checked(state["next_batch_size"])


def _described(kind: type) -> str:
    return {int: "a whole number of at least 0", bool: "True or False", str: "text"}.get(kind, kind.__name__)


def compare(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises if an entry of `state` differs from this loader's `own`; names all differences."""
    differences = [
        f"`{name}` is {state[name]!r} there and {mine!r} here" for name, mine in own.items() if state[name] != mine
    ]
    if differences:
        raise ValueError(f"`state` must belong to this loader: {', '.join(differences)}; {_REMEDY}")


def checked_stream(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a state that belongs to a stream.

    Raises:
        ValueError: if it is missing or damaged.
    """
    stream = state.get("stream")
    found: dict[str, Any] = dict(stream) if isinstance(stream, Mapping) else {}
    numbers = [found.get("epoch"), found.get("base"), 0 if found.get("length") is None else found["length"]]
    place = found.get("place")
    inside = place is None or (isinstance(place, Mapping) and ("readers" in place or _is_count(place.get("offset"))))
    if not all(map(_is_count, numbers)) or not inside or state["clock"] < found["base"]:
        raise ValueError(
            f"`state` is damaged: `stream` must hold a place in the stream, got {stream!r}; use an older one"
        )
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
