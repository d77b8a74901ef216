"""Text by character: tiny Shakespeare, or any text file."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch.lab.tasks.task import Data, given_data

CONTEXT: Final = 128
TEST: Final = 0.1  # the last part of the text
NAMES: Final = ("tinyshakespeare/input.txt", "input.txt")
URL: Final = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256: Final = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def load(data: Path | str | None = None) -> Data:
    """Reads a text: the first 90 % of its characters to train on, the rest to evaluate on.

    Args:
        data: a text file (UTF-8), or a folder that holds `tinyshakespeare/input.txt` or `input.txt`; None takes the
            environment variable ADABATCH_DATA and, when that is not set, downloads tiny Shakespeare into the cache.

    Returns:
        Sequences of 128 characters as numbers, int64 `[sequences, 128]`, with the same sequences one character on. A
        character's number is its place in the sorted list of those that occur.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is no text or too short.
        OSError: if the download fails.
    """
    path = _path(data)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError("data", "must be a text file in UTF-8", got=f"{str(path)!r} ({error.reason})") from None
    vocabulary = sorted(set(text))
    cut = len(text) - int(len(text) * TEST)
    if min(cut, len(text) - cut) <= CONTEXT or len(vocabulary) < 2:
        raise ArgumentError(
            "data",
            f"must be a text of at least {11 * CONTEXT} characters, two of them different",
            got=f"{len(text)} in {str(path)!r}",
        )
    number = {character: index for index, character in enumerate(vocabulary)}
    tokens = torch.tensor([number[character] for character in text])
    x_train, y_train = _sequences(tokens[:cut])
    x_test, y_test = _sequences(tokens[cut:])
    return Data(
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=len(vocabulary),
        note=f"{x_train.numel():,} characters to train, {x_test.numel():,} to test, {len(vocabulary)} different ones, "
        f"from {path}",
        tokens_per_sample=CONTEXT,
    )


def _sequences(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Consecutive sequences, and the same ones shifted by one token; the rest at the end is dropped."""
    count = (len(tokens) - 1) // CONTEXT
    return tuple(tokens[first : first + count * CONTEXT].view(count, CONTEXT) for first in (0, 1))  # type: ignore[return-value]


def _path(data: Path | str | None) -> Path:
    """The user's text file, else tiny Shakespeare in the cache."""
    given, argument = given_data(data)
    if given is None:
        path = _files.cache_folder() / "tinyshakespeare.txt"
        return path if path.exists() else _download(path)
    for path in (given, *(given / name for name in NAMES)):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"`{argument}` must be a text file or a folder that holds {NAMES[0]} or {NAMES[1]}, got {str(given)!r}; "
        "leave it out to download tiny Shakespeare"
    )


def _download(path: Path) -> Path:
    """Downloads tiny Shakespeare to `path`."""
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            content = response.read()
    except OSError as error:
        raise OSError(f"could not download {URL}: {error}; give `data`, a text file") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise OSError(f"{URL} must be tiny Shakespeare, got another text; give `data`, a text file")
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write(path, lambda file: file.write(content), alone=False)
    return path
