"""Folders like those of `adabatch compare` and `adabatch train`, made from the package's records without training."""

import json
import math
from dataclasses import replace
from statistics import median

from adabatch.lab.comparison import Comparison
from adabatch.lab.study.arms import standard_arms
from adabatch.lab.study.outcome import outcome
from adabatch.lab.training import RunConfig
from adabatch.lab.training.records import Evaluation, RunResult
from adabatch.types import Decision, NoiseEstimate, Observation

N = 1437
ENDS = {"fixed-small": 0.976, "fixed-large": 0.943, "adaptive": 0.975, "uncoupled": 0.931, "run": 0.975}
RATES = {16: 2000.0, 32: 3800.0, 64: 6000.0, 128: 7800.0, 256: 9200.0}
VERSIONS = {
    "adabatch": "0.1.0",
    "torch": "2.13.0",
    "device": "cpu",
    "device_name": "Some(R) Processor",
    "git": {"revision": "0123456789abcdef", "changed": True},
}
GROWING = RunConfig.for_task(
    "digits", growth=2.0, every="2 epochs", max_batch_size=256, lr=0.006, lr_schedule="step:0.7:2", epochs=14
)
BUSY = {"fixed-small": (1118.0, 848.0, 1139.0), "adaptive": (888.0, 712.0, 689.0)}  # a machine that did other work
RATIO = 1118 / 888  # the median of 1.26, 1.19 and 1.65


def result(config, name, *, target=0.95):
    """A result that a run with these settings could have; accuracy climbs to the arm's end, seeds differ a little."""
    plan = config.plan(N)
    wobble = math.sin(7 * config.seed + sum(map(ord, name)))  # two arms differ in another way for each seed
    history, seconds = [], 0.0
    for epoch in range(1, config.epochs + 1):
        size = plan.batch_size_at((epoch - 1) * N)
        seconds += N / RATES[size] * (1 + 0.03 * wobble)
        end = ENDS.get(name, 0.96) + 0.003 * wobble
        accuracy = end - (end - 0.1) * math.exp(-epoch / 1.6)
        updates = sum(math.ceil(N / plan.batch_size_at(past * N)) for past in range(epoch))
        lr = config.lr * 0.7 ** ((epoch - 1) // 2) * (size / config.batch_size if config.coupling == "linear" else 1)
        losses = 2.3 * math.exp(-epoch / 3), 2.3 * math.exp(-epoch / 3.5) + 0.02
        history.append(Evaluation(epoch * N, epoch, updates, seconds, size, lr, *losses, accuracy))
    changes = list(zip(plan.starts_samples, plan.batch_sizes, strict=True))[1:]
    first = next((found for found in history if found.test_accuracy >= target), None)
    sizes = tuple(dict.fromkeys(found.batch_size for found in history))
    return RunResult(
        test_accuracy=history[-1].test_accuracy,
        best_accuracy=max(found.test_accuracy for found in history),
        updates=history[-1].updates,
        samples=config.epochs * N,
        epochs=config.epochs,
        train_seconds=seconds,
        samples_per_second={size: RATES[size] * (1 - 0.03 * wobble) for size in sizes},
        batch_sizes=sizes,
        history=tuple(history),
        decisions=tuple(Decision(clock, size, "x2 every 2 epochs") for clock, size in changes),
        target=target,
        updates_to_target=first.updates if first else None,
        seconds_to_target=first.seconds if first else None,
    )


def decided():
    """A result that a run under a policy could have: the noise rises, at both ends it cannot be told."""
    found = result(GROWING, "run")
    noise = {k: NoiseEstimate(20.0 * k, 12.0 * k, 50.0 * k, 40.0 * k, 2.0, 30.0 + k) for k in range(15)}
    noise[1] = replace(noise[1], noise_scale=-300.0, high=math.inf, signal=-0.1)
    noise[14] = replace(noise[14], high=math.inf)
    history = [
        replace(
            each,
            noise_scale=noise[each.epoch].noise_scale,
            noise_low=noise[each.epoch].low,
            noise_high=noise[each.epoch].high if noise[each.epoch].high < math.inf else None,
            decided="noise scale 280, noise_scale asks for 150 to inf: stays at the maximum of 256",
        )
        for each in found.history
    ]
    changes = []
    for each in found.decisions:
        seen = Observation(each.clock, 40, each.batch_size // 2, 0.006, 0.5, noise[each.clock // N])
        interval, reason = (
            (1.1 * each.batch_size, math.inf),
            f"noise scale 99, noise_scale asks: grows to {each.batch_size}",
        )
        changes.append(replace(each, reason=reason, observation=seen, interval=interval))
    return replace(found, history=tuple(history), decisions=tuple(changes), noise_from="halves of one of 4 updates")


DECIDED = replace(GROWING, growth=None, every="1 epoch", policy="noise-scale:1")


def write_run(folder, config=GROWING, *, name="run", finished=True):
    """A run folder; an unfinished one has only the logs of its first five epochs."""
    found = decided() if config == DECIDED else result(config, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    (folder / "versions.json").write_text(json.dumps(VERSIONS))
    values = found.to_json()
    history = values["history"] if finished else values["history"][:5]
    decisions = [d for d in values["decisions"] if d["clock"] < history[-1]["samples"]]
    for log, records in (("metrics", history), ("decisions", decisions)):
        (folder / f"{log}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        (folder / "result.json").write_text(json.dumps(values))
    return found


def write_comparison(folder, *, seeds=3, names=("fixed-small", "fixed-large", "adaptive", "uncoupled"), target=0.95):
    """A folder of a finished comparison; returns the content of its compare.json."""
    arms = {arm.name: arm.config for arm in standard_arms(GROWING, dataset_size=N)}
    arms = {name: arms.get(name, GROWING) for name in names}
    results = {
        name: [
            write_run(folder / "runs" / name / f"seed-{seed}", replace(config, seed=seed), name=name)
            for seed in range(seeds)
        ]
        for name, config in arms.items()
    }
    settings = {name: {k: v for k, v in config.to_json().items() if k != "seed"} for name, config in arms.items()}
    compare = Comparison(
        task="digits",
        model=GROWING.model,
        device="cpu",
        versions=VERSIONS,
        seeds=tuple(range(seeds)),
        settings=settings,
        **outcome(results, target=target),
    ).to_json()
    (folder / "compare.json").write_text(json.dumps(compare))
    return compare


def write_busy_comparison(folder):
    """A comparison whose median seconds give another ratio than the median of paired ratios."""
    compare = write_comparison(folder, names=tuple(BUSY))
    for arm in compare["arms"]:
        values = BUSY[arm["name"]]
        arm["train_seconds"] = {"median": median(values), "min": min(values), "max": max(values), "values": values}
        for seed, seconds in enumerate(values):
            file = folder / "runs" / arm["name"] / f"seed-{seed}" / "result.json"
            found = json.loads(file.read_text())
            scale = seconds / found["history"][-1]["seconds"]
            for each in found["history"]:
                each["seconds"] *= scale
            file.write_text(json.dumps(found))
    interval = {"median": RATIO, "low": 0.88, "high": 2.1}
    compare["against_fixed_small"]["adaptive"]["seconds_ratio"] = interval
    (folder / "compare.json").write_text(json.dumps(compare))
    return json.loads((folder / "compare.json").read_text())
