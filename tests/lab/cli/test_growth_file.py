"""`--growth-file` of each command that grows a batch, and on pages: a path goes in, the schedule stays."""

from __future__ import annotations

import html
import json
import re

import pytest
from tests.lab.cli.checks import QUICK, refused, run
from tests.lab.cli.test_torchrun import ended, started

from adabatch import schedules
from adabatch.lab.cli import _options
from adabatch.lab.training import RunConfig, saved_config
from adabatch.lab.training.growth import file_text
from adabatch.units import epochs, tokens

STEPS = schedules.steps({0: 16, epochs(1): 32})
LONG = schedules.steps({epochs(k): 16 + k for k in range(1000)})
WORDS = f"16, 32 from 1 epoch ({STEPS.fingerprint()[:8]})"
SIZES = ["--dataset-size", "1437", "--epochs", "4"]


def write(folder, schedule, name="schedule.json"):
    (folder / name).write_text(json.dumps(schedule.to_json(), indent=2))
    return name


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with STEPS in `schedule.json`."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, STEPS)
    return tmp_path


def shown(page):
    """The page's text without marks."""
    return html.unescape(re.sub(r"<[^>]*>", " ", page.read_text().partition("<main")[2].partition("</main>")[0]))


def test_a_run_keeps_the_schedule_and_not_the_path(here, capsys):
    assert run("train", "digits", *QUICK, "--growth-file", "schedule.json", "--out", "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["samples_per_second"]) == ["16", "32"]
    assert found["config"]["growth_file"] == json.dumps(STEPS.to_json(), separators=(",", ":"))
    assert WORDS in shown(here / "run" / "report.html")
    assert '"kind"' not in shown(here / "run" / "report.html")
    write(here, STEPS, "copy.json")
    (here / "schedule.json").unlink()
    assert run("train", "--out", "run", "--resume", "--quiet") == 0
    assert run("train", "--out", "run", "--resume", "--growth-file", "copy.json", "--quiet") == 0
    capsys.readouterr()
    for other in (schedules.steps({0: 16, epochs(1): 64}), schedules.steps({0: 24, epochs(1): 32})):
        write(here, other, "copy.json")
        message = refused(capsys, "train", "--out", "run", "--resume", "--growth-file", "copy.json")
        assert message.startswith("`--resume` must keep the settings of the run, got others (now and saved): ")
        assert f"growth_file: {other.describe()} ({other.fingerprint()[:8]}) and {WORDS}; leave them out" in message


def test_a_run_whose_file_is_gone_goes_on_with_more_epochs(here, capsys):
    given = ["--growth-file", "schedule.json", "--lr-schedule", "constant", "--quiet"]
    assert run("train", "digits", *QUICK, *given, "--epochs", "1", "--out", "run") == 0
    (here / "schedule.json").unlink()
    capsys.readouterr()
    assert run("train", "--out", "run", "--resume", "--epochs", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["batch_sizes"] == [16, 32]


def test_settings_of_a_file_and_of_a_preset(here, capsys):
    (here / "mine.json").write_text(json.dumps({"task": "digits", "growth_file": "schedule.json", "model": "mlp"}))
    assert run("train", "--config", "mine.json", *QUICK, "--quiet", "--out", "run") == 0
    (here / "schedule.json").unlink()
    assert run("train", "--config", "run", "--quiet", "--out", "again") == 0
    assert saved_config(here / "again") == saved_config(here / "run")
    assert saved_config(here / "run").schedule() == STEPS
    assert run("train", "--config", "run", "--growth-file", "none", "--quiet", "--out", "constant") == 0
    assert not saved_config(here / "constant").grows
    write(here, STEPS)
    given = {"growth_file": "schedule.json"}
    task, merged = _options.merged_settings("cifar10", given, preset="adabatch", file=None)
    found = _options.run_config(task, merged, file=None)
    assert (found.growth, found.batch_size, found.max_batch_size) == (None, 16, None)
    assert (found.schedule(), found.lr_schedule) == (STEPS, "step:0.375:20")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--every", "2"], "every"),
        (["--max-batch-size", "256"], "max-batch-size"),
        (["--growth", "2"], "growth"),
        (["--rule", "smith"], "rule"),
        (["--preset", "adabatch", "--every", "2"], "every"),
    ],
)
@pytest.mark.parametrize(
    "command", [["train", "digits"], ["compare", "digits"], ["plan", *SIZES]], ids=lambda it: it[0]
)
def test_what_does_not_go_with_a_file(here, capsys, command, options, name):
    if "--preset" in options:
        command = ["plan", *SIZES] if command[0] == "plan" else [command[0], "cifar10"]
    message = refused(capsys, *command, "--growth-file", "schedule.json", *options)
    assert message == (
        f"`--{name}` must come without `--growth-file`, got both; the schedule in the file says how the batch grows"
    )


@pytest.mark.parametrize(
    "command", [["train", "digits"], ["compare", "digits"], ["plan", *SIZES]], ids=lambda it: it[0]
)
def test_files_that_are_refused(here, capsys, command):
    write(here, schedules.steps({0: 16, tokens(10_000): 32}), "tokens.json")
    write(here, schedules.steps({0: 16, epochs(1): 2000}), "large.json")
    told = {
        "missing.json": "must be a file, got 'missing.json', which is not there; look",
        ".": "must be a file, got '.' (a folder in place of a file); write ",
        "tokens.json": "must count epochs, samples or updates, got tokens (16, 32 from 10,000 tokens); ",
        "large.json": "must fit a training of 4 epochs of 1,437 samples, got 16, 2,000 from 1 epoch (batch_size must",
    }
    for name, words in told.items():
        message = refused(capsys, *command, "--epochs", "4", "--growth-file", name)
        assert message.startswith(f"`--growth-file` {words}")
    message = refused(capsys, *command, "--growth-file", "schedule.json", "--batch-size", "32")
    assert message.startswith("`--growth-file` must be for `--batch-size` = 32, got one for 16 (16, 32 from 1 epoch); ")
    assert sorted(path.name for path in here.iterdir()) == ["large.json", "schedule.json", "tokens.json"]


def test_a_comparison_of_the_schedule(here, capsys):
    quick = [*QUICK, "--seeds", "1", "--json"]
    assert run("compare", "digits", *quick, "--growth-file", "schedule.json", "--out", "standard") == 0
    found = json.loads(capsys.readouterr().out)["settings"]
    assert [arm["growth_file"] for arm in found.values()] == [None, None, *[file_text("schedule.json")] * 2]
    assert {name: arm["batch_size"] for name, arm in found.items()} == {
        "fixed-small": 16, "fixed-large": 32, "adaptive": 16, "uncoupled": 16,
    }  # fmt: skip
    page = shown(here / "standard" / "report.html")
    assert (page.count(WORDS), '"kind"' in page) == (2, False)


def test_arms_of_schedules(here, capsys):
    write(here, LONG, "long one.json")
    arms = ["--arm", "mine: growth-file=schedule.json", "--arm", "long: growth-file='long one.json'"]
    assert run("compare", "digits", *QUICK, "--seeds", "1", *arms, "--json", "--out", "arms") == 0
    assert [arm["name"] for arm in json.loads(capsys.readouterr().out)["arms"]] == ["fixed-small", "mine", "long"]
    page = shown(here / "arms" / "report.html")
    assert (WORDS in page, f"({LONG.fingerprint()[:8]})" in page, '"kind"' in page) == (True, True, False)
    assert max(map(len, page.split("  "))) < 2000
    runs = [str(here / "arms" / "runs" / name / "seed-0") for name in ("mine", "long")]
    assert run("report", *runs, "--out", "both.html") == 0
    page = shown(here / "both.html")
    assert (WORDS in page, f"({LONG.fingerprint()[:8]})" in page, '"kind"' in page) == (True, True, False)


def test_a_plan_of_the_schedule(here, capsys):
    given = ["plan", "--growth-file", "schedule.json", *SIZES]
    assert run(*given, "--out", "plan") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("16, 32 from 1 epoch: 4 epochs of 1,437 samples")
    assert "360 updates at the constant batch, 225 as it grows: 1.60x fewer" in printed
    assert "coupling: linear" in printed
    assert run(*given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((here / "plan" / "plan.json").read_text())
    assert (found["title"], found["sizes"], found["rule"]) == ("16, 32 from 1 epoch", [16, 32], None)
    assert (
        found["updates_after"] == RunConfig.for_task("digits", growth_file="schedule.json", epochs=4).plan(1437).updates
    )
    assert (here / "plan" / "plan.png").read_bytes().startswith(b"\x89PNG")
    page = shown(here / "plan" / "report.html")
    assert (WORDS in page, '"kind"' in page) == (True, False)


def test_a_plan_on_top_of_a_preset(here, capsys):
    assert run("plan", "--preset", "adabatch", "--growth-file", "schedule.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (set(found["sizes"]), found["maximum"], found["settings"]["lr_schedule"]) == (
        {16, 32},
        None,
        "step:0.375:20",
    )
    assert run("plan", "--preset", "adabatch", "--growth-file", "none", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == [128, 256, 512, 1024, 2048]


def test_a_plan_of_a_long_schedule_has_a_short_title(here, capsys):
    write(here, schedules.then(LONG, STEPS, after=epochs(1000)), "long.json")
    assert run("plan", "--growth-file", "long.json", *SIZES, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["title"]) == 60


def test_a_plan_of_a_schedule_that_takes_any_size(here, capsys):
    write(here, schedules.from_lr({0: 0.1, epochs(1): 0.05}, rule="seesaw", maximum=64), "any.json")
    assert refused(capsys, "plan", "--growth-file", "any.json", *SIZES).startswith(
        "`--batch-size` must be given without a preset, got none"
    )
    assert run("plan", "--growth-file", "any.json", "--batch-size", "16", *SIZES, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sizes"], found["coupling"], found["rule"]) == ([16, 32], "sqrt", "seesaw")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--round-to", "8"],
            "`--round-to` must come with a rule, got 8 for growth by a file; choose a schedule whose",
        ),
        (["--emit", "olmo"], "`--tokens-per-sample` must be given for OLMo-core, which counts tokens, got none"),
    ],
)
def test_what_a_plan_of_a_file_does_not_know(here, capsys, options, message):
    assert message in refused(capsys, "plan", "--growth-file", "schedule.json", *SIZES, *options)


@pytest.mark.slow
def test_under_torchrun(here):
    code, output, errors = ended(
        started(
            "train",
            "digits",
            *QUICK,
            "--growth-file",
            str(here / "schedule.json"),
            "--json",
            "--out",
            str(here / "two"),
        )
    )
    assert code == 0, errors
    assert json.loads(output)["batch_sizes"] == [16, 32]
    assert saved_config(here / "two").schedule() == STEPS
