from __future__ import annotations

import pickle

import pytest

from adabatch._errors import AdabatchError, ArgumentError, ArgumentTypeError, MissingPackageError, UsageError, naming


@pytest.mark.parametrize(
    ("error", "words", "value"),
    [
        (ArgumentError("lr", "must be above 0", value=-1, remedy="up"), "`lr` must be above 0, got -1; up", -1),
        (ArgumentTypeError("lr", "must be a number", value="0.1"), "`lr` must be a number, got '0.1'", "0.1"),
        (ArgumentError("lr", "must be known", value=None), "`lr` must be known, got None", None),
        (UsageError("step()", "came twice", got="two calls"), "`step()` came twice, got two calls", "two calls"),
        (MissingPackageError(None, "it needs rich", remedy="get it"), "it needs rich; get it", None),
    ],
)  # fmt: skip
def test_one_line_and_its_parts(error, words, value):
    assert (str(error), error.value) == (words, value)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), words, vars(error))


def test_they_are_errors_of_python_too():
    for kind, plain in (
        (ArgumentError, ValueError),
        (ArgumentTypeError, TypeError),
        (UsageError, RuntimeError),
        (MissingPackageError, ModuleNotFoundError),
    ):
        assert issubclass(kind, plain)
        assert issubclass(kind, AdabatchError)


@pytest.mark.parametrize("said", [{}, {"value": 0}, {"value": None}, {"got": "nothing at all"}])
def test_more_to_do_and_another_name_change_nothing_else(said):
    error = ArgumentTypeError("maximum", "must be at least 1", **said, remedy="raise it")
    more, other = error.and_then("or leave it out"), error.of("max_batch_size")
    assert str(more) == f"{error}; or leave it out"
    assert str(other) == str(error).replace("maximum", "max_batch_size")
    assert {type(more), type(other)} == {ArgumentTypeError}
    assert (more.value, other.value, other.argument) == (error.value, error.value, "max_batch_size")


def test_arguments_are_named_as_the_caller_knows_them():
    with (
        pytest.raises(ArgumentError, match=r"^`max_batch_size` must be at least 1, got 0$"),
        naming(maximum="max_batch_size"),
    ):
        raise ArgumentError("maximum", "must be at least 1", value=0)
    with pytest.raises(ArgumentError, match=r"^`start` must be 1$"), naming(maximum="max_batch_size"):
        raise ArgumentError("start", "must be 1")
    with pytest.raises(ValueError, match=r"^another$"), naming(maximum="max_batch_size"):
        raise ValueError("another")
