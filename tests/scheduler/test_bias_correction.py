"""Adam under betas that change: the product of the betas in force debiases, whatever happens."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.scheduler.checks import backward, loader_of, model_of
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict, set_state_dict

import adabatch as ab
from adabatch import couplings

COUPLINGS = {
    "adam_sde": couplings.adam_sde(),
    "exponential": couplings.adam_sde(exponential=True),
    "token_half_life": couplings.token_half_life(),
}
KINDS = {
    "adam": (torch.optim.Adam, {"foreach": False}),
    "adamw": (torch.optim.AdamW, {"foreach": False, "weight_decay": 0.1}),
    "l2": (torch.optim.Adam, {"weight_decay": 0.1}),
    "foreach": (torch.optim.AdamW, {"foreach": True, "weight_decay": 0.1}),
    "fused": (torch.optim.AdamW, {"fused": True, "weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "tensor-lr": (torch.optim.AdamW, {"lr": torch.tensor(0.01, dtype=torch.float64), "weight_decay": 0.1}),
    "tensor-fused": (torch.optim.Adam, {"lr": torch.tensor(0.01, dtype=torch.float64), "fused": True}),
    "tensor-betas": (torch.optim.Adam, {"betas": (torch.tensor(0.9), torch.tensor(0.99)), "foreach": False}),
}
SIZES = "0:4 20:8 60:16 140:4 160:12"  # up, up, down, up; the first change at update 5


@dataclass
class Run:
    """Weights under given gradients, batch by batch."""

    kind: str = "adam"
    coupling: couplings.Coupling = COUPLINGS["adam_sde"]
    sizes: str = SIZES
    weights: list[torch.Tensor] = field(default_factory=lambda: [torch.zeros(3, dtype=torch.float64)])
    more: dict[str, object] = field(default_factory=dict)

    def __post_init__(self):
        kind, arguments = KINDS[self.kind]
        self.weights = [torch.nn.Parameter(w.clone()) for w in self.weights]
        arguments = copy.deepcopy({"lr": 0.01, "betas": (0.9, 0.99)} | arguments | self.more)
        self.optimizer = kind(self.weights, **arguments)
        self.loader = loader_of(240)
        self.batches = ab.BatchSizeScheduler(
            self.optimizer, self.loader, ab.schedules.steps(self.sizes), coupling=self.coupling
        )
        self.stream = iter(self.loader)

    def update(self, grads):
        """One update; the ratio of its batch size."""
        batch = next(self.stream, None)
        if batch is None:
            self.stream = iter(self.loader)
            next(self.stream)
        for weight, grad in zip(self.weights, grads, strict=True):
            weight.grad = None if grad is None else grad.clone()
        ratio = self.batches.batch_size / 4
        self.optimizer.step()
        self.batches.step()
        return ratio

    def state(self):
        return copy.deepcopy(
            {name: getattr(self, name).state_dict() for name in ("optimizer", "loader", "batches")}
            | {"weights": [w.detach().clone() for w in self.weights]}
        )

    def load(self, state, order=("optimizer", "loader", "batches")):
        self.stream = iter(self.loader)
        for name in order:
            getattr(self, name).load_state_dict(copy.deepcopy(state[name]))
        with torch.no_grad():
            for weight, saved in zip(self.weights, state["weights"], strict=True):
                weight.copy_(saved)


class Reference:
    """Adam written down, with the betas in force at each step and their product."""

    def __init__(self, weight, coupling, *, group):
        self.weight, self.coupling, self.group = weight.clone(), coupling, group
        self.m, self.v, self.greatest = (torch.zeros_like(weight) for _ in range(3))
        self.products = [1.0, 1.0]

    def update(self, grad, ratio):
        group = self.group | self.coupling.in_force(self.group, ratio)
        lr, decay = float(group["lr"]), group["weight_decay"]
        first, second = (float(beta) for beta in group["betas"])
        if group["decoupled_weight_decay"]:
            self.weight = self.weight * (1 - lr * decay)
        else:
            grad = grad + decay * self.weight
        self.m = first * self.m + (1 - first) * grad
        self.v = second * self.v + (1 - second) * grad**2
        self.greatest = torch.maximum(self.greatest, self.v)
        self.products = [self.products[0] * first, self.products[1] * second]
        seen = self.greatest if group["amsgrad"] else self.v
        root = (seen / (1 - self.products[1])).sqrt()
        self.weight = self.weight - lr * self.m / (1 - self.products[0]) / (root + group["eps"])


def grads_of(count, shape=(3,), *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def tolerance(kind):
    # torch computes `beta ** step` in float32 where betas or steps are tensors of that kind
    return 1e-4 if kind == "tensor-betas" else 1e-11


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_adam_is_adam_written_down(kind, name):
    run = Run(kind, COUPLINGS[name], more={"eps": 0.01})
    held = copy.deepcopy(run.optimizer.param_groups[0])
    reference = Reference(run.weights[0].detach(), run.coupling, group=held)
    ratios = set()
    for grad in grads_of(30):
        ratio = run.update([grad])
        ratios.add(ratio)
        reference.update(grad, ratio)
        assert torch.allclose(run.weights[0], reference.weight, rtol=tolerance(kind), atol=tolerance(kind) * 0.01)
    assert ratios == {1, 2, 4, 3}
    group = run.optimizer.param_groups[0]
    assert {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")} == {
        key: held[key] for key in ("lr", "betas", "eps", "weight_decay")
    }


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_gradient_gives_steps_of_length_one(kind, name):
    run = Run(kind, COUPLINGS[name], more={"weight_decay": 0.0, "eps": 1e-30})
    grad = torch.tensor([1e-3, -1.0, 50.0], dtype=torch.float64)
    for _ in range(60):
        before = run.weights[0].detach().clone()
        run.update([grad])
        length = (before - run.weights[0].detach()) / run.batches.last_lr[0]
        assert torch.allclose(length, grad.sign(), rtol=max(1e-9, tolerance(kind)))


def test_without_the_correction_the_step_is_far_from_one():
    """The numbers of a naive change of betas at update 200 show that the correction matters."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.999))
    for step in range(201):
        if step == 200:
            optimizer.param_groups[0]["betas"] = (0.6, 0.996)
        weight.grad = torch.ones_like(weight)
        before = weight.item()
        optimizer.step()
    naive = ((1 - 0.996**201) / (1 - 0.996 * 0.999**200)) ** 0.5
    assert before - weight.item() == pytest.approx(naive, rel=1e-6)
    assert naive == pytest.approx(1.731, abs=1e-3)


def test_until_the_betas_change_no_bit_does_and_nothing_is_recorded():
    runs = [Run(coupling=coupling, sizes="0:4 40:8") for coupling in (couplings.adam_sde(), couplings.none())]
    for run in runs:
        user = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, max_lr=0.1, total_steps=40)
        for grad in grads_of(10):
            run.update([grad])
            user.step()
    assert torch.equal(runs[0].weights[0], runs[1].weights[0])
    assert runs[0].batches.state_dict().keys() == runs[1].batches.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.* is stepped once an update:UserWarning")  # on purpose
def test_betas_that_an_lr_scheduler_cycles():
    """From the first change on, the product of the betas in force counts; before it, torch's own rule."""
    run = Run("adam", more={"eps": 1e-30})
    user = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, max_lr=0.1, total_steps=100)
    grad = torch.ones(3, dtype=torch.float64)
    products, betas_seen = None, set()
    for update in range(40):
        held = run.optimizer.param_groups[0]["betas"]
        ratio = run.update([grad])
        betas = run.coupling.in_force(run.optimizer.param_groups[0], ratio).get("betas", held)
        if products is None and ratio != 1:
            products = [beta**update for beta in held]
        if products is not None:
            products = [product * beta for product, beta in zip(products, betas, strict=True)]
            (entry,) = run.batches.state_dict()["bias_correction"][0]
            assert entry == {"params": [[0, 0]], "steps": update + 1, "products": pytest.approx(products, rel=1e-12)}
        betas_seen.add(held)
        user.step()
    assert len(betas_seen) == 40


# Parameters with a history of their own.


def test_parameters_that_sit_steps_out_have_a_course_of_their_own():
    weights = [torch.zeros(2, dtype=torch.float64), torch.ones(1, dtype=torch.float64), torch.ones(1)]
    run = Run("adamw", couplings.adam_sde(weight_decay=True), weights=weights)
    run.weights[2].requires_grad_(False)
    groups = run.optimizer.param_groups
    held = copy.deepcopy({key: value for key, value in groups[0].items() if key != "params"})
    references = [Reference(weight, run.coupling, group=held) for weight in weights[:2]]
    seen = []
    for number, (one, two) in enumerate(zip(grads_of(30, (2,)), grads_of(30, (1,), seed=1), strict=True)):
        given = [one, two if number >= 8 and number % 3 else None]
        handle = run.optimizer.register_step_pre_hook(
            lambda optimizer, *_: seen.append([len(group["params"]) for group in optimizer.param_groups])
        )
        ratio = run.update([*given, None])
        handle.remove()
        for reference, grad, weight in zip(references, given, run.weights, strict=False):
            if grad is not None:
                reference.update(grad, ratio)
            assert torch.allclose(weight, reference.weight, rtol=1e-11, atol=1e-13)
        assert run.optimizer.param_groups is groups
        assert len(groups) == 1
    assert [1, 1] in seen, "the group was split during the step"
    found = run.batches.state_dict()["bias_correction"]
    assert [(entry["params"], entry["steps"]) for entry in found[0]] == [([[0, 0]], 30), ([[1, 1]], 15)]


def test_a_tensor_lr_that_groups_with_other_courses_share():
    run = Run("tensor-lr", more={"eps": 1e-30, "weight_decay": 0.0})
    lr = run.optimizer.param_groups[0]["lr"]
    late = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for update in range(30):
        if update == 10:
            run.optimizer.add_param_group({"params": [late], "lr": lr})
        before = late.detach().clone()
        late.grad = torch.ones_like(late) if update > 10 else None
        weight = run.weights[0].detach().clone()
        run.update([torch.ones(3, dtype=torch.float64)])
        for moved, old in ((run.weights[0], weight), *([(late, before)] if update > 10 else [])):
            assert ((old - moved.detach()) / run.batches.last_lr[0]).tolist() == pytest.approx([1.0] * len(old))
        assert all(group["lr"] is lr for group in run.optimizer.param_groups)
        assert float(lr) == 0.01


def test_a_closure_that_makes_the_gradients():
    run = Run("adam", more={"eps": 1e-30})
    weight = run.weights[0]

    def closure():
        run.optimizer.zero_grad()
        weight.sum().backward()

    stream = iter(run.loader)
    for _ in range(12):
        next(stream)
        before = weight.detach().clone()
        run.optimizer.step(closure)
        run.batches.step()
        assert ((before - weight.detach()) / run.batches.last_lr[0]).tolist() == pytest.approx([1.0] * 3)


# Steps that do not happen.


def test_steps_that_grad_scaler_skips_in_a_fused_optimizer():
    run = Run("fused", more={"eps": 1e-30, "weight_decay": 0.0})
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    stream = iter(run.loader)
    weight = run.weights[0]
    for update in range(24):
        next(stream)
        run.optimizer.zero_grad()
        skipped = update in (0, 5, 6, 15)
        scaler.scale((weight * (torch.inf if skipped else 1.0)).sum()).backward()
        before = weight.detach().clone()
        scaler.step(run.optimizer)
        scaler.update()
        length = ((before - weight.detach()) / run.batches.last_lr[0]).tolist()
        assert length == pytest.approx([0.0 if skipped else 1.0] * 3)
        run.batches.step()
    assert run.batches.state_dict()["bias_correction"][0][0]["steps"] == 20


@pytest.mark.parametrize("after", [False, True], ids=["before the update", "after it"])
def test_a_step_that_raises(after):
    """The optimizer's own count of steps says whether it happened."""
    run = Run("adam", more={"eps": 1e-30})
    grad = torch.ones(3, dtype=torch.float64)
    for _ in range(7):
        run.update([grad])
    lr, groups = run.batches.last_lr[0], run.optimizer.param_groups

    def fails(*_):
        raise ValueError("planted")

    handle = None if not after else run.optimizer.register_step_post_hook(fails)
    if after:
        run.optimizer._optimizer_step_post_hooks.move_to_end(handle.id, last=False)
    next(run.stream)
    with pytest.raises(ValueError, match="planted"):
        run.optimizer.step(None if after else fails)
    if handle:
        handle.remove()
    before = run.weights[0].detach().clone()
    run.optimizer.step()
    run.batches.step()
    assert ((before - run.weights[0].detach()) / lr).tolist() == pytest.approx([1.0] * 3)
    assert run.optimizer.param_groups is groups
    assert groups[0]["betas"] == (0.9, 0.99)
    assert run.batches.state_dict()["bias_correction"][0][0]["steps"] == 8 + after


class Inner(torch.optim.Adam):
    def step(self, closure=None):
        return super().step(closure)


def test_a_step_within_a_step_counts_once(monkeypatch):
    torch.optim.Adam([torch.zeros(1)])  # torch wraps a class when its first instance is made
    monkeypatch.setitem(KINDS, "inner", (Inner, {}))
    run = Run("inner", more={"eps": 1e-30})
    for _ in range(20):
        before = run.weights[0].detach().clone()
        run.update([torch.ones(3, dtype=torch.float64)])
        length = (before - run.weights[0].detach()) / run.batches.last_lr[0]
        assert length.tolist() == pytest.approx([1.0] * 3)
    assert run.batches.state_dict()["bias_correction"][0][0]["steps"] == 20


# States.


@settings(max_examples=40, deadline=None)
@given(
    before=st.integers(0, 29),
    kind=st.sampled_from(["adamw", "foreach", "fused", "tensor-lr"]),
    order=st.permutations(["optimizer", "loader", "batches"]),
    phantom=st.none() | st.integers(0, 2),
)
@example(before=5, kind="adamw", order=["batches", "loader", "optimizer"], phantom=1)  # saved before a beta changed
def test_resume_at_any_update_is_the_unbroken_run(before, kind, order, phantom):
    grads = grads_of(30)
    whole, first, second = Run(kind), Run(kind), Run(kind)
    for grad in grads:
        whole.update([grad])
    for grad in grads[:before]:
        first.update([grad])
    saved = json.loads(json.dumps(first.batches.state_dict()))
    assert saved == first.batches.state_dict()
    state = first.state() | {"batches": saved}
    for place, name in enumerate(order):
        # torch.distributed.checkpoint steps an empty optimizer, wherever its state is asked for. Where the state that
        # is loaded is empty, too, torch's Adam counts that step for good.
        if phantom == place and before:
            phantom_step(second.optimizer)
        second.load(state, [name])
    for grad in grads[before:]:
        second.update([grad])
    assert torch.equal(second.weights[0], whole.weights[0])
    assert second.batches.state_dict() == whole.batches.state_dict()


def phantom_step(optimizer):
    holder = torch.nn.ParameterList([p for group in optimizer.param_groups for p in group["params"]])
    optimizer.zero_grad()
    get_optimizer_state_dict(holder, optimizer)


def test_a_checkpoint_by_torch_distributed_checkpoint(tmp_path):
    def fresh():
        model, loader = model_of(), loader_of(128)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.steps("0:4 12:8 60:16"), coupling="adam_sde()")
        return model, optimizer, loader, batches

    def train(stream, model, optimizer, _, batches):
        for _, batch in zip(range(6), stream, strict=False):
            backward(model, batch)
            optimizer.step()
            batches.step()

    def whole(model, optimizer, loader, batches):
        weights, state = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": state, "loader": loader.state_dict(), "batches": batches.state_dict()}

    one = fresh()
    stream = iter(one[2])
    train(stream, *one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_saver.save(whole(*one), checkpoint_id=tmp_path / "checkpoint")
    saved = one[3].state_dict()
    train(stream, *one)

    other = fresh()
    model, optimizer, loader, batches = other
    target = whole(*other)
    target["batches"] = copy.deepcopy(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state_dict_loader.load(target, checkpoint_id=tmp_path / "checkpoint")
    batches.load_state_dict(target["batches"])
    set_state_dict(model, optimizer, model_state_dict=target["model"], optim_state_dict=target["optimizer"])
    loader.load_state_dict(target["loader"])
    train(iter(loader), *other)
    assert all(torch.equal(a, b) for a, b in zip(one[0].parameters(), model.parameters(), strict=True))
    assert one[3].state_dict() == batches.state_dict()


def test_a_scheduler_resumed_without_the_optimizer_starts_moments_afresh():
    run = Run("adam", more={"eps": 1e-30})
    for _ in range(12):
        run.update([torch.ones(3, dtype=torch.float64)])
    state = run.state()
    fresh = Run("adam", more={"eps": 1e-30})
    fresh.load(state, ["loader", "batches"])
    ratios = []
    for _ in range(10):
        before = fresh.weights[0].detach().clone()
        ratios.append(fresh.update([torch.ones(3, dtype=torch.float64)]))
        length = (before - fresh.weights[0].detach()) / fresh.batches.last_lr[0]
        assert length.tolist() == pytest.approx([1.0] * 3)
    assert ratios == [4] * 3 + [1] * 5 + [3] * 2


def test_an_optimizer_state_that_is_cleared_starts_afresh():
    run = Run("adam", more={"eps": 1e-30})
    for update in range(20):
        if update == 12:
            run.optimizer.state.clear()
        before = run.weights[0].detach().clone()
        run.update([torch.ones(3, dtype=torch.float64)])
        length = (before - run.weights[0].detach()) / run.batches.last_lr[0]
        assert length.tolist() == pytest.approx([1.0] * 3)


def test_states_of_different_checkpoints_are_refused():
    run = Run("adam")
    states = []
    for grad in grads_of(12):
        run.update([grad])
        states.append(run.state())
    run.load(states[-1] | {"optimizer": states[7]["optimizer"]})
    said = "the state of Adam counts 8 steps where the bias correction of BatchSizeScheduler stands at 12; load the"
    with pytest.raises(RuntimeError, match=said):
        run.update([torch.ones(3, dtype=torch.float64)])
    run.load(states[7])
    run.update([torch.ones(3, dtype=torch.float64)])


def test_an_optimizer_state_loaded_alone_is_compared():
    run = Run("adam")
    for grad in grads_of(8):
        run.update([grad])
    saved = run.state()
    run.update(grads_of(1))
    run.optimizer.load_state_dict(saved["optimizer"])
    with pytest.raises(
        RuntimeError, match="counts 8 steps where the bias correction of BatchSizeScheduler stands at 9"
    ):
        run.update(grads_of(1))


def test_a_state_loaded_after_a_step_that_raised_in_parts_keeps_its_groups():
    weights = [torch.zeros(2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
    run = Run("adam", weights=weights)
    for number in range(8):
        run.update([torch.ones(2, dtype=torch.float64), torch.ones(1, dtype=torch.float64) if number % 2 else None])
    saved = run.state()
    next(run.stream)

    def fails():
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        type(run.optimizer).step(run.optimizer, fails)  # past the guard
    assert len(run.optimizer.param_groups) == 2, "the case is there"
    saved["optimizer"]["param_groups"][0]["lr"] = 0.5
    run.optimizer.load_state_dict(saved["optimizer"])
    run.batches.check_next()
    assert [(len(group["params"]), group["lr"]) for group in run.optimizer.param_groups] == [(2, 0.5)]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (0, "must have a `bias_correction` for each of 1 optimizers, got 0"),
        ([], "must have a `bias_correction` for each of 1 optimizers"),
        ([[{"params": [[0, 0]]}]], "`bias_correction` must be what .* gave, got .*'steps'"),
        ([[{"params": [[0, 0]], "steps": -1, "products": [1, 1]}]], "`steps` must be at least 0, got -1"),
        ([[{"params": [[0, 0]], "steps": 1, "products": [1, 1, 1]}]], "`bias_correction` must be what"),
        ([[{"params": [[0, 9]], "steps": 1, "products": [1, 1]}]], "names number 9 of an optimizer that has 1; build"),
    ],
)
def test_damaged_states_are_refused_and_change_nothing(damaged, message):
    run = Run("adam")
    for grad in grads_of(10):
        run.update([grad])
    before = run.batches.state_dict()
    with pytest.raises(ValueError, match=message):
        run.batches.load_state_dict(before | {"bias_correction": damaged})
    assert run.batches.state_dict() == before


def test_a_state_without_the_betas_that_changed_is_refused_and_one_from_before_they_did_loads():
    run, kept = Run("adam"), []
    for grad in grads_of(10):
        kept.append(run.batches.state_dict())
        run.update([grad])
    before = run.batches.state_dict()
    assert "bias_correction" not in kept[0]
    damaged = {key: value for key, value in before.items() if key != "bias_correction"}
    for state in (damaged, before | {"bias_correction": None}):
        with pytest.raises(ValueError, match=r"must have a `bias_correction`, since adam_sde changed betas before sa"):
            run.batches.load_state_dict(state)
    assert run.batches.state_dict() == before
    run.batches.load_state_dict(kept[0])


def test_the_state_says_that_betas_changed_also_where_no_step_was_made():
    run = Run("adam")
    for _ in zip(range(12), run.loader, strict=False):
        run.batches.step()  # skipped, as by a guard against NaN
    state = run.batches.state_dict()
    assert state["bias_correction"] == [[]]
    run.batches.load_state_dict(state)


# What is refused.


class AdamW(torch.optim.Optimizer):
    """Has the name and the betas, but an unknown bias correction."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8})

    def step(self, closure=None):
        return None


def test_an_optimizer_of_the_same_name_whose_bias_correction_is_not_known():
    optimizer = AdamW([torch.zeros(1, requires_grad=True)])
    said = r"needs an optimizer whose bias correction is known: torch.optim.Adam or AdamW, got .*AdamW; use a coupling"
    with pytest.raises(ValueError, match=said):
        ab.BatchSizeScheduler(optimizer, loader_of(), ab.schedules.steps("0:4 8:8"), coupling="adam_sde")
    assert not optimizer._optimizer_step_pre_hooks


def test_growth_that_a_coupling_has_no_values_for_is_refused_at_once():
    optimizer = torch.optim.Adam(model_of().parameters())
    with pytest.raises(ValueError, match=r"got 16 with a beta of 0.9; use `adam_sde\(exponential=True\)`, or let"):
        ab.BatchSizeScheduler(optimizer, loader_of(128), ab.schedules.steps("0:4 8:64"), coupling="adam_sde")
    momentum = torch.optim.SGD(model_of().parameters(), lr=0.1, momentum=1)
    with pytest.raises(
        ValueError, match=r"`momentum` must be less than 1, got 1.0; at 1 the noise of SGD has no value"
    ):
        ab.BatchSizeScheduler(momentum, loader_of(128), ab.schedules.constant(), coupling="constant_noise")


def test_growth_that_a_coupling_has_no_values_for_within_the_cycle_of_the_lr_scheduler_is_refused_at_once():
    growth = ab.schedules.steps("0:4 8:32")
    cycles = {
        "OneCycleLR": lambda made: torch.optim.lr_scheduler.OneCycleLR(made, max_lr=0.1, total_steps=40),
        "CyclicLR": lambda made: torch.optim.lr_scheduler.CyclicLR(made, 0.01, 0.1, base_momentum=0.85),
    }
    for cycle in cycles.values():
        optimizer = torch.optim.Adam(model_of().parameters(), betas=(0.95, 0.999))
        cycle(optimizer)
        optimizer.param_groups[0]["betas"] = (0.95, 0.999)  # as at the start of the cycle
        message = "got 8 with a beta of 0.85; use .* it is the `base_momentum` to which the LR scheduler cycles it"
        with pytest.raises(ValueError, match=message):
            ab.BatchSizeScheduler(optimizer, loader_of(128), growth, coupling="adam_sde")
        ab.BatchSizeScheduler(optimizer, loader_of(128), growth, coupling="adam_sde(exponential=True)")
    momentum = torch.optim.SGD(model_of().parameters(), lr=0.1, momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(momentum, max_lr=0.1, total_steps=40, max_momentum=1.0)
    momentum.param_groups[0]["momentum"] = 0.9
    with pytest.raises(ValueError, match=r"`momentum` must be less than 1, got 1.0; .* it is the `max_momentum` to"):
        ab.BatchSizeScheduler(momentum, loader_of(128), growth, coupling="constant_noise")


# Averages of weights.


def test_ema_decay_follows_the_batch():
    run = Run("adam")
    assert run.batches.ema_decay(0.99) == 0.99
    decays = []
    for grad in grads_of(6):
        run.update([grad])
        decays.append(run.batches.ema_decay(0.99))
    assert decays == pytest.approx([0.99] * 5 + [0.99**2], rel=1e-15), "of the batch before, between batches"
    next(run.stream)
    assert run.batches.ema_decay(0) == 0
    assert run.batches.ema_decay(1) == 1


def test_averaged_weights_forget_after_as_many_samples():
    """A jump of the weights is forgotten by the same share after the same number of samples."""
    shares = []
    for sizes in ("0:4", "0:4 16:8 64:16"):
        run = Run("adam", couplings.none(), sizes=sizes)
        average = torch.optim.swa_utils.AveragedModel(
            torch.nn.ParameterList(run.weights),
            avg_fn=lambda averaged, now, _, run=run: averaged + (1 - run.batches.ema_decay(0.9)) * (now - averaged),
        )
        average.update_parameters(torch.nn.ParameterList([torch.ones(3, dtype=torch.float64)]))
        while run.loader.clock < 160:
            run.update([None])
            average.update_parameters(torch.nn.ParameterList([torch.zeros(3, dtype=torch.float64)]))
        shares.append(next(average.parameters()).tolist())
    assert shares[0] == pytest.approx([0.9 ** (160 / 4)] * 3)
    assert shares[1] == pytest.approx(shares[0])


@pytest.mark.parametrize(("decay", "message"), [(-0.1, "at least 0"), (1.1, "at most 1, got 1.1; published values")])
def test_an_ema_decay_out_of_range(decay, message):
    with pytest.raises(ValueError, match=f"`decay` must be {message}"):
        Run("adam").batches.ema_decay(decay)


@pytest.mark.parametrize("before", [4, 5, 6, 20])
def test_a_state_that_was_forgotten_is_noticed(before):
    first, second = Run(), Run()
    for grad in grads_of(before):
        first.update([grad])
    state = first.state()
    with torch.no_grad():
        second.load(state | {"batches": second.batches.state_dict()}, ["optimizer", "loader"])
    if before <= 5:  # no beta had changed: there is nothing to forget
        second.update(grads_of(1))
        return
    with pytest.raises(RuntimeError, match=r"`load_state_dict` of BatchSizeScheduler must be called before .* sample"):
        second.update(grads_of(1))
    fresh = Run()
    fresh.load(state, ["loader"])  # an optimizer that begins anew needs no past
    fresh.update(grads_of(1))
