"""Text by character, from any file."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import torch
from tests.lab.tasks.checks import REAL

from adabatch.lab import models, tasks
from adabatch.lab.tasks import text as module

TEXT = "".join(f"line {n}: äöü — to be\n" for n in range(150))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADABATCH_DATA", raising=False)


def test_sequences_and_the_characters_after_them(tmp_path: Path) -> None:
    (tmp_path / "any.txt").write_text(TEXT, encoding="utf-8")
    data = tasks.get("gpt-tiny").load(tmp_path / "any.txt")
    letters = sorted(set(TEXT))
    assert data.classes == len(letters)
    assert data.shape == {"vocabulary": len(letters), "context": 128}
    assert data.tokens_per_sample == 128

    def read(tokens: torch.Tensor) -> str:
        return "".join(letters[int(token)] for token in tokens.flatten())

    cut = len(TEXT) - len(TEXT) // 10
    assert read(data.x_train) == TEXT[: data.x_train.numel()]
    assert read(data.y_train) == TEXT[1 : data.y_train.numel() + 1]
    assert read(data.x_test) == TEXT[cut : cut + data.x_test.numel()]
    assert cut - 1 - 128 < data.x_train.numel() < cut
    scores = models.build("gpt", **data.shape)(data.train_inputs(data.x_train[:2], seed=0, clock=0))
    assert torch.nn.CrossEntropyLoss()(scores, data.y_train[:2]).isfinite()


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"`data` must be a text file or a folder that holds tinyshake"):
        tasks.get("gpt-tiny").load(tmp_path)
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(TEXT, encoding="utf-8")
    assert "tinyshakespeare" in tasks.get("gpt-tiny").load(tmp_path).note
    monkeypatch.setenv("ADABATCH_DATA", str(tmp_path / "tinyshakespeare"))
    assert "input.txt" in tasks.get("gpt-tiny").load(None).note


@pytest.mark.parametrize("content", [b"", b"short", b"a" * 5000, b"ab" * 500])
def test_texts_that_are_too_short_or_too_simple(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="`data` must be a text of at least 1408 characters, two of them different"):
        tasks.get("gpt-tiny").load(tmp_path / "x")


def test_the_shortest_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"ab" * 704)
    data = tasks.get("gpt-tiny").load(tmp_path / "x")
    assert len(data.x_test) == 1


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe" * 3000)
    with pytest.raises(ValueError, match=r"`data` must be a text file in UTF-8, got '.*x' \(invalid start byte\)"):
        tasks.get("gpt-tiny").load(tmp_path / "x")


def test_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file replaces the download."""
    (tmp_path / "other").write_bytes(b"another text")
    monkeypatch.setattr(module, "URL", (tmp_path / "missing").as_uri())
    with pytest.raises(OSError, match=r"could not download .*; give `data`, a text file"):
        tasks.get("gpt-tiny").load(None)
    monkeypatch.setattr(module, "URL", (tmp_path / "other").as_uri())
    with pytest.raises(OSError, match="must be tiny Shakespeare, got another text"):
        tasks.get("gpt-tiny").load(None)
    file = REAL / "tinyshakespeare" / "input.txt"
    if not file.exists():
        pytest.skip("no tiny Shakespeare to serve: set ADABATCH_DATA to a folder that holds it")
    monkeypatch.setattr(module, "URL", file.resolve().as_uri())
    first = tasks.get("gpt-tiny").load(None)
    monkeypatch.setattr(urllib.request, "urlopen", None)
    again = tasks.get("gpt-tiny").load(None)
    assert torch.equal(first.x_train, again.x_train)
    assert (first.classes, first.x_train.shape) == (65, (7842, 128))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tinyshakespeare.txt"]
