"""A plan in the forms that scripts, tables and other trainers read. No torch and no numpy here.

Other trainers have an arithmetic of their own. Each form is written so that it means the plan there, update for update,
or an error says what the reader cannot do; where the reader does something else all the same, a note says so.

Sources, read in 2026: NVIDIA/Megatron-LM `megatron/core/num_microbatches_calculator.py`; allenai/OLMo-core
`src/olmo_core/train/callbacks/batch_size_scheduler.py` and `data/data_loader.py` (batch sizes count tokens);
AI-Hypercomputer/maxtext `src/maxtext/utils/rampup_batch.py`; KellerJordan/modded-nanogpt `train_gpt.py`;
google-deepmind/optax `optax/transforms/_accumulation.py` (`MultiSteps`).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final, NamedTuple

from adabatch import _checks, couplings, schedules
from adabatch._errors import ArgumentError
from adabatch.lab.planner.ramps import short
from adabatch.lab.training import lr_schedule as lr_text
from adabatch.schedules import Plan, Schedule
from adabatch.units import Duration

_FORMAT: Final = 1
_EXACT: Final = 2**53  # a float holds every whole number up to here
_INT32: Final = 2**31 - 1  # jax's whole numbers end here unless it is told otherwise
_FLOAT: Final = 1e-9  # relative difference of equal factors
# Hyper-parameters of a group, to see which of them a coupling changes.
_GROUP: Final = {"lr": 1.0, "momentum": 0.9, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


class Stage(NamedTuple):
    """A batch size, and where it begins: the first update that has it, and the clock of that update in samples."""

    update: int
    clock: int
    batch_size: int


class Emitted(NamedTuple):
    """A plan in a reader's form, and sentences about what the reader does otherwise."""

    text: str
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Emission:
    """A plan, and what readers need to know beside it.

    Args:
        plan: the plan; for other trainers one whose batches run on over the ends of epochs, as theirs do.
        coupling: how the LR follows the batch size.
        batch_size: the one for which the LR was chosen, in samples.
        tokens_per_sample: tokens in a sample; None if unknown.
        micro_batch_size: samples per forward and backward pass on one rank; None if unknown.
        ranks: that share a batch; None if unknown.

    Raises:
        ValueError: if a number is below 1.
        TypeError: if one is not whole.
    """

    plan: Plan
    coupling: couplings.Coupling
    batch_size: int
    tokens_per_sample: int | None = None
    micro_batch_size: int | None = None
    ranks: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "tokens_per_sample", "micro_batch_size", "ranks"):
            if getattr(self, name) is not None:
                _checks.whole(name, getattr(self, name))

    def stages(self) -> list[Stage]:
        """The batch sizes in turn, as updates have them: without those that hold for no update."""
        found: list[Stage] = []
        for start in self.plan.starts_samples:
            update = self.plan.update_at(start)
            if self.plan.end_samples is not None and update >= self.plan.updates:
                break
            stage = Stage(update, self.plan.clock_of(update), self.plan.batch_size_at(self.plan.clock_of(update)))
            if not found or found[-1].batch_size != stage.batch_size:
                found.append(stage)
        return found

    def factor(self, batch_size: int) -> float:
        """The coupling's factor on the LR at a batch size."""
        return self.coupling.lr_factor(batch_size / self.batch_size)

    def tokens(self, reader: str) -> int:
        """Tokens in a sample; raises if unknown."""
        if self.tokens_per_sample is None:
            rule = f"must be given for {reader}, which counts tokens"
            remedy = "it is the length of a sequence, or 1 where the reader has none"
            raise ArgumentError("tokens_per_sample", rule, got="none", remedy=remedy)
        return self.tokens_per_sample

    def whole(self, reader: str) -> list[Stage]:
        """The stages; raises if micro-batches on all ranks do not divide a size."""
        micro = (self.micro_batch_size or 1) * (self.ranks or 1)
        for stage in self.stages():
            if stage.batch_size % micro:
                raise ArgumentError(
                    "micro_batch_size" if self.micro_batch_size else "ranks",
                    f"must divide every batch size for {reader}",
                    got=f"{micro:,} samples on all ranks and a batch of {stage.batch_size:,}",
                    remedy=f"let sizes be multiples of {micro:,}, for example with `round_to`",
                )
        return self.stages()

    def left_out(self, reader: str) -> list[str]:
        """A note if the coupling changes more than the LR, which is all that a text for the reader has of it."""
        changed: set[str] = set()
        for stage in self.stages():
            with contextlib.suppress(ArgumentError, KeyError):  # at sizes that the coupling refuses
                changed |= self.coupling.in_force(_GROUP, stage.batch_size / self.batch_size).keys() - {"lr"}
        named = ", ".join(sorted(changed))
        return [f"{self.coupling.name} also changes {named}, which is not in the text for {reader}"] if changed else []

    def uncoupled(self, reader: str) -> list[str]:
        """A note if the coupling changes the LR, which the reader leaves alone."""
        largest = max((self.factor(stage.batch_size) for stage in self.stages()), key=lambda x: abs(math.log(x)))
        if math.isclose(largest, 1, rel_tol=_FLOAT):
            return []
        return [
            f"{reader} does not couple its LR to the batch: {self.coupling.name} would multiply it by {largest:.4g}"
        ]


# For scripts and tables.


def python(schedule: Schedule, *, coupling: str, epochs: int, tokens_per_sample: int | None = None) -> str:
    """Two lines of Python for a script with `adabatch as ab`, an `optimizer` and a `loader`.

    Args:
        schedule: the batch schedule.
        coupling: as text.
        epochs: length of the training.
        tokens_per_sample: tokens in a sample; None if the schedule counts none.

    Example:
        >>> from adabatch import epochs
        >>> print(python(schedules.geometric(2, epochs(4), maximum=256), coupling="linear", epochs=20))
        growth = ab.schedules.geometric(factor=2, every=ab.epochs(4), maximum=256)
        batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling='linear', epochs=20)
    """
    return f"growth = {source_of(schedule)}\n{_scheduler(repr(coupling), epochs, tokens_per_sample)}"


def python_by_rule(
    lr_schedule: str,
    *,
    dataset_size: int,
    epochs: int,
    batch_size: int,
    max_batch_size: int | None = None,
    round_to: int = 1,
    rule: str = "smith",
    coupling: str | None = None,
    world_sizes: str | None = None,
) -> str:
    """Lines of Python for a script with `torch`, `adabatch as ab`, an `optimizer` and a `loader`.

    The script steps the LR scheduler once per epoch and calls `batches.step()` after each optimizer step.

    Args:
        lr_schedule: text as `adabatch train --lr-schedule` reads it.
        dataset_size: samples in an epoch.
        epochs: length of the training.
        batch_size: the loader's.
        max_batch_size: the largest batch size; None for a tenth of the data set.
        round_to: sizes are multiples of this number.
        rule: how falls of the LR become growth.
        coupling: as text; None for that of the rule.
        world_sizes: text such as `"0:1 2048:4"`; None names no numbers of ranks.

    Raises:
        ValueError: if a number or the text is out of range.

    Example:
        >>> print(python_by_rule("cosine", dataset_size=50_000, epochs=90, batch_size=128, max_batch_size=2048))
        lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
        growth = ab.from_lr_scheduler(lr_scheduler, dataset_size=50000, epochs=90, batch_size=128, maximum=2048)
        batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling=growth.coupling, epochs=90)
    """
    numbers = {"dataset_size": dataset_size, "epochs": epochs, "batch_size": batch_size}
    settings = [f"{name}={_checks.whole(name, value)}" for name, value in numbers.items()]
    settings += [] if max_batch_size is None else [f"maximum={_checks.whole('max_batch_size', max_batch_size)}"]
    settings += [] if round_to == 1 else [f"round_to={_checks.whole('round_to', round_to)}"]
    settings += [] if rule == "smith" else [f'rule="{rule}"']
    wanted = "" if world_sizes is None else f"growth = ab.schedules.world_sizes(growth, {world_sizes!r})\n"
    return (
        f"lr_scheduler = {lr_text.python(lr_schedule, epochs=epochs)}\n"
        f"growth = ab.from_lr_scheduler(lr_scheduler, {', '.join(settings)})\n"
        f"{wanted}{_scheduler('growth.coupling' if coupling is None else repr(coupling), epochs, None)}"
    )


def _scheduler(coupling: str, epochs: int, tokens_per_sample: int | None) -> str:
    tokens = "" if tokens_per_sample is None else f", tokens_per_sample={tokens_per_sample}"
    return f"batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling={coupling}, epochs={epochs}{tokens})"


def source_of(value: Any) -> str:
    """A schedule, or a value within one, as Python for a script with `adabatch as ab`; defaults are left out.

    Example:
        >>> from adabatch import tokens
        >>> source_of(schedules.steps("0:8 1M:16", unit="tokens"))
        'ab.schedules.steps(changes=((ab.tokens(0), 8), (ab.tokens(1000000), 16)))'
    """
    if isinstance(value, Duration):
        return f"ab.{value.unit}({value.count!r})"
    if isinstance(value, tuple):
        inner = ", ".join(source_of(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not isinstance(value, Schedule):
        return repr(value)
    kind = type(value)
    if getattr(schedules, kind.__name__, None) is not kind:  # a user's own
        return f"ab.schedules.Schedule.from_json({value.to_json()!r})"
    entries: Iterable[Any] = fields(value)  # type: ignore[arg-type]
    given = [(entry.name, getattr(value, entry.name), entry.default) for entry in entries]
    return (
        f"ab.schedules.{kind.__name__}({', '.join(f'{n}={source_of(v)}' for n, v, default in given if v != default)})"
    )


def rows(emission: Emission) -> list[dict[str, Any]]:
    """The stages as rows: where each begins in updates, samples and tokens, its batch size and the LR's factor.

    Where the plan wants numbers of processes, also that at the stage's beginning.
    """
    per, plan = emission.tokens_per_sample, emission.plan
    return [
        {
            "update": stage.update,
            "samples": stage.clock,
            "tokens": None if per is None else stage.clock * per,
            "batch_size": stage.batch_size,
            "lr_factor": emission.factor(stage.batch_size),
            **({"world_size": plan.world_size_at(stage.clock)} if plan.world_sizes else {}),
        }
        for stage in emission.stages()
    ]


def _csv(emission: Emission) -> Emitted:
    table, text = rows(emission), io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return Emitted(text.getvalue().rstrip("\n"), emission.left_out("tables"))


def _json(emission: Emission) -> Emitted:
    plan = emission.plan
    head = {
        "format": _FORMAT,
        "dataset_size": plan.dataset_size,
        "epochs": plan.epochs,
        "drop_last": plan.drop_last,
        "run_on": plan.run_on,
        "tokens_per_sample": emission.tokens_per_sample,
        "coupling": emission.coupling.to_json(),
        "base_batch_size": emission.batch_size,
        "updates": None if plan.end_samples is None else plan.updates,
    }
    return Emitted(json.dumps({**head, "stages": rows(emission)}, indent=2), [])


# For other trainers, whose batches run on over the ends of epochs.


def _megatron(emission: Emission) -> Emitted:
    """Thresholds in tokens, which Megatron divides by the sequence length and rounds down, so multiples of it."""
    stages = emission.whole("Megatron-LM")
    if any(after.batch_size < before.batch_size for before, after in pairwise(stages)):
        rule, remedy = "must not shrink the batch for Megatron-LM, which stops where it does", "let it grow"
        raise ArgumentError("plan", rule, got=", ".join(f"{stage.batch_size:,}" for stage in stages), remedy=remedy)
    per = emission.tokens("Megatron-LM") if len(stages) > 1 else 1  # one stage begins at 0, whatever is counted
    counts = [stage.clock * per for stage in stages]
    if counts[-1] > _EXACT:
        rule = "must begin its last stage where Megatron-LM, which reads a float, is exact"
        raise ArgumentError("plan", rule, got=f"{counts[-1]:,}", remedy=f"end growth before {_EXACT:,}")
    text = " ".join(f"{short(count)}:{stage.batch_size}" for count, stage in zip(counts, stages, strict=True))
    return Emitted(f'--step-batch-size-schedule "{text}"', emission.uncoupled("Megatron-LM"))


def _olmo(emission: Emission) -> Emitted:
    """A callback of OLMo-core: batch sizes in tokens, whole factors apart, with an LR that follows their root."""
    reader, plan = "OLMo-core", emission.plan
    per, stages = emission.tokens(reader), emission.whole("OLMo-core")
    if plan.epochs not in (None, 1):
        raise ArgumentError(
            "epochs",
            f"must be 1 for {reader}, whose epochs end with a batch that it drops",
            value=plan.epochs,
            remedy="plan one epoch of as many samples, with growth in samples or tokens",
        )
    if emission.coupling.name != "sqrt" or stages[0].batch_size != emission.batch_size:
        got = f"{emission.coupling.describe()} from batch size {emission.batch_size:,}"
        rule = f"must be `sqrt` from the first batch size on for {reader}, which multiplies its LR by that root"
        raise ArgumentError("coupling", rule, got=got, remedy="plan with the coupling sqrt")
    for before, after in pairwise(stages):
        small, large = sorted((before.batch_size, after.batch_size))
        if large % small:
            rule, got = f"must change the batch by whole factors for {reader}", f"{large:,} after {small:,}"
            raise ArgumentError("plan", rule, got=got, remedy="grow times 2, or choose sizes that divide each other")
    starts, notes = olmo_starts(stages, plan.end_samples), []
    for stage, start in zip(stages, starts, strict=True):
        if start is None:
            rule = f"must keep each batch size long enough for {reader}, which waits for whole batches of the new size"
            raise ArgumentError("plan", rule, got=f"{stage.batch_size:,}, which it would skip", remedy="grow later")
        if start != stage.clock:
            notes.append(
                f"{reader} waits for whole batches of the new size: {stage.batch_size:,} from sample {start:,} on, in "
                f"place of {stage.clock:,}"
            )
    sizes = ", ".join(str(stage.batch_size * per) for stage in stages)
    thresholds = ", ".join(f"Duration.tokens({stage.clock * per})" for stage in stages)
    return Emitted(f"BatchSizeSchedulerCallback(\n    batch_sizes=[{sizes}],\n    schedule=[{thresholds}],\n)", notes)


def olmo_starts(stages: list[Stage], end: int | None) -> list[int | None]:
    """The clock at which OLMo-core begins each stage, within one epoch; None for one that it skips.

    It changes to a larger size once the batches passed are a multiple of the factor, that is, at a multiple of the new
    size, to a smaller one at the next batch; and always to the latest stage that is due.
    """
    found: list[int | None] = [0]
    at, size = 0, stages[0].batch_size
    for stage, due in zip(stages[1:], [*(each.clock for each in stages[2:]), end], strict=False):
        unit = max(size, stage.batch_size)
        start = -(-max(stage.clock, at) // unit) * unit
        if due is not None and start >= due:
            found.append(None)
        else:
            at, size = start, stage.batch_size
            found.append(start)
    return found


def _maxtext(emission: Emission) -> Emitted:
    """MaxText's ramp: even increments, each held until as many samples have passed since the last."""
    reader, stages, ranks = "MaxText", emission.whole("MaxText"), emission.ranks
    steps = {after.batch_size - before.batch_size for before, after in pairwise(stages)}
    if len(steps) != 1 or min(steps) < 1:
        rule = f"must grow in even steps for {reader}, which knows linear ramps only"
        got = ", ".join(f"{stage.batch_size:,}" for stage in stages)
        raise ArgumentError("plan", rule, got=got, remedy="plan a `linear_ramp`")
    lengths = [after.update - before.update for before, after in pairwise(stages)]
    held = list(zip(lengths, (stage.batch_size for stage in stages), strict=False))
    least, most = max((n - 1) * size for n, size in held), min(n * size for n, size in held)
    if least >= most:
        rule = f"must hold each size for about as many samples for {reader}, which knows even ramps only"
        got = ", ".join(f"{n * size:,}" for n, size in held)
        raise ArgumentError("plan", rule, got=f"{got} samples", remedy="plan a `linear_ramp` over more samples")
    if ranks is None:
        rule, remedy = f"must be given for {reader}, which counts samples a device", "it is the number of devices"
        raise ArgumentError("ranks", rule, got="none", remedy=remedy)
    values = {
        "enable_rampup_batch_size": "true",
        "per_device_batch_size_start": stages[0].batch_size // ranks,
        "per_device_batch_size_increment": steps.pop() // ranks,
        "per_device_batch_size": stages[-1].batch_size // ranks,
        "global_rampup_samples": most * len(held),
    }
    notes = emission.uncoupled(reader)
    devices = f"{ranks:,} {'device' if ranks == 1 else 'devices'}"
    notes.append(f"for {devices}; its LR schedule counts updates, of which a larger batch has fewer")
    return Emitted("\n".join(f"{name}: {value}" for name, value in values.items()), notes)


def _nanogpt(emission: Emission) -> Emitted:
    """The stages of modded-nanogpt: shares of the updates, batch sizes in tokens."""
    per, stages, plan = emission.tokens("modded-nanogpt"), emission.whole("modded-nanogpt"), emission.plan
    updates = plan.updates
    ends = [*(stage.update for stage in stages[1:]), updates]
    lines = [
        f"    TrainingStage(duration={end - stage.update} / {updates}, batch_size={stage.batch_size} * {per}, "
        f"lr_mul={emission.factor(stage.batch_size):.12g}),"
        for stage, end in zip(stages, ends, strict=True)
    ]
    text = "\n".join([f"# num_scheduled_iterations = {updates}", "TRAINING_STAGES = [", *lines, "]"])
    return Emitted(
        text, ["the extension stage, the last of the list there, and the other fields of a stage stay yours"]
    )


def _optax(emission: Emission) -> Emitted:
    """Functions of the update: micro-batches in it, for `optax.MultiSteps`, and an LR schedule at its base update."""
    stages, base = emission.stages(), emission.batch_size
    micro = emission.micro_batch_size * (emission.ranks or 1) if emission.micro_batch_size else base
    for stage in stages:
        if stage.batch_size % micro:
            common = math.gcd(*(each.batch_size for each in stages))
            rule, got = "must divide every batch size for optax", f"{micro:,} on all ranks and {stage.batch_size:,}"
            remedy = f"{common:,} does, or let sizes be multiples of {micro:,}"
            raise ArgumentError("micro_batch_size", rule, got=got, remedy=remedy)
    ends = [*(stage.update for stage in stages[1:]), emission.plan.updates]
    longest = max((end - stage.update) * (stage.batch_size % base) for stage, end in zip(stages, ends, strict=True))
    if max(longest + base, ends[-1], emission.plan.clock_of(ends[-1]) // base) > _INT32:
        rule = "must stay within the whole numbers of jax, which end at 2**31"
        raise ArgumentError("plan", rule, got="more", remedy="choose sizes that are multiples of the first one")
    tables = {
        "FIRST": [stage.update for stage in stages],
        "PASSED": [stage.clock // base for stage in stages],
        "REST": [stage.clock % base for stage in stages],
        "TAKES": [stage.batch_size // base for stage in stages],
        "PART": [stage.batch_size % base for stage in stages],
        "EVERY_K": [stage.batch_size // micro for stage in stages],
        "FACTOR": [emission.factor(stage.batch_size) for stage in stages],
    }
    arrays = "\n".join(f"{name} = jnp.array({values})" for name, values in tables.items())
    text = f'''import jax.numpy as jnp

# One entry a batch size: its first update, the clock there and its samples, both as whole updates of {base} and a rest.
{arrays}


def row(update):
    return jnp.searchsorted(FIRST, update, side="right") - 1


def every_k(update):
    """Micro-batches of {micro} samples in an update, for optax.MultiSteps."""
    return EVERY_K[row(update)]


def base_update(update):
    """The update of training at {base} samples that starts at the same sample or holds it."""
    at = row(update)
    since = update - FIRST[at]
    return PASSED[at] + since * TAKES[at] + (REST[at] + since * PART[at]) // {base}


def in_force(schedule):
    """The LR of a schedule that counts updates of {base} samples, coupled to the batch size."""
    return lambda update: schedule(base_update(update)) * FACTOR[row(update)]


# optimizer = optax.MultiSteps(optax.adamw(in_force(schedule)), every_k_schedule=every_k)'''
    return Emitted(text, [])


FOREIGN: Final[dict[str, Callable[[Emission], Emitted]]] = {
    "megatron": _megatron,
    "olmo": _olmo,
    "maxtext": _maxtext,
    "nanogpt-stages": _nanogpt,
    "optax": _optax,
}
READERS: Final = dict(zip(FOREIGN, ("Megatron-LM", "OLMo-core", "MaxText", "modded-nanogpt", "optax"), strict=True))
TABLES: Final[dict[str, Callable[[Emission], Emitted]]] = {"csv": _csv, "json": _json}
FORMATS: Final = ("python", *TABLES, *FOREIGN)


def emit(form: str, emission: Emission) -> Emitted:
    """The plan in a form: `csv`, `json`, or that of another trainer.

    Args:
        form: a key of `TABLES` or `FOREIGN`.
        emission: the plan, and what the reader needs to know.

    Raises:
        ValueError: if there is no such form, something that the reader needs is missing, or it cannot do what the plan
            asks for.

    Example:
        >>> plan = schedules.steps("0:8 1000:16").plan(dataset_size=None)
        >>> known = Emission(plan=plan, coupling=couplings.none(), batch_size=8, tokens_per_sample=1024)
        >>> print(emit("megatron", known).text)
        --step-batch-size-schedule "0:8 1024K:16"
    """
    writers = TABLES | FOREIGN
    text, notes = writers[_checks.one_of("emit", form, tuple(writers))](emission)
    if form in FOREIGN:
        notes = notes + emission.left_out(READERS[form])
        if emission.plan.world_sizes:
            notes.append(f"{READERS[form]} takes no numbers of processes by batch size, so the plan's are left out")
    return Emitted(text, notes)
