"""`get`, JSON and couplings of users."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

import adabatch as ab
from adabatch import couplings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", couplings.none()),
        (" linear ", couplings.linear()),
        ("linear()", couplings.linear()),
        ("sqrt", couplings.sqrt()),
        ("power(0.75)", couplings.power(0.75)),
        ("power(p=-1)", couplings.power(-1)),
        ("linear(any_optimizer=True)", couplings.linear(any_optimizer=True)),
    ],
)
def test_get_reads_names_and_calls(text, expected):
    assert couplings.get(text) == expected
    assert ab.couplings is couplings


@pytest.mark.parametrize("text", ["", "lin", "power(x)", "__import__('os')", "linear(**{})", "Coupling", "1"])
def test_get_refuses_what_is_no_coupling(text):
    with pytest.raises(ValueError, match=r"`coupling` must be one of .*linear, .*none, .*power, .*sqrt.*, got "):
        couplings.get(text)


@pytest.mark.parametrize(
    ("text", "rest"), [("lin", ""), ("power(x)", "; write it as a name or a call with numbers, such as 'power(0.75)'")]
)
def test_get_says_how_to_write_a_call(text, rest):
    with pytest.raises(ValueError, match=rf", got {re.escape(repr(text) + rest)}$"):
        couplings.get(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("power", r"'power' must get arguments among p, got 'power'; write power\(0.75\)"),
        ("power(1, 2)", r"'power' must get arguments among"),
        (
            "linear(True)",
            r"'linear' must get arguments among any_optimizer, got 'linear\(True\)'; write linear\(NAME=VALUE\)",
        ),
        ("none(1)", r"'none' must get arguments among none, got 'none\(1\)'; write none$"),
        ("pair(3)", r"'pair' must get arguments among first, second, got 'pair\(3\)'; write pair\(NAME=VALUE\)$"),
    ],
)
def test_get_refuses_other_arguments(text, message):
    assert pair(first=1, second=2).lr_factor(4) == 4
    with pytest.raises(ValueError, match=message):
        couplings.get(text)


@pytest.mark.parametrize("value", [None, 1, couplings.linear])
def test_get_refuses_other_types(value):
    with pytest.raises(TypeError, match=r"`coupling` must be a name or a coupling, got .*; write for example 'linear'"):
        couplings.get(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "must be a coupling with a `kind`, got None"),
        ({"p": 1}, "must be a coupling with a `kind`"),
        ({"kind": "cubic"}, "`kind` must be one of .*linear"),
        ({"kind": "power"}, "of kind power must have the fields p, got none"),
        ({"kind": "none", "p": 1}, "of kind none must have no fields, got p"),
    ],
)
def test_from_json_refuses_other_data(data, message):
    with pytest.raises(ValueError, match=message):
        couplings.Coupling.from_json(data)


@dataclass(frozen=True)
class momentum_too(couplings.Coupling):  # noqa: N801
    """A user's coupling of LR and momentum."""

    cap: float = 0.99

    def lr_factor(self, ratio: float) -> float:
        return ratio

    def in_force(self, group: Any, ratio: float) -> dict[str, Any]:
        return super().in_force(group, ratio) | {"momentum": min(1 - (1 - group["momentum"]) / ratio, self.cap)}


@dataclass(frozen=True, kw_only=True)
class pair(couplings.Coupling):  # noqa: N801
    first: float = 1.0
    second: float = 1.0

    def lr_factor(self, ratio: float) -> float:
        return ratio


class own_table(couplings.Coupling):  # noqa: N801
    def lr_factor(self, ratio: float) -> float:
        return ratio**0.5

    def in_force(self, group: Any, ratio: float) -> dict[str, Any]:
        return super().in_force(group, ratio) | {"weight_decay": group["weight_decay"] * ratio**0.5}


def test_numbers_are_kept_as_floats_and_defaults_are_not_described():
    assert [couplings.get(name).describe() for name in ("linear", "none", "constant_noise")] == [
        "linear",
        "none",
        "constant_noise",
    ]
    assert couplings.power(1).describe() == "power(p=1.0)"
    assert couplings.constant_noise(maximum_lr_factor=5).describe() == "constant_noise(maximum_lr_factor=5.0)"


def test_a_table_of_ones_own_needs_no_decorator():
    own = own_table()
    assert own.in_force({"lr": 0.1, "weight_decay": 0.1}, 4) == {"lr": 0.2, "weight_decay": 0.2}
    assert couplings.get("own_table") == own
    assert couplings.Coupling.from_json(own.to_json()) == own


def test_a_coupling_of_ones_own():
    own = momentum_too(cap=0.97)
    assert own.in_force({"lr": 0.1, "momentum": 0.9}, 2) == {"lr": 0.2, "momentum": pytest.approx(0.95)}
    assert own.name == "momentum_too"
    assert couplings.get(own) is own
    assert couplings.Coupling.from_json(own.to_json()) == own
    assert own.describe() == "momentum_too(cap=0.97)"
    assert own.optimizers is None


def test_a_name_that_is_taken_is_refused_and_a_cell_that_runs_again_is_not():
    with pytest.raises(
        ValueError,
        match=r"`class linear` must have a name of its own, got that of adabatch.couplings.linear.linear; give it an",
    ):

        class linear(couplings.Coupling):  # noqa: N801
            def lr_factor(self, ratio: float) -> float:
                return 1.0

    assert couplings.get("linear") == couplings.linear()

    def cell(factor: float) -> type[couplings.Coupling]:
        class of_a_notebook(couplings.Coupling):  # noqa: N801
            def lr_factor(self, ratio: float) -> float:
                return factor

        return of_a_notebook

    assert [couplings.get("of_a_notebook").lr_factor(2) for factor in (2.0, 3.0) if cell(factor)] == [2.0, 3.0]
    del couplings.Coupling.kinds["of_a_notebook"]


def test_the_former_name_of_a_coupling_names_the_new_one():
    said = "`coupling` 'noise_scale' is called 'constant_noise' now; a noise scale is what a policy measures"
    for text in ("noise_scale", "noise_scale(maximum_lr_factor=2)"):
        with pytest.raises(ValueError, match=said):
            couplings.get(text)
    with pytest.raises(ValueError, match=said):
        couplings.Coupling.from_json({"kind": "noise_scale", "maximum_lr_factor": 1.0})
    with pytest.raises(AttributeError, match="has no attribute 'noise_scale'; its name is 'constant_noise' now"):
        couplings.noise_scale  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        couplings.nothing  # noqa: B018
