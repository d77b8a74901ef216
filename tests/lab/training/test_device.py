from __future__ import annotations

import json
import re
import subprocess

import pytest
import torch

from adabatch.lab.training import device, pick_device, versions


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="`device` must be one of auto, cpu, cuda, cuda:N, mps, got 'tpu'"):
        pick_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="`device` must be there, got 'cuda', and torch sees no GPU; use auto or cpu"):
        pick_device("cuda")


def test_versions_in_and_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = versions(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["git"] is None
    assert found["device_name"]

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *who, *words], capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    assert versions(torch.device("cpu"))["git"] == {"revision": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("2")
    assert versions(torch.device("cpu"))["git"]["changed"]


def test_threads_come_back():
    before = torch.get_num_threads()
    with device.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with device.threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:13"])
def test_names_that_are_devices_somewhere(name):
    device.check_name(name)


@pytest.mark.parametrize(
    "name", ["tpu", "cuda:", "cuda:01", "cuda:-1", "cuda:1.0", "cuda:10000", "cuda:²", "mps:0", 0, None]
)
def test_names_that_are_no_devices(name):
    with pytest.raises(ValueError, match=re.escape(f"one of auto, cpu, cuda, cuda:N, mps, got {name!r}")):
        device.check_name(name)


def test_devices_that_are_not_there(monkeypatch):
    """The numbers of GPUs of other machines."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="got 'mps', and torch sees no GPU of Apple's; use auto or cpu"):
        pick_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, there in ((1, "cuda:0 alone"), (4, "cuda:0 to cuda:3")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert pick_device(f"cuda:{count - 1}") == torch.device("cuda", count - 1)
        assert (pick_device("cuda"), pick_device("auto")) == (torch.device("cuda"),) * 2
        assert pick_device("cpu") == torch.device("cpu")
        with pytest.raises(
            ValueError, match=f"got 'cuda:{count}', and torch sees {there}; use one of them, auto or cpu"
        ):
            pick_device(f"cuda:{count}")


def test_random_numbers_are_as_before():
    before = torch.get_rng_state()
    with device.entered(torch.device("cpu")):
        torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_more_processes_than_gpus(monkeypatch):
    """All of them say so, rank 0 too, before they wait for each other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for name in ("auto", "cuda"):
        with pytest.raises(
            ValueError,
            match=r"`device` must be a GPU of its own for each process, got 3 processes on this machine, and torch "
            r"sees 2; start with --nproc-per-node 2, or train on the CPU",
        ):
            pick_device(name)
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="`device` must name no number under torchrun, got 'cuda:1'"):
        pick_device("cuda:1")
