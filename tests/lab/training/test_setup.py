from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tests.lab.training.checks import SMALL, small_data

from adabatch.lab import tasks
from adabatch.lab.tasks.objective import Classification
from adabatch.lab.training import RunConfig, optimizers, setup, train, with_fastest_micro_batch
from adabatch.lab.training.setup import Setup
from adabatch.schedules import constant, geometric
from adabatch.units import epochs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its own, when it compiles

CPU = torch.device("cpu")
IMAGES = replace(SMALL, model="small_cnn", epochs=2, lr_schedule="constant")


def setup_of(config: RunConfig) -> Setup:
    return Setup(config, small_data(), CPU)


def test_by_default_the_network_itself_is_called():
    made = setup_of(IMAGES)
    assert made.forward is made.model


def test_bf16_computes_in_bfloat16_and_gives_float32():
    made = setup_of(replace(IMAGES, precision="bf16"))
    seen = []
    made.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert made.forward(torch.zeros(2, 1, 8, 8)).dtype == torch.float32
    made.evaluate()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}


def test_channels_last_changes_the_layout_and_not_the_run():
    made = setup_of(replace(IMAGES, channels_last=True))
    (weight,) = [p for p in made.model.parameters() if p.dim() == 4 and p.shape[1] > 1][:1]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    made.model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    made.forward(torch.zeros(2, 1, 8, 8))
    assert seen == [True]
    found = [  # None: as measured, which is off for this network
        train(replace(IMAGES, channels_last=last), data=small_data()).history[-1].test_loss for last in (None, True)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_channels_last_is_about_images():
    text = {"vocabulary": 5, "context": 4}
    with pytest.raises(ValueError, match="`channels_last` must be left out where inputs are no images, got True"):
        setup.with_layout(torch.nn.Linear(1, 1), replace(IMAGES, channels_last=True), text, CPU)


def test_cuda_graphs_replay_what_was_compiled_on_a_gpu(monkeypatch):
    with pytest.raises(ValueError, match="`cuda_graphs` must come with `compile`, got it alone"):
        replace(IMAGES, cuda_graphs=True)
    graphs = replace(IMAGES, compile=True, cuda_graphs=True)
    with pytest.raises(ValueError, match="`cuda_graphs` must be used on a GPU, got the device cpu"):
        setup_of(graphs)
    modes = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: modes.append(mode))
    setup.forward_of(torch.nn.Linear(1, 1), graphs, torch.device("cuda"))
    setup.forward_of(torch.nn.Linear(1, 1), replace(graphs, cuda_graphs=False), CPU)
    assert modes == ["reduce-overhead", None]


def test_sizes_that_the_network_sees():
    plan = geometric(2, epochs(1), maximum=32).plan(dataset_size=44, epochs=3, batch_size=8)
    assert (plan.sizes, plan.tails) == ((8, 16, 32), (4, 12))
    assert setup.sizes(plan, None) == setup.sizes(plan, 64) == (32, 16, 12, 8, 4)
    shares = {len(part) for size in (4, 8, 12, 16, 32) for part in torch.arange(size).tensor_split(-(-size // 10))}
    assert setup.sizes(plan, 10) == tuple(sorted(shares, reverse=True))
    assert setup.sizes(constant(10).plan(dataset_size=20, epochs=1), 3) == (3, 2)  # 3, 3, 2, 2


def test_nothing_is_tried_where_nothing_is_compiled():
    said: list[str] = []
    setup_of(IMAGES).try_sizes(tell=said.append)
    assert said == []


@pytest.mark.slow
def test_every_size_is_compiled_before_the_first_update_and_none_after_it():
    import torch._dynamo

    torch._dynamo.reset()
    config = replace(IMAGES, compile=True)
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    notes, later = [], []

    def look(now):
        (notes if now.note else later).append((now.note, graphs["unique_graphs"]))

    result = train(config, data=small_data(), progress=look)
    wanted = setup.sizes(config.plan(300), None)
    assert [note for note, _ in notes] == [
        f"compiling for {size} samples ({number} of {len(wanted)})" for number, size in enumerate(wanted, 1)
    ]
    assert graphs["unique_graphs"] == len(wanted)
    assert {count for _, count in later} <= {len(wanted)}
    plain = train(replace(config, compile=False), data=small_data())
    assert result.history[-1].test_loss == pytest.approx(plain.history[-1].test_loss, rel=1e-3)


def test_trying_leaves_statistics_and_random_numbers():
    made = setup_of(replace(IMAGES, compile=True))
    made.model.append(torch.nn.BatchNorm1d(10))
    made.forward = made.model  # the passes themselves; compiling them is another test's
    before, state = [b.clone() for b in made.model.buffers()], torch.get_rng_state()
    made.try_sizes(tell=lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.buffers(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in made.model.parameters())


def test_a_size_that_does_not_fit_is_said_before_training():
    made = setup_of(replace(IMAGES, compile=True))

    def full(inputs):
        raise torch.OutOfMemoryError("full")

    made.forward = full
    with pytest.raises(ValueError, match=r"`micro_batch_size` must be .*: 32 samples at once are too many; try 16"):
        made.try_sizes(tell=lambda line: None)


def test_a_network_that_cannot_be_compiled():
    made = setup_of(replace(IMAGES, compile=True))

    def broken(inputs):
        raise RuntimeError("no compiler")

    made.forward = broken
    with pytest.raises(ValueError, match="`compile` must be possible here, got no compiler; leave it out"):
        made.try_sizes(tell=lambda line: None)


def test_short_batches_left_out_are_not_counted(tmp_path):
    config = replace(SMALL, growth=None, batch_size=64, epochs=3, drop_last=True)
    result = train(config, tmp_path, data=small_data())
    assert (result.updates, result.samples) == (3 * 4, 3 * 256)
    seen = [line.train_loss for line in result.history]
    rate = json.loads((tmp_path / "result.json").read_text())["samples_per_second"]["64"]
    assert rate * result.train_seconds == pytest.approx(768)
    again = train(replace(config, micro_batch_size=20), data=small_data())
    assert [line.train_loss for line in again.history] == pytest.approx(seen, rel=1e-5)
    assert [line.samples for line in result.history] == [300, 600, 900]


@pytest.mark.parametrize(
    ("model", "device", "expected"),
    [("resnet20", "cpu", True), ("alexnet", "cpu", False), ("resnet20", "cuda", False)],
)
def test_the_layout_is_what_was_measured_faster_unless_given(model, device, expected):
    config = RunConfig.for_task("cifar10", model=model)
    assert setup.channels_last(config, torch.device(device)) is expected
    assert setup.channels_last(replace(config, channels_last=not expected), torch.device(device)) is not expected


def test_the_fastest_micro_batch_is_none_or_a_power_of_two_below_the_largest_batch():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = with_fastest_micro_batch(replace(SMALL, micro_batch_size=5), data=small_data())
    assert torch.equal(torch.get_rng_state(), before)
    assert found.micro_batch_size in (None, 1, 2, 4, 8, 16, 32)  # the batch grows to 64
    assert replace(found, micro_batch_size=5) == replace(SMALL, micro_batch_size=5)
    assert train(found, data=small_data()).updates == 45


@pytest.mark.parametrize("given", [None, 1])
def test_whole_batches_need_no_size(given):
    single = replace(SMALL, growth=None, batch_size=1, micro_batch_size=given)
    assert with_fastest_micro_batch(single, data=small_data()).micro_batch_size is None


def pixels_and_classes():
    torch.manual_seed(0)
    images, classes = torch.randn(4, 3, 8, 8), torch.randint(0, 12, (4, 8, 8))
    more = {"classes": 11, "note": "drawn", "objective": Classification(void=11)}
    return tasks.Data(images, classes, images, classes, **more)


def tokens():
    return tasks.Data(*[torch.randint(0, 5, (4, 6))] * 4, classes=5, note="drawn", tokens_per_sample=6)


@pytest.mark.parametrize(
    ("name", "model", "data", "shape"),
    [
        ("gpt-tiny", "gpt", tokens, (6,)),
        ("gpt-tiny", "lstm", tokens, (6,)),
        ("camvid", "drn", pixels_and_classes, (3, 8, 8)),
        ("quadratic", "quadratic", tasks.get("quadratic").load, (256,)),
    ],
)
def test_every_kind_of_input_is_tried_with_targets_of_its_kind(name, model, data, shape):
    config = RunConfig.for_task(name, model=model, batch_size=2, max_batch_size=None, compile=True, epochs=1)
    made, seen = Setup(config, data(), CPU), []
    made.forward = lambda inputs: seen.append(inputs.shape) or made.model(inputs)
    made.try_sizes(tell=lambda line: None)
    assert seen == [(2, *shape)]
    assert made.evaluate()[0] > 0


def test_a_training_loss_is_that_of_a_number_of_targets():
    """2,048, where the test set has fewer: of text 16 sequences, of images as many as there are of them."""
    torch.manual_seed(0)
    text = torch.randint(0, 5, (40, 128))
    data = tasks.Data(text, text, text[:3], text[:3], classes=5, note="drawn", tokens_per_sample=128)
    config = RunConfig.for_task("gpt-tiny", model="lstm", batch_size=2, max_batch_size=None, epochs=1)
    assert Setup(config, data, CPU).evaluate(of_training=True)[1].shape == (16, 128)
    assert setup_of(IMAGES).evaluate(of_training=True)[1].shape == (300,)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "coupling": "sqrt", "lr": 0.001}])
def test_a_run_goes_on_with_a_fused_optimizer(tmp_path, monkeypatch, settings):
    """As one from a CPU does on a GPU; torch has the kernels on the CPU too."""
    config = replace(SMALL, lr_schedule="constant", **settings)
    plain = train(config, data=small_data())
    train(replace(config, epochs=2), tmp_path, data=small_data())
    monkeypatch.setattr(optimizers, "has_fused", lambda name, device: True)
    assert setup_of(config).optimizer.param_groups[0]["fused"] is True
    fused = train(config, tmp_path, data=small_data(), resume=True)
    assert fused.updates == plain.updates
    assert fused.history[-1].test_loss == pytest.approx(plain.history[-1].test_loss, rel=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_optimizers_are_fused():
    made = Setup(SMALL, small_data(), torch.device("cuda"))
    assert made.optimizer.param_groups[0]["fused"] is True
    assert train(replace(SMALL, device="cuda"), data=small_data()).best_accuracy > 0.5


def test_sizes_too_many_for_graphs_are_said_before_training(monkeypatch):
    """The half of a run on a GPU that needs none."""
    many = replace(SMALL, growth=1.05, every="1 updates", batch_size=2, max_batch_size=250, compile=True)
    made = setup_of(many)
    assert len(setup.sizes(made.plan, None)) > 32
    made.config = replace(many, cuda_graphs=True)
    with pytest.raises(ValueError, match=r"`cuda_graphs` must come with at most 32 sizes of micro-batches, got "):
        made.try_sizes(tell=lambda line: None)
