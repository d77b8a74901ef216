"""The comparison must fail its claims when the library is broken: otherwise it would show nothing.

Each mutation breaks one part of the library itself and trains again what depends on it; the other arms are as before.
"""

import shutil

import pytest

from adabatch import couplings, schedules, tasks
from adabatch.study.arms import standard_arms
from adabatch.study.claims import claims
from adabatch.study.compare import compare
from adabatch.training import RunConfig

# what is broken: where, how, and the claim that must fail
MUTATIONS = {
    "coupling none": (couplings.linear, "lr_factor", lambda self, ratio: 1.0, "adaptive is within 1 %"),
    "coupling inverse": (couplings.linear, "lr_factor", lambda self, ratio: 1 / ratio, "adaptive is within 1 %"),
    "growth none": (schedules, "geometric", lambda *args, **bounds: schedules.constant(), "adaptive takes 2.4 times"),
}


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


@pytest.fixture(scope="module")
def arms(data):
    """The demo's arms: the task's own settings and a doubling batch; made before anything is broken."""
    return standard_arms(RunConfig.for_task("digits", growth=2.0), dataset_size=data.dataset_size)


@pytest.fixture(scope="module", params=[5, pytest.param(10, marks=pytest.mark.slow)], ids=["5 seeds", "the demo's 10"])
def whole(request, arms, data, tmp_path_factory):
    """The unbroken comparison: its number of seeds, folder and outcome."""
    out = tmp_path_factory.mktemp("whole") / "comparison"
    return request.param, out, compare(arms, seeds=range(request.param), out=out, data=data)


def test_the_library_as_it_is_holds_every_claim(whole):
    assert [str(claim) for claim in claims(whole[2])] == []


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_library_fails_its_claim(mutation, whole, arms, data, tmp_path, monkeypatch):
    seeds, folder, before = whole
    owner, name, replacement, claim = MUTATIONS[mutation]
    out = tmp_path / "broken"
    shutil.copytree(folder, out)
    for arm in ("adaptive", "uncoupled"):  # those of fixed size do not depend on what is broken
        shutil.rmtree(out / "runs" / arm)
    monkeypatch.setattr(owner, name, replacement)
    found = compare(arms, seeds=range(seeds), out=out, data=data)
    assert any(failed.text.startswith(claim) for failed in claims(found))
    assert [arm for arm in found["arms"] if "fixed" in arm["name"]] == [
        arm for arm in before["arms"] if "fixed" in arm["name"]
    ]
