"""Frozen records: a run's reports, and the state from which it resumes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import pairwise
from math import inf, isfinite
from typing import Any, Final, TypeVar

import numpy as np
from torch import Tensor

from adabatch._errors import ArgumentError
from adabatch.lab.training.config import RunConfig
from adabatch.types import Decision, NoiseEstimate, Observation


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for a progress bar or a log.

    Attributes:
        samples: the clock, in samples.
        total_samples: the clock at the end of the run.
        epoch: the epoch under way, from 0.
        epochs: epochs in all.
        batch_size: of the update trained on last, in samples.
        lr: the LR in force in it.
        samples_per_second: of training, since the epoch or the batch size began; at an evaluation since the last one.
        seconds: of training so far.
        test_accuracy: of the last evaluation, a fraction; None before the first.
        note: work beside the training, in words: before the first update, or branches; None during training.
        evaluation: the one just made; None between evaluations.
        seconds_left: of the run, evaluations and checkpoints included, at the pace since the last evaluation; None
            between evaluations.
        wants: the number of processes that the schedule wants for the batch size, if there is another; else None.
    """

    samples: int
    total_samples: int
    epoch: int
    epochs: int
    batch_size: int
    lr: float
    samples_per_second: float
    seconds: float
    test_accuracy: float | None
    note: str | None = None
    evaluation: Evaluation | None = None
    seconds_left: float | None = None
    wants: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation on the test set: a line of `metrics.jsonl`.

    Attributes:
        samples: the clock, in samples.
        epoch: epochs completed.
        updates: optimizer updates so far.
        seconds: of training so far, without evaluations and checkpoints.
        batch_size: of the update trained on last, in samples.
        lr: the LR in force in it.
        train_loss: mean over the samples trained on since the last evaluation; None: it was not finite.
        test_loss: mean over the test set; None: it was not finite.
        test_accuracy: share of the test set that is right.
        communication_bytes: of gradients that each rank had averaged, in an update, a mean since the last evaluation;
            in the type in which they travel. None for one process.
        communication_seconds: in which rank 0 did nothing but that, waiting included, likewise; None for one process,
            on GPUs and under FSDP2, where it is not known.
        noise_scale: of the gradient, in samples, as it was measured for a policy; None without a policy or measurement,
            or where it is infinite, since the signal came out at 0 or below.
        noise_low: the lower end of its interval of 95 %; None without one.
        noise_high: the upper end; None without one, or where there is no end.
        decided: the reason of the policy's latest look, also to keep the batch size; of its latest decision before the
            first look; None before that.
    """

    samples: int
    epoch: int
    updates: int
    seconds: float
    batch_size: int
    lr: float
    train_loss: float | None
    test_loss: float | None
    test_accuracy: float
    communication_bytes: int | None = None
    communication_seconds: float | None = None
    noise_scale: float | None = None
    noise_low: float | None = None
    noise_high: float | None = None
    decided: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite; JSON has no number for such a loss."""
        return self.train_loss is None or self.test_loss is None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


_LARGEST: Final = 1e300
_Record = TypeVar("_Record")
# For each declared type of a field: the rule for its values in words, and whether a value keeps it.
_KINDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "int": ("a whole number from 0 on", _whole),
    "int | None": ("a whole number from 0 on or null", lambda value: value is None or _whole(value)),
    "float": ("a number from 0 on", lambda value: _number(value) and value >= 0),
    "float | None": ("a number or null", lambda value: value is None or _number(value)),
    "str": ("text", lambda value: isinstance(value, str)),
    "str | None": ("text or null", lambda value: value is None or isinstance(value, str)),
}


def checked(record: _Record) -> _Record:
    """The record itself, if its values have the declared types of its fields.

    Raises:
        ValueError: if one has another type, is negative or not finite; or if an accuracy is above 1.
    """
    for field in fields(record):  # type: ignore[arg-type]
        words, fits = _KINDS.get(str(field.type), ("", lambda _: True))
        value = getattr(record, field.name)
        if not fits(value):
            raise ArgumentError(field.name, f"must be {words}", got=repr(value)[:40])
        if field.name.endswith("accuracy") and value > 1:
            raise ArgumentError(field.name, "must be at most 1", value=value)
    return record


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as plain values; JSON has no number for an end that is infinite, which becomes null.

    Example:
        >>> decision_json(Decision(640, 64, "grows to 64", interval=(70.0, float("inf"))))["interval"]
        [70.0, None]
    """
    values: dict[str, Any] = _finite(asdict(decision))
    return values


def decision_of(values: Mapping[str, Any]) -> Decision:
    """The decision that `decision_json` wrote.

    Raises:
        TypeError: if it is none.
        ValueError: if a value is of another kind.
    """
    read = dict(values)
    if read.get("interval") is not None:
        low, high = (_number_or_inf("interval", end) for end in read["interval"])
        read["interval"] = low, high
    if (seen := read.get("observation")) is not None:
        noise = seen["noise"] and NoiseEstimate(**{key: _number_or_inf(key, it) for key, it in seen["noise"].items()})
        branches = seen.get("branches") and tuple(
            tuple(_number_or_inf("branches", loss) for loss in row) for row in seen["branches"]
        )
        read["observation"] = checked(Observation(**{**seen, "noise": noise, "branches": branches}))
    return checked(Decision(**read))


def _number_or_inf(name: str, value: Any) -> float:
    if value is not None and not _number(value):
        raise ArgumentError(name, "must be a number or null", got=repr(value)[:40])
    return inf if value is None else float(value)


def _finite(value: Any) -> Any:
    """Plain values with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def packed(right: Tensor) -> str | None:
    """Text that says which samples are right: their number and, in base64, a bit each, from the highest bit on.

    Example:
        >>> packed(Tensor([1, 0, 1]).bool())
        '3:oA=='
    """
    if right.dim() != 1:
        return None
    bits = np.packbits(right.cpu().numpy()).tobytes()
    return f"{len(right)}:{base64.b64encode(bits).decode()}"


def unpacked(text: str) -> list[bool]:
    """Whether each sample is right, from the text of `packed`.

    Raises:
        ValueError: if `packed` did not write it.

    Example:
        >>> unpacked("3:oA==")
        [True, False, True]
    """
    count, _, bits = text.partition(":")
    try:
        found = np.unpackbits(np.frombuffer(base64.b64decode(bits, validate=True), dtype=np.uint8))
        if not 0 <= len(found) - int(count) < 8:
            raise ValueError(f"{len(found)} bits for {count} samples")
    except ValueError as error:
        raise ArgumentError("test_right", "must be what `packed` wrote", got=f"{text[:20]!r} ({error})") from None
    return [bool(bit) for bit in found[: int(count)]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The findings of a finished run: the content of `result.json`.

    Attributes:
        test_accuracy: at the end, a fraction.
        best_accuracy: the highest of all evaluations.
        updates: optimizer updates.
        samples: samples trained on.
        epochs: epochs begun; the last one is complete unless the run diverged.
        train_seconds: seconds of training: no evaluation, no checkpoint, no start-up.
        samples_per_second: samples trained on per second, for each batch size.
        batch_sizes: the batch sizes in the order in which they occurred.
        history: every evaluation.
        decisions: every change of the batch size with its reason.
        target: the test accuracy aimed at.
        updates_to_target: updates at the first evaluation that reached it; None if none did.
        seconds_to_target: seconds of training until then; None if none did.
        test_right: which test samples were right at the end, as `packed` writes it; None for text and segmentation,
            or in results of earlier versions.
        chance: share of the test set's most frequent class, the accuracy of always answering it; None without classes,
            or in results of earlier versions.
        at_chance: whether the accuracy at the end is not told from chance, see `evaluation.chance_end`.
        noise_from: the parts of batches from which noise was measured for a policy, in words; None without one.
    """

    test_accuracy: float
    best_accuracy: float
    updates: int
    samples: int
    epochs: int
    train_seconds: float
    samples_per_second: Mapping[int, float]
    batch_sizes: tuple[int, ...]
    history: tuple[Evaluation, ...]
    decisions: tuple[Decision, ...]
    target: float
    updates_to_target: int | None
    seconds_to_target: float | None
    test_right: str | None = None
    chance: float | None = None
    at_chance: bool = False
    noise_from: str | None = None

    def first_at(self, accuracy: float) -> Evaluation | None:
        """The first evaluation whose test accuracy is at least `accuracy`; None if there is none."""
        return next((found for found in self.history if found.test_accuracy >= accuracy), None)

    @property
    def diverged_at(self) -> Evaluation | None:
        """The first evaluation at which a loss was not finite; None if there is none."""
        return next((found for found in self.history if found.diverged), None)

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, at which the run ended."""
        return self.diverged_at is not None

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, with `diverged`; batch sizes as keys become text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["samples_per_second"] = {str(size): rate for size, rate in self.samples_per_second.items()}
        values["batch_sizes"] = list(self.batch_sizes)
        values["history"] = [asdict(found) for found in self.history]
        values["decisions"] = [decision_json(decision) for decision in self.decisions]
        values["diverged"] = self.diverged
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """The record that `to_json` wrote.

        Raises:
            ValueError: if it is no such record.
        """
        try:
            read = {name: value for name, value in dict(values).items() if name != "diverged"}  # the history tells
            read["samples_per_second"] = {int(size): rate for size, rate in read["samples_per_second"].items()}
            read["batch_sizes"] = tuple(read["batch_sizes"])
            read["history"] = tuple(checked(Evaluation(**found)) for found in read["history"])
            read["decisions"] = tuple(map(decision_of, read["decisions"]))
            found = checked(cls(**read))
            for name in ("history", "updates", "samples", "epochs", "train_seconds"):
                if not getattr(found, name):
                    raise ArgumentError(name, "must not be empty or 0")
            if not all(_whole(size) and size for size in (*found.batch_sizes, *found.samples_per_second)):
                raise ArgumentError("batch_sizes", "must be whole numbers from 1 on")
            if not all(_number(rate) and rate > 0 for rate in found.samples_per_second.values()):
                raise ArgumentError("samples_per_second", "must be numbers above 0")
            if found.test_right is not None:
                unpacked(found.test_right)
            return found
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArgumentError("result", "must be what `to_json` wrote", got=f"something else ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The state from which a run resumes; its evaluations and decisions are in its logs.

    Attributes:
        config: the settings.
        data: the fingerprint of the data.
        parts: the states of network, optimizer, loader and batch schedule.
        updates: optimizer updates so far.
        samples: samples trained on so far.
        loss_sum: sum of the losses of the samples since the last evaluation.
        loss_samples: number of these samples.
        stopwatch: batch size, samples and seconds of each batch size.
        evaluations: number of lines in the metrics.
        decisions: number of lines in the decisions.
        test_right: which test samples were right at the end, once it is reached.
        shards: the folder of the tensors of network and optimizer, of which the parts hold shape and type alone; None
            if the parts hold them.
        decided: as in `Evaluation`.
        seconds_beside: of training that left no trace: branches, and stretches that the run went back from.
        branching: the state of a policy that asks for branches; None of any other.
        before: the state before the last growth, to which such a policy may go back; None for none.
    """

    config: RunConfig
    data: str
    parts: Mapping[str, Any]
    updates: int
    samples: int
    loss_sum: Any  # a float, which is not finite where the run diverged
    loss_samples: int
    stopwatch: list[list[Any]]
    evaluations: int
    decisions: int
    test_right: str | None
    shards: str | None = None
    decided: str | None = None
    seconds_beside: float = 0.0
    branching: Mapping[str, Any] | None = None
    before: RunState | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers, text, dicts and lists."""
        before = None if self.before is None else self.before.to_dict()
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"config": self.config.to_json(), "before": before}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunState:
        """The state that `to_dict` gave.

        Raises:
            ValueError: if an entry is missing, of another kind or negative.
            TypeError: if a setting is not of its kind.
        """
        names = [field.name for field in fields(cls)]
        values = {each.name: each.default for each in fields(cls) if each.default is not MISSING} | dict(values)
        if missing := [name for name in names if name not in values]:
            raise ArgumentError(missing[0], "must be there")
        config = RunConfig.from_json(values["config"])
        before = None if values["before"] is None else cls.from_dict(values["before"])
        state = checked(cls(**{name: values[name] for name in names} | {"config": config, "before": before}))
        if not isinstance(state.loss_sum, float) or state.loss_sum < 0:
            raise ArgumentError("loss_sum", "must be a number from 0 on", got=repr(state.loss_sum)[:40])
        if state.test_right is not None:
            unpacked(state.test_right)
        return state

    def check_history(self, history: Sequence[Evaluation]) -> None:
        """Checks that `history` holds the evaluations up to this state.

        Raises:
            ValueError: if their clocks do not grow, or the sum of losses does not begin at the last one.
        """
        places = [0, *(found.samples for found in history)]
        if any(after <= before for before, after in pairwise(places)):
            raise ArgumentError("samples", "must grow from one evaluation to the next")
        began = self.parts["loader"]["clock"] - self.loss_samples
        if places[-1] > began or (places[-1] < began and not self.config.drop_last):  # it passes samples untrained
            raise ArgumentError("samples", f"must be {began:,} at the last evaluation", got=f"{places[-1]:,}")
