"""Completion in a real bash, as `--install-completion` sets it up, and how soon the command answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")


def call(script: str, home) -> subprocess.CompletedProcess[str]:
    """Runs a script in bash, with the command on its path and a home of its own."""
    command = home / "bin" / "adabatch"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -X importtime -m adabatch "$@" 2>>"{home}/imports"\n')
    command.chmod(0o755)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=False, env=environment, cwd=home
    )


@bash
def test_completion_is_installed_and_completes(tmp_path):
    (tmp_path / ".bashrc").touch()
    done = call("adabatch --install-completion; true", tmp_path)
    assert "bash completion installed in" in done.stdout, done.stdout + done.stderr
    (tmp_path / "imports").unlink()
    lines = (
        'source ~/.bashrc; tell() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n'
        "$(complete -p adabatch | sed 's/.* -F \\([^ ]*\\) .*/\\1/') adabatch; echo \"${COMPREPLY[*]}\"; }\n"
        "tell adabatch pl; tell adabatch plan --emi; tell adabatch co"
    )
    done = call(lines, tmp_path)
    assert done.stdout.split() == ["plan", "--emit", "compare"], done.stderr
    imported = {line.rpartition("|")[2].strip() for line in (tmp_path / "imports").read_text().splitlines()}
    assert "typer" in imported
    assert not {"torch", "numpy", "matplotlib"} & imported


def test_the_help_offers_it():
    done = subprocess.run([sys.executable, "-m", "adabatch", "--help"], capture_output=True, text=True, check=True)
    assert "--install-completion" in done.stdout


def test_only_the_command_that_is_asked_for_is_imported():
    code = (
        "import sys; from adabatch.lab import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as done: code = done.code\n"
        "print(code, [name for name in cli.COMMANDS if f'adabatch.lab.cli.{name}' in sys.modules])"
    )
    for given, wanted in ((["--help"], []), (["list", "--json"], ["list"]), (["plan", "--help"], ["plan"])):
        done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"0 {wanted}"


def test_the_library_and_the_help_are_there_soon():
    """Seconds of the processor, which other work on the machine does not count into: 0.05 and 0.5 are the goals."""
    code = "import time; before = time.process_time(); import adabatch; print(time.process_time() - before)"
    spent = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(spent) < 0.05
    code = (
        "import sys, time; from adabatch.lab import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print(time.process_time())"
    )
    spent = [float(subprocess.check_output([sys.executable, "-c", code], text=True).split()[-1]) for _ in range(3)]
    assert min(spent) < 1.0, "twice the goal: a busy machine is slower even in seconds of its processor"
