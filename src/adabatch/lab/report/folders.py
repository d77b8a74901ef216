"""Reads the folders that commands wrote into records for pages and pictures."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, Final, TypeVar

from adabatch import _files
from adabatch._errors import ArgumentError
from adabatch.lab.advice import Advice
from adabatch.lab.comparison import SMALL, Comparison, Ratio
from adabatch.lab.scaling import BranchFindings, Study
from adabatch.lab.shapes import Amount, Count, Json, List, Loss, Number, Positive, Rates, Record, Size, Text, faults

_CONFIG: Final = {"task": Text, "model": Text, "batch_size": Size, "epochs": Size, "seed": Count, "data?": Text | None}
_EVALUATION: Final = {
    **dict.fromkeys(("samples", "updates"), Count),
    "seconds": Amount,
    "batch_size": Size,
    **dict.fromkeys(("lr", "test_accuracy"), Number),
    **dict.fromkeys(("train_loss?", "test_loss?"), Loss),
    "communication_bytes?": Count | None,
    "communication_seconds?": Amount | None,
    "noise_scale?": Number | None,
    **dict.fromkeys(("noise_low?", "noise_high?"), Amount | None),
    "decided?": Text | None,
}
_DECISION: Final = {"clock": Count, "batch_size": Size, "observation?": Json | None}
_OBSERVATION: Final = {"noise?": Json | None}
_NOISE: Final = {"noise_scale": Number | None, "low": Amount, "high": Amount | None}
_RESULT: Final = {
    **dict.fromkeys(("history", "decisions"), List),
    "samples_per_second": Rates,
    "samples?": Count,
    "target?": Number | None,
    "updates_to_target?": Count | None,
    **dict.fromkeys(("seconds_to_target?", "chance?"), Amount | None),
}
_NOTE: Final = {
    **dict.fromkeys(("task?", "model?"), Text),
    "arms?": [Text],
    "seeds?": [Count],
    "target?": Number | None,
    "versions?": Json,
}
_INTERVAL: Final = {"median": Amount, "low": Amount | None, "high": Amount | None}
_PARTS: Final = dict.fromkeys(("passes", "exposed", "coordination", "optimizer", "seconds"), Amount)
_WORKERS: Final = {
    "link": {"name": Text, "source": Text},
    "pays": Positive,
    "compress?": Text | None,
    "rows": [
        {
            "workers": Size,
            **dict.fromkeys(("seconds", "constant_seconds", "efficiency", "worker_hours"), _INTERVAL),
            **dict.fromkeys(("node_efficiency?", "cost?"), _INTERVAL),
        }
    ],
    "sizes": [{"batch_size": Size, "pays_up_to": _INTERVAL, "updates": [{"workers": Size, **_PARTS}]}],
}
_PLAN: Final = {
    **dict.fromkeys(("updates_before", "updates_after", "dataset_size", "epochs"), Size),
    "batch_size?": Size,
    "starts_samples": [Count],
    "sizes": [Size],
    **{key: [Number] for key in ("lr", "lr_before", "noise_scale", "noise_scale_before")},
    **dict.fromkeys(("seconds_before?", "seconds_after?"), Positive | None),
    **dict.fromkeys(("coupling?", "title?"), Text),
    "settings?": Json,
    "workers?": _WORKERS,
}
_STUDY: Final = ("study.json", "study.db", "states")  # the last two are there before it is finished
_BRANCH: Final = ("branch.json", "branches.json")
_ADVICE: Final = ("advice.json", "measured.json")  # the last one is there before it is finished
_KINDS: Final[dict[type[Record], tuple[str, str, tuple[str, ...]]]] = {  # in words, by which command, in which files
    Study: ("study", "study", _STUDY),
    BranchFindings: ("branching", "study", _BRANCH),
    Advice: ("advice", "advise", _ADVICE),
}
_TOGETHER: Final = {"study": (*_STUDY, *_BRANCH), "advice": _ADVICE, "run": ("config.json",), "probe": ("probe.json",)}
_Found = TypeVar("_Found", bound=Record)
_RATE: Final = dict.fromkeys(("median", "min", "max"), Positive)
_PROBE: Final = {
    **dict.fromkeys(("task", "model", "device", "sentence"), Text),
    "versions?": Json,
    **dict.fromkeys(("repeats", "fastest"), Size),
    "curve": [
        {
            "batch_size": Size,
            "samples_per_second": _RATE,
            "against_first": Ratio | None,
            "compute_seconds?": _RATE,
            "peak_bytes?": Size | None,
        }
    ],
    "cores?": Size,
    "optimizer_seconds?": _RATE,
    "gradients?": {"bytes": Size, "buckets": [Size], "ready": [Amount]},
    "communication?": {
        "world_size": Size,
        "backend": Text,
        "gradients": {"bytes": Size, "buckets": [Size], "seconds": _RATE},
        "curve": [{"bytes": Size, "seconds": _RATE}],
        "latency_seconds": {"median": Number},
        "seconds_per_byte": {"median": Number},
    },
    "speedup": Ratio,
    **dict.fromkeys(("enough", "out_of_memory_at"), Size | None),
}


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A run, read from its folder.

    Attributes:
        config: the settings.
        versions: of the software and the machine; empty if the folder has none.
        history: every evaluation, at least one, in the order of samples.
        decisions: every change of the batch size.
        result: the findings of a finished run; None for an unfinished one.
    """

    config: Json
    versions: Json
    history: Sequence[Json]
    decisions: Sequence[Json]
    result: Json | None

    def staircase(self) -> list[tuple[int, int, str]]:
        """The batch sizes: for each the clock in samples where it starts, at first 0, the size and the reason."""
        steps = [(0, int(self.config["batch_size"]), "")]
        for decision in self.decisions:
            step = (int(decision["clock"]), int(decision["batch_size"]), str(decision.get("reason", "")))
            if step[0] == 0:
                steps.clear()
            steps.append(step)
        return steps

    def at(self, clock: int) -> dict[str, float]:
        """Samples, updates and seconds at `clock`, in samples, at most that of the last evaluation.

        They are exact at an evaluation. Between two, updates and seconds are interpolated with the updates and seconds
        per sample of each batch size.
        """
        place = bisect_left(self.history, clock, key=lambda found: found["samples"])
        end = self.history[min(place, len(self.history) - 1)]
        start: Json = self.history[place - 1] if place else {"samples": 0, "updates": 0, "seconds": 0.0}
        steps = self.staircase()
        begins: list[int] = [start["samples"], *(c for c, _, _ in steps if start["samples"] < c < end["samples"])]
        pieces = list(zip(begins, [*begins[1:], end["samples"]], strict=True))
        found: dict[str, float] = {"samples": clock}
        rates = self.result["samples_per_second"] if self.result else {}
        sizes = {begin: _size_at(steps, begin) for begin in begins}
        speeds: dict[str, Mapping[int, float]] = {
            "updates": sizes,
            "seconds": {begin: rates.get(str(size)) or 1.0 for begin, size in sizes.items()},
        }
        for key, speed in speeds.items():
            whole = sum((stop - begin) / speed[begin] for begin, stop in pieces)
            past = sum((min(stop, clock) - begin) / speed[begin] for begin, stop in pieces if begin < clock)
            share = past / whole if whole else 0.0
            found[key] = start[key] + (end[key] - start[key]) * share
        found["updates"] = round(found["updates"])
        return found

    def size_at(self, clock: int) -> int:
        """The size of a batch that starts at `clock`."""
        return _size_at(self.staircase(), clock)

    def decided(self) -> list[Json]:
        """The changes of the batch size that a policy decided."""
        return [found for found in self.decisions if found.get("observation") is not None]

    def noise(self) -> list[tuple[int, float | None, float, float | None]]:
        """The noise scale as it was measured for a policy, at evaluations and changes of the batch size.

        For each the clock in samples, the noise scale, which is None or below 0 where the signal is not told from 0,
        and the ends of its interval of 95 %; None for no upper end.
        """
        found = {
            one["samples"]: (one.get("noise_scale"), one["noise_low"], one.get("noise_high"))
            for one in self.history
            if one.get("noise_low") is not None
        }
        for decision in self.decided():
            if (seen := decision["observation"].get("noise")) is not None:
                found[decision["clock"]] = seen["noise_scale"], seen["low"], seen["high"]
        return [(clock, *found[clock]) for clock in sorted(found)]


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished comparison.

    Attributes:
        compare: its findings.
        runs: for each arm its runs, one per seed.
    """

    compare: Comparison
    runs: Mapping[str, Sequence[SavedRun]]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A comparison with missing runs.

    Attributes:
        note: the content of `comparison.json`.
        arms: the names of the known arms.
        seeds: the known seeds.
        runs: the runs that were evaluated, finished or not, by arm and seed.
    """

    note: Json
    arms: Sequence[str]
    seeds: Sequence[int]
    runs: Mapping[tuple[str, int], SavedRun]

    def finished(self, arm: str) -> dict[int, SavedRun]:
        """The finished runs of an arm by seed, in the order of seeds."""
        found = {seed: self.runs.get((arm, seed)) for seed in self.seeds}
        return {seed: run for seed, run in found.items() if run is not None and run.result is not None}


@dataclass(frozen=True, slots=True)
class Together:
    """Several runs with any settings, by name."""

    runs: Mapping[str, SavedRun]


@dataclass(frozen=True, slots=True)
class Plan:
    """A forecast: the content of `plan.json`."""

    values: Json


@dataclass(frozen=True, slots=True)
class Probe:
    """Throughput against batch size: the content of `probe.json`."""

    values: Json


@dataclass(frozen=True, slots=True)
class Studies:
    """The findings of studies and of branchings, at least one, and probes of their networks.

    Attributes:
        studies: by the names of their folders.
        branches: likewise.
        probes: at most one for each task and network of the studies.
    """

    studies: Mapping[str, Study] = field(default_factory=dict)
    branches: Mapping[str, BranchFindings] = field(default_factory=dict)
    probes: Sequence[Probe] = ()


@dataclass(frozen=True, slots=True)
class Advices:
    """One or more pieces of advice, by the names of their folders."""

    advices: Mapping[str, Advice]


Source = Finished | Unfinished | SavedRun | Together | Plan | Probe | Studies | Advices


def read(folder: Path) -> Source:
    """The record of a folder that `adabatch compare`, `train`, `plan`, `probe`, `study` or `advise` wrote.

    Raises:
        FileNotFoundError: if none of them wrote it, or a file is missing.
        ValueError: if a file is damaged or of another kind, or the run was never evaluated.
    """
    _check_there(folder)
    own = folder.resolve().name
    readers: dict[str, Callable[[Path], Source]] = {
        "compare.json": lambda folder: _read_unfinished(folder) if _lacks_runs(folder) else read_finished(folder),
        "config.json": read_run,
        "comparison.json": _read_unfinished,
        "plan.json": _read_plan,
        "probe.json": _read_probe,
        **dict.fromkeys(_STUDY, lambda folder: Studies({own: findings(folder, Study)})),
        **dict.fromkeys(_BRANCH, lambda folder: Studies(branches={own: findings(folder, BranchFindings)})),
        **dict.fromkeys(_ADVICE, lambda folder: Advices({own: findings(folder, Advice)})),
    }
    for name, reader in readers.items():
        if (folder / name).exists():
            return reader(folder)
    raise FileNotFoundError(
        f"`folder` must be a folder that adabatch compare, train, plan, probe, study or advise wrote, got "
        f"{str(folder)!r} without compare.json, config.json, plan.json, probe.json, study.json, branch.json and "
        "advice.json"
    )


def read_together(folders: Sequence[Path]) -> Together | Studies | Advices:
    """At least two runs, finished or not; or studies and branchings, with probes of their networks; or advice.

    Each is named by the end of its path that tells it from the others.

    Raises:
        FileNotFoundError: if a folder is not there, or a study, branching or advice is not finished.
        ValueError: if two folders are the same or of different kinds, a file is damaged, a run was never evaluated, or
            a probe is of another task or network.
    """
    places = [folder.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            twice = f"{str(folder)!r} twice"
            raise ArgumentError("folder", "must name each run or study once", got=twice, remedy="leave one out")
        _check_there(folder)
    other = "none of these"
    kinds = [next((kind for kind, names in _TOGETHER.items() if _has(folder, names)), other) for folder in folders]
    match sorted(set(kinds)):
        case ["study"] | ["probe", "study"]:
            return _read_studies(folders)
        case ["advice"]:
            return Advices({name: findings(folder, Advice) for name, folder in _named(folders).items()})
        case ["run"]:
            return Together({name: read_run(folder) for name, folder in _named(folders).items()})
    raise ArgumentError(
        "folder",
        "must be of one kind where several are given: runs, advice, or studies with probes of their networks",
        got=", ".join(f"{kind} in {str(folder)!r}" for kind, folder in zip(kinds, folders, strict=True)),
        remedy="give what is of another kind alone",
    )


def _check_there(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"`folder` must be there, got {str(folder)!r}, which is not; look for its name")


def _has(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).exists() for name in names)


def is_probe(folder: Path) -> bool:
    """Whether `adabatch probe` wrote the folder."""
    return (folder / "probe.json").exists()


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders, each by the end of its path that tells it from the others."""
    places = [folder.resolve() for folder in folders]
    deep = max(len(place.parts) for place in places)
    ends = (["/".join(place.parts[-depth:]) for place in places] for depth in range(1, deep + 1))
    names = next(names for names in ends if len(set(names)) == len(names))
    return dict(zip(names, folders, strict=True))


def _read_studies(folders: Sequence[Path]) -> Studies:
    """Studies and branchings, and the probes beside them."""
    probes = {folder: _read_probe(folder) for folder in folders if is_probe(folder)}
    named = _named([folder for folder in folders if folder not in probes])
    of_branches = {name: folder for name, folder in named.items() if _has(folder, _BRANCH)}
    studies = {name: findings(folder, Study) for name, folder in named.items() if name not in of_branches}
    _check_probes(probes, [(study.task, panel.model) for study in studies.values() for panel in study.panels])
    branches = {name: findings(folder, BranchFindings) for name, folder in of_branches.items()}
    return Studies(studies, branches, tuple(probes.values()))


def _check_probes(probes: Mapping[Path, Probe], networks: Sequence[tuple[str, str]]) -> None:
    """Raises unless each probe is of another one of the networks, each a task and a name.

    Raises:
        ValueError: if not.
    """
    known: dict[tuple[str, str], Path] = {}
    for folder, probe in probes.items():
        mine = str(probe.values["task"]), str(probe.values["model"])
        got = f"{str(folder)!r} of {', '.join(mine)}"
        if mine not in networks:
            rule, remedy = "must be a probe of a task and network of the studies beside it", "leave it out"
            if networks:
                theirs = " and ".join(dict.fromkeys(", ".join(one) for one in networks))
                task, model = networks[0]
                remedy = f"they are of {theirs}: adabatch probe {task} --model {model}"
            raise ArgumentError("folder", rule, got=got, remedy=remedy)
        if mine in known:
            remedy = f"leave it or {str(known[mine])!r} out"
            raise ArgumentError("folder", "must be the only probe of its network", got=got, remedy=remedy)
        known[mine] = folder


def findings(folder: Path, record: type[_Found]) -> _Found:
    """The findings of a finished study, branching or advice, of which `record` is the class.

    Raises:
        FileNotFoundError: if the command is not finished, or did not write the folder.
        ValueError: if the file is damaged.
    """
    kind, command, names = _KINDS[record]
    file = folder / names[0]
    if not file.exists():
        what = f"which is not finished: {file.name} is missing" if _has(folder, names) else f"without {file.name}"
        raise FileNotFoundError(
            f"`folder` must hold a finished {kind}, got {str(folder)!r}, {what}; the adabatch {command} command that "
            f"wrote the folder goes on when it is given again, and writes {file.name} at its end"
        )
    return _record(file, record)


def _record(file: Path, record: type[_Found]) -> _Found:
    """The record in a file; raises if the file is damaged."""
    values = _json(file)
    _check(file, record.faults(values))
    return record.of_json(values)


def read_run(folder: Path) -> SavedRun:
    """The run in a folder, finished or not.

    Raises:
        FileNotFoundError: if its settings are missing.
        ValueError: if a file is damaged, or the run was never evaluated.
    """
    config = _json(folder / "config.json", _CONFIG)
    versions = _json(folder / "versions.json") if (folder / "versions.json").exists() else {}
    file = folder / "result.json"
    result = _json(file, _RESULT) if file.exists() else None
    if result is not None:
        history, decisions = result["history"], result["decisions"]
    else:
        history, decisions = _lines(folder / "metrics.jsonl"), _lines(folder / "decisions.jsonl")
    if not history:
        rule = "must hold a run that was evaluated at least once"
        raise ArgumentError("folder", rule, value=str(folder), remedy="let it train on")
    for records, shape in ((history, _EVALUATION), (decisions, _DECISION)):
        for found in records:
            _check(folder, faults(found, shape))
    for found in decisions:
        seen = found.get("observation") or {}
        _check(folder, faults(seen, _OBSERVATION))
        _check(folder, faults(seen.get("noise") or {}, _NOISE if seen.get("noise") else {}))
    return SavedRun(config, versions, history, decisions, result)


def read_finished(folder: Path) -> Finished:
    """The comparison whose outcome is in a folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or of another kind.
    """
    compare = _record(folder / "compare.json", Comparison)
    places = {arm.name: folder / "runs" / arm.name for arm in compare.arms}
    runs = {name: [read_run(place / f"seed-{seed}") for seed in compare.seeds] for name, place in places.items()}
    return Finished(compare, runs)


def on_one_clock(runs: Mapping[str, Sequence[SavedRun]]) -> dict[str, list[SavedRun]]:
    """Each arm's runs, one per seed, with the same seconds at an evaluation in every seed: as in `Comparison.seconds`.

    An arm whose runs were evaluated at different samples, since one diverged and was stopped, keeps its own seconds.
    """
    ends = [float(run.history[-1]["seconds"]) for run in runs.get(SMALL, ())]
    return {name: _aligned(seeds, ends) for name, seeds in runs.items()}


def _aligned(runs: Sequence[SavedRun], ends: Sequence[float]) -> list[SavedRun]:
    places = {tuple(found["samples"] for found in run.history) for run in runs}
    if len(runs) == 1 or len(places) > 1:
        return list(runs)
    points = zip(*(run.history for run in runs), strict=True)
    told = [_paired([found["seconds"] for found in point], ends) for point in points]
    return [
        replace(run, history=[{**found, "seconds": at} for found, at in zip(run.history, told, strict=True)])
        for run in runs
    ]


def _paired(times: Sequence[float], ends: Sequence[float]) -> float:
    """The median of `ends`, divided by the median ratio of end to time; the median time if they cannot be paired."""
    if len(times) != len(ends) or not all((*times, *ends)):
        return median(times)
    return median(ends) / median(end / time for end, time in zip(ends, times, strict=True))


def _lacks_runs(folder: Path) -> bool:
    """Whether arms or seeds were added to the comparison after its outcome was written."""
    file, compare = folder / "comparison.json", _record(folder / "compare.json", Comparison)
    note = _json(file, _NOTE) if file.exists() else {}
    more = {*note.get("arms", ())} - {arm.name for arm in compare.arms}
    return bool(more or {*note.get("seeds", ())} - {*compare.seeds})


def _read_unfinished(folder: Path) -> Unfinished:
    note = _json(folder / "comparison.json", _NOTE)
    there = sorted((folder / "runs").glob("*/seed-*/config.json"))
    arms = note.get("arms") or list(dict.fromkeys(file.parts[-3] for file in there))
    ends = (file.parts[-2].removeprefix("seed-") for file in there)
    seeds = note.get("seeds") or sorted({int(end) for end in ends if end.isdecimal()})
    runs = {}
    for arm in arms:
        for seed in seeds:
            path = folder / "runs" / arm / f"seed-{seed}"
            if (path / "result.json").exists() or _lines(path / "metrics.jsonl"):
                runs[arm, seed] = read_run(path)
    if not arms:
        raise FileNotFoundError(
            f"`folder` must hold at least one run, got the comparison {str(folder)!r}, which has none yet; let it train"
        )
    return Unfinished(note, arms, seeds, runs)


def _read_plan(folder: Path) -> Plan:
    values = _json(folder / "plan.json", _PLAN)
    keys = ("sizes", "lr", "lr_before", "noise_scale", "noise_scale_before")
    short = (key for key in keys if len(values[key]) != len(values["starts_samples"]))
    _check(folder / "plan.json", (f"without a value of {key} for each start" for key in short))
    return Plan(values)


def _read_probe(folder: Path) -> Probe:
    return Probe(_json(folder / "probe.json", _PROBE))


def _size_at(steps: Sequence[tuple[int, int, str]], clock: int) -> int:
    return steps[bisect_right(steps, clock, key=itemgetter(0)) - 1][1]


def _json(file: Path, shape: Any = MappingProxyType({})) -> Json:
    try:
        values = _files.json_of(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"`folder` must hold whole runs, but {file} is missing; start the command that wrote the folder again"
        ) from None
    except ValueError as error:
        raise _damaged(file, error) from None
    _check(file, faults(values, shape))
    return dict(values)


def _lines(file: Path) -> list[Json]:
    """The records of a JSON lines file; none if it is missing. An unfinished last line is left out."""
    if not file.exists():
        return []
    try:
        _files.check_file(file)
        whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
        return [_files.values_of(line) for line in whole.splitlines()]
    except ValueError as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: ValueError) -> ArgumentError:
    got = f"a damaged {file} ({error})"
    return ArgumentError("folder", "must hold whole files", got=got, remedy=_remedy(file))


def _check(file: Path, wrong: Iterable[str]) -> None:
    for fault in wrong:
        raise ArgumentError("folder", "must hold files of this package", got=f"{file} {fault}", remedy=_remedy(file))


def _remedy(damaged: Path) -> str:
    """The remedy for a damaged file; a run is deleted first, since the command does not write it again."""
    folder = damaged.parent
    deleted = f"delete {folder} and " if (folder / "config.json").exists() else ""
    return f"{deleted}start the command that wrote it again"
