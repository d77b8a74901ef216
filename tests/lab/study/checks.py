"""Quick settings for tests of comparisons."""

from adabatch.lab.study.arms import Arm
from adabatch.lab.training import RunConfig


def config(**changes):
    settings = {"growth": 2.0, "epochs": 2, "every": "1 epoch", "batch_size": 64, "max_batch_size": 128, "lr": 0.05}
    return RunConfig.for_task("digits", **{**settings, **changes})


def arms(**changes):
    return [Arm("fixed-small", config(growth=None, **changes)), Arm("adaptive", config(**changes))]
