"""Small studies, and curves that need no training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from adabatch.lab.study.curve import Curve, CurvePoint
from adabatch.lab.study.due import due_by_case, in_order
from adabatch.lab.study.grid import Grid, Job
from adabatch.lab.training import RunConfig

BASE = RunConfig.for_task(
    "digits", model="mlp", batch_size=10, epochs=2, lr=0.02, lr_schedule="constant", device="cpu", threads=1
)


def grid(**changes: Any) -> Grid:
    """A study of the 300 samples of `small_data`."""
    settings = {"batch_sizes": (10, 30), "models": ("mlp",), "seeds": (0, 1), "epochs": 2, "max_epochs": 4}
    return Grid(**{"base": BASE, **settings, **changes})


def curve(job: Job, *, loss: float = 0.5, stopped: str = "budget") -> Curve:
    """A curve that falls to a loss at the end of the job's budget of 300 samples an epoch."""
    updates = job.epochs * 300 // job.batch_size
    points = [
        CurvePoint(total, total * job.batch_size, 0.01 * total, loss * factor, loss * factor)
        for total, factor in ((max(1, updates // 4), 2.0), (max(2, updates // 2), 1.4), (max(3, updates), 1.0))
    ]
    return Curve(tuple(points), stopped, 0.01 * updates)


def bowl(job: Job, *, lr: float, momentum: float) -> Curve:
    """A curve whose loss is lowest at an LR and a momentum; far above the LR it diverges."""
    far = math.log2(job.lr / lr)
    loss = 0.3 + 0.01 * far**2 + 0.01 * math.log2((1 - job.momentum) / (1 - momentum)) ** 2
    return curve(job, loss=loss, stopped="diverged" if far > 6 else "budget")


def due(study: Grid, curves: dict[str, Curve]) -> list[Job]:
    """The jobs that are due, the most urgent first."""
    return in_order(due_by_case(study, curves))


def played(study: Grid, train: Any = curve) -> tuple[dict[str, Curve], list[str]]:
    """The curves of a study done by one worker that does the first job that is due, and their order."""
    curves: dict[str, Curve] = {}
    while jobs := due(study, curves):
        curves[jobs[0].key] = train(jobs[0])
    return curves, list(curves)


def without_seconds(found: Curve) -> Curve:
    """All of a curve that a training determines."""
    return replace(found, points=tuple(point._replace(seconds=0.0) for point in found.points), wall_seconds=0.0)


def bare(study: dict[str, Any]) -> Any:
    """The content of study.json that does not depend on time."""
    found = json.loads(json.dumps(study))
    found["settings"]["base"]["threads"] = None
    for panel in found["panels"]:
        for rule in panel["rules"]:
            for cell in rule["cells"]:
                cell["samples_per_second"] = None
                for run in cell["curves"]:
                    for point in run["points"]:
                        point[2] = 0
            for loss in ("train", "test"):
                for row in rule[loss]["to_target"]:
                    for name in [name for name in row if "second" in name]:
                        row[name] = None
                    for run in row["runs"]:
                        run["seconds"] = None
    return found
