"""Seconds on many workers: against formulas and a naive simulation, and fits that give back what they were made of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabatch import schedules
from adabatch.lab.planner import LINKS, PAYS, Link, Performance, Timing, link_of, of_probes
from adabatch.lab.planner.performance import Bucket, Machine

FAST = Link(name="fast", latency_seconds=1e-5, bytes_per_second=1e9, algorithm="ring")


def by_messages(size, workers, latency, rate):
    """A ring, message by message: W - 1 to reduce and W - 1 to spread, each of a W-th of the bytes."""
    seconds = 0.0
    for _ in range(2 * (workers - 1)):
        seconds += latency + size / workers / rate
    return seconds


@given(st.floats(1, 1e9), st.integers(1, 2000), st.floats(1e-7, 1e-3), st.floats(1e6, 1e12))
def test_a_ring_is_its_messages(size, workers, latency, rate):
    link = Link(name="x", latency_seconds=latency, bytes_per_second=rate, algorithm="ring")
    expected = by_messages(size, workers, latency, rate)
    assert link.all_reduce_seconds(size, workers) == pytest.approx(expected, rel=1e-9)


@given(st.floats(1, 1e9), st.integers(1, 12))
def test_the_best_is_the_faster_of_ring_and_tree(size, power):
    ring, tree, best = (
        replace(FAST, algorithm=name).all_reduce_seconds(size, 2**power) for name in ("ring", "tree", "best")
    )
    assert tree == pytest.approx(2 * power * 1e-5 + 2 * size / 1e9)
    assert best == min(ring, tree)


def test_nodes_reduce_within_and_then_between():
    inside = Link(name="in", latency_seconds=1e-6, bytes_per_second=1e10, algorithm="ring")
    link = replace(FAST, workers_per_node=4, inside=inside)
    assert link.all_reduce_seconds(1e6, 4) == inside.all_reduce_seconds(1e6, 4)
    assert link.all_reduce_seconds(1e6, 3) == inside.all_reduce_seconds(1e6, 3)
    both = inside.all_reduce_seconds(1e6, 4) + FAST.all_reduce_seconds(1e6, 3)
    assert link.all_reduce_seconds(1e6, 12) == pytest.approx(both)
    assert link.all_reduce_seconds(1e6, 9) == pytest.approx(both), "a node that is not full is a node"
    assert link.all_reduce_seconds(1e6, 1) == 0


def model(buckets=((4e6, 0.6), (2e6, 1.0)), **more):
    values = {"timing": Timing((1, 100), (0.011, 0.11)), "optimizer_seconds": 0.002, "link": FAST}
    return Performance(**{**values, "buckets": tuple(Bucket(*bucket) for bucket in buckets), **more})


@given(
    st.lists(st.tuples(st.floats(1e3, 1e8), st.floats(0.3, 1.0)), min_size=1, max_size=6),
    st.integers(2, 64),
    st.integers(1, 4096),
)
def test_what_is_exposed_is_what_a_simulation_by_small_steps_leaves(buckets, workers, size):
    """A clock in steps of a thousandth of the passes: the channel carries the next bucket once it is filled."""
    buckets = sorted(buckets, key=lambda bucket: bucket[1])
    found = model(buckets).update(size, workers)
    step = found.passes / 1000
    waiting = [[FAST.all_reduce_seconds(count, workers), ready * found.passes] for count, ready in buckets]
    now = 0.0
    while waiting and now < 1e6 * step:
        left = step
        while waiting and waiting[0][1] <= now + 1e-12 and left > 0:
            carried = min(left, waiting[0][0])
            waiting[0][0] -= carried
            left -= carried
            if waiting[0][0] <= 0:
                waiting.pop(0)
        now += step
    expected = max(0.0, now - found.passes)
    if waiting:  # longer than the simulation lasts
        expected += sum(seconds for seconds, _ in waiting)
    assert found.exposed == pytest.approx(expected, abs=(len(buckets) + 2) * step, rel=1e-6)


def test_an_update_is_its_parts():
    alone = model().update(100, 1)
    assert alone == (pytest.approx(0.11), 0.0, 0.0, 0.002)
    assert alone.seconds == pytest.approx(0.112)
    none = model(overlap=0.0).update(100, 4)
    assert none.passes == pytest.approx(Timing((1, 100), (0.011, 0.11)).update_seconds(25))
    assert none.exposed == pytest.approx(sum(FAST.all_reduce_seconds(size, 4) for size in (4e6, 2e6)))
    half = model(overlap=0.5).update(100, 4)
    assert model().update(100, 4).exposed < half.exposed < none.exposed
    assert none.coordination == FAST.all_reduce_seconds(8, 4), "a vote"
    slow = model(shared=Machine(cores=1, contention=0.0, waiting_seconds=0.001)).update(100, 4)
    assert (slow.passes, slow.optimizer) == (pytest.approx(4 * none.passes), 0.008)
    assert slow.coordination == pytest.approx(0.001 * 3 * 4)


def test_a_training_and_its_efficiency():
    plan = schedules.steps({0: 32, 640: 64}).plan(dataset_size=640, epochs=2)
    found = model()
    expected = 20 * found.update(32, 4).seconds + 10 * found.update(64, 4).seconds
    assert found.seconds(plan, 4) == pytest.approx(expected)
    assert found.efficiency(plan, 4) == pytest.approx(found.seconds(plan, 1) / (4 * expected))
    assert found.efficiency(plan, 4, of=2) == pytest.approx(2 * found.seconds(plan, 2) / (4 * expected))


def test_more_workers_pay_for_larger_batches():
    found = model()
    ends = [found.pays_up_to(size) for size in (1, 16, 64, 256, 1024)]
    assert ends == sorted(ends)
    assert ends[0] == 1 < ends[-1]
    for size, end in zip((16, 64, 256, 1024), ends[1:], strict=True):
        seconds = [found.update(size, workers).seconds for workers in (end // 2 or 1, end, 2 * end)]
        assert end == 1 or seconds[0] >= PAYS * seconds[1]
        assert seconds[1] < PAYS * seconds[2] or 2 * end > size


# Fits.


def curve(model, sizes, *, workers=1, turns=3):
    points = []
    for size in sizes:
        update = model.update(size, workers)
        jitter = [1.0 + 0.01 * (turn - 1) for turn in range(turns)]
        points.append(
            {
                "batch_size": size,
                "samples_per_second": {"values": [size / update.seconds / one for one in jitter]},
                "compute_seconds": {"values": [update.passes * one for one in jitter]},
            }
        )
    return points


def probe_of(model, sizes, *, workers=1):
    """A probe without errors but for a drift of the machine."""
    drift = [0.99, 1.0, 1.01]
    found = {
        "curve": curve(model, sizes, workers=workers),
        "cores": 2,
        "optimizer_seconds": {"values": [model.optimizer_seconds * one for one in drift]},
    }
    if workers == 1:
        sizes, ready = zip(*model.buckets, strict=True)
        return found | {"gradients": {"bytes": sum(sizes), "buckets": list(map(int, sizes)), "ready": list(ready)}}
    latency, rate = model.link.latency_seconds, model.link.bytes_per_second
    return found | {
        "communication": {
            "world_size": workers,
            "backend": "gloo",
            "latency_seconds": {"values": [2 * (workers - 1) * latency * one for one in drift]},
            "seconds_per_byte": {"values": [2 * (workers - 1) / workers / rate * one for one in drift]},
        }
    }


@pytest.mark.parametrize(("overlap", "waiting"), [(0.0, 0.0), (0.0, 0.006), (0.4, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("workers", [2, 3])
def test_two_probes_give_back_the_model_that_they_were_made_of(overlap, waiting, workers):
    machine = Machine(cores=2, contention=0.3, waiting_seconds=waiting)
    truth = model(overlap=overlap, shared=machine, timing=Timing((8, 512), (0.02, 0.5)))
    sizes = [24, 48, 96, 192, 384]
    found = of_probes(probe_of(truth, [8, *sizes]), probe_of(truth, sizes, workers=workers))
    assert len(found) == 3
    for size in (60, 384):
        for count in (1, 2, 3, 4):
            wanted = truth.update(size, count).seconds
            assert found[1].update(size, count).seconds == pytest.approx(wanted, rel=0.02), (size, count)
    assert found[1].overlap == pytest.approx(overlap, abs=0.1)
    assert found[1].shared.waiting_seconds == pytest.approx(waiting, abs=2e-4)
    assert found[1].shared.contention == pytest.approx(0.3, abs=0.01)
    assert found[0].update(96, 1).seconds < found[2].update(96, 1).seconds, "turns differ"


def test_another_link_has_no_contention():
    truth = model(shared=Machine(cores=2, contention=0.3))
    both = probe_of(truth, [24, 96]), probe_of(truth, [24, 96], workers=2)
    found = of_probes(*both, link=LINKS["ethernet-10g"])[1]
    assert (found.shared, found.link.name, found.overlap) == (None, "ethernet-10g", 1.0)
    narrow = of_probes(both[0], link=LINKS["ethernet-10g"], narrow=True)[1]
    assert [bucket.bytes for bucket in narrow.buckets] == [2e6, 1e6]


@given(st.integers(1, 64), st.floats(0, 3), st.floats(0, 1))
def test_what_workers_of_a_machine_cost_each_other_grows(cores, contention, waiting):
    found = Machine(cores=cores, contention=contention, waiting_seconds=waiting)
    assert (found.slower(1), found.coordination(1)) == (1, 0)
    for costs in (found.slower, found.coordination):
        values = [costs(workers) for workers in range(1, 100)]
        assert all(after >= before - 1e-12 for before, after in pairwise(values))
    assert found.slower(2 * cores) == pytest.approx(2 * found.slower(cores))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda probe: probe.pop("gradients"), "`probe` must be one of one process, with seconds of passes"),
        (lambda probe: probe.pop("optimizer_seconds"), "`probe` must be one of one process, with seconds of passes"),
        (
            lambda probe: probe["gradients"]["ready"].pop(),
            "got one with 2 buckets of gradients and 1 times; probe again",
        ),
        (lambda probe: probe["curve"][0].pop("compute_seconds"), "`probe` must be one of one process"),
        (lambda probe: probe["curve"].reverse(), "must have a curve whose batch sizes rise, got 96, 24; probe again"),
        (
            lambda probe: probe["optimizer_seconds"].update(values=["soon"]),
            "optimizer_seconds.values.* 'soon', which must",
        ),
        (
            lambda probe: probe.update(communication={"world_size": 2}),
            "must be one of one process, got one of 2; probe w",
        ),
    ],
)
def test_probes_that_lack_something(change, message):
    probe = probe_of(model(), [24, 96])
    change(probe)
    with pytest.raises(ValueError, match=message):
        of_probes(probe, link=FAST)


def test_a_link_must_come_from_somewhere():
    probe = probe_of(model(), [24, 96])
    with pytest.raises(ValueError, match="`link` must be given where no probe measured one, got none; name one, such"):
        of_probes(probe)
    with pytest.raises(ValueError, match=r"`probe` must be one of several processes .*, got one without comm"):
        of_probes(probe, probe)
    together = probe_of(model(), [24, 96], workers=2)
    del together["curve"][1]["compute_seconds"]
    with pytest.raises(
        ValueError, match=r"that share no parameters, got one without curve\[1\].compute_seconds; probe"
    ):
        of_probes(probe, together)


def test_probes_of_several_processes_that_do_not_suit():
    alone = {"task": "digits", "model": "mlp"} | probe_of(model(), [24, 96])
    for name in ("task", "model"):
        other = alone | probe_of(model(), [24, 96], workers=2) | {name: "other"}
        with pytest.raises(ValueError, match=f"must be of one {name} where two are given, got {alone[name]} and other"):
            of_probes(alone, other)
        assert of_probes(alone, other, link=FAST), "of which the second does not matter"
    together = probe_of(model(), [24, 96], workers=2)
    together["communication"]["latency_seconds"]["values"].pop()
    assert len(of_probes(alone, together)) == 2
    together["communication"]["world_size"] = 1
    with pytest.raises(ValueError, match=r"must be one of several processes, got one with communication\.world_size 1"):
        of_probes(alone, together)


def test_probes_of_different_turns_are_paired_as_far_as_they_go():
    alone, together = (probe_of(model(), [24, 96], workers=workers) for workers in (1, 2))
    for point in together["curve"]:
        point["compute_seconds"]["values"].pop()
    assert len(of_probes(alone, together)) == 2
    assert len(of_probes(alone, together, link=FAST)) == 3


# Links.


def test_every_link_says_where_its_figures_are_from():
    for name, link in LINKS.items():
        assert link_of(name) is link
        assert "recalled" in link.source
        assert (link.inside is None) == (link.workers_per_node == 1)


def test_a_link_of_a_file(tmp_path):
    file = tmp_path / "mine.json"
    inside = {"latency_seconds": 1e-6, "bytes_per_second": 2e11}
    file.write_text(
        json.dumps({"latency_seconds": 0, "bytes_per_second": 1e10, "workers_per_node": 4, "inside": inside})
    )
    found = link_of(str(file))
    assert (found.name, found.latency_seconds, found.workers_per_node, found.algorithm) == ("mine", 0, 4, "best")
    assert found.inside == Link(name="inside", **inside)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "with latency_seconds and bytes_per_second, got .* without a record; write for example"),
        ("{}", "without latency_seconds"),
        ('{"latency_seconds": -1, "bytes_per_second": 1}', "with latency_seconds -1, which must be a number from 0 on"),
        ('{"latency_seconds": 0, "bytes_per_second": 0}', "bytes_per_second 0, which must be a number above 0"),
        ('{"latency_seconds": 0, "bytes_per_second": 1, "speed": 1}', "with speed, which is no field"),
        (
            '{"latency_seconds": 0, "bytes_per_second": 1, "workers_per_node": 4, "inside": {"latency_seconds": 0, '
            '"bytes_per_second": 1, "inside": {"latency_seconds": 0, "bytes_per_second": 1}}}',
            "got .* with inside.inside, which is no field; write for example",
        ),
        ('{"latency_seconds": 0, "bytes_per_second": 1, "workers_per_node": 4}', "must have `inside` where"),
        ('{"latency_seconds": 0, "bytes_per_second": 1, "algorithm": "star"}', "must be one of best, ring, tree"),
        ("null", "without a record"),
    ],
)
def test_a_link_file_with_nonsense(tmp_path, text, message):
    file = tmp_path / "link.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        link_of(str(file))


def test_a_link_that_is_neither_name_nor_file(tmp_path):
    with pytest.raises(
        ValueError, match=r"`link` must be probe, ethernet-10g, .* or a JSON file, got 'carrier-pigeon'"
    ):
        link_of("carrier-pigeon")
    with pytest.raises(ValueError, match="or a JSON file"):
        link_of(str(tmp_path))


def test_no_link_is_free():
    assert all(math.isfinite(link.all_reduce_seconds(1e8, 1024)) for link in LINKS.values())
    assert all(link.all_reduce_seconds(1e8, 1024) > link.all_reduce_seconds(1e8, 2) > 0 for link in LINKS.values())
