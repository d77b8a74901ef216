"""Small data for the tests of recipes, and the contract of a recipe's folder."""

import dataclasses
import json

import pytest
import torch

from adabatch.lab import tasks
from adabatch.lab.tasks import Data

HEAD = {"format", "command", "code_sha256", "versions", "settings", "seeds"}


def small_data(patch, count=464):
    """Replaces Fashion-MNIST by pictures in ten classes that a network can tell apart."""
    drawn = torch.Generator().manual_seed(0)
    labels = torch.arange(count + 200) % 10
    means = torch.randn(10, 1, 28, 28, generator=drawn)
    pictures = means[labels] + 2 * torch.randn(count + 200, 1, 28, 28, generator=drawn)
    data = Data(
        x_train=pictures[:count],
        y_train=labels[:count],
        x_test=pictures[count:],
        y_test=labels[count:],
        classes=10,
        note="drawn",
    )
    task = dataclasses.replace(tasks.get("fashion_mnist"), load=lambda folder: data)
    patch.setattr(tasks, "get", lambda name: task)


def check_head(found, folder, name, files):
    assert set(found) > HEAD
    assert found["command"].startswith(f"python -m adabatch.lab.recipes.{name}")
    assert {"torch", "python", "device_name", "threads"} <= set(found["versions"])
    assert sorted(path.name for path in (folder / "code").iterdir()) == sorted(files)


def check_resume(recipe, found, folder, arguments, key, capsys):
    """Checks that finished runs are reused, a missing one is trained again and other settings are refused."""
    runs = sorted((folder / "runs").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in runs}
    lost = json.loads(runs[0].read_text())
    runs[0].unlink()
    again = recipe.main(["--out", str(folder), *arguments])
    assert [path for path in runs if path.stat().st_mtime_ns != before[path]] == runs[:1]
    trained = json.loads(runs[0].read_text())
    for record in (lost, trained, *lost["history"], *trained["history"]):
        record.pop("seconds", None)
        record.pop("cpu_seconds", None)
    lost.pop("history"), trained.pop("history")
    assert trained == lost
    assert list(again[key]) == list(found[key])
    with pytest.raises(SystemExit, match="2"):
        recipe.main(["--out", str(folder), *arguments[:-1], str(int(arguments[-1]) + 64)])
    assert "error: `out` must hold runs of this recipe with the same settings" in capsys.readouterr().err
