import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from adabatch.lab import cli
from adabatch.lab.cli import compare as module
from adabatch.lab.comparison import Comparison
from adabatch.lab.report import headline

QUICK = ["digits", "--seeds", "2", "--epochs", "2", "--every", "1", "--batch-size", "64", "--max-batch-size", "128"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *map(str, arguments)])
    return ended.value.code, *capsys.readouterr()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished comparison's folder."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *QUICK, "--out", str(out), "--json"])
    assert ended.value.code == 0
    return out


def test_the_folder_holds_all(finished):
    names = sorted(path.name for path in finished.iterdir())
    assert names == ["compare.json", "compare.md", "compare.png", "comparison.json", "report.html", "runs"]
    arms = sorted(path.name for path in (finished / "runs").iterdir())
    assert arms == ["adaptive", "fixed-large", "fixed-small", "uncoupled"]


def test_the_same_command_reads_what_is_there(finished, capsys):
    code, printed, progress = run(capsys, *QUICK, "--out", finished)
    assert code == 0
    assert progress.count("(found there)") == 8
    assert "| against fixed-small |" in printed.replace("  ", " ").replace("  ", " ").replace("  ", " ")
    assert "accuracy within 1 %:" in printed
    assert printed.split("\n\n")[1] in (finished / "compare.md").read_text()


def test_json_is_the_file(finished, capsys):
    code, printed, progress = run(capsys, *QUICK, "--out", finished, "--json")
    assert (code, progress) == (0, "")
    assert json.loads(printed) == json.loads((finished / "compare.json").read_text())


def test_arms_by_flags_and_first_seed(tmp_path, capsys):
    arms = ["--arm", "adaptive", "--arm", "big: batch-size=96 lr=0.01", "--seed", "7"]
    code, printed, _ = run(capsys, *QUICK, *arms, "--out", tmp_path / "out", "--json")
    found = json.loads(printed)
    assert code == 0
    assert [arm["name"] for arm in found["arms"]] == ["fixed-small", "adaptive", "big"]
    assert found["seeds"] == [7, 8]
    assert found["settings"]["big"]["batch_size"] == 96


def test_a_target_that_is_never_reached(finished, capsys):
    """The error comes after all results are written: nothing is lost."""
    (finished / "compare.json").unlink()
    code, printed, error = run(capsys, *QUICK, "--out", finished, "--target", "1")
    assert code == 2
    assert "never reached by any arm" in printed
    assert "not reached" in printed
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: `--target` must be reached by at least one run, got 1, the best is 0.")
    assert json.loads((finished / "compare.json").read_text())["target"] == 1.0
    code, printed, _ = run(capsys, *QUICK, "--out", finished, "--target", "1", "--json")
    assert code == 2
    assert json.loads(printed)["error"]["argument"] == "--target"


def test_the_tasks_own_target_may_be_missed(tmp_path, capsys):
    quick = [*QUICK, "--lr", "0.00001", "--arm", "adaptive", "--seeds", "1"]
    code, printed, _ = run(capsys, *quick, "--out", tmp_path / "out")
    assert code == 0
    assert "never reached by any arm" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "`--seeds` must be at least 1, got 0"),
        (["--target", "1.5"], "`--target` must be at most 1, got 1.5"),
        (["--target", "95"], "`--target` must be at most 1, got 95.0"),
        (["--growth", "1"], "`--growth` must be greater than 1, got 1.0"),
        (["--max-batch-size", "8"], "`--max-batch-size` must be at least `--batch-size` = 64, got 8"),
        (["--every", "0"], "`--every` must be longer than 0"),
        (["--every", "2 weeks"], "`--every` must be in epochs, samples, updates, tokens"),
        (["--batch-size", "2000", "--max-batch-size", "4000"], "`--batch-size` must be at most the 1,437 samples"),
        (["--rule", "smith"], "`--every` must come with `--growth`, got it alone; a rule grows"),
        (["--arm", "x: every=7 batch-size=32"], "`--arm` x must set growth where it sets every, got no growth"),
        (["--arm", "odd"], "`--arm` must be one of fixed-small"),
        (["--coupling", "none"], "`--coupling` must not be none"),
        (["--lr", "0.3"], "`--out` holds a comparison of other settings"),
    ],
)
def test_errors_are_one_line(arguments, message, finished, capsys):
    before = sorted(finished.rglob("*"))
    code, printed, error = run(capsys, *QUICK, *arguments, "--out", finished)
    assert (code, printed) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(finished.rglob("*")) == before


def test_errors_in_json(finished, capsys):
    code, printed, error = run(capsys, *QUICK, "--growth", "0.5", "--out", finished, "--json")
    assert (code, error) == (2, "")
    assert json.loads(printed)["error"]["argument"] == "--growth"


def start(out):
    command = [
        sys.executable,
        "-c",
        "from adabatch.lab.cli import main; main()",
        "compare",
        *QUICK,
        "--epochs",
        "6",
        "--out",
        str(out),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)),
    ],
)
def test_a_stopped_comparison_goes_on(number, tmp_path, capsys):
    out = tmp_path / "out"
    process = start(out)
    wait_for(out / "runs" / "fixed-large" / "seed-0" / "config.json", process)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "will not be repeated; to go on, give the same command again" in said
    first = out / "runs" / "fixed-small" / "seed-0" / "result.json"
    before = first.stat().st_mtime_ns
    code, _, progress = run(capsys, *QUICK, "--epochs", "6", "--out", out)
    assert code == 0
    assert "fixed-small, seed 0" in progress.splitlines()[0]
    assert "(found there)" in progress.splitlines()[0]
    assert first.stat().st_mtime_ns == before
    assert (out / "compare.json").exists()


def test_a_preset_is_the_adaptive_arm(tmp_path, capsys, monkeypatch):
    from tests.lab.tasks.images import cifar

    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    data = cifar(tmp_path / "cifar10", train=40)
    flags = ["--model", "alexnet", "--data", str(data), "--epochs", "2", "--batch-size", "8", "--max-batch-size", "16"]
    more = ["--every", "1", "--arm", "adaptive", "--seeds", "1", "--device", "cpu", "--threads", "1", "--json"]
    code, printed, *_ = run(capsys, "cifar10", "--preset", "adabatch", *flags, *more, "--out", str(tmp_path / "out"))
    assert code == 0
    found = json.loads(printed)
    small, adaptive = found["settings"]["fixed-small"], found["settings"]["adaptive"]
    assert (small["growth"], adaptive["growth"]) == (None, 2.0)
    assert [adaptive[name] for name in ("lr_schedule", "weight_decay", "drop_last")] == ["step:0.375:20", 5e-4, True]
    assert adaptive == small | {"growth": 2.0}


def test_figures_are_whole_on_a_narrow_terminal(finished, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "45")
    code, printed, _ = run(capsys, *QUICK, "--out", finished)
    assert (code, "…" in printed) == (0, False)
    assert "training seconds" in printed
    assert "fixed-small" in printed


def test_output_in_letters_that_cannot_be_written(finished, monkeypatch):
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", written)
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *QUICK, "--out", str(finished)])
    assert ended.value.code == 0
    written.flush()
    text = written.buffer.getvalue().decode()
    assert "Accuracy: mean ? standard deviation over seeds." in text
    monkeypatch.setattr("sys.stdout", io.StringIO())  # it cannot be set up otherwise
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *QUICK, "--out", str(finished)])
    assert ended.value.code == 0


def test_the_last_line_is_the_headline(finished, capsys):
    code, printed, _ = run(capsys, *QUICK, "--out", finished)
    title, lead = headline.plain(Comparison.of_json(json.loads((finished / "compare.json").read_text())))
    assert code == 0
    assert printed.splitlines()[-1] == f"{title} {lead}"
    assert printed.splitlines()[0] == (finished / "compare.md").read_text().splitlines()[0]
    assert printed.splitlines()[0].endswith(f": {title}")
    page = html.unescape(
        re.sub("<[^>]*>", "", (finished / "report.html").read_text().split("<main>")[1].split("</h1>")[0])
    )
    assert page.replace("×", "x").replace("−", "-").endswith(title)


def test_arms_that_diverge_are_not_praised(tmp_path, capsys):
    """No gain is claimed for an arm that is fast and wrong, and the JSON counts its runs."""
    arms = ["--arm", "wild: lr=1e30", "--seeds", "2", "--threads", "1"]
    code, printed, _ = run(capsys, *QUICK, *arms, "--out", tmp_path / "out")
    assert code == 0
    last = printed.splitlines()[-1]
    assert last == "wild diverged in 2 of 2 runs: no gain is shown. A loss was not finite."
    assert not re.search("faster|fewer updates [a-z]", " ".join(printed.splitlines()[-9:]))
    code, printed, _ = run(capsys, *QUICK, *arms, "--out", tmp_path / "out", "--json")
    assert [(arm["name"], arm["diverged"]) for arm in json.loads(printed)["arms"]] == [("fixed-small", 0), ("wild", 2)]


def test_the_table_so_far_while_it_runs(tmp_path, capsys, monkeypatch):
    """compare.md grows run by run, says what is missing and claims nothing; `report` shows the same."""
    seen, out = [], tmp_path / "out"
    add = module.RunsBar._add

    def look(self, turn, result):
        add(self, turn, result)
        seen.append((out / "compare.md").read_text() if (out / "compare.md").exists() else "")
        if turn.number == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.RunsBar, "_add", look)
    code, _, said = run(capsys, *QUICK, "--arm", "adaptive", "--arm", "big: batch-size=96", "--out", out)
    assert code == 130
    assert f"adabatch report {out} shows what is there" in said
    assert seen[1].startswith("digits, small_cnn. Unfinished: 2 of 6 runs are done\n")
    assert "- Missing: fixed-small: seed 1; adaptive: seed 1; big: seeds 0, 1.\n" in seen[1]
    assert "Unfinished: 3 of 6 runs are done" in (out / "compare.md").read_text()
    assert "faster" not in seen[2]
    note = json.loads((out / "comparison.json").read_text())
    assert (note["arms"], note["seeds"], note["task"]) == (["fixed-small", "adaptive", "big"], [0, 1], "digits")
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(out)])
    assert ended.value.code == 0
    assert "Unfinished: 3 of 6 runs are done." in (out / "report.html").read_text()
    capsys.readouterr()
    monkeypatch.setattr(module.RunsBar, "_add", add)
    code, *_ = run(capsys, *QUICK, "--arm", "adaptive", "--arm", "big: batch-size=96", "--out", out)
    assert code == 0
    assert "Unfinished" not in (out / "compare.md").read_text() + (out / "report.html").read_text()


def test_the_table_so_far_stands_above_the_bar(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    code, _, shown = run(capsys, *QUICK, "--arm", "adaptive", "--out", tmp_path / "out")
    assert code == 0
    assert "Unfinished: 3 of 4 runs are done" in shown


def test_a_table_so_far_that_cannot_be_written_is_said(tmp_path, capsys):
    """Otherwise runs go on for hours towards results that cannot be written either."""
    out = tmp_path / "out"
    (out / ".compare.md.draft").mkdir(parents=True)
    code, printed, error = run(capsys, *QUICK, "--quiet", "--arm", "fixed-small", "--out", out)
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"error: `--out` must be a folder that can be written, got '{out}' (Is a directory: ")
    assert (out / "runs" / "fixed-small" / "seed-0" / "result.json").exists()
