"""Builds wheel and sdist, and tries both as a user would: `python .ci/check_package.py [--out dist] [--only wheel]`.

1. `python -m build` makes the sdist from the files that git knows, and the wheel from the sdist.
2. `twine check --strict` reads the metadata; what they hold, and that the core needs no other package, is checked here.
3. Each is installed into a bare environment as the README says, first without torch, where it must plan, then with the
   README's extras, where the demo trains at a small size.

Environments are made in a temporary folder; packages come from where pip finds them. Prints one line for each check and
a closing line `N passed, N failed`; exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXTRAS = "torch,cli,data,plot"
DEMO = ("compare", "digits", "--seeds", "2", "--epochs", "4", "--quiet", "--out", "demo")
# Of 1,437 digits in batches of 16, from the third epoch on of 32, which is then also the large batch.
UPDATES = {"fixed-small": 360, "fixed-large": 180, "adaptive": 270, "uncoupled": 270}
WANTED = ("adabatch/py.typed", "adabatch/lab/report/page_assets/draw.js", "adabatch/lab/report/page_assets/page.css")
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "SECURITY.md", "src/adabatch/_torch.py")
Check = tuple[str, Any, bool]


def build(out: Path, scratch: Path) -> tuple[Path, Path]:
    """Builds both from a copy of the tracked files, so that nothing else can slip in; returns wheel and sdist."""
    source = scratch / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for built in (*out.glob("adabatch-*.whl"), *out.glob("adabatch-*.tar.gz")):
        built.unlink()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=scratch)
    (wheel,), (sdist,) = out.glob("adabatch-*.whl"), out.glob("adabatch-*.tar.gz")
    return wheel, sdist


def contents(wheel: Path, sdist: Path) -> Iterator[Check]:
    """What the files hold."""
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        text = archive.read(next(name for name in inside if name.endswith(".dist-info/METADATA"))).decode()
    metadata = HeaderParser().parsestr(text)
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/adabatch/_version.py").read_text())
    yield "the version is the one of _version.py", metadata["Version"], version and metadata["Version"] == version[1]
    core = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    yield "the core needs no other package", core, not core
    extras = set(metadata.get_all("Provides-Extra") or [])
    yield "the README's extras are offered", sorted(extras), {*EXTRAS.split(","), "all"} <= extras
    missing = [name for name in WANTED if name not in inside]
    yield "the wheel holds types and the pages' script", missing, not missing
    others = sorted({name.partition("/")[0] for name in inside} - {"adabatch"})
    yield "the wheel holds nothing else", others, all(name.endswith(".dist-info") for name in others)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in names]
    yield "the sdist holds what a packager needs", missing, not missing
    stray = sorted(name for name in names if re.match(r"(tests|benchmarks|website|runs|build)/", name))
    yield "the sdist holds nothing else", stray[:3], not stray


def tried(artifact: Path, scratch: Path) -> Iterator[Check]:
    """An artifact in an environment of its own: first without torch, then with the README's extras."""
    kind = "sdist" if artifact.name.endswith(".tar.gz") else "wheel"
    home, work = scratch / kind, scratch / f"{kind}-work"
    work.mkdir()
    venv.create(home, with_pip=True)
    python, adabatch = home / "bin" / "python", home / "bin" / "adabatch"
    pip = [python, "-m", "pip", "--quiet", "install", "--constraint", ROOT / "constraints.txt"]
    run(*pip, "--upgrade", "pip", "setuptools", cwd=work)
    more = ["--no-build-isolation"] if kind == "sdist" else []
    run(*pip, *more, f"adabatch[cli] @ {artifact.as_uri()}", cwd=work)
    file = told(python, "-c", "import adabatch; print(adabatch.__file__)", cwd=work).strip()
    yield f"{kind}: the library is the installed one", file, Path(file).is_relative_to(home)
    plan = json.loads(told(adabatch, "plan", "--preset", "smith-increase", "--json", cwd=work))
    yield f"{kind}: plans without torch", plan["updates_after"], plan["updates_after"] == 29_240
    done = call(adabatch, "train", "digits", cwd=work)
    yield f"{kind}: says that torch is missing", done.stderr.strip(), "pip install 'adabatch[torch]'" in done.stderr
    run(*pip, *more, f"adabatch[{EXTRAS}] @ {artifact.as_uri()}", cwd=work)
    version = told(adabatch, "--version", cwd=work).strip()
    yield f"{kind}: --version", version, version in artifact.name
    run(adabatch, *DEMO, cwd=work)
    arms = {arm["name"]: arm for arm in json.loads((work / "demo" / "compare.json").read_text())["arms"]}
    updates = {name: arm["updates"] for name, arm in arms.items()}
    yield f"{kind}: the demo trains, with the plan's updates", updates, updates == UPDATES
    files = sorted(path.name for path in (work / "demo").iterdir())
    yield f"{kind}: the demo's page and picture", files, {"report.html", "compare.png"} <= {*files}
    done = call(python, "-m", "pip", "check", cwd=work)
    yield f"{kind}: packages fit each other", done.stdout.strip(), done.returncode == 0


def call(*command: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command without this process's own paths of modules."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def told(*command: Any, cwd: Path) -> str:
    """The output of a command that must succeed."""
    done = call(*command, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(str(word) for word in command)}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def run(*command: Any, cwd: Path) -> None:
    """Runs a command that must succeed."""
    told(*command, cwd=cwd)


def main(given: list[str]) -> int:
    """Builds and checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="folder for wheel and sdist, whose former ones go"
    )
    parser.add_argument("--only", choices=("wheel", "sdist", "contents"), help="install this one alone, or none")
    options = parser.parse_args(given)
    tally = {True: 0, False: 0}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def checks() -> Iterator[Check]:
            wheel, sdist = build(options.out.resolve(), scratch)
            done = call(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=scratch)
            yield "twine finds no fault", (done.stdout + done.stderr).strip()[-500:], done.returncode == 0
            yield from contents(wheel, sdist)
            for kind, artifact in (("wheel", wheel), ("sdist", sdist)):
                if options.only in (None, kind):
                    yield from tried(artifact, scratch)

        try:
            for text, found, holds in checks():
                tally[bool(holds)] += 1
                print(f"{'passed' if holds else 'FAILED'}: {text}; found {found}", flush=True)
        except (RuntimeError, OSError, KeyError, ValueError, subprocess.CalledProcessError) as error:
            tally[False] += 1
            print(f"FAILED: {type(error).__name__}: {error}")
    print(f"{tally[True]} passed, {tally[False]} failed")
    return 1 if tally[False] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
