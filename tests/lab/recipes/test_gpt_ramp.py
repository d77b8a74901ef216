import copy
import json

import pytest
import torch
from tests.lab.recipes.checks import check_head, check_resume

from adabatch.lab.recipes import gpt_ramp as recipe

TOKENS = 64 * 240  # three stages of 80 sequences


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    drawn = torch.Generator().manual_seed(0)
    words = ["".join(chr(97 + int(i)) for i in torch.randint(12, (4,), generator=drawn)) for _ in range(30)]
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text(" ".join(words[int(i)] for i in torch.randint(30, (4000,), generator=drawn)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gpt_ramp")


@pytest.fixture(scope="module")
def found(folder, text):
    return recipe.main(["--data", str(text), "--out", str(folder), "--seeds", "2", "--tokens", str(TOKENS)])


def test_updates_are_those_of_the_plan(found):
    updates = {name: arm["updates"] for name, arm in found["arms"].items()}
    assert updates == {"small": [30], "ramp": [10 + 5 + 4], "large": [10], "by-updates": [10 + 5 + 4]}
    assert all(arm["planned_updates"] == arm["updates"] for arm in found["arms"].values())
    assert found["settings"]["ramp"] == "0:8 5120:16 10240:24"


def test_the_lr_ends_at_its_end_but_for_the_arm_that_counts_updates(found):
    first = {name: max(arm["lr_in_force"]) for name, arm in found["arms"].items()}
    last = {name: arm["lr_in_force"][-1] for name, arm in found["arms"].items()}
    assert first["small"] == pytest.approx(0.016)
    assert first["large"] == pytest.approx(0.016 * 3**0.5)
    assert last["small"] < 0.25 * first["small"]
    assert last["ramp"] < 0.6 * first["ramp"]
    assert last["large"] < 0.6 * first["large"]
    assert last["by-updates"] == pytest.approx(0.016 * 3**0.5)


def test_histories_end_with_the_training(found):
    for arm in found["arms"].values():
        assert TOKENS <= arm["tokens"][-1] < TOKENS + 24 * 64
        assert arm["tokens"] == sorted(set(arm["tokens"]))
        assert len(arm["curves"]["test_loss"]["mean"]) == len(arm["tokens"])
        assert arm["test_loss"]["n"] == 2
        assert arm["test_loss"]["mean"] < 4
    assert found["arms"]["ramp"]["batch_sizes"][0] == 8
    assert found["arms"]["ramp"]["batch_sizes"][-1] == 24


def test_what_is_written(found, folder):
    assert json.loads((folder / "gpt_ramp.json").read_text()) == json.loads(json.dumps(found))
    assert (folder / "gpt-ramp.png").read_bytes()[:4] == b"\x89PNG"
    check_head(found, folder, "gpt_ramp", files=("gpt_ramp.py", "_runs.py"))


def test_it_resumes(found, folder, text, capsys):
    arguments = ["--data", str(text), "--seeds", "2", "--tokens", str(TOKENS)]
    check_resume(recipe, found, folder, arguments, key="arms", capsys=capsys)


def held():
    """A result that shows every claim."""
    arms = {arm: {"updates": [10], "planned_updates": [10]} for arm in recipe.ARMS}
    worse = {"test_loss": {"mean": 0.1, "low": 0.05, "high": 0.15}}
    return {
        "arms": arms,
        "against_ramp": {"large": copy.deepcopy(worse), "by-updates": copy.deepcopy(worse)},
        "ramp_against_the_middle_of_small_and_large": {"mean": -0.05, "low": -0.08, "high": -0.02},
        "cpu_seconds_small_to_ramp": {"median": 1.2, "low": 1.1, "high": 1.3},
    }


def test_a_good_result_holds_every_claim():
    assert [claim.holds for claim in recipe.claims(held())] == [True] * 5


@pytest.mark.parametrize(
    ("path", "value", "failed"),
    [
        (("arms", "ramp", "updates"), [11], "as many updates as planned"),
        (("ramp_against_the_middle_of_small_and_large", "high"), 0.0, "ramp: its loss is nearer"),
        (("ramp_against_the_middle_of_small_and_large", "high"), None, "ramp: its loss is nearer"),
        (("cpu_seconds_small_to_ramp", "low"), 1.0, "ramp: less CPU time"),
        (("cpu_seconds_small_to_ramp", "low"), None, "ramp: less CPU time"),
        (("against_ramp", "large", "test_loss", "low"), 0.0, "large: a higher loss"),
        (("against_ramp", "by-updates", "test_loss", "low"), None, "by-updates: a higher loss"),
    ],
)
def test_each_claim_can_fail(path, value, failed):
    result = held()
    record = result
    for name in path[:-1]:
        record = record[name]
    record[path[-1]] = value
    (claim,) = [claim for claim in recipe.claims(result) if not claim.holds]
    assert claim.text.startswith(failed)


def test_less_than_one_batch(tmp_path, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        recipe.main(["--data", str(text), "--out", str(tmp_path / "out"), "--tokens", "1535"])
    message = "error: `tokens` must be at least 1536, got 1535; that is one batch of `large`"
    assert capsys.readouterr().err.rstrip().endswith(message)
    assert not (tmp_path / "out").exists()
