from dataclasses import replace

import pytest
import torch

from adabatch.lab import tasks, training
from adabatch.lab.study.trainee import Trainee
from adabatch.lab.training import RunConfig


@pytest.fixture(scope="module")
def data():
    return tasks.get("digits").load(None)


def trainee(data, **more):
    settings = {"model": "mlp", "batch_size": 16, "epochs": 2, "lr": 0.05, "lr_schedule": "constant", "threads": 1}
    config = RunConfig.for_task("digits", **{**settings, "drop_last": True, "precision": "float64", **more})
    return Trainee(config, data, torch.device("cpu"))


def weights(of):
    return torch.cat([parameter.detach().flatten() for parameter in of.setup.model.parameters()]).clone()


def test_it_trains_as_a_run_does(data, tmp_path):
    of = trainee(data)
    of.train(2 * (1437 // 16), batch_size=16, lr=lambda _: 0.05)
    config = of.setup.config
    result = training.train(config, tmp_path / "run", data=data)
    found = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["parts"]["model"]
    theirs = torch.cat([value.flatten() for value in found.values()])
    assert of.updates == result.updates
    assert of.samples == result.samples
    assert torch.equal(weights(of), theirs)
    assert of.losses()[1] == pytest.approx(result.history[-1].test_loss, abs=1e-12)


def test_a_branch_leaves_no_trace(data):
    straight, branched = trainee(data), trainee(data)
    straight.train(100, batch_size=16, lr=lambda _: 0.05)
    branched.train(60, batch_size=16, lr=lambda _: 0.05)
    mark = branched.here()
    branched.train(7, batch_size=128, lr=lambda number: 0.4 / (1 + number))
    branched.back(mark)
    assert (branched.updates, branched.samples, branched.seconds) == (mark.updates, mark.samples, mark.seconds)
    branched.train(40, batch_size=16, lr=lambda _: 0.05)
    assert torch.equal(weights(straight), weights(branched))


def test_a_bookmark_is_a_copy(data):
    of = trainee(data)
    mark = of.here()
    before = {name: value.clone() for name, value in mark.state["model"].items()}
    of.train(3, batch_size=16, lr=lambda _: 0.05)
    of.back(mark)
    of.train(3, batch_size=16, lr=lambda _: 0.05)
    assert all(torch.equal(value, before[name]) for name, value in mark.state["model"].items())


class Clocks:
    """A transform that leaves samples as they are and notes where each batch begins."""

    def __init__(self):
        self.seen = []
        self.shape = {"in_channels": 1, "image_size": 8, "classes": 10}
        self.on_device = True

    def to(self, device):
        return self

    def train(self, inputs, *, seed, clock, stride=1):
        self.seen.append((clock, len(inputs)))
        return inputs

    def test(self, inputs):
        return inputs


def test_a_branch_trains_the_samples_that_the_base_would(data):
    clocks = Clocks()
    of = trainee(replace(data, transform=clocks), precision="float32")
    of.train(5, batch_size=16, lr=lambda _: 0.05)
    mark = of.here()
    of.train(2, batch_size=64, lr=lambda _: 0.05)
    of.back(mark)
    of.train(8, batch_size=16, lr=lambda _: 0.05)
    assert clocks.seen[5:7] == [(80, 64), (144, 64)]
    assert clocks.seen[7:] == [(clock, 16) for clock in range(80, 208, 16)]


def test_clocks_over_the_end_of_an_epoch(data):
    """What is left of an epoch of 1,437 samples and makes no whole batch is passed over."""
    clocks = Clocks()
    of = trainee(replace(data, transform=clocks), precision="float32")
    of.train(88, batch_size=16, lr=lambda _: 0.05)
    of.train(2, batch_size=64, lr=lambda _: 0.05)
    of.train(1, batch_size=1437, lr=lambda _: 0.05)
    of.train(1, batch_size=16, lr=lambda _: 0.05)
    assert clocks.seen[87:] == [(1392, 16), (1437, 64), (1501, 64), (2874, 1437), (4311, 16)]


def test_what_is_raised_after_an_update_ends_the_training_there(data):
    of = trainee(data)

    def stop(number):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of.train(9, batch_size=16, lr=lambda _: 0.05, after=stop)
    assert of.updates == 3
    assert of.seconds > 0


def test_a_loss_that_is_not_finite_is_none(data):
    of = trainee(data)
    of.train(8, batch_size=16, lr=lambda _: 1e200)
    assert of.losses() == (None, None)


def test_the_error_of_the_linear_approximation_is_that_of_the_next_batch(data):
    of = trainee(data)
    of.train(5, batch_size=16, lr=lambda _: 0.05)
    mark, before = of.here(), weights(of)
    found = of.linear_approximation_error(64, lr=0.05, ratio=4)
    assert torch.equal(weights(of), before)
    of.back(mark)
    setup = of.setup
    setup.loader.batch_size = 64
    inputs, targets = next(iter(setup.loader))
    start = setup.loss(setup.forward(inputs), targets)
    gradients = torch.autograd.grad(start, list(setup.model.parameters()))
    with torch.no_grad():
        for one, slope in zip(setup.model.parameters(), gradients, strict=True):
            one -= 0.2 * slope
    squares = sum(float(slope.square().sum()) for slope in gradients)
    end = float(setup.loss(setup.forward(inputs), targets).detach())
    assert found == pytest.approx(abs(end - (float(start.detach()) - 0.2 * squares)), rel=1e-9)
    assert found > 1e-6


def test_an_error_of_the_linear_approximation_that_is_not_finite_is_none(data):
    assert trainee(data).linear_approximation_error(16, lr=1e300, ratio=1) is None
