"""A ramp of the batch in tokens under warmup-stable-decay: the ramp of the small-GPT record, in small.

    python -m adabatch.lab.recipes.gpt_ramp --data DATA --out runs/gpt_ramp

Record: 8, 16 and 24 sequences in three equal stages. Here: characters of tiny Shakespeare, sequences of 64, a GPT of
two blocks of width 48, AdamW, 921,600 tokens. The LR scheduler is torch's own and counts updates of 8 sequences;
`ab.by_samples` makes it end on time in every arm. Arms: `small` (8 sequences), `ramp`, `large` (24 from the start, LR
times the root of 3) and, so that the comparison can fail, `by-updates`: the ramp with the LR scheduler stepped once per
update, so that the LR never decays.

Expected, n = 5 seeds, one thread of a Xeon, four minutes for all: 1,800, 1,100, 600 and 1,100 updates to test losses of
1.975 +- 0.030, 1.995 +- 0.036, 2.225 +- 0.100 and 2.109 +- 0.037 nats per character, in 11.6, 10.0, 9.1 and 10.1 CPU
seconds. The LR of `large` was not tuned separately.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.optim import lr_scheduler as torch_lr

import adabatch as ab
from adabatch import _checks, lr_clock, schedules
from adabatch.lab import planner, tasks
from adabatch.lab.models import gpt
from adabatch.lab.recipes import _runs
from adabatch.lab.recipes._command import Claim, command
from adabatch.lab.recipes._pictures import gpt_ramp_picture
from adabatch.lab.recipes._runs import Record, above, against, as_planned, below, over_seeds, told
from adabatch.lab.study import statistics
from adabatch.lab.training.evaluation import evaluate

CONTEXT: Final = 64
SIZES: Final = (8, 16, 24)
TOKENS: Final = 921_600
WARMUP: Final = 0.05  # shares of the training
DECAY: Final = 0.25
LR: Final = 0.016  # for `small`, the best of 0.002, 0.004, 0.008, 0.016 and 0.03 on seed 0
SEEDS: Final = 5
EVALUATIONS: Final = 12
ARMS: Final = ("small", "ramp", "large", "by-updates")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of a training, and size of the network."""

    tokens: int = TOKENS
    width: int = 48
    layers: int = 2

    @property
    def samples(self) -> int:
        """The same length in sequences."""
        return self.tokens // CONTEXT


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains every arm, writes the result and the picture, and prints the claims."""
    return command(
        arguments,
        file=__file__,
        name="gpt_ramp",
        data="text file or folder with tinyshakespeare; else ADABATCH_DATA, else downloaded",
        seeds=SEEDS,
        length=("tokens", TOKENS, "length of each training"),
        run=lambda data, out, seeds, tokens: run(data, out, seeds=seeds, size=Size(tokens=tokens)),
        draw=gpt_ramp_picture,
        claims=claims,
    )


def load(data: Path | str | None) -> tasks.Data:
    """The task `gpt-tiny` in sequences of `CONTEXT`."""
    whole = tasks.get("gpt-tiny").load(data)
    parts = {name: getattr(whole, name).reshape(-1, CONTEXT) for name in ("x_train", "y_train", "x_test", "y_test")}
    return replace(whole, **parts, tokens_per_sample=CONTEXT)


def warmup_stable_decay(optimizer: torch.optim.Optimizer, updates: int) -> torch_lr.LRScheduler:
    """Torch's own LR schedulers in a row, counting updates: up from a twentieth, flat, down to a twentieth."""
    warmup, decay = max(round(WARMUP * updates), 1), max(round(DECAY * updates), 1)
    parts: list[torch_lr.LRScheduler] = [
        torch_lr.LinearLR(optimizer, start_factor=0.05, total_iters=warmup),
        torch_lr.ConstantLR(optimizer, factor=1.0),
        torch_lr.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=decay),
    ]
    return torch_lr.SequentialLR(optimizer, parts, milestones=[warmup, updates - decay])


def batch_schedule(arm: str, size: Size) -> schedules.Schedule:
    """The batch size of an arm, in sequences."""
    if arm in ("small", "large"):
        return schedules.constant(SIZES[0] if arm == "small" else SIZES[-1])
    return planner.ramps.small_gpt(size.tokens, sizes=SIZES, tokens_per_sample=CONTEXT).schedule


def train(data: tasks.Data, arm: str, size: Size, *, seed: int, tell: Callable[[float], None]) -> Record:
    """Trains one arm and returns its record; initial weights and order of the data depend on the seed alone."""
    torch.manual_seed(seed)
    schedule = batch_schedule(arm, size)
    first = SIZES[-1] if arm == "large" else SIZES[0]
    net = gpt(vocabulary=data.classes, context=CONTEXT, width=size.width, layers=size.layers)
    loss_fn = nn.CrossEntropyLoss()
    lr = LR * ab.couplings.get("sqrt").lr_factor(first / SIZES[0])
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.1)
    loader = ab.DataLoader(data.dataset, batch_size=first, shuffle=True, seed=seed, run_on=True)
    wsd = warmup_stable_decay(optimizer, size.samples // SIZES[0])
    planned = schedule.plan(dataset_size=data.dataset_size, batch_size=first, run_on=True, tokens_per_sample=CONTEXT)
    batches = ab.BatchSizeScheduler(optimizer, loader, schedule, coupling="sqrt", tokens_per_sample=CONTEXT)
    by_samples = ab.by_samples(wsd, loader, base_batch_size=SIZES[0], end=size.samples // SIZES[0])
    evaluation = lr_clock.every(loader, ab.samples(max(size.samples // EVALUATIONS, 1)))
    history: list[dict[str, float]] = []
    updates, seconds, began = 0, 0.0, time.process_time()
    while loader.clock < size.samples:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss_fn(net(inputs), targets).backward()
            optimizer.step()
            batches.step()
            in_force = batches.last_lr[0]
            if arm == "by-updates":
                wsd.step()
            else:
                by_samples.step()
            updates += 1
            over = loader.clock >= size.samples
            if evaluation.due() or over:
                seconds += time.process_time() - began
                rows = len(data.x_test) if over else len(data.x_test) // 4
                loss, _ = evaluate(net, data.x_test[:rows], data.y_test[:rows])
                history.append(
                    {
                        "tokens": loader.clock * CONTEXT,
                        "updates": updates,
                        "cpu_seconds": seconds,
                        "batch_size": len(targets),
                        "lr": in_force,
                        "test_loss": loss,
                    }
                )
                tell(loader.clock / size.samples)
                began = time.process_time()
            if over:
                break
    return {**history[-1], "planned_updates": planned.update_at(size.samples), "history": history}


def run(data: Path | str | None, out: Path, *, seeds: int = SEEDS, size: Size | None = None) -> dict[str, Any]:
    """Trains every arm with every seed; returns the content of the result file."""
    loaded, chosen = load(data), size or Size()
    _checks.whole("tokens", chosen.tokens, minimum=CONTEXT * SIZES[-1], remedy="that is one batch of `large`")

    def train_one(arm: str, seed: int, tell: Callable[[float], None]) -> Record:
        return train(loaded, arm, chosen, seed=seed, tell=tell)

    settings = {
        "data": f"{loaded.x_train.numel():,} characters to train, {loaded.x_test.numel():,} to test",
        "network": f"gpt, {chosen.layers} blocks of width {chosen.width} with 4 heads, sequences of {CONTEXT}",
        "tokens": chosen.tokens,
        "ramp": planner.ramps.write_steps(batch_schedule("ramp", chosen), tokens_per_sample=CONTEXT),
        "lr": LR,
        "lr_schedule": f"warm-up {WARMUP:g}, decay {DECAY:g} of the training, to a twentieth",
        "arms": ARMS,
    }
    files = [Path(module) for module in (__file__, str(_runs.__file__))]
    records, head = _runs.run_all(train_one, arms=ARMS, seeds=seeds, out=out, settings=settings, files=files)
    losses = {arm: [record["test_loss"] for record in of] for arm, of in records.items()}
    middle = [(small + large) / 2 for small, large in zip(losses["small"], losses["large"], strict=True)]
    seconds = {arm: [record["cpu_seconds"] for record in of] for arm, of in records.items()}
    return {
        **head,
        "seeds": seeds,
        "arms": {arm: _arm(of) for arm, of in records.items()},
        "against_small": {arm: against(of, records["small"], "test_loss") for arm, of in records.items()},
        "against_ramp": {arm: against(of, records["ramp"], "test_loss") for arm, of in records.items()},
        "ramp_against_the_middle_of_small_and_large": statistics.paired_difference(losses["ramp"], middle).to_json(),
        "cpu_seconds_small_to_ramp": statistics.paired_ratio(seconds["small"], seconds["ramp"]).to_json(),
    }


def _arm(records: Sequence[Record]) -> dict[str, Any]:
    """The result of one arm."""
    first = records[0]["history"]
    return {
        "updates": sorted({record["updates"] for record in records}),
        "planned_updates": sorted({record["planned_updates"] for record in records}),
        "tokens": [entry["tokens"] for entry in first],
        "batch_sizes": [entry["batch_size"] for entry in first],
        "lr_in_force": [entry["lr"] for entry in first],
        "test_loss": statistics.summary([record["test_loss"] for record in records]).to_json(),
        "cpu_seconds": statistics.spread([record["cpu_seconds"] for record in records]).to_json(),
        "curves": {key: over_seeds(records, key) for key in ("test_loss", "cpu_seconds")},
    }


def claims(found: Mapping[str, Any]) -> list[Claim]:
    """The claims for a ramp, checked against a finished result."""
    middle, ratio = found["ramp_against_the_middle_of_small_and_large"], found["cpu_seconds_small_to_ramp"]
    interval = "no interval" if ratio["low"] is None else f"[{ratio['low']:.2f}, {ratio['high']:.2f}]"
    nearer = "ramp: its loss is nearer to small's than to large's, by the interval"
    faster = "ramp: less CPU time than small, by the interval"
    losses = {arm: found["against_ramp"][arm]["test_loss"] for arm in ("large", "by-updates")}
    return [
        as_planned(found["arms"]),
        Claim(nearer, f"{_nats(middle)} to the middle", below(middle, 0)),
        Claim(faster, f"{ratio['median']:.2f} times {interval}", above(ratio, 1)),
        *(
            Claim(f"{arm}: a higher loss than ramp, by the interval", _nats(loss), above(loss, 0))
            for arm, loss in losses.items()
        ),
    ]


def _nats(difference: Mapping[str, float | None]) -> str:
    return told(difference, "nats", digits=3)


if __name__ == "__main__":
    main()
