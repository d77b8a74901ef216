from __future__ import annotations

import pytest
import torch

from adabatch import optim
from adabatch.lab import models
from adabatch.lab.training import optimizers


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("nesterov", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop-warmup", optim.RMSpropWarmup),
        ("lars", optim.LARS),
        ("lamb", optim.LAMB),
    ],
)
def test_each_name_with_its_settings(name, kind):
    made = optimizers.build(name, [torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.8, weight_decay=0.03)
    group = made.param_groups[0]
    assert type(made) is kind
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.03)  # no default of torch's
    if kind is torch.optim.SGD:
        assert group["nesterov"] is (name == "nesterov")
    if kind in (torch.optim.SGD, optim.RMSpropWarmup, optim.LARS):
        assert group["momentum"] == 0.8


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", optimizers.NAMES)
def test_moments_are_those_that_the_optimizer_keeps(name, momentum):
    """A small optimizer after a step shows which moments there must be."""
    momentum = 0.9 if name == "nesterov" else momentum

    def after_a_step(*shapes):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
        made = optimizers.build(name, parameters, lr=0.1, momentum=momentum, weight_decay=0.0)
        sum(p.sum() for p in parameters).backward()
        made.step()
        return made.state_dict()["state"], parameters

    moments, parameters = after_a_step((3, 4), ())
    like, _ = after_a_step(2)
    optimizers.check_moments(moments, like=like, parameters=parameters)
    if not like:
        assert moments == {}
        return
    with pytest.raises(ValueError, match=r"^`optimizer` must have moments of 2 parameters$"):
        optimizers.check_moments({0: moments[0]}, like=like, parameters=parameters)
    names = ", ".join(like[0])
    with pytest.raises(ValueError, match=f"^`optimizer` must keep {names} of parameter 1$"):
        optimizers.check_moments({0: moments[0], 1: {}}, like=like, parameters=parameters)
    for key in like[0]:
        wrong = {0: moments[0] | {key: torch.zeros(7)}, 1: moments[1]}
        with pytest.raises(ValueError, match=rf"^`optimizer` must keep another {key} of parameter 0, got tensor"):
            optimizers.check_moments(wrong, like=like, parameters=parameters)


@pytest.mark.parametrize("name", models.names())
def test_every_parameter_of_every_network_has_moments_after_an_update(name):
    """A checkpoint of such a network must not be refused."""
    if name == "quadratic":
        network, inputs = models.build(name, dimensions=5), torch.randn(2, 5)
    elif name in ("gpt", "lstm"):
        network, inputs = models.build(name, vocabulary=11, context=8), torch.randint(11, (2, 8))
    else:
        size = 8 if name in ("mlp", "small_cnn") else 64 if name == "resnet50" else 32
        network = models.build(name, in_channels=1, image_size=size, classes=10)
        inputs = torch.randn(2, 1, size, size)
    network(inputs).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_torchs_own_are_fused_on_a_gpu():
    fused = {name for name in optimizers.NAMES if optimizers.has_fused(name, torch.device("cuda"))}
    assert fused == {"sgd", "nesterov", "adam", "adamw"}
    assert not any(optimizers.has_fused(name, torch.device("cpu")) for name in optimizers.NAMES)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw"])
def test_a_fused_step_is_the_step(name, device):
    """Torch has the kernels on the CPU too: the same step but for rounding, with moments of the same kind."""
    ends = []
    for fused in (False, True):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in ((5, 3), (3,))]
        made = optimizers.build(name, weights, lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
        for step in range(4):
            for weight in weights:
                weight.grad = torch.cos(weight.detach() + step)
            made.step()
        moments = made.state_dict()["state"]
        ends.append((weights, {key: sorted(value) for key, value in moments.items()}))
    (plain, kept), (kernel, also) = ends
    assert kept == also
    for one, other in zip(plain, kernel, strict=True):
        torch.testing.assert_close(one, other)
