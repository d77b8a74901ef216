"""Policies: the batch size decided from measurements, one file each. No torch here."""

from adabatch.policies._base import Policy
from adabatch.policies.branch import branch
from adabatch.policies.cabs import cabs
from adabatch.policies.diversity import diversity
from adabatch.policies.goodput import goodput
from adabatch.policies.noise_scale import noise_scale
from adabatch.policies.norm_test import norm_test
from adabatch.policies.sign_noise import sign_noise
from adabatch.policies.similarity import similarity

__all__ = ["Policy", "branch", "cabs", "diversity", "goodput", "noise_scale", "norm_test", "sign_noise", "similarity"]
