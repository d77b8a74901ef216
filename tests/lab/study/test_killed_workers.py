"""Four workers on one study, killed at random moments: no trial is lost or run twice, and the findings are the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.lab.study.studies import bare

from adabatch.lab.study import board
from adabatch.lab.training import RunConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WORKERS, KILLS, SEED, SEEDS = 4, 6, 0, 3
SETTINGS = ["study", "digits", "--models", "mlp", "--batch-sizes", "16,64,256", "--epochs", "4"]
SETTINGS += ["--lr-rules", "constant,linear", "--seeds", str(SEEDS)]
SETTINGS += ["--threads", "1", "--device", "cpu", "--json", "--quiet", "--name", "killed"]
FILES = {}  # by process, those of its output and errors
POSTGRES = Path("/usr/lib/postgresql/15/bin")


def start(out, address, *more):
    command = [sys.executable, "-m", "adabatch", *SETTINGS, "--out", str(out), "--storage", address, *more]
    # No pipes: a full one would make the process wait.
    printed, errors = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
    process = subprocess.Popen(command, stdout=printed, stderr=errors, text=True, start_new_session=True)
    FILES[process] = printed, errors
    return process


def told(process):
    """The output and the errors of a process that has ended."""
    found = []
    for file in FILES.pop(process):
        with file:
            file.seek(0)
            found.append(file.read())
    return found


def workers_of(command):
    """The processes that train for a command: itself, or those that it started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == command.pid and b"spawn_main" in status.with_name("cmdline").read_bytes():
                found.append(int(status.parent.name))
    return found or [command.pid]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    alone = start(folder / "out", f"sqlite:///{folder}/study.db")
    alone.wait()
    printed, errors = told(alone)
    assert (alone.returncode, errors) == (0, "")
    return json.loads(printed)


@contextmanager
def server(folder):
    """A PostgreSQL server on a socket in a folder of its own, run by a user that is not root."""
    data, port = folder / "data", "5433"
    data.mkdir()
    before = []
    if os.geteuid() == 0:
        before = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(folder, "nobody", "nogroup")
        shutil.chown(data, "nobody", "nogroup")

    def do(tool, *words):
        done = subprocess.run(
            [*before, POSTGRES / tool, *words], check=False, capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 0, done.stderr

    do("initdb", "-D", data, "-U", "me", "-A", "trust")
    do("pg_ctl", "-D", data, "-l", folder / "log", "-w", "start", "-o", f"-k {folder} -p {port} -c listen_addresses=''")
    try:
        yield f"postgresql+psycopg://me:hush@/postgres?host={folder}&port={port}"
    finally:
        do("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql", "journal"])
def address(request, tmp_path):
    if request.param != "postgresql":
        yield f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else f"{tmp_path}/study.journal"
        return
    pytest.importorskip("psycopg", reason="needs psycopg 3, the driver of PostgreSQL")
    if not (POSTGRES / "initdb").exists():
        pytest.skip("needs PostgreSQL 15 as Debian installs it")
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder, server(Path(folder)) as found:
        yield found


def test_no_trial_is_lost_or_run_twice(address, tmp_path, undisturbed):
    """Half of the workers join on the command line, half are a command's own; whoever is killed, another comes."""
    rng, out = random.Random(SEED), tmp_path / "out"
    commands = [start(out, address), start(out, address), start(out, address, "--jobs", "2")]
    killed, ended = 0, []
    while commands:
        time.sleep(rng.uniform(0.3, 1.5))
        for command in [command for command in commands if command.poll() is not None]:
            commands.remove(command)
            ended.append((command.returncode, *told(command)))
        if killed < KILLS and len(list(out.glob("states/*/*.pt"))) > 0 and commands:
            victim = rng.choice(commands)
            worker = rng.choice(workers_of(victim))
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed += 1
            if worker == victim.pid:
                commands.append(start(out, address))
    assert killed >= 3
    for code, printed, errors in ended:
        assert code in (0, -signal.SIGKILL), printed + errors
        if code == 0:
            assert bare(json.loads(printed)) == bare(undisturbed)
    assert sum(code == 0 for code, *_ in ended) >= 2
    assert bare(json.loads((out / "study.json").read_text())) == bare(undisturbed)
    check_trials(address)


def check_trials(address):
    """Every job was finished once, and nobody is at work."""
    optuna = board._optuna_here()
    storage = board._storage(optuna, address)
    trials = optuna.load_study(study_name="killed", storage=storage).get_trials()
    if (engine := getattr(storage, "engine", None)) is not None:
        engine.dispose()
    states = optuna.trial.TrialState
    done = [trial for trial in trials if trial.state == states.COMPLETE]
    assert set(Counter(trial.user_attrs["key"] for trial in done).values()) == {1}
    lr = RunConfig.for_task("digits").lr
    lrs = [(16, lr), (64, lr), (64, 4 * lr), (256, lr), (256, 16 * lr)]  # constant and linear share those of batch 16
    found = [trial.params for trial in done if trial.params["epochs"] == 4]
    assert Counter((each["batch_size"], each["lr"], each["seed"]) for each in found) == {
        (*pair, seed): 1 for pair in lrs for seed in range(SEEDS)
    }
    assert not [trial for trial in trials if trial.state in (states.RUNNING, states.WAITING)]
