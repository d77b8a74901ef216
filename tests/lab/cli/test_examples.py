"""Every example of every help text, of README and the tutorial runs as it is typed, to a right result.

Examples are collected from the texts, and run in their order, each text's in a fresh folder: whoever writes one
need not write a test. Those that take long run in full but on less, as the table `SHORTER` says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from tests.lab.tasks.checks import REAL
from tests.test_docs import ROOT, blocks

from adabatch import schedules
from adabatch.lab import cli, models, recipes, tasks
from adabatch.lab.cli import _docstrings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LEAST = {"digits": 0.9, "mnist": 0.9, "cifar10": 0.2}  # of test accuracy; chance is 0.1


class Shorter(NamedTuple):
    """Options after an example that make it take about two minutes, and the accuracy that it then reaches."""

    starts: str
    more: str
    least: float | None = None


# `small` holds the first pictures of the data set.
SHORTER = [
    Shorter("adabatch study digits --batch-sizes", "--models mlp --epochs 4 --threads 1"),
    Shorter("adabatch study digits --lr-rules", "--models mlp --batch-sizes 16,64 --seeds 1 --epochs 2 --threads 1"),
    Shorter(
        "adabatch study fashion_mnist",
        "--models mlp --train-samples 1000 --test-samples 300 --batch-sizes 16,64 --seeds 2 --epochs 1 --threads 1",
    ),
    Shorter("adabatch study digits --branch", "--models mlp --seeds 2 --threads 1"),
    Shorter("adabatch study digits --storage", "--models mlp --batch-sizes 16,64 --seeds 1 --epochs 2 --threads 1"),
    Shorter("adabatch advise digits", "--model mlp --budget 40s --epochs 4 --threads 1"),
    Shorter(
        "adabatch advise fashion_mnist",
        "--model mlp --train-samples 2000 --test-samples 500 --budget 40s --epochs 4 --threads 1",
    ),
    Shorter("adabatch train mnist", "--epochs 3"),
    Shorter("adabatch compare mnist", "--data small --epochs 4 --target 0.9"),
    Shorter("adabatch train cifar10", "--data small --epochs 8 --batch-size 32 --every 3 --lr-schedule step:0.375:3"),
    Shorter(
        "adabatch compare cifar10",
        "--data small --epochs 8 --batch-size 16 --every 3 --max-batch-size 64 --lr-schedule step:0.375:3 --seeds 2 "
        "--arm fixed-small --arm adaptive",
    ),
    Shorter("python -m adabatch.lab.recipes.", "--seeds 1"),
]
# What must be there before the examples of a text.
BEFORE = {
    "plan": ["adabatch probe digits --model resnet20 --repeats 6 --seconds 0.01"],
    "report": [
        "adabatch compare digits --seeds 2 --out runs/demo",
        "adabatch study digits --models mlp --batch-sizes 16,64 --seeds 2 --epochs 2 --threads 1",
        "adabatch probe digits --model mlp --repeats 6 --seconds 0.01",
    ],
}


def commands(text: str) -> list[str]:
    """The lines of a text that are commands, without the comments after them."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"(adabatch [a-z]|python -m adabatch|python -c)", line)]


def texts() -> dict[str, list[str]]:
    """The examples of each text, by its name."""
    found = {name: commands(_docstrings.read(f"adabatch.lab.cli.{name}", "command")) for name in cli.COMMANDS}
    for file in sorted(Path(recipes.__file__).parent.glob("[a-z]*.py")):
        found[f"recipes/{file.stem}"] = commands(_docstrings.read(f"adabatch.lab.recipes.{file.stem}"))
    for page in (ROOT / "README.md", ROOT / "docs" / "tutorial.md"):
        found[page.name] = commands("".join(code for _, _, code in blocks(page, "sh")))
    return found


TEXTS = texts()


def test_every_text_has_examples():
    assert all(TEXTS.values())
    assert len(TEXTS) == len(cli.COMMANDS) + 3 + 2
    assert TEXTS["README.md"][0].startswith("adabatch train digits --growth 2")
    for row in SHORTER:
        assert any(example.startswith(row.starts) for found in TEXTS.values() for example in found), row


@pytest.mark.parametrize("name", TEXTS)
def test_examples(name, tmp_path):
    here, left_out, wrong = place(tmp_path), [], []
    if any("> schedule.json" in example for example in TEXTS[name]):
        (here / "schedule.json").unlink()
    for example in [*BEFORE.get(name, []), *TEXTS[name]]:
        if needs_data(example) and not REAL.is_dir():
            left_out.append(example)
        elif (fault := run(example, here)) is not None:
            wrong.append(f"{example}\n{fault}")
    assert not wrong, "\n\n".join(wrong)
    if left_out:
        pytest.skip(f"no data in {REAL} (ADABATCH_DATA says where they are) for: {'; '.join(left_out)}")


def place(tmp_path: Path) -> Path:
    """A fresh folder as the examples want it: data in ../data and DATA, the first pictures in small."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "schedule.json").write_text(json.dumps(schedules.steps({0: 16, 8_000: 32}).to_json()))
    for link in (tmp_path / "data", here / "DATA"):
        link.symlink_to(REAL)
    for task in ("mnist", "cifar10"):
        for split, count in (("train", 2_000), ("test", 500)):
            for file in (REAL / task).glob(f"{split}-*.parquet"):
                (here / "small" / task).mkdir(parents=True, exist_ok=True)
                pq.write_table(pq.read_table(file).slice(0, count), here / "small" / task / file.name)
    return here


def needs_data(example: str) -> bool:
    return "recipes" in example or any(f" {task} " in f"{example} " for task in tasks.names() if task != "digits")


def run(example: str, here: Path) -> str | None:
    """Runs an example; returns what is wrong with its result."""
    row = next((row for row in SHORTER if example.startswith(row.starts)), Shorter("", ""))
    words = shlex.split(f"{example.partition(' #')[0]} {row.more}")
    command = ["-m", "adabatch", *words[1:]] if words[0] == "adabatch" else words[1:]
    if command[-2] == ">":
        (here / command[-1]).write_text(subprocess.check_output([sys.executable, *command[:-2]], cwd=here, text=True))
        return None
    environment = {**os.environ, "ADABATCH_DATA": str(REAL), "ADABATCH_CACHE": str(here.parent / "cache")}
    before = set(here.glob("runs/*"))
    done = subprocess.run(
        [sys.executable, *command], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr}"
    new = [path for path in sorted(here.glob("runs/*")) if path not in before]
    out = here / words[words.index("--out") + 1] if "--out" in words else None
    usual = here / "runs" / "-".join(words[1:3])  # of compare and probe; each training has a folder of its own
    folder = out or (
        usual if usual.is_dir() else min((path for path in new if path.parent == here / "runs"), default=here)
    )
    kind = "recipe" if words[0] == "python" else words[1]
    return CHECKS[kind](done.stdout, folder, words, row.least)


def trained(printed, folder, words, least):
    accuracy = json.loads((folder / "result.json").read_text())["test_accuracy"]
    if f"{100 * accuracy:.2f} %" not in printed:
        return f"{accuracy} is not printed: {printed}"
    task = json.loads((folder / "config.json").read_text())["task"]
    return None if accuracy >= (least or LEAST[task]) else f"a test accuracy of {accuracy}"


def compared(printed, folder, words, least):
    """The growing arms end well, and so do those with the fixed small batch."""
    found = json.loads((folder / "compare.json").read_text())
    if missing := [arm["name"] for arm in found["arms"] if f" {arm['name']} " not in printed]:
        return f"not in the table: {missing}"
    good = [arm for arm in found["arms"] if arm["name"] not in ("fixed-large", "uncoupled", "big")]
    low = {arm["name"]: arm["test_accuracy"]["mean"] for arm in good}
    return next((f"{low}" for accuracy in low.values() if accuracy < (least or LEAST[found["task"]])), None)


def probed(printed, folder, words, least):
    found = json.loads((folder / "probe.json").read_text())
    return None if len(found["curve"]) > 2 and found["sentence"][1:] in printed else printed


def planned(printed, folder, words, least):
    if "megatron" in words:
        return None if printed.startswith('--step-batch-size-schedule "0:128 ') else printed
    if "--emit" in words:
        compile(printed, "printed", "exec")
        return None if printed.count("\n") == 3 and "ab.from_lr_scheduler(" in printed else printed
    if "--out" in words and not (folder / "plan.json").exists():
        return "no plan.json"
    return None if re.search(r"[\d,]+ updates at the constant batch, [\d,]+ as it grows: \d", printed) else printed


def reported(printed, folder, words, least):
    page = Path(printed.removeprefix("Written to ").partition(";")[0])
    text = (page if page.is_absolute() else folder / page).read_text()
    told = "Which comes first" if "runs/probe-digits" in words else "test accuracy"
    return None if text.startswith("<!doctype html>") and told in text else "no page"


def listed(printed, folder, words, least):
    return next((name for name in (*models.names(), *tasks.names(), "geometric") if name not in printed), None)


def reproduced(printed, folder, words, least):
    (file,) = folder.glob("[a-z]*_*.json")
    found = json.loads(file.read_text())
    measures = "test_accuracy.mean", "test_loss.mean"
    values = [value for key, value in numbers(found) if "arms." in key and key.endswith(measures)]
    good = all(0.75 < value < 1 or 1.5 < value < 2.5 for value in values)
    return None if values and good and len(list(folder.glob("*.png"))) == 1 and printed else f"{values} {printed}"


def numbers(found, path=()):
    """The numbers in JSON, each with the names on its way."""
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, int | float):
            yield ".".join((*path, key)), value
        else:
            yield from numbers(value, (*path, key))


def studied(printed, folder, words, least):
    if "--branch" in words:
        found = json.loads((folder.parent / "branch-digits" / "branch.json").read_text())
        return None if len(found["cells"]) > 8 and "does no harm" in printed else printed
    found = json.loads((folder / "study.json").read_text())
    ways = [rule["test"] for panel in found["panels"] for rule in panel["rules"]]
    return None if all(way["to_target"] for way in ways) and "perfect scaling" in printed.lower() else printed


def advised(printed, folder, words, least):
    found = json.loads((folder / "advice.json").read_text())
    if ("--check" in words) != (found["outcome"] is not None):
        return f"outcome: {found['outcome']}"
    head = {"grow": "Growth pays here: "}.get(found["verdict"], "No evidence that growth pays here.")
    return None if head in printed and "To train by it: adabatch train" in printed else printed


CHECKS = {
    "advise": advised,
    "study": studied,
    "train": trained,
    "compare": compared,
    "probe": probed,
    "plan": planned,
    "report": reported,
    "list": listed,
    "recipe": reproduced,
}


def test_every_command_has_a_check():
    assert set(CHECKS) == {*cli.COMMANDS, "recipe"}
