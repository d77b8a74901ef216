"""The lines to paste into a training script."""

from __future__ import annotations

from typing import Final

from adabatch import _checks
from adabatch._errors import ArgumentError

_TORCH: Final = "torch.optim.lr_scheduler"


def emit_python(
    lr_schedule: str,
    *,
    dataset_size: int,
    epochs: int,
    batch_size: int,
    maximum: int | None = None,
    round_to: int = 1,
    rule: str = "smith",
) -> str:
    """Three lines for a script that has `torch`, `adabatch as ab`, an `optimizer` and a `loader`.

    The LR scheduler of the first line is stepped once per epoch, `batches.step()` comes after each optimizer step.

    Args:
        lr_schedule: text as `adabatch train --lr-schedule` reads it.
        dataset_size: samples in an epoch.
        epochs: length of the training.
        batch_size: the loader's.
        maximum: the largest batch size; None for a tenth of the data set.
        round_to: sizes are multiples of it.
        rule: how falls of the LR become growth.

    Returns:
        The lines.

    Raises:
        ValueError: if a number or the text is out of range.

    Example:
        >>> print(emit_python("cosine", dataset_size=50_000, epochs=90, batch_size=128, maximum=2048))
        lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
        growth = ab.from_lr_scheduler(lr_scheduler, dataset_size=50000, epochs=90, batch_size=128, maximum=2048)
        batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling=growth.coupling, epochs=90)
    """
    from adabatch.lab.training import lr_schedule as lr_text  # loads torch

    lr_text.check(lr_schedule)
    numbers = {"dataset_size": dataset_size, "epochs": epochs, "batch_size": batch_size}
    settings = [f"{name}={_checks.whole(name, value)}" for name, value in numbers.items()]
    settings += [] if maximum is None else [f"maximum={_checks.whole('maximum', maximum)}"]
    settings += [] if round_to == 1 else [f"round_to={_checks.whole('round_to', round_to)}"]
    settings += [] if rule == "smith" else [f'rule="{rule}"']
    return "\n".join(
        (
            f"lr_scheduler = {_scheduler(lr_schedule, epochs)}",
            f"growth = ab.from_lr_scheduler(lr_scheduler, {', '.join(settings)})",
            f"batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling=growth.coupling, epochs={epochs})",
        )
    )


def _scheduler(text: str, epochs: int) -> str:
    warmup, plus, body = text.rpartition("+")
    made = _body(body, epochs)
    if not plus:
        return made
    _, count, *share = warmup.split(":")
    start = repr(float(share[0])) if share else f"1 / {int(count) + 1}"
    first = f"{_TORCH}.LinearLR(optimizer, start_factor={start}, total_iters={int(count)})"
    return f"{_TORCH}.ChainedScheduler([{first}, {made}])"


def _body(body: str, epochs: int) -> str:
    match body.split(":"):
        case ["step", factor, every]:
            return f"{_TORCH}.StepLR(optimizer, step_size={int(every)}, gamma={float(factor)!r})"
        case ["milestones", factor, listed]:
            milestones = [int(item) for item in listed.split(",")]
            return f"{_TORCH}.MultiStepLR(optimizer, milestones={milestones}, gamma={float(factor)!r})"
        case ["exponential", factor]:
            return f"{_TORCH}.ExponentialLR(optimizer, gamma={float(factor)!r})"
        case ["cosine"]:
            return f"{_TORCH}.CosineAnnealingLR(optimizer, T_max={epochs})"
        case ["onecycle"]:
            peaks = 'max_lr=[group["lr"] for group in optimizer.param_groups]'
            return f"{_TORCH}.OneCycleLR(optimizer, {peaks}, total_steps={max(2, epochs)}, cycle_momentum=False)"
        case ["wsd", count]:
            down = f"({epochs} - e) / ({epochs + 1} - e) if e >= {epochs - int(count)} else 1.0"
            return f"{_TORCH}.MultiplicativeLR(optimizer, lambda e: {down})"
        case ["constant"]:
            return f"{_TORCH}.ConstantLR(optimizer, factor=1.0)"
        case _:
            raise ArgumentError(
                "lr_schedule", "must be one that can be written in Python", value=body, remedy="use another"
            )
