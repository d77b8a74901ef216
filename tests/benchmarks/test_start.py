"""How long it takes to begin: what is counted, and the bound, held by the interval's end that is against us."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def start():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("start", BENCHMARKS / "start.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def test_rounds_are_counted_and_the_import_loads_nothing(start, monkeypatch):
    taken = iter(float(n) for n in range(1, 10))
    monkeypatch.setattr(start, "helped", lambda: (next(taken), 0.5))
    found = start.measure(2)
    assert found["loaded_by_import"] == []
    assert sorted(found["help"]["seconds"]["values"]) == [3.0, 4.0]  # the first two do not count
    assert all(0 < value < 60 for value in found["import"]["seconds"]["values"])


def test_the_help_is_run_and_must_succeed(start, monkeypatch):
    clock, processor = start.helped()
    assert 0 < processor < 60
    assert 0 < clock < 60
    monkeypatch.setattr(start, "HELP", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match="ended with status"):
        start.helped()


@pytest.mark.parametrize(("bound", "holds"), [(0.5, True), (0.3, False)])
def test_the_bound_is_for_the_upper_end_of_the_clock(start, bound, holds):
    values = [(0.1 + 0.05 * n, 9.0) for n in range(6)]  # of six the interval is the whole span
    found = start.told(values, bound)
    assert (found["holds"], found["seconds"]["high"]) == (holds, pytest.approx(0.35))
    assert found["processor_seconds"]["median"] == 9.0
