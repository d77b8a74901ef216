import pytest
import torch
from tests.lab.recipes.checks import small_data

from adabatch.lab.recipes import _fashion, dont_decay_fashion


def test_below_the_cap_the_lr_is_flat_while_the_batch_grows(monkeypatch):
    small_data(monkeypatch, count=4000)
    data = _fashion.load(None, samples=4000, batch_size=16)
    length = _fashion.Length(epochs=3, falls=(1, 2), factor=5.0)
    record = _fashion.train(
        data,
        dont_decay_fashion.STARTS["momentum"],
        length,
        model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(196, 10)),
        rule="smith",
        seed=0,
        tell=lambda share: None,
    )
    assert [entry["batch_size"] for entry in record["history"]] == [16, 80, 400]
    assert [entry["lr"] for entry in record["history"]] == pytest.approx([0.003] * 3)
    assert record["updates"] == record["planned_updates"] == 250 + 50 + 10


@pytest.mark.parametrize("samples", [159, 465])
def test_too_few_or_too_many_pictures(samples, tmp_path, monkeypatch, capsys):
    small_data(monkeypatch)
    with pytest.raises(SystemExit, match="2"):
        dont_decay_fashion.main(["--out", str(tmp_path), "--samples", str(samples)])
    message = f"error: `samples` must be from 160 to 464, got {samples}"
    assert capsys.readouterr().err.rstrip().endswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(-0.009, 0.009, True), (-0.01, 0.009, False), (-0.009, 0.01, False), (None, None, False)]
)
def test_within_a_point_by_the_interval(low, high, holds):
    claim = _fashion.within("increase", {"mean": 0.001, "low": low, "high": high})
    assert claim.holds == holds
    assert claim.found.startswith("+0.10 points")
