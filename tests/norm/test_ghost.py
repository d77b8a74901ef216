"""Ghost batch norm against a naive loop over sub-batches, and how it takes the place of batch norm."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adabatch.lab import models
from adabatch.norm import ghost

KINDS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def sub_batches(samples: int, size: int) -> list[list[int]]:
    """Which samples form a sub-batch, as the documentation says, one by one."""
    count, rest = max(samples // size, 1), samples % size
    if samples < 2 * size:
        return [list(range(samples))]
    strided = count if not rest else count - 1
    inside = strided * size
    found = [[i for i in range(inside) if i % strided == k] for k in range(strided)]
    return found + ([list(range(inside, samples))] if rest else [])


def naive(layer: nn.Module, x: Tensor, size: int) -> Tensor:
    """The ordinary layer, called for one sub-batch after the other."""
    output = torch.empty_like(x)
    for chosen in sub_batches(len(x), size):
        output = output.index_copy(0, torch.tensor(chosen), layer(x[chosen]))
    return output


def filled(layer: nn.Module) -> nn.Module:
    """The layer in double precision, with other than the initial values."""
    layer = layer.double()
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
    return layer


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(4, 40),
    size=st.integers(2, 12),
    dims=st.sampled_from([1, 2, 3]),
    momentum=st.sampled_from([0.1, 0.5, 1.0, None]),
    affine=st.booleans(),
    track=st.booleans(),
    last=st.booleans(),
    channels=st.sampled_from([2, 3, 700]),
)
def test_equals_a_loop_over_sub_batches(
    samples: int, size: int, dims: int, momentum: float | None, affine: bool, track: bool, last: bool, channels: int
) -> None:
    shape = (samples, channels, *(2, 3, 2)[: 0 if dims == 1 else dims])
    layer = filled(KINDS[dims](channels, momentum=momentum, affine=affine, track_running_stats=track))
    fast = ghost(copy.deepcopy(layer), size=size)
    other = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    x = (
        other.detach()
        .clone(memory_format=LAST[dims] if last and dims > 1 else torch.contiguous_format)
        .requires_grad_()
    )
    weights = torch.randn(shape, dtype=torch.float64)
    for _ in range(2):
        expected, found = naive(layer, other, size), fast(x)
        torch.testing.assert_close(found, expected, check_stride=False)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, check_stride=False)
    for mine, theirs in zip(fast.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(fast.buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_closed_form_of_the_running_mean() -> None:
    """Three sub-batches of means 1, 2 and 4, momentum 1/4, from 8: 8 (3/4)^3 + 1/4 (1 (3/4)^2 + 2 (3/4) + 4)."""
    layer = ghost(nn.BatchNorm1d(1, momentum=0.25), size=2)
    layer.running_mean.fill_(8)
    x = torch.tensor([0.0, 0.0, 0.0, 2.0, 4.0, 8.0])[:, None]  # sub-batches (0, 2), (0, 4), (0, 8)
    layer(x)
    assert layer.running_mean.item() == pytest.approx(8 * 0.75**3 + 0.25 * (0.75**2 + 2 * 0.75 + 4))
    assert layer.num_batches_tracked.item() == 3


@pytest.mark.parametrize("samples", [5, 8, 15])
def test_is_ordinary_batch_norm_bit_for_bit_below_two_sub_batches(samples: int) -> None:
    layer = nn.BatchNorm2d(4)
    fast = ghost(copy.deepcopy(layer), size=8)
    x = torch.randn(samples, 4, 3, 3, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    weights = torch.randn_like(x)
    found, expected = fast(x), layer(other)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(x.grad, other.grad)
    for name, value in layer.state_dict().items():
        assert torch.equal(fast.state_dict()[name], value)


def test_one_call_for_all_sub_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = nn.functional.batch_norm

    def counted(*args, **kwargs):
        calls.append(args[0].shape)
        return real(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "batch_norm", counted)
    layer = ghost(nn.BatchNorm2d(3), size=4)
    layer(torch.randn(32, 3, 2, 2))
    layer(torch.randn(34, 3, 2, 2))
    assert calls == [(4, 24, 2, 2), (4, 21, 2, 2), (6, 3, 2, 2)]


def test_the_statistics_keep_their_noise_while_the_batch_grows() -> None:
    """Channel means of the output are 0 within each sub-batch, so the noise is that of the small batch."""
    layer = ghost(nn.BatchNorm2d(2, affine=False), size=16)
    y = layer(torch.randn(64, 2, 4, 4) + torch.arange(64.0)[:, None, None, None])
    for chosen in sub_batches(64, 16):
        torch.testing.assert_close(y[chosen].mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)


def test_evaluation_is_ordinary() -> None:
    layer = nn.BatchNorm2d(3).train()
    layer(torch.randn(8, 3, 2, 2))
    fast = ghost(copy.deepcopy(layer), size=2).eval()
    x = torch.randn(8, 3, 2, 2)
    assert torch.equal(fast(x), layer.eval()(x))
    assert fast.num_batches_tracked.item() == 1
    bare = nn.BatchNorm2d(3, track_running_stats=False)
    assert torch.equal(ghost(copy.deepcopy(bare), size=2).eval()(x), bare.eval()(x))


def test_checkpoints_fit_both_ways() -> None:
    plain = models.build("resnet20", in_channels=3, image_size=32, classes=10)
    fast = ghost(models.build("resnet20", in_channels=3, image_size=32, classes=10), size=4)
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast.load_state_dict(plain.state_dict())
    fast(torch.randn(8, 3, 32, 32))
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.eval()(x), fast.eval()(x))


def test_every_layer_of_a_network_is_exchanged_and_parameters_stay_the_same_objects() -> None:
    model = models.build("wrn16_4", in_channels=3, image_size=32, classes=10)
    before = [id(tensor) for tensor in [*model.parameters(), *model.buffers()]]
    assert ghost(model, size=32) is model
    assert [id(tensor) for tensor in [*model.parameters(), *model.buffers()]] == before
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(layers) == 13
    assert all(layer.size == 32 for layer in layers)


def test_hooks_mode_and_shared_layers_are_kept() -> None:
    shared = nn.BatchNorm1d(2).eval()
    seen = []
    shared.register_forward_hook(lambda *_: seen.append(1))
    model = ghost(nn.ModuleList([shared, nn.Sequential(shared), nn.BatchNorm1d(2)]), size=2)
    assert model[0] is model[1][0]
    assert not model[0].training
    model[0](torch.randn(4, 2))
    assert seen == [1]


def test_copies_and_pickles() -> None:
    layer = ghost(nn.BatchNorm2d(3), size=4)
    file = io.BytesIO()
    torch.save(copy.deepcopy(layer), file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = torch.randn(8, 3, 2, 2)
    assert torch.equal(again(x), layer(x))
    assert repr(again).endswith("track_running_stats=True, size=4)")


@pytest.mark.parametrize("samples", [7, 16, 18])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_memory_format_is_kept(samples: int, dims: int) -> None:
    layer = ghost(KINDS[dims](3), size=4)
    x = torch.randn(samples, 3, *(4, 3, 2)[:dims], requires_grad=True)
    last = x.detach().contiguous(memory_format=LAST[dims]).requires_grad_()
    layer(x).sum().backward()
    assert layer(x).is_contiguous()
    assert x.grad.is_contiguous()
    layer(last).sum().backward()
    assert layer(last).is_contiguous(memory_format=LAST[dims])
    assert last.grad.is_contiguous(memory_format=LAST[dims])


class Made(TorchDispatchMode):
    """Notes the operations that make a tensor of `numbers` numbers or more."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.names = numbers, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {each.data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.numel() >= self.numbers and each.data_ptr() not in given:
                self.names.append(func.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("last", [False, True])
def test_nothing_as_large_as_the_batch_is_made_but_the_output_and_the_gradient(last: bool) -> None:
    layer = ghost(nn.BatchNorm2d(4), size=8)
    x = torch.randn(32, 4, 64, 64).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    x.requires_grad_()
    weights = torch.randn_like(x)
    with Made(x.numel()) as forward:
        y = layer(x)
    with Made(x.numel()) as backward:
        y.backward(weights)
    names = ["empty_like", "addcmul"] if last else ["native_batch_norm", "native_batch_norm_backward"]
    assert [name for name in forward.names + backward.names if name != "detach"] == names


@pytest.mark.parametrize("last", [False, True])
def test_no_loop_over_sub_batches(last: bool) -> None:
    """As many operations for 16 sub-batches as for 2."""
    found = []
    for samples in (8, 64):
        layer = ghost(nn.BatchNorm2d(4), size=4)
        x = torch.randn(samples, 4, 8, 8).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
        x.requires_grad_()
        weights = torch.randn_like(x)
        with Made(0) as made:
            layer(x).backward(weights)
        found.append(made.names)
    assert len(found[0]) > 10
    assert found[0] == found[1]


@pytest.mark.parametrize("last", [False, True])
def test_what_follows_may_work_in_place(last: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ghost(nn.BatchNorm2d(4), size=4), nn.ReLU(inplace=True))
    twin = nn.Sequential(nn.Conv2d(3, 4, 1), ghost(nn.BatchNorm2d(4), size=4), nn.ReLU())
    twin.load_state_dict(model.state_dict())
    x = torch.randn(16, 3, 4, 5).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    for network in (model, twin):
        (network(x) ** 2).sum().backward()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
@pytest.mark.parametrize("last", [False, True])
def test_is_as_exact_as_ordinary_batch_norm_however_far_the_mean_lies_from_0(mean: float, last: bool) -> None:
    plain = nn.BatchNorm2d(5)
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
    x = torch.randn(64, 5, 7, 9) + mean
    weights = torch.randn_like(x) + 1

    def errors(layer: nn.Module) -> list[float]:
        """Of output, running statistics and gradients, against double precision."""
        found = []
        for kind in (torch.float32, torch.float64):
            twin = copy.deepcopy(layer).to(kind)
            here = x.to(kind, memory_format=LAST[2] if last else torch.contiguous_format, copy=True).requires_grad_()
            y = twin(here)
            (y * weights.to(kind)).sum().backward()
            found.append([y, here.grad, twin.weight.grad, twin.bias.grad, twin.running_mean, twin.running_var])
        with torch.no_grad():
            return [float((mine - exact).abs().max() / exact.abs().max()) for mine, exact in zip(*found, strict=True)]

    ours = errors(ghost(copy.deepcopy(plain), size=16))
    for mine, theirs in zip(ours, errors(plain), strict=True):
        assert mine <= 4 * theirs + 1e-6


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # in torch's own jvp
@pytest.mark.parametrize("last", [False, True])
def test_torchs_function_transforms(last: bool) -> None:
    layer = ghost(nn.BatchNorm2d(3, track_running_stats=False), size=4)
    x = torch.randn(8, 3, 2, 5).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    parameters = {name: each.detach() for name, each in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return (torch.func.functional_call(layer, parameters, (x,)) ** 3).sum()

    found, of_x = torch.func.grad(loss, argnums=(0, 1))(parameters, x)
    x.requires_grad_()
    loss(dict(layer.named_parameters()), x).backward()
    torch.testing.assert_close(found, {name: each.grad for name, each in layer.named_parameters()})
    torch.testing.assert_close(of_x, x.grad)
    tangent = torch.randn_like(x)
    _, along = torch.func.jvp(lambda x: loss(parameters, x), (x.detach(),), (tangent,))
    torch.testing.assert_close(along, (of_x * tangent).sum())
    several = {name: torch.stack([each, 2 * each]) for name, each in parameters.items()}
    both = torch.func.vmap(loss, in_dims=({"weight": 0, "bias": 0}, None))(several, x.detach())
    torch.testing.assert_close(both[0], loss(parameters, x.detach()))


@pytest.mark.parametrize("samples", [8, 10])
@pytest.mark.parametrize("last", [False, True])
def test_compiled_it_is_the_same(samples: int, last: bool) -> None:
    layer = ghost(filled(nn.BatchNorm2d(3)), size=4)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    x = torch.randn(samples, 3, 4, 5, dtype=torch.float64)
    mine, theirs = (x.clone(memory_format=LAST[2] if last else None).requires_grad_() for _ in range(2))
    y, expected = compiled(mine), layer(theirs)
    torch.testing.assert_close(y, expected, check_stride=False)
    (y**3).sum().backward()
    (expected**3).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, check_stride=False)
    torch.testing.assert_close(dict(twin.named_buffers()), dict(layer.named_buffers()))
    for found, wished in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wished.grad)


@pytest.mark.parametrize("last", [False, True])
def test_low_precision_inputs_keep_statistics_in_full_precision(last: bool) -> None:
    layer = ghost(nn.BatchNorm2d(3), size=4)
    x = torch.randn(16, 3, 4, 4).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    reference = ghost(nn.BatchNorm2d(3), size=4)
    reference(x.bfloat16().float())
    assert layer.running_var.dtype == torch.float32
    torch.testing.assert_close(layer.running_var, reference.running_var)
    torch.testing.assert_close(layer.running_mean, reference.running_mean)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("samples", [16, 18])
@pytest.mark.parametrize("last", [False, True])
def test_half_precision_goes_wherever_ordinary_batch_norm_does(
    kind: torch.dtype, affine: bool, track: bool, samples: int, last: bool
) -> None:
    plain = nn.BatchNorm2d(3, affine=affine, track_running_stats=track)
    layer = ghost(copy.deepcopy(plain), size=4)
    x = torch.randn(samples, 3, 4, 4).to(kind, memory_format=LAST[2] if last else torch.contiguous_format)
    x.requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype) == (plain(x).dtype, kind) == (kind, kind)
    torch.testing.assert_close(y, expected_in_half(plain, x, last=last), check_stride=False)


def expected_in_half(plain: nn.Module, x: Tensor, *, last: bool) -> Tensor:
    """By the naive loop; in channels_last statistics are in single precision even where torch has them in half."""
    if last:
        return naive(copy.deepcopy(plain).float(), x.float(), 4).to(x.dtype)
    return naive(plain, x, 4)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("last", [False, True])
def test_a_layer_in_half_precision(track: bool, last: bool) -> None:
    plain = nn.BatchNorm2d(3, track_running_stats=track).bfloat16()
    x = torch.randn(16, 3, 4, 4).bfloat16().contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    layer = ghost(copy.deepcopy(plain), size=4)
    found, expected = layer(x), expected_in_half(plain, x, last=last)
    torch.testing.assert_close(found, expected, check_stride=False)
    if last:
        naive(plain, x, 4)  # for the buffers
    gradient = torch.autograd.grad(found.float().square().sum(), layer.weight, create_graph=True)
    gradient[0].sum().backward()
    assert {each.grad.dtype for each in layer.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(dict(layer.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [32, 1024])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_half_precision_are_summed_in_single_precision(kind: torch.dtype, size: int, last: bool) -> None:
    x = torch.randn(2 * size, 4, 3, 3).relu().to(kind)
    dy = (torch.randn(2 * size, 4, 3, 3) * 0.1 + 1).to(kind)
    plain = nn.BatchNorm2d(4)
    found = []
    memory_format = LAST[2] if last else torch.contiguous_format
    for wide in (False, True):
        layer = ghost(copy.deepcopy(plain).double() if wide else copy.deepcopy(plain), size=size)
        here = x.to(torch.float64 if wide else kind, memory_format=memory_format, copy=True).requires_grad_()
        layer(here).backward(dy.to(here.dtype))
        found.append((here.grad, layer.weight.grad, layer.bias.grad))
    for mine, exact, bound in zip(*found, (2e-2, 5e-3, 1e-5), strict=True):
        assert float((mine.double() - exact).norm() / exact.norm()) < bound


@pytest.mark.parametrize("last", [False, True])
def test_a_channel_without_spread_has_no_gradient_of_its_weight(last: bool) -> None:
    layer = ghost(nn.BatchNorm2d(4), size=16)
    x = torch.full((64, 4, 5, 5), 100.0).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    layer(x).backward(torch.randn_like(x) + 10)
    assert layer.weight.grad.tolist() == [0.0] * 4


@pytest.mark.parametrize("last", [False, True])
def test_channels_other_than_the_layers(last: bool) -> None:
    layer = ghost(nn.BatchNorm2d(1, track_running_stats=False), size=4)
    x = torch.randn(8, 3, 4, 4).contiguous(memory_format=LAST[2] if last else torch.contiguous_format)
    for each in (layer, torch.compile(layer, backend="eager")):
        with pytest.raises(Exception, match="weight"):
            each(x)


def test_sub_batches_of_one_sample() -> None:
    message = "`size` must be at least 2 for BatchNorm1d, .* got 1 for the layer 1; take 128"
    with pytest.raises(ValueError, match=message):
        ghost(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(4)), size=1)
    for memory_format in (torch.contiguous_format, LAST[2]):
        x = torch.randn(3, 2, 4, 4).contiguous(memory_format=memory_format)
        layer = nn.BatchNorm2d(2)
        torch.testing.assert_close(ghost(copy.deepcopy(layer), size=1)(x), naive(layer, x, 1), check_stride=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_one_number_for_each_channel(compiled: bool) -> None:
    layer = ghost(nn.BatchNorm2d(2), size=1)
    layer = torch.compile(layer, backend="eager") if compiled else layer
    with pytest.raises(Exception, match="Expected more than 1 value per channel when training"):
        layer(torch.randn(3, 2, 1, 1))


def test_applied_twice() -> None:
    model = ghost(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))
    with pytest.raises(ValueError, match=r"`model` must not have ghost batch norm already, got a layer with it: 0; to"):
        ghost(model)
    half = nn.Sequential(nn.BatchNorm1d(2), model)
    with pytest.raises(ValueError, match="ghost batch norm already"):
        ghost(half)
    assert type(half[0]) is nn.BatchNorm1d  # nothing was changed


def test_nothing_to_exchange() -> None:
    with pytest.raises(ValueError, match="`model` must have batch norm layers, got Linear without any"):
        ghost(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.SyncBatchNorm(2), "SyncBatchNorm: 0; leave out `convert_sync_batchnorm`"),
        (nn.LazyBatchNorm1d(), "LazyBatchNorm1d: 0; run one batch through the model first"),
        (type("Own", (nn.BatchNorm1d,), {})(2), "got Own: 0; exchange it yourself"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_layers_of_other_kinds(layer: nn.Module, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ghost(nn.Sequential(layer))


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_sizes_that_are_none(size: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"`size` must be (at least 1|a whole number), got"):
        ghost(nn.BatchNorm1d(2), size=size)


def test_inputs_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        ghost(nn.BatchNorm2d(3), size=2)(torch.randn(8, 3))
