"""Taps against a naive transcription of their formulas, in trainings of every kind; bad input; the contract."""

from __future__ import annotations

import math

import pytest
import torch
from tests.noise.trainings import FOREVER, Training, data, network, squares_of
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import adabatch as ab
from adabatch import _devices
from adabatch.noise import Estimator, parts, trace_and_signal
from adabatch.noise.listening import tap_on
from adabatch.noise.tap import EPOCHS


def agree(training, *, rel=1e-9):
    """Whether the tap found what the naive transcription did; its interval is wider."""
    mine, theirs = training.tap.estimate(), training.naive.estimate()
    assert mine.measured == pytest.approx(theirs.measured)
    assert (mine.noise_scale, mine.trace, mine.signal) == pytest.approx(
        (theirs.noise_scale, theirs.trace, theirs.signal), rel=rel
    )
    assert (mine.low * EPOCHS, mine.high / EPOCHS) == pytest.approx((theirs.low, theirs.high), rel=max(rel, 1e-6))


NORMS = pytest.mark.parametrize("norm", ["l2", "l1"])


@NORMS
@pytest.mark.parametrize("micro", [5, 4, 1])
def test_micro_batches(micro, norm):
    """Of uneven sizes, short last batches included."""
    training = Training(batch_size=13, micro=micro, every=1, norm=norm)
    assert training.tap.kind == "micro_batches"
    training.go(20)
    agree(training, rel=1e-9 if norm == "l2" else 1e-6)


@NORMS
def test_halves(norm):
    training = Training(batch_size=13, every=1, norm=norm)
    assert training.tap.kind == "halves"
    assert set(training.go(7)) == {2}
    assert training.loader.micro_batch_size is None
    agree(training, rel=1e-9 if norm == "l2" else 1e-6)


def test_the_batch_grows():
    growth = ab.schedules.geometric(2, ab.epochs(1), maximum=48)
    training = Training(batch_size=6, micro=6, kind="halves", growth=growth, every=1)
    counts = training.go(16 + 8 + 4)
    assert counts == [2] * 24 + [4] * 4, "batches that are cut anyway are left as they are"
    agree(training)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_one_of_several_updates_is_measured_and_the_others_are_whole(every):
    training = Training(every=every)
    counts = training.go(11)
    assert counts == [2 if index % every == 0 else 1 for index in range(11)]
    agree(training)


@pytest.mark.parametrize("micro", [None, 5])
def test_the_training_is_the_same(micro):
    """Bit for bit where the cuts are, and in float64 to the last digits where batches are cut in halves."""
    tapped, plain = Training(micro=micro, every=2, groups="layer"), Training(micro=micro)
    plain.tap.close()
    tapped.go(20)
    plain.go(20)
    if micro:
        assert torch.equal(tapped.weights(), plain.weights())
    else:
        torch.testing.assert_close(tapped.weights(), plain.weights(), rtol=1e-12, atol=1e-13)
    assert not tapped.tap._watched.is_open


def test_other_loaders():
    """One whose data lie on a device, and one without data, for which the loop draws."""
    training = Training(loader=ab.ResidentLoader(data(), batch_size=12, shuffle=True, seed=0), every=1)
    assert training.go(10) == [2] * 10
    agree(training)

    inputs, targets = data().tensors

    class Drawn(Training):
        def loss(self, positions):
            chosen = torch.tensor([*positions]) % 96
            return mse_loss(self.model(inputs[chosen]), targets[chosen])

    clock = ab.Clock(batch_size=12, dataset_size=96)
    drawn = Drawn(loader=clock, every=2)
    assert drawn.go(8) == [2, 1] * 4
    agree(drawn)


@pytest.mark.slow
def test_a_compiled_model():
    training = Training(model=torch.compile(network(), backend="aot_eager"), micro=4, every=2)
    training.naive.see, plain = (lambda *_: None), Training(micro=4, every=2)
    training.go(6)
    plain.go(6)
    assert vars_of(training.estimate()) == pytest.approx(vars_of(plain.estimate()))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("micro", [None, 5])
def test_devices(device, micro):
    """Numbers stay on the device until they are asked for."""
    training = Training(micro=micro, every=1, groups="layer", device=device)
    training.go(9)
    agree(training)


class NoFloat64(TorchDispatchMode):
    """While entered, no operator may give numbers in float64, as on Apple's GPUs."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            assert not isinstance(each, torch.Tensor) or each.dtype != torch.float64, func
        return found


@NORMS
@pytest.mark.parametrize("weighed", [False, True])
def test_a_device_without_float64(weighed, norm, monkeypatch):
    """The same numbers in float32; weights may be tensors."""

    class Weighed(Training):
        def updates(self):
            for micro in ab.accumulate(self.loader, self.model):
                with micro as (inputs, targets):
                    loss = mse_loss(self.model(inputs), targets, reduction="sum")
                    (loss * micro.weigh(torch.tensor(float(micro.size)))).backward()
                if micro.is_last:
                    self.step()
                    self.batches.step()
                    yield micro.count

    def training():
        loader = ab.DataLoader(data(dtype=torch.float32), batch_size=12, micro_batch_size=5)
        made = (Weighed if weighed else Training)(
            model=network(torch.float32), loader=loader, every=1, norm=norm, groups="layer"
        )
        made.naive.see = lambda *_: None
        return made

    wanted, narrow = training(), training()
    wanted.go(6)
    monkeypatch.setattr(_devices, "longest_float", lambda device: torch.float32)
    with NoFloat64():
        narrow.go(6)
        found = narrow.estimate()
    assert vars_of(found) == pytest.approx(vars_of(wanted.estimate()), rel=1e-4)


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.bfloat16), pytest.param("cuda", torch.float16, marks=pytest.mark.gpu)],
)
def test_mixed_precision(device, dtype):
    """Forward passes in 16 bits, with a scaler on a GPU: as the naive transcription in the same precision."""

    class Mixed(Scaled):
        def setup(self, **how):
            super().setup(**how)
            self.scaler = torch.amp.GradScaler(device, init_scale=2.0**10)

        def loss(self, part):
            inputs, targets = (column.to(device) for column in part)
            with torch.autocast(device, dtype):
                return mse_loss(self.model(inputs).float(), targets)

    loader = ab.DataLoader(data(dtype=torch.float32), batch_size=12, micro_batch_size=4)
    training = Mixed(model=network(torch.float32), loader=loader, device=device, every=1)
    training.go(8)
    agree(training, rel=0.02)


def test_after_close_nothing_is_measured_or_held():
    training = Training(every=1)
    training.go(3)
    before = training.tap.estimate()
    training.tap.close()
    training.tap.close()
    assert training.go(3) == [1, 1, 1]
    assert training.tap.estimate() == before
    assert not training.tap._watched.is_open
    ab.noise.tap(training.model, training.optimizer, training.loader).close()


def test_groups_add_up():
    training = Training(micro=4, every=1, groups="layer")
    training.go(8)
    agree(training)
    found, whole = training.tap.by_group(), training.tap.estimate()
    assert list(found) == ["0", "2"]
    assert sum(each.trace for each in found.values()) == pytest.approx(whole.trace)
    assert sum(each.signal for each in found.values()) == pytest.approx(whole.signal)
    layer = [training.model[2].weight, training.model[2].bias]
    training.parameters, training.naive = layer, type(training.naive)()
    state = training.tap.state_dict()
    training.tap.load_state_dict(state | {"sums": {name: Estimator(FOREVER).state_dict() for name in state["sums"]}})
    training.go(8)
    assert training.tap.by_group()["2"].trace == pytest.approx(training.naive.estimator.estimate().trace)


class Preconditioned(Training):
    def updates(self):
        seen = []
        for micro in ab.accumulate(self.loader, self.model):
            with micro as part:
                (self.loss(part) * micro.weight).backward()
            seen.append((part, micro.size))
            if micro.is_last:
                state = self.optimizer.state
                if state:
                    scales = [
                        (state[p]["exp_avg_sq"] / (1 - 0.99 ** float(state[p]["step"]))).sqrt() + 1e-3
                        for p in self.parameters
                    ]
                    losses = [self.loss(part) for part, _ in seen]
                    self.naive.see(losses, [n for _, n in seen], self.parameters, scales)
                self.step()
                self.batches.step()
                yield len(seen)
                seen = []


def test_preconditioned_norms():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-3)
    training = Preconditioned(model=model, optimizer=optimizer, micro=4, every=1, preconditioned=True)
    training.go(7)
    agree(training)
    assert training.tap.estimate().measured == pytest.approx(6), "before the first step there are no second moments"


def test_preconditioned_norms_where_a_layer_is_not_used():
    """It has no second moments; once it is used and stepped it counts, as in the naive transcription."""

    class Spare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.spare, self.used = network(), torch.nn.Linear(5, 1).double(), False

        def forward(self, inputs):
            return self.main(inputs) + (self.spare(inputs) if self.used else 0)

    model = Spare()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-3)
    training = Preconditioned(model=model, optimizer=optimizer, micro=4, every=1, preconditioned=True)
    training.parameters = [*model.main.parameters()]
    training.go(4)
    agree(training)
    model.used = True
    training.go(1)  # its gradient is there, and its moments are not yet
    training.parameters = [*model.parameters()]
    training.go(3)
    agree(training)
    assert training.tap.estimate().measured == pytest.approx(7)


def test_preconditioned_without_second_moments():
    model = network()
    training = Training(model=model, optimizer=torch.optim.Adamax(model.parameters()), micro=4, preconditioned=True)
    training.naive.see = lambda *_: None
    training.go(1)
    with pytest.raises(ValueError, match="`preconditioned` must be False where the optimizer keeps no second moments"):
        training.go(1)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_optimizer_that_accelerate_wraps():
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    model = network()
    model, optimizer = accelerate.Accelerator(cpu=True).prepare(model, torch.optim.SGD(model.parameters(), lr=0.02))
    training = Training(model=model, optimizer=optimizer, micro=4, every=1)
    training.go(6)
    agree(training)


def test_tokens_weigh():
    """The gradient of a part is that of its mean over tokens, and counts with its tokens; one part has none."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(24, 6, 5, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 7, (24,), generator=generator)
    lengths[4:8] = 0
    loader = ab.DataLoader(torch.utils.data.TensorDataset(tokens, lengths), batch_size=12, micro_batch_size=4)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise = ab.noise.tap(model, optimizer, loader, every=1, half_life=FOREVER)
    wanted, seen = Estimator(FOREVER), []

    def loss_sum(part):
        inputs, wanted = part
        mask = torch.arange(6) < wanted[:, None]
        return model(inputs)[mask].square().sum(), mask.sum()

    for micro in ab.accumulate(loader, model):
        with micro as part:
            loss, total = loss_sum(part)
            (loss * micro.weigh(total if micro.index else int(total))).backward()
        seen.append(part)
        if micro.is_last:
            pairs = [loss_sum(part) for part in seen]
            kept = [(squares_of(loss / n, [*model.parameters()]), int(n)) for loss, n in pairs if n]
            total = sum(n for _, n in kept)
            whole = [sum(n * each[i] for (_, each), n in kept) / total for i in range(4)]
            found = parts([4] * len(kept), [own for (own, _), _ in kept], [n for _, n in kept])
            wanted.add(*trace_and_signal(found, sum(float(each.square().sum()) for each in whole)), age=0)
            optimizer.step()
            optimizer.zero_grad()
            seen = []
    mine, theirs = noise.estimate(), wanted.estimate()
    assert (mine.trace, mine.signal, mine.measured) == pytest.approx((theirs.trace, theirs.signal, 2.0))


def test_a_loader_of_another_make():
    """Sizes are known late, and the gradient of a short last batch is corrected."""
    inner = torch.utils.data.DataLoader(data(50), batch_size=4)
    training = Training(loader=ab.micro_batches(inner, batch_size=12), every=1)
    assert training.tap.kind == "micro_batches"
    assert training.go(5) == [3, 3, 3, 3, 1]
    agree(training)


class Scaled(Training):
    """GradScaler and clipping between the backward pass and the step; a step in the middle is skipped."""

    def setup(self, **how):
        super().setup(**how)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def step(self):
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("micro", [None, 5])
def test_scaled_and_clipped_gradients(micro):
    training = Scaled(micro=micro, every=1)
    training.go(10)
    assert training.scaler.get_scale() > 2.0**10
    agree(training)


def seen(training, updates, done=None):
    """Goes on, and reads what was measured last."""
    for _ in range(updates):
        training.go()
        if done is not None:
            done.append(None)
    training.tap.estimate()


def test_gradients_that_are_not_finite_are_left_out_and_counted():
    training = Training(micro=4, every=1)
    training.go(2)
    whole, broken = training.backward, [2, 5]

    def backward(loss):
        whole(loss * (math.nan if len(done) in broken else 1.0))

    training.backward, training.step, done = backward, training.optimizer.zero_grad, []
    training.naive.see = lambda *_: None
    with pytest.warns(RuntimeWarning, match=r"`noise.tap` leaves out the batch that ends at sample 60: a gradient was"):
        seen(training, 8, done)
    assert training.tap.skipped == 2
    assert training.tap.estimate().measured == pytest.approx(8)
    assert str(training.tap).endswith("from 8 updates; micro-batches of every update; 2 left out")


def test_gradients_that_were_not_zeroed_are_noticed():
    training = Training(micro=4, every=1)
    training.step = training.optimizer.step
    training.go(1)
    with pytest.warns(RuntimeWarning, match=r"gradients of before it were still in `.grad`; zero them after each step"):
        seen(training, 2)
    assert training.tap.skipped == 2
    training.step = lambda: (training.optimizer.step(), training.optimizer.zero_grad(set_to_none=False))
    training.go(4)
    assert training.tap.skipped == 3, "gradients of zero are none"


def test_frozen_parameters_and_a_layer_that_is_not_used():
    model = network()
    model[0].weight.requires_grad = False
    model.add_module("unused", torch.nn.Linear(1, 1).double())
    training = Training(model=torch.nn.Sequential(*[model[i] for i in range(3)]), micro=4, every=1)
    training.go(6)
    agree(training)
    thawed = training.model[0].weight
    thawed.requires_grad = True
    training.parameters = [*training.model.parameters()]
    training.go(2)
    agree(training)


@NORMS
def test_parameters_that_the_optimizer_is_given_later(norm):
    """A network that is thawed by and by: what comes to the optimizer is measured from then on."""
    model = network()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.02)
    training = Training(model=model, optimizer=optimizer, micro=4, every=1, norm=norm)
    training.step = lambda: (training.optimizer.step(), model.zero_grad())
    training.parameters = [*model[2].parameters()]
    training.go(3)
    optimizer.add_param_group({"params": [*model[0].parameters()]})
    training.parameters = [*model.parameters()]
    training.go(5)
    agree(training, rel=1e-9 if norm == "l2" else 1e-6)
    training.close()
    assert not training.tap._watched.is_open


def test_layers_of_an_optimizer_that_is_given_more():
    model = network()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.02)
    training = Training(model=model, optimizer=optimizer, micro=4, every=1, groups="layer")
    training.go(2)
    optimizer.add_param_group({"params": [*model[0].parameters()]})
    with pytest.raises(RuntimeError, match=r"`noise.tap` cannot follow an optimizer that is given other .*from the st"):
        training.go(1)


def test_parameters_that_another_optimizer_trains_are_left_out():
    model = network()
    training = Training(model=model, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1), micro=4, every=1)
    training.parameters = [*model[2].parameters()]
    training.step = lambda: (training.optimizer.step(), model.zero_grad())
    training.go(5)
    agree(training)


class Words(torch.nn.Module):
    def __init__(self, *, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(9, 3, sparse=sparse, dtype=torch.float64)
        self.out = torch.nn.Linear(3, 1, dtype=torch.float64)

    def forward(self, tokens):
        return self.out(self.words(tokens).mean(1))


def test_sparse_gradients():
    """A word may come several times in a part."""
    tokens = torch.randint(9, (48, 4), generator=torch.Generator().manual_seed(0))
    targets = torch.randn(48, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for sparse in (False, True):
        loader = ab.DataLoader(torch.utils.data.TensorDataset(tokens, targets), batch_size=8, micro_batch_size=3)
        training = Training(model=Words(sparse=sparse), loader=loader, every=1)
        training.optimizer.param_groups[0]["momentum"] = 0
        if sparse:
            training.naive.see = lambda *_: None
        training.go(6)
        found.append(training.tap.estimate())
        if not sparse:
            agree(training)
    assert vars_of(found[0]) == pytest.approx(vars_of(found[1]))


def vars_of(found):
    return found.trace, found.signal, found.low, found.high, found.measured


class TwoLosses(Training):
    def backward(self, loss):
        (loss * 0.25).backward(retain_graph=True)
        (loss * 0.75).backward()


def test_gradients_in_several_pieces():
    """From two backward passes of one part; the first time they cannot be told, and that is said."""
    training = TwoLosses(micro=4, every=1)
    real, training.naive.see = training.naive.see, lambda *_: None
    with pytest.warns(RuntimeWarning, match="or came in several pieces"):
        seen(training, 1)
    assert training.tap.skipped == 1
    training.naive.see = real
    training.go(6)
    assert training.tap.skipped == 1
    agree(training)


@NORMS
@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_thrown_away(to_none, norm):
    """Zeroed before the pass that trains, in the first micro-batch, as any other would lose those of before it."""

    class Thrown(Training):
        def backward(self, loss):
            if not any(p.grad is not None and p.grad.any() for p in self.parameters):
                (3 * loss).backward(retain_graph=True)
                self.optimizer.zero_grad(set_to_none=to_none)
            loss.backward()

    training = Thrown(micro=4, every=1, norm=norm)
    training.go(6)
    assert training.tap.skipped == 0
    agree(training, rel=1e-9 if norm == "l2" else 1e-6)


@NORMS
def test_gradients_that_nobody_adds(norm):
    """As those of a penalty on the gradient's length, whose own gradient is added."""

    class Penalised(Training):
        def loss(self, part):
            loss = super().loss(part)
            found = torch.autograd.grad(loss, self.parameters, create_graph=True)
            return loss + 0.1 * sum(each.square().sum() for each in found)

    training = Penalised(micro=4, every=1, norm=norm)
    training.go(6)
    assert training.tap.skipped == 0
    agree(training, rel=1e-9 if norm == "l2" else 1e-6)


def test_checkpointing_is_no_backward_pass_of_its_own():
    class Checkpointed(Training):
        def loss(self, part):
            inputs, targets = part
            hidden = torch.utils.checkpoint.checkpoint(self.model[:2], inputs.requires_grad_(), use_reentrant=True)
            return mse_loss(self.model[2](hidden), targets)

        def updates(self):
            for micro in ab.accumulate(self.loader, self.model):
                with micro as part:
                    (self.loss(part) * micro.weight).backward()
                if micro.is_last:
                    self.step()
                    self.batches.step()
                    yield 3

    checkpointed, plain = Checkpointed(micro=4, every=1), Training(micro=4, every=1)
    checkpointed.go(6)
    plain.go(6)
    assert vars_of(checkpointed.estimate()) == pytest.approx(vars_of(plain.estimate()))


@pytest.mark.parametrize("micro", [None, 12])
def test_memory_that_runs_out(micro):
    """The batch comes again in smaller parts, and counts once, as it came."""
    training, failed = Training(batch_size=16, micro=micro, every=1), []

    def loss(part):
        if len(part[0]) > 4:
            failed.append(len(part[0]))
            raise torch.OutOfMemoryError("memory")
        return mse_loss(training.model(part[0]), part[1])

    training.loss = loss
    with pytest.warns(RuntimeWarning, match="memory ran out"):
        assert training.go(2) == [4, 4]
    assert failed == [8]
    assert training.loader.micro_batch_size == 4
    training.go(4)
    assert training.tap.skipped == 0
    agree(training)


def test_an_error_in_the_middle_of_a_batch():
    training = Training(micro=4, every=1)
    training.go(2)
    whole, left = training.loss, [1, 1, 0]

    def loss(part):
        if not left.pop(0):
            raise KeyError
        return whole(part)

    training.loss, see = loss, training.naive.see
    with pytest.raises(KeyError):
        training.go()
    training.optimizer.zero_grad()
    assert not training.tap._watched.is_open
    training.loss, training.naive.see = whole, see
    training._updates = training.updates()
    training.go(4)
    agree(training)


def test_halves_and_batch_norm_are_said():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 1)).double()
    training = Training(model=model, every=4)
    assert str(training.tap) == (
        "noise scale not measured yet; halves of one of 4 updates, where batch norm sees halves"
    )
    training.go(2)
    assert str(training.tap).startswith("noise scale ")


def plain_loop(model, loader, optimizer):
    for inputs, targets in loader:
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_plain_loop_on_one_device_is_refused(scheduled):
    model, loader = network(), ab.DataLoader(data(), batch_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if scheduled:
        ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant())
    noise = ab.noise.tap(model, optimizer, loader)
    optimizer.step()  # nothing of the loader is trained on yet
    with pytest.raises(RuntimeError, match=r"a plain loop on one device has a batch in one part; loop over `for micro"):
        plain_loop(model, loader, optimizer)
    noise.close()


def test_a_step_outside_the_loop_after_a_resume():
    """The clock stands elsewhere by then, and does not move; once it does between two steps, a plain loop is known."""
    model, loader = network(), ab.DataLoader(data(), batch_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise = ab.noise.tap(model, optimizer, loader)
    loader.set_epoch(3)
    for _ in range(2):
        model(data().tensors[0]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for inputs, targets in loader:
        mse_loss(model(inputs), targets).backward()
    with pytest.raises(RuntimeError, match="a plain loop on one device has a batch in one part"):
        optimizer.step()  # all batches as one, after the loop
    noise.close()


def test_the_taps_of_one_loader_and_of_two():
    model, loader, other = network(), ab.DataLoader(data(), batch_size=8), ab.DataLoader(data(), batch_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise = ab.noise.tap(model, optimizer, loader)
    with pytest.raises(ValueError, match=r"`loader` must not have two taps; call `close\(\)` on the other first"):
        ab.noise.tap(model, optimizer, loader)
    second = ab.noise.tap(model, optimizer, other)
    assert tap_on(loader) is noise
    assert tap_on(other) is second
    noise.close()
    second.close()
    assert tap_on(loader) is None


class Stranger(torch.optim.Optimizer):
    """Wraps something, and has none of torch's hooks."""

    def __init__(self):
        self.param_groups, self.defaults, self.state = [], {}, {}


def setup_of(**how):
    model = how.pop("model", None) or network()
    mine = network() if how.pop("strange", False) or not isinstance(model, torch.nn.Module) else model
    optimizer = how.pop("optimizer", None) or torch.optim.SGD(mine.parameters(), lr=0.1)
    loader = how.pop("loader", None)
    loader = ab.DataLoader(data(), batch_size=8, **how.pop("loading", {})) if loader is None else loader
    return ab.noise.tap(model, optimizer, loader, **how)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"every": 0}, ValueError, "`every` must be at least 1, got 0"),
        ({"half_life": 0}, ValueError, "`half_life` must be greater than 0"),
        ({"kind": "examples"}, ValueError, "`kind` must be one of auto, micro_batches, ranks, halves"),
        ({"groups": "tensor"}, ValueError, "`groups` must be one of None, layer, got 'tensor'"),
        ({"kind": "ranks"}, ValueError, r"`kind` must not be ranks where one rank .*; set `loader.micro_batch_size`"),
        ({"kind": "micro_batches"}, ValueError, r"`kind` must not be micro_batches where a batch is one of them, got a "
                                                r"micro-batch size of None; set `loader.micro_batch_size`, or write"),
        ({"kind": "micro_batches", "loading": {"micro_batch_size": 8}}, ValueError, "got a micro-batch size of 8"),
        ({"loader": [1, 2]}, TypeError, "`loader` must be an ab.DataLoader, got list; `ab.micro_batches"),
        ({"model": [3]}, TypeError, "`model` must be a torch.nn.Module or a list of them, got int"),
        ({"optimizer": [3]}, TypeError, "`optimizer` must be a torch.optim.Optimizer or a list of them, got int"),
        ({"optimizer": Stranger()}, TypeError, "`optimizer` must be .*, got Stranger; unwrap one that is wrapped"),
        ({"preconditioned": 1}, TypeError, "`preconditioned` must be True or False"),
        ({"preconditioned": True}, ValueError, "`preconditioned` must be False where the optimizer keeps no second "
                                               "moments, got True with SGD; leave it out, or train with Adam"),
        ({"norm": "l3"}, ValueError, "`norm` must be one of l2, l1, got 'l3'"),
        ({"norm": "l1", "preconditioned": True, "optimizer": torch.optim.Adam([torch.zeros(1)])}, ValueError,
         "`norm` must be l2 where gradients are divided by Adam's scales, got 'l1'; leave `preconditioned` out"),
        ({"strange": 1}, ValueError, "`optimizer` must train parameters of the model, got one that holds none"),
    ],
)  # fmt: skip
def test_bad_input(how, error, said):
    before = torch.autograd.backward
    with pytest.raises(error, match=said):
        setup_of(**how)
    assert torch.autograd.backward is before, "nothing stays behind"


def test_loaders_whose_batches_cannot_be_cut():
    whole = ab.micro_batches(torch.utils.data.DataLoader(data(), batch_size=8), batch_size=8)
    with pytest.raises(ValueError, match="where a batch is one of them, got a micro-batch size of 8; make the batches"):
        setup_of(loader=whole)
    with pytest.raises(ValueError, match="`kind` must not be halves where the loader's batches cannot be cut"):
        setup_of(loader=whole, kind="halves")
    with pytest.raises(ValueError, match="`loader` must have a batch of two samples to be cut, got 1; begin with"):
        setup_of(loader=ab.DataLoader(data(), batch_size=1))


def test_states_of_another_tap():
    state = setup_of(half_life=10).state_dict()
    for how, said in (
        ({"half_life": 11}, "`half_life` must be 10.0 as in the state, got 11.0; resume with the same"),
        ({"half_life": 10, "norm": "l1"}, "`norm` must be l2 as in the state, got 'l1'; resume with the same `norm`"),
        ({"half_life": 10, "groups": "layer"}, r"`state` must have the groups of this tap, got \['\*'\]"),
    ):
        with pytest.raises(ValueError, match=said):
            setup_of(**how).load_state_dict(state)
    for broken in (None, {}, state | {"format": 9}, state | {"more": 1}):
        with pytest.raises(ValueError, match=r"`state` must be what `state_dict\(\)` of a noise tap gave"):
            setup_of(half_life=10).load_state_dict(broken)


def test_older_updates_count_less():
    """With a half-life in samples, whatever the batch size; by default 20 measured updates."""
    training = Training(batch_size=12, micro=4, every=2, half_life=24)
    training.go(5)
    assert training.tap.estimate().measured == pytest.approx((1 + 0.5 + 0.25) ** 2 / (1 + 0.25 + 0.0625))
    training = Training(batch_size=12, micro=4, every=1, half_life=None)
    training.go(3)
    weights = [2 ** (-age / 20) for age in range(3)]
    assert training.tap.estimate().measured == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
