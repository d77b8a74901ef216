"""The comparison must fail its claims when the library is broken: otherwise it would show nothing.

Each mutation breaks one part of the library itself and trains again what depends on it; the other arms are as before.
The fast tests train the two arms that the mutations tell apart, with few seeds; the slow ones are the whole demo.
"""

import shutil

import pytest
from tests.ci.test_check_demo import check_demo

from adabatch import couplings, schedules
from adabatch.lab import tasks
from adabatch.lab.study.arms import standard_arms
from adabatch.lab.study.compare import compare
from adabatch.lab.training import RunConfig

# what is broken: where, how, and the beginning of the claim that must fail
MUTATIONS = {
    "coupling none": (couplings.linear, "lr_factor", lambda self, ratio: 1.0, "adaptive is within 1%"),
    "coupling inverse": (couplings.linear, "lr_factor", lambda self, ratio: 1 / ratio, "adaptive is within 1%"),
    "growth none": (schedules, "geometric", lambda *args, **bounds: schedules.constant(), "adaptive takes 2.4 times"),
}
FAST = 4  # seeds, the fewest for which the interval is narrow enough
DEMO = 10


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


@pytest.fixture(scope="module")
def arms(data):
    """The demo's arms: the task's own settings and a doubling batch; made before anything is broken."""
    made = standard_arms(RunConfig.for_task("digits", growth=2.0), dataset_size=data.dataset_size)
    return {arm.name: arm for arm in made}


@pytest.fixture(scope="module")
def two(arms, data, tmp_path_factory):
    """Folder and outcome of fixed-small and adaptive with few seeds."""
    out = tmp_path_factory.mktemp("two") / "comparison"
    return out, compare([arms["fixed-small"], arms["adaptive"]], seeds=range(FAST), out=out, data=data).to_json()


@pytest.fixture(scope="module")
def demo(arms, data, tmp_path_factory):
    """Folder and outcome of the whole demo."""
    out = tmp_path_factory.mktemp("demo") / "comparison"
    return out, compare(list(arms.values()), seeds=range(DEMO), out=out, data=data).to_json()


def broken(before, arms, *, seeds, data, out, mutation, monkeypatch):
    """The outcome when the growing arms are trained by a broken library; those of fixed size are taken as they are."""
    owner, name, replacement, _ = MUTATIONS[mutation]
    shutil.copytree(before, out)
    for arm in ("adaptive", "uncoupled"):
        shutil.rmtree(out / "runs" / arm, ignore_errors=True)
    monkeypatch.setattr(owner, name, replacement)
    return compare(arms, seeds=range(seeds), out=out, data=data).to_json()


def failed(found):
    """The claims about two arms that fail."""
    against = found["against_fixed_small"]["adaptive"]
    claims = {
        "adaptive is within 1%": against["within_margin"]["verdict"] == "shown",
        "adaptive takes 2.4 times": against["updates_ratio"] >= 2.4,
    }
    return [text for text, holds in claims.items() if not holds]


def failed_demo(found):
    """The checks of the whole demo that fail."""
    return [text for text, _, holds in check_demo.checks(found) if not holds]


def test_the_library_as_it_is_holds_its_claims(two):
    assert failed(two[1]) == []


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_library_fails_its_claim(mutation, two, arms, data, tmp_path, monkeypatch):
    pair = [arms["fixed-small"], arms["adaptive"]]
    seeds = 1 if mutation == "growth none" else FAST  # updates are the same with every seed
    out = tmp_path / "broken"
    found = broken(two[0], pair, seeds=seeds, data=data, out=out, mutation=mutation, monkeypatch=monkeypatch)
    assert MUTATIONS[mutation][3] in failed(found)
    if seeds > 1:  # not for want of seeds: the mean itself is out
        assert found["against_fixed_small"]["adaptive"]["accuracy_difference"]["mean"] < -0.01


@pytest.mark.slow
def test_the_demo_holds_every_claim(demo):
    assert failed_demo(demo[1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_library_fails_the_demo(mutation, demo, arms, data, tmp_path, monkeypatch):
    every, out = list(arms.values()), tmp_path / "broken"
    found = broken(demo[0], every, seeds=DEMO, data=data, out=out, mutation=mutation, monkeypatch=monkeypatch)
    assert any(text.startswith(MUTATIONS[mutation][3]) for text in failed_demo(found))
