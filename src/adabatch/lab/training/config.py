"""The settings of one run, in one table: options, files, presets and arms take their names from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from heapq import merge
from itertools import product
from typing import Any, Final, get_args, get_type_hints

from adabatch import _checks, couplings, policies, schedules, units
from adabatch._errors import ArgumentError, ArgumentTypeError, naming
from adabatch.lab import tasks
from adabatch.lab.training import deciding, lr_schedule, optimizers, saving
from adabatch.lab.training import growth as growing

LARGEST_SEED: Final = 2**63 - 1  # the largest that every generator takes
MOST_THREADS: Final = 1024  # with many more, OpenMP ends the process
PRECISIONS: Final = ("float32", "bf16", "float64")
# Groups of settings in the help.
PANELS: Final = ("Run", "Growing batch", "Optimizer", "Speed", "Output")
RUN, GROWTH, OPTIMIZER, SPEED, OUTPUT = PANELS

Check = Callable[[str, Any], object]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The description of one setting of a run; `SETTINGS` has them all.

    Attributes:
        name: of the field and of the key in files and presets; with hyphens of the option and of an arm's key.
        kind: `int`, `float`, `str` or `bool`.
        optional: whether None is a value.
        panel: its group in the help.
        help: its line in the help.
        metavar: the placeholder for its value in the help; None for the kind.
        flags: of the option; None for its name.
        check: takes the name and a value, and raises for a bad value.
        shared: whether all arms of a comparison have the same value.
        grows: whether it makes the batch grow, a way of its own; without any of these the batch is constant.
        of_growth: whether it has no effect on a constant batch.
        may_change: whether it may change when a run goes on; the result does not depend on it, but for rounding.
        late: whether it may be missing in run folders of earlier versions.
    """

    name: str = ""
    kind: type = str
    optional: bool = False
    panel: str
    help: str
    metavar: str | None = None
    flags: str | None = None
    check: Check | None = None
    shared: bool = False
    grows: bool = False
    of_growth: bool = False
    may_change: bool = False
    late: bool = False

    def validate(self, value: Any) -> None:
        """Checks a value, whatever the other settings are.

        Raises:
            ValueError: if it is out of range or unknown.
            TypeError: if it is not of the kind.
        """
        if value is None and self.optional:
            return
        if self.kind is bool and not isinstance(value, bool):
            raise ArgumentTypeError(self.name, "must be True or False", value=value)
        if self.kind is int and self.check is None:
            _checks.whole(self.name, value)
        elif self.check is not None:
            self.check(self.name, value)


def _setting(default: Any, panel: str, help: str, **more: Any) -> Any:
    """A field of `RunConfig` with its `Setting`; the default `...` stands for none."""
    metadata = {"setting": Setting(panel=panel, help=help, **more)}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def _lr(name: str, value: Any) -> None:
    _checks.finite(name, value, above=0)
    _checks.finite(name, value, below=_checks.LR_END, remedy="float32 ends near there; take a smaller one")


def _transition(text: Any) -> tuple[float, float]:
    """Centre and length of the transition of RMSprop warm-up, in epochs."""
    remedy = "write for example 2:1"
    try:
        center, length = map(float, text.split(":"))
    except (AttributeError, ValueError):
        raise ArgumentError("transition", "must be CENTRE:LENGTH in epochs", value=text, remedy=remedy) from None
    for number in (center, length):
        _checks.finite("transition", number, minimum=0, remedy=remedy)
    return center, length


def _device(_: str, value: Any) -> None:
    from adabatch.lab.training import device  # loads torch

    device.check_name(value)


def _folder(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ArgumentTypeError(name, "must be text, the name of a folder", value=value)
    if not value.strip():
        raise ArgumentError(name, "must name a folder", value=value, remedy="leave it out or write a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The settings of one run; together with the device they determine it.

    To add a setting, add a field with a default and `late=True`, so that older run folders still load. It is then an
    option, and a key of files, presets and arms, and its values are checked.

    Raises:
        ValueError: if a value is out of range or a name unknown.
        TypeError: if a value is not of its kind.

    Example:
        >>> config = RunConfig.for_task("digits", growth=2.0)
        >>> config.schedule().describe()
        "x2 every 2 epochs, from the loader's batch size, at most 256"
    """

    # fmt: off
    task: str = _setting(..., RUN, "digits, mnist, cifar10 and more; see adabatch list.",
        check=lambda _, name: tasks.get(name), shared=True)
    model: str = _setting(..., RUN, "The network; see adabatch list.")
    batch_size: int = _setting(..., GROWTH, "Batch size, the first one if it grows.")
    growth: float | None = _setting(None, GROWTH, "Multiply the batch by it after each interval.", metavar="FACTOR",
        grows=True, check=partial(_checks.finite, above=1, remedy="leave it out for a constant batch"))
    every: str = _setting("1 epoch", GROWTH, "The interval: 4, '4 epochs', '9 updates'; of text '1M tokens'.",
        metavar="DURATION", of_growth=True)
    max_batch_size: int | None = _setting(None, GROWTH,
        "Grow no further than this; with --rule else a tenth of the data.", of_growth=True)
    rule: str | None = _setting(None, GROWTH,
        "Grow where the LR schedule would let the LR fall: smith, 'hybrid(1)', 'power(0.75)', seesaw (Adam).",
        check=lambda _, rule: growing.coupling_of_rule(rule), grows=True, late=True)
    growth_file: str | None = _setting(None, GROWTH,
        "Grow as the schedule in this file says, in JSON as its to_json gives it; the run keeps its text.",
        metavar="FILE", check=lambda _, value: growing.file_text(value), grows=True, late=True)
    policy: str | None = _setting(None, GROWTH,
        "Grow by what is measured: noise-scale:1, norm-test:ETA, diversity:DELTA, similarity:C, goodput:PROBE, "
        "cabs:FLOOR, sign-noise:THETA or branch:TOLERANCE, and after commas factor=2, warmup-samples=0, shrinks=true, "
        "measure-every=10; see docs/policies.md.",
        metavar="TEXT", check=lambda _, text: deciding.chosen(text), grows=True, late=True)
    drop_last: bool = _setting(False, GROWTH, "Leave out the short batch at the end of an epoch.",
        flags="--drop-last/--keep-last", late=True)
    coupling: str = _setting("linear", GROWTH,
        "How the LR follows: linear (for sgd, nesterov, rmsprop-warmup, lars), sqrt (for adam, adamw, lamb), none, "
        "'power(0.75)'; else, with any optimizer, linear, for gpt-tiny sqrt; with --rule the rule's own.",
        check=lambda _, name: couplings.get(name), of_growth=True)
    world_sizes: str | None = _setting(None, GROWTH,
        "Processes wanted from which batch size on, '0:1 2048:4'; reported, not started.", metavar="TEXT",
        check=lambda name, text: growing.world_sizes(name, schedules.constant(), text), may_change=True, late=True)
    lr: float = _setting(..., OPTIMIZER, "Learning rate at the first batch size.", check=_lr)
    lr_schedule: str = _setting("constant", OPTIMIZER,
        "By epochs: constant, step:0.5:4, milestones:0.2:60,120, exponential:0.95, cosine, onecycle, wsd:5, poly:2, "
        "slowstart; warmup:5+... in front.", metavar="TEXT")
    momentum: float = _setting(0.9, OPTIMIZER, "Of SGD.", check=partial(_checks.finite, minimum=0, below=1))
    weight_decay: float = _setting(0.0, OPTIMIZER, "As the optimizer defines it.",
        check=partial(_checks.finite, minimum=0))
    optimizer: str = _setting("sgd", OPTIMIZER, "sgd, nesterov, adam, adamw, rmsprop-warmup, lars or lamb.",
        check=partial(_checks.one_of, allowed=optimizers.NAMES))
    transition: str | None = _setting(None, OPTIMIZER,
        "Of rmsprop-warmup, epochs to its centre and its length; else 10:5 of 90 epochs.", metavar="CENTRE:LENGTH",
        check=lambda _, text: _transition(text), late=True)
    decay_biases: bool = _setting(True, OPTIMIZER, "Weight decay of biases and norm scales too.",
        flags="--decay-biases/--no-decay-biases", late=True)
    label_smoothing: float = _setting(0.0, OPTIMIZER, "Share of each target that is spread over all classes.",
        check=partial(_checks.finite, minimum=0, below=1), late=True)
    zero_init: bool = _setting(False, OPTIMIZER, "Residual blocks begin as their shortcut: their last scale is 0.",
        flags="--zero-init/--no-zero-init", late=True)
    epochs: int = _setting(..., RUN, "Passes over the data.")
    micro_batch_size: int | None = _setting(None, GROWTH, "Samples per forward and backward pass; else whole batches.",
        check=partial(_checks.whole, remedy="leave it out to train on whole batches"))
    ghost_batch_size: int | None = _setting(None, GROWTH,
        "Samples over which batch norm takes its statistics; else all of a pass.",
        check=partial(_checks.whole, minimum=2, remedy="one sample has no spread"), late=True)
    sync_batch_norm: bool = _setting(False, GROWTH,
        "Under torchrun: batch norm takes its statistics over all processes, else each over its own samples.",
        flags="--sync-batch-norm/--no-sync-batch-norm", late=True)
    last_batch_norm: bool = _setting(False, GROWTH,
        "Batch norm without running averages: evaluate by the statistics of the last batch.",
        flags="--last-batch-norm/--no-last-batch-norm", late=True)
    seed: int = _setting(0, RUN, "Initial weights and order of samples.",
        check=partial(_checks.whole, minimum=0, maximum=LARGEST_SEED), shared=True)
    device: str = _setting("auto", RUN, "Where to train; auto: a CUDA GPU if there is one, else the CPU.",
        metavar="auto|cpu|cuda|cuda:N|mps", check=_device, shared=True, may_change=True)
    threads: int | None = _setting(None, RUN, "Of torch on the CPU; a small network is fastest with one.",
        check=partial(_checks.whole, maximum=MOST_THREADS), shared=True)
    data: str | None = _setting(None, RUN,
        "Folder with Parquet files of the data set, else ADABATCH_DATA, else a download.",
        metavar="DIR", check=_folder, shared=True, may_change=True)
    evaluate_every: str = _setting("1 epoch", OUTPUT,
        "Evaluate the test set after each, and at the end: '2 epochs', '500 updates'.", metavar="DURATION")
    save_every: str | None = _setting(None, OUTPUT,
        "Save after each: '5 min', '2 epochs', '500 updates'; else with each evaluation and epoch.",
        metavar="TIME|DURATION", may_change=True, late=True)
    precision: str = _setting("float32", SPEED, "float32, bf16 for autocast, or float64.",
        check=partial(_checks.one_of, allowed=PRECISIONS), late=True)
    channels_last: bool | None = _setting(None, SPEED, "Layout of images; else the faster one.",
        flags="--channels-last/--channels-first", late=True)
    compile: bool = _setting(False, SPEED, "torch.compile, for every batch size before the first.",
        flags="--compile/--no-compile", may_change=True, late=True)
    cuda_graphs: bool = _setting(False, SPEED, "On a GPU, with --compile: replay it as graphs.",
        flags="--cuda-graphs/--no-cuda-graphs", may_change=True, late=True)
    fsdp: bool = _setting(False, SPEED, "Under torchrun: shard parameters and moments over the processes (FSDP2).",
        flags="--fsdp/--no-fsdp", may_change=True, late=True)
    compress: str | None = _setting(None, SPEED,
        "Under torchrun: send gradients as fp16 or bf16, which is half as many bytes; none: whole.",
        check=partial(_checks.one_of, allowed=_checks.COMPRESSIONS, remedy="leave it out to send them whole"),
        late=True)
    workers: int | None = _setting(None, RUN,
        "Processes that read samples; else one for each core where they are read from disk.",
        check=partial(_checks.whole, minimum=0), may_change=True, late=True)
    # fmt: on

    def __post_init__(self) -> None:
        if self.growth_file is not None:  # so that the run needs the file no more
            object.__setattr__(self, "growth_file", growing.file_text(self.growth_file))
        if self.policy is not None:
            object.__setattr__(self, "policy", deciding.text_of(self.policy))
        for name, setting in SETTINGS.items():
            setting.validate(getattr(self, name))
        _checks.one_of("model", self.model, tasks.get(self.task).models)
        if self.cuda_graphs and not self.compile:
            remedy = "they replay the compiled network"
            raise ArgumentError("cuda_graphs", "must come with `compile`", got="it alone", remedy=remedy)
        if self.compress is not None:
            self._check_compression(self.compress)
        for name in ("every", "evaluate_every"):
            self._check_duration(name, getattr(self, name))
        if self.save_every is not None and isinstance(saving.interval(self.save_every), units.Duration):
            self._check_duration("save_every", self.save_every)
        lr_schedule.check(self.lr_schedule, epochs=self.epochs)
        self._check_large_batch()
        if self.grows:
            self._check_growth()

    def _check_compression(self, kind: str) -> None:
        if self.precision == "float64":
            remedy = "leave one of them out"
            raise ArgumentError("compress", "must come without `precision` float64", value=kind, remedy=remedy)
        if self.fsdp and kind == "fp16":
            rule, remedy = "must not be fp16 with `fsdp`, since FSDP2 sums in it and it overflows", "take bf16"
            raise ArgumentError("compress", rule, value=kind, remedy=remedy)
        if self.fsdp and self.micro_batch_size is not None:
            rule, remedy = (
                "must come without `micro_batch_size` with `fsdp`, since FSDP2 adds micro-batches in it",
                "leave one of them out",
            )
            raise ArgumentError("compress", rule, value=kind, remedy=remedy)

    def _check_duration(self, name: str, text: str) -> None:
        """Checks that `text` is a duration above 0 in epochs, samples or updates, or in tokens if samples have any."""
        if not isinstance(text, str):
            raise ArgumentTypeError(name, "must be text such as '4 epochs'", value=text)
        length = units.duration(text, name=name)
        if length.count == 0:
            raise ArgumentError(name, "must be longer than 0", value=text)
        if length.unit == "tokens" and self.tokens_per_sample is None:
            remedy = f"{self.task} has none, in {text!r}"
            raise ArgumentError(name, "must be one of epochs, samples, updates", value="tokens", remedy=remedy)

    def _check_large_batch(self) -> None:
        others = [name for name in ("ghost_batch_size", "sync_batch_norm") if getattr(self, name)]
        if self.last_batch_norm and others:
            remedy = "leave out one of them"
            raise ArgumentError("last_batch_norm", f"must come without `{others[0]}`", got="both", remedy=remedy)
        if self.transition is None:
            return
        if optimizers.CLASSES[self.optimizer] != "RMSpropWarmup":
            rule, remedy = "must come with the optimizer rmsprop-warmup", "leave it out"
            raise ArgumentError("transition", rule, got=self.optimizer, remedy=remedy)
        center, length = rmsprop_transition(self)
        if center + length / 2 > self.epochs:
            rule = f"must end within the {self.epochs:,} epochs of the training"
            got = f"{self.transition}, which ends after {center + length / 2:g}"
            raise ArgumentError("transition", rule, got=got, remedy="give a smaller centre or a shorter length")

    def _check_growth_file(self, text: str) -> None:
        tokens = None if self.tokens_per_sample is not None else f"{self.task} has no tokens"
        growing.check_fits(text, batch_size=self.batch_size, tokens=tokens)

    def _check_policy(self) -> None:
        if self.batch_size < 2:
            rule, remedy = "must be at least 2 with a policy, since a batch is measured in parts", "start with more"
            raise ArgumentError("batch_size", rule, value=self.batch_size, remedy=remedy)
        if self.compile and not self.drop_last:
            rule, remedy = "must come with `drop_last` under a policy", "the last batch of an epoch may have any size"
            raise ArgumentError("compile", rule, got="it alone", remedy=remedy)
        if self.fsdp and self.precision == "float64":
            rule, remedy = (
                "must not be float64 with `fsdp` under a policy",
                "noise is measured in float32 and bf16 there",
            )
            raise ArgumentError("precision", rule, got="both", remedy=remedy)
        growing.check_branches(asdict(self))
        policy = growing.batch_policy(asdict(self))
        assert policy is not None
        policy.check_training(optimizers.stand_in(self.optimizer, momentum=self.momentum), self.coupling)

    def _check_growth(self) -> None:
        usual = [{each.name: each.default for each in fields(self)}, tasks.get(self.task).defaults]
        given = {name: value for name, value in asdict(self).items() if all(value != each.get(name) for each in usual)}
        growing.check_alone(given, asdict(self))
        if self.growth_file is not None:
            self._check_growth_file(self.growth_file)
        elif self.growth is not None and self.rule is not None:
            got = f"{self.rule!r} and {self.growth:g}"
            remedy = "either the falls of the LR say how the batch grows, or a factor and an interval do"
            raise ArgumentError("rule", "must come without `growth`", got=got, remedy=remedy)
        elif self.max_batch_size is not None and self.max_batch_size < self.batch_size:
            rule = f"must be at least `batch_size` = {self.batch_size}"
            raise ArgumentError("max_batch_size", rule, value=self.max_batch_size, remedy="raise it or start smaller")
        if self.policy is not None:
            self._check_policy()
        coupling = couplings.get(self.coupling)
        growing.check_noise(coupling, asdict(self))
        known = coupling.optimizers
        if known is None or optimizers.CLASSES[self.optimizer] in known:
            return
        fitting = ", ".join(name for name, kind in optimizers.CLASSES.items() if kind in known)
        name, brought = "coupling", ""
        if self.rule is not None:
            name, brought = "rule", f"{self.rule} brings the coupling {coupling.name}, which "
        elif self.growth_file is not None and self.coupling in growing.schedule_of(self.growth_file).brought():
            name, brought = "growth_file", f"brings the coupling {coupling.name}, which "
        insist = f", or insist with '{coupling.name}(any_optimizer=True)'" if hasattr(coupling, "any_optimizer") else ""
        raise ArgumentError(
            name,
            f"{brought}must suit the optimizer, {coupling.name} was derived for {fitting}",
            value=self.optimizer,
            remedy=f"take one of these as `optimizer`, another coupling{insist}",
        )

    @property
    def tokens_per_sample(self) -> int | None:
        """Tokens in a sample of the task; None if there are none."""
        return tasks.get(self.task).tokens_per_sample

    @property
    def grows(self) -> bool:
        """Whether the batch size may change."""
        return any(getattr(self, name) is not None for name in GROWING)

    def constant(self) -> RunConfig:
        """These settings with a constant batch."""
        none: dict[str, Any] = dict.fromkeys(GROWING)
        return replace(self, **none)

    @classmethod
    def for_task(cls, task: str, **settings: Any) -> RunConfig:
        """The task's own settings, but for those given.

        Args:
            task: name of the task.
            **settings: fields of this class. The task's defaults never include growth. LR and other settings are the
                task's for the optimizer and the network, unless others are given. With a rule the coupling is the
                rule's own, and the limit a tenth of the data, unless others are given. With a `growth_file` the batch
                size is its schedule's first and the coupling the one that it brings, where there are such. So is a
            policy's.

        Raises:
            ValueError: if a value is out of range or a name unknown.
            TypeError: if there is no such field, or a value is not of its kind.
        """
        known = sorted(set(SETTINGS) - {"task"})
        if unknown := sorted(set(settings) - set(known)):
            raise ArgumentTypeError("settings", f"must be among {', '.join(known)}", got=", ".join(unknown))
        found = tasks.get(task)
        defaults = found.settings(settings.get("optimizer"), settings.get("model"))
        if settings.get("growth_file") is not None:
            settings["growth_file"] = growing.file_text(settings["growth_file"])  # so that it is read once
        return cls(**{"task": task, "model": found.default_model, **defaults, **growing.brought(settings), **settings})

    def schedule(self) -> schedules.Schedule | policies.Policy:
        """The batch schedule, or the policy in its place, for a `BatchSizeScheduler`."""
        return growing.batch_policy(asdict(self)) or growing.batch_schedule(asdict(self))

    def sizes(self, dataset_size: int) -> tuple[int, ...]:
        """The sizes that whole batches have, growing; under a policy those that they may come to have.

        Args:
            dataset_size: samples in an epoch.

        Raises:
            ValueError: as `plan` does.
        """
        policy = growing.batch_policy(asdict(self))
        if policy is None:
            return tuple(self.plan(dataset_size).sizes)
        self._check_sizes(dataset_size, "max_batch_size", "batch_size", "micro_batch_size")
        with naming(maximum="max_batch_size"):
            return policy.sizes(self.batch_size)

    def plan(self, dataset_size: int) -> schedules.Plan:
        """The schedule resolved for a data set. A policy has none, see `sizes`.

        Args:
            dataset_size: samples in an epoch.

        Raises:
            ValueError: if a batch would be larger than the data set, or the schedule of a file does not fit it.
        """
        if self.policy is not None:
            got, remedy = f"{self.policy}, which decides them while it trains", "give `growth` for a plan"
            raise ArgumentError("policy", "must be left out where all sizes are needed ahead", got=got, remedy=remedy)
        in_file = self.growth_file is not None and growing.schedule_of(self.growth_file).initial is not None
        self._check_sizes(dataset_size, *(() if in_file else ("batch_size",)), "micro_batch_size")
        try:
            names = {} if self.growth_file is not None else {"maximum": "max_batch_size"}
            with growing.fitting(self.growth_file, dataset_size=dataset_size, epochs=self.epochs), naming(**names):
                return growing.batch_schedule(asdict(self)).plan(
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

    def _check_sizes(self, dataset_size: int, *names: str) -> None:
        """Checks that settings are no larger than the data set."""
        for name in names:
            size = getattr(self, name)
            if size is not None and size > dataset_size:
                rule = f"must be at most the {dataset_size:,} samples of the data set"
                raise ArgumentError(name, rule, got=f"{size:,}")

    def check_lr(self, dataset_size: int) -> None:
        """Checks that every update's LR, that of the schedule times the coupling's factor, is in the range of float32.

        Args:
            dataset_size: samples in an epoch.

        Raises:
            ValueError: if one is not, or the coupling has no factor for a batch size.
        """
        plan = None if self.policy is not None else self.plan(dataset_size)
        possible = self.sizes(dataset_size) if plan is None else plan.batch_sizes
        coupling = couplings.get(self.coupling if self.grows else "none").with_noise(math.inf)
        highest = (self.lr * coupling.lr_factor(size / self.batch_size) for size in possible)
        if not lr_schedule.rises(self.lr_schedule) and all(lr < _checks.LR_END / 2 for lr in highest):
            return  # without a loop over what may be millions of epochs
        shares = lr_schedule.shares(self.lr_schedule, epochs=self.epochs)
        clocks = () if plan is None else merge(range(0, dataset_size * self.epochs, dataset_size), plan.starts_samples)
        planned = ((clock // dataset_size, plan.batch_size_at(clock)) for clock in clocks if plan is not None)
        for epoch, size in product(range(self.epochs), possible) if plan is None else planned:
            in_force = self.lr * shares[epoch] * coupling.lr_factor(size / self.batch_size)
            if in_force >= _checks.LR_END:
                raise ArgumentError(
                    "lr",
                    f"must stay below {_checks.LR_END:g} with its schedule and coupling",
                    got=f"{in_force:.3g} with batches of {size:,} in epoch {epoch}",
                    remedy="take a smaller `lr`, another `lr_schedule` or another `coupling`",
                )

    def check_longer(self, began: RunConfig, *, epochs: int) -> None:
        """Checks that a run may train for more epochs than it was begun with.

        It may if the training so far is the same as under the new number of epochs. That is so if its LRs are the same:
        under a rule the batch sizes follow from the LRs.

        Args:
            began: the settings that the run was saved with; they may differ in the number of epochs only.
            epochs: how many are completed.

        Raises:
            ValueError: if an LR so far depends on the length of the training.
        """
        if self.epochs == began.epochs:
            return
        before, now = (
            lr_schedule.shares(each.lr_schedule, epochs=each.epochs, count=epochs + 1) for each in (began, self)
        )
        if before != now:
            reason = f"the LRs of `lr_schedule` {self.lr_schedule} up to epoch {epochs:,} depend on the length of the "
            raise ArgumentError(
                "epochs",
                f"must stay {began.epochs:,}",
                got=f"{self.epochs:,}: {reason}training",
                remedy="leave it out, or start a new run of that length",
            )

    def differences(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """The settings in which two runs differ, each with this one's value and the other's.

        Settings that may change when a run goes on are left out.

        Args:
            other: the settings to compare with.

        Example:
            >>> RunConfig.for_task("digits").differences(RunConfig.for_task("digits", seed=3, save_every="5 min"))
            {'seed': (0, 3)}
        """
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in SETTINGS}
        return {
            name: (mine, theirs)
            for name, (mine, theirs) in pairs.items()
            if mine != theirs and not SETTINGS[name].may_change
        }

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
        late = {name for name, setting in SETTINGS.items() if setting.late}
        if not isinstance(values, Mapping) or {*values, *late} != set(SETTINGS):
            raise ArgumentError("config", f"must have the settings {', '.join(SETTINGS)}", value=values)
        return cls(**values)


def _table() -> dict[str, Setting]:
    found, kinds = {}, get_type_hints(RunConfig)
    for each in fields(RunConfig):
        setting, (kind, *rest) = each.metadata["setting"], get_args(kinds[each.name]) or (kinds[each.name],)
        found[each.name] = replace(setting, name=each.name, kind=kind, optional=bool(rest))
    return found


SETTINGS: Final[Mapping[str, Setting]] = _table()
"""All settings of a run by name, in the order of the fields of `RunConfig`."""
GROWING: Final = tuple(name for name, setting in SETTINGS.items() if setting.grows)
"""The settings that make the batch grow, of which a run has at most one."""


def checked_target(target: float) -> float:
    """`target` as a float.

    Raises:
        ValueError: if it is not in (0, 1].
    """
    remedy = "it is a test accuracy as a fraction, for example 0.95"
    if _checks.finite("target", target, above=0, remedy=remedy) > 1:
        raise ArgumentError("target", "must be at most 1", value=target, remedy=remedy)
    return float(target)


def on_top(base: Mapping[str, Any], given: Mapping[str, Any], *, task: str) -> dict[str, Any]:
    """Settings that were given, on top of others.

    One way to grow replaces another. A rule brings its own coupling, a file its first batch size, and file and policy
    their coupling, if it is one of their own. Another optimizer or network brings the LR and other settings that the
    task has for it, unless they are given.

    Args:
        base: fields of `RunConfig`, of a preset, a file or another run.
        given: fields that the user gave.
        task: name of the task.

    Example:
        >>> on_top({"optimizer": "sgd", "lr": 0.5}, {"optimizer": "adam", "seed": 3}, task="mnist")
        {'optimizer': 'adam', 'lr': 0.001, 'seed': 3}
    """
    found, kept = tasks.get(task), dict(base)
    if set(GROWING) & set(given):
        kept |= dict.fromkeys(GROWING)
    if "rule" in given:
        kept.pop("coupling", None)
    if given.get("growth_file") is not None:
        given = {**given, "growth_file": growing.file_text(given["growth_file"])}
    if any(given.get(name) is not None for name in ("growth_file", "policy")):
        for name in ("every", *growing.brought(given)):
            kept.pop(name, None)
    kept |= found.in_place_of(base, given)
    return {**kept, **given}


def rmsprop_transition(config: RunConfig) -> tuple[float, float]:
    """Centre and length in epochs of the transition from RMSprop to SGD, for `RMSpropWarmup`."""
    if config.transition is not None:
        return _transition(config.transition)
    return config.epochs * 10 / 90, config.epochs * 5 / 90
