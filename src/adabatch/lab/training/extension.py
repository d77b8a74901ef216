"""Whether a run may train for more epochs than it was begun with."""

from __future__ import annotations

from adabatch._errors import ArgumentError
from adabatch.lab.training import lr_schedule
from adabatch.lab.training.config import RunConfig


def check(config: RunConfig, began: RunConfig, *, epochs: int) -> None:
    """Checks that what is trained already is as if the run had been begun with as many epochs as it is to have now.

    That is so where the LRs are the same, which batch sizes follow too where a rule makes them of the LRs.

    Args:
        config: the settings now.
        began: those that the run had when it was saved, which may differ in the number of epochs alone.
        epochs: how many are completed.

    Raises:
        ValueError: if an LR up to the place reached depends on the length of the training.
    """
    if config.epochs == began.epochs:
        return
    before, now = (
        lr_schedule.shares(each.lr_schedule, epochs=each.epochs, count=epochs + 1) for each in (began, config)
    )
    if before != now:
        raise ArgumentError(
            "epochs",
            f"must stay {began.epochs:,}",
            got=(
                f"{config.epochs:,}: the LRs of `lr_schedule` {config.lr_schedule} up to epoch {epochs:,} "
                "depend on the length of the training"
            ),
            remedy="leave it out, or start a new run of that length",
        )
