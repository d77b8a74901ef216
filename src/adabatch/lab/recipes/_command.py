"""The command line of a recipe: `python -m adabatch.lab.recipes.NAME --out FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adabatch._errors import AdabatchError
from adabatch._files import write_json
from adabatch.lab.cli import _docstrings, _streams
from adabatch.lab.training.device import threads

Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, the figures found for it in words, and whether they show that it holds."""

    text: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{'passed' if self.holds else 'FAILED'}: {self.text}; found {self.found}"


@_streams.forgiving()
def command(
    arguments: Sequence[str] | None,
    *,
    file: str,
    name: str,
    data: str,
    seeds: int,
    length: tuple[str, int, str],
    run: Callable[[str | None, Path, int, int], Found],
    draw: Callable[[Mapping[str, Any], Path], object],
    claims: Callable[[Mapping[str, Any]], Iterable[Claim]],
) -> Found:
    """Runs a recipe on one thread, writes its result and its picture, and prints its claims.

    Bad input and Ctrl-C end it in one line, with the exit codes 2 and 130; a reader that goes away ends nothing.

    Args:
        arguments: of the command line; None for those of this process.
        file: of the recipe; `--help` prints its docstring.
        name: of the result file, without suffix.
        data: help of `--data`.
        seeds: default of `--seeds`.
        length: option, default and help for the length of a run.
        run: takes `--data`, `--out`, `--seeds` and the length; returns the content of the result file.
        draw: draws the result into a picture.
        claims: checks the result.

    Returns:
        The content of the result file.
    """
    option, default, text = length
    parser = argparse.ArgumentParser(
        prog=f"python -m adabatch.lab.recipes.{Path(file).stem}",
        description=_docstrings.read(f"adabatch.lab.recipes.{Path(file).stem}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", help=data)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; the same command resumes")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"runs of each arm ({seeds})")
    parser.add_argument(f"--{option}", type=int, default=default, help=f"{text} ({default:,})")
    parser.add_argument("--result", type=Path, help=f"result file; OUT/{name}.json without it")
    parser.add_argument("--picture", type=Path, help=f"PNG; OUT/{name.replace('_', '-')}.png without it")
    options = parser.parse_args(arguments)
    result = options.result or options.out / f"{name}.json"
    picture = options.picture or options.out / f"{name.replace('_', '-')}.png"
    for flag, path, suffix in (("--result", result, ".json"), ("--picture", picture, ".png")):
        if path.suffix != suffix or path.is_dir():
            parser.error(f"{flag} must be the path of a file that ends in {suffix}, got {str(path)!r}")
    try:
        with threads(1):
            found = run(options.data, options.out, options.seeds, getattr(options, option))
        result.parent.mkdir(parents=True, exist_ok=True)
        write_json(result, found)
        draw(found, picture)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: finished runs are kept, the same command goes on\n")
    except (AdabatchError, OSError) as error:
        parser.error(str(error))
    for claim in claims(found):
        print(claim, flush=True)
    return found
