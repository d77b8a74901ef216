"""A noisy quadratic with a set Hessian and set noise: the loss that training will reach can be computed.

The loss of a sample `x` is `1/2 (theta - x)^T H (theta - x)` with `H = diag(h)` and `x ~ N(0, diag(c / h^2))`. So a
sample's gradient is `h (theta - x)`: its mean is `h theta`, its covariance `diag(c)`. The test set is the one sample 0,
so that the test loss is the expected excess loss `1/2 theta^T H theta`.

Samples are drawn when they are needed, by the run's seed and the clock. So no pass repeats one, and runs of other seeds
have other noise.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adabatch import _checks, _devices
from adabatch._errors import ArgumentError
from adabatch.lab.tasks.augment import normals
from adabatch.lab.tasks.task import Data

DIMENSIONS: Final = 256  # so many that the loss of one training is near its expectation
HESSIAN: Final = tuple(32 ** (-n / (DIMENSIONS - 1)) for n in range(DIMENSIONS))  # h, from 1 to 1/32
NOISE: Final = tuple(2 * h for h in HESSIAN)  # c
START: Final = 1.0  # of each coordinate of theta, see `adabatch.lab.models.quadratic`
SAMPLES: Final = 2**14
TOLERANCE: Final = 0.1  # excess loss that counts as reached; it is 35.9 at the start

_Floats = npt.NDArray[np.float64]


def load(data: Path | str | None = None) -> Data:
    """A noisy quadratic in 256 dimensions, with epochs of 16,384 samples.

    Args:
        data: must be None; samples are drawn.

    Returns:
        The numbers of the samples, which `transform` replaces by samples, with targets of 0 that nothing reads.

    Raises:
        ValueError: if a data folder is given.
    """
    if data is not None:
        raise ArgumentError("data", "must not be given for quadratic", value=str(data), remedy="its samples are drawn")
    spread = tuple(float(np.sqrt(c) / h) for h, c in zip(HESSIAN, NOISE, strict=True))
    return Data(
        x_train=torch.arange(SAMPLES),
        y_train=torch.zeros(SAMPLES, dtype=torch.int64),
        x_test=torch.zeros(1, dtype=torch.int64),
        y_test=torch.zeros(1, dtype=torch.int64),
        classes=1,
        note=f"{SAMPLES:,} new samples in {DIMENSIONS} dimensions for each epoch, drawn by seed and clock",
        transform=Samples(spread),
        objective=Excess(HESSIAN, tolerance=TOLERANCE),
    )


@dataclass(frozen=True, slots=True)
class Samples:
    """Draws a sample for each place of the data: independent normal numbers around 0.

    Args:
        std: of each coordinate.
    """

    std: tuple[float, ...]
    on_device: bool = field(default=True, init=False)

    @property
    def shape(self) -> Mapping[str, int]:
        """The arguments of `models.build` that describe the samples."""
        return {"dimensions": len(self.std)}

    def to(self, device: Any) -> Samples:  # noqa: ARG002
        """Itself: its samples are on the device of the numbers."""
        return self

    def train(self, inputs: Tensor, *, seed: int, clock: int, stride: int = 1) -> Tensor:
        """Samples, float32 `[samples, dimensions]`, in place of their numbers."""
        drawn = normals(len(self.std), seed=seed, clock=clock, stride=stride, count=len(inputs), name="quadratic")
        return _devices.sent(
            (drawn * _values(self.std, drawn)).float(),
            inputs.device,
        )

    def test(self, inputs: Tensor) -> Tensor:
        """The sample 0, as often as there are numbers."""
        return torch.zeros(len(inputs), len(self.std), device=inputs.device)


@dataclass(frozen=True, slots=True)
class Excess:
    """The loss `1/2 d^T H d` of differences `d = theta - x`; right is one at most `tolerance`.

    Args:
        hessian: the diagonal of `H`.
        tolerance: the loss up to which a sample counts as right.

    Example:
        >>> aim, differences = Excess((2.0, 1.0), tolerance=1.0), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> aim.loss(differences, torch.zeros(2)).item(), aim.right(differences, torch.zeros(2)).tolist()
        (2.0, [True, False])
    """

    hessian: tuple[float, ...]
    tolerance: float

    def smoothed(self, label_smoothing: float) -> Excess:
        """Itself.

        Raises:
            ValueError: if `label_smoothing` is not 0.
        """
        if label_smoothing:
            rule, got = "must be left out where targets are no classes", f"{label_smoothing:g}"
            raise ArgumentError("label_smoothing", rule, got=got)
        return self

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """The mean over the samples of differences, `[samples, dimensions]`."""
        return self._of_each(scores).mean()

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Whether the loss of each sample is at most the tolerance."""
        return self._of_each(scores) <= self.tolerance

    def counted(self, targets: Tensor) -> Tensor:
        """True for each sample."""
        return torch.ones_like(targets, dtype=torch.bool)

    def chance(self, targets: Tensor) -> None:  # noqa: ARG002
        """None: there is nothing to guess."""
        return

    def _of_each(self, differences: Tensor) -> Tensor:
        return 0.5 * (differences.square() * _values(self.hessian, differences)).sum(dim=1)


def _values(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values in the type of a tensor, where it lies."""
    return _tensor(values, like.dtype, like.device, _devices.stream_of(like.device))


@functools.lru_cache(maxsize=16)
def _tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device, stream: Any) -> Tensor:
    """The values on a device, for one stream, since another would have to wait for them."""
    del stream
    return _devices.sent(torch.tensor(values, dtype=dtype, device="cpu"), device)


def expected_loss(
    lr: npt.ArrayLike,
    batch_size: npt.ArrayLike,
    *,
    momentum: npt.ArrayLike = 0.0,
    hessian: npt.ArrayLike = HESSIAN,
    noise: npt.ArrayLike = NOISE,
    start: npt.ArrayLike = START,
    velocity: npt.ArrayLike = 0.0,
) -> _Floats:
    """The expected excess loss after each update of SGD with momentum, computed without drawing a sample.

    With `v <- m v + g` and `theta <- theta - lr v` (torch's SGD without dampening), each coordinate has its own second
    moments `a = E[theta^2]`, `b = E[theta v]`, `q = E[v^2]`, which follow exactly from those before:

        q' = m^2 q + 2 m h b + h^2 a + c / B
        p  = E[theta v'] = m b + h a
        a' = a - 2 lr p + lr^2 q'
        b' = p - lr q'

    The expected excess loss is `1/2 sum h a`.

    Args:
        lr: the LR of each update, `[updates, ...]`; further dimensions are other trainings, computed at once.
        batch_size: of each update, or of all; broadcast to the shape of `lr`.
        momentum: in [0, 1); of each training, broadcast to `lr.shape[1:]`.
        hessian: `h`, the diagonal of the Hessian, above 0, `[dimensions]`.
        noise: `c`, the variances of a sample's gradient, from 0 on, `[dimensions]`.
        start: `theta` before the first update, broadcast to `[dimensions]`.
        velocity: `v` before the first update, broadcast to `[dimensions]`.

    Returns:
        The loss after each update, float64, in the shape of `lr`; it is infinite or NaN where training diverges.

    Raises:
        ValueError: if a number is out of range, or shapes do not fit.

    Example:
        >>> expected_loss([0.5, 0.5], 4, hessian=[1.0], noise=[4.0]).tolist()
        [0.25, 0.1875]
    """
    lrs, sizes, m, h, c, theta, v = _numbers(lr, batch_size, momentum, hessian, noise, start, velocity)
    a, b, q = (np.broadcast_to(one, (*lrs.shape[1:], len(h))).copy() for one in (theta**2, theta * v, v**2))
    losses = np.empty(lrs.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        for update, (rate, size) in enumerate(zip(lrs[..., None], sizes[..., None], strict=True)):
            q = m * m * q + 2 * m * h * b + h * h * a + c / size
            p = m * b + h * a
            a = a - 2 * rate * p + rate * rate * q
            b = p - rate * q
            losses[update] = 0.5 * (a @ h)
    return losses


def _numbers(
    lr: npt.ArrayLike,
    batch_size: npt.ArrayLike,
    momentum: npt.ArrayLike,
    hessian: npt.ArrayLike,
    noise: npt.ArrayLike,
    start: npt.ArrayLike,
    velocity: npt.ArrayLike,
) -> tuple[_Floats, ...]:
    """The arguments of `expected_loss` as arrays that fit, checked."""
    lrs, h = np.asarray(lr, dtype=float), np.asarray(hessian, dtype=float)
    if not lrs.ndim or not lrs.size:
        raise ArgumentError("lr", "must be an array `[updates, ...]`", got=f"the shape {lrs.shape}")
    if h.ndim != 1 or not h.size:
        raise ArgumentError("hessian", "must be an array `[dimensions]`", got=f"the shape {h.shape}")
    found = {"lr": lrs, "hessian": h}
    shapes = {"batch_size": lrs.shape, "momentum": lrs.shape[1:], "noise": h.shape}
    shapes |= {"start": h.shape, "velocity": h.shape}
    for name, value in zip(shapes, (batch_size, momentum, noise, start, velocity), strict=True):
        given = np.asarray(value, dtype=float)
        try:
            found[name] = np.broadcast_to(given, shapes[name])
        except ValueError:
            raise ArgumentError(name, f"must fit the shape {shapes[name]}", got=f"the shape {given.shape}") from None
    rules: dict[str, dict[str, Any]] = {
        "lr": {"minimum": 0}, "batch_size": {"minimum": 1}, "momentum": {"minimum": 0, "below": 1},
        "hessian": {"above": 0}, "noise": {"minimum": 0}, "start": {}, "velocity": {},
    }  # fmt: skip
    for name, rule in rules.items():
        for end in (found[name].min(), found[name].max()):
            _checks.finite(name, float(end), **rule)
    sizes, m = found["batch_size"], found["momentum"][..., None]
    return lrs, sizes, m, h, found["noise"], found["start"], found["velocity"]
