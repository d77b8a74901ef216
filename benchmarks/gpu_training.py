"""Trainings, phases of `gpu.py`: the paper's claim, memory that runs out, the probe, a language model."""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from gpu_job import Job, in_words, worked
from gpu_speed import OPTIONS, PLAIN, best, config_of
from gpu_words import sentence
from throughput import MEAN, STD, data, wait
from torch import Tensor, nn

import adabatch as ab
from adabatch.lab import models, planner, tasks
from adabatch.lab.study.probe import batch_sizes, probe
from adabatch.lab.study.statistics import paired_difference, paired_ratio
from adabatch.lab.training import RunConfig, RunResult, train

# The arms of the headline: a preset each, and what differs from it; and the baseline of each.
ARMS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "fixed": ("fixed", {"lr": 0.1, "lr_schedule": "step:0.25:20"}),  # as the paper has it beside `adabatch-multi`
    "grown": ("adabatch-multi", {}),
    "fixed-one-gpu": ("fixed", {}),
    "grown-from-128": ("adabatch", {}),
}
AGAINST: Final = {"grown": "fixed", "grown-from-128": "fixed-one-gpu"}
FEWEST: Final = 3  # seeds from which on an interval is told
KEY: Final = ("network", "data_set", "arm", "epochs", "seed")


# The headline.


def headline(job: Job) -> dict[str, Any]:
    """Trainings of one seed, appended to those that are there; then what all of them show."""
    options = job.options
    runs = list(job.former.get("headline", {}).get("found", {}).get("runs", []))
    job.report(told(runs))
    arms = options.arms.split(",")
    seed = options.seed if options.seed is not None else next_seed(runs, job, arms)
    loaded = pictures(job)
    for arm in arms if options.seed is not None else missing(runs, job, arms, seed, gpu=card(job)):
        config, chosen = config_of_arm(job, arm, seed)
        run = {**_key(job, arm, seed), **trained(config, loaded, job), "option": chosen, **job.code}
        runs = [*(each for each in runs if _keyed(each) != _keyed(run)), run]
        print(f"  {arm}, seed {seed}: {run['train_seconds']:.1f} s, {100 * run['test_accuracy']:.2f} %", flush=True)
        job.report(told(runs))
    found = told(runs)
    print("\n".join(f"  {sentence(each)}" for each in found["against"]), flush=True)
    return found


def _key(job: Job, arm: str, seed: int) -> dict[str, Any]:
    options = job.options
    values = (options.network, options.data_set, arm, job.scale.epochs, seed)
    return dict(zip(KEY, values, strict=True))


def _keyed(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in KEY)


def next_seed(runs: Sequence[Mapping[str, Any]], job: Job, arms: Sequence[str]) -> int:
    """The first seed with which not all of the arms were trained."""
    done = {_keyed(run) for run in runs}
    seed = 0
    while all(tuple(_key(job, arm, seed).values()) in done for arm in arms):
        seed += 1
    return seed


def card(job: Job) -> str | None:
    """The name of the GPU; None on the CPU."""
    return torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else None


def missing(
    runs: Sequence[Mapping[str, Any]], job: Job, arms: Sequence[str], seed: int, *, gpu: str | None
) -> list[str]:
    """The arms that were not trained with a seed by this code on this card, as those of a call that was ended."""
    code = job.code["code_sha256"]
    done = {_keyed(run) for run in runs if run["code_sha256"] == code and run["gpu"] == gpu}
    return [arm for arm in arms if tuple(_key(job, arm, seed).values()) not in done]


def joined(former: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The runs of two results, the new ones in place of the former where they are of the same arm and seed."""
    runs = {_keyed(run): run for run in [*former["runs"], *new["runs"]]}
    return told(list(runs.values()))


def pictures(job: Job) -> tasks.Data:
    """The data set of the headline; random pixels for a toy without one."""
    options = job.options
    if options.toy and options.data is None:
        return data(32 * job.scale.samples // 8)
    return tasks.get(options.data_set).load(options.data)


def config_of_arm(job: Job, arm: str, seed: int) -> tuple[RunConfig, str]:
    """The settings of an arm with its fastest option, and that option's name."""
    options, scale = job.options, job.scale
    name, differing = ARMS[arm]
    preset = planner.find(name, task=options.data_set, model="resnet20" if options.toy else options.network)
    settings = shorter({**preset.settings, **differing, "model": options.network}, scale.epochs, scale.smaller)
    chosen = option_of(job, settings)
    evaluated = {"evaluate_every": f"{max(1, scale.epochs // 10)} epochs"}
    where = {"device": str(job.device), "seed": seed, **evaluated}
    return RunConfig.for_task(options.data_set, **settings, **where, **OPTIONS[chosen]), chosen


def shorter(settings: Mapping[str, Any], epochs: int, smaller: int) -> dict[str, Any]:
    """A preset of 100 epochs in fewer, and with smaller batches; at 100 epochs and 1 as it is."""
    found = dict(settings)
    every = max(1, 20 * epochs // 100)
    found |= {"epochs": epochs, "every": f"{every} epochs"}
    found["lr_schedule"] = settings["lr_schedule"].replace(":20", f":{every}")
    if epochs < 100:
        found["lr_schedule"] = found["lr_schedule"].replace("warmup:4:", "warmup:1:")
    for name in ("batch_size", "max_batch_size"):
        if settings[name] is not None:
            found[name] = max(1, settings[name] // smaller)
    return found


def option_of(job: Job, settings: Mapping[str, Any]) -> str:
    """The option given; else the fastest that was measured on this card near the first batch size; else `auto`."""
    if job.options.option != "best":
        return str(job.options.option)
    former = job.former.get("throughput", {})
    measured = former.get("found", {}).get("networks", {}).get(job.options.network, {})
    if not worked(measured) or former.get("gpu") != card(job):
        return "auto"
    sizes = [int(size) for size in next(iter(worked(measured).values()))["sizes"]]
    nearest = min(sizes, key=lambda size: abs(math.log(size / settings["batch_size"])))
    found = best(measured, nearest)
    return "auto" if found is None else found[0]


def trained(config: RunConfig, loaded: tasks.Data, job: Job) -> dict[str, Any]:
    """One training: what it came to, and how long all of it took, preparation and evaluation included."""
    wait(job.device)
    begun = time.perf_counter()
    result = train(config, data=loaded)
    return {
        "test_accuracy": result.test_accuracy,
        "train_seconds": result.train_seconds,
        "whole_seconds": time.perf_counter() - begun,
        "updates": result.updates,
        "samples_per_second": {str(size): rate for size, rate in result.samples_per_second.items()},
        "diverged": result.diverged,
        "accuracy_by_epoch": [[each.epoch, each.test_accuracy] for each in result.history],
        "gpu": card(job),
    }


def told(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All runs, and what pairs of an arm and its baseline show: of one seed, card and code, by the options of both."""
    by_arm: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(_keyed(run)[:-1], {})[run["seed"]] = run
    against = []
    for (network, data_set, arm, epochs), mine in by_arm.items():
        theirs = by_arm.get((network, data_set, AGAINST.get(arm), epochs), {})
        groups: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
        for seed in sorted(mine.keys() & theirs.keys()):
            pair = theirs[seed], mine[seed]
            if all(pair[0].get(name) == pair[1].get(name) for name in ("gpu", "code_sha256")):
                chosen = tuple(run.get("option") for run in pair)
                groups.setdefault((pair[0].get("code_sha256"), *chosen), []).append(pair)
        for (_, *options), pairs in groups.items():
            head = {"network": network, "data_set": data_set, "arm": arm, "against": AGAINST[arm], "epochs": epochs}
            against.append(head | {"options": options} | compared(pairs))
    return {"runs": list(runs), "against": against}


def compared(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Ratios of times and differences of accuracies, paired by seed, with intervals where there are seeds enough.

    `ceiling` is the ratio of samples per second, the arm's fastest batch size to the baseline's: no growth can save
    more time on this card. It is a median over seeds.
    """

    def without(found: Any) -> dict[str, Any]:
        values: dict[str, Any] = found.to_json()
        return values if len(pairs) >= FEWEST else values | {"low": None, "high": None}

    def ratio(name: str) -> dict[str, Any]:
        return without(paired_ratio([one[name] for one, _ in pairs], [other[name] for _, other in pairs]))

    accuracies = [[run["test_accuracy"] for run in side] for side in zip(*pairs, strict=True)]
    speeds = [[max(run["samples_per_second"].values()) for run in side] for side in zip(*pairs, strict=True)]
    return {
        "n": len(pairs),
        "seconds_ratio": ratio("train_seconds"),
        "whole_seconds_ratio": ratio("whole_seconds"),
        "accuracy_difference": without(paired_difference(accuracies[1], accuracies[0])),
        "accuracies": {"baseline": accuracies[0], "arm": accuracies[1]},
        "ceiling": paired_ratio(speeds[1], speeds[0]).median,
        "diverged": sum(other["diverged"] for _, other in pairs),
    }


# Memory that runs out.


def out_of_memory(job: Job) -> dict[str, Any]:
    """A batch too large for little memory: refused before a run begins, and trained in smaller micro-batches."""
    scale, device = job.scale, job.device
    size, network = scale.too_large, scale.networks[0]
    found = data(size)
    limit_memory(scale.memory_bytes, device)
    refused = None
    if device.type == "cuda":
        try:
            train(config_of(job, network, PLAIN, [size]), data=found)
        except ValueError as error:
            refused = in_words(error)
        gc.collect()
        torch.cuda.empty_cache()
    halved = in_micro_batches(network, found, size, device)
    return {"batch_size": size, "memory_bytes": scale.memory_bytes, "refused": refused, **halved}


def limit_memory(count: int, device: torch.device) -> None:
    """Leaves `count` bytes to this process from here on; on a CPU to what it takes from now on."""
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(count / whole, device)
        return
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + count, resource.getrlimit(resource.RLIMIT_AS)[1]))


def in_micro_batches(network: str, found: tasks.Data, size: int, device: torch.device) -> dict[str, Any]:
    """One update of a batch too large, by the loop of the README."""
    torch.manual_seed(0)
    model = models.build(network, in_channels=3, image_size=32, classes=10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))

    def normal(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0].float() / 255 - mean) / std, batch[1]

    loader = ab.ResidentLoader((found.x_train, found.y_train), size, device=device, transform=normal, seed=0)
    loss_fn, failed, trained_on = nn.CrossEntropyLoss(), [], 0
    with warnings.catch_warnings(record=True) as told_by:
        warnings.simplefilter("always")
        for micro in ab.accumulate(loader, model):
            with micro as (inputs, targets):
                (loss_fn(model(inputs), targets) * micro.weight).backward()
            if micro.failed:
                failed.append(micro.size)
                trained_on = 0
                continue
            trained_on += micro.size
            if micro.is_last:
                optimizer.step()
                optimizer.zero_grad()
    return {
        "failed_micro_batches": failed,
        "micro_batch_size": loader.micro_batch_size,
        "samples_trained_on": trained_on,
        "warnings": [in_words(each.message) for each in told_by if isinstance(each.message, Warning)],
    }


# The probe.


def probed(job: Job) -> dict[str, Any]:
    """What `adabatch probe` says of each batch size, against a training at each; and the seconds that both take."""
    scale, network = job.scale, job.scale.networks[0]
    config = config_of(job, network, PLAIN, [scale.sizes[0]])
    found = data(max(scale.samples, scale.probed))
    begun = time.perf_counter()
    said = probe(config, max_batch_size=scale.probed, repeats=scale.turns, seconds=scale.seconds / 2, data=found)
    took = {"probe": time.perf_counter() - begun}
    begun = time.perf_counter()
    sizes = batch_sizes(config, max_batch_size=scale.probed, dataset_size=found.dataset_size)
    swept = {size: swept_rate(job, network, found, size) for size in sizes}
    took["sweep"] = time.perf_counter() - begun
    rates = {each["batch_size"]: each["samples_per_second"]["median"] for each in said["curve"]}
    return {
        "seconds": took,
        "sentence": said["sentence"],
        "out_of_memory_at": said["out_of_memory_at"],
        "sizes": {
            str(size): {
                "probe": rates.get(size),
                "training": rate,
                "ratio": rates[size] / rate if size in rates else None,
            }
            for size, rate in swept.items()
        },
    }


def swept_rate(job: Job, network: str, found: tasks.Data, size: int) -> float:
    """Samples per second of a training's second epoch."""
    count = min(found.dataset_size, max(4 * size, 50 * job.scale.sizes[0]))
    few = replace(found, x_train=found.x_train[:count], y_train=found.y_train[:count])
    config = replace(config_of(job, network, PLAIN, [size]), epochs=2)
    first, second = train(config, data=few).history
    return count // size * size / (second.seconds - first.seconds)


# A language model.


def language_model(job: Job) -> dict[str, Any]:
    """Tokens per second of a small GPT by batch size; the small-GPT record's ramp against the best constant batch."""
    scale = job.scale
    loaded = tasks.get("gpt-tiny").load(job.options.data)
    if job.options.toy:
        loaded = replace(loaded, x_train=loaded.x_train[:64], y_train=loaded.y_train[:64])
    context = loaded.tokens_per_sample or 1
    samples = loaded.dataset_size * scale.text_epochs
    ramp = planner.ramps.small_gpt(samples * context, sizes=scale.ramp, tokens_per_sample=context).schedule
    arms: dict[str, dict[str, Any]] = {"ramp": {"growth_file": json.dumps(ramp.to_json()), "coupling": "sqrt"}}
    base = RunConfig.for_task("gpt-tiny").lr
    for size in scale.constants:
        arms[f"constant {size}"] = {"batch_size": size, "lr": base * math.sqrt(size / scale.ramp[0])}
    cases = {name: partial(text_run, job, loaded, settings) for name, settings in arms.items()}
    return with_best(job.each(cases, of=with_best))


def text_run(job: Job, loaded: tasks.Data, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One training on text: tokens per second by batch size, and its losses by seconds."""
    epochs = job.scale.text_epochs
    decay = f"wsd:{epochs // 3}" if epochs >= 3 else "constant"
    often = f"{max(1, loaded.dataset_size // 8)} samples"
    how = {"epochs": epochs, "lr_schedule": decay, "evaluate_every": often, "device": str(job.device)}
    result: RunResult = train(RunConfig.for_task("gpt-tiny", **settings, **how), data=loaded)
    context = loaded.tokens_per_sample or 1
    return {
        "updates": result.updates,
        "train_seconds": result.train_seconds,
        "test_loss": result.history[-1].test_loss,
        "tokens_per_second": {str(size): context * rate for size, rate in result.samples_per_second.items()},
        "losses": [[each.seconds, each.test_loss] for each in result.history],
    }


def with_best(done: Mapping[str, Any]) -> dict[str, Any]:
    """The runs, and the constant batch that reaches the ramp's last loss first, with its time over the ramp's.

    None where the ramp or no constant batch got there; each arm has one seed.
    """
    runs = worked(done)
    found: dict[str, Any] = {"runs": dict(done), "n": 1, "best_constant": None, "seconds_ratio": None}
    if (ramp := runs.get("ramp")) is None or ramp["test_loss"] is None:
        return found
    reached = {
        name: seconds
        for name, run in runs.items()
        if name != "ramp" and (seconds := first_at(run["losses"], ramp["test_loss"])) is not None
    }
    if reached:
        name = min(reached, key=lambda name: reached[name])
        found |= {"best_constant": name, "seconds_ratio": reached[name] / ramp["train_seconds"]}
    return found


def first_at(losses: Sequence[Sequence[float | None]], loss: float) -> float | None:
    """The seconds at which a loss was first as low."""
    return next((seconds for seconds, value in losses if value is not None and value <= loss), None)
