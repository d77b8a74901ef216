"""The house's docstrings for mkdocstrings: their heading `Example:` is what it knows as `Examples:`."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class OneExample(Extension):
    """Renames the heading in each docstring as it is read from the source."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub("Examples:", obj.docstring.value)
