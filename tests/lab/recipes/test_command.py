"""The command line that recipes share: one line for bad input and Ctrl-C, help with the recipe's own text."""

import json

import pytest

from adabatch._errors import ArgumentError
from adabatch.lab.recipes import dont_decay_fashion, gpt_ramp, scaled_start_fashion
from adabatch.lab.recipes._command import Claim, command


def call(arguments, run, drawn):
    return command(
        arguments,
        file="/some/where/name_of_it.py",
        name="the_result",
        data="a folder",
        seeds=3,
        length=("samples", 1000, "how many"),
        run=run,
        draw=lambda found, path: drawn.append(path),
        claims=lambda found: [Claim("it holds", "1", True)],
    )


def test_result_and_picture_go_where_they_are_told(tmp_path, capsys):
    drawn, given = [], []

    def run(*each):
        given.append(each)
        return {"seeds": each[2]}

    assert call(["--out", str(tmp_path)], run, drawn) == {"seeds": 3}
    call(["--out", str(tmp_path), "--data", "d", "--seeds", "2", "--samples", "7", "--result", str(tmp_path / "r.json"),
          "--picture", str(tmp_path / "p.png")], run, drawn)  # fmt: skip
    assert given == [(None, tmp_path, 3, 1000), ("d", tmp_path, 2, 7)]
    assert drawn == [tmp_path / "the-result.png", tmp_path / "p.png"]
    assert json.loads((tmp_path / "the_result.json").read_text()) == {"seeds": 3}
    assert json.loads((tmp_path / "r.json").read_text()) == {"seeds": 2}
    assert capsys.readouterr().out.count("it holds") == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ArgumentError("samples", "must be more"), 2, "error: `samples` must be more"),
        (FileNotFoundError("no data"), 2, "error: no data"),
        (KeyboardInterrupt(), 130, "interrupted: finished runs are kept, the same command goes on"),
    ],
)
def test_what_goes_wrong_is_one_line_and_writes_nothing(tmp_path, capsys, error, code, words):
    def run(*each):
        raise error

    with pytest.raises(SystemExit) as stopped:
        call(["--out", str(tmp_path)], run, [])
    assert stopped.value.code == code
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "path", "suffix"),
    [("--picture", "p.jpg", ".png"), ("--picture", "folder.png", ".png"), ("--result", "r", ".json")],
)
def test_files_that_cannot_be_written_are_refused_before_training(tmp_path, capsys, flag, path, suffix):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SystemExit, match="2"):
        call(["--out", str(tmp_path / "out"), flag, str(tmp_path / path)], lambda *each: pytest.fail("trained"), [])
    words = f"error: {flag} must be the path of a file that ends in {suffix}, got {str(tmp_path / path)!r}"
    assert capsys.readouterr().err.rstrip().endswith(words)


def test_folders_of_the_result_are_made(tmp_path):
    call(["--out", str(tmp_path / "out"), "--result", str(tmp_path / "new" / "r.json")], lambda *each: {}, [])
    assert (tmp_path / "new" / "r.json").exists()


@pytest.mark.parametrize("recipe", [dont_decay_fashion, scaled_start_fashion, gpt_ramp])
def test_help_has_the_recipes_text_and_an_example(recipe, capsys):
    with pytest.raises(SystemExit, match="0"):
        recipe.main(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m {recipe.__name__} ")
    assert f"    python -m {recipe.__name__} --data DATA --out runs/" in shown
    assert "Expected, n = 5" in " ".join(shown.split())


def test_a_claim_says_how_it_came_out():
    assert str(Claim("faster", "2.00x", True)) == "passed: faster; found 2.00x"
    assert str(Claim("as accurate", "-3.00 points", False)) == "FAILED: as accurate; found -3.00 points"


def test_an_error_of_the_recipe_itself_keeps_its_traceback(tmp_path):
    def run(*each):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match=r"^a bug$"):
        call(["--out", str(tmp_path)], run, [])
