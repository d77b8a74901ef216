"""Without torch and numpy: planning works, and what needs them says how to get them."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import adabatch as ab
from adabatch._errors import MissingPackageError, needing_torch
from adabatch.lab import cli

ROOT = Path(__file__).parents[1]
WITHOUT = "import sys; sys.modules |= dict.fromkeys(['torch', 'numpy', 'matplotlib'])\n"
REMEDY = "needs torch and numpy; run: pip install 'adabatch[torch]'"
TORCH_FREE = {"Plan", "couplings", "epochs", "policies", "samples", "scale_up", "schedules", "tokens", "updates"}
ROOMS = ("data", "integrations", "integrations.skorch", "lr_clock", "memory", "noise", "norm", "optim", "scheduler")
LIBRARY = """
import adabatch as ab
from adabatch import couplings, schedules, units
table = {0: 0.1, ab.epochs(60): 0.02, ab.epochs(120): 0.004}
growth = schedules.from_lr(table, maximum=2048)
plan = growth.plan(dataset_size=50_000, epochs=160, batch_size=128)
tokens = schedules.linear_ramp(64, over=ab.tokens(100_000), start=8).plan(
    dataset_size=4_000, epochs=1, tokens_per_sample=128)
told = couplings.get(growth.coupling).lr_factor(2.0), couplings.get('adam_sde').in_force(
    {'lr': 1.0, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.1}, 4.0)
lr = ab.scale_up(lr=0.1, momentum=0.9, batch_size=128, to_lr=0.5)
print(plan.updates, plan.sizes, tokens.updates, tokens.sizes, told, lr)
"""
PLANS = (
    ("--preset", "smith-increase"),
    ("--preset", "adabatch", "--model", "alexnet"),
    ("--preset", "akiba-small"),
    ("--preset", "smith-increase", "--emit", "python"),
    ("--preset", "smith-increase", "--emit", "csv"),
    ("--preset", "smith-increase", "--emit", "json"),
    ("--preset", "adabatch", "--emit", "megatron", "--tokens-per-sample", "1"),
    ("--preset", "adabatch", "--emit", "nanogpt-stages", "--tokens-per-sample", "1"),
    ("--preset", "adabatch", "--emit", "optax"),
    ("--lr-schedule", "cosine", "--batch-size", "128", "--dataset-size", "50000", "--epochs", "90", "--rule", "seesaw"),
    ("--growth", "2", "--every", "2", "--max-batch-size", "256", "--batch-size", "16", "--dataset-size", "1437",
     "--epochs", "14"),
)  # fmt: skip


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process in which torch, numpy and matplotlib cannot be imported."""
    return python(f"{WITHOUT}from adabatch.lab.cli import main; main()", *arguments)


def here(*arguments: str) -> str:
    """The output of the command in this process, which has torch."""
    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 0
    return output.getvalue()


def test_the_library_plans_without_torch():
    assert "torch" in sys.modules
    bare, full = python(WITHOUT + LIBRARY), python(LIBRARY)
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout == full.stdout != ""


@pytest.mark.parametrize("arguments", PLANS, ids=" ".join)
def test_plans_are_those_with_torch(arguments):
    done = without_torch("plan", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == here("plan", *arguments, "--json")


def test_a_plan_s_folder_and_its_page(tmp_path):
    done = without_torch("plan", *PLANS[0], "--out", str(tmp_path / "plan"))
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "plan").iterdir()) == ["plan.json", "report.html"]
    page = (tmp_path / "plan" / "report.html").read_text()
    done = without_torch("report", str(tmp_path / "plan"), "--json")
    assert json.loads(done.stdout) == {"page": str(tmp_path / "plan" / "report.html")}, done.stderr
    assert (tmp_path / "plan" / "report.html").read_text() == page


def test_the_list_is_that_with_torch():
    done = without_torch("list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == here("list", "--json")


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    ("train", "digits", "--epochs", "1"),
    ("compare", "digits", "--epochs", "2", "--seeds", "2", "--every", "1"),
    ("probe", "digits", "--batch-size", "64", "--max-batch-size", "128", "--seconds", "0.1"),
], ids=lambda command: command[0])  # fmt: skip
def test_pages_of_trainings_are_those_with_torch(command, tmp_path):
    here(*command, "--out", str(tmp_path / "out"), "--json")
    path = tmp_path / "out" / "report.html"
    here("report", str(tmp_path / "out"), "--json")
    before = path.read_text()
    done = without_torch("report", str(tmp_path / "out"), "--json")
    assert (done.returncode, path.read_text() == before) == (0, True), done.stderr


@pytest.mark.parametrize("command", [["train", "digits"], ["compare", "digits"], ["probe", "digits"],
                                     ["advise", "digits"], ["study", "digits", "--batch-sizes", "16,64"]])  # fmt: skip
def test_commands_that_train_say_what_is_missing(command, tmp_path):
    done = without_torch(*command, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: adabatch {command[0]} {REMEDY}\n"
    assert not (tmp_path / "out").exists()


def test_names_that_need_torch_say_so():
    needing = sorted({*ab.__all__} - TORCH_FREE)
    code = (
        "import adabatch as ab\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found = getattr(ab, name)\n"
        "        found(None) if name == 'accumulate' else None\n"
        "    except ModuleNotFoundError as error: print(name, error.name, type(error).__name__, error)\n"
    )
    done = python(WITHOUT + code, *needing, *sorted(TORCH_FREE))
    lines = [line for line in done.stdout.splitlines() if " " in line]
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" ", 3) for line in lines] == [
        [name, lines[index].split()[1], "MissingPackageError", f"`ab.{name}` {REMEDY}"]
        for index, name in enumerate(needing)
    ]
    assert {line.split()[1] for line in lines} <= {"torch", "numpy"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_that_need_torch_say_so(room):
    done = python(f"{WITHOUT}import adabatch.{room}")
    assert done.stderr.splitlines()[-1] == f"adabatch._errors.MissingPackageError: this part of adabatch {REMEDY}"
    assert python(f"import adabatch.{room}").returncode == 0


def test_another_package_s_absence_is_its_own():
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'") as caught, needing_torch("it"):
        importlib.import_module("no_such_package")
    assert not isinstance(caught.value, MissingPackageError)
    with pytest.raises(ModuleNotFoundError, match="halted") as caught, needing_torch("it"):
        raise ModuleNotFoundError("import of torch.nothing halted", name="torch.nothing")  # torch itself is there
    assert not isinstance(caught.value, MissingPackageError)


def closure(*names: str) -> dict[str, metadata.Distribution]:
    """Installed distributions by name, with those that they need."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        needed = [Requirement(text) for text in found[name].requires or []]
        waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_a_real_environment_without_torch(tmp_path):
    """The wheel in a bare environment, then with what the extra `cli` brings; no network is used."""
    source, home = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("adabatch-*.whl")
    venv.create(home, with_pip=False)
    binary = home / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([*pip, "--python", str(binary / "python"), "install", *alone, str(wheel)], check=True)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binary / words[0]), *words[1:]], capture_output=True, text=True, check=False, cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COLUMNS": "200"},
        )  # fmt: skip

    assert call("python", "-c", LIBRARY).stdout == python(LIBRARY).stdout
    done = call("python", "-c", "import adabatch as ab; ab.DataLoader")
    assert done.stderr.splitlines()[-1].endswith(f"`ab.DataLoader` {REMEDY}")
    done = call("adabatch", "plan", *PLANS[0])
    assert done.returncode == 2
    assert done.stderr == "the command line needs typer and rich; run: pip install 'adabatch[cli]'\n"
    site = Path(call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    for found in closure("typer", "rich").values():
        for file in found.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), site / file)
    for arguments in PLANS:
        done = call("adabatch", "plan", *arguments, "--json")
        assert done.stdout == here("plan", *arguments, "--json"), done.stderr
    assert call("adabatch", "--version").stdout.strip() == ab.__version__
    assert call("adabatch", "train", "digits").stderr == f"error: adabatch train {REMEDY}\n"
