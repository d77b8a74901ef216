"""The command line: one file per command, loaded when the command is called for.

A command is a module here with a function `command`; its help, options and examples are its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from typing import Any, Final

from adabatch.cli import _docstrings, _streams

COMMANDS: Final = ("train", "compare", "probe", "plan", "report", "list")
_NEEDS: Final = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 when all is well, 2 after an error of the user's, 130 after Ctrl-C.

    Where nobody reads standard output to its end, as with `| head`, the work is done all the same, in silence, and the
    exit code is 141 as that of other tools.

    Args:
        arguments: what is typed behind `adabatch`; None for those of this process.
    """
    with _streams.forgiving() as output:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_streams.READER_GONE if output.gone and not code else code)


def _run(given: Sequence[str]) -> int:
    """Runs what was typed; returns the exit code."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"the command line needs {' and '.join(missing)}; run: pip install 'adabatch[cli]'", file=sys.stderr)
        return 2
    from adabatch.cli import _shared

    _print_whatever_comes()
    try:
        code = app()(given, prog_name="adabatch", standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:  # of the help, the version and the flush; commands tell of their own
        return _shared.report_system(error, as_json="--json" in given)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own errors have it
            raise
        return _shared.report_usage(error, as_json="--json" in given)
    return code if isinstance(code, int) else 0


def app() -> Any:
    """The typer application with every command."""
    import typer

    from adabatch.cli import _shared

    made = typer.Typer(
        name="adabatch",
        help="Grow the batch size while a network trains, exactly. Start with: adabatch compare digits",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_shared.callback)
    for name in COMMANDS:
        command = importlib.import_module(f"adabatch.cli.{name}").command
        made.command(name, help=_help(name, command))(command)
    return made


def _print_whatever_comes() -> None:
    """A letter that standard output cannot write, such as ± in ASCII, becomes a question mark and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _help(name: str, command: Any) -> str:
    """A command's docstring with its examples set apart, as Markdown wants them."""
    text = inspect.getdoc(command) or _docstrings.read(f"adabatch.cli.{name}", "command")
    return text.replace("\nExamples:\n", "\nExamples:\n\n")
