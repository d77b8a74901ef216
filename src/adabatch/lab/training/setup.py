"""The setup of a run: network, optimizer, LR schedule, loader and batch schedule, put together as a user would."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import adabatch as ab
from adabatch import _distributed, _random, couplings, memory, norm, optim, policies
from adabatch._errors import ArgumentError
from adabatch.lab import models, tasks
from adabatch.lab.tasks import decode
from adabatch.lab.training import checkpoint, compiling, deciding, failures, lr_schedule, measured, optimizers, room
from adabatch.lab.training import device as devices
from adabatch.lab.training.config import RunConfig, rmsprop_transition
from adabatch.lab.training.evaluation import chunk_of, evaluate
from adabatch.lab.training.ranks import Ranks
from adabatch.schedules import Plan

_APART: Final = 0x9E3779B97F4A7C15  # the seeds of ranks
FEWEST: Final = 2048  # targets on which a training loss is measured

Forward = Callable[[Tensor], Tensor]


class Setup:
    """Network, optimizer, LR schedule, loader and batch schedule of a run.

    The initial weights depend on the seed and the network only, the order of samples on the seed only. So all runs of
    one seed start alike. torch's default generator is seeded, differently on each rank.

    Args:
        config: the settings.
        data: of the task.
        device: to train on.
        ranks: the processes that train together.

    Attributes:
        model: the network.
        wrapped: the network as ranks train it together.
        forward: takes prepared inputs to scores.
        plan: of all batches; None under a policy.
        noise: measures the gradient's noise for a policy; None without one.
        branches: whether the policy asks for branches; batch sizes are then assigned.
    """

    def __init__(self, config: RunConfig, data: tasks.Data, device: torch.device, ranks: Ranks | None = None) -> None:
        self.config, self.device, self.ranks = config, device, ranks or Ranks()
        schedule = config.schedule()
        self.branches = isinstance(schedule, policies.Policy) and schedule.needs_branches
        if self.branches and self.ranks.world > 1:
            rule = f"{config.policy} must train in one process, since it goes back and forth in the whole training"
            remedy = "start one, or take a policy that measures the noise, such as noise-scale:1"
            raise ArgumentError("policy", rule, got=f"{self.ranks.world}", remedy=remedy)
        if self.branches and data.files is not None:
            rule = f"{config.policy} must come with a data set in memory, on whose samples the loss is measured"
            remedy = "take a policy that measures the noise, such as noise-scale:1"
            raise ArgumentError("policy", rule, got=f"{config.task}, which reads from disk", remedy=remedy)
        self.plan = None if config.policy is not None else config.plan(data.dataset_size)
        self._sizes = config.sizes(data.dataset_size) if self.plan is None else (*self.plan.sizes, *self.plan.tails)
        self._last_batch: norm.LastBatch | None = None
        self.data = data.to(device)
        torch.manual_seed(config.seed)
        self.model = self._network().to(device)
        with_layout(self.model, config, data.shape, device)
        self.wrapped = self.ranks.wrapped(self.model, device, fsdp=config.fsdp, compress=config.compress)
        self.forward: Forward = forward_of(self.wrapped, config, device)
        self.loss: Callable[[Tensor, Tensor], Any] = data.objective.smoothed(config.label_smoothing).loss
        self.loader = self._loader()
        decay, model = config.weight_decay, self.model
        self.optimizer = self._optimizer(
            model.parameters() if config.decay_biases else optim.param_groups(model, weight_decay=decay)
        )
        self.lr_scheduler = lr_schedule.build(config.lr_schedule, self.optimizer, epochs=config.epochs)
        self.loader.micro_batch_size = config.micro_batch_size
        self.noise = self._tap(data.dataset_size)
        driven: dict[str, Any] = {"schedule": None} if self.branches else {"schedule": schedule, "noise": self.noise}
        if self.plan is not None:
            driven |= {"epochs": config.epochs, "tokens_per_sample": config.tokens_per_sample}
        self.batches = ab.BatchSizeScheduler(
            self.optimizer,
            self.loader,
            coupling=config.coupling if config.grows else "none",
            **driven,
        )
        if self.branches:  # at all sizes now, and not at a growth
            coupling = couplings.get(config.coupling)
            for group, size in product(self.optimizer.param_groups, config.sizes(data.dataset_size)):
                coupling.in_force(group, size / config.batch_size)
        if not self.ranks.is_first:
            torch.manual_seed((config.seed + self.ranks.rank * _APART) % 2**63)  # dropout is another on each

    def _optimizer(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        config, more = self.config, dict[str, Any]()
        if optimizers.CLASSES[config.optimizer] == "RMSpropWarmup":
            center, period = rmsprop_transition(config)
            more = {"epochs": self.loader, "center": center, "period": period}
        if not config.fsdp and optimizers.has_fused(config.optimizer, self.device):  # DTensor lacks SGD's
            more["fused"] = True
        return optimizers.build(
            config.optimizer,
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            **more,
        )

    def _network(self) -> nn.Module:
        config, network = self.config, models.build(self.config.model, **self.data.shape)
        size, synced = config.ghost_batch_size, config.sync_batch_norm
        if config.zero_init and not models.zero_init(network):
            rule, got = "must come with a network whose residual blocks end in batch norm", config.model
            raise ArgumentError("zero_init", rule, got=got, remedy="leave it out")
        try:
            if config.last_batch_norm:
                self._last_batch = norm.last_batch(network)
            network = network if size is None else norm.ghost(network, size=size)
            return norm.sync(network) if synced or (size is not None and self.ranks.world > 1) else network
        except ValueError:
            name = "ghost_batch_size" if size is not None else "sync_batch_norm" if synced else "last_batch_norm"
            rule, got = "must come with a network that has batch norm", f"{config.model}, which has none"
            raise ArgumentError(name, rule, got=got, remedy="leave it out") from None

    def _loader(self) -> ab.DataLoader:
        """The loader of the training data, with worker processes if samples are read from disk."""
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

    def _tap(self, dataset_size: int) -> ab.noise.Tap | None:
        """What measures the gradient's noise for a policy; None without one."""
        config = self.config
        if config.policy is None:
            return None
        if config.fsdp and self.ranks.world == 1:
            rule, remedy = "must come with two processes or more under a policy", "leave it out, or start more"
            raise ArgumentError("fsdp", rule, got="one", remedy=remedy)
        policy, every = deciding.chosen(config.policy)
        every = every or deciding.usual_every(dataset_size // config.batch_size)
        return ab.noise.tap(self.wrapped, self.optimizer, self.loader, every=every, norm=policy.noise_norm)

    @property
    def prepared(self) -> bool:
        """Whether the network takes batches as the loader hands them out; else they go through `prepare`."""
        return self.data.transform is None and self.data.files is None

    def prepare(self, inputs: Tensor, targets: Tensor, *, clock: int, before: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs of the network and targets, for a micro-batch.

        Args:
            inputs: as the loader hands them out.
            targets: theirs.
            clock: at which the batch starts.
            before: samples of this rank in the batch's micro-batches before this one.
        """
        ranks = self.ranks
        clock = ranks.first_clock(clock) + before * ranks.world
        return self.data.train_inputs(inputs, seed=self.config.seed, clock=clock, stride=ranks.world), targets

    def evaluate(self, *, of_training: bool = False, after: Callable[[], object] | None = None) -> tuple[float, Tensor]:
        """Mean loss, and for each target that counts whether it is right: on the test set, or on training samples.

        Args:
            of_training: on the first samples of the training set, as many as the test set has but at least those with
                2,048 targets, if there are as many; without augmentation.
            after: called after each chunk of samples; it may raise.
        """
        data = self.data
        inputs, targets = data.x_test, data.y_test
        if of_training:
            count = max(len(targets), FEWEST * len(targets) // targets.numel())
            inputs, targets = data.x_train[:count], data.y_train[:count]
        self._share_buffers()
        with precision(self.config, self.device):
            return evaluate(
                self.model,
                inputs,
                targets,
                objective=data.objective,
                prepare=lambda inputs: as_wide(data.test_inputs(inputs), self.config),
                chunk=chunk_of(data.shape),
                ranks=self.ranks,
                after=after,
            )

    def state_dict(self) -> dict[str, Any]:
        """The state of a run, without its settings, as tensors, numbers, text, dicts and lists; all ranks must ask.

        Tensors of the network and the optimizer are the living ones; those that are sharded stay so.
        """
        self._share_buffers()
        state: dict[str, Any] = {"model": dict(self.model.state_dict())}
        state |= {name: getattr(self, name).state_dict() for name in ("loader", "batches")}
        state["optimizer"] = self.optimizer.state_dict()["state"]
        if self.branches and self.noise is not None:
            state["noise"] = self.noise.state_dict()
        state["rng"] = torch.get_rng_state()
        if self.device.type != "cpu":
            state[f"rng_{self.device.type}"] = _random.state_of(self.device)
        if self.ranks.world > 1:
            state["rng_ranks"] = self.ranks.gathered({name: state[name] for name in state if name.startswith("rng")})
            state |= state["rng_ranks"][0]
        return state

    @property
    def _in_order(self) -> list[nn.Parameter]:
        """Parameters in the order in which the optimizer counts them."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def shares_checkpoints(self) -> bool:
        """Whether each rank writes its part of a checkpoint."""
        return self.ranks.world > 1 or self.config.fsdp

    def _share_buffers(self) -> None:
        """Takes rank 0's statistics of batch norm, as DistributedDataParallel does; of the last batch if asked."""
        if self._last_batch is not None:
            self._last_batch.settle()
        if self.ranks.world > 1:
            _distributed.take_from_first(self.model.buffers())

    def load_state_dict(self, state: Mapping[str, Any], *, shards: Path | None = None) -> None:
        """Goes on from what `state_dict` returned.

        Settings are not read from it: the LR follows from the epochs passed, and the optimizer keeps its groups.

        Args:
            state: the state.
            shards: the folder of the tensors of which the state holds shape and type alone.

        Raises:
            Exception: of any kind, if the state is damaged or of another run.
        """
        if shards is not None:
            state = checkpoint.joined(state, shards, model=self.model.state_dict(), parameters=self._in_order)
        self.take(state)
        if self.loader.clock > self.data.dataset_size * self.config.epochs:
            raise ArgumentError("loader", "must not stand after the end", got=f"sample {self.loader.clock:,}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the optimizer made no step
            for _ in range(self.loader.clock // self.data.dataset_size):
                self.lr_scheduler.step()
        if self.branches and self.noise is not None:
            self.noise.load_state_dict(state["noise"])
        self._load_rng(state)

    def take(self, state: Mapping[str, Any]) -> None:
        """Takes weights, moments and positions from a state, at any clock; LR and random numbers stay.

        Raises:
            Exception: as `load_state_dict`.
        """
        own, schedule = self.model.state_dict(), self.batches.state_dict()["schedule"]  # while moments and betas agree
        held = {name: value.dtype for name, value in own.items()}
        whole = {name: _distributed.sharded_as(value, own.get(name)) for name, value in state["model"].items()}
        self.model.load_state_dict(whole)
        if held != {name: value.dtype for name, value in state["model"].items()}:
            raise ArgumentError("model", "must have weights of the network's own types")
        self.loader.load_state_dict(state["loader"])
        self._load_moments(state["optimizer"])
        self.batches.load_state_dict({**state["batches"], "schedule": schedule})

    def close_tap(self) -> None:
        """Stops measuring the gradient's noise."""
        if self.noise is not None:
            self.noise.close()
            self.noise = None

    def _load_rng(self, state: Mapping[str, Any]) -> None:
        """Sets this rank's generators; where the run had other ranks, those of all but the first begin anew."""
        ranks, kept = self.ranks, state.get("rng_ranks", [state])
        if len(kept) == ranks.world:
            mine = kept[ranks.rank]
        elif ranks.is_first:
            mine = state
        else:
            torch.manual_seed((self.config.seed + ranks.rank * _APART + self.loader.clock) % 2**63)
            return
        torch.set_rng_state(mine["rng"])
        if (of_device := mine.get(f"rng_{self.device.type}")) is not None:
            _random.set_state(self.device, of_device)

    def _load_moments(self, moments: Mapping[int, Mapping[str, Any]]) -> None:
        """Gives the optimizer its moments back, checked against those of a parameter of two numbers after a step."""
        parameters = self._in_order
        if moments or self.loader.clock:
            optimizers.check_moments(moments, like=self._small_moments(), parameters=parameters)
        mine = {
            number: {name: _distributed.sharded_as(value, parameters[number]) for name, value in kept.items()}
            for number, kept in moments.items()
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": mine})

    def _small_moments(self) -> Mapping[int, Mapping[str, Any]]:
        """The moments that the optimizer keeps of a parameter of two numbers after a step."""
        parameter = nn.Parameter(torch.zeros(2, dtype=next(self.model.parameters()).dtype, device=self.device))
        parameter.grad = torch.zeros_like(parameter)
        small = self._optimizer([parameter])
        small.step()
        kept: Mapping[int, Mapping[str, Any]] = small.state_dict()["state"]
        return kept

    def try_sizes(self, *, tell: Callable[[str], None]) -> None:
        """Makes one forward and backward pass at each size that will occur, so that training compiles nothing.

        Afterwards weights, statistics and random numbers are as before. Without `compile`, only a GPU tries a size: the
        largest, beside room for the optimizer's moments, to see whether it fits into memory. On the CPU, in one
        process, `room.check` foretells whether it does.

        Raises:
            ValueError: if a size does not fit into memory, the network cannot be compiled here, or CUDA graphs cannot
                be made or would be too many.
        """
        config, wanted = self.config, self._sizes_of_passes()
        if config.cuda_graphs:
            compiling.check_graphs(wanted)
        moments = self._bytes_of_moments()
        if self.device.type == "cpu" and self._alone:
            with self._as_before():
                room.check(self._plain_pass, wanted[0], self.device, more=moments)
        if not config.compile:
            wanted = wanted[:1] if self.device.type == "cuda" else ()
        if not wanted:
            return
        doing = "compiling for" if config.compile else "trying"
        shapes = compiling.static_shapes(len(wanted)) if config.compile else nullcontext()
        captured = compiling.captured(self.device) if config.cuda_graphs else nullcontext()
        with self._as_before(), shapes, captured:
            for number, size in enumerate(wanted, 1):
                tell(f"{doing} {size:,} samples ({number} of {len(wanted)})")
                try:
                    self._try(size, held_bytes=moments)
                except torch.OutOfMemoryError:
                    raise self._too_large(size, moments) from None

    def _sizes_of_passes(self) -> tuple[int, ...]:
        """The sizes that the network will see, largest first."""
        most, world = self.config.micro_batch_size, self.ranks.world
        halved: set[int] = set()
        if self.noise is not None and self.noise.kind == "halves":
            halved.update(*(_parts([size], min(most or size, -(-size // 2))) for size in self._sizes))
        return tuple(sorted({*_parts(self._sizes, most, world=world), *halved}, reverse=True))

    def _try(self, size: int, *, held_bytes: int) -> None:
        """Makes one pass, beside so many bytes that are held."""
        with compiling.compiled(self.config.compile):
            held = torch.empty(held_bytes, dtype=torch.uint8, device=self.device)
            self._one_pass(size, self.forward)
            del held

    def _too_large(self, size: int, moments: int) -> ArgumentError:
        """The error about a pass that failed, on a GPU with a size that fits."""
        fits = None
        if self.device.type == "cuda" and self._alone:
            self.model.zero_grad()
            torch.cuda.empty_cache()
            fits = room.fitting(self._plain_pass, size, self.device, more=moments)
        return room.too_large(size, fits=fits)

    @property
    def takes_whole_batches(self) -> bool:
        """Whether updates take whole batches: on the CPU, in one process, without micro-batches and a policy."""
        config = self.config
        cut = config.micro_batch_size is not None or config.policy is not None
        return not cut and self.device.type == "cpu" and self.ranks.world == 1

    @property
    def _alone(self) -> bool:
        """Whether passes of this process wait for no other."""
        return self.ranks.world == 1 and not self.config.fsdp

    def _plain_pass(self, size: int) -> None:
        """A pass of the network as it is, not compiled."""
        self._one_pass(
            size, forward_of(self.model, replace(self.config, compile=False, cuda_graphs=False), self.device)
        )

    def _one_pass(self, size: int, forward: Forward) -> None:
        data = self.data
        first = data.test_inputs(data.x_test[:1]), data.y_test[:1]
        inputs, targets = (one.expand(size, *one.shape[1:]).contiguous() for one in first)
        self.loss(forward(inputs), targets).backward()
        self.model.zero_grad()

    def _bytes_of_moments(self) -> int:
        """Bytes that the optimizer will keep and does not yet; 0 where parameters are sharded, which is not known."""
        if self.config.fsdp or self.optimizer.state:
            return 0
        kept = self._small_moments().get(0, {}).values()
        of_a_weight = sum(value.element_size() for value in kept if isinstance(value, Tensor) and value.dim())
        return of_a_weight * sum(parameter.numel() for parameter in self._in_order if parameter.requires_grad)

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Restores batch norm's statistics and the random states afterwards."""
        kept = [buffer.clone() for buffer in self.model.buffers()]
        of_last = [(each, each.batch_so_far) for each in self.model.modules() if hasattr(each, "batch_so_far")]
        with devices.entered(self.device):
            try:
                yield
            finally:
                self.model.zero_grad()
                for layer, so_far in of_last:
                    layer.batch_so_far = so_far
                for buffer, before in zip(self.model.buffers(), kept, strict=True):
                    buffer.copy_(before)


def with_layout(model: nn.Module, config: RunConfig, shape: Mapping[str, int], device: torch.device) -> None:
    """Gives the network's weights their type, and their layout in memory where channels are last.

    Raises:
        ValueError: if channels are to be last of inputs without channels.
    """
    if config.precision == "float64":
        model.double()
    if channels_last(config, device):
        if "in_channels" not in shape:
            raise ArgumentError("channels_last", "must be left out where inputs are no images", got="True")
        if not config.fsdp:  # FSDP2 shards contiguous weights only; inputs alone set the layout of what follows
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def forward_of(model: nn.Module, config: RunConfig, device: torch.device) -> Forward:
    """The function that takes prepared inputs to scores: the network itself unless settings ask for more.

    Raises:
        ValueError: if CUDA graphs are to be replayed elsewhere than on a GPU.
    """
    last = channels_last(config, device)
    called: Forward = model
    if config.cuda_graphs and device.type != "cuda":
        raise ArgumentError(
            "cuda_graphs", "must be used on a GPU", got=f"the device {device.type}", remedy="leave it out"
        )
    if config.compile:
        called = torch.compile(model, mode="reduce-overhead" if config.cuda_graphs else None)
    if config.precision == "float32" and not last:
        return called

    def forward(inputs: Tensor) -> Tensor:
        if last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with precision(config, device):
            scores = called(as_wide(inputs, config))
        return scores if config.precision == "float64" else scores.float()

    return forward


def as_wide(inputs: Tensor, config: RunConfig) -> Tensor:
    """Inputs in the network's own type, where that is float64; text stays whole numbers."""
    return inputs.double() if config.precision == "float64" and inputs.is_floating_point() else inputs


def channels_last(config: RunConfig, device: torch.device) -> bool:
    """Whether channels are last in memory: as the settings say, else as it was faster when measured."""
    if config.channels_last is None:
        return bool(measured.faster(config.model, device).get("channels_last", False))
    return config.channels_last


def precision(config: RunConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the network is called: autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()


def sizes(plan: Plan, micro_batch_size: int | None, *, world: int = 1) -> tuple[int, ...]:
    """The sizes that the network will see, largest first: of a plan's micro-batches on `world` ranks.

    Example:
        >>> from adabatch.schedules import steps
        >>> plan = steps("0:4 16:8").plan(dataset_size=18, epochs=2)
        >>> sizes(plan, None), sizes(plan, 3), sizes(plan, 3, world=2)
        ((8, 4, 2), (3, 2), (2, 1))
    """
    return _parts((*plan.sizes, *plan.tails), micro_batch_size, world=world)


def _parts(batches: Iterable[int], micro_batch_size: int | None, *, world: int = 1) -> tuple[int, ...]:
    """The sizes of the micro-batches of batches, largest first."""
    found = set()
    for size in {*batches}:
        shares = {max(1, size // world), -(-size // world)}
        count = 1 if micro_batch_size is None else -(-max(shares) // micro_batch_size)
        found |= {part for share in shares for part in (max(1, share // count), -(-share // count))}
    return tuple(sorted(found, reverse=True))


def with_fastest_micro_batch(config: RunConfig, *, data: tasks.Data | None = None) -> RunConfig:
    """The settings with the micro-batch size that trains most samples per second here, by `profile_step`.

    Returns:
        `config` with the fastest power of two up to its largest batch; whole batches if the largest batch is fastest.

    Raises:
        ValueError: if not even one sample fits.
    """
    device = devices.pick_device(config.device)
    if device.type == "cpu":
        memory.tune_allocator()
    loaded = tasks.get(config.task).load(config.data) if data is None else data
    config = replace(config, micro_batch_size=None)
    largest = config.sizes(loaded.dataset_size)[-1]
    plain = config if config.policy is None else config.constant()  # a policy is not asked before the training
    with failures.told(config, device, None), devices.threads(config.threads), devices.entered(device):
        setup = Setup(plain, loaded, device)

        def step(batch: Any) -> None:
            inputs, targets = batch if setup.prepared else setup.prepare(*batch, clock=0)
            setup.loss(setup.forward(inputs), targets).backward()

        curve = ab.profile_step(step, setup.loader, setup.wrapped, setup.optimizer, maximum=largest)
        setup.batches.close()
    return replace(config, micro_batch_size=None if curve.fastest == largest else curve.fastest)
