import importlib.util
import json
from typing import Any

import pytest
import torch
from tests.lab.planner.test_performance import model, probe_of

import adabatch as ab
from adabatch.lab import cli
from adabatch.lab.cli import _shared
from adabatch.lab.planner import PRESETS

COSINE = ["--lr-schedule", "cosine", "--batch-size", 16, "--dataset-size", 1000, "--epochs", 20]
KEYS = "updates_before updates_after sizes starts_samples lr noise_scale seconds_before seconds_after"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *map(str, arguments)])
    return ended.value.code, *capsys.readouterr()


def test_table_and_sentence(capsys):
    code, printed, _ = run(capsys, "--preset", "smith-increase")
    assert code == 0
    assert "78,200 updates at the constant batch, 29,240 as it grows: 2.67x fewer" in printed
    assert "coupling: linear(any_optimizer=True)" in printed
    assert "5,120" in printed


@pytest.mark.parametrize(
    ("given", "title"),
    [
        (["--growth", 2, "--every", 5, "--max-batch-size", 64], "times 2 every 5 epochs: "),
        (["--lr-schedule", "step:0.5:5", "--max-batch-size", 64], "step:0.5:5: "),
        (["--preset", "smith-increase"], "smith-increase: "),
    ],
)
def test_the_table_is_named_after_what_grows_the_batch(given, title, capsys):
    rest = [] if "--preset" in given else ["--batch-size", 16, "--dataset-size", 1000, "--epochs", 20]
    assert run(capsys, *given, *rest)[1].startswith(title)


@pytest.mark.parametrize("columns", [None, 40, 80, 200])
@pytest.mark.parametrize(
    ("given", "figure"),
    [
        (["--preset", "smith-resnet50"], "102,493,360"),
        (["--preset", "adabatch", "--task", "imagenet"], "76,870,020"),
        (["--preset", "smith-large"], "76,870,020"),
        (["--growth", 2, "--every", 10, "--dataset-size", 1281167, "--epochs", 90, "--batch-size", 256], "102,493,360"),
    ],
)
def test_figures_are_whole_however_narrow_the_place(given, figure, columns, capsys, monkeypatch):
    """Without columns, output goes to a file or a pipe."""
    if columns is not None:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
    code, printed, _ = run(capsys, *given)
    assert (code, "…" in printed) == (0, False)
    assert f" {figure} " in printed
    assert ("│" in printed) == (columns is not None)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_plans(name, capsys):
    code, printed, _ = run(capsys, "--preset", name, "--json")
    assert code == 0
    assert set(KEYS.split()) <= set(json.loads(printed))


def test_json_files_and_seconds(tmp_path, capsys):
    probe = tmp_path / "probe.json"
    probe.write_text(json.dumps({"curve": [{"batch_size": 16, "samples_per_second": {"median": 1600.0}}]}))
    out = tmp_path / "found"
    code, printed, _ = run(
        capsys, *COSINE, "--rule", "seesaw", "--max-batch-size", 64, "--probe", probe, "--out", out, "--json"
    )
    assert code == 0
    found = json.loads(printed)
    assert found == json.loads((out / "plan.json").read_text())
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert found["updates_before"] == 20 * 63
    assert found["seconds_before"] == pytest.approx(20 * 63 * 0.01, rel=0.01)  # a short update takes as long as a whole
    assert found["seconds_after"] < 1.01 * found["seconds_before"]
    assert max(found["sizes"]) == 64
    assert (found["rule"], found["coupling"], found["maximum"]) == ("seesaw", "sqrt", 64)
    code, printed, _ = run(capsys, *COSINE, "--probe", probe)
    assert "x faster" in printed


def test_processes_wanted_and_worker_hours(tmp_path, capsys):
    wanted = ["--preset", "smith-increase", "--world-sizes", "0:1 512:2 2K:4"]
    code, printed, _ = run(capsys, *wanted)
    assert code == 0
    assert "processes wanted: 30 % of the samples and 80.2 % of the updates with 1, 30 % of the samples and" in printed
    assert "5,120" in printed
    assert "worker-hours" not in printed
    probe = tmp_path / "probe.json"
    probe.write_text(json.dumps({"curve": [{"batch_size": 128, "samples_per_second": {"median": 128.0}}]}))
    _, printed, _ = run(capsys, *wanted, "--probe", probe)
    # 6,000,000 s of samples and more at 128/s: an update of 128 takes 1 s, larger ones in proportion
    found = json.loads(run(capsys, *wanted, "--probe", probe, "--json")[1])
    hours = (3e6 * 1 + 3e6 * 2 + 4e6 * 4) / 128 / 3600
    assert found["worker_hours"] == pytest.approx(hours, rel=1e-3)
    assert f"{found['worker_hours']:,.3g} worker-hours at the seconds of the probe" in printed
    assert found["world_sizes"] == [1, 2, 4, 4]
    assert [share["world_size"] for share in found["shares"]] == [1, 2, 4]
    assert (found["rule"], found["settings"]["world_sizes"]) == ("smith", "0:1 512:2 2K:4")


def test_what_is_given_goes_on_top_of_a_preset(capsys):
    code, printed, _ = run(capsys, "--preset", "smith-increase", "--max-batch-size", 50_000, "--json")
    assert code == 0
    assert json.loads(printed)["updates_after"] == 29_000


def test_the_lines_to_paste_run(capsys):
    capped = [*COSINE, "--max-batch-size", 64]
    code, printed, _ = run(capsys, *capped, "--emit", "python")
    assert code == 0
    model = torch.nn.Linear(1, 1)
    space: dict[str, Any] = {"torch": torch, "ab": ab, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    space["loader"] = ab.DataLoader(torch.arange(1000), batch_size=16)
    exec(printed, space)
    assert space["batches"].plan.updates == json.loads(run(capsys, *capped, "--json")[1])["updates_after"]
    found = json.loads(run(capsys, *capped, "--emit", "python", "--json")[1])
    assert found == {"python": printed.strip(), "notes": []}


FACTOR = [
    "--growth",
    2,
    "--every",
    2,
    "--max-batch-size",
    256,
    "--batch-size",
    16,
    "--dataset-size",
    1437,
    "--epochs",
    14,
]


@pytest.mark.parametrize(
    "given",
    [
        FACTOR,
        ["--preset", "adabatch"],
        [*FACTOR[:2], "--every", "4000 tokens", "--tokens-per-sample", 10, *FACTOR[4:]],
        [*COSINE, "--max-batch-size", 64, "--world-sizes", "0:1 32:2"],
        [*COSINE, "--max-batch-size", 64, "--coupling", "none"],
    ],
)
def test_the_lines_of_any_plan_give_the_plan(given, capsys):
    code, printed, _ = run(capsys, *given, "--emit", "python")
    assert code == 0
    found = json.loads(run(capsys, *given, "--json")[1])
    space: dict[str, Any] = {"torch": torch, "ab": ab}
    space["optimizer"] = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    size, ends = found["dataset_size"], {"drop_last": "adabatch" in given}
    space["loader"] = ab.DataLoader(torch.arange(size), batch_size=found["batch_size"], **ends)
    exec(printed, space)
    assert space["batches"].plan.updates == found["updates_after"]
    assert list(space["batches"].plan.sizes) == sorted(set(found["sizes"]))
    assert space["batches"]._coupling.describe() == found["coupling"]


def test_a_file_is_emitted_too(tmp_path, capsys):
    file = tmp_path / "growth.json"
    schedule = ab.schedules.steps("0:8 4000:16", unit="tokens")
    file.write_text(json.dumps(schedule.to_json()))
    given = ["--growth-file", file, "--dataset-size", 1000, "--epochs", 1]
    refused = run(capsys, *given, "--emit", "megatron")
    assert refused[0] == 2
    assert "must count epochs, samples or updates, got tokens" in refused[2]
    assert "give `--tokens-per-sample`, or write samples" in refused[2]
    code, printed, notes = run(capsys, *given, "--tokens-per-sample", 10, "--emit", "megatron")
    assert (code, printed, notes) == (0, '--step-batch-size-schedule "0:8 4K:16"\n', LINEAR)
    assert "tokens_per_sample=10" in run(capsys, *given, "--tokens-per-sample", 10, "--emit", "python")[1]


LINEAR = "note: Megatron-LM does not couple its LR to the batch: linear would multiply it by 2\n"


def test_other_trainers_run_over_the_ends_of_epochs(capsys):
    refused = run(capsys, *FACTOR, "--emit", "megatron")
    assert refused[0] == 2
    assert "`--tokens-per-sample` must be given for Megatron-LM, which counts tokens, got none" in refused[2]
    samples = [*FACTOR, "--tokens-per-sample", 1]
    code, printed, notes = run(capsys, *samples, "--emit", "megatron")
    assert (code, printed) == (0, '--step-batch-size-schedule "0:16 2880:32 5760:64 8640:128 11584:256"\n')
    told = notes.splitlines()
    assert told[1:] == ["note: batches run on over the ends of epochs there: 372 updates in place of 376"]
    found = json.loads(run(capsys, *samples, "--emit", "megatron", "--json")[1])
    assert [f"note: {note}" for note in found["notes"]] == told
    table = json.loads(run(capsys, *FACTOR, "--emit", "json")[1])
    assert (table["updates"], [row["samples"] for row in table["stages"]]) == (376, [0, 2874, 5748, 8622, 11496])


@pytest.mark.parametrize("form", ["csv", "maxtext", "nanogpt-stages", "olmo", "optax"])
def test_each_form_is_printed(form, capsys):
    whole = ["--growth-file", json.dumps(ab.schedules.steps("0:16 1600:32").to_json()), "--dataset-size", 6400]
    given = [*whole, "--epochs", 1, "--tokens-per-sample", 8, "--coupling", "sqrt"]
    given += [] if form == "csv" else ["--micro-batch-size", 4, "--ranks", 2]
    code, printed, _ = run(capsys, *given, "--emit", form)
    assert code == 0
    assert {
        "csv": "update,samples,tokens,batch_size,lr_factor\n0,0,0,16,1.0\n100,1600,12800,32,1.4142135623730951\n",
        "maxtext": "per_device_batch_size_start: 8\n",
        "nanogpt-stages": "TrainingStage(duration=100 / 250, batch_size=16 * 8, lr_mul=1),",
        "olmo": "    batch_sizes=[128, 256],\n    schedule=[Duration.tokens(0), Duration.tokens(12800)],\n",
        "optax": "EVERY_K = jnp.array([2, 4])\n",
    }[form] in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr-schedule", "cosine"], "`--batch-size` must be given without a preset"),
        (["--preset", "smith"], "`--preset` must be one of adabatch, fixed, "),
        ([*COSINE, "--rule", "linear"], "`--rule` must be one of smith, seesaw"),
        (
            [*COSINE, "--max-batch-size", 8],
            "`--max-batch-size` must be at least the batch size that growth starts from, 16, got 8",
        ),
        ([*COSINE, "--momentum", 1], "`--momentum` must be less than 1, got 1.0"),
        ([*COSINE, "--lr", 0], "`--lr` must be greater than 0, got 0"),
        ([*COSINE, "--lr-schedule", "sine"], "`--lr-schedule` must be a schedule, got 'sine'"),
        ([*COSINE, "--batch-size", 2000], "`--batch-size` must be at most the 1,000 samples"),
        ([*COSINE, "--round-to", 7], "`--round-to` must divide the batch size that training starts with, 16, got 7"),
        ([*COSINE, "--probe", "nowhere.json"], "nowhere.json"),
    ],
)
@pytest.mark.parametrize("extra", [[], ["--json"], ["--emit", "python"]])
def test_errors_are_one_line(arguments, message, extra, capsys):
    if "--probe" in arguments and extra == ["--emit", "python"]:
        return
    code, printed, error = run(capsys, *arguments, *extra)
    assert code == 2
    text = json.loads(printed)["error"]["message"] if extra == ["--json"] else error
    assert message in text
    assert len(text.strip().splitlines()) == 1


def test_a_probe_of_another_kind(tmp_path, capsys):
    (tmp_path / "text").write_text("no JSON")
    assert (
        "`--probe` must be a file that `adabatch probe` wrote" in run(capsys, *COSINE, "--probe", tmp_path / "text")[2]
    )
    (tmp_path / "other").write_text("{}")
    assert "`--probe` must be what `adabatch probe` wrote" in run(capsys, *COSINE, "--probe", tmp_path / "other")[2]


@pytest.mark.parametrize("point", ['"batch_size": 16, "samples_per_second": 1e999', '"batch_size": 1e400'])
def test_a_probe_that_was_damaged_by_hand(point, tmp_path, capsys):
    file = tmp_path / "probe.json"
    file.write_text(f'{{"curve": [{{"samples_per_second": 100, {point}}}]}}')
    code, _, error = run(capsys, *COSINE, "--probe", file)
    assert (code, error.count("\n")) == (2, 1)
    assert "`--probe` must be what `adabatch probe` wrote" in error


def test_notes_read_what_the_forecast_reads(tmp_path, capsys):
    file = tmp_path / "probe.json"
    points = [{"batch_size": size, "samples_per_second": 100} for size in ("64", 128)]
    file.write_text(json.dumps({"curve": points}))
    code, _, notes = run(capsys, *COSINE, "--probe", file)
    assert (code, "the probe measured 64 to 128; beyond, seconds of 16 to 100" in notes) == (0, True)


def test_a_preset_of_a_factor_plans_too(capsys):
    code, printed, _ = run(capsys, "--preset", "adabatch", "--json")
    found = json.loads(printed)
    assert (code, found["updates_before"], found["updates_after"]) == (0, 39_000, 15_080)
    assert found["sizes"] == [128, 256, 512, 1024, 2048]
    assert found["lr"] == pytest.approx([0.01 * 0.75**k for k in range(5)])
    code, printed, _ = run(capsys, "--preset", "adabatch", "--rule", "smith", "--json")
    assert json.loads(printed)["rule"] == "smith"


def test_a_long_look_at_the_lr_schedule_is_said(capsys, monkeypatch):
    monkeypatch.setattr(_shared, "_MANY_EPOCHS", 20)
    assert run(capsys, *COSINE)[2] == "note: the LR schedule is sampled at 20 epochs, which takes a while\n"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--out", None), ("--probe", None), ("--link", "pcie3"), ("--price", 2), ("--compress", "fp16")],
)
def test_lines_to_paste_come_without_what_they_cannot_use(flag, value, tmp_path, capsys):
    code, printed, error = run(capsys, *COSINE, "--emit", "python", flag, value or tmp_path / "there")
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert f"`--emit` must come without `{flag}`, got both" in error
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_tokens_if_it_knows_those_of_a_sample(capsys):
    sizes = ["--growth", 2, "--batch-size", 16, "--dataset-size", 1437, "--epochs", 14, "--max-batch-size", 256]
    code, _, error = run(capsys, *sizes, "--every", "1M tokens")
    assert (code, error.count("\n")) == (2, 1)
    assert "`--tokens-per-sample` must be given to count 1M tokens, got none; or give the interval in samples" in error
    code, printed, _ = run(capsys, *sizes, "--every", "287400 tokens", "--tokens-per-sample", 100, "--json")
    by_epochs = json.loads(run(capsys, *sizes, "--every", 2, "--json")[1])
    assert (code, json.loads(printed)["sizes"]) == (0, by_epochs["sizes"])
    assert json.loads(printed)["starts_samples"] == by_epochs["starts_samples"]


def test_what_only_other_trainers_need(capsys):
    for flag in ("--ranks", "--micro-batch-size"):
        code, _, error = run(capsys, *COSINE, flag, 2)
        assert code == 2
        assert f"`{flag}` must come with `--emit`, got it alone; only other trainers need it" in error
        for form in ("python", "csv", "json"):
            code, _, error = run(capsys, *COSINE, flag, 2, "--emit", form)
            assert code == 2
            assert f"`{flag}` must come with a form for another trainer, got {form}; leave it out, or emit one" in error
    code, _, error = run(capsys, *COSINE, "--emit", "excel")
    assert code == 2
    assert (
        "`--emit` must be one of python, csv, json, megatron, olmo, maxtext, nanogpt-stages, optax, got 'excel'"
        in error
    )


def test_a_factor_is_planned_as_it_is_trained(capsys):
    sizes = ["--growth", "2", "--every", "2", "--max-batch-size", "256", "--batch-size", "16"]
    code, printed, _ = run(capsys, *sizes, "--dataset-size", "1437", "--epochs", "14", "--json")
    found = json.loads(printed)
    assert (code, found["updates_before"], found["updates_after"]) == (0, 1_260, 376)
    assert found["sizes"] == [16, 32, 64, 128, 256]


@pytest.mark.parametrize(
    ("task", "model", "updates"),
    [("cifar10", "alexnet", (19_500, 7_520)), ("cifar100", "vgg19_bn", (39_000, 15_080))],
)
def test_a_training_of_a_preset(capsys, task, model, updates):
    code, printed, _ = run(capsys, "--preset", "adabatch", "--task", task, "--model", model, "--json")
    found = json.loads(printed)
    assert (code, found["updates_before"], found["updates_after"]) == (0, *updates)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--every", "2"], "`--every` must come with `--growth`, got it alone"),
        (["--growth", "2", "--rule", "smith"], "`--rule` must come without `--growth`, got both"),
        (["--growth", "1"], "`--growth` must be greater than 1, got 1"),
        (["--model", "alexnet"], "`--model` must come with `--preset`"),
        (["--task", "cifar10"], "`--task` must come with `--preset`"),
        (["--preset", "adabatch", "--task", "digits"], "`--task` must be one of cifar10, cifar100, imagenet, got "),
        (["--preset", "adabatch", "--model", "gpt"], "`--model` must be one of resnet20, vgg19_bn, alexnet"),
    ],
)
def test_what_does_not_go_together(capsys, flags, message):
    code, _, said = run(capsys, *COSINE, *flags)
    assert code == 2
    assert message in said


def test_growth_by_a_factor_is_not_rounded_in_silence(capsys):
    for growth in (["--growth", 2, "--every", 1, "--batch-size", 16, "--dataset-size", 100, "--epochs", 6],):
        code, _, error = run(capsys, *growth, "--round-to", 16)
        assert (code, error.count("\n")) == (2, 1)
        assert "`--round-to` must come with a rule, got 16 for growth by a factor" in error
    assert run(capsys, "--preset", "adabatch", "--round-to", 100)[0] == 2


def test_a_probe_of_something_else_is_noted(tmp_path, capsys):
    curve = [{"batch_size": size, "samples_per_second": 1000.0} for size in (64, 1024)]
    file = tmp_path / "probe.json"
    file.write_text(json.dumps({"task": "digits", "model": "small_cnn", "curve": curve}))
    code, printed, notes = run(capsys, "--preset", "smith-increase", "--probe", file, "--json")
    assert (code, "seconds_after" in json.loads(printed)) == (0, True)
    assert "note: the probe is of task digits, the plan of cifar10" in notes
    assert "note: the probe is of model small_cnn, the plan of wrn16_4" in notes
    assert "note: the probe measured 64 to 1,024; beyond, seconds of 128 to 5,120 are a guess" in notes
    _, _, notes = run(capsys, *COSINE, "--batch-size", 64, "--max-batch-size", 128, "--probe", file)
    assert notes == ""


@pytest.mark.parametrize("name", ["m[/b]", "m[red]x", ":snake:"])
def test_a_path_is_printed_as_it_is(tmp_path, capsys, name):
    code, printed, _ = run(capsys, *COSINE, "--out", tmp_path / name)
    assert code == 0
    assert printed.endswith(f"written to {tmp_path / name}\n")


def test_without_matplotlib_json_stays_json(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name))
    code, printed, notes = run(capsys, *COSINE, "--out", tmp_path, "--json")
    assert (code, json.loads(printed)) == (0, json.loads((tmp_path / "plan.json").read_text()))
    assert notes == "no picture without matplotlib; run: pip install 'adabatch[plot]'\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "report.html"]


def test_an_earlier_plan_keeps_its_files_under_other_names(tmp_path, capsys):
    assert run(capsys, "--preset", "adabatch", "--out", tmp_path)[2] == ""
    before = (tmp_path / "plan.json").read_text()
    code, _, told = run(capsys, "--preset", "smith-increase", "--out", tmp_path)
    assert (code, told) == (0, f"note: the plan that was in {tmp_path} before is plan-1.json now\n")
    assert (tmp_path / "plan-1.json").read_text() == before
    assert (tmp_path / "plan.json").read_text() != before
    assert (tmp_path / "plan-1.png").exists()


# On more workers.


@pytest.fixture
def probes(tmp_path):
    """Files of a probe of one process and of one of two."""
    files = []
    for workers in (1, 2):
        values = {"task": "digits", "model": "resnet20"} | probe_of(model(), [16, 64, 256], workers=workers)
        for point in values["curve"]:
            point["samples_per_second"]["median"] = point["samples_per_second"]["values"][1]
        files.append(tmp_path / f"probe-{workers}.json")
        files[-1].write_text(json.dumps(values))
    return files


GROWING = ["--growth", 4, "--every", 5, "--max-batch-size", 256, *COSINE[2:]]


def test_on_more_workers(probes, tmp_path, capsys):
    link = ["--link", "infiniband-fdr", "--price", 3, "--probe", probes[0]]
    code, printed, errors = run(capsys, *GROWING, "--workers", "16,1,16", *link, "--out", tmp_path / "out", "--json")
    assert code == 0
    found = json.loads(printed)["workers"]
    assert [row["workers"] for row in found["rows"]] == [1, 16], "each once, in order"
    assert [size["batch_size"] for size in found["sizes"]] == [16, 64, 256]
    assert "16 workers have 1 of 16 samples each, and the probe measured from 16 on" in errors
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["workers"] == found
    page = (tmp_path / "out" / "report.html").read_text()
    assert "On more workers" in page
    assert "two links of nominal 56 Gbit/s" in page
    code, printed, _ = run(capsys, *GROWING, "--workers", "1,16", *link)
    assert "The training on more workers" in printed
    assert "Over infiniband-fdr, twice the workers make an update at least 1.5 times as fast up to " in printed
    assert "cost" in printed


def test_a_schedule_with_a_mean_is_planned_against_that_batch(probes, tmp_path, capsys):
    growth = ab.schedules.last_iterate({0: 0.1}, over=ab.epochs(4), minimum=16, maximum=256)
    (tmp_path / "schedule.json").write_text(json.dumps(growth.to_json()))
    given = ["--growth-file", tmp_path / "schedule.json", "--dataset-size", 6400, "--epochs", 4, "--batch-size", 64]
    seconds = ["--workers", 1, "--link", "ethernet-10g", "--probe", probes[0]]
    found = json.loads(run(capsys, *given, *seconds, "--json")[1])
    assert (found["batch_size"], found["updates_before"]) == (64, 400)
    assert found["sizes"][0] < 64
    (row,) = found["workers"]["rows"]
    constant = [*given[2:], "--growth", 2, "--every", 9, "--max-batch-size", 128]
    at_64 = json.loads(run(capsys, *constant, *seconds, "--json")[1])["workers"]["rows"][0]["constant_seconds"]
    assert row["constant_seconds"] == at_64


def test_the_link_of_a_probe_under_torchrun(probes, capsys):
    both = ["--probe", probes[1], "--probe", probes[0], "--json"]
    for link in ([], ["--link", "probe"]):
        found = json.loads(run(capsys, *GROWING, "--workers", "1,2,4", *both, *link)[1])
        assert found["workers"]["link"]["source"] == "measured over 2 processes (gloo)"
    seconds = [row["seconds"]["median"] for row in found["workers"]["rows"]]
    assert found["seconds_after"] == pytest.approx(seconds[0], rel=0.02), "of one process"
    narrow = json.loads(run(capsys, *GROWING, "--workers", "4", *both, "--compress", "bf16")[1])
    assert narrow["workers"]["rows"][0]["seconds"]["median"] <= seconds[2]


def test_a_preset_s_own_compression_is_planned(probes, capsys):
    given = ["--preset", "akiba-small", "--workers", "64", "--link", "ethernet-10g", "--probe", probes[0]]
    found = {
        name: json.loads(run(capsys, *given, *flags, "--json")[1])["workers"]
        for name, flags in (("own", []), ("fp16", ["--compress", "fp16"]), ("none", ["--compress", "none"]))
    }
    assert found["own"] == found["fp16"]
    assert (found["own"]["compress"], found["none"]["compress"]) == ("fp16", None)
    seconds = {name: each["rows"][0]["seconds"]["median"] for name, each in found.items()}
    assert seconds["own"] < seconds["none"]
    assert "Over ethernet-10g with gradients in fp16, twice the workers" in run(capsys, *given)[1]


def test_worker_hours_count_the_processes_of_the_probe(probes, capsys):
    hours = []
    for file in probes:
        found = json.loads(run(capsys, *GROWING, "--probe", file, "--json")[1])
        hours.append(found["worker_hours"] * 3600 / found["seconds_after"])
    assert hours == pytest.approx([1, 2])


def test_where_no_second_worker_pays_it_says_so(probes, capsys):
    values = json.loads(probes[0].read_text())
    values["optimizer_seconds"]["values"] = [50.0, 50.0, 50.0]
    probes[0].write_text(json.dumps(values))
    given = ["--workers", "1,2", "--link", "pcie3", "--probe", probes[0]]
    printed = " ".join(run(capsys, *GROWING, *given)[1].split())
    assert (
        "Over pcie3, two workers make an update less than 1.5 times as fast as one at a batch of 16, 64 and 256."
        in printed
    )


def test_two_probes_of_different_networks_are_refused(probes, capsys):
    probes[1].write_text(json.dumps(json.loads(probes[1].read_text()) | {"model": "mlp"}))
    both = ["--probe", probes[0], "--probe", probes[1]]
    code, _, errors = run(capsys, *GROWING, "--workers", "2", *both)
    assert code == 2
    assert "error: `--probe` must be of one model where two are given, got resnet20 and mlp; probe the same" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "`--workers` must be at least 1, got 0; write for example 1,4,64"),
        (["--workers", "-4"], "`--workers` must be at least 1, got -4"),
        (["--workers", "1,many"], "`--workers` must be whole numbers, got '1,many'; write for example 1,4,64"),
        (["--workers", "2", "--link", "pigeon"], "`--link` must be probe, ethernet-10g, "),
        (
            ["--workers", "2"],
            "`--link` must be given where no probe measured one, got none; name one, such as ethernet",
        ),
        (["--workers", "2", "--price", "-1"], "`--price` must be at least 0, got -1"),
        (["--workers", "2", "--compress", "int8"], "`--compress` must be one of fp16, bf16, none, got 'int8'"),
        (["--link", "pcie3"], "`--link` must come with `--workers`, got it alone; say on how many"),
        (["--price", "3"], "`--price` must come with `--workers`"),
    ],
)
def test_what_is_wrong_with_workers(probes, flags, message, capsys):
    code, _, errors = run(capsys, *GROWING, "--probe", probes[0], *flags)
    assert code == 2
    assert f"error: {message}" in errors


def test_workers_need_a_probe_of_one_process(probes, capsys):
    for given in ([], ["--probe", probes[1]], ["--probe", probes[0], "--probe", probes[0]]):
        code, _, errors = run(capsys, *GROWING, "--workers", "2", "--link", "pcie3", *given)
        assert code == 2
        assert (
            "error: `--probe` must be given for `--workers`: one of one process, and at most one of several" in errors
        )


def test_without_workers_one_probe_is_enough(probes, capsys):
    code, _, errors = run(capsys, *GROWING, "--probe", probes[0], "--probe", probes[1])
    assert code == 2
    assert "error: `--probe` must be given once without `--workers`, got 2; say on how many workers" in errors


def test_a_probe_of_another_task_is_noted(probes, capsys):
    given = ["--preset", "akiba-small", "--task", "cifar10", "--workers", "2", "--link", "pcie3", "--probe", probes[0]]
    code, _, errors = run(capsys, *given)
    assert code == 0
    assert "note: the probe is of task digits, the plan of cifar10; its seconds are another's" in errors
