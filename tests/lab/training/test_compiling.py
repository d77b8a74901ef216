"""What surrounds `torch.compile` and CUDA graphs: shapes, limits, and errors in one line."""

from __future__ import annotations

import pytest
import torch

from adabatch._errors import ArgumentError
from adabatch.lab.training import compiling
from adabatch.lab.training.compiling import captured, check_graphs, compiled, is_of_compiling, static_shapes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its own, when it compiles
CPU = torch.device("cpu")


def compiled_by(backend):
    """A network that is compiled by a backend of ours, which needs no C++ compiler."""
    torch._dynamo.reset()
    return torch.compile(torch.nn.Linear(3, 2), backend=backend)


@pytest.mark.parametrize(("count", "graphs"), [(4, 4), (33, 2)])
def test_each_of_a_few_sizes_gets_a_graph_and_many_share_one(count, graphs):
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    network = compiled_by(backend)
    with static_shapes(count):
        for size in (8, 7, 6, 5):
            network(torch.zeros(size, 3))
    assert len(made) == graphs, "the first size alone, then one of any size" if count > 32 else "one a size"


def test_sizes_too_many_for_graphs():
    check_graphs(range(32, 0, -1))
    with pytest.raises(
        ValueError, match=r"`cuda_graphs` must come with at most 32 sizes .*, got 33 from 1 to 33, .*; "
    ):
        check_graphs(range(33, 0, -1))


def test_an_error_of_a_backend_becomes_one_line():
    def broken(graph, inputs):
        raise OSError("no compiler\nfound here")

    message = r"^`compile` must be possible here, got .*no compiler found here.*; leave it"
    with pytest.raises(ValueError, match=message), compiled(True):
        compiled_by(broken)(torch.zeros(4, 3))
    with pytest.raises(RuntimeError) as caught:
        compiled_by(broken)(torch.zeros(4, 3))
    assert is_of_compiling(caught.value)


def test_other_errors_stay_what_they_are():
    for error, wanted in (
        (torch.OutOfMemoryError("full"), True),
        (ArgumentError("lr", "must be"), True),
        (RuntimeError("of the network"), False),
        (KeyError("bug"), True),
    ):
        with pytest.raises(type(error)) as caught, compiled(wanted):
            raise error
        assert caught.value is error


def test_an_error_is_of_compiling_if_one_that_caused_it_is():
    from torch._inductor.exc import CppCompileError

    error = RuntimeError("in a backward pass")
    error.__cause__ = CppCompileError(["g++"], "no space")
    assert is_of_compiling(error)
    assert not is_of_compiling(RuntimeError("torch._dynamo is named in the text alone"))


def test_words_of_an_error():
    assert compiling.words_of(RuntimeError()) == "RuntimeError"
    assert compiling.words_of(RuntimeError("a\n  b")) == "a b"
    assert len(compiling.words_of(RuntimeError("x" * 1000))) == 200


def test_graphs_that_were_left_out_are_told(monkeypatch):
    """The CPU's half: torch's own counter of what it left out, and whether there is a graph at all."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(compiling, "has_graphs", lambda device: True)
    with captured(CPU):
        pass
    partly = "`cuda_graphs` is not in force everywhere: 2 of the compiled parts"
    with pytest.warns(UserWarning, match=partly), captured(CPU):
        counters["inductor"]["cudagraph_skips"] += 2
    monkeypatch.setattr(compiling, "has_graphs", lambda device: False)
    nowhere = r"`cuda_graphs` must be able to capture the network, got 1 of .*; leave it out"
    with pytest.raises(ValueError, match=nowhere), captured(CPU):
        counters["inductor"]["cudagraph_skips"] += 1


def test_torch_counts_what_it_leaves_out():
    """The name of the counter, and the function that says whether there is a graph, are torch's and not documented."""
    from torch._dynamo.utils import counters
    from torch._inductor.cudagraph_trees import get_manager
    from torch._inductor.cudagraph_utils import log_cudagraph_skip_and_bump_counter

    before = counters["inductor"]["cudagraph_skips"]
    log_cudagraph_skip_and_bump_counter("skipping cudagraphs due to a test")
    assert counters["inductor"]["cudagraph_skips"] == before + 1
    if not torch.cuda.is_available():  # else other tests may have made one
        assert get_manager(0, create_if_none_exists=False) is None


class OnTheCpu(torch.nn.Module):
    """A network of which torch captures nothing: it works on the CPU within."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, inputs):
        return self.layer((inputs.cpu() + 1).to(inputs.device))


@pytest.mark.gpu
def test_on_a_gpu_a_network_without_a_graph_is_refused():
    device = torch.device("cuda")
    torch.compiler.reset()
    network = torch.compile(OnTheCpu().to(device), mode="reduce-overhead")

    def train():
        with captured(device):
            for _ in range(3):
                network(torch.zeros(8, 4, device=device)).sum().backward()

    with pytest.raises(ValueError, match="`cuda_graphs` must be able to capture the network"):
        train()


@pytest.mark.gpu
def test_on_a_gpu_data_dependent_control_flow_leaves_graphs_of_the_rest():
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))

        def forward(self, inputs):
            hidden = self.layers[0](inputs)
            return self.layers[1](hidden if hidden.sum() > 0 else -hidden)

    device = torch.device("cuda")
    torch.compiler.reset()
    network = torch.compile(Branching().to(device), mode="reduce-overhead")
    with captured(device):
        for _ in range(3):
            network(torch.zeros(8, 4, device=device)).sum().backward()
    assert compiling.has_graphs(device)
