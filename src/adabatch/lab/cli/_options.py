"""The options of the commands, and the settings of a run from options, a preset or a file."""

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
from adabatch.lab.training import growth
from adabatch.lab.training.config import GROWING, OUTPUT, PANELS, RUN, SETTINGS, RunConfig, on_top
from adabatch.lab.training.settings_file import read_settings


def path_of(text: str | Path) -> Path:
    """Reads a path; raises BadParameter if it is blank."""
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
    typer.Option("--out", parser=path_of, metavar="DIR", help="Folder for the results.", rich_help_panel=OUTPUT),
]
Telling = Annotated[
    bool | None,
    typer.Option(
        "--progress/--quiet",
        help="Show progress on standard error: a bar, or in a log a line for each evaluation; default unless --json.",
        rich_help_panel=OUTPUT,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, also for errors.", rich_help_panel=OUTPUT)]


def option(name: str, *, kind: type | None = None, **own: Any) -> Any:
    """The option of a setting.

    Args:
        name: of the setting.
        kind: type of the value; None for the setting's.
        **own: arguments of `typer.Option` in place of the setting's.
    """
    setting = SETTINGS[name]
    shown = {"metavar": setting.metavar, "help": setting.help, "rich_help_panel": setting.panel} | own
    flags = setting.flags or f"--{name.replace('_', '-')}"
    return Annotated[(kind or setting.kind) | None, typer.Option(flags, **shown)]


def of_a_run(*names: str, **own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replaces a command's parameter `settings` by options; the command gets those that the user gave, by name.

    Args:
        *names: of the settings; without any, all but the task.
        **own: more options, or other ones for these settings.
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
            chosen = {name: _read(name, value) for name, value in values.items() if value is not None}
            command(settings=chosen, **given)

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


def _read(name: str, value: Any) -> Any:
    """The value of an option: None for the text `none`, which switches off what a preset or a file has switched on."""
    setting = SETTINGS.get(name)
    off = value == "none" and setting is not None and setting.optional and setting.kind is str and not setting.shared
    return None if off else value


def _task_lrs() -> str:
    """The tasks' LRs for SGD and for Adam, in words, and those of networks that have their own."""
    lrs: dict[str, list[str]] = {}
    for name in tasks.names():
        own = "".join(f" ({model} {_lrs(name, model)})" for model in tasks.get(name).by_model)
        lrs.setdefault(f"{_lrs(name)}{own}", []).append(name)
    return "of SGD and of Adam: " + "; ".join(f"{' and '.join(names)} {rates}" for rates, names in lrs.items())


def _lrs(task: str, model: str | None = None) -> str:
    return ", ".join(f"{tasks.get(task).settings(optimizer, model)['lr']:g}" for optimizer in ("sgd", "adam"))


def merged_settings(
    task: str | None, given: Mapping[str, Any], *, preset: str | None, file: Path | None
) -> tuple[str, dict[str, Any]]:
    """The task and its settings: the given ones on top of those of a preset or a file.

    Args:
        task: name of the task; None for the file's.
        given: the user's settings.
        preset: name of a preset; None for none.
        file: the user's `config`; None for none.

    Raises:
        OSError: if the file is missing.
        ValueError: if preset and file are both given, one of them does not fit, or there is no task.
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
    """The checked settings of a run; errors in those of a file name it."""
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
    """Raises ArgumentError if a setting of growth would have no effect, or a file or policy says how the batch grows.

    Args:
        given: the user's settings.
        settings: all settings, with those of a file or a preset.
        preset: name of a preset; None for none.
    """
    growth.check_alone(given, settings)
    if any(settings.get(name) is not None for name in ("growth_file", "policy")):
        return
    if preset is not None or any(settings.get(name) is not None for name in GROWING if name != "rule"):
        return
    needing, reason = [name for name in SETTINGS if SETTINGS[name].of_growth], "without it the batch is constant"
    if settings.get("rule") is not None:
        needing, reason = ["every"], "a rule grows where the LR falls"
    for name in needing:
        if name in given:
            raise ArgumentError(name, "must come with `growth`", got="it alone", remedy=reason)
