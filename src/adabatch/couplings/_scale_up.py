"""A larger start: the initial LR and the momentum raised, and the batch with them."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from adabatch import _checks
from adabatch._errors import ArgumentError


class ScaledStart(NamedTuple):
    """The numbers that training starts with.

    Attributes:
        lr: learning rate.
        momentum: of SGD.
        batch_size: in samples.
    """

    lr: float
    momentum: float
    batch_size: int


def scale_up(
    *,
    lr: float,
    batch_size: int,
    momentum: float = 0.0,
    to_lr: float | None = None,
    to_momentum: float | None = None,
    round_to: int = 1,
) -> ScaledStart:
    """Raises the initial LR and the momentum at a constant noise scale, by a larger batch.

        noise scale g = lr N / (B (1 - m)),  so  B grows as lr and as 1 / (1 - m)

    Numbers count as the decimals that they print as. If the batch is rounded, the LR returned changes in proportion, so
    the noise scale is kept exactly.

    Args:
        lr: learning rate so far, above 0.
        batch_size: in samples, so far.
        momentum: of SGD so far, from 0 and below 1.
        to_lr: the new learning rate, at least `lr`; None keeps it.
        to_momentum: the new momentum, at least `momentum` and below 1; None keeps it.
        round_to: the batch size becomes a multiple of this number.

    Returns:
        The new start.

    Raises:
        ValueError: if a number is out of range, or the new LR or momentum is lower than it was.
        TypeError: if a number is not one.

    Example:
        >>> scale_up(lr=0.1, momentum=0.9, batch_size=128, to_lr=0.5)
        ScaledStart(lr=0.5, momentum=0.9, batch_size=640)
        >>> scale_up(lr=0.1, momentum=0.9, batch_size=128, to_lr=0.5, to_momentum=0.98)
        ScaledStart(lr=0.5, momentum=0.98, batch_size=3200)

    Source:
        Smith, Kindermans, Ying, Le 2017, arXiv 1711.00489, section 5.2. The paper advises to raise the LR first, up to
        where training stays stable, and the momentum last: after a change of the momentum the velocity takes longer to
        build up, and its run with 0.98 had not converged in its epochs.
    """
    old_lr, old_m = _exact("lr", lr, above=0), _momentum("momentum", momentum)
    size, multiple = _checks.whole("batch_size", batch_size), _checks.whole("round_to", round_to)
    new_lr = old_lr if to_lr is None else _exact("to_lr", to_lr, above=0)
    new_m = old_m if to_momentum is None else _momentum("to_momentum", to_momentum)
    for name, new, old in (("to_lr", new_lr, old_lr), ("to_momentum", new_m, old_m)):
        if new < old:
            raise ArgumentError(
                name,
                f"must be at least {float(old):g}, the value so far",
                got=f"{float(new):g}",
                remedy="this raises a start, it does not lower one",
            )
    wanted = size * (new_lr / old_lr) * (1 - old_m) / (1 - new_m)
    rounded = max((2 * wanted / multiple + 1) // 2, 1) * multiple
    return ScaledStart(float(new_lr * rounded / wanted), float(new_m), int(rounded))


def _exact(name: str, value: float, *, above: float) -> Fraction:
    return Fraction(repr(_checks.finite(name, value, above=above)))


def _momentum(name: str, value: float) -> Fraction:
    return Fraction(repr(_checks.finite(name, value, minimum=0, below=1, remedy="at 1 the velocity never decays")))
