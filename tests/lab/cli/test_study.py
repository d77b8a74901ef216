"""`adabatch study` as a user types it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import warnings

import pytest
from tests.lab.cli.checks import refused, run
from tests.lab.study import studies
from tests.lab.study.studies import bare

from adabatch.lab.cli.study import progress_table
from adabatch.lab.study import cooled
from adabatch.lab.study.board import Standing
from adabatch.lab.study.curve import Curve
from adabatch.lab.study.due import due_by_case, in_order
from adabatch.lab.study.sweep import View
from adabatch.lab.tasks import decode

QUICK = [
    "study",
    "digits",
    "--models",
    "mlp",
    "--batch-sizes",
    "64,256",
    "--seeds",
    "1",
    "--epochs",
    "1",
    "--threads",
    "1",
]
QUICK += ["--max-epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(*QUICK, "--quiet", "--out", str(out)) == 0
    return out


@pytest.fixture
def out(finished, tmp_path):
    """A copy of a finished study."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_the_smallest_form(tmp_path, capsys):
    assert run(*QUICK, "--seeds", "2", "--out", str(tmp_path / "out"), "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert found == json.loads((tmp_path / "out" / "study.json").read_text())
    assert found["task"] == "digits"
    (rule,) = found["panels"][0]["rules"]
    assert [cell["batch_size"] for cell in rule["cells"]] == [64, 256]
    assert [run["seed"] for cell in rule["cells"] for run in cell["curves"]] == [0, 1, 0, 1]
    assert all(cell["linear_approximation_error"]["estimate"] > 0 for cell in rule["cells"])
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"study.db", "study.json", "report.html", "study.csv"} < files
    assert "states" not in files


def test_lines_of_a_log(tmp_path, capsys):
    assert run(*QUICK, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[0] == "0 of 2 trainings known so far"
    assert re.fullmatch(r"1 of 2 trainings known so far, \d:\d\d:\d\d left", lines[1])
    assert lines[-1] == "2 of 2 trainings known so far, 0:00:00 left"
    assert f"Written to {tmp_path}: study.json, " in printed.out
    assert f"--out {tmp_path.parent / 'probe-digits'} --device cpu --threads 1" in printed.out


def test_quiet_says_nothing_on_the_way(tmp_path, capsys):
    assert run(*QUICK, "--quiet", "--out", str(tmp_path)) == 0
    assert capsys.readouterr().err == ""


def test_the_table_of_progress_counts_a_shared_training_once():
    grid = studies.grid(rules=("constant", "linear", "sqrt"))

    def column(curves):
        jobs = due_by_case(grid, curves)
        view = View(grid, Standing(curves, {}), in_order(jobs), jobs)
        names, *sizes = ([*each.cells] for each in progress_table(grid, view).columns)
        assert names == ["mlp constant", "mlp linear", "mlp sqrt"]
        counts = [int(cell.removesuffix(" left")) for size in sizes for cell in size if cell.endswith("left")]
        assert sum(counts) == len(view.due)
        return sizes

    assert column({}) == [["2 left", "as above", "as above"], ["2 left"] * 3]
    shared = [job for job in studies.due(grid, {}) if job.batch_size == 10]
    assert column({job.key: studies.curve(job) for job in shared[:1]})[0] == ["1 left", "as above", "as above"]
    assert column({job.key: studies.curve(job) for job in shared}) == [["done"] * 3, ["2 left"] * 3]


def test_a_finished_study_is_told_again_without_training(out, capsys, monkeypatch):
    monkeypatch.delattr(cooled, "train")
    before = json.loads((out / "study.json").read_text())
    assert run(*QUICK, "--out", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == before


def test_more_seeds_add_trainings_and_change_none(out, capsys):
    before = json.loads((out / "study.json").read_text())
    assert run(*QUICK, "--seeds", "2", "--out", str(out), "--json") == 0
    after = json.loads(capsys.readouterr().out)
    for old, new in zip(before["panels"][0]["rules"][0]["cells"], after["panels"][0]["rules"][0]["cells"], strict=True):
        assert new["curves"][:1] == old["curves"]
        assert len(new["curves"]) == 2


@pytest.mark.parametrize("more", [("--seeds", "1"), ("--seeds", "2", "--seed", "1"), ("--seeds", "3", "--seed", "1")])
def test_seeds_that_are_finished_cannot_be_left_out(out, capsys, more):
    """Results of more seeds are the better ones."""
    assert run(*QUICK, "--seeds", "2", "--out", str(out), "--json") == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = refused(capsys, *QUICK, *more, "--out", str(out))
    assert message.startswith(f"`--seeds` must hold those of {out / 'study.json'}, 0, 1, got ")
    assert message.endswith("; give as many or more, from the same `--seed` on, or another `--out`")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_study_whose_table_is_lost_is_written_again(out):
    before = bare(json.loads((out / "study.json").read_text()))
    (out / "study.json").unlink()
    assert run(*QUICK, "--quiet", "--out", str(out)) == 0
    assert bare(json.loads((out / "study.json").read_text())) == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lr", "0.3"], "lr 0.004 there and 0.3 here"),
        (["--batch-sizes", "64,128"], r"batch_sizes \[64, 256\] there and \[64, 128\] here"),
        (["--target", "paper"], "target best there and paper here"),
        (["--test-samples", "100"], "test_samples None there and 100 here"),
    ],
)
def test_other_settings_are_refused_with_the_difference(out, capsys, more, words):
    before = (out / "study.json").read_bytes()
    message = refused(capsys, *QUICK, "--out", str(out), *more)
    assert re.search(words.replace("0.004", r"[\d.]+"), message)
    assert message.endswith("; give the former settings, or another --out or --name")
    assert (out / "study.json").read_bytes() == before


def test_another_name_is_another_study(out, capsys):
    assert run(*QUICK, "--lr", "0.3", "--name", "other", "--out", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["base"]["lr"] == 0.3


BAD = {
    "one batch size": (["--batch-sizes", "64"], "`--batch-sizes` must be at least two, got [64]; one batch size tells"),
    "a double": (["--batch-sizes", "64,64"], "`--batch-sizes` must hold at least one value, each once, got [64, 64]"),
    "falling": (["--batch-sizes", "256,64"], "`--batch-sizes` must increase"),
    "a blank": (
        ["--batch-sizes", "64,,256"],
        "`--batch-sizes` must be whole numbers with commas between, got '64,,256'",
    ),
    "nothing": (["--batch-sizes", ""], "`--batch-sizes` must be whole numbers with commas between, got ''"),
    "no number": (["--batch-sizes", "64,many"], "`--batch-sizes` must be whole numbers"),
    "negative": (["--batch-sizes=-64,256"], "`--batch-sizes` must be"),
    "too large": (
        ["--batch-sizes", "64,2000"],
        "`--batch-sizes` must be at most the 1,437 samples of the data set, got",
    ),
    "larger than the share": (
        ["--fractions", "1,0.1"],
        "`--batch-sizes` must be at most the 144 samples of 0.1 of the data set, got 256; leave out larger ones",
    ),
    "both": (["--batch-size", "64"], "`--batch-size` must come without `--batch-sizes`, got both; leave one out"),
    "a rule": (["--lr-rules", "cubic"], "`--lr-rules` must be"),
    "no rule": (["--lr-rules", ""], "`--lr-rules` must be"),
    "a rule twice": (["--lr-rules", "sqrt,sqrt"], "`--lr-rules` must hold at least one value, each once"),
    "shares": (["--fractions", "0.5,1"], "`--fractions` must decrease"),
    "a share of nothing": (["--fractions", "0"], "`--fractions` must be"),
    "no share": (["--fractions", "half"], "`--fractions` must be numbers with commas between, got 'half'"),
    "a share that is none": (["--fractions", "nan"], "`--fractions` must be"),
    "no seeds": (["--seeds", "0"], "`--seeds` must be"),
    "a budget that shrinks": (["--max-epochs", "1", "--epochs", "2"], "`--max-epochs` must be"),
    "a target": (["--target", "0.5"], "`--target` must be"),
    "a model of another task": (["--models", "gpt"], "`--models` must be"),
    "a model twice": (["--models", "mlp,mlp"], "`--models` must hold at least one value, each once"),
    "no tests": (["--test-samples", "0"], "`--test-samples` must be"),
    "more tests than there are": (["--test-samples", "361"], "`--test-samples` must be at most the 360 that there are"),
    "more samples than there are": (["--train-samples", "2000"], "`--train-samples` must be at most the 1,437"),
    "no jobs": (["--jobs", "0"], "`--jobs` must be at least 1, got 0"),
    "no address": (["--storage", "study.db"], "`--storage` must be the address of a database, or a path"),
    "no server": (["--storage", "postgresql+psycopg://u:hush@127.0.0.1:9/db"], "`--storage` must lead to a storage of"),
    "an empty address": (["--storage", ""], "`--storage` must be the address of a database, or a path that ends in"),
    "memory": (["--storage", "sqlite://"], "`--storage` must outlive this process"),
    "a directory": (["--storage", "sqlite:////"], "`--storage` must lead to a storage of Optuna's that can be reached"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("adabatch.lab.study.board.OPEN_SECONDS", 0.1)
    more, words = BAD[name]
    message = refused(capsys, *QUICK, "--out", str(tmp_path / "out"), *more)
    assert message.startswith(words)
    assert "hush" not in message
    assert list(tmp_path.iterdir()) == []


def test_networks_of_different_lrs_are_refused_without_one(tmp_path, capsys):
    words = ["study", "gpt-tiny", "--models", "gpt,lstm", "--out", str(tmp_path / "out")]
    message = refused(capsys, *words)
    assert message.startswith("`--lr` must be given or tuned for networks of different LRs, got gpt with 0.001, ")
    for more in (["--lr", "0.002"], ["--optimizer", "sgd"], ["--lr-rules", "tuned"]):
        assert "--batch-sizes" in refused(capsys, *words, *more, "--batch-sizes", "16")


def test_a_folder_of_another_command_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert "`--out` must not hold a run" in refused(capsys, *QUICK, "--out", str(tmp_path))


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = refused(capsys, *QUICK, "--out", str(tmp_path / "file" / "out"))
    assert message.startswith("`--out` must be a folder that can be written")


def test_a_damaged_storage(out, capsys, monkeypatch):
    monkeypatch.setattr("adabatch.lab.study.board.OPEN_SECONDS", 0.1)
    (out / "study.db").write_text("nothing of the kind\n" * 50)
    message = refused(capsys, *QUICK, "--out", str(out))
    assert message.startswith(f"`--out` must lead to a storage of Optuna's that can be reached, got sqlite:///{out}")
    assert "(file is not a database); see that its folder is there and has space, and delete a damaged file" in message


def test_an_error_in_the_middle_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    train = cooled.train

    def lose(job, *args, **more):
        if job.batch_size == 256:
            with sqlite3.connect(tmp_path / "study.db") as found:
                found.execute("DROP TABLE trials")
        return train(job, *args, **more)

    monkeypatch.setattr(cooled, "train", lose)
    assert run(*QUICK, "--quiet", "--out", str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: `--out` must lead to a storage of Optuna's that can be reached")
    assert "no such table: trials" in message


def test_targets_that_are_never_reached_are_said_so(tmp_path, capsys):
    """At LRs at which nothing is learned no run goes on, and none is dropped."""
    more = ["--lr", "1e-9", "--epochs", "1", "--max-epochs", "2", "--batch-sizes", "64,128,256"]
    assert run(*QUICK, *more, "--out", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (rule,) = found["panels"][0]["rules"]
    assert [len(cell["curves"]) for cell in rule["cells"]] == [1, 1, 1]
    assert sum(cell["stopped"].get("out of reach", 0) + cell["stopped"].get("budget", 0) for cell in rule["cells"]) >= 1
    assert len(rule["test"]["to_target"]) == 3


def test_all_diverged_is_an_answer(tmp_path, capsys):
    assert run(*QUICK, "--lr", "1e30", "--out", str(tmp_path)) == 0
    found = json.loads((tmp_path / "study.json").read_text())
    (rule,) = found["panels"][0]["rules"]
    assert [cell["stopped"] for cell in rule["cells"]] == [{"diverged": 1}] * 2
    assert (rule["test"]["target"], found["critical_batch"]) == (None, None)


def test_default_batch_sizes_are_doublings_up_to_a_quarter_of_the_smallest_share(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cooled, "train", lambda job, *args, **more: Curve((), "lost"))
    words = ["study", "digits", "--models", "mlp", "--batch-size", "16", "--seeds", "1", "--fractions", "1,0.5"]
    assert run(*words, "--out", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["batch_sizes"] == [16, 32, 64, 128]


@pytest.mark.parametrize(
    ("more", "name", "got"),
    [
        (("--fractions", "0"), "fractions", "0.0"),
        (("--fractions", "1,0.01"), "fractions", "0.01"),
        (("--fractions", "nan"), "fractions", "nan"),
        (("--train-samples", "100"), "train-samples", "100"),
        (("--batch-size", "1000"), "batch-size", "1000"),
    ],
)
def test_too_few_samples_for_default_batch_sizes_name_what_is_given(tmp_path, capsys, more, name, got):
    message = refused(capsys, "study", "digits", *more, "--out", str(tmp_path / "out"))
    assert message.startswith(f"`--{name}` must leave at least ")
    assert f" samples in each share, eight times the smallest batch size, got {got}; or give `--batch-" in message


def test_more_threads_than_cores_are_warned_of(out, capsys):
    """The study is finished, so no worker starts."""
    warnings.simplefilter("default")  # pytest puts the filters back
    assert run(*QUICK, "--out", str(out), "--jobs", str(decode.cores() + 1), "--quiet") == 0
    message = capsys.readouterr().err
    assert re.fullmatch(r"warning: \d+ trainings at once of 1 threads each on \d+ cores? slow each other .*\n", message)


BRANCH = ("study", "digits", "--models", "mlp", "--threads", "1", "--epochs", "1", "--seeds", "1")


def test_branches_from_the_command(tmp_path, capsys):
    words = (
        *BRANCH,
        "--branch",
        "--batch-sizes",
        "16,32",
        "--lr-rules",
        "linear",
        "--forks",
        "0.2",
        "--windows",
        "0.3",
    )
    assert run(*words, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["7 of 7 branches measured"]
    assert "does no harm to the test loss" in printed.out
    assert "branch.json, schedule.json, branch.png, branch-harmless.png, branch-schedule.png, branch.csv" in printed.out
    files = {"branch.json", "schedule.json", "branches.json", "branch.png", "branch.csv", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} >= files
    assert "What a larger batch costs" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "schedule.json").read_text())["kind"] == "steps"
    assert run(*words, "--out", str(tmp_path), "--json") == 0  # nothing is measured again
    printed = capsys.readouterr()
    assert printed.err == ""
    assert len(json.loads(printed.out)["cells"]) == 1
    assert "must not hold a branch" in refused(capsys, *QUICK, "--out", str(tmp_path))
    before = (tmp_path / "branch.json").read_bytes()
    message = refused(capsys, *words, "--seed", "1", "--out", str(tmp_path))
    assert message.startswith(f"`--seeds` must hold those of {tmp_path / 'branch.json'}, 0, got 1; give as many")
    assert (tmp_path / "branch.json").read_bytes() == before


def test_branches_on_the_first_samples(tmp_path, capsys):
    """The schedule is for the whole training set, as that of an advice is."""
    few = ("--train-samples", "640", "--test-samples", "100")
    words = (*BRANCH, "--branch", "--batch-sizes", "16,32", "--forks", "0.2", "--windows", "0.3", "--tolerance", "9")
    assert run(*words, *few, "--seeds", "2", "--out", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["settings"]["train_samples"], found["settings"]["test_samples"]) == (640, 100)
    assert found["schedule"]["changes"][1] == [{"count": round(0.2 * 1437), "unit": "samples"}, 32]
    message = refused(capsys, *words, "--out", str(tmp_path))
    assert "holds some with test_samples 100 there and None here; train_samples 640 there and None here" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tolerance", "0.02"), "`--tolerance` must come with `--branch`, got it alone"),
        (("--branch", "--tolerance", "-1"), "`--tolerance` must be at least 0, got -1.0; 0.01 is one per cent"),
        (("--branch", "--batch-sizes", "16"), "`--batch-sizes` must be at least two, got [16]; give the base"),
        (("--branch", "--batch-sizes", "16,40"), "`--batch-sizes` must be multiples of the first one, 16, with"),
        (("--branch", "--jobs", "2"), "`--jobs` must come without `--branch`, got both; leave out the one or the"),
        (
            ("--branch", "--jobs", "2", "--storage", "", "--max-epochs", "2"),
            "`--max-epochs` must come without `--branch`, and so must `--storage`, `--jobs`, got both; leave out the",
        ),
        (("--branch", "--test-samples", "0"), "`--test-samples` must be at least 1, got 0"),
        (("--branch", "--train-samples", "2000"), "`--train-samples` must be at most the 1,437 that there are"),
        (("--branch", "--lr-rules", "tuned"), "`--lr-rules` must be one of"),
    ],
)
def test_bad_branches(tmp_path, capsys, words, message):
    assert refused(capsys, *BRANCH, *words, "--out", str(tmp_path / "out")).startswith(message)


def test_jobs_beyond_reason_are_refused(tmp_path, capsys):
    most = 8 * decode.cores()
    message = refused(capsys, *QUICK, "--out", str(tmp_path / "out"), "--jobs", str(most + 1))
    assert (
        message
        == f"`--jobs` must be at most {most}, got {most + 1}; more would only take memory and wait for each other"
    )


def test_without_optuna_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    message = refused(capsys, *QUICK, "--out", str(tmp_path / "out"))
    assert message == "a study needs Optuna; run: pip install 'adabatch[study]'"


def test_an_interrupt_while_the_findings_are_written_says_how_to_go_on(out, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("adabatch.lab.cli._studied.write_study", interrupted)
    assert run(*QUICK, "--out", str(out)) == 130
    assert capsys.readouterr().err.endswith(f"the same command goes on in {out}\n")
