"""Failures in the middle of a run: one line, the last checkpoint, and the way on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.lab.training.checks import SMALL, same, small_data, weights, without_seconds

from adabatch.lab.training import failures, setup, train
from adabatch.lab.training.failures import is_full, is_of_the_gpu, told
from adabatch.lab.training.folder import RunFolder, saved_config
from adabatch.lab.training.loop import _decisive

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its own, when it compiles
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    return train(SMALL, out, data=small_data()), out


class FailingAt:
    """A network's call that fails at its `number`-th pass in training."""

    def __init__(self, forward, error, number):
        self.forward, self.error, self.left = forward, error, number

    def __call__(self, inputs):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.forward(inputs)


def failing(monkeypatch, error, number, *, config=SMALL):
    """Makes the training fail in an update, however it is configured."""
    real = setup.forward_of
    passes = []

    def forward_of(model, given, device):
        passes.append(FailingAt(real(model, replace(given, compile=False), device), error, number))
        return passes[-1]

    monkeypatch.setattr(setup, "forward_of", forward_of)
    monkeypatch.setattr(setup.Setup, "try_sizes", lambda self, tell: None)


def test_memory_that_runs_out_in_the_middle(tmp_path, monkeypatch, unbroken):
    """And with memory again the run goes on to the very result."""
    failing(monkeypatch, torch.OutOfMemoryError("no\nmore"), 30)
    with pytest.raises(ValueError, match="`device` must have memory free") as caught:
        train(SMALL, tmp_path, data=small_data())
    assert str(caught.value) == (
        f"`device` must have memory free for the training, got cpu, which is full (no more); {tmp_path} holds its last "
        "checkpoint; to go on `resume` it once there is more; a new run takes less with a `micro_batch_size`"
    )
    monkeypatch.undo()
    result = train(SMALL, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(unbroken[0])
    assert same(weights(tmp_path), weights(unbroken[1]))


def test_before_the_first_checkpoint_the_settings_are_kept(tmp_path, monkeypatch):
    failing(monkeypatch, RuntimeError("DefaultCPUAllocator: can't allocate memory: 1"), 2)
    with pytest.raises(ValueError, match=r"holds its settings alone; to go on .* less with a `micro_batch_size`$"):
        train(SMALL, tmp_path, data=small_data())
    with pytest.raises(
        ValueError, match=r"`device` must have memory .*; nothing is saved; begin again once there is more"
    ):
        train(SMALL, data=small_data())
    small = replace(SMALL, micro_batch_size=7)
    with pytest.raises(ValueError, match=r"with a `micro_batch_size` below 7$"), told(small, CPU, None):
        raise torch.OutOfMemoryError


def of_a_compiler():
    from torch._inductor.exc import CppCompileError

    return CppCompileError(["g++", "-O3"], "no space left")


def test_compiling_that_fails_in_the_middle(tmp_path, monkeypatch, unbroken):
    """The run goes on without, if the user says so, to the very result of a run that was never compiled."""
    config = replace(SMALL, compile=True)
    failing(monkeypatch, of_a_compiler(), 30)
    message = r"`compile` must be possible to the end, got .*no space left.*; .* holds its last checkpoint; to go on "
    with pytest.raises(ValueError, match=f"{message}`resume` it with --no-compile, which goes on without"):
        train(config, tmp_path, data=small_data())
    monkeypatch.undo()
    result = train(SMALL, tmp_path, data=small_data(), resume=True)
    assert without_seconds(result) == without_seconds(unbroken[0])


def test_with_graphs_both_are_to_be_left_out():
    config = replace(SMALL, compile=True, cuda_graphs=True)
    with pytest.raises(ValueError, match="with --no-compile --no-cuda-graphs, which"), told(config, GPU, None):
        raise of_a_compiler()


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, compile=True)])
def test_an_error_of_the_network_keeps_its_traceback(monkeypatch, config):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    failing(monkeypatch, error, 3)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2") as caught:
        train(config, data=small_data())
    assert caught.value is error


def test_a_gpu_that_vanishes(tmp_path):
    """As torch tells of it; the run itself, on a GPU, is in nobody's hands."""
    lost = torch.AcceleratorError("CUDA error: device not ready") if hasattr(torch, "AcceleratorError") else None
    for error in filter(None, (lost, RuntimeError("CUDA error: unspecified launch failure"))):
        assert is_of_the_gpu(error)
        with (
            pytest.raises(
                ValueError, match=r"`device` must stay in working order, got cuda: CUDA error: .*; nothing is"
            ),
            told(SMALL, GPU, tmp_path),
        ):
            raise error
    (tmp_path / "config.json").touch()
    with (
        pytest.raises(
            ValueError, match=r"settings alone; to go on `resume` it once it works again, or on another `dev"
        ),
        told(SMALL, GPU, tmp_path),
    ):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    with pytest.raises(RuntimeError, match="Connection closed by peer"), told(SMALL, GPU, tmp_path):
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(RuntimeError, match="CUDA error"), told(SMALL, CPU, tmp_path):
        raise RuntimeError("CUDA error: of somebody else")


def test_what_is_full():
    assert is_full(torch.OutOfMemoryError())
    assert is_full(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert is_full(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."))
    assert is_full(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_full(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_full(RuntimeError("full"))
    assert not is_full(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_run_may_give_up_compiling_and_not_add_it(tmp_path, capsys):
    """What it gives up is said and kept, so that the next resume goes on without as well."""
    began = replace(SMALL, compile=True)
    RunFolder(tmp_path, config=began, versions={}, resume=False).close()
    RunFolder(tmp_path, config=SMALL, versions={}, resume=True).close()
    assert capsys.readouterr().err == "note: the run goes on without compile, with other rounding\n"
    assert saved_config(tmp_path) == SMALL
    with pytest.raises(ValueError, match="`resume` may give up `compile` and `cuda_graphs`, not add them, got compile"):
        RunFolder(tmp_path, config=began, versions={}, resume=True)
    assert _decisive(SMALL, small_data(), CPU) != _decisive(began, small_data(), CPU)


@pytest.mark.gpu
def test_a_gpu_that_others_have_filled(tmp_path):
    device = torch.device("cuda", torch.cuda.current_device())
    config = replace(SMALL, device="cuda", model="small_cnn", lr_schedule="constant")
    torch.cuda.empty_cache()
    limit = (torch.cuda.memory_reserved(device) + 2**20) / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit, device)
    try:
        with pytest.raises(ValueError, match=r"`(device|micro_batch_size)` must "):
            train(config, tmp_path, data=small_data())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert failures._others(device).startswith(", ")


@pytest.mark.gpu
def test_an_error_in_a_kernel_is_of_the_gpu():
    """In a process of its own, since no process uses a GPU again after one."""
    import subprocess
    import sys

    code = (
        "import torch\nfrom adabatch.lab.training.failures import is_of_the_gpu\n"
        "try:\n    torch.zeros(2, device='cuda')[torch.tensor([9], device='cuda')].sum().item()\n"
        "except RuntimeError as error:\n    print(is_of_the_gpu(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", done.stderr
