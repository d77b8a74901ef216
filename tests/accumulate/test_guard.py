"""Steps that come too early are refused, and nothing that is trained is left out of what happens to gradients."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
import torch.distributed as dist
from tests.accumulate.ranks import on_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.accumulate._guard import leaves_of

INSIDE = (
    r"`optimizer.step\(\)` must not be called inside `with micro`, got it in micro-batch \d of \d, where gradients "
    r"are not the batch's yet; move it, and what clips or logs gradients, below the `with` block, under "
    r"`if micro.is_last:`, also out of hooks that step during `backward\(\)`"
)
OUTSIDE = (
    r"`model` of `accumulate` must hold all parameters that are trained, got {} in this SGD that it lacks, whose "
    r"gradients of the batch were not {}; give all modules: `accumulate\(loader, \[encoder, head\]\)`"
)


def data(count=8):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator))


def loader_of(micro=3, *, count=8, batch_size=8):
    return ab.DataLoader(data(count), batch_size=batch_size, micro_batch_size=micro)


def linear(inputs=3, outputs=1):
    torch.manual_seed(1)
    return torch.nn.Linear(inputs, outputs)


def sgd(*modules, lr=0.1):
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=lr)


def backward(micro, batch, *modules, weigh=True):
    """Weighed, a sample counts three times, so that the first guess is not what it weighs."""
    x, y = batch
    for module in modules:
        x = module(x)
    factor = 3 * micro.weigh(3 * len(y)) if weigh else micro.weight * len(y) ** -1
    (torch.nn.functional.mse_loss(x, y, reduction="sum") * factor).backward()


def nobody_listens():
    hooks = torch.optim.SGD.__mro__[1].__init__.__globals__["_global_optimizer_pre_hooks"]
    mine = [
        hook for hook in hooks.values() if hook.__module__ == "adabatch.accumulate._guard"
    ]  # schedulers have theirs
    return not mine and torch.autograd.backward.__module__ == "torch.autograd"


# A step inside `with micro`.


@pytest.mark.parametrize("recover", [True, False])
@pytest.mark.parametrize("weigh", [True, False])
@pytest.mark.parametrize("index", [0, 2])
def test_a_step_inside_is_refused_before_anything_is_stepped(index, weigh, recover):
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = [p.clone() for p in model.parameters()]
    for micro in ab.accumulate(loader_of(), model, recover=recover):
        with micro as batch:
            backward(micro, batch, model, weigh=weigh)
            if micro.index == index:
                with pytest.raises(RuntimeError, match=INSIDE + "$"):
                    optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))
    optimizer.step()
    assert nobody_listens()


def test_a_scheduled_run_too():
    model, loader = linear(), loader_of()
    optimizer = sgd(model)
    batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.constant(), coupling="linear")
    micro = next(stream := ab.accumulate(loader, model))
    with micro as batch:
        backward(micro, batch, model)
        with pytest.raises(RuntimeError, match=INSIDE):
            optimizer.step()
    stream.close()
    batches.close()


def test_wrapped_steps_are_seen():
    """GradScaler, fused kernels, closures, ZeRO's and optimizers of other makes all come to torch's hook."""

    class Own(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 0.1})

        def step(self, closure=None):
            raise AssertionError("it stepped")

    model = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    fused = torch.optim.AdamW(model.parameters(), fused=True)
    lbfgs = torch.optim.LBFGS(model.parameters())
    scaled = sgd(model)
    steps = [
        fused.step,
        Own(model.parameters()).step,
        lambda: lbfgs.step(lambda: 1 / 0),
        lambda: scaler.step(scaled),
        lambda: torch.optim.lr_scheduler.LambdaLR(scaled, lambda _: 1).optimizer.step(),
    ]
    micro = next(stream := ab.accumulate(loader_of(), model))
    with micro as batch:
        x, y = batch
        scaler.scale(torch.nn.functional.mse_loss(model(x), y) * micro.weight).backward()
        for step in steps:
            with pytest.raises(RuntimeError, match=INSIDE):
                step()
    stream.close()


def test_an_optimizer_within_backward_is_refused():
    model = linear()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    micro = next(stream := ab.accumulate(loader_of(), model))
    with pytest.raises(RuntimeError, match=r"also out of hooks that step during `backward\(\)`"), micro as batch:
        backward(micro, batch, model)
    stream.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_step_is_seen_and_not_compiled_again():
    torch._dynamo.reset()
    model, graphs = linear(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    step = torch.compile(optimizer.step, backend="eager")
    for epoch in range(4):
        for micro in ab.accumulate(loader_of(), model):
            with micro as batch:
                backward(micro, batch, model)
                if epoch == 2:
                    with pytest.raises(RuntimeError, match=INSIDE):
                        step()
            if micro.is_last:
                step()
                graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[1:] == graphs[:1] * 3
    step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs[0]


def test_another_networks_optimizer_may_step():
    model, critic = linear(), linear()
    other, steps = sgd(critic), []
    for micro in ab.accumulate(loader_of(), model):
        with micro as batch:
            backward(micro, batch, model)
            critic(batch[0]).sum().backward()
            other.step()
        other.step()
        steps.append(1)
        other.zero_grad()
    assert len(steps) == 3


def test_without_the_model_a_step_inside_the_last_is_exact_and_one_before_is_refused():
    """Nothing is corrected nor averaged then."""
    model, whole = linear(), linear()
    optimizer = sgd(model)
    for micro in ab.accumulate(loader_of()):
        with micro as (x, y):
            (torch.nn.functional.mse_loss(model(x), y) * micro.weight).backward()
            if micro.is_last:
                optimizer.step()
            else:
                with pytest.raises(
                    RuntimeError, match=INSIDE + r"; if it is another network's, write `accumulate\(loader, model\)`"
                ):
                    optimizer.step()
    x, y = data().tensors
    torch.nn.functional.mse_loss(whole(x), y).backward()
    sgd(whole).step()
    torch.testing.assert_close(model.weight, whole.weight)


# Between micro-batches.


def test_a_step_between_micro_batches_is_refused():
    for given, whose in ((True, "$"), (False, r"; if it is another network's, write `accumulate\(loader, model\)`")):
        model = linear()
        optimizer = sgd(model)
        for micro in ab.accumulate(loader_of(), model if given else None):
            with micro as batch:
                backward(micro, batch, model, weigh=False)
            if micro.is_last:
                optimizer.step()
            else:
                message = (
                    rf"`optimizer.step\(\)` came after micro-batch {micro.index + 1} of 3; step after the last one"
                )
                with pytest.raises(RuntimeError, match=message + ": `if micro.is_last:`" + whose):
                    optimizer.step()


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_a_step_for_a_batch_that_comes_again_is_refused():
    """A loop without micro-batches needs no `is_last`, until memory runs out."""
    model, failing = linear(), [True]
    optimizer, refused = sgd(model), 0
    for micro in ab.accumulate(loader_of(micro=None), model):
        with micro as batch:
            backward(micro, batch, model)
            if failing.pop() if failing else False:
                raise torch.OutOfMemoryError("no room")
        if not micro.is_last:
            refused += 1
            with pytest.raises(
                RuntimeError,
                match=r"came after micro-batch 1 of \d(, which ran out of memory, and its batch comes again)?; st",
            ) as caught:
                optimizer.step()
            assert ("comes again" in str(caught.value)) == micro.failed
    assert refused == 2


def test_a_step_after_an_error_in_the_last_micro_batch_is_told():
    model = linear()
    optimizer = sgd(model)

    def loop(*, stepped):
        for micro in ab.accumulate(loader_of(count=16), model):
            try:
                with micro as batch:
                    backward(micro, batch, model)
                    if micro.is_last:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                optimizer.zero_grad()
                if stepped:
                    optimizer.step()

    loop(stepped=False)
    with pytest.raises(
        RuntimeError, match=r"came after micro-batch 3 of 3 was left by an error, .*; call `optimizer.zero_grad\(\)` th"
    ):
        loop(stepped=True)
    assert nobody_listens()


# When it ends.


@pytest.mark.parametrize("inside", [True, False])
def test_an_error_ends_it_though_its_traceback_lives_on(inside):
    """As in a notebook, where another cell then trains in a plain loop."""
    model = linear()
    optimizer = sgd(model)

    def cell():
        for micro in ab.accumulate(loader_of(), model):
            with micro as batch:
                backward(micro, batch, model)
                if inside:
                    raise KeyboardInterrupt
            if micro.is_last:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        cell()
    assert caught.tb is not None
    optimizer.step()


def test_leaving_early_ends_it():
    model = linear()
    optimizer = sgd(model)
    for micro in ab.accumulate(loader_of(), model):
        with micro as batch:
            backward(micro, batch, model)
        break
    gc.collect()
    optimizer.step()
    assert nobody_listens()


def test_a_look_at_a_micro_batch_is_no_batch_under_way():
    model = linear()
    optimizer = sgd(model)
    peek = ab.accumulate(loader_of(), model)
    with next(peek) as (x, _y):
        pass
    model(x).sum().backward()
    optimizer.step()
    peek.close()


def test_a_later_accumulation_of_the_same_parameters_is_the_one_that_counts():
    model, other = linear(), linear()
    looked, elsewhere = ab.accumulate(loader_of(), model), ab.accumulate(loader_of(), other)
    for stream, module in ((looked, model), (elsewhere, other)):
        micro = next(stream)
        with micro as batch:
            backward(micro, batch, module)
    optimizer = sgd(model)
    for micro in ab.accumulate(loader_of(), model):
        with micro as batch:
            backward(micro, batch, model)
        if micro.is_last:
            optimizer.step()
    with pytest.raises(RuntimeError, match="came after micro-batch 1 of 3"):
        sgd(other).step()
    looked.close()
    elsewhere.close()
    assert nobody_listens()


def test_threads_do_not_see_each_other():
    """One trains while the other stands inside a micro-batch, without a model to tell them apart."""
    results = []

    def train():
        model = linear()
        optimizer = sgd(model)
        for micro in ab.accumulate(loader_of(), model):
            with micro as batch:
                backward(micro, batch, model)
            if micro.is_last:
                optimizer.step()
        results.append(model.weight.grad)

    with next(stream := ab.accumulate(loader_of())):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    stream.close()
    train()
    assert torch.equal(*results)
    assert nobody_listens()


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_what_another_thread_trains_is_not_put_back():
    model, other, failing = linear(), linear(), [True]
    for micro in ab.accumulate(loader_of(None), model):
        with micro as batch:
            backward(micro, batch, model)
            if failing:
                thread = threading.Thread(target=lambda: other(torch.ones(2, 3)).sum().backward())
                thread.start()
                thread.join()
                raise torch.OutOfMemoryError(f"no room {failing.pop()}")
    assert other.bias.grad.item() == 2


def test_somebody_else_may_stand_in_for_backward(monkeypatch):
    calls, model = [], linear()
    original = torch.autograd.backward
    stream = ab.accumulate(loader_of(), model)
    next(stream)
    ours = torch.autograd.backward
    monkeypatch.setattr(torch.autograd, "backward", lambda *a, **k: (calls.append(1), ours(*a, **k)))
    stream.close()
    model(torch.zeros(2, 3)).sum().backward()
    assert calls == [1]
    assert model.bias.grad.item() == 2
    monkeypatch.undo()
    torch.autograd.backward = original


# What is trained outside of the model.


def parts():
    return linear(3, 4), linear(4, 1)


def wanted(encoder, head, *, of=None):
    x, y = data()[:] if of is None else of
    return torch.autograd.grad(
        torch.nn.functional.mse_loss(head(encoder(x)), y), [*encoder.parameters(), *head.parameters()]
    )


def assert_batch(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("recover", [True, False])
@pytest.mark.parametrize("given", [lambda e, h: e, lambda e, h: [e, h], lambda e, h: (h, torch.nn.Sequential(e, h), e)])
def test_a_head_of_its_own_gets_the_gradient_of_the_batch(given, recover):
    encoder, head = parts()
    for micro in ab.accumulate(loader_of(), given(encoder, head), recover=recover):
        with micro as batch:
            backward(micro, batch, encoder, head)
    assert_batch([p.grad for p in (*encoder.parameters(), *head.parameters())], wanted(encoder, head))


def test_a_short_batch_of_a_loader_of_another_make():
    """The gradient of the head was a third of the batch's."""
    encoder, head = parts()
    theirs = torch.utils.data.DataLoader(data(32), batch_size=8)
    for micro in ab.accumulate(ab.micro_batches(theirs, batch_size=24), encoder):
        if micro.index == 0:
            encoder.zero_grad()
            head.zero_grad()
        with micro as (x, y):
            (torch.nn.functional.mse_loss(head(encoder(x)), y) * micro.weight).backward()
    assert_batch([p.grad for p in (*encoder.parameters(), *head.parameters())], wanted(encoder, head, of=data(32)[24:]))


@pytest.mark.filterwarnings("ignore:memory ran out")
@pytest.mark.parametrize("given", [lambda e, h: e, lambda e, h: [e, h]])
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("weigh", [False, True])
def test_after_a_repeat_a_head_of_its_own_got_the_batch_once(given, there, weigh):
    encoder, head = parts()
    everything = [*encoder.parameters(), *head.parameters()]
    for p in everything if there else ():
        p.grad = torch.ones_like(p)
    failing, kept = [True], [p.grad for p in everything]
    for micro in ab.accumulate(loader_of(), given(encoder, head)):
        with micro as (x, y):
            loss = torch.nn.functional.mse_loss(head(encoder(x)), y, reduction="sum")
            (loss * (3 * micro.weigh(3 * len(x)) if weigh else micro.weight / len(x))).backward()
            if micro.index == 1 and failing:
                raise torch.OutOfMemoryError(f"no room {failing.pop()}")
    assert micro.count == 4
    before = [
        torch.zeros_like(p) if old is None or weigh else torch.ones_like(p)
        for p, old in zip(everything, kept, strict=True)
    ]
    if not (there and weigh):  # a correction multiplies all that is there
        assert_batch([p.grad - b for p, b in zip(everything, before, strict=True)], wanted(encoder, head))
    if there:
        assert all(p.grad is old for p, old in zip(everything, kept, strict=True))


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_another_networks_loss_is_not_corrected_but_repeated_with_the_batch():
    model, critic, failing = linear(), linear(), [True]
    for micro in ab.accumulate(loader_of(4), model):
        with micro as batch:
            critic(batch[0]).sum().backward()
            backward(micro, (batch[0], batch[1]), model)
            if failing:
                raise torch.OutOfMemoryError(f"no room {failing.pop()}")
    torch.testing.assert_close(critic.weight.grad, data().tensors[0].sum(0, keepdim=True))


def test_nobody_keeps_what_joined_alive():
    """Inputs that want a gradient join each micro-batch, and may go with it."""
    model, alive = linear(), []
    for micro in ab.accumulate(loader_of(2), model):
        with micro as (x, y):
            x = x.clone().requires_grad_()
            backward(micro, (x, y), model)
            alive.append(torch.multiprocessing.reductions.StorageWeakRef(x.untyped_storage()))
    del x, y
    assert all(each.expired() for each in alive)


KINDS = [list, dict] if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13) else [list]  # of `inputs`


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_backward_name_what_gets_a_gradient(kind):
    encoder, head = parts()
    for p in head.parameters():
        p.grad = torch.full_like(p, 5.0)
    for micro in ab.accumulate(loader_of(), encoder):
        with micro as (x, y):
            loss = torch.nn.functional.mse_loss(head(encoder(x)), y, reduction="sum") * micro.weigh(3.0 * len(x))
            inputs = dict(encoder.named_parameters()) if kind is dict else list(encoder.parameters())
            torch.autograd.backward([loss], inputs=inputs)
    assert all((p.grad == 5).all() for p in head.parameters())
    assert_batch([3 * p.grad for p in encoder.parameters()], wanted(encoder, head)[:2])


class Hidden(torch.autograd.Function):
    """Trains a module that its graph does not show."""

    @staticmethod
    def forward(ctx, x, head):
        ctx.head = head
        ctx.save_for_backward(x)
        with torch.no_grad():
            return head(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = ctx.head(x)
            for p, g in zip(
                ctx.head.parameters(),
                torch.autograd.grad(out, ctx.head.parameters(), grad, retain_graph=True),
                strict=True,
            ):
                p.grad = g if p.grad is None else p.grad + g
            return torch.autograd.grad(out, x, grad)[0], None


def reentrant(x, head):
    return checkpoint(head, x, use_reentrant=True)


@pytest.mark.parametrize("hidden", [Hidden.apply, reentrant])
def test_what_no_graph_shows_is_refused_when_it_is_stepped(hidden):
    encoder, head = parts()
    optimizer = sgd(encoder, head)
    for micro in ab.accumulate(loader_of(), encoder):
        with micro as (x, y):
            out = hidden(encoder(x), head)
            (torch.nn.functional.mse_loss(out, y, reduction="sum") * micro.weigh(len(x))).backward()
        if micro.is_last:
            before = encoder.weight.clone()
            with pytest.raises(RuntimeError, match=OUTSIDE.format(2, "corrected by its weight")):
                optimizer.step()
            assert torch.equal(encoder.weight, before)


@pytest.mark.filterwarnings("ignore:memory ran out")
def test_nor_what_could_not_be_put_back():
    (encoder, head), failing = parts(), [True]
    optimizer = sgd(encoder, head)
    for micro in ab.accumulate(loader_of(4), encoder):
        with micro as (x, y):
            (torch.nn.functional.mse_loss(Hidden.apply(encoder(x), head), y) * micro.weight).backward()
            if failing:
                raise torch.OutOfMemoryError(f"no room {failing.pop()}")
        if micro.is_last:
            with pytest.raises(RuntimeError, match=OUTSIDE.format(2, "put back before it was repeated")):
                optimizer.step()


def test_where_nothing_is_corrected_nothing_is_refused():
    encoder, head = parts()
    optimizer = sgd(encoder, head)
    for micro in ab.accumulate(loader_of(), encoder):
        with micro as (x, y):
            (torch.nn.functional.mse_loss(Hidden.apply(encoder(x), head), y) * micro.weight).backward()
        if micro.is_last:
            optimizer.step()


def test_leaves_of():
    encoder, head = parts()
    loose = torch.zeros(4, requires_grad=True)
    frozen = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
    hidden = encoder(torch.zeros(2, 3)) + loose + frozen
    roots = [head(hidden).sum(), loose, torch.zeros(1)]
    assert {id(leaf) for leaf in leaves_of(roots)} == {
        id(p) for p in (*encoder.parameters(), *head.parameters(), loose)
    }
    edge = torch.autograd.graph.get_gradient_edge(hidden)
    assert {id(leaf) for leaf in leaves_of([edge])} == {id(p) for p in (*encoder.parameters(), loose)}


# Ranks.


def gradients_over(world, modules, *, wrap, given, recover, weigh=True, micro=2):
    wrapped = [wrap(module) for module in modules]
    loader = ab.DataLoader(data(), batch_size=8, micro_batch_size=micro)
    for part in ab.accumulate(loader, given(wrapped), recover=recover):
        with part as batch:
            backward(part, batch, *wrapped, weigh=weigh)
    return wrapped


def full(p):
    return p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad


def check_lists(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    for wrap in (DistributedDataParallel, lambda module: fully_shard(module, mesh=mesh)):
        for recover in (True, False):
            encoder, head = parts()
            expected = wanted(encoder, head)
            wrapped = gradients_over(world, (encoder, head), wrap=wrap, given=list, recover=recover)
            assert_batch([full(p) for module in wrapped for p in module.parameters()], expected)
            del wrapped


def check_steps_inside(rank, world):
    """The gradient there is this rank's alone."""
    model = DistributedDataParallel(linear())
    optimizer = sgd(model)
    for micro in ab.accumulate(ab.DataLoader(data(), batch_size=8), model):
        with micro as batch:
            backward(micro, batch, model)
            with pytest.raises(RuntimeError, match=INSIDE):
                optimizer.step()
        optimizer.step()
    weights = [None] * world
    dist.all_gather_object(weights, model.module.weight.tolist())
    assert weights[0] == weights[1]
    del model


def check_outside(rank, world):
    """Two optimizers or one: a head that nobody averages is not stepped; one wrapped by itself is its own affair."""
    for weigh in (True, False):
        for apart in (True, False):
            encoder, head = parts()
            model = DistributedDataParallel(encoder)
            optimizer = sgd(head) if apart else sgd(encoder, head)
            for micro in ab.accumulate(ab.DataLoader(data(), batch_size=8), model):
                with micro as batch:
                    backward(micro, batch, model, head, weigh=weigh)
                torch.nn.utils.clip_grad_norm_(head.parameters(), 0.01)
                with pytest.raises(RuntimeError, match=OUTSIDE.format(2, "averaged over ranks")):
                    optimizer.step()
            del model
    encoder, head = parts()
    fully_shard(encoder, mesh=init_device_mesh("cpu", (world,)))
    optimizer = sgd(encoder, head)
    for micro in ab.accumulate(ab.DataLoader(data(), batch_size=8), encoder):
        with micro as batch:
            backward(micro, batch, encoder, head)
        with pytest.raises(RuntimeError, match=OUTSIDE.format(2, "averaged over ranks")):
            optimizer.step()
    del encoder, optimizer
    generator, critic = parts()
    model, judge = DistributedDataParallel(generator), DistributedDataParallel(critic)
    optimizer, other = sgd(generator), sgd(critic)
    for micro in ab.accumulate(ab.DataLoader(data(), batch_size=8), model):
        with micro as batch:
            backward(micro, batch, model, judge)  # reaches the critic, whose gradient is not used
        optimizer.step()
        other.zero_grad()
        judge(torch.ones(2, 4)).sum().backward()
        other.step()
    del model, judge


def check_fully_shard_after_evaluation(rank, world):
    """A forward pass alone leaves gathered parameters in the root, which get no gradient that anybody reads."""
    model = torch.nn.Sequential(linear(3, 4), linear(4, 1))
    expected = wanted(*model)
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    optimizer = sgd(model)
    with torch.no_grad():
        model(torch.zeros(2, 3))
    for micro in ab.accumulate(ab.DataLoader(data(), batch_size=8, micro_batch_size=2), model):
        with micro as batch:
            backward(micro, batch, model)
        if micro.is_last:
            assert_batch([full(p) for p in model.parameters()], expected)
            optimizer.step()
    del model, optimizer


@pytest.mark.world_size(2)
def test_two_ranks():
    on_ranks(2, check_lists, check_steps_inside, check_outside, check_fully_shard_after_evaluation)
