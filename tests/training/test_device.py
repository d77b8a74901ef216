from __future__ import annotations

import json
import subprocess

import pytest
import torch

from adabatch.training import device, pick_device, versions


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="`device` must be one of auto, cpu, cuda, got 'tpu'"):
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
