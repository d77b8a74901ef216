"""Measurements in a folder, by name, so that the same call goes on where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch.lab.study.grid import OTHERWISE, differences
from adabatch.lab.training import writing

NAME: Final = "measured.json"
FORMAT: Final = 1
# Settings of a run on which no measurement depends; a device is known by its own name.
_FREE: Final = ("data", "device", "save_every")


class Kept:
    """Measurements by name, with the seconds that each took, in `measured.json`.

    Args:
        out: the folder.
        settings: on which they depend, as plain JSON; those of a run under `"base"`.
        data: fingerprint of the data.

    Raises:
        ValueError: if the file is damaged, or of other settings or data.
    """

    def __init__(self, out: Path, *, settings: Mapping[str, Any], data: str) -> None:
        self._out, self._file = out, out / NAME
        self._settings, self._data = settings, data
        self._found: dict[str, Any] = {}
        if self._file.exists():
            self._found = self._read()

    def of(self, name: str, do: Callable[[], Any]) -> Any:
        """The measurement of a name; makes it if it is not there."""
        if name not in self._found:
            began = time.monotonic()
            value = do()
            self._found[name] = {"value": value, "seconds": time.monotonic() - began}
            with writing(self._out):
                _files.write_json(self._file, self._content())
        return self._found[name]["value"]

    def seconds(self, *words: str) -> float:
        """The seconds of everything whose name begins with one of `words`."""
        return math.fsum(each["seconds"] for name, each in self._found.items() if name.startswith(words))

    def forget(self) -> None:
        """Removes all measurements."""
        self._found = {}
        self._file.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any]:
        return {"format": FORMAT, "settings": self._settings, "data": self._data, "measured": self._found}

    def _read(self) -> dict[str, Any]:
        try:
            content = _files.json_of(self._file)
            found, theirs, data = content["measured"], content["settings"], content["data"]
            for each in found.values():
                float(each["seconds"])
            others = _settings(theirs)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            remedy = "delete it or take another folder"
            got = f"a damaged {self._file}"
            raise ArgumentError("out", "must hold whole measurements", got=got, remedy=remedy) from error
        if differing := differences(_settings(self._settings), others):
            rule = f"must hold measurements of the same settings, and {self._file} holds some with"
            raise ArgumentError("out", f"{rule} {'; '.join(differing)}", remedy=OTHERWISE)
        if data != self._data:
            remedy = "give the former data, in whatever folder, or take another folder"
            rule = f"must hold what {self._file} was measured on"
            raise ArgumentError("data", rule, got="other samples", remedy=remedy)
        return dict(found)


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which measurements depend, by the names of the options."""
    found = {name: value for name, value in values["base"].items() if name not in _FREE}
    found |= {name: value for name, value in values.items() if name not in ("base", "budget_seconds")}
    return found | {"budget": f"{values['budget_seconds']}s"}
