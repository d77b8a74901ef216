"""Reading a loader's saved state: refused when damaged or foreign, with the difference named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from adabatch._errors import ArgumentError, ArgumentTypeError

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
        raise ArgumentTypeError("state", "must be a dict from `state_dict()`", got=type(state).__name__)
    if state.get("format") != FORMAT:
        raise ArgumentError(
            "state",
            f"must be a loader's state of format {FORMAT}",
            got=f"format {state.get('format')!r}",
            remedy="it is damaged or written by another version",
        )
    for name, kind in kinds.items():
        if name not in state:
            raise ArgumentError(
                "state", f"is damaged: `{name}` is missing", remedy="save it again or use an older checkpoint"
            )
        value: Any = state[name]
        if type(value) is not kind or (kind is int and state[name] < 0):
            raise ArgumentError(
                "state",
                f"is damaged: `{name}` must be {_described(kind)}",
                value=value,
                remedy="use an older checkpoint",
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


def open_epoch(state: Mapping[str, Any], epoch: int) -> int | None:
    """The epoch of which all was handed out and whose end is still to be told; None for none.

    Args:
        state: of a loader.
        epoch: in which it stands.

    Raises:
        ValueError: if it is neither that epoch, of which a rest may be dropped, nor the one before.
    """
    found = state.get("open_epoch")
    if found is not None and (type(found) is not int or found not in (epoch - 1, epoch)):
        raise ArgumentError(
            "state",
            f"is damaged: `open_epoch` must be {epoch} or the epoch before",
            got=found,
            remedy="use an older checkpoint",
        )
    return found


def _described(kind: type) -> str:
    return {int: "a whole number of at least 0", bool: "True or False", str: "text"}.get(kind, kind.__name__)


def compare(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises if an entry of `state` differs from this loader's `own`; names all differences."""
    differences = [
        f"`{name}` is {state[name]!r} there and {mine!r} here" for name, mine in own.items() if state[name] != mine
    ]
    if differences:
        raise ArgumentError("state", f"must belong to this loader: {', '.join(differences)}", remedy=_REMEDY)


def checked_stream(state: Mapping[str, Any], *, readers: int, rank: int) -> dict[str, Any]:
    """The part of a state that belongs to a stream.

    Args:
        state: of a loader.
        readers: how many the loader has.
        rank: of this process.

    Raises:
        ValueError: if it is missing or damaged, or another rank's place in a stream that shares itself out.
    """
    stream = state.get("stream")
    found: dict[str, Any] = dict(stream) if isinstance(stream, Mapping) else {}
    numbers = [found.get(name, -1) for name in ("epoch", "base", "chunk")]
    whole = all(map(_is_count, numbers[:2])) and (numbers[2] is None or _is_count(numbers[2]))
    place = found.get("place", "missing")
    offset, chunk = (state["clock"] - found["base"] if whole else -1), found.get("chunk")
    if chunk == 0 or not _is_place(place, offset, chunk, None if state["sharding"] == "stride" else readers):
        raise ArgumentError(
            "state", "is damaged: `stream` must hold a place in the stream", value=stream, remedy="use an older one"
        )
    if state["sharding"] != "stride" and place is not None and place["rank"] != rank:
        raise ArgumentError(
            "state",
            (
                f"must be of this rank where a stream shares itself out: it is of rank {place['rank']}, "
                f"this is rank {rank}"
            ),
            remedy="save and load a state on each rank",
        )
    return found


def _is_place(place: Any, offset: int, chunk: int | None, readers: int | None) -> bool:
    """Whether a stream, perhaps shared out among `readers`, can go on at `place`, to deliver from `offset` on."""
    if offset < 0 or not isinstance(place, Mapping):
        return place is None and (offset == 0 or (readers is None and offset > 0))
    if readers is None:
        return _is_count(place.get("offset")) and place["offset"] <= offset and "state" in place
    found: list[Any] = [place.get(name) for name in ("rank", "turn", "used", "readers")]
    *counts, each = found
    turn, used = counts[1:]
    if chunk is None or not (all(map(_is_count, counts)) and isinstance(each, list | tuple)):
        return False
    rows = [row for row in each if isinstance(row, list | tuple) and len(row) == 3]
    sound = all(_is_count(done) and _is_count(mark) and mark <= done for done, mark, _ in rows)
    inside = len(rows) == len(each) == readers and turn < readers and used < chunk
    return sound and inside and sum(done for done, _, _ in rows) <= offset


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
