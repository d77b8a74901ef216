import pytest
from tests.lab.report.page_studies import RATES, probe, study

from adabatch.lab.report.folders import Probe, Studies
from adabatch.lab.report.scaling.machine import Machine, fast_from, machines


@pytest.mark.parametrize(
    ("rates", "full", "found", "words"),
    [
        (RATES, 256, (64, 128, 256), ("64", "128 to 256")),
        (RATES, None, (64, 128, None), ("64", "over 128")),
        ({16: 400.0, 32: 700.0}, None, (None, 32, None), ("over 32", "over 32")),
        ({16: 400.0, 32: 700.0}, 64, (32, 32, 64), ("32", "32 to 64")),
        ({16: 400.0}, None, (None, 16, None), ("over 16", "over 16")),
    ],
    ids=["full", "never full", "still faster", "full before it is fast", "one batch size"],
)
def test_the_limits_of_a_probe(rates, full, found, words):
    machine = Machine.of(probe(rates=rates, full=full))
    assert (machine.fast, machine.largest, machine.full) == found
    assert (machine.speed, machine.memory) == words
    assert machine.device == "Some(R) Processor"


def test_the_smallest_batch_size_that_is_fast_enough():
    assert fast_from({16: 949.0, 32: 950.0, 64: 1000.0, 128: 990.0}) == 32


def test_the_machines_beside_studies():
    probes = (Probe(probe()), Probe(probe(model="lenet", full=None)))
    found = machines(Studies({"x": study()}, probes=probes))
    assert list(found) == [("digits", "mlp"), ("digits", "lenet")]
    assert machines(Studies({"x": study()})) == {}


def test_a_probe_of_before_names_no_device():
    assert Machine.of(probe() | {"versions": {}}).device == "cpu"
