"""A larger start, raised LR and then raised momentum: the table of 1711.00489, section 5.2, in small.

    python -m adabatch.lab.recipes.scaled_start_fashion --data DATA --out runs/scaled_start

Paper: `smith-decay`, `smith-increase`, `smith-lr` and `smith-momentum` on CIFAR-10 took about 80,000, 29,000, under
6,500 and under 2,500 updates to 94.3, 94.4, 94.5 and 93.3 %. Here: one hidden layer of 128 on 8,000 pictures of
Fashion-MNIST, batch 16, LR falls by 5 at epochs 12, 24 and 32 of 40, the batch at most a tenth of the data. Starts are
raised as in the paper: the LR by 5 with the batch, then the momentum from 0.9 to 0.98 with the batch.

Expected, n = 5, one thread of a Xeon, about two minutes: 20,000, 7,440, 1,600 and 520 updates to test accuracies of
85.35 +- 0.15, 85.34 +- 0.09, 85.30 +- 0.08 and 84.69 +- 0.12 %. Momentum costs accuracy here too: -0.61 points against
`lr`, 95 % interval [-0.85, -0.36]. The settings were chosen on seed 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import adabatch as ab
from adabatch.lab import models
from adabatch.lab.recipes import _fashion, _runs
from adabatch.lab.recipes._command import Claim, command
from adabatch.lab.recipes._fashion import Length, Start
from adabatch.lab.recipes._pictures import scaled_start_picture
from adabatch.lab.recipes._runs import Record, against, as_planned, below

LR: Final = 0.005
MOMENTUM: Final = 0.9
BATCH_SIZE: Final = 16
LENGTH: Final = Length(epochs=40, falls=(12, 24, 32), factor=5.0)
SAMPLES: Final = 8_000
SEEDS: Final = 5
ARMS: Final[dict[str, dict[str, Any]]] = {
    "decay": {"rule": "hybrid(0)", "to_lr": 1.0, "to_momentum": MOMENTUM},
    "increase": {"rule": "smith", "to_lr": 1.0, "to_momentum": MOMENTUM},
    "lr": {"rule": "smith", "to_lr": 5.0, "to_momentum": MOMENTUM},
    "momentum": {"rule": "smith", "to_lr": 5.0, "to_momentum": 0.98},
}


def start_of(arm: str) -> Start:
    """The start of an arm: `to_lr` times the LR, its momentum, and the batch size that goes with both."""
    scaled = ab.scale_up(
        lr=LR,
        momentum=MOMENTUM,
        batch_size=BATCH_SIZE,
        to_lr=LR * ARMS[arm]["to_lr"],
        to_momentum=ARMS[arm]["to_momentum"],
    )
    return Start(optimizer="momentum", lr=scaled.lr, momentum=scaled.momentum, batch_size=scaled.batch_size)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains every start, writes the result and the picture, and prints the claims."""
    return command(
        arguments,
        file=__file__,
        name="scaled_start",
        data="folder with fashion_mnist; else ADABATCH_DATA, else it is downloaded",
        seeds=SEEDS,
        length=("samples", SAMPLES, "pictures to train on"),
        run=lambda data, out, seeds, samples: run(data, out, seeds=seeds, samples=samples),
        draw=scaled_start_picture,
        claims=claims,
    )


def run(data: Path | str | None, out: Path, *, seeds: int = SEEDS, samples: int = SAMPLES) -> dict[str, Any]:
    """Trains every arm with every seed; returns the content of the result file."""
    loaded = _fashion.load(data, samples=samples, batch_size=max(start_of(arm).batch_size for arm in ARMS))
    network = partial(models.mlp, image_size=14)

    def train(arm: str, seed: int, tell: Callable[[float], None]) -> Record:
        return _fashion.train(
            loaded, start_of(arm), LENGTH, model=network, rule=ARMS[arm]["rule"], seed=seed, tell=tell
        )

    settings = {
        "data": loaded.note,
        "network": "mlp, one hidden layer of 128",
        "starts": {arm: vars(start_of(arm)) for arm in ARMS},
        "arms": ARMS,
        "length": vars(LENGTH),
        "margin": _fashion.MARGIN,
    }
    files = [Path(module) for module in (__file__, str(_fashion.__file__), str(_runs.__file__))]
    records, head = _runs.run_all(train, arms=list(ARMS), seeds=seeds, out=out, settings=settings, files=files)
    base = records["decay"]
    return {
        **head,
        "seeds": seeds,
        "arms": {arm: _fashion.arm_of(of) for arm, of in records.items()},
        "against_decay": {
            arm: against(of, base, "test_accuracy", "train_loss") for arm, of in records.items() if arm != "decay"
        },
        "momentum_against_lr": against(records["momentum"], records["lr"], "test_accuracy", "train_loss"),
    }


def claims(found: Mapping[str, Any]) -> list[Claim]:
    """The claims of the paper, checked against a finished result."""
    arms = found["arms"]
    updates = [of["updates"][0] for of in arms.values()]
    fewer = sorted(set(updates), reverse=True) == updates
    momentum = found["momentum_against_lr"]["test_accuracy"]
    planned = as_planned(arms)
    return [
        planned,
        Claim("each step of the paper's takes fewer updates: decay, increase, lr, momentum", planned.found, fewer),
        *(_fashion.within(arm, found["against_decay"][arm]["test_accuracy"]) for arm in ("increase", "lr")),
        Claim("momentum costs accuracy against lr, by the interval", _fashion.points(momentum), below(momentum, 0)),
    ]


if __name__ == "__main__":
    main()
