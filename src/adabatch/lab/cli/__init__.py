"""The command line: one file per command.

A command is a module here with a function `command`, which has its help, options and examples.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Any, Final

from adabatch.lab.cli import _docstrings, _streams

COMMANDS: Final = ("train", "compare", "probe", "plan", "study", "advise", "report", "list")
TOGETHER: Final = ("train", "compare", "probe")  # by all processes that torchrun started
_NEEDS: Final = ("typer", "rich")
_COMPLETING: Final = "_ADABATCH_COMPLETE"  # the variable by which a shell asks for completions


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 if all is well, 2 after a user's error, 3 if a run diverged.

    After a signal the exit code is the one that shells expect: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    If the reader of standard output goes away, as `| head` does, the work goes on in silence and the exit code is 141.

    Args:
        arguments: those after `adabatch`; None for those of this process.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of its allocator tell a user nothing
    with _streams.forgiving() as output:
        code = _run(sys.argv[1:] if arguments is None else arguments, ends=arguments is None)
    sys.exit(_streams.READER_GONE if output.gone and not code else code)


def _run(given: Sequence[str], *, ends: bool) -> int:
    """Runs a command line and returns the exit code; `ends` says whether this process ends then."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"the command line needs {' and '.join(missing)}; run: pip install 'adabatch[cli]'", file=sys.stderr)
        return 2
    from adabatch.lab.cli import _shared

    if _shared.rank_here() > 0 and not set(given) & set(TOGETHER):
        return 0  # the first process does it
    _replace_unprintable()
    try:
        code = _call(given, ends=ends)
        if code != _shared.USER_ERROR:  # a command that could not print has said so
            sys.stdout.flush()
    except OSError as error:  # from the help, the version or the flush; commands print theirs
        return _shared.report_system(error, as_json="--json" in given)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own errors have it
            raise
        return _shared.report_usage(error, as_json="--json" in given)
    return code if isinstance(code, int) else 0


def app(wanted: Collection[str] = COMMANDS) -> Any:
    """The typer application with every command.

    Args:
        wanted: the commands that may be called, or asked for help; the others have a line of help alone, which is
            quicker, since their modules are not imported.
    """
    import typer

    from adabatch.lab.cli import _shared

    made = typer.Typer(
        name="adabatch",
        help="Grow the batch size while a network trains, exactly. Start with: adabatch compare digits",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_shared.callback)
    for name in COMMANDS:
        command = importlib.import_module(f"adabatch.lab.cli.{name}").command if name in wanted else _not_wanted
        made.command(name, help=_help(name, command))(command)
    return made


def _not_wanted() -> None:
    pass  # stands for a command whose module is not imported; without a docstring, so that the command's is read


def _replace_unprintable() -> None:
    """Makes standard output replace letters that it cannot write, such as ± in ASCII, by question marks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _call(given: Sequence[str], *, ends: bool) -> Any:
    """Calls a command; an interrupt makes it ignore further signals until the process `ends`, else until it returns."""
    import typer

    from adabatch.lab.cli import _shared
    from adabatch.lab.training.interrupt import SIGNALS

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        wanted = COMMANDS if _COMPLETING in os.environ else {*given}
        return app(wanted)(given, prog_name="adabatch", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # outside a command, or while it prints that it was interrupted
        _shared.handle(dict.fromkeys(before, signal.SIG_IGN))
        return _shared.BY_SIGNAL + signal.SIGINT
    finally:
        if not ends:
            _shared.handle(before)


def _help(name: str, command: Any) -> str:
    """A command's docstring with a blank line before its examples, as Markdown needs it."""
    text = inspect.getdoc(command) or _docstrings.read(f"adabatch.lab.cli.{name}", "command")
    return text.replace("\nExamples:\n", "\nExamples:\n\n")
