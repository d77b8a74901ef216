import copy
import json

import pytest
from tests.lab.recipes.checks import check_head, check_resume, small_data

from adabatch.lab.recipes import dont_decay_fashion as recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dont_decay")


@pytest.fixture(scope="module")
def found(folder):
    with pytest.MonkeyPatch.context() as patch:
        small_data(patch)
        return recipe.main(["--out", str(folder), "--seeds", "2", "--samples", "400"])


def test_every_optimizer_runs_every_arm_and_one_of_them_is_uncoupled(found):
    assert list(found["optimizers"]) == ["sgd", "momentum", "nesterov", "adam"]
    for optimizer in found["optimizers"].values():
        assert list(optimizer["arms"]) == ["decay", "hybrid", "increase", "uncoupled"]
        assert list(optimizer["against_decay"]) == ["hybrid", "increase", "uncoupled"]
        for arm in optimizer["arms"].values():
            assert arm["test_accuracy"]["n"] == 2
            assert len(arm["curves"]["train_loss"]["mean"]) == recipe.LENGTH.epochs
        for against in optimizer["against_decay"].values():
            assert set(against) == {"test_accuracy", "train_loss", "largest_gap_of_train_loss"}
            assert against["test_accuracy"]["low"] <= against["test_accuracy"]["mean"]


def test_updates_and_sizes_are_those_of_the_plan(found):
    for optimizer in found["optimizers"].values():
        updates = {name: arm["updates"] for name, arm in optimizer["arms"].items()}
        # 400 pictures: 25 updates of 16; the batch grows to 40, a tenth of the data.
        assert updates == {"decay": [250], "hybrid": [130], "increase": [130], "uncoupled": [130]}
        for arm in optimizer["arms"].values():
            assert arm["planned_updates"] == arm["updates"]
        sizes = optimizer["arms"]["increase"]["batch_sizes"]
        assert sizes == [16] * 2 + [40] * 8


def test_the_lr_in_force_falls_in_the_arms_where_it_should(found):
    for name, optimizer in found["optimizers"].items():
        start = recipe.STARTS[name].lr
        lr = {arm: of["lr_in_force"] for arm, of in optimizer["arms"].items()}
        falls = [1] * 2 + [5] * 4 + [25] * 2 + [125] * 2
        assert lr["decay"] == pytest.approx([start / fall for fall in falls])
        assert lr["uncoupled"] == pytest.approx(lr["decay"])
        # Coupled, the cap of 40 leaves a fall by 2 of the first, and the later ones: LR / batch is decay's throughout.
        for arm in ("hybrid", "increase"):
            sizes = optimizer["arms"][arm]["batch_sizes"]
            assert [one / size for one, size in zip(lr[arm], sizes, strict=True)] == pytest.approx(
                [one / 16 for one in lr["decay"]]
            )


def test_the_same_seed_gives_the_same_first_epochs_in_all_arms(found):
    for optimizer in found["optimizers"].values():
        firsts = {tuple(arm["curves"]["train_loss"]["mean"][:2]) for arm in optimizer["arms"].values()}
        assert len(firsts) == 1


def test_what_is_written(found, folder):
    assert json.loads((folder / "dont_decay.json").read_text()) == json.loads(json.dumps(found))
    assert (folder / "dont-decay.png").read_bytes()[:4] == b"\x89PNG"
    check_head(found, folder, "dont_decay_fashion", files=("dont_decay_fashion.py", "_fashion.py", "_runs.py"))
    assert len(list((folder / "runs").rglob("*.json"))) == 4 * 4 * 2


def test_it_resumes(found, folder, monkeypatch, capsys):
    small_data(monkeypatch)
    check_resume(recipe, found, folder, ["--seeds", "2", "--samples", "400"], key="optimizers", capsys=capsys)


def held():
    """A result that shows every claim."""

    def against(mean, gap):
        accuracy = {"mean": mean, "low": mean - 0.002, "high": mean + 0.002}
        return {"test_accuracy": accuracy, "largest_gap_of_train_loss": {"gap": gap, "epoch": 3}}

    arms = {arm: {"updates": [10], "planned_updates": [10]} for arm in recipe.ARMS}
    others = {"hybrid": against(0.001, 0.002), "increase": against(-0.001, 0.003), "uncoupled": against(-0.01, 0.03)}
    return {"optimizers": {"sgd": {"arms": arms, "against_decay": others}}}


def test_a_good_result_holds_every_claim():
    assert [claim.holds for claim in recipe.claims(held())] == [True] * 4


@pytest.mark.parametrize(
    ("path", "value", "failed"),
    [
        (("against_decay", "hybrid", "test_accuracy", "low"), -0.01, "sgd, hybrid: accuracy within 1 point"),
        (("against_decay", "increase", "test_accuracy", "high"), 0.01, "sgd, increase: accuracy within 1 point"),
        (("against_decay", "increase", "test_accuracy", "low"), None, "sgd, increase: accuracy within 1 point"),
        (("against_decay", "uncoupled", "test_accuracy", "high"), 0.0, "sgd, uncoupled: less accurate"),
        (("against_decay", "uncoupled", "test_accuracy", "high"), None, "sgd, uncoupled: less accurate"),
        (("against_decay", "uncoupled", "largest_gap_of_train_loss", "gap"), 0.006, "sgd, uncoupled: less accurate"),
        (("arms", "hybrid", "updates"), [11], "sgd: as many updates as planned"),
        (("arms", "uncoupled", "updates"), [10, 11], "sgd: as many updates as planned"),
    ],
)
def test_each_claim_can_fail(path, value, failed):
    result = copy.deepcopy(held())
    record = result["optimizers"]["sgd"]
    for name in path[:-1]:
        record = record[name]
    record[path[-1]] = value
    (claim,) = [claim for claim in recipe.claims(result) if not claim.holds]
    assert claim.text.startswith(failed)
