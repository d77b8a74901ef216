"""Imported first by each room that needs torch: where torch or numpy is missing, the error says how to get them."""

from adabatch._errors import needing_torch

with needing_torch("this part of adabatch"):
    import numpy as numpy
    import torch as torch
