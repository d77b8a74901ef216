"""A small comparison, written by hand, that the tests of tables and pictures read."""

import json
import math

from adabatch.lab.comparison import Comparison

made = Comparison.of_json

ARMS = {
    "fixed-small": ([16], 0.949, 2.0),
    "fixed-large": ([256], 0.849, 0.9),
    "adaptive": ([16, 32, 64, 128, 256], 0.952, 1.2),
    "uncoupled": ([16, 32, 64, 128, 256], 0.907, 1.2),
}


def arm(name, *, seeds=3):
    sizes, accuracy, seconds = ARMS[name]
    accuracies = [accuracy + 0.002 * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    times = [seconds * (1 + 0.05 * seed) for seed in range(seeds)]
    reached = [t * 0.8 if a >= 0.94 else None for a, t in zip(accuracies, times, strict=True)]
    hits = sum(value is not None for value in reached)
    return {
        "name": name,
        "batch_sizes": sizes,
        "updates": 1800 // (len(sizes) if len(sizes) > 1 else sizes[0] // 16),
        "samples": 28740,
        "test_accuracy": {"mean": accuracy, "std": 0.002 if seeds > 1 else None, "n": seeds, "values": accuracies},
        "train_seconds": {"median": times[seeds // 2], "min": times[0], "max": times[-1], "values": times},
        "samples_per_second": {str(size): 14000.0 + 40 * size for size in sizes},
        "diverged": 0,
        "at_chance": 0,
        "updates_to_target": 300 if hits == seeds else None,
        "seconds_to_target": reached[seeds // 2] if hits == seeds else None,
        "to_target": {"reached": hits, "n": seeds, "updates": [300] * seeds, "seconds": reached},
    }


def against(base, other, *, seeds=3):
    ratio = base["train_seconds"]["median"] / other["train_seconds"]["median"]
    difference = other["test_accuracy"]["mean"] - base["test_accuracy"]["mean"]
    interval = (0.97, 1.03) if seeds > 1 else None
    nothing = {"median": None, "low": None, "high": None}
    return {
        "updates_ratio": base["updates"] / other["updates"],
        "seconds_ratio": {
            "median": ratio,
            "low": ratio * interval[0] if interval else None,
            "high": ratio * interval[1] if interval else None,
        },
        "seconds_to_target_ratio": nothing if other["seconds_to_target"] is None else dict(nothing, median=1.5),
        "accuracy_difference": {
            "mean": difference,
            "low": difference - 0.004 if interval else None,
            "high": difference + 0.004 if interval else None,
        },
        "within_margin": {"verdict": "shown", "words": "shown by the interval"},
    }


def comparison(*, seeds=3, names=tuple(ARMS)):
    arms = [arm(name, seeds=seeds) for name in names]
    by_name = {record["name"]: record for record in arms}
    return {
        "task": "digits",
        "model": "cnn_small",
        "device": "cpu",
        "versions": {},
        "seeds": list(range(seeds)),
        "target": 0.94,
        "margin": 0.01,
        "arms": arms,
        **{
            f"against_{base.replace('-', '_')}": {
                name: against(by_name[base], record, seeds=seeds) for name, record in by_name.items() if name != base
            }
            for base in ("fixed-small", "fixed-large")
            if base in by_name
        },
    }


def write(folder, compare):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(compare))
    for record in compare["arms"]:
        sizes = record["batch_sizes"]
        for index, seed in enumerate(compare["seeds"]):
            end, seconds = record["test_accuracy"]["values"][index], record["train_seconds"]["values"][index]
            history = [
                {
                    "samples": 1437 * epoch,
                    "updates": record["updates"] * epoch // 20,
                    "batch_size": sizes[-1],
                    "lr": 0.1,
                    "seconds": seconds * epoch / 20,
                    "test_accuracy": 0.1 + (end - 0.1) * (1 - math.exp(-epoch / 3)) / (1 - math.exp(-20 / 3)),
                }
                for epoch in range(1, 21)
            ]
            decisions = [{"clock": 1437 * 4 * k, "batch_size": size, "reason": ""} for k, size in enumerate(sizes)]
            run = folder / "runs" / record["name"] / f"seed-{seed}"
            run.mkdir(parents=True, exist_ok=True)
            config = {"task": "digits", "model": "cnn_small", "batch_size": sizes[0], "epochs": 20, "seed": seed}
            (run / "config.json").write_text(json.dumps(config))
            result = {"decisions": decisions, "samples": 28740, "samples_per_second": {}, "history": history}
            (run / "result.json").write_text(json.dumps(result))
