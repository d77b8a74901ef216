"""The errors of this package: argument, rule, value and remedy, in one line and as attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, Self


class _Missing:
    """No value."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()


class AdabatchError(Exception):
    """An error in the input of this package; `str()` gives one line.

    Args:
        argument: the name of the argument at fault; None if no argument is.
        rule: what must hold.
        value: the value given.
        got: the value in words; None prints `value`, text in quotes.
        remedy: what to do; empty where that is plain.

    Attributes:
        argument: see above.
        rule: see above.
        value: the value given, or else `got`; None without either.
        remedy: see above.

    Example:
        >>> error = ArgumentError("factor", "must be greater than 1", value=0.5, remedy="to shrink use `steps`")
        >>> print(error)
        `factor` must be greater than 1, got 0.5; to shrink use `steps`
        >>> error.argument, error.value
        ('factor', 0.5)
    """

    def __init__(
        self, argument: str | None, rule: str, *, value: Any = MISSING, got: str | None = None, remedy: str = ""
    ) -> None:
        self.argument, self.rule, self.remedy = argument, rule, remedy
        self.value = (None if value is MISSING else value) if got is None or value is not MISSING else got
        if got is None:
            got = "" if value is MISSING else repr(value) if isinstance(value, str) else str(value)
        self._told = got
        super().__init__(
            (f"`{argument}` " if argument else "") + rule + (got and f", got {got}") + (remedy and f"; {remedy}")
        )

    def __reduce__(self) -> Any:
        return _again, (type(self), self.args, vars(self))

    def and_then(self, remedy: str) -> Self:
        """The same error with `remedy` added to its own."""
        return self._but(remedy="; ".join(filter(None, (self.remedy, remedy))))

    def of(self, argument: str) -> Self:
        """The same error with another name for the argument."""
        return self._but(argument=argument)

    def _but(self, **changed: str) -> Self:
        said: dict[str, Any] = {"argument": self.argument, "rule": self.rule, "remedy": self.remedy, **changed}
        if self._told:
            said |= {"value": self.value, "got": self._told}
        return type(self)(**said)


class ArgumentError(AdabatchError, ValueError):
    """A value that an argument must not have."""


class ArgumentTypeError(AdabatchError, TypeError):
    """A value of a type that an argument must not have."""


class UsageError(AdabatchError, RuntimeError):
    """A call at the wrong moment."""


class MissingPackageError(AdabatchError, ModuleNotFoundError):
    """A package is missing that an extra installs."""


@contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """A context in which an import that fails for want of torch or numpy says so, and how to install them.

    Args:
        what: the thing that needs them, in words.

    Raises:
        MissingPackageError: if one of them is not installed and an import in the context asked for it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = [name for name in ("torch", "numpy") if find_spec(name) is None]
        if (error.name or "").partition(".")[0] not in missing:
            raise
        told = MissingPackageError(
            None, f"{what} needs {' and '.join(missing)}", remedy="run: pip install 'adabatch[torch]'"
        )
        told.name = error.name
        raise told from error


@contextmanager
def naming(**names: str) -> Iterator[None]:
    """A context in which errors call arguments by the names that the user knows.

    Args:
        **names: for each argument of the code inside, the user's name.

    Example:
        >>> with naming(maximum="max_batch_size"):
        ...     raise ArgumentError("maximum", "must be at least 1", value=0)
        Traceback (most recent call last):
        ...
        adabatch._errors.ArgumentError: `max_batch_size` must be at least 1, got 0
    """
    try:
        yield
    except AdabatchError as error:
        if error.argument not in names:
            raise
        raise error.of(names[error.argument]) from error.__cause__


def _again(kind: type[AdabatchError], args: tuple[Any, ...], attributes: dict[str, Any]) -> AdabatchError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error
