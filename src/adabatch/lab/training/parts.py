"""What trains: network, optimizer, LR schedule, loader and batch schedule, put together as a user would."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import adabatch as ab
from adabatch import _random, norm
from adabatch._errors import ArgumentError
from adabatch.lab import models, tasks
from adabatch.lab.tasks import decode
from adabatch.lab.training import forward, lr_schedule, optimizers
from adabatch.lab.training.config import RunConfig
from adabatch.lab.training.evaluation import chunk_of, judge


class Parts:
    """Network, optimizer, LR schedule, loader and batch schedule of a run.

    The initial weights depend on the seed and the network alone, so all runs of one seed start alike; the order of
    samples depends on the seed alone. torch's default generator is seeded.

    Args:
        config: the settings.
        data: the task's data.
        device: where to train.
    """

    def __init__(self, config: RunConfig, data: tasks.Data, device: torch.device) -> None:
        self.config, self.device = config, device
        self.plan = config.plan(data.dataset_size)
        self.data = data.to(device)
        torch.manual_seed(config.seed)
        self.model = self._network().to(device)
        self.forward: Callable[[Tensor], Tensor] = forward.build(self.model, config, data.shape, device)
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = self._optimizer(self.model.parameters())
        self.lr_scheduler = lr_schedule.build(config.lr_schedule, self.optimizer, epochs=config.epochs)
        self.loader = self._loader()
        self.loader.micro_batch_size = config.micro_batch_size
        coupling = config.coupling if config.grows else "none"
        self.batches = ab.BatchSizeScheduler(
            self.optimizer,
            self.loader,
            config.schedule(),
            coupling=coupling,
            epochs=config.epochs,
            tokens_per_sample=config.tokens_per_sample,
        )

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config
        return optimizers.build(
            config.optimizer, parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def _network(self) -> torch.nn.Module:
        network, size = models.build(self.config.model, **self.data.shape), self.config.ghost_batch_size
        if size is None:
            return network
        try:
            return norm.ghost(network, size=size)
        except ValueError:
            raise ArgumentError(
                "ghost_batch_size",
                "must come with a network that has batch norm",
                got=f"{self.config.model}, which has none",
                remedy="leave it out",
            ) from None

    def _loader(self) -> ab.DataLoader:
        """The training data; with worker processes where samples are read from disk."""
        config, reads = self.config, self.data.files is not None
        workers = config.workers if config.workers is not None else decode.cores() if reads else 0
        return ab.DataLoader(
            self.data.dataset,
            config.batch_size,
            shuffle=True,
            drop_last=config.drop_last,
            seed=config.seed,
            num_workers=workers,
            persistent_workers=workers > 0,
            device=self.device if reads and self.device.type != "cpu" else None,
        )

    @property
    def prepared(self) -> bool:
        """Whether batches are for the network as the loader hands them out; else they go through `prepare`."""
        return self.data.transform is None and self.data.files is None

    def prepare(self, inputs: Tensor, targets: Tensor, *, clock: int) -> tuple[Tensor, Tensor]:
        """What the network takes, for a batch or a part of one.

        Args:
            inputs: as the loader handed them out.
            targets: the same.
            clock: position of the first sample in the data.
        """
        return self.data.train_inputs(inputs, seed=self.config.seed, clock=clock), targets

    def evaluate(self) -> tuple[float, Tensor]:
        """Mean loss on the test set, and for each target whether it is right."""
        data = self.data
        with forward.precision(self.config, self.device):
            return judge(self.model, data.x_test, data.y_test, prepare=data.test_inputs, chunk=chunk_of(data.shape))

    def state_dict(self) -> dict[str, Any]:
        """What the run goes on from besides its settings; tensors, numbers, text, dicts and lists."""
        state = {name: getattr(self, name).state_dict() for name in ("model", "loader", "batches")}
        state["optimizer"] = self.optimizer.state_dict()["state"]
        state["rng"] = torch.get_rng_state()
        if self.device.type != "cpu":
            state[f"rng_{self.device.type}"] = _random.state_of(self.device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        What the settings say is not read: the LR follows from the epochs passed, the optimizer keeps its groups.

        Raises:
            Exception: of many kinds, if the state is damaged or of another run.
        """
        held = {name: value.dtype for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(state["model"])
        if held != {name: value.dtype for name, value in state["model"].items()}:
            raise ArgumentError(None, "model must have weights of the network's own types")
        self.loader.load_state_dict(state["loader"])
        if self.loader.clock > self.data.dataset_size * self.config.epochs:
            raise ArgumentError(None, f"loader stands at sample {self.loader.clock:,}, after the end")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch misses the optimizer's steps
            for _ in range(self.loader.clock // self.data.dataset_size):
                self.lr_scheduler.step()
        self._load_moments(state["optimizer"])
        self.batches.load_state_dict({**state["batches"], "schedule": self.batches.state_dict()["schedule"]})
        torch.set_rng_state(state["rng"])
        if self.device.type != "cpu" and (kept := state.get(f"rng_{self.device.type}")) is not None:
            _random.set_state(self.device, kept)

    def _load_moments(self, moments: Mapping[int, Mapping[str, Any]]) -> None:
        """Gives the optimizer its moments back; those of a parameter of two numbers show which there must be."""
        probe = nn.Parameter(torch.zeros(2))
        probe.grad = torch.zeros(2)
        small = self._optimizer([probe])
        small.step()
        if moments or self.loader.clock:
            optimizers.check_moments(moments, like=small.state_dict()["state"], parameters=[*self.model.parameters()])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
