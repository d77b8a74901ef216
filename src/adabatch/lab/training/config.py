"""The settings of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from heapq import merge
from typing import Any, Final

from adabatch import _checks, couplings, schedules, units
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.lab import tasks
from adabatch.lab.training import device as devices
from adabatch.lab.training import lr_schedule, optimizers, saving

PRECISIONS: Final = ("float32", "bf16")
LARGEST_SEED: Final = 2**63 - 1  # that every generator takes
MOST_THREADS: Final = 1024  # with many more OpenMP ends the process
# Settings that run folders written before they existed go without.
ADDED: Final = (
    "rule",
    "drop_last",
    "precision",
    "channels_last",
    "compile",
    "cuda_graphs",
    "workers",
    "ghost_batch_size",
    "save_every",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The settings of one run; together with the device they determine it.

    Args:
        task: name of the task, see `adabatch.lab.tasks`.
        model: name of the network, see `adabatch.lab.models`.
        batch_size: the batch size, the first one if it grows, in samples.
        growth: factor of growth, greater than 1; None for a constant batch.
        every: how often the batch grows: a duration such as `"4 epochs"` or `"500 updates"`.
        max_batch_size: the batch grows no further than this; None for no limit, with a rule for a tenth of the data.
        rule: how falls of the LR become growth of the batch, see `schedules.from_lr`, in place of `growth` and `every`;
            None: they do not.
        drop_last: whether the short batch at the end of an epoch is left out.
        coupling: how the LR follows the batch size, see `adabatch.couplings`; plays no part when the batch is constant.
        lr: learning rate at the first batch size, above 0 and below 1e35, near which float32 ends.
        lr_schedule: how the LR changes with epochs: `"constant"`, `"step:0.5:4"` and others, see `lr_schedule.build`.
        momentum: of SGD, in [0, 1).
        weight_decay: at least 0.
        optimizer: `"sgd"`, `"nesterov"`, `"adam"` or `"adamw"`.
        epochs: passes over the data.
        micro_batch_size: samples per forward and backward pass; None for whole batches.
        ghost_batch_size: samples over which batch norm takes its statistics, see `norm.ghost`; None for the whole pass.
        seed: initial weights and the order of samples are functions of it, at least 0.
        device: `"auto"` (a CUDA GPU if there is one, else the CPU), `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`.
        threads: of torch on the CPU; None for torch's own number. A small network is fastest with one.
        data: the data folder; None: as the task does without one.
        evaluate_every: how often the test set is evaluated, a duration; it is at the end in any case.
        save_every: how often the state is saved, a duration or a time such as `"5 min"`; besides at each evaluation
            that is the best so far, and at the end. None: at every evaluation and at the end of every epoch.
        precision: `"float32"`, or `"bf16"` for autocast to bfloat16 in the network; weights stay float32.
        channels_last: whether images and weights lie in memory pixel by pixel, each with all channels; None: where
            that was measured faster.
        compile: whether the network goes through `torch.compile`, for every batch size before the first update.
        cuda_graphs: whether a GPU replays the compiled network as CUDA graphs, one for each batch size; with `compile`.
        workers: processes that read samples; None: one for each core where samples are read from disk, else none.
            Order and randomness do not depend on it.

    Raises:
        ValueError: if a value is out of range or a name unknown.
        TypeError: if a value is not of its kind.

    Example:
        >>> config = RunConfig.for_task("digits", growth=2.0)
        >>> config.schedule().describe()
        "x2 every 2 epochs, from the loader's batch size, at most 256"
    """

    task: str
    model: str
    batch_size: int
    growth: float | None = None
    every: str = "1 epoch"
    max_batch_size: int | None = None
    rule: str | None = None
    drop_last: bool = False
    coupling: str = "linear"
    lr: float
    lr_schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    epochs: int
    micro_batch_size: int | None = None
    ghost_batch_size: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    data: str | None = None
    evaluate_every: str = "1 epoch"
    save_every: str | None = None
    precision: str = "float32"
    channels_last: bool | None = None
    compile: bool = False
    cuda_graphs: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        task = tasks.get(self.task)
        _checks.one_of("model", self.model, task.models)
        _checks.one_of("optimizer", self.optimizer, optimizers.NAMES)
        devices.check_name(self.device)
        _checks.one_of("precision", self.precision, PRECISIONS)
        for name in ("drop_last", "channels_last", "compile", "cuda_graphs"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "channels_last" and value is None):
                raise ArgumentTypeError(name, "must be True or False", value=value)
        if self.cuda_graphs and not self.compile:
            raise ArgumentError(
                "cuda_graphs", "must come with `compile`", got="it alone", remedy="they replay the compiled network"
            )
        _checks.whole("batch_size", self.batch_size)
        _checks.whole("epochs", self.epochs)
        _checks.whole("seed", self.seed, minimum=0, maximum=LARGEST_SEED)
        _checks.finite("lr", self.lr, above=0)
        _checks.finite("lr", self.lr, below=_checks.LR_END, remedy="float32 ends near there; take a smaller one")
        _checks.finite("momentum", self.momentum, minimum=0, below=1)
        _checks.finite("weight_decay", self.weight_decay, minimum=0)
        if self.micro_batch_size is not None:
            _checks.whole("micro_batch_size", self.micro_batch_size, remedy="leave it out to train on whole batches")
        if self.ghost_batch_size is not None:
            _checks.whole("ghost_batch_size", self.ghost_batch_size, minimum=2, remedy="one sample has no spread")
        if self.data is not None and not isinstance(self.data, str):
            raise ArgumentTypeError("data", "must be text, the name of a folder", value=self.data)
        if self.threads is not None:
            _checks.whole("threads", self.threads, maximum=MOST_THREADS)
        if self.workers is not None:
            _checks.whole("workers", self.workers, minimum=0)
        if not isinstance(self.data, str | None):
            raise ArgumentTypeError("data", "must name a folder", value=self.data)
        self._positive("evaluate_every", self.evaluate_every)
        if self.save_every is not None and isinstance(saving.interval(self.save_every), units.Duration):
            self._positive("save_every", self.save_every)
        lr_schedule.check(self.lr_schedule)
        coupling = couplings.get(self.coupling)
        self._check_growth()
        if self.grows:
            self._check_coupling(coupling)

    def _check_growth(self) -> None:
        self._positive("every", self.every)
        if self.max_batch_size is not None:
            _checks.whole("max_batch_size", self.max_batch_size)
        if self.rule is not None:
            self._check_rule(self.rule)
        elif self.growth is None:
            return
        else:
            _checks.finite("growth", self.growth, above=1, remedy="leave it out for a constant batch")
        if self.max_batch_size is not None and self.max_batch_size < self.batch_size:
            raise ArgumentError(
                "max_batch_size",
                f"must be at least `batch_size` = {self.batch_size}",
                value=self.max_batch_size,
                remedy="raise it or start smaller",
            )

    def _positive(self, name: str, text: str) -> None:
        """Raises unless `text` is a duration above 0 in epochs, samples, updates, or tokens where there are any."""
        if not isinstance(text, str):
            raise ArgumentTypeError(name, "must be text such as '4 epochs'", value=text)
        length = units.duration(text, name=name)
        if length.count == 0:
            raise ArgumentError(name, "must be longer than 0", value=text)
        if length.unit == "tokens" and self.tokens_per_sample is None:
            raise ArgumentError(
                name,
                "must be one of epochs, samples, updates",
                got="'tokens'",
                remedy=f"{self.task} has none, in {text!r}",
            )

    def _check_coupling(self, coupling: couplings.Coupling) -> None:
        known = coupling.optimizers
        if known is None or optimizers.CLASSES[self.optimizer] in known:
            return
        fitting = [name for name, kind in optimizers.CLASSES.items() if kind in known]
        who = "`coupling`" if self.rule is None else f"`rule` {self.rule} brings the coupling {coupling.name}, which"
        insist = f", or insist with '{coupling.name}(any_optimizer=True)'" if hasattr(coupling, "any_optimizer") else ""
        raise ArgumentError(
            None,
            f"{who} must suit the optimizer, {coupling.name} was derived for {', '.join(fitting)}",
            value=self.optimizer,
            remedy=f"take one of these as `optimizer`, another coupling{insist}",
        )

    def _check_rule(self, rule: str) -> None:
        if self.growth is not None:
            raise ArgumentError(
                "rule",
                "must come without `growth`",
                got=f"{rule!r} and {self.growth:g}",
                remedy="either the falls of the LR say how the batch grows, or a factor and an interval do",
            )
        schedules.from_lr([(0, 1.0)], rule=rule)

    @property
    def tokens_per_sample(self) -> int | None:
        """Tokens in a sample of the task; None where there are none."""
        return tasks.get(self.task).tokens_per_sample

    @property
    def grows(self) -> bool:
        """Whether the batch size follows anything at all."""
        return self.growth is not None or self.rule is not None

    @classmethod
    def for_task(cls, task: str, **settings: Any) -> RunConfig:
        """The task's own settings, but for those given.

        Args:
            task: name of the task.
            **settings: fields of this class. The task's defaults never include growth. LR and what else goes with the
                optimizer are as the task has them for it, unless others are given. With a rule the coupling is the
                rule's own, and the limit a tenth of the data, unless others are given.

        Raises:
            ValueError: if a value is out of range or a name unknown.
            TypeError: if there is no such field, or a value is not of its kind.
        """
        _check_names(settings)
        found = tasks.get(task)
        defaults = found.settings(settings.get("optimizer"))
        if settings.get("rule") is not None:
            coupling = schedules.from_lr([(0, 1.0)], rule=settings["rule"]).coupling
            defaults |= {"coupling": coupling, "max_batch_size": None}
        return cls(**{"task": task, "model": found.default_model, **defaults, **settings})

    def schedule(self) -> schedules.Schedule:
        """How the batch size follows the clock, to be given to a `BatchSizeScheduler`."""
        if self.rule is not None:
            text = lr_schedule.curve(self.lr_schedule, epochs=self.epochs)
            return schedules.from_lr(text, rule=self.rule, maximum=self.max_batch_size)
        if self.growth is None:
            return schedules.constant()
        every = units.duration(self.every, name="every")
        return schedules.geometric(self.growth, every, maximum=self.max_batch_size)

    def plan(self, dataset_size: int) -> schedules.Plan:
        """The schedule resolved for a data set.

        Args:
            dataset_size: samples in an epoch.

        Raises:
            ValueError: if a batch would be larger than the data set.
        """
        for name in ("batch_size", "micro_batch_size"):
            size = getattr(self, name)
            if size is not None and size > dataset_size:
                raise ArgumentError(
                    name, f"must be at most the {dataset_size:,} samples of the data set", got=f"{size:,}"
                )
        try:
            return self.schedule().plan(
                dataset_size=dataset_size,
                epochs=self.epochs,
                batch_size=self.batch_size,
                drop_last=self.drop_last,
                tokens_per_sample=self.tokens_per_sample,
            )
        except ValueError as error:
            if self.growth is None:
                raise
            raise ArgumentError(
                "growth",
                f"must not take the batch above the {dataset_size:,} samples of the data set",
                got=f"{self.growth:g} every {units.duration(self.every)} for {self.epochs:,} epochs",
                remedy=f"{'set' if self.max_batch_size is None else 'lower'} `max_batch_size`",
            ) from error

    def check_lr(self, dataset_size: int) -> None:
        """Checks that no update's LR is beyond what float32 holds: that of the schedule times the coupling's factor.

        Args:
            dataset_size: samples in an epoch.

        Raises:
            ValueError: if one is, or the coupling has no factor for a batch size.
        """
        plan, coupling = self.plan(dataset_size), couplings.get(self.coupling if self.grows else "none")
        shares = lr_schedule.shares(self.lr_schedule, epochs=self.epochs)
        for clock in merge(range(0, dataset_size * self.epochs, dataset_size), plan.starts_samples):
            epoch, size = clock // dataset_size, plan.batch_size_at(clock)
            in_force = self.lr * shares[epoch] * coupling.lr_factor(size / self.batch_size)
            if in_force >= _checks.LR_END:
                raise ArgumentError(
                    "lr",
                    f"must stay below {_checks.LR_END:g} with its schedule and coupling",
                    got=f"{in_force:.3g} with batches of {size:,} in epoch {epoch}",
                    remedy="take a smaller `lr`, another `lr_schedule` or another `coupling`",
                )

    def differences(self, other: RunConfig) -> list[str]:
        """The settings in which two runs differ, each as text: name, this one's value, the other's.

        Args:
            other: the settings to compare with.

        Example:
            >>> RunConfig.for_task("digits").differences(RunConfig.for_task("digits", seed=3))
            ['seed: 0 and 3']
        """
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {mine[name]} and {theirs[name]}" for name in mine if mine[name] != theirs[name]]

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunConfig:
        """The settings that `to_json` wrote.

        Raises:
            ValueError: if a value is missing or out of range, or there is one too many.
            TypeError: if a value is not of its kind.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or sorted({*values, *ADDED}) != sorted(names):
            raise ArgumentError("config", f"must have the settings {', '.join(names)}", value=values)
        return cls(**values)


def _check_names(settings: Mapping[str, Any]) -> None:
    known = {field.name for field in fields(RunConfig)} - {"task"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ArgumentTypeError("settings", f"must be among {', '.join(sorted(known))}", got=", ".join(unknown))
