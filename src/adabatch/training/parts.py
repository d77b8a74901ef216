"""What trains: network, optimizer, LR schedule, loader and batch schedule, put together as a user would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch import models, tasks
from adabatch.training import lr_schedule, optimizers
from adabatch.training.config import RunConfig


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
        _, channels, size, _ = data.x_train.shape
        model = models.build(config.model, in_channels=channels, image_size=size, classes=data.classes)
        self.model = model.to(device)
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = optimizers.build(
            config.optimizer,
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.lr_scheduler = lr_schedule.build(config.lr_schedule, self.optimizer, epochs=config.epochs)
        train_set = TensorDataset(self.data.x_train, self.data.y_train)
        self.loader = ab.DataLoader(train_set, batch_size=config.batch_size, shuffle=True, seed=config.seed)
        self.loader.micro_batch_size = config.micro_batch_size
        coupling = config.coupling if config.growth is not None else "none"
        self.batches = ab.BatchSizeScheduler(
            self.optimizer, self.loader, config.schedule(), coupling=coupling, epochs=config.epochs
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the run goes on from; tensors, numbers, text, dicts and lists."""
        state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        state["rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["rng_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: if the state is of another run.
        """
        try:
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(state[name])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and "rng_cuda" in state:
                torch.cuda.set_rng_state(state["rng_cuda"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"`checkpoint` must be of this run, got one that does not fit it ({reason})") from None


_STATEFUL = ("model", "optimizer", "lr_scheduler", "loader", "batches")
