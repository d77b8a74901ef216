"""skorch: `Growth(schedule)` among a net's callbacks grows the batch of `fit` and `partial_fit`."""

from __future__ import annotations

import functools
from typing import Any, Final

import torch

import adabatch as ab
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.integrations._shared import GrowingLR, RandomStates, check_schedule, missing
from adabatch.schedules import Schedule

try:
    from skorch.callbacks import Callback, LRScheduler
except ModuleNotFoundError as error:
    raise missing("skorch", "skorch", error) from None

_TorchLR: Final = torch.optim.lr_scheduler.LRScheduler
_LOADERS: Final = (torch.utils.data.DataLoader, ab.DataLoader, ab.ResidentLoader)


class Growth(Callback):
    """Grows the batch of a net's training, from its `batch_size` on.

    The train iterator becomes an `ab.DataLoader` with the net's own arguments (`iterator_train__shuffle=True`). `fit`
    begins anew; `partial_fit`, `warm_start` and a net that was pickled go on where training stopped, also within an
    epoch, with the random states of then. The callback itself can be cloned and pickled.

    An `LRScheduler` that steps with every batch counts the updates of training without growth, and follows the position
    in the data; what it records is the LR in force. One that steps with every epoch stays as it is.

    Args:
        schedule: batch size against the position in the data.
        coupling: see `ab.BatchSizeScheduler`.
        epochs: of the whole training, over all calls of `partial_fit`; None: no end, or `max_epochs` where the schedule
            needs an end.
        tokens_per_sample: for a schedule in tokens.

    Attributes:
        batches_: the `ab.BatchSizeScheduler` of the latest training.
        loader_: its loader.

    Raises:
        TypeError: in `fit`, if the schedule is none, or the net's train iterator is no DataLoader.
        ValueError: in `fit`, if a net has two of them; in `partial_fit`, if the data has another length than before.

    Example:
        >>> import torch, adabatch as ab, skorch
        >>> from adabatch.integrations.skorch import Growth
        >>> net = skorch.NeuralNetRegressor(
        ...     torch.nn.Linear(3, 1), max_epochs=2, batch_size=2, train_split=None, verbose=0, lr=0.01,
        ...     callbacks=[Growth(ab.schedules.geometric(2, ab.epochs(1)))])
        >>> net.fit(torch.randn(16, 3), torch.randn(16, 1)).history[:, "train_batch_count"]
        [8, 4]
    """

    state_: Any  # where training stopped; None before it
    loader_: Any  # of the latest training
    batches_: Any
    lrs_: dict[str, Any]  # the LR schedulers that follow the data, by the name of their callback

    def __init__(
        self,
        schedule: Schedule,
        coupling: Any = None,
        epochs: int | None = None,
        tokens_per_sample: int | None = None,
    ) -> None:
        self.schedule: Any = schedule
        self.coupling = coupling
        self.epochs, self.tokens_per_sample = epochs, tokens_per_sample

    def initialize(self) -> Growth:
        """Training will begin anew."""
        self._close()
        self.state_ = self.loader_ = self.batches_ = None
        self.trains_ = False
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:
        """From here on the net's train iterator is ours."""
        check_schedule(self.schedule)
        if len([each for _, each in net.callbacks_ if isinstance(each, Growth)]) > 1:
            raise ArgumentError("callbacks", "must have one Growth", got="several", remedy="take the others out")
        if not (isinstance(net.iterator_train, type) and issubclass(net.iterator_train, _LOADERS)):
            rule, got = "must be torch's DataLoader or ab.DataLoader", str(net.iterator_train)
            raise ArgumentTypeError("iterator_train", rule, got=got, remedy="leave it out, with its sampler if any")
        if self.trains_ and self.loader_ is not None and self.lrs_ is not None:
            self.state_ = self._place() | {"random": None}  # the training before ended with an error
        net.get_iterator = functools.partial(_iterator_of, net)
        self.trains_, self.device_, self.lrs_ = True, str(net.device or "cpu"), {}

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **_: Any) -> None:
        """LR schedulers that were made meanwhile follow the data."""
        for name, each in net.callbacks_:
            own = getattr(each, "lr_scheduler_", None)
            if not (isinstance(each, LRScheduler) and each.step_every == "batch" and isinstance(own, _TorchLR)):
                continue
            saved = None if self.state_ is None else self.state_["lrs"].get(name)
            if saved is not None:  # skorch made it anew, from the LR of now
                own.load_state_dict(saved)
                for group, lr, first in zip(own.optimizer.param_groups, own.get_last_lr(), own.base_lrs, strict=True):
                    group["lr"], group["initial_lr"] = lr, first
            self.lrs_[name] = own
            each.lr_scheduler_ = GrowingLR(own, self.loader_, self.batches_, base=self._base_)
            if self.loader_.clock:
                each.lr_scheduler_.step()

    def on_batch_end(self, net: Any, batch: Any = None, training: Any = None, **_: Any) -> None:
        """Commits the batch."""
        if training:
            self.batches_.step()

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:
        """Gives the net its own iterators back."""
        vars(net).pop("get_iterator", None)
        for _, each in net.callbacks_:
            if isinstance(getattr(each, "lr_scheduler_", None), GrowingLR):
                each.lr_scheduler_ = each.lr_scheduler_.lr_scheduler
        if self.loader_ is not None:
            self.state_ = self._place() | {"random": None}
        self.trains_ = False
        self._close()

    # Called by the net in the place of its own method.

    def loader_of(self, net: Any, dataset: Any) -> Any:
        """The loader of a training that begins, or goes on where the last one stopped."""
        arguments = {"batch_size": net.batch_size, **net.get_params_for("iterator_train")}
        if arguments["batch_size"] == -1:
            arguments["batch_size"] = len(dataset)
        kind = net.iterator_train if issubclass(net.iterator_train, _LOADERS[1:]) else ab.DataLoader
        loader, saved = kind(dataset, **arguments), self.state_
        if saved is not None:
            before, now = saved["loader"]["dataset_size"], loader.dataset_size
            if before != now:
                self.trains_ = False  # the place stays that of the calls before
                rule = (
                    f"must have the {before:,} samples of the calls before, since the place in the data is carried on"
                )
                remedy = "call `initialize()` of the Growth first, which then begins anew, or leave it out"
                raise ArgumentError("X", rule, got=f"{now:,}", remedy=remedy)
            loader.load_state_dict(saved["loader"])
        self._close()
        self._base_, self.loader_ = arguments["batch_size"], loader
        optimizers = [getattr(net, f"{name}_") for name in net._optimizers]  # noqa: SLF001 - skorch has no public way
        self.batches_ = ab.BatchSizeScheduler(
            optimizers,
            self.loader_,
            self.schedule,
            coupling=self.coupling,
            epochs=self.epochs if self.epochs is not None or self.schedule.finite else net.max_epochs,
            tokens_per_sample=self.tokens_per_sample,
        )
        if saved is not None:
            self.batches_.load_state_dict(saved["batches"])
            if saved["random"] is not None:
                RandomStates(torch.device(self.device_), saved["random"]).restore()
                saved["random"] = None
        return self.loader_

    def _place(self) -> dict[str, Any]:
        return {
            "loader": self.loader_.state_dict(),
            "batches": self.batches_.state_dict(),
            "lrs": {name: each.state_dict() for name, each in self.lrs_.items()},
        }

    def _close(self) -> None:
        if getattr(self, "batches_", None) is not None:
            self.batches_.close()

    def __getstate__(self) -> dict[str, Any]:
        kept = vars(self).copy()
        if kept.get("trains_") and self.loader_ is not None:
            kept["state_"] = self._place()
        if kept.get("state_") is not None:
            kept["state_"] = kept["state_"] | {"random": RandomStates(torch.device(self.device_)).saved()}
        return kept | dict.fromkeys({"loader_", "batches_", "lrs_"} & set(kept))


def _iterator_of(net: Any, dataset: Any, training: bool = False) -> Any:
    """In the place of a net's `get_iterator`; a function of this module, so that the net can be pickled meanwhile."""
    growths = [each for _, each in net.callbacks_ if isinstance(each, Growth)]
    if training and growths:
        return growths[0].loader_of(net, dataset)
    return type(net).get_iterator(net, dataset, training=training)
