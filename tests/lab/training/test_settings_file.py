"""Settings in a file."""

import json

import pytest

from adabatch.lab.training import RunConfig, read_settings


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_folder_and_its_file_hold_the_same(tmp_path, name):
    values = RunConfig.for_task("digits", growth=2.0).to_json()
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_settings(tmp_path / name) == values
    assert RunConfig.for_task(**read_settings(tmp_path / name)).to_json() == values


def test_a_part_of_the_settings_is_enough(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"lr": 0.5}')
    assert read_settings(file) == {"lr": 0.5}
    file.write_text('{"lr": 0.5}', encoding="utf-8-sig")  # as Notepad writes it
    assert read_settings(file) == {"lr": 0.5}


def test_unknown_names_and_missing_files(tmp_path):
    file = tmp_path / "mine.json"
    with pytest.raises(FileNotFoundError, match=r"`config` must be there, got .*mine\.json', which is not; give a "):
        read_settings(file)
    file.write_text('{"lr": 0.5, "rate": 1, "pace": 2}')
    with pytest.raises(
        ValueError, match=r"`config` must hold settings of a run, got 'rate', 'pace' in .*json; there are task, "
    ):
        read_settings(file)
