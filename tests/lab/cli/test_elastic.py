"""The command under an elastic torchrun: killed, joined and left by processes, a run loses and repeats nothing."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from tests.lab.cli.checks import run
from tests.lab.cli.kill_ranks import RUN, main, same_findings
from tests.lab.cli.test_torchrun import rank


class Agent:
    """A launcher of torchrun, its output in a file."""

    def __init__(self, folder, name, options, arguments, environment):
        self.output = folder / f"{name}.txt"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--monitor-interval",
            "0.1",
            *options,
            "-m",
            "adabatch",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOGLEVEL": "INFO", **environment}
        with self.output.open("w") as file:
            started = [*command, *arguments]
            self.process = subprocess.Popen(started, stdout=file, stderr=file, env=environment, cwd=folder)

    def wait_for(self, text, seconds=240):
        wait_until(lambda: text in self.output.read_text(), seconds, self)

    def ended(self):
        code = self.process.wait(timeout=400)
        return code, self.output.read_text()


def wait_until(happened, seconds, *agents):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "\n".join(agent.output.read_text() for agent in agents)
        time.sleep(0.02)


@pytest.fixture
def agents(tmp_path):
    """Starts launchers; none is left."""
    started = []

    def start(*options, arguments, name="agent", **environment):
        started.append(Agent(tmp_path, name, options, arguments, environment))
        return started[-1]

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.process.terminate()
            agent.process.wait()


def check_unbroken(folder, *, epochs, other):
    """Checks that a run has the findings and weights of an unbroken run of one process."""
    assert run(*RUN, "--epochs", str(epochs), "--out", str(other)) == 0
    assert same_findings(folder, other)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_after_a_rank_ended_torchrun_starts_the_command_again_and_it_goes_on(tmp_path, agents, number):
    """Killed, or asked to end, which saves first: as long as torchrun has restarts left it is the same."""
    agent = agents("--nnodes", "1:1", "--nproc-per-node", "2", "--max-restarts", "3", arguments=[*RUN, "--epochs", "6"])
    runs = tmp_path / "runs"
    wait_until(lambda: [*runs.glob("*/checkpoints/last.pt")], 240, agent)
    os.kill(rank(agent.process, random.randrange(2)), number)
    code, output = agent.ended()
    assert code == 0, output
    assert output.count("goes on with 2") == 1, output
    (folder,) = runs.glob("train-digits-*")  # it was found again
    check_unbroken(folder, epochs=6, other=tmp_path / "one")


@pytest.mark.slow
def test_ranks_killed_at_random_moments(tmp_path, capsys):
    """More of them: `python -m tests.lab.cli.kill_ranks FOLDER KILLS`."""
    main(tmp_path, 4)
    assert capsys.readouterr().out.split()[-3] == "4"


@pytest.mark.slow
def test_a_killed_comparison_goes_on(tmp_path, agents):
    arms = ["--arm", "adaptive", "--seeds", "1", "--epochs", "3", *RUN[2:]]
    agent = agents("--nproc-per-node", "2", "--max-restarts", "2", arguments=["compare", "digits", *arms])
    folder = tmp_path / "runs" / "compare-digits"
    wait_until(lambda: [*folder.glob("runs/*/*/result.json")], 240, agent)
    first = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*/result.json")}
    wait_until(lambda: len([*folder.glob("runs/*/*/checkpoints/last.pt")]) == 2, 240, agent)
    os.kill(rank(agent.process, 1), signal.SIGKILL)
    code, output = agent.ended()
    assert code == 0, output
    assert all(file.stat().st_mtime_ns == when for file, when in first.items())  # finished runs are not repeated
    assert run("compare", "digits", *arms, "--out", str(tmp_path / "one")) == 0
    for file in sorted(folder.glob("runs/*/*/result.json")):
        assert same_findings(file.parent, tmp_path / "one" / file.parent.relative_to(folder))


@pytest.mark.slow
def test_from_one_process_to_three_and_two_in_one_run(tmp_path, agents):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    conf = "last_call_timeout=4,keep_alive_interval=3,keep_alive_max_attempt=3,join_timeout=120"
    options = ["--nnodes", "1:3", "--nproc-per-node", "1", "--max-restarts", "2", "--rdzv-backend", "c10d"]
    options += ["--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "many", "--rdzv-conf", conf]
    folder, arguments = tmp_path / "run", [*RUN, "--epochs", "30", "--out", str(tmp_path / "run")]
    alone = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else torch 2.13 lets no agent join
    first = agents(*options, arguments=arguments, name="first", **alone)
    wait_until((folder / "checkpoints" / "last.pt").exists, 240, first)
    process = rank(first.process, 0)
    os.kill(process, signal.SIGSTOP)  # until the others have joined
    others = [agents(*options, arguments=arguments, name=name, **alone) for name in ("second", "third")]
    for other in others:
        other.wait_for("Rendezvous'ing worker group")
    first.wait_for("closing signal SIGTERM")
    os.kill(process, signal.SIGCONT)
    everywhere = [first, *others]
    wait_until(lambda: any("goes on with 3" in agent.output.read_text() for agent in everywhere), 240, *everywhere)
    before = (folder / "checkpoints" / "last.pt").stat().st_mtime_ns
    wait_until(lambda: (folder / "checkpoints" / "last.pt").stat().st_mtime_ns > before, 240, *everywhere)
    others[1].process.terminate()
    for agent in everywhere[:2]:
        code, output = agent.ended()
        assert code == 0, output
    said = "".join(agent.output.read_text() for agent in everywhere)
    assert set(re.findall(r"goes on with (\d)", said)) == {"2", "3"}
    check_unbroken(folder, epochs=30, other=tmp_path / "one")
