"""Decoding gives the same in this process and in several, and errors name the image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from tests.lab.tasks.images import bomb, encoded, pixels

from adabatch.lab.tasks import decode
from adabatch.lab.tasks.decode import Decoder


def mapped(folder: Path, count: int, channels: int = 3) -> np.memmap:
    """Pixels in a file, some way after its start."""
    return np.memmap(folder / "pixels", np.uint8, "w+", offset=4096 * 3, shape=(count, channels, 32, 32))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_images(tmp_path: Path, workers: int, channels: int) -> None:
    out = mapped(tmp_path, 7, channels)
    with Decoder(workers=workers) as decoder:
        decoder.decode([encoded(n, channels=channels) for n in range(7)], out, where=str)
    for number in range(7):
        expected = pixels(number, channels=channels).reshape(32, 32, channels)
        assert np.array_equal(out[number], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "row 5 of x must hold an image file that can be decoded: there is none"),
        (b"", "row 5 of x must hold an image file that can be decoded: there is none"),
        (b"no image", "row 5 of x must hold an image file that can be decoded: cannot identify"),
        (encoded(0, kind="JPEG")[:-40], "row 5 of x must hold an image file that can be decoded: image file is trunc"),
        (bomb(), "row 5 of x must hold an image file that can be decoded: Image size .* could be decompression bomb"),
        (encoded(0, size=31), "row 5 of x must be an image of 32x32 in mode RGB, got 31x31 in mode RGB"),
        (encoded(0, channels=1), "row 5 of x must be an image of 32x32 in mode RGB, got 32x32 in mode L"),
    ],
)
def test_images_that_cannot_be_used(tmp_path: Path, workers: int, image: bytes | None, message: str) -> None:
    images = [encoded(n) for n in range(8)]
    images[5] = image
    with Decoder(workers=workers) as decoder, pytest.raises(ValueError, match=message):
        decoder.decode(images, mapped(tmp_path, 8), where=lambda row: f"row {row} of x")


def test_fewer_images_than_processes(tmp_path: Path) -> None:
    out = mapped(tmp_path, 1)
    with Decoder(workers=3) as decoder:
        decoder.decode([encoded(5)], out, where=str)
    assert np.array_equal(out[0], pixels(5).transpose(2, 0, 1))


def test_a_process_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with (
        Decoder(workers=2) as decoder,
        pytest.raises(RuntimeError, match="a process that decodes images failed: it ended"),
    ):
        decoder.decode([encoded(0)] * 4, mapped(tmp_path, 4), where=str)


def test_processes_only_where_they_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "cores", lambda: 2)
    with Decoder(decode.FEW - 1) as few, Decoder(decode.FEW) as many:
        assert (len(few._processes), len(many._processes)) == (0, 2)
    assert all(process.poll() is not None for process in many._processes)  # ended without a job


def test_what_a_process_reads_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = mapped(tmp_path, 2)
    image = encoded(3)
    job = f'{{"file": "{tmp_path / "pixels"}", "offset": {4096 * 3 + 3072}, "shape": [1, 3, 32, 32], '
    decode.work(io.BytesIO(f'{job}"sizes": [{len(image)}]}}\n'.encode() + image))
    assert capsys.readouterr().out == "null\n"
    assert np.array_equal(out[1], pixels(3).transpose(2, 0, 1))
    assert not out[0].any()
    decode.work(io.BytesIO(f'{job}"sizes": [3]}}\nabc'.encode()))
    assert capsys.readouterr().out.startswith('[0, "must hold an image file that can be decoded')
    decode.work(io.BytesIO(b""))
    assert capsys.readouterr().out == ""
