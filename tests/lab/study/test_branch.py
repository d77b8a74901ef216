import json
import signal
from dataclasses import replace

import pytest

from adabatch.lab import tasks
from adabatch.lab.study.branch import SHORTER, Branching, branch_lrs, branches_of, measure
from adabatch.lab.training import RunConfig, lock
from adabatch.lab.training.interrupt import Interrupted

FEW = {"forks": (0.1, 0.4), "windows": (0.1, 0.2), "factors": (2, 4), "powers": (0.0, 1.0), "seeds": (0, 1)}


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


def setting(**more):
    base = RunConfig.for_task(
        "digits", model="mlp", batch_size=16, epochs=2, lr=0.05, lr_schedule="constant", threads=1
    )
    return Branching(base=base, **{**FEW, **more})


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("branches")
    return out, measure(setting(), data, out)


def test_every_branch_is_measured_once(measured):
    _, found = measured
    wanted = [(fork, *branch[:1], *branch[1:]) for fork in range(2) for branch in branches_of(setting(), 1437)]
    assert set(found) == {0, 1}
    for branches in found.values():
        assert [branch[:5] for branch in branches] == wanted
        assert all(branch.train_loss > 0 and branch.test_loss > 0 for branch in branches)
    lengths = [branch[2] for branch in wanted if branch[0] == 0 and branch[1] == 0 and branch[3] == 1]
    assert lengths == list(SHORTER)


def test_longer_base_branches_come_further(measured):
    _, found = measured
    for branches in found.values():
        base = [branch for branch in branches if branch.factor == 1 and branch.fork == 0 and branch.window == 1]
        assert base[-1].train_loss < base[0].train_loss


def test_branches_depend_on_nothing_but_their_fork(measured, data, tmp_path):
    """A setting with fewer branches finds the same losses, bit for bit."""
    _, found = measured
    few = measure(setting(powers=(1.0,), factors=(4,), windows=(0.2,), seeds=(1,)), data, tmp_path)
    wanted = [branch for branch in found[1] if branch.window == 1 and (branch.factor, branch.power) in ((1, 0), (4, 1))]
    assert [branch[2:] for branch in few[1]] == [branch[2:] for branch in wanted]


def test_the_same_call_measures_nothing_again(measured, data):
    out, found = measured
    before = (out / "branches.json").read_bytes()
    calls = []
    assert measure(setting(), data, out, progress=lambda *now: calls.append(now)) == found
    assert not calls
    assert (out / "branches.json").read_bytes() == before


def test_an_interrupted_measurement_goes_on(measured, data, tmp_path):
    _, found = measured

    def interrupt(done, total):
        if done == total // 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="what is measured is kept"):
        measure(setting(), data, tmp_path, progress=interrupt)
    kept = json.loads((tmp_path / "branches.json").read_text())["runs"]
    assert 0 < sum(map(len, kept.values())) < sum(map(len, found.values()))
    assert measure(setting(), data, tmp_path) == found


def test_more_seeds_come_later(measured, data, tmp_path):
    _, found = measured
    measure(setting(seeds=(0,)), data, tmp_path)
    assert measure(setting(), data, tmp_path) == found


def test_the_first_samples_are_those_of_smaller_data(data, tmp_path):
    few = replace(data, **{f"{name}_train": getattr(data, f"{name}_train")[:640] for name in "xy"})
    few = replace(few, x_test=data.x_test[:100], y_test=data.y_test[:100])
    one = setting(seeds=(0,))
    found = measure(replace(one, train_samples=640, test_samples=100), data, tmp_path / "whole")
    assert found == measure(one, few, tmp_path / "few")
    with pytest.raises(ValueError, match="`test_samples` must be at most the 360 that there are, got 361"):
        measure(replace(one, test_samples=361), data, tmp_path / "whole")


def test_other_settings_are_refused(measured, data):
    out, _ = measured
    words = r"`out` must hold branches of the same settings, .* with factors \[2, 4\] there and \[2\] here; give the"
    with pytest.raises(ValueError, match=words):
        measure(setting(factors=(2,)), data, out)


def test_other_settings_of_the_run_are_named(measured, data):
    out, _ = measured
    changed = replace(setting(), base=replace(setting().base, lr=0.04, momentum=0.8))
    with pytest.raises(ValueError, match=r"with lr 0.05 there and 0.04 here; momentum 0.9 there and 0.8 here"):
        measure(changed, data, out)


def test_other_data_are_refused(measured, data):
    out, _ = measured
    with pytest.raises(ValueError, match=r"`data` must hold what .*branches.json was measured on, got other samples"):
        measure(setting(), replace(data, y_test=data.y_test.flip(0)), out)


def test_one_process_measures_in_a_folder(data, tmp_path):
    with lock.held(tmp_path), pytest.raises(BlockingIOError, match="no other process trains"):
        measure(setting(), data, tmp_path)


def test_a_damaged_file_is_named(data, tmp_path):
    (tmp_path / "branches.json").write_text('{"runs": 3}')
    with pytest.raises(ValueError, match=r"a damaged .*branches.json; delete it or take another folder"):
        measure(setting(), data, tmp_path)


def test_the_lr_of_a_branch():
    lrs = branch_lrs(0.8, window=256, length=1.0, batch_size=16)
    assert lrs[:8] == [0.8] * 8
    assert lrs[8:] == pytest.approx([0.05 + 0.1 * number for number in range(7, -1, -1)])
    assert branch_lrs(0.8, window=256, length=0.5, batch_size=16) == pytest.approx(lrs[8:])


@pytest.mark.parametrize("factor", [2, 4])
def test_lr_times_samples_is_the_same_at_every_batch_size(factor):
    base = branch_lrs(0.8, window=256, length=1.0, batch_size=16)
    larger = branch_lrs(0.8, window=256, length=1.0, batch_size=16 * factor)
    assert sum(larger) * 16 * factor == pytest.approx(sum(base) * 16)


def test_branches_of_another_format_are_refused(measured, data):
    out, _ = measured
    content = json.loads((out / "branches.json").read_text())
    other = out.parent / "format"
    other.mkdir()
    (other / "branches.json").write_text(json.dumps({**content, "format": 1}))
    with pytest.raises(ValueError, match=r"with format 1 there and 2 here; give the"):
        measure(setting(), data, other)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"factors": (1, 2)}, "`factors` must be"),
        ({"factors": ()}, "`factors` must hold at least one value"),
        ({"forks": (0.5, 0.2)}, "`forks` must hold at least one value, increasing"),
        ({"forks": (0.0,)}, "`forks` must be"),
        ({"forks": (0.9,)}, r"must leave room for the longest branch, got 0.9 and a window of 0.2; end earlier"),
        ({"seeds": (1, 1)}, "`seeds` must hold at least one value, increasing, each once"),
    ],
)
def test_bad_settings(more, words):
    with pytest.raises(ValueError, match=words):
        setting(**more)


def test_windows_too_short_for_any_branch(data, tmp_path):
    with pytest.raises(ValueError, match=r"`windows` must hold at least 4 updates of a branch, 4,096 samples"):
        measure(setting(factors=(64,), windows=(0.2,)), data, tmp_path)
