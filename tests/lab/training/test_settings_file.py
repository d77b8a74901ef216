from __future__ import annotations

import json

import pytest

from adabatch.lab.training import RunConfig, on_top, read_settings


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


def test_unknown_names_and_missing_files(tmp_path):
    file = tmp_path / "mine.json"
    with pytest.raises(FileNotFoundError, match=r"`config` must be there, got .*mine\.json', which is not; give a "):
        read_settings(file)
    file.write_text('{"lr": 0.5, "rate": 1, "pace": 2}')
    with pytest.raises(ValueError, match=r"`config` must have settings among task, .*, got 'rate', 'pace' in .*json"):
        read_settings(file)


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        ({"lr": 0.5}, {"lr": 0.1, "seed": 1}, {"lr": 0.1, "seed": 1}),
        ({"growth": 2.0}, {"rule": "smith"}, {"growth": None, "rule": "smith"}),
        ({"rule": "smith", "coupling": "linear"}, {"growth": 2.0}, {"growth": 2.0, "rule": None, "coupling": "linear"}),
        ({"coupling": "linear"}, {"rule": "seesaw"}, {"growth": None, "rule": "seesaw"}),
        ({"lr": 0.5}, {"optimizer": "adam"}, {"lr": 0.001, "optimizer": "adam"}),
        ({"lr": 0.5}, {"optimizer": "adam", "lr": 0.1}, {"lr": 0.1, "optimizer": "adam"}),
        ({"lr": 0.5}, {"optimizer": "nesterov"}, {"lr": 0.5, "optimizer": "nesterov"}),
        ({"lr": 0.5, "optimizer": "adam"}, {"optimizer": "sgd"}, {"lr": 0.02, "optimizer": "sgd"}),
        ({"lr": 0.5, "optimizer": "adam"}, {"optimizer": "adamw"}, {"lr": 0.5, "optimizer": "adamw"}),
    ],
)
def test_settings_on_top_of_others(base, given, expected):
    before = dict(base)
    assert on_top(base, given, task="mnist") == expected
    assert base == before
