"""Which tap listens to which loader, so that those who hand out micro-batches can tell it of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from adabatch._errors import ArgumentError

if TYPE_CHECKING:
    from adabatch.noise._listener import Listener

_TAPS: Final[WeakKeyDictionary[Any, ref[Listener]]] = WeakKeyDictionary()


def tap_on(loader: Any) -> Listener | None:
    """The tap that listens to a loader; None for none."""
    if not _TAPS:
        return None
    found = _TAPS.get(loader)
    return None if found is None else found()


def put_on(loader: Any, tap: Listener) -> None:
    """From now on `tap` listens to the loader.

    Raises:
        ValueError: if another does.
    """
    if tap_on(loader) is not None:
        raise ArgumentError("loader", "must not have two taps", remedy="call `close()` on the other first")
    _TAPS[loader] = ref(tap)


def take_off(loader: Any, tap: Listener) -> None:
    """`tap` listens no longer."""
    if tap_on(loader) is tap:
        del _TAPS[loader]
