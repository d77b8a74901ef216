"""Training on CIFAR-10's shapes: the loop behind `adabatch train` against one written by hand over tensors.

Both train the same network, initialised alike, with SGD and momentum on uint8 images that lie in memory, padded,
cropped, flipped and normalised a batch at a time; the one by hand draws a permutation and the crops from torch's
generator. Ours also counts, logs, and asks its schedule for every size; evaluation is not part of either. Ratios are
samples per second of ours divided by theirs (above 1: ours is faster). Bound: the lower end of the 95 % interval is at
least 0.97.

    python benchmarks/throughput.py --out benchmarks/results/throughput.json
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import at_least, begin, middle, trainings, write
from torch import Tensor, nn

from adabatch.lab import models, tasks
from adabatch.lab.tasks.augment import CropFlip
from adabatch.lab.training import RunConfig, setup, train

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BOUND = 0.97


def data(samples: int) -> tasks.Data:
    """Random pixels: what a pixel holds makes no difference to the time."""
    torch.manual_seed(0)
    images, labels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (samples,))
    augment = CropFlip(MEAN, STD, image_size=32, classes=10)
    return tasks.Data(images, labels, images[:10], labels[:10], 10, "random pixels", transform=augment)


def augmented(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What a user would write: one crop for each image, half of them mirrored."""
    count = len(images)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)
    down, right = torch.randint(9, (2, count), device=images.device)
    cut = windows[torch.arange(count, device=images.device), :, down, right]
    flipped = torch.where(torch.rand(count, 1, 1, 1, device=images.device) < 0.5, cut.flip(-1), cut)
    return (flipped.float() / 255 - mean) / std


def by_hand(config: RunConfig, samples: tasks.Data, device: torch.device) -> float:
    """Seconds of the same training by hand."""
    epoch = epochs_by_hand(config, samples, device)
    return sum(epoch() for _ in range(config.epochs))


def epochs_by_hand(config: RunConfig, samples: tasks.Data, device: torch.device) -> Callable[[], float]:
    """A training by hand, all made anew; each call trains an epoch and returns its seconds."""
    torch.manual_seed(config.seed)
    images, labels = samples.x_train.to(device), samples.y_train.to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    model = models.build(config.model, in_channels=3, image_size=32, classes=10).to(device)
    last = setup.channels_last(config, device)
    if last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    loss_fn = nn.CrossEntropyLoss()
    called: Callable[[Tensor], Tensor] = model
    if config.compile:
        called = torch.compile(model, dynamic=False, mode="reduce-overhead" if config.cuda_graphs else None)

    def epoch() -> float:
        wait(device)
        begun = time.perf_counter()
        order = torch.randperm(len(labels), device=device)
        for start in range(0, len(labels), config.batch_size):
            chosen = order[start : start + config.batch_size]
            inputs = augmented(images[chosen], mean, std)
            if last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss_fn(called(inputs), labels[chosen]).backward()
            optimizer.step()
        wait(device)
        return time.perf_counter() - begun

    return epoch


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(model: str, batch_size: int, *, samples: int, pairs: int, device: torch.device) -> dict[str, Any]:
    """Both in turns."""
    config = RunConfig(
        task="cifar10", model=model, batch_size=batch_size, lr=0.001, epochs=1, device=device.type, weight_decay=0.0
    )
    found = data(samples)
    times = trainings(
        lambda: train(config, data=found).train_seconds, partial(by_hand, config, found, device), pairs=pairs
    )
    rates = {name: samples / middle(times[f"{name}_seconds"]) for name in ("ours", "theirs")}
    result = {**at_least(times, BOUND), "samples_per_second": rates}
    print(model, batch_size, result["ratio"], flush=True)
    return result


def main() -> None:
    """Measures both networks and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--samples", type=int, default=2_048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/throughput.json"))
    options = parser.parse_args()
    environment = begin(options.out, threads=options.threads)
    device = torch.device(options.device)
    networks = {
        f"{model}, batch {size}": measure(model, size, samples=options.samples, pairs=options.pairs, device=device)
        for model in ("alexnet", "resnet20")
        for size in (128, 512)
    }
    found = {"samples": options.samples, "device": str(device), "networks": networks}
    write(options.out, "throughput", environment, found)


if __name__ == "__main__":
    main()
