"""The options of the commands, and the settings of a run that they make with a preset or a file."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from adabatch import _checks
from adabatch._errors import AdabatchError, ArgumentError
from adabatch.lab import tasks
from adabatch.lab.cli import _shared
from adabatch.lab.training.config import OUTPUT, PANELS, RUN, SETTINGS, RunConfig, on_top, read_settings


def path_of(text: str | Path) -> Path:
    """Reads a path that was typed.

    Raises:
        BadParameter: if it is blank.
    """
    if isinstance(text, str) and not text.strip():
        raise typer.BadParameter(f"must name a folder or a file, got {text!r}; leave it out or write a name")
    return Path(text)


TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help=SETTINGS["task"].help)]
TaskOrFile = Annotated[
    str | None, typer.Argument(metavar="TASK", help=f"{SETTINGS['task'].help} --config has one too.")
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A training of a paper; flags go on top. adabatch list names them.",
        rich_help_panel=RUN,
    ),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        parser=path_of,
        metavar="FILE",
        help="Settings as in this JSON file or run folder (its config.json); flags go on top.",
        rich_help_panel=RUN,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", parser=path_of, metavar="DIR", help="Folder for what is found.", rich_help_panel=OUTPUT),
]
Telling = Annotated[
    bool | None,
    typer.Option(
        "--progress/--quiet",
        help="Say on standard error how it goes: a bar, or in a log a line for each evaluation; else unless --json.",
        rich_help_panel=OUTPUT,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, also for errors.", rich_help_panel=OUTPUT)]


def option(name: str, *, kind: type | None = None, **own: Any) -> Any:
    """The option of a setting.

    Args:
        name: of the setting.
        kind: of what is typed; None for that of the setting.
        **own: arguments of `typer.Option` in place of what the setting has.
    """
    setting = SETTINGS[name]
    shown = {"metavar": setting.metavar, "help": setting.help, "rich_help_panel": setting.panel} | own
    flags = setting.flags or f"--{name.replace('_', '-')}"
    return Annotated[(kind or setting.kind) | None, typer.Option(flags, **shown)]


def of_a_run(*names: str, **own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command options for settings of a run in place of its parameter `settings`.

    The command gets the settings that the user gave, by name.

    Args:
        *names: of the settings; all of them but the task if none is named.
        **own: options of the command's own, in place of some of them or besides.
    """
    in_order = sorted(SETTINGS.values(), key=lambda setting: PANELS.index(setting.panel))
    options = {name: option(name) for name in names or [each.name for each in in_order if each.name != "task"]}
    if not names:
        options["lr"] = option("lr", help=f"{SETTINGS['lr'].help.rstrip('.')}; else by task, {_task_lrs()}.")
    options |= own

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in options}
            command(settings={name: value for name, value in values.items() if value is not None}, **given)

        hints = get_type_hints(command, include_extras=True)
        parameters = []
        for name, parameter in inspect.signature(command).parameters.items():
            if name == "settings":
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters += [inspect.Parameter(n, kind, default=None, annotation=o) for n, o in options.items()]
            else:
                parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _task_lrs() -> str:
    """The LRs that tasks have for SGD and for Adam."""
    lrs: dict[str, list[str]] = {}
    for name in tasks.names():
        sgd, adam = (tasks.get(name).settings(optimizer)["lr"] for optimizer in ("sgd", "adam"))
        lrs.setdefault(f"{sgd:g}, {adam:g}", []).append(name)
    return "of SGD and of Adam: " + "; ".join(f"{' and '.join(names)} {pair}" for pair, names in lrs.items())


def merged_settings(
    task: str | None, given: Mapping[str, Any], *, preset: str | None, file: Path | None
) -> tuple[str, dict[str, Any]]:
    """The task and its settings: those given on top of a preset's or a file's.

    Args:
        task: data set by name; None for the file's.
        given: settings that the user gave.
        preset: its name; None for none.
        file: what the user gave as `config`; None for none.

    Raises:
        OSError: if there is no such file.
        ValueError: if preset and file are both given, one of them does not fit, or no task is given.
    """
    if preset is not None and file is not None:
        remedy = "take one, and what differs as options"
        raise ArgumentError("config", "must come without `preset`", got="both", remedy=remedy)
    base = {} if file is None else read_settings(file)
    named = base.pop("task", None)
    task = named if task is None else task
    if task is None and file is None:
        raise ArgumentError(None, "Missing argument 'TASK'", remedy="--help shows what there is")
    if task is None:
        raise ArgumentError("task", "must be given where the file has none", got=f"none in {file}")
    tasks.get(task)
    if preset is None:
        return task, dict(given) if file is None else on_top(base, given, task=task)
    from adabatch.lab import models, planner

    found = planner.find(preset, task=task, model=given.get("model"))
    _checks.one_of("model", found.model, models.names(), remedy=f"{preset} is for adabatch plan alone")
    merged = on_top(found.settings, given, task=task)
    return task, {key: value for key, value in merged.items() if value is not None or key == "max_batch_size"}


def run_config(task: str, settings: Mapping[str, Any], *, file: Path | None) -> RunConfig:
    """The settings of a run; what is wrong with those of a file is said with its name."""
    try:
        config = RunConfig.for_task(task, **settings)
    except AdabatchError as error:
        if file is None:
            raise
        raise error.and_then(f"what is not given is as in `config` {file}") from None
    if config.rule is not None:
        _shared.tell_if_long(config.epochs)
    return config


def check_growth(given: Mapping[str, Any], settings: Mapping[str, Any], preset: str | None) -> None:
    """Raises where settings of growth would go unnoticed.

    Args:
        given: settings that the user gave.
        settings: all of them, those of a file or a preset included.
        preset: its name; None for none.

    Raises:
        ValueError: if one of them comes without growth.
    """
    if preset is not None or settings.get("growth") is not None:
        return
    needing, reason = [name for name in SETTINGS if SETTINGS[name].of_growth], "without it the batch is constant"
    if settings.get("rule") is not None:
        needing, reason = ["every"], "a rule grows where the LR falls"
    for name in needing:
        if name in given:
            raise ArgumentError(name, "must come with `growth`", got="it alone", remedy=reason)
