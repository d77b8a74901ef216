"""Couplings: how LR, momentum, betas and eps follow the batch size, one file each. No torch here."""

from typing import Any

from adabatch.couplings._base import RENAMED, Coupling, get
from adabatch.couplings.adam_sde import adam_sde
from adabatch.couplings.adascale import adascale
from adabatch.couplings.constant_noise import constant_noise
from adabatch.couplings.linear import linear
from adabatch.couplings.none import none
from adabatch.couplings.power import power
from adabatch.couplings.sqrt import sqrt
from adabatch.couplings.token_half_life import token_half_life

__all__ = [
    "Coupling",
    "adam_sde",
    "adascale",
    "constant_noise",
    "get",
    "linear",
    "none",
    "power",
    "sqrt",
    "token_half_life",
]


def __getattr__(name: str) -> Any:
    said = f"; its name is {RENAMED[name]!r} now" if name in RENAMED else ""
    raise AttributeError(f"module 'adabatch.couplings' has no attribute {name!r}{said}")
