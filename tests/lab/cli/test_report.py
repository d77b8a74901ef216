import json
import shlex
from pathlib import Path

import pytest
from tests.lab.report.page_branches import write_branch
from tests.lab.report.page_folders import write_comparison, write_run
from tests.lab.report.page_studies import write_probe, write_study

from adabatch.lab import cli

QUICK = "digits --epochs 2 --batch-size 64 --growth 2 --every 1 --max-batch-size 128"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code, *capsys.readouterr()


def test_a_page_of_a_comparison(tmp_path, capsys):
    write_comparison(tmp_path)
    code, printed, errors = run(capsys, "report", tmp_path)
    assert (code, errors) == (0, "")
    assert printed == f"Written to {tmp_path / 'report.html'}; open it in a browser.\n"
    assert "adaptive, a batch growing from 16 to 256," in (tmp_path / "report.html").read_text().replace("&nbsp;", " ")


def test_a_page_elsewhere_as_json(tmp_path, capsys):
    write_run(tmp_path / "run")
    code, printed, _ = run(capsys, "report", tmp_path / "run", "--out", tmp_path / "page.html", "--json")
    assert code == 0
    assert json.loads(printed) == {"page": str(tmp_path / "page.html")}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_real_run_and_a_real_comparison(tmp_path, capsys):
    assert run(capsys, "train", *shlex.split(QUICK), "--out", tmp_path / "run", "--json")[0] == 0
    compare = QUICK.replace("--growth 2", "--seeds 2")
    assert run(capsys, "compare", *shlex.split(compare), "--out", tmp_path / "compare", "--json")[0] == 0
    for folder, words in (
        ("run", "test accuracy on digits after"),
        ("compare", "adaptive, a batch growing from 64 to 128,"),
    ):
        assert run(capsys, "report", tmp_path / folder)[0] == 0
        assert words in (tmp_path / folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["FOLDER"],
            "`FOLDER` must be a folder that adabatch compare, train, plan, probe, study or advise wrote, got ",
        ),
        (["FOLDER/run", "--out", "FOLDER"], "`--out` must be a file, got the folder "),
        (["FOLDER/run", "--out", "FOLDER/none/page.html"], "`--out` must be a file that can be written, got "),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, arguments, message):
    write_run(tmp_path / "run")
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    code, printed, errors = run(capsys, "report", *arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    code, printed, errors = run(capsys, "report", *arguments, "--json")
    assert (code, errors) == (2, "")
    assert json.loads(printed)["error"]["message"].startswith(message)
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["run"]


def test_help_shows_examples(capsys):
    code, printed, _ = run(capsys, "report", "--help")
    assert code == 0
    assert "adabatch report runs/demo" in printed


@pytest.mark.parametrize("name", ["m[/b]", "m[red]x", ":snake:"])
def test_a_path_is_printed_as_it_is(tmp_path, capsys, name):
    write_run(tmp_path / name)
    code, printed, errors = run(capsys, "report", tmp_path / name)
    assert (code, errors) == (0, "")
    assert printed == f"Written to {tmp_path / name / 'report.html'}; open it in a browser.\n"


def test_several_runs_on_one_page(tmp_path, capsys):
    for name in ("first", "second"):
        write_run(tmp_path / name)
    code, printed, errors = run(capsys, "report", tmp_path / "first", tmp_path / "second")
    assert (code, errors) == (0, "")
    assert printed == f"Written to {tmp_path / 'report.html'}; open it in a browser.\n"
    assert "2 runs on digits side by side" in (tmp_path / "report.html").read_text()
    code, printed, _ = run(
        capsys, "report", tmp_path / "first", tmp_path / "second", "--out", tmp_path / "both.html", "--json"
    )
    assert json.loads(printed) == {"page": str(tmp_path / "both.html")}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("first", "`FOLDER` must name each run or study once, got "),
        ("comparison", "`FOLDER` must be of one kind where several are given: "),
        ("none", "`FOLDER` must be there, got "),
    ],
)
def test_what_cannot_stand_beside_a_run(tmp_path, capsys, second, message):
    write_run(tmp_path / "first")
    write_comparison(tmp_path / "comparison", seeds=1)
    code, printed, errors = run(capsys, "report", tmp_path / "first", tmp_path / second)
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_pages_of_a_real_plan_and_a_real_probe(tmp_path, capsys):
    sizes = "--growth 2 --every 2 --max-batch-size 256 --batch-size 16 --dataset-size 1437 --epochs 14"
    assert run(capsys, "plan", *shlex.split(sizes), "--out", tmp_path / "plan")[0] == 0
    quick = "digits --batch-size 64 --max-batch-size 128 --repeats 2 --seconds 0.01"
    assert run(capsys, "probe", *shlex.split(quick), "--out", tmp_path / "probe")[0] == 0
    for folder, words in (
        ("plan", "1,260 updates become 376"),
        ("probe", "Samples per second of training, median over"),
    ):
        page = tmp_path / folder / "report.html"
        assert words in page.read_text()
        page.unlink()
        assert run(capsys, "report", tmp_path / folder)[0] == 0
        assert words in page.read_text()


FILES = [
    "study.png", "study-speedup.png", "study-cost.png", "study-seconds.png", "study-trade.png", "study-curves.png",
    "study.csv", "study-runs.csv", "study-fits.csv", "study-curves.csv",
]  # fmt: skip


def test_a_study_gets_its_page_its_pictures_and_its_csv(tmp_path, capsys):
    write_study(tmp_path / "one")
    code, printed, errors = run(capsys, "report", tmp_path / "one")
    assert (code, errors) == (0, "")
    assert printed == (
        f"Written to {tmp_path / 'one' / 'report.html'}; open it in a browser.\nBeside it: {', '.join(FILES)}.\n"
    )
    there = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert there == sorted([*FILES, "report.html", "study.json"])
    code, printed, _ = run(capsys, "report", tmp_path / "one", "--json")
    assert json.loads(printed) == {"page": str(tmp_path / "one" / "report.html"), "files": FILES}


def test_of_a_study_only_the_page_is_written_elsewhere(tmp_path, capsys):
    write_study(tmp_path / "one")
    code, _, _ = run(capsys, "report", tmp_path / "one", "--out", tmp_path / "page.html")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "page.html"]
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["study.json"]


def test_several_studies_on_one_page(tmp_path, capsys):
    for name in ("first", "second"):
        write_study(tmp_path / name)
    code, printed, errors = run(capsys, "report", tmp_path / "first", tmp_path / "second")
    assert (code, errors) == (0, "")
    assert printed == f"Written to {tmp_path / 'report.html'}; open it in a browser.\n"


def test_a_study_that_is_not_finished_says_what_is_missing(tmp_path, capsys):
    (tmp_path / "study.db").write_text("")
    code, printed, errors = run(capsys, "report", tmp_path)
    assert (code, printed) == (2, "")
    assert errors.startswith("error: `FOLDER` must hold a finished study, got ")
    assert "which is not finished: study.json is missing; the adabatch study command" in errors
    assert errors.count("\n") == 1


def test_a_damaged_run_of_a_comparison_is_named_with_what_to_delete(tmp_path, capsys):
    write_comparison(tmp_path)
    run_folder = tmp_path / "runs" / "adaptive" / "seed-0"
    (run_folder / "result.json").write_text("{")
    code, _, errors = run(capsys, "report", tmp_path)
    assert code == 2
    assert errors.startswith(f"error: `FOLDER` must hold whole files, got a damaged {run_folder / 'result.json'} (")
    assert errors.endswith(f"; delete {run_folder} and start the command that wrote it again\n")
    (tmp_path / "compare.json").write_text("{}")
    assert run(capsys, "report", tmp_path)[2].endswith("; start the command that wrote it again\n")


def test_a_branching_gets_its_page_its_pictures_and_its_csv(tmp_path, capsys):
    write_branch(tmp_path / "one")
    code, printed, errors = run(capsys, "report", tmp_path / "one")
    assert (code, errors) == (0, "")
    files = [
        "branch.png", "branch-harmless.png", "branch-schedule.png", "branch.csv", "branch-harmless.csv",
        "branch-schedule.csv",
    ]  # fmt: skip
    assert printed == (
        f"Written to {tmp_path / 'one' / 'report.html'}; open it in a browser.\nBeside it: {', '.join(files)}.\n"
    )
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted([*files, "branch.json", "report.html"])
    code, printed, _ = run(capsys, "report", tmp_path / "one", "--out", tmp_path / "page.html", "--json")
    assert json.loads(printed) == {"page": str(tmp_path / "page.html")}


def test_a_probe_beside_a_study_says_which_comes_first(tmp_path, capsys):
    write_study(tmp_path / "study", rules=("linear",))
    write_probe(tmp_path / "probe")
    code, printed, errors = run(capsys, "report", tmp_path / "study", tmp_path / "probe")
    assert (code, errors) == (0, "")
    page = tmp_path / "study" / "report.html"
    assert printed.startswith(f"Written to {page}; open it in a browser.\nBeside it: study")
    assert "memory full at" in printed
    assert "128 to 256" in printed
    first, second = [line for line in printed.splitlines() if " comes first" in line]
    assert first.startswith("mlp, LR linear, test loss: as batch sizes grow, ")
    assert second.startswith("mlp, LR linear, training loss: as batch sizes grow, ")
    assert ",64,128,256\n" in (tmp_path / "study" / "study-fits.csv").read_text()
    code, printed, _ = run(capsys, "report", tmp_path / "study", tmp_path / "probe", "--json")
    assert json.loads(printed)["which_comes_first"] == [first, second]


def test_a_probe_of_another_network_is_refused(tmp_path, capsys):
    write_study(tmp_path / "study")
    write_probe(tmp_path / "probe", model="lenet")
    code, printed, errors = run(capsys, "report", tmp_path / "study", tmp_path / "probe")
    assert (code, printed) == (2, "")
    assert errors.startswith("error: `FOLDER` must be a probe of a task and network of the studies beside it, got ")
    assert errors.endswith(" of digits, lenet; they are of digits, mlp: adabatch probe digits --model mlp\n")
    assert not (tmp_path / "study" / "report.html").exists()


def test_a_study_and_a_branching_on_one_page(tmp_path, capsys):
    write_study(tmp_path / "study")
    write_branch(tmp_path / "branch")
    code, printed, errors = run(capsys, "report", tmp_path / "study", tmp_path / "branch")
    assert (code, errors) == (0, "")
    assert printed == f"Written to {tmp_path / 'report.html'}; open it in a browser.\n"
