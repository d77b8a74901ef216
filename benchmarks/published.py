"""The model of many workers against trainings in print, as a prediction: no GPU is needed, and none is measured.

ResNet-50 on ImageNet: fitted to what is published for 256 GPUs of the P100's generation (1706.02677), it predicts the
1,024 GPUs of 1711.04325, whose published time the fit has not seen. CIFAR-100: fitted to AdaBatch's one GPU
(1712.02029), it says what growth brings on four. Each input has its source; *recalled* ones were not found in print.
The sensitivity of an answer is its relative change for a relative change of one input, other inputs as they are.

    python benchmarks/published.py --out benchmarks/results/published.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from paired import begin, write

from adabatch import epochs, schedules
from adabatch.lab import models
from adabatch.lab.planner import Link, Performance, Timing
from adabatch.lab.planner.performance import Bucket

IMAGES, EPOCHS = 1_281_167, 90
STEP = 0.1  # by which an input is changed for the sensitivity
MIB = 2**20


class Input(NamedTuple):
    """A figure from elsewhere."""

    value: float
    source: str
    recalled: bool


GPUS_256 = "Goyal et al. 2017, arXiv 1706.02677"
GPUS_1024 = "Akiba, Suzuki, Fukuda 2017, arXiv 1711.04325"
IMAGENET = {
    "hours_256": Input(1.0, f"{GPUS_256}: 90 epochs at batch 8,192 on 256 GPUs", False),
    "efficiency_8_to_256": Input(0.9, GPUS_256, False),
    "bandwidth_256": Input(5.5e9, f"{GPUS_256}: Ethernet of 50 Gbit/s, at 88 %", True),
    "latency": Input(8e-6, "a message through the library", True),
    "bandwidth_within": Input(1e10, "PCIe 3.0 x16 within nodes of 8, at 64 %", True),
    "bandwidth_1024": Input(1.2e10, f"two FDR InfiniBand links a node ({GPUS_1024}), at 86 % of 14 GB/s", False),
    "bytes_of_a_gradient": Input(2.0, f"{GPUS_1024}: half precision", False),
    "last_bucket_ready": Input(1.0, "the first layers' gradients come last", False),
    "passes_of_the_other_cluster": Input(1.0, "the same GPUs and shares of 32, so as long; software differs", True),
}
PUBLISHED_MINUTES = 15.0
TABLE = "Devarakonda, Naumov, Garland 2017, arXiv 1712.02029, table of one GPU, ResNet-20 on CIFAR-100"
CIFAR = {
    "seconds_fixed": Input(256.59 + 661.35, f"{TABLE}: 128, forward and backward", True),
    "seconds_adaptive": Input(218.97 + 578.68, f"{TABLE}: 128 to 2,048", True),
    "bandwidth_within": Input(1e10, "PCIe 3.0 x16 at 64 %", True),
    "latency": Input(8e-6, "a message through the library", True),
    "overhead_of_four": Input(0.0, "seconds of each update beside passes and all-reduce; none known", True),
}
PUBLISHED_SPEEDUP = 6.25


def buckets(parameters: float, of_each: float) -> tuple[Bucket, ...]:
    """Buckets of 25 MiB, filled evenly over the backward pass, which is two thirds of the passes."""
    whole = parameters * of_each
    count = max(1, round(whole / (25 * MIB)))
    return tuple(Bucket(whole / count, 1 / 3 + 2 / 3 * (place + 1) / count) for place in range(count))


def parameters(name: str, **shape: int) -> int:
    """Parameters of a network of the package."""
    return sum(value.numel() for value in models.build(name, **shape).parameters())


def minutes_of_1024(given: Mapping[str, float]) -> float:
    """Predicted minutes of 90 epochs on 1,024 GPUs."""
    inside = Link(
        name="within", latency_seconds=given["latency"], bytes_per_second=given["bandwidth_within"], algorithm="ring"
    )
    between = Link(
        name="between",
        latency_seconds=given["latency"],
        bytes_per_second=given["bandwidth_256"],
        workers_per_node=8,
        inside=inside,
    )
    plan = schedules.constant(8_192).plan(dataset_size=IMAGES, epochs=EPOCHS, run_on=True)
    update = 3600 * given["hours_256"] / plan.updates
    count = parameters("resnet50", in_channels=3, image_size=224, classes=1000)
    ready = given["last_bucket_ready"]
    whole = tuple(Bucket(size, min(at, ready)) for size, at in buckets(count, 4.0))
    node = given["efficiency_8_to_256"] * update  # seconds of an update on one node, whose shares are the same
    model = Performance(timing=Timing((32,), (node,)), optimizer_seconds=0.0, buckets=whole, link=between)
    passes = _solved(lambda seconds: _with(model, seconds).update(256, 8).seconds, node)
    fitted = _with(model, passes)
    # The share of the all-reduce that goes on beside the passes: what 256 GPUs took and eight did not.
    none, all_of_it = (replace(fitted, overlap=share).update(8_192, 256).seconds for share in (0.0, 1.0))
    overlap = min(1.0, max(0.0, (none - update) / (none - all_of_it)))
    larger = replace(between, bytes_per_second=given["bandwidth_1024"])
    narrow = tuple(Bucket(bucket.bytes * given["bytes_of_a_gradient"] / 4, bucket.ready) for bucket in whole)
    scaled = _with(fitted, passes * given["passes_of_the_other_cluster"])
    predicted = replace(scaled, link=larger, buckets=narrow, overlap=overlap)
    return (
        predicted.seconds(schedules.constant(32_768).plan(dataset_size=IMAGES, epochs=EPOCHS, run_on=True), 1024) / 60
    )


def _with(model: Performance, passes: float) -> Performance:
    return replace(model, timing=Timing((32,), (passes,)))


def _solved(answer: Callable[[float], float], wanted: float) -> float:
    """The seconds of passes at which a growing answer is as wanted, by halving."""
    low, high = 0.0, wanted
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if answer(middle) < wanted else (low, middle)
    return high


def speedup_on_four(given: Mapping[str, float]) -> float:
    """What growth from 1,024 to 16,384 brings against fixed 128 on four GPUs, in time of passes and all-reduces."""
    data: dict[str, Any] = {"dataset_size": 50_000, "epochs": 100, "drop_last": True}
    fixed = schedules.constant(128).plan(**data)
    one = schedules.geometric(2.0, every=epochs(20), maximum=2_048).plan(batch_size=128, **data)
    # seconds = updates * overhead + samples * rate, for both trainings of one GPU.
    a, b, c, d = fixed.updates, fixed.samples, one.updates, one.samples
    under = a * d - b * c
    overhead = (given["seconds_fixed"] * d - given["seconds_adaptive"] * b) / under
    rate = (given["seconds_adaptive"] * a - given["seconds_fixed"] * c) / under
    link = Link(
        name="within", latency_seconds=given["latency"], bytes_per_second=given["bandwidth_within"], algorithm="ring"
    )
    timing = Timing((1, 100_000), (overhead + rate, overhead + 100_000 * rate))
    count = parameters("resnet20", in_channels=3, image_size=32, classes=100)
    model = Performance(
        timing=timing, optimizer_seconds=given["overhead_of_four"], buckets=buckets(count, 4.0), link=link
    )
    grown = schedules.geometric(2.0, every=epochs(20), maximum=16_384).plan(batch_size=1_024, **data)
    return model.seconds(fixed, 4) / model.seconds(grown, 4)


def asked(
    answer: Callable[[Mapping[str, float]], float], inputs: Mapping[str, Input], published: float
) -> dict[str, Any]:
    """An answer, what is published, and how the answer depends on each input."""
    given = {name: one.value for name, one in inputs.items()}
    found = answer(given)
    sensitivity = {}
    for name, value in given.items():
        more, less = (answer({**given, name: value * (1 + sign * STEP)}) for sign in (1, -1))
        sensitivity[name] = (more - less) / (2 * STEP * found)
    return {
        "inputs": {name: one._asdict() for name, one in inputs.items()},
        "predicted": found,
        "published": published,
        "error": found / published - 1,
        "sensitivity": sensitivity,
    }


def overhead_needed() -> float:
    """Seconds beside each update on four GPUs with which growth would bring what is published."""
    given = {name: one.value for name, one in CIFAR.items()}
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = speedup_on_four({**given, "overhead_of_four": middle}) >= PUBLISHED_SPEEDUP
        low, high = (low, middle) if enough else (middle, high)
    return high


def main() -> None:
    """Predicts both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/published.json"))
    options = parser.parse_args()
    environment = begin(options.out)
    cifar = asked(speedup_on_four, CIFAR, PUBLISHED_SPEEDUP)
    found = {
        "minutes_on_1024": asked(minutes_of_1024, IMAGENET, PUBLISHED_MINUTES),
        "speedup_on_four": {**cifar, "overhead_that_would_explain_it": overhead_needed()},
    }
    write(options.out, "published", environment, found)


if __name__ == "__main__":
    main()
