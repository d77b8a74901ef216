import json

import pytest

from adabatch.lab.recipes import _runs


def record(arm, seed):
    return {"score": len(arm) + seed, "history": [{"loss": seed + 1.0}, {"loss": seed + 3.0}]}


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('"""What it found: 1."""\n\nX = 1\n')
    return path


def run(out, code, done, **changes):
    def train(arm, seed, tell):
        tell(0.5)
        done.append(f"{arm}{seed}")
        return record(arm, seed)

    settings = {"arms": ["a", "b/c"], "seeds": 2, "settings": {"lr": 0.1}, "out": out, "files": [code], **changes}
    return _runs.run_all(train, **settings)


def test_runs_take_turns_and_are_never_repeated(tmp_path, code):
    out, done = tmp_path / "out", []
    records, head = run(out, code, done)
    assert done == ["a0", "b/c0", "b/c1", "a1"]
    assert records == {arm: [record(arm, seed) for seed in range(2)] for arm in ("a", "b/c")}
    assert head["settings"] == {"lr": 0.1}
    assert json.loads((out / "runs" / "b" / "c" / "seed-1.json").read_text()) == record("b/c", 1)
    (out / "runs" / "b" / "c" / "seed-1.json").unlink()
    run(out, code, done, seeds=3)
    assert done[4:] == ["b/c1", "a2", "b/c2"]


def test_the_code_is_kept_with_the_runs(tmp_path, code):
    run(tmp_path / "out", code, [])
    assert (tmp_path / "out" / "code" / "mine.py").read_text() == code.read_text()


def test_a_new_header_or_layout_is_the_same_code(tmp_path, code):
    run(tmp_path / "out", code, [])
    code.write_text('"""What it found: 2."""\nX  =  1\n')
    again = []
    run(tmp_path / "out", code, again)
    assert again == []


@pytest.mark.parametrize("key", ["settings", "code_sha256"])
def test_other_settings_or_code_are_refused(tmp_path, code, key):
    run(tmp_path / "out", code, [])
    changes = {"settings": {"lr": 0.2}} if key == "settings" else {}
    if key == "code_sha256":
        code.write_text("X = 2\n")
    with pytest.raises(ValueError, match=f"`out` must hold runs of this recipe with the same {key}, got .* take ano"):
        run(tmp_path / "out", code, [], **changes)


def test_other_hardware_is_refused(tmp_path, code):
    run(tmp_path / "out", code, [])
    note = tmp_path / "out" / "recipe.json"
    head = json.loads(note.read_text())
    head["versions"]["device_name"] = "abacus"
    note.write_text(json.dumps(head))
    with pytest.raises(ValueError, match="with the same device_name, got 'abacus'"):
        run(tmp_path / "out", code, [])


@pytest.mark.parametrize("text", ["{", "{}", "[]", ""])
@pytest.mark.parametrize("name", ["recipe.json", "runs/b/c/seed-1.json"])
def test_damaged_files_are_named(tmp_path, code, text, name):
    run(tmp_path / "out", code, [])
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(ValueError, match=f"`out` must hold files as they were written, got '.*{name}' without .*; rem"):
        run(tmp_path / "out", code, [])


def test_an_interrupted_run_leaves_nothing(tmp_path, code):
    def train(arm, seed, tell):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _runs.run_all(train, arms=["a"], seeds=1, out=tmp_path / "out", settings={}, files=[code])
    assert not list((tmp_path / "out").rglob("seed-*"))


@pytest.mark.parametrize("seeds", [0, -1])
def test_seeds_are_counted(tmp_path, code, seeds):
    with pytest.raises(ValueError, match="`seeds` must be at least 1"):
        run(tmp_path / "out", code, [], seeds=seeds)


def test_curves_are_means_over_seeds():
    found = _runs.over_seeds([record("a", 0), record("a", 2)], "loss")
    assert found == {"mean": [2.0, 4.0], "std": [pytest.approx(2**0.5)] * 2}
    assert _runs.over_seeds([record("a", 0)], "loss")["std"] == [0.0, 0.0]


def test_differences_are_the_arm_minus_the_baseline():
    arm, baseline = ([{**record(name, seed), "loss": 5.0 - len(name)} for seed in (0, 1)] for name in ("aaa", "a"))
    found = _runs.against(arm, baseline, "score", "loss")
    assert found == {
        "score": {"mean": 2.0, "low": 2.0, "high": 2.0},
        "loss": {"mean": -2.0, "low": -2.0, "high": -2.0},
    }


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.001, 0.002, "+0.001 nats [-0.001, +0.002]"), (None, None, "+0.001 nats, no interval")],
)
def test_a_difference_in_words(low, high, words):
    difference = {"mean": 0.001, "low": low, "high": high}
    assert _runs.told(difference, "nats", digits=3) == words
    assert _runs.above(difference, -0.002) == _runs.below(difference, 0.003) == (low is not None)
    assert not _runs.above(difference, -0.001)
    assert not _runs.below(difference, 0.002)
