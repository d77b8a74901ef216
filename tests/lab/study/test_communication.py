"""All-reduces over ranks: the line through their seconds, and what is measured."""

import math
import random
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from tests.accumulate.ranks import on_ranks

from adabatch.lab.study import communication as module
from adabatch.lab.study.communication import SIZES_BYTES, communication, line, measurements, slowest
from adabatch.lab.training.ranks import Ranks

CPU = torch.device("cpu")


def test_the_sizes_reach_from_what_waits_to_what_flows():
    assert (SIZES_BYTES[0], SIZES_BYTES[-1]) == (4 * 2**10, 64 * 2**20)
    assert all(larger == 4 * smaller for smaller, larger in pairwise(SIZES_BYTES))


def test_latency_and_bandwidth_come_back_from_noisy_seconds():
    """5 % of noise at every size: absolute errors would lose the latency, which the largest size hides."""
    draw = random.Random(0)
    latency, rate = 3e-4, 1 / 2e9
    times = {size: [(latency + size * rate) * math.exp(draw.gauss(0, 0.05)) for _ in range(9)] for size in SIZES_BYTES}
    found = line(times)
    assert found["latency_seconds"]["median"] == pytest.approx(latency, rel=0.1)
    assert found["seconds_per_byte"]["median"] == pytest.approx(rate, rel=0.1)
    assert len(found["latency_seconds"]["values"]) == 9
    assert found["latency_seconds"]["min"] < found["latency_seconds"]["median"] < found["latency_seconds"]["max"]


def test_the_line_has_the_least_squares_of_relative_errors():
    seconds = {1000: [0.012], 4000: [0.013], 16000: [0.027], 64000: [0.07]}
    found = line(seconds)
    best = found["latency_seconds"]["median"], found["seconds_per_byte"]["median"]

    def squares(latency, rate):
        return sum((1 - (latency + size * rate) / taken) ** 2 for size, (taken,) in seconds.items())

    for change in (0.999, 1.001):
        assert squares(*best) < squares(best[0] * change, best[1])
        assert squares(*best) < squares(best[0], best[1] * change)


def check_what_is_measured(rank, world):
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (1000, 2**18, 10)]
    done = []
    vars(module)["SIZES_BYTES"] = (4096, 16384)
    found = communication(parameters, CPU, repeats=3, seconds=0.001, progress=partial(done.append, 1))
    assert len(done) == 3 * measurements() == 9
    assert (found["world_size"], found["backend"]) == (world, "gloo")
    assert (found["gradients"]["bytes"], found["gradients"]["buckets"]) == (
        4 * (2**18 + 1010),
        [4 * (2**18 + 10), 4000],
    )
    assert [point["bytes"] for point in found["curve"]] == [4096, 16384]
    for each in (found["gradients"], *found["curve"]):
        assert len(each["seconds"]["values"]) == 3
        assert each["seconds"]["min"] > 0
    assert Ranks().gathered(found) == [found] * world


def check_the_slowest_counts(rank, world):
    ranks, clock = Ranks(), [0.0]
    vars(module)["time"] = SimpleNamespace(perf_counter=lambda: clock[0])

    def call():
        clock[0] += 1 + rank

    assert slowest(call, ranks, CPU) == world

    def fail():
        if rank == 1:
            raise torch.OutOfMemoryError("no more")

    with pytest.raises(torch.OutOfMemoryError, match="no more"):
        slowest(fail, ranks, CPU)
    assert slowest(call, ranks, CPU) == world


@pytest.mark.world_size(2)
def test_ranks_hold_the_same_seconds():
    on_ranks(2, check_what_is_measured, check_the_slowest_counts)
