"""Ignite: `run(engine, loader, batches)` in the place of `engine.run(loader)`.

An Engine takes one epoch length for the whole training, and goes round the data again where an epoch has fewer batches.
`run` tells it the length of each epoch before it begins, and commits each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

import adabatch as ab
from adabatch import _checks, _distributed
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.integrations._shared import RandomStates, Update, check_driven, missing

try:
    from ignite.engine import Engine, Events, State
except ModuleNotFoundError as error:
    raise missing("PyTorch-Ignite", "ignite", error) from None


def run(
    engine: Engine,
    loader: ab.DataLoader,
    batches: ab.BatchSizeScheduler,
    *,
    epochs: int | None = None,
    model: Any = None,
    place: Place | None = None,
) -> State:
    """Trains with a growing batch: `engine.run` on every batch of the loader, from where it stands to the end.

    The process function gets whole rank batches. If the loader has a `micro_batch_size`, it gets the micro-batches of
    one update instead: `for micro in batch:`, `with micro as (inputs, targets):`, a backward pass of the loss times
    `micro.weight`; then the optimizer steps. `batches.step()` is called after the process function.
    `engine.state.iteration` counts updates, `engine.state.epoch` epochs of the data, and their events come where the
    data says.

    To resume, load the states of loader and `batches`, or that of a `Place`, and call `run` again: the engine goes on
    there, whatever its own state is. Without, a run that was terminated within an epoch goes on at the next one; one
    that was interrupted (`engine.interrupt`) goes on where it was.

    Args:
        engine: a training Engine.
        loader: an `ab.DataLoader` over data with a length.
        batches: drives the loader.
        epochs: of the whole training, those before a resume included; None for those that `batches` knows.
        model: what is trained, as it is wrapped; needed for micro-batches on several processes, see `ab.accumulate`.
        place: restores random states where training goes on.

    Returns:
        The engine's state.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `batches` does not drive the loader, or the number of epochs or the data's length is not known.

    Example:
        >>> import torch, adabatch as ab
        >>> from ignite.engine import Engine
        >>> from adabatch.integrations.ignite import run
        >>> data = torch.utils.data.TensorDataset(torch.randn(16, 3), torch.randn(16, 1))
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> loader = ab.DataLoader(data, batch_size=2, shuffle=True)
        >>> batches = ab.BatchSizeScheduler(optimizer, loader, ab.schedules.geometric(2, ab.epochs(1)), epochs=2)
        >>> def step(engine, batch):
        ...     optimizer.zero_grad()
        ...     loss = torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss.item()
        >>> run(Engine(step), loader, batches).iteration
        12
    """
    if not isinstance(engine, Engine):
        raise ArgumentTypeError("engine", "must be an ignite Engine", got=type(engine).__name__)
    check_driven(loader, batches, remedy="give the one that it was made for")
    if batches.plan is None:
        rule = "must have a schedule, since the engine must be told where an epoch ends"
        raise ArgumentError("batches", rule, remedy="where the sizes to come are open, write the loop yourself")
    epochs = batches.plan.epochs if epochs is None else _checks.whole("epochs", epochs)
    if epochs is None or loader.dataset_size is None:
        rule = "must be known, and so must the length of the data, since the engine must be told where an epoch ends"
        raise ArgumentError("epochs", rule, value=epochs, remedy="give `epochs=` here or to the BatchSizeScheduler")
    for name in ("_init_iter", "_dataloader_iter", "_process_function", "_internal_run_generator"):
        if not hasattr(engine, name):
            rule = f"must have `{name}`, which this integration uses"
            raise ArgumentTypeError("engine", rule, got=type(engine).__name__, remedy="install pytorch-ignite 0.5")
    return _Run(engine, loader, batches, epochs, model, place).run()


class Place:
    """The place of a training, to save beside model and optimizer: loader, BatchSizeScheduler and random states.

    Args:
        loader: the loader that is trained on.
        batches: drives it.
        device: of the model, whose random state belongs to it; the CPU's always does.
    """

    def __init__(self, loader: ab.DataLoader, batches: ab.BatchSizeScheduler, *, device: Any = "cpu") -> None:
        self._loader, self._batches, self._device = loader, batches, torch.device(device)
        self._random: RandomStates | None = None

    def state_dict(self) -> dict[str, Any]:
        """The place as it is now; all processes must call it, and each must load it."""
        return {
            "loader": self._loader.state_dict(),
            "batches": self._batches.state_dict(),
            "random": _distributed.gathered(RandomStates(self._device).saved(), self._loader.sharing()[0]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on there; random states are put back by `run`, before the first batch."""
        self._loader.load_state_dict(state["loader"])
        self._batches.load_state_dict(state["batches"])
        _, rank, world = self._loader.sharing()
        if len(state["random"]) == world:
            self._random = RandomStates(self._device, state["random"][rank])

    def restore(self) -> None:
        """Puts back the random states that were loaded, once."""
        found, self._random = self._random, None
        if found is not None:
            found.restore()


class _Run:
    """One call of `run`: the data of the engine, and its handlers."""

    def __init__(
        self,
        engine: Any,
        loader: ab.DataLoader,
        batches: ab.BatchSizeScheduler,
        epochs: int,
        model: Any,
        place: Place | None,
    ) -> None:
        self._engine, self._loader, self._batches, self._epochs = engine, loader, batches, epochs
        self._model, self._place = model, place

    def run(self) -> State:
        engine, loader, state = self._engine, self._loader, self._engine.state
        if engine._internal_run_generator is not None:  # noqa: SLF001 - it was interrupted, and would not begin an epoch
            engine._internal_run_generator = engine._dataloader_iter = None  # noqa: SLF001
            loader.load_state_dict(loader.state_dict())  # else the rest of the epoch would be passed
        plan = self._batches.plan
        assert plan is not None
        done, epoch = plan.update_at(loader.clock), loader.epoch
        before = sum(loader.updates_in_epoch(each) for each in range(epoch))
        self._passed = max(0, done - before)  # after an epoch that was left early, the next one begins
        if self._passed and self._passed == loader.updates_in_epoch(epoch):
            next(loader.parts(), None)  # it was trained whole, and ends now
            epoch, self._passed = epoch + 1, 0
        if epoch >= self._epochs:
            return state
        state.iteration, state.epoch, state.max_epochs, state.max_iters = done, epoch, self._epochs, None
        state.epoch_length = None
        handles = [
            engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch),
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch),
        ]
        self._process = engine._process_function  # noqa: SLF001 - handlers that save states come after it
        engine._process_function = self._step  # noqa: SLF001
        try:
            found: State = engine.run(self, max_epochs=self._epochs)
        finally:
            engine._process_function = self._process  # noqa: SLF001
            for handle in handles:
                handle.remove()
        return found

    def __iter__(self) -> Iterator[Any]:
        if self._place is not None:
            self._place.restore()
        if self._loader.micro_batch_size is None:
            yield from self._loader.training(self._epochs)
            return
        while self._loader.epoch < self._epochs:
            micros = ab.accumulate(self._loader, self._model)
            try:
                while not (update := Update(micros)).is_over:
                    yield update
            finally:
                micros.close()

    def _begin_epoch(self, engine: Any) -> None:
        engine.state.epoch_length = self._loader.updates_in_epoch(engine.state.epoch - 1)
        if engine._dataloader_iter is None:  # noqa: SLF001 - it would take the updates modulo this length
            engine._init_iter = self._passed  # noqa: SLF001

    def _step(self, engine: Any, batch: Any) -> Any:
        output = self._process(engine, batch)
        if self._loader.current is not None:
            self._batches.step()
        return output

    def _end_epoch(self, engine: Any) -> None:
        engine.state.epoch_length = None  # else the engine is done at as many epochs of this length
