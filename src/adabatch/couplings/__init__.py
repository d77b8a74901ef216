"""Couplings: how LR, momentum, betas and eps follow the batch size, one file each. No torch here."""

from adabatch.couplings._base import Coupling, get
from adabatch.couplings.adam_sde import adam_sde
from adabatch.couplings.linear import linear
from adabatch.couplings.noise_scale import noise_scale
from adabatch.couplings.none import none
from adabatch.couplings.power import power
from adabatch.couplings.sqrt import sqrt
from adabatch.couplings.token_half_life import token_half_life

__all__ = ["Coupling", "adam_sde", "get", "linear", "noise_scale", "none", "power", "sqrt", "token_half_life"]
