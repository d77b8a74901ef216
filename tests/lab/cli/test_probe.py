import json

import pytest

from adabatch.lab import cli

QUICK = ["digits", "--batch-size", "64", "--max-batch-size", "128", "--repeats", "2", "--seconds", "0.01"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", *map(str, arguments)])
    return ended.value.code, *capsys.readouterr()


def test_table_sentence_and_files(tmp_path, capsys):
    code, printed, _ = run(capsys, *QUICK, "--out", tmp_path / "found")
    assert code == 0
    assert "| batch size |" in printed
    assert "Growing the batch " in printed
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["probe.json", "probe.png", "report.html"]
    found = json.loads((tmp_path / "found" / "probe.json").read_text())
    assert [point["batch_size"] for point in found["curve"]] == [64, 128]
    assert found["sentence"][1:] in printed


def test_quiet_as_other_commands_have_it(tmp_path, capsys):
    assert run(capsys, *QUICK, "--quiet", "--out", tmp_path)[::2] == (0, "")


def test_json_is_the_file(tmp_path, capsys):
    code, printed, _ = run(capsys, *QUICK, "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(printed) == json.loads((tmp_path / "probe.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--repeats", "0"], "`--repeats` must be at least 1, got 0"),
        (["digits", "--seconds", "-1"], "`--seconds` must be greater than 0, got -1.0"),
        (["digits", "--max-batch-size", "1"], "`--max-batch-size` must be at least 16, got 1"),
        (["digits", "--batch-size", "2000"], "`--batch-size` must be at most the 1,437 samples"),
        (["numbers"], "`TASK` must be one of digits"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, capsys):
    code, _, error = run(capsys, *arguments, "--out", tmp_path / "found")
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "found" / "probe.json").exists()


def test_a_read_only_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, printed, _ = run(capsys, *QUICK, "--out", tmp_path / "file", "--json")
    assert code == 2
    assert "must be a folder that can be written" in json.loads(printed)["error"]["message"]


def test_figures_are_whole_on_a_narrow_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "30")
    code, printed, _ = run(capsys, *QUICK, "--out", tmp_path)
    assert (code, "…" in printed) == (0, False)
    assert "lowest to highest" in printed


def test_an_earlier_probe_keeps_its_files_under_other_names(tmp_path, capsys):
    assert run(capsys, *QUICK, "--out", tmp_path)[2] == ""
    before = [(tmp_path / name).read_bytes() for name in ("probe.json", "probe.png")]
    code, _, told = run(capsys, *QUICK, "--out", tmp_path, "--json")
    assert (code, told) == (0, f"note: the probe that was in {tmp_path} before is probe-1.json now\n")
    assert [(tmp_path / name).read_bytes() for name in ("probe-1.json", "probe-1.png")] == before
    assert (tmp_path / "probe.json").read_bytes() != before[0]
