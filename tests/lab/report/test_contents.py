"""Pages of several runs, of a comparison under way, of a plan and of a probe."""

import json
import re
from dataclasses import replace

import pytest
from tests.lab.report.page_folders import GROWING, VERSIONS, write_comparison, write_run
from tests.lab.report.test_figures import rows_of
from tests.lab.report.test_folders import ODD, places_in, what_is_said, with_another
from tests.lab.report.test_page import data_of, without_scripts

from adabatch.lab.report import folders, page, words
from adabatch.lab.report.folders import Plan, Probe, Together, Unfinished, read, read_together

NOTE = {"format": 1, "task": "digits", "model": GROWING.model, "seeds": [0, 1, 2], "target": 0.95, "versions": VERSIONS}


def shown(path):
    return " ".join(re.sub("<[^>]*>", " ", without_scripts(path.read_text(encoding="utf-8"))).split())


def draws(path):
    """The names of the charts."""
    return sorted(data_of(path.read_text(encoding="utf-8"))["charts"])


# Several runs.


@pytest.fixture
def three(tmp_path):
    write_run(tmp_path / "slow", replace(GROWING, growth=None), name="fixed-small")
    write_run(tmp_path / "grown")
    write_run(tmp_path / "other", replace(GROWING, lr=0.01, seed=5), name="uncoupled", finished=False)
    return [tmp_path / name for name in ("slow", "grown", "other")]


def test_several_runs_side_by_side(three, tmp_path):
    written = page.write_together(three)
    assert written == tmp_path / "report.html"
    assert draws(written) == ["course", "throughput"]
    text = shown(written)
    assert "3 runs on digits side by side." in text
    assert re.search(r"(slow|grown) has the highest test accuracy at its last evaluation: 97\.\d\d %\.", text)
    assert "One run of each does not tell a difference from luck" in text
    assert "Not finished yet: other." in text
    rows = rows_of(written.read_text())
    assert rows["state"] == ["finished", "finished", "epoch 5 of 14"]
    assert rows["updates"][:2] == ["1,260", "376"]
    assert rows["growth"] == ["none", "2", "2"]
    assert rows["seed"] == ["0", "0", "5"]
    assert "momentum" not in rows
    assert "diverged" not in rows
    arms = {trace["meta"]["arm"] for trace in data_of(written.read_text())["charts"]["course"]["traces"]}
    assert arms == {"slow", "grown", "other"}


def test_a_run_among_several_that_diverged(three):
    found = json.loads((three[1] / "result.json").read_text())
    found["history"][-1]["train_loss"] = None
    (three[1] / "result.json").write_text(json.dumps(found))
    text = shown(page.write_together(three))
    assert "grown diverged: a loss was not finite." in text
    rows = rows_of(page.write_together(three).read_text())
    assert rows["diverged"] == ["no", "yes", "no"]
    assert rows["state"] == ["finished", "diverged", "epoch 5 of 14"]
    assert re.search(r"a loss was not finite. Of the others, slow has the highest test accuracy", text)


def test_a_run_that_diverged_is_not_praised(three):
    for folder, last in ((three[0], 0.2), (three[1], 0.9)):
        found = json.loads((folder / "result.json").read_text())
        found["history"][-1] |= {"test_accuracy": last, "train_loss": None if last == 0.9 else 0.1}
        (folder / "result.json").write_text(json.dumps(found))
    assert "Of the others, other has the highest" in shown(page.write_together(three))
    assert "side by side. ✗ grown diverged" in shown(page.write_together(three))


def test_the_communication_of_a_run_of_several_processes(tmp_path):
    write_run(tmp_path)
    assert "gradients sent" not in shown(page.write(tmp_path))
    found = json.loads((tmp_path / "result.json").read_text())
    found["history"][-1] |= {"communication_bytes": 4_940_000, "communication_seconds": 0.0123}
    (tmp_path / "result.json").write_text(json.dumps(found))
    assert "gradients sent in an update 4.94 MB 12.3 ms in an update" in shown(page.write(tmp_path))
    found["history"][-1] |= {"communication_bytes": -1}
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="communication_bytes"):
        read(tmp_path)


def test_runs_are_named_by_what_their_paths_differ_in(tmp_path):
    write_comparison(tmp_path, seeds=2, names=("fixed-small", "adaptive"))
    folders = [tmp_path / "runs" / arm / "seed-0" for arm in ("fixed-small", "adaptive")]
    assert list(read_together(folders).runs) == ["fixed-small/seed-0", "adaptive/seed-0"]
    assert page.write_together(folders) == tmp_path / "runs" / "report.html"
    assert list(read_together([folders[0], tmp_path / "runs" / "adaptive" / "seed-1"]).runs) == ["seed-0", "seed-1"]


def test_runs_of_different_tasks_are_not_ranked(three):
    config = json.loads((three[0] / "config.json").read_text()) | {"task": "mnist"}
    (three[0] / "config.json").write_text(json.dumps(config))
    text = shown(page.write_together(three))
    assert "3 runs side by side" in text
    assert "highest" not in text
    assert rows_of(page.write_together(three).read_text())["task"] == ["mnist", "digits", "digits"]


def test_what_cannot_stand_side_by_side(three, tmp_path):
    with pytest.raises(
        ValueError, match=r"`folder` must name each run or study once, got '.*slow' twice; leave one out"
    ):
        read_together([three[0], three[1], tmp_path / "other" / ".." / "slow"])
    write_comparison(tmp_path / "comparison", seeds=1, names=("fixed-small", "adaptive"))
    words = (
        "`folder` must be of one kind where several are given: runs, advice, or studies with probes of their networks"
    )
    with pytest.raises(ValueError, match=rf"{words}, got run in '.*', none of these in '.*comparison'; give what"):
        read_together([three[0], tmp_path / "comparison"])


# A comparison under way.


@pytest.fixture
def under_way(tmp_path):
    """Three arms, three seeds: seed 0 is done, of seed 1 one arm, and one is being trained."""
    write_comparison(tmp_path, names=("fixed-small", "adaptive", "uncoupled"))
    (tmp_path / "compare.json").unlink()
    (tmp_path / "comparison.json").write_text(json.dumps(NOTE | {"arms": ["fixed-small", "adaptive", "uncoupled"]}))
    for arm, seed in (("uncoupled", 1), ("fixed-small", 2), ("adaptive", 2), ("uncoupled", 2)):
        folder = tmp_path / "runs" / arm / f"seed-{seed}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    write_run(tmp_path / "runs" / "uncoupled" / "seed-1", replace(GROWING, seed=1), name="uncoupled", finished=False)
    return tmp_path


def test_a_comparison_under_way(under_way):
    found = read(under_way)
    assert isinstance(found, Unfinished)
    assert {name: list(found.finished(name)) for name in found.arms} == {
        "fixed-small": [0, 1], "adaptive": [0, 1], "uncoupled": [0],
    }  # fmt: skip
    written = page.write(under_way)
    assert draws(written) == ["course"]
    text = shown(written)
    assert "Unfinished: 5 of 9 runs are done." in text
    assert "Missing: fixed-small: seed 2; adaptive: seed 2; uncoupled: seeds 1, 2." in text
    assert "Nothing is claimed before all runs are done" in text
    assert "uncoupled, seed 1, is at epoch 5 of 14: 8" in text
    rows = rows_of(written.read_text())
    assert [rows[arm][0] for arm in ("fixed-small", "adaptive", "uncoupled")] == ["2 of 3", "2 of 3", "1 of 3"]
    for word in ("faster", "fewer", "within 1", "✓", "95 %"):
        assert word not in text


def test_a_comparison_to_which_seeds_were_added_is_unfinished(tmp_path):
    write_comparison(tmp_path, seeds=2, names=("fixed-small", "adaptive"))
    note = NOTE | {"arms": ["fixed-small", "adaptive"], "seeds": [0, 1]}
    (tmp_path / "comparison.json").write_text(json.dumps(note))
    assert not isinstance(read(tmp_path), Unfinished)
    for more in ({"seeds": [0, 1, 2]}, {"arms": ["fixed-small", "adaptive", "mine"]}):
        (tmp_path / "comparison.json").write_text(json.dumps(note | more))
        assert isinstance(read(tmp_path), Unfinished)
    assert "4 of 6 runs are done" in shown(page.write(tmp_path))


def test_a_comparison_of_an_older_version_tells_what_is_there(under_way):
    (under_way / "comparison.json").write_text(json.dumps({"format": 1, "versions": VERSIONS, "data": "0"}))
    found = read(under_way)
    assert (sorted(found.arms), found.seeds) == (["adaptive", "fixed-small", "uncoupled"], [0, 1])
    assert "5 of 6 runs are done" in shown(page.write(under_way))


def test_a_comparison_before_its_first_evaluation(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(NOTE | {"arms": ["fixed-small", "adaptive"]}))
    written = page.write(tmp_path)
    assert draws(written) == []
    assert "Unfinished: 0 of 6 runs are done." in shown(written)


# A plan and a probe.

PLAN = {
    "updates_before": 1260, "updates_after": 376, "samples": 20118, "dataset_size": 1437, "epochs": 14,
    "starts_samples": [0, 2874, 5748, 8622, 11496], "sizes": [16, 32, 64, 128, 256],
    "lr": [0.1, 0.2, 0.4, 0.8, 1.6], "lr_before": [0.1] * 5,
    "noise_scale": [90.0] * 5, "noise_scale_before": [90.0] * 5,
    "seconds_before": 12.0, "seconds_after": 5.0, "rule": None, "coupling": "linear", "maximum": 256,
    "title": "times 2 every 2 epochs", "settings": {"lr_schedule": "constant", "batch_size": 16, "momentum": 0.9},
}  # fmt: skip
POINTS = [
    {"batch_size": 16, "samples_per_second": {"median": 100.0, "min": 90.0, "max": 104.0}, "against_first": None},
    {
        "batch_size": 32, "samples_per_second": {"median": 161.0, "min": 150.0, "max": 170.0},
        "against_first": {"median": 1.61, "low": 1.5, "high": 1.7},
    },
]  # fmt: skip
PROBE = {
    "format": 1, "task": "digits", "model": "small_cnn", "device": "cpu", "versions": VERSIONS, "repeats": 9,
    "out_of_memory_at": None, "fastest": 32, "enough": 32, "speedup": {"median": 1.61, "low": 1.5, "high": 1.7},
    "sentence": "growing the batch can make this task at most 1.61x faster here [1.50, 1.70]; no gain is "
    "shown beyond 32",
    "curve": POINTS,
}  # fmt: skip

COMMUNICATION = {
    "world_size": 2, "backend": "gloo", "seconds_of": "the slowest rank in each turn",
    "gradients": {"bytes": 3 * 2**20, "buckets": [2**20, 2**21], "seconds": {"median": 0.02, "min": 0.01, "max": 0.03}},
    "curve": [{"bytes": 4096, "seconds": {"median": 0.001, "min": 0.0005, "max": 0.002}}],
    "latency_seconds": {"median": 0.00075}, "seconds_per_byte": {"median": 1 / (800 * 2**20)},
}  # fmt: skip
PASSES = {"compute_seconds": {"median": 0.05, "min": 0.04, "max": 0.06}}
SHARED = PROBE | {"curve": [point | PASSES for point in POINTS], "communication": COMMUNICATION}


def test_a_plan(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    assert isinstance(read(tmp_path), Plan)
    written = page.write(tmp_path)
    assert draws(written) == ["batch", "lr", "noise"]
    text = shown(written)
    assert "1,260 updates become 376: 3.4× fewer updates." in text
    assert "The batch goes from 16 to 256 in 4 steps over 14 epochs. Coupling: linear. A forecast:" in text
    assert "2.4×" in text
    rows = rows_of(written.read_text())
    assert rows["5,748"] == ["4", "64", "0.1", "0.4", "90", "90"]
    assert "lr schedule" in text
    charts = data_of(written.read_text())["charts"]
    (growing,) = [trace for trace in charts["batch"]["traces"] if trace["name"] == "growing batch"]
    assert (growing["x"], growing["y"]) == ([*PLAN["starts_samples"], 14 * 1437], [*PLAN["sizes"], 256])
    assert growing["line"]["shape"] == "hv"


def test_a_plan_is_drawn_against_the_constant_batch_that_it_names(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN | {"batch_size": 24}))
    charts = data_of(page.write(tmp_path).read_text())["charts"]
    (constant,) = [trace for trace in charts["batch"]["traces"] if trace["name"] == "constant batch"]
    assert set(constant["y"]) == {24}


def interval(median, low=None, high=None):
    return {"median": median, "low": low, "high": high}


def workers_row(count, seconds, **more):
    shown = {"seconds": interval(seconds, 0.9 * seconds, 1.1 * seconds), "constant_seconds": interval(2 * seconds)}
    return {"workers": count, **shown, "efficiency": interval(0.5), "worker_hours": interval(1234.5), **more}


PARTS = {"passes": 0.2, "exposed": 0.1, "coordination": 0.0, "optimizer": 0.0, "seconds": 0.3}
WORKERS = {
    "link": {"name": "mine", "source": "measured here"},
    "pays": 1.5,
    "rows": [workers_row(3, 100.0), workers_row(5, 12.5, node_efficiency=interval(0.75, 0.7, 0.8))],
    "sizes": [
        {
            "batch_size": size,
            "pays_up_to": interval(*pays),
            "updates": [PARTS | {"workers": count} for count in (3, 5)],
        }
        for size, pays in {16: (1, 1, 1), 256: (8, 4, 8)}.items()
    ],
}


def test_a_plan_on_more_workers(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN | {"workers": WORKERS}))
    written = page.write(tmp_path)
    text = shown(written)
    assert "Over mine, twice the workers make an update at least 1.5 times as fast" in text
    assert (
        "up to 8 [4, 8] at a batch of 256; two workers make an update less than 1.5 times as fast as one at a batch of "
        "16."
    ) in text
    assert "Link mine: measured here." in text
    rows = rows_of(written.read_text())
    assert rows["3"] == ["100 [90.0, 110]", "200", "50", "–", "1,234"]
    assert rows["5"][3] == "75 [70, 80]"
    assert rows["256"] == ["8 [4, 8]", "0.300", "0.300"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": []}, "with workers.rows"),
        ({"sizes": [{"batch_size": 0}]}, "workers.sizes"),
        ({"link": {}}, "without workers.link.name"),
    ],
)
def test_a_plan_with_damaged_workers(tmp_path, change, message):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN | {"workers": WORKERS | change}))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_plan_of_before_and_a_constant_one(tmp_path):
    values = {key: value for key, value in PLAN.items() if key not in ("title", "settings", "seconds_before")}
    (tmp_path / "plan.json").write_text(json.dumps(values | {"updates_after": 1260, "sizes": [16] * 5}))
    text = shown(page.write(tmp_path))
    assert "1,260 updates, as many as with a constant batch." in text
    assert "The batch stays at 16." in text
    (tmp_path / "plan.json").write_text(json.dumps(PLAN | {"sizes": [16]}))
    with pytest.raises(ValueError, match=r"got .*plan.json without a value of sizes for each start"):
        read(tmp_path)


def test_a_plan_of_many_rows_shows_some(tmp_path):
    many = {key: PLAN[key] * 100 for key in ("sizes", "lr", "lr_before", "noise_scale", "noise_scale_before")}
    (tmp_path / "plan.json").write_text(json.dumps(PLAN | many | {"starts_samples": list(range(0, 20000, 40))}))
    written = page.write(tmp_path)
    assert len(rows_of(written.read_text())) == 61
    assert "Some of the rows; all are in plan.json." in shown(written)


def test_a_probe(tmp_path):
    (tmp_path / "probe.json").write_text(json.dumps(PROBE))
    assert isinstance(read(tmp_path), Probe)
    written = page.write(tmp_path)
    assert draws(written) == ["throughput"]
    text = shown(written)
    assert (
        "Growing the batch can make this task at most 1.61× faster here [1.50, 1.70]; no gain is shown beyond 32."
        in text
    )
    assert rows_of(written.read_text())["32"] == ["161", "150 to 170", "1.61× [1.50, 1.70]"]
    band, trace = data_of(written.read_text())["charts"]["throughput"]["traces"]
    assert (trace["x"], trace["y"]) == ([16, 32], [100.0, 161.0])
    assert (band["x"], band["y"]) == ([16, 32, 32, 16], [90.0, 150.0, 170.0, 104.0])
    assert "faster at most 1.61×" in text, "as many places as in the sentence"
    assert "cpu, Some" in text
    assert "Out of memory" not in text
    (tmp_path / "probe.json").write_text(json.dumps(PROBE | {"out_of_memory_at": 64}))
    assert "Out of memory at a batch size of 64." in shown(page.write(tmp_path))


def test_a_probe_with_the_memory_of_steps(tmp_path):
    points = [point | {"peak_bytes": peak} for point, peak in zip(POINTS, (2**20, None), strict=True)]
    (tmp_path / "probe.json").write_text(json.dumps(PROBE | {"curve": points}))
    written = page.write(tmp_path)
    rows = rows_of(written.read_text())
    assert (rows["16"][3], rows["32"][3]) == ("1 MiB", words.NOTHING)
    assert "Memory of a step: its peak beyond what is kept between steps." in shown(written)


def test_a_probe_of_several_processes(tmp_path):
    (tmp_path / "probe.json").write_text(json.dumps(SHARED))
    written = page.write(tmp_path)
    rows, text = rows_of(written.read_text()), shown(written)
    assert rows["32"] == ["161", "150 to 170", "1.61× [1.50, 1.70]", "0.0500"]
    assert rows["4 KiB"] == ["0.00100", "0.000500 to 0.00200"]
    assert rows["the gradients"] == ["0.0200", "0.0100 to 0.0300"]
    assert "2 processes share each batch; each turn has the seconds of the slowest one." in text
    assert "(gloo) takes 0.000750 s to begin with and moves 800 MiB per second, by least squares over sizes." in text
    assert "That of the gradients, 3 MiB in 2 buckets, takes 0.0200 s." in text
    falling = COMMUNICATION | {"seconds_per_byte": {"median": -1e-12}}
    (tmp_path / "probe.json").write_text(json.dumps(SHARED | {"communication": falling}))
    assert "takes 0.000750 s to begin with, by least squares" in shown(page.write(tmp_path))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("plan.json", PLAN),
        ("probe.json", SHARED),
        ("comparison.json", NOTE | {"arms": ["a"]}),
    ],
)
def test_values_of_another_kind_are_named_or_do_no_harm(tmp_path, name, whole):
    refused = 0
    for path in places_in(whole):
        for odd in ODD:
            (tmp_path / name).write_text(json.dumps(with_another(whole, path, odd)))
            said = what_is_said(tmp_path)
            assert said == "" or said.startswith("`folder` must hold "), (path, odd)
            refused += said != ""
    assert refused > 50


def test_every_kind_of_source_has_a_page():
    assert {*page._PAGES} == {*folders.Source.__args__}
    assert Together in page._PAGES


def test_a_probe_of_one_batch_size_has_no_chart(tmp_path):
    (tmp_path / "probe.json").write_text(json.dumps(PROBE | {"curve": PROBE["curve"][:1], "fastest": 16}))
    assert draws(page.write(tmp_path)) == []
    assert "Ratios" not in shown(page.write(tmp_path))
    assert "enough" not in shown(page.write(tmp_path)), "of one size nothing is judged"


def test_the_growing_batch_is_drawn_solid_as_in_the_picture(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN | {"epochs": 1}))
    written = page.write(tmp_path)
    for chart in data_of(written.read_text())["charts"].values():
        assert {trace["name"]: trace["line"]["dash"] for trace in chart["traces"]} == {
            "growing batch": "solid", "constant batch": "dash",
        }  # fmt: skip
    assert "in 4 steps over 1 epoch." in shown(written)
