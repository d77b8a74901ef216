"""Advice from real trainings on few scans, and from measurements that were made up."""

import json
import math
import signal
from dataclasses import replace

import pytest
from tests.lab.training.checks import small_data

from adabatch import schedules
from adabatch.lab.advice import Advice
from adabatch.lab.study import advise as advising
from adabatch.lab.study import cooled
from adabatch.lab.study.advise import EVALUATIONS, LR_FACTORS, Question, advise, check, in_words
from adabatch.lab.study.curve import Curve, CurvePoint
from adabatch.lab.study.kept import Kept
from adabatch.lab.study.trainee import Trainee
from adabatch.lab.training import RunConfig, pick_device, versions
from adabatch.lab.training.interrupt import Interrupted, Interrupts

SIZES = (4, 16, 64)


def question(**more):
    settings = {"model": "mlp", "batch_size": 4, "epochs": 2, "lr": 0.002, "threads": 1, "device": "cpu"}
    own = {name: more.pop(name) for name in ("budget_seconds", "train_samples", "test_samples") if name in more}
    return Question(base=RunConfig.for_task("digits", **{**settings, **more}), **{"budget_seconds": 600.0, **own})


@pytest.fixture(autouse=True)
def six_seeds(monkeypatch):
    monkeypatch.setattr(advising, "MOST_SEEDS", 6)


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An advice with its outcome, really measured; the budget leaves time for all seeds."""
    out, said = tmp_path_factory.mktemp("advice"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advising, "MOST_SEEDS", 6)
        patch.setattr(advising, "LEAST_GAIN", 0.0)  # whatever the machine is
        patch.setattr(advising, "SHARES", {**advising.SHARES, "probe": 0.0})  # as short as can be
        found = advise(question(), data, out, tell=said.append)
        return out, said, found, check(question(), data, out, found, tell=said.append)


def test_it_trains_three_batch_sizes_and_two_schedules_over_seeds(whole):
    _, _, found, _ = whole
    assert [row.batch_size for row in found.fixed] == [*SIZES]
    assert [row.lr / found.lr for row in found.fixed] == pytest.approx([1, 4, 16])
    assert [tried.name for tried in found.growing] == ["early", "late"]
    assert found.seeds == tuple(range(6))
    assert (found.epochs, found.whole_epochs) == (2, 2)
    for row in found.fixed:
        assert [curve.seed for curve in row.curves] == [0, 1, 2, 3, 4, 5]
        assert all(curve.points[-1][1] == 2 * (300 // row.batch_size) * row.batch_size for curve in row.curves)
    for tried in found.growing:
        assert len(tried.seconds) == len(tried.test_losses) == 6
        assert all(loss > 0 for loss in (*tried.test_losses, *tried.train_losses))
    assert found.lr / 0.002 in LR_FACTORS
    assert found.verdict in ("grow", "no evidence")
    assert found.best_fixed in SIZES
    schedule = schedules.Schedule.from_json(found.schedule)
    assert schedule.plan(dataset_size=300, epochs=2, batch_size=4).sizes == (4, 8, 16, 32, 64)


def test_the_outcome_has_seeds_that_the_advice_had_not_seen(whole):
    _, _, found, checked = whole
    assert found.outcome is None
    seen = checked.outcome
    assert seen.seeds == (6, 7, 8)
    assert seen.epochs == 2
    assert seen.fixed_against_best is None or 0 < seen.fixed_against_best <= 1
    assert seen.within_80 <= seen.within_95
    assert replace(checked, outcome=None) == found
    assert list(Advice.faults(json.loads(json.dumps(checked.to_json())))) == []


def test_what_is_done_is_told(whole):
    _, said, _, _ = whole
    assert said[0] == "how fast larger batches train"
    assert said[1:4] == ["the learning rate, 7 of them", "the learning rate, 4 of them", "the learning rate, 2 of them"]
    assert said[4] == "seed 0, batch size 4"
    assert "seed 5, growing late" in said
    assert said[-1].startswith("whole training, seed 8, growing ")
    assert len(said) == len(set(said))


def test_the_same_call_measures_nothing_again(whole, data, monkeypatch):
    out, _, found, checked = whole
    monkeypatch.setattr(advising, "LEAST_GAIN", 0.0)
    for name in ("train", "losses"):
        monkeypatch.delattr(Trainee, name)
    monkeypatch.delattr(cooled, "train")
    monkeypatch.delattr(advising, "probe")
    again = advise(question(), data, out)
    assert replace(again, settings={}, versions={}) == replace(found, settings={}, versions={})
    assert check(question(), data, out, again).outcome == checked.outcome


def test_an_ending_is_a_training_by_the_plan_at_its_lrs(whole, data, tmp_path, monkeypatch):
    """The updates of a schedule, one by one: batch sizes of the plan, LRs of the coupling, down to 0 at the end."""
    seen = []

    def noted(self, batch_size, lr):
        seen.append((self.setup.loader.clock, batch_size, lr))
        return plain(self, batch_size, lr)

    plain = Trainee._update
    monkeypatch.setattr(Trainee, "_update", noted)
    asked = question()
    kept = Kept(tmp_path, settings=asked.to_json(), data="")
    work = advising._Work(asked, data, pick_device("cpu"), kept, lambda _: None)
    work._interrupts = Interrupts()
    grid = work._grid(asked.base, SIZES, 2, (0,))
    for candidate in work._candidates(grid):
        seen.clear()
        ending = work._ending(grid, 0, candidate, candidate.name)
        plan = candidate.schedule.plan(dataset_size=300, epochs=2, batch_size=4, drop_last=True)
        sizes = [batch.size for batch in plan]
        tries = 3 * len(set(sizes))  # before the time counts
        assert [size for _, size, _ in seen[tries:]] == sizes
        del seen[:tries]
        end = plan.clock_of(plan.updates - 1) + sizes[-1]
        power = {"linear": 1.0, "none": 0.0}[candidate.coupling]
        for clock, size, lr in seen:
            assert lr == pytest.approx(0.002 * (size / 4) ** power * min(1.0, (end - clock) / (end / 6)))
        assert seen[-1][2] < 0.01 * 16**power * 0.7
        assert ending.test_loss > 0


def store(out, asked, data):
    """What is kept in a folder of an advice."""
    settings = {**asked.to_json(), "machine": versions(pick_device("cpu"))["device_name"]}
    return Kept(out, settings=settings, data=data.fingerprint())


def made_up(out, asked, data, *, ratio=2.0, noise=0.01, seeds=6, whole=None, gain=3.0, never=False):
    """Measurements in which growth is so many times as fast as the best constant batch, the smallest one."""
    kept = store(out, asked, data)
    kept.of(
        "throughput",
        lambda: [[4, 1e3, None], [8, 2e3, {"median": 2.0}], [16, 3e3, {"median": gain}], [64, 1e4, {"median": 10.0}]],
    )
    kept.of("learning rate", lambda: 1.0)
    _trainings(kept, "seed", range(seeds), ratio, noise, never)
    if whole is not None:
        _trainings(kept, "whole training, seed", range(6, 9), whole, noise, never)


def _trainings(kept, words, seeds, ratio, noise, never):
    for seed in seeds:
        for place, size in enumerate(SIZES):
            factor = math.exp(noise * math.sin(1 + 5 * seed + place)) * (1 + 0.5 * place)
            points = [
                CurvePoint(n, n * size, 0.1 * n, factor * n**-0.5, factor * n**-0.5)
                for n in (round(10 * 1.3**step) for step in range(14))
            ]
            kept.of(f"{words} {seed}, batch size {size}", lambda: Curve(tuple(points)).to_json())  # noqa: B023
        for place, name in enumerate(("early", "late")):
            loss = (0.001 if never else 200**-0.5) * math.exp(noise * math.cos(2 + 5 * seed + place))
            kept.of(f"{words} {seed}, growing {name}", lambda: [20.0 / (ratio if name == "early" else 1.0), loss, loss])  # noqa: B023


def spent(out, seconds):
    """Makes each measurement have taken so many seconds."""
    kept = json.loads((out / "measured.json").read_text())
    for each in kept["measured"].values():
        each["seconds"] = seconds
    (out / "measured.json").write_text(json.dumps(kept))


def test_growth_that_is_faster_for_certain_is_advised(data, tmp_path):
    made_up(tmp_path, question(), data, whole=1.9)
    found = advise(question(), data, tmp_path)
    assert (found.verdict, found.chosen, found.best_fixed) == ("grow", "early", 4)
    assert found.choice.forecast.at_80.estimate == pytest.approx(2.0, rel=0.05)
    seen = check(question(), data, tmp_path, found).outcome
    assert seen.low == seen.high == pytest.approx(1.9, rel=0.05)
    assert seen.within_80
    assert (seen.best_fixed, seen.fixed_against_best) == (4, 1.0)
    assert seen.against_best == seen.ratio


def test_an_outcome_outside_of_the_forecast_is_told(data, tmp_path):
    made_up(tmp_path, question(), data, whole=0.5)
    found = advise(question(), data, tmp_path)
    seen = check(question(), data, tmp_path, found).outcome
    assert seen.high == pytest.approx(0.5, rel=0.05)
    assert (seen.within_80, seen.within_95) == (False, False)


def test_a_gain_within_the_noise_is_no_evidence(data, tmp_path):
    made_up(tmp_path, question(), data, ratio=1.1, noise=0.2)
    found = advise(question(), data, tmp_path)
    assert found.verdict == "no evidence"
    assert found.choice.forecast.at_80.low < 1


def test_the_verdict_rests_on_the_mean_of_many_seeds_not_on_what_three_will_show(data, tmp_path):
    made_up(tmp_path, question(), data, ratio=1.2, noise=0.1)
    found = advise(question(), data, tmp_path)
    assert found.verdict == "grow"
    assert found.choice.forecast.at_80.low < 1 < found.choice.ratio.low
    assert found.choice.ratio.estimate == found.choice.forecast.at_80.estimate


def test_two_seeds_have_wider_intervals_than_six(data, tmp_path):
    found = {}
    for seconds in (200.0, 0.1):
        out = tmp_path / str(seconds)
        out.mkdir()
        made_up(out, question(), data, noise=0.05)
        spent(out, seconds)
        found[seconds] = advise(question(), data, out)
    few, many = found[200.0], found[0.1]
    assert (few.seeds, many.seeds) == ((0, 1), tuple(range(6)))
    assert few.choice.forecast.at_95.low < many.choice.forecast.at_95.low


def test_seeds_are_added_while_their_time_lasts(data, tmp_path):
    made_up(tmp_path, question(), data)
    spent(tmp_path, 20.0)  # 100 for a seed, of 350
    assert advise(question(), data, tmp_path).seeds == (0, 1, 2)


def test_a_schedule_that_gets_further_than_any_constant_batch_has_no_upper_bound(data, tmp_path):
    made_up(tmp_path, question(), data, never=True, whole=2.0)
    found = advise(question(), data, tmp_path)
    forecast = found.choice.forecast
    assert (forecast.at_80.estimate, forecast.at_80.high) == (None, None)
    seen = check(question(), data, tmp_path, found).outcome
    assert seen.high is None
    assert (seen.best_low, seen.best_high) == (seen.low, None)  # the same batch size
    assert seen.within_80 == (seen.low >= forecast.at_80.low)


def test_a_shorter_training_tells_less_of_a_whole_one(data, tmp_path):
    lows = []
    for place, epochs in enumerate((2, 64)):
        out = tmp_path / str(place)
        out.mkdir()
        asked = question(epochs=epochs, budget_seconds=14.0)
        made_up(out, asked, data)
        found = advise(asked, data, out)
        assert found.epochs == min(epochs, 4)
        lows.append(found.choice.forecast.at_80.low)
    assert lows[1] < lows[0]


def test_where_a_larger_batch_is_no_faster_it_ends_there(data, tmp_path, monkeypatch):
    made_up(tmp_path, question(), data, gain=1.05)
    found = advise(question(), data, tmp_path)
    assert (found.verdict, found.gain, found.fixed, found.choice) == ("no gain in speed", 1.05, (), None)
    with pytest.raises(ValueError, match="`check` must follow an advice with a forecast, got one that says 'no gain"):
        check(question(), data, tmp_path, found)


def test_a_budget_that_is_too_small_is_told_with_the_least_and_another_is_taken(data, tmp_path):
    made_up(tmp_path, question(budget_seconds=0.5), data)
    words = r"`budget` must be at least .*s, by the speed measured now, for one pass over the data at each of 3 batch"
    with pytest.raises(ValueError, match=words):
        advise(question(budget_seconds=0.5), data, tmp_path)
    assert not (tmp_path / "measured.json").exists()
    made_up(tmp_path, question(budget_seconds=60.0), data)
    assert advise(question(budget_seconds=60.0), data, tmp_path).epochs == 2


def test_a_batch_as_large_as_the_data_is_told(data, tmp_path):
    asked = question(batch_size=200)
    with pytest.raises(ValueError, match="`batch_size` must be so small that four times as large a batch fits"):
        advise(asked, data, tmp_path)


@pytest.mark.parametrize(("name", "most"), [("train_samples", 300), ("test_samples", 100)])
def test_more_samples_than_there_are_are_refused(data, tmp_path, name, most):
    with pytest.raises(ValueError, match=f"`{name}` must be at most the {most} that there are, got 1000"):
        advise(question(**{name: 1000}), data, tmp_path)


def test_another_machine_is_refused(data, tmp_path):
    asked = question()
    Kept(tmp_path, settings={**asked.to_json(), "machine": "other"}, data=data.fingerprint()).of("throughput", list)
    with pytest.raises(ValueError, match=r"with machine other there and .* here; give"):
        advise(asked, data, tmp_path)


def test_lrs_that_all_diverge_are_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr(advising, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(advising, "SHARES", {**advising.SHARES, "probe": 0.0})
    with pytest.raises(ValueError, match=r"`lr` must train, and of LRs from .* none ended with a finite loss"):
        advise(question(lr=1e12), data, tmp_path)


def test_an_interrupt_keeps_what_is_measured(data, tmp_path, monkeypatch):
    made_up(tmp_path, question(), data, seeds=1)
    plain = cooled.train

    def pressed(*arguments, **more):
        signal.raise_signal(signal.SIGINT)
        return plain(*arguments, **more)

    monkeypatch.setattr(cooled, "train", pressed)
    with pytest.raises(Interrupted):
        advise(question(), data, tmp_path)
    assert len(json.loads((tmp_path / "measured.json").read_text())["measured"]) == 2 + 5


def test_fewer_samples_are_what_is_trained_on(data, tmp_path):
    asked = question(train_samples=200, test_samples=50)
    work = advising._Work(asked, data, pick_device("cpu"), Kept(tmp_path, settings=asked.to_json(), data=""), print)
    share = work._share()
    assert (len(share.x_train), len(share.y_train), len(share.x_test), len(share.y_test)) == (200, 200, 50, 50)
    (early, _) = work._candidates(work._grid(asked.base, SIZES, 2, (0,)))
    assert early.schedule.changes[-1][0].count == 320


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"budget_seconds": 0.0}, "`budget` must be"),
        ({"budget_seconds": math.nan}, "`budget` must be"),
        ({"train_samples": 0}, "`train_samples` must be"),
        ({"growth": 2.0}, "`growth` must be left out"),
    ],
)
def test_bad_settings_are_refused(more, words):
    with pytest.raises(ValueError, match=words):
        question(**more)


def test_adam_takes_the_square_root(data, tmp_path):
    asked = question(optimizer="adam", lr=0.001)
    work = advising._Work(asked, data, pick_device("cpu"), Kept(tmp_path, settings=asked.to_json(), data=""), print)
    early, _ = work._candidates(work._grid(asked.base, SIZES, 2, (0,)))
    assert early.coupling == "sqrt"


def test_a_curve_has_about_as_many_points_as_its_cost_counts():
    from adabatch.lab.study.grid import checkpoints

    assert len(checkpoints(base_updates=1000, updates=1000)) == pytest.approx(EVALUATIONS, abs=1)


def test_times_in_words():
    assert [in_words(seconds) for seconds in (7200, 3600, 3599, 90, 0.4)] == ["2h", "1h", "60min", "1.5min", "0.4s"]
