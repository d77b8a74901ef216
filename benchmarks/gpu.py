"""All that a GPU must show, in one call of under eight minutes: phases, the most important first, and one result file.

Each phase is a process of its own with a time limit, so that a crash, a hang or memory that runs out costs that phase
alone; the error is noted, and what the phase had found until then is kept. The file is written anew after each phase,
whole or not at all. With --only some phases are done, and the others in the file stay. The headline, the paper's claim
at the paper's own length, takes a call of its own for each seed and is appended:

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only headline --data ../data
    python benchmarks/gpu.py --only headline --data ../data --arms fixed-one-gpu,grown-from-128

Without a GPU, in minutes: shows that everything runs, and nothing else.

    python benchmarks/gpu.py --toy --out runs/gpu.json

A machine without git cannot name its revision. Then the result is written elsewhere, with a hash of the code, and where
the repository is, it is kept if that is the code of the revision here:

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --keep gpu.json

"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from gpu_job import Job, in_words, provenance
from paired import ROOT, begin, write

KEPT: Final = ROOT / "benchmarks" / "results" / "gpu.json"
MINUTES, TOY_MINUTES = 8.0, 60.0  # a slow machine may take long over a toy
SHORTEST: Final = 10.0  # seconds in which a phase may be worth starting


class Phase(NamedTuple):
    """A phase.

    Attributes:
        measure: `module:function`; the function takes a `Job` and returns what it found.
        seconds: that are kept for it. It may take longer where phases after it need less, and is ended then.
        alone: whether it is left out unless it is asked for.
    """

    measure: str
    seconds: float
    alone: bool = False


PHASES: Final = {
    "environment": Phase("gpu_speed:environment", 20),
    "kernels": Phase("gpu_speed:kernels", 40),
    "throughput": Phase("gpu_speed:throughput", 115),
    "loops": Phase("gpu_loops:loops", 140),
    "loaders": Phase("gpu_speed:loaders", 25),
    "preparation": Phase("gpu_speed:preparation", 50),
    "headline": Phase("gpu_training:headline", 475, alone=True),
    "memory": Phase("gpu_training:out_of_memory", 20),
    "probe": Phase("gpu_training:probed", 30),
    "gpt": Phase("gpu_training:language_model", 40),
}


def done(measure: str, arguments: Sequence[str], *, limit: float, former: Mapping[str, Any]) -> dict[str, Any]:
    """A phase, in a process of its own.

    Args:
        measure: of the phase.
        arguments: of the command.
        limit: seconds after which it is ended.
        former: the phases that the result file has.

    Returns:
        `found`, also what had been found when the phase failed; `error`, or None; `seconds` that it took, and its
        limit; and the code that ran.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        into, known = Path(folder) / "found.json", Path(folder) / "former.json"
        known.write_text(json.dumps(former))
        inside = ["--inside", measure, "--into", str(into), "--former", str(known), "--seconds", str(limit)]
        begun = time.perf_counter()
        error = ended([sys.executable, str(Path(__file__).resolve()), *inside, *arguments], limit)
        took = time.perf_counter() - begun
        told = json.loads(into.read_text()) if into.exists() else {"found": {}, "error": None}
    error = told["error"] or error
    return {"found": told["found"], "error": error, "seconds": took, "limit_seconds": limit, **provenance()}


def ended(command: Sequence[str], limit: float) -> str | None:
    """Runs a process and all that it starts for `limit` seconds at most; why it failed, None if it did not."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"ended at its limit of {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return None if code == 0 else f"ended with exit code {code}"


def inside(options: argparse.Namespace) -> None:
    """The process of a phase: measures, and writes what was found, or the error."""
    module, _, name = options.inside.partition(":")
    former = json.loads(options.former.read_text())
    job = Job(options, into=options.into, seconds=options.seconds, former=former)
    try:
        found = getattr(importlib.import_module(module), name)(job)
    except Exception as error:
        kept = json.loads(options.into.read_text())["found"] if options.into.exists() else {}
        job.report(kept, error=in_words(error))
        raise
    job.report(found)


def merged(phases: Mapping[str, Any], name: str, new: Mapping[str, Any]) -> dict[str, Any]:
    """The phases with a new one in its place; one that failed and found less leaves what was there, and its error."""
    former = phases.get(name)
    less = former is not None and new["error"] and cases(new["found"]) < cases(former["found"])
    kept = {**former, "error": new["error"]} if former is not None and less else dict(new)
    order = [*PHASES, *phases]
    return dict(sorted({**phases, name: kept}.items(), key=lambda item: order.index(item[0])))


def cases(found: Any) -> int:
    """How many values a phase found, at any depth."""
    return sum(map(cases, found.values())) if isinstance(found, Mapping) else 1


def read(path: Path, *, toy: bool) -> dict[str, Any]:
    """A result file; without phases if there is none yet.

    Raises:
        SystemExit: if the file is something else, or a toy's and others are wanted, or the other way round.
    """
    if not path.exists():
        return {"phases": {}}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        same = isinstance(found["phases"], dict) and found["toy"] is toy
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        which = "with --toy" if toy else "without --toy"
        raise SystemExit(f"{path} must be new or a result of this benchmark {which}, and is neither; give another file")
    return found


def keep(source: Path, out: Path) -> None:
    """Keeps a result that another machine measured with this very code.

    Raises:
        SystemExit: if it was another code, or not a GPU.
    """
    environment, here, found = begin(out, threads=None), provenance(), read(source, toy=False)
    phases = found["phases"]
    if not phases:
        raise SystemExit(f"--keep must name a result of this benchmark, got {source}, which is not there or empty")
    for name, phase in phases.items():
        for each in [phase, *phase["found"].get("runs", [])] if name == "headline" else [phase]:
            each["git"] = here["git"]  # whatever git said there, or did not
            if each["code_sha256"] != here["code_sha256"] or here["git"] is None or here["git"]["changed"]:
                raise SystemExit(
                    f"--keep must name a result of the code here, got {name} of other code "
                    f"({each['code_sha256'][:12]}, here {here['code_sha256'][:12]}); check out what was measured"
                )
    environment = {**found["environment"], "git": environment["git"]}
    check_gpu(out, environment["gpu"])
    kept = read(out, toy=False)["phases"]
    for name, phase in phases.items():
        if name == "headline" and name in kept:
            phase["found"] = importlib.import_module("gpu_training").joined(kept[name]["found"], phase["found"])
        kept = merged(kept, name, {**where(environment), **phase})
    write(out, "gpu", environment, {"toy": False, "phases": kept}, printed=False)
    print(f"{out}: {', '.join(kept)}")


def where(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The card and the torch of a phase; a result file may have those of several."""
    return {name: environment[name] for name in ("gpu", "torch")}


def check_gpu(out: Path, gpu: str | None, *, toy: bool = False) -> None:
    """Raises if a result that is no GPU's, or a toy's, would be kept as one."""
    if out.resolve() == KEPT.resolve() and (gpu is None or toy):
        why = "this is a toy" if toy else "none is used here"
        raise SystemExit(f"{KEPT.relative_to(ROOT)} is for results of a GPU, and {why}; give another file with --out")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    from gpu_speed import OPTIONS
    from gpu_training import ARMS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"phases such as loops,loaders, of {', '.join(PHASES)}; else all but headline")
    parser.add_argument("--data", help="folder of the data sets, for headline and gpt")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--toy", action="store_true", help="tiny: shows that everything runs, and nothing else")
    parser.add_argument("--minutes", type=float, help=f"of the whole call; else {MINUTES:g}, of a toy {TOY_MINUTES:g}")
    parser.add_argument("--network", choices=("resnet20", "vgg19_bn"), help="of headline; else resnet20")
    parser.add_argument("--data-set", choices=("cifar10", "cifar100"), default="cifar10", help="of headline")
    parser.add_argument("--arms", default="fixed,grown", help=f"of headline, of {', '.join(ARMS)}")
    parser.add_argument("--seed", type=int, help="of headline; else the first that is not complete")
    parser.add_argument("--option", default="best", choices=("best", *OPTIONS), help="of headline")
    parser.add_argument("--out", type=Path, default=KEPT)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep a result that another machine measured")
    for name, kind in (("inside", str), ("into", Path), ("former", Path), ("seconds", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.minutes = options.minutes or (TOY_MINUTES if options.toy else MINUTES)
    options.network = options.network or ("small_cnn" if options.toy else "resnet20")
    for flag, given, known in (("--only", options.only, PHASES), ("--arms", options.arms, ARMS)):
        if unknown := [name for name in (given or "").split(",") if given and name not in known]:
            parser.error(f"{flag} must be of {', '.join(known)}, got {', '.join(unknown)}")
    return options


def main() -> int:
    """Does the phases; returns 1 if one failed."""
    options = parsed()
    if options.inside:
        inside(options)
        return 0
    if options.keep:
        keep(options.keep, options.out)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no phase outlives this process
    wanted = options.only.split(",") if options.only else [name for name, phase in PHASES.items() if not phase.alone]
    ends = time.perf_counter() + 60 * options.minutes
    environment = begin(options.out, threads=None)
    if options.device == "cpu":
        environment["gpu"] = None
    check_gpu(options.out, environment["gpu"], toy=options.toy)
    phases, failed = read(options.out, toy=options.toy)["phases"], False
    order = [name for name in PHASES if name in wanted]
    for number, name in enumerate(order):
        left = ends - time.perf_counter()
        if left < SHORTEST:
            print(f"{', '.join(order[number:])}: left out, the {options.minutes:g} minutes are over; go on with --only")
            failed = True
            break
        after = sum(PHASES[later].seconds for later in order[number + 1 :])
        limit = min(left, max(PHASES[name].seconds, left - after))
        print(f"{name}, at most {limit:.0f} s", flush=True)
        new = done(PHASES[name].measure, sys.argv[1:], limit=limit, former=phases) | where(environment)
        phases = merged(phases, name, new)
        write(options.out, "gpu", environment, {"toy": options.toy, "phases": phases}, printed=False)
        failed |= new["error"] is not None
        print(f"{name}: {new['error'] or 'done'}, {new['seconds']:.1f} s", flush=True)
    print(f"{options.out}: {', '.join(phases)}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
