import copy
import json

import pytest
from tests.lab.recipes.checks import check_head, check_resume, small_data

from adabatch.lab.recipes import scaled_start_fashion as recipe
from adabatch.lab.recipes._fashion import Length


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scaled_start")


@pytest.fixture(scope="module")
def found(folder):
    with pytest.MonkeyPatch.context() as patch:
        small_data(patch, count=4064)
        patch.setattr(recipe, "LENGTH", Length(epochs=5, falls=(1, 2, 3), factor=5.0))
        return recipe.main(["--out", str(folder), "--seeds", "2", "--samples", "4000"])


def test_starts_keep_the_noise_scale():
    starts = [recipe.start_of(arm) for arm in recipe.ARMS]
    assert [start.batch_size for start in starts] == [16, 16, 80, 400]
    assert [start.momentum for start in starts] == [0.9, 0.9, 0.9, 0.98]
    noise = [start.lr / (start.batch_size * (1 - start.momentum)) for start in starts]
    assert noise == pytest.approx([noise[0]] * 4)


def test_updates_and_sizes_are_those_of_the_plan(found):
    arms = found["arms"]
    # 4,000 pictures: 250 updates of 16, 50 of 80, 10 of 400, which is the cap.
    updates = {name: arm["updates"] for name, arm in arms.items()}
    assert updates == {"decay": [1250], "increase": [330], "lr": [90], "momentum": [50]}
    assert all(arm["planned_updates"] == arm["updates"] for arm in arms.values())
    assert arms["increase"]["batch_sizes"] == [16, 80, 400, 400, 400]
    assert arms["lr"]["lr_in_force"] == pytest.approx([0.025, 0.025, 0.005, 0.001, 0.001])
    for arm in arms.values():
        assert arm["test_accuracy"]["n"] == 2
        assert len(arm["curves"]["train_loss"]["mean"]) == 5
    assert list(found["against_decay"]) == ["increase", "lr", "momentum"]


def test_what_is_written(found, folder):
    assert json.loads((folder / "scaled_start.json").read_text()) == json.loads(json.dumps(found))
    assert (folder / "scaled-start.png").read_bytes()[:4] == b"\x89PNG"
    check_head(found, folder, "scaled_start_fashion", files=("scaled_start_fashion.py", "_fashion.py", "_runs.py"))


def test_it_resumes(found, folder, monkeypatch, capsys):
    small_data(monkeypatch, count=4064)
    monkeypatch.setattr(recipe, "LENGTH", Length(epochs=5, falls=(1, 2, 3), factor=5.0))
    check_resume(recipe, found, folder, ["--seeds", "2", "--samples", "4000"], key="arms", capsys=capsys)


def held():
    """A result that shows every claim."""
    updates = {"decay": 100, "increase": 40, "lr": 10, "momentum": 5}

    def points(mean):
        return {"test_accuracy": {"mean": mean, "low": mean - 0.002, "high": mean + 0.002}}

    return {
        "arms": {arm: {"updates": [count], "planned_updates": [count]} for arm, count in updates.items()},
        "against_decay": {"increase": points(0.001), "lr": points(-0.001), "momentum": points(-0.01)},
        "momentum_against_lr": points(-0.01),
    }


def test_a_good_result_holds_every_claim():
    assert [claim.holds for claim in recipe.claims(held())] == [True] * 5


@pytest.mark.parametrize(
    ("path", "value", "failed"),
    [
        (("arms", "lr", "planned_updates"), [11], "as many updates as planned"),
        (("against_decay", "increase", "test_accuracy", "low"), -0.01, "increase: accuracy within 1 point"),
        (("against_decay", "lr", "test_accuracy", "high"), 0.01, "lr: accuracy within 1 point"),
        (("against_decay", "lr", "test_accuracy", "low"), None, "lr: accuracy within 1 point"),
        (("momentum_against_lr", "test_accuracy", "high"), 0.0, "momentum costs accuracy"),
        (("momentum_against_lr", "test_accuracy", "high"), None, "momentum costs accuracy"),
    ],
)
def test_each_claim_can_fail(path, value, failed):
    result = copy.deepcopy(held())
    record = result
    for name in path[:-1]:
        record = record[name]
    record[path[-1]] = value
    (claim,) = [claim for claim in recipe.claims(result) if not claim.holds]
    assert claim.text.startswith(failed)


def test_a_step_that_saves_no_updates_fails():
    result = held()
    result["arms"]["lr"] = result["arms"]["increase"]
    (claim,) = [claim for claim in recipe.claims(result) if not claim.holds]
    assert claim.text.startswith("each step of the paper's takes fewer updates")
