"""Published ramps of language-model trainings as schedules; reads and writes the ramps of other trainers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from adabatch import _checks
from adabatch._errors import ArgumentError, ArgumentTypeError
from adabatch.schedules import Schedule, linear_ramp, steps
from adabatch.units import Duration, tokens

_MULTIPLES: Final = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A published ramp. Sizes count sequences.

    Attributes:
        name: as typed.
        schedule: the batch size against tokens; plan it with `tokens_per_sample`.
        tokens_per_sample: tokens in a sequence.
        lr_multipliers: factor on the LR from each stage on, if published. It is no function of the batch size alone,
            so it belongs into the LR schedule, with the coupling `none`.
        source: where it is published.
        recalled: details that were not found printed in a source at hand.
    """

    name: str
    schedule: Schedule
    tokens_per_sample: int
    source: str
    lr_multipliers: tuple[float, ...] = ()
    recalled: tuple[str, ...] = field(default=())


def small_gpt(length: int = 24_000_000, *, sizes: Sequence[int] = (8, 16, 24), tokens_per_sample: int = 16_384) -> Ramp:
    """The ramp of the small-GPT speed record, in equal shares of a training of any length.

    Args:
        length: tokens of the ramped part of the training; the record's cool-down follows it at the last size.
        sizes: the batch size of each share, in sequences.
        tokens_per_sample: tokens in a sequence; the record's batches count 2,048 * 8.

    Returns:
        The ramp, with LR multipliers 1, 2**0.6 and 3**0.5 if there are three sizes.

    Raises:
        ValueError: if a number is below 1.
        TypeError: if a number is not whole, or `sizes` are no sequence.

    Example:
        >>> small_gpt(3_000_000).schedule.describe()
        '8, 16 from 1,000,000 tokens, 24 from 2,000,000 tokens'
    """
    _checks.whole("length", length)
    if not isinstance(sizes, Iterable):
        raise ArgumentTypeError("sizes", "must be batch sizes such as (8, 16, 24)", value=sizes)
    sizes = [_checks.whole("sizes", size, remedy="write them as (8, 16, 24)") for size in sizes]
    changes = [(_tokens(Fraction(length * index, len(sizes))), size) for index, size in enumerate(sizes)]
    return Ramp(
        name="small-gpt",
        schedule=steps(changes),
        tokens_per_sample=_checks.whole("tokens_per_sample", tokens_per_sample),
        lr_multipliers=(1.0, 1.52, 1.73) if len(sizes) == 3 else (),
        source="KellerJordan/modded-nanogpt, record of 2025-11-29: three equal stages of 8, 16, 24 times 2,048 * 8"
        " tokens with LR multipliers 1, 1.52 = 2**0.6 and 1.73 = 3**0.5",
    )


def nanochat(length: int = 10_000_000_000, *, batch_size: int = 256, tokens_per_sample: int = 2048) -> Ramp:
    """The ramp proposed for nanochat: a quarter of the batch, then half of it, then all of it.

    Args:
        length: tokens of the training: a quarter for its first 3 %, half for the next 7 %.
        batch_size: the whole batch, in sequences; a multiple of 4.
        tokens_per_sample: tokens in a sequence.

    Returns:
        The ramp.

    Raises:
        ValueError: if a number is below 1, or the batch cannot be quartered.
        TypeError: if a number is not whole.

    Example:
        >>> nanochat(1_000_000).schedule.describe()
        '64, 128 from 30,000 tokens, 256 from 100,000 tokens'
    """
    _checks.whole("length", length)
    _checks.whole("batch_size", batch_size)
    if batch_size % 4:
        remedy = "the ramp begins with a quarter of it"
        raise ArgumentError("batch_size", "must be a multiple of 4", value=batch_size, remedy=remedy)
    starts = [_tokens(Fraction(length * percent, 100)) for percent in (0, 3, 10)]
    return Ramp(
        name="nanochat",
        schedule=steps(list(zip(starts, (batch_size // 4, batch_size // 2, batch_size), strict=True))),
        tokens_per_sample=_checks.whole("tokens_per_sample", tokens_per_sample),
        source="https://github.com/karpathy/nanochat/pull/851, a proposal: a quarter of the batch for 3 % of the"
        " training, half for 7 %, then all of it",
        recalled=("that the 7 % follow the 3 %", "a batch of 524,288 tokens in sequences of 2,048", "the length"),
    )


def read_steps(text: str, *, unit: str = "tokens") -> steps:
    """Reads Megatron-LM's `--step-batch-size-schedule`.

    Args:
        text: such as `"0:768 250B:1536"`.
        unit: of the thresholds: Megatron counts tokens where the sequence length is given, else samples.

    Raises:
        ValueError: if the text cannot be read.
    """
    return steps(text, unit=unit)


def write_steps(schedule: Schedule, *, tokens_per_sample: int | None = None) -> str:
    """Writes a schedule as Megatron-LM's `--step-batch-size-schedule`.

    Args:
        schedule: one that stops changing, with lengths in samples or tokens and a start of its own.
        tokens_per_sample: to write thresholds in tokens, each rounded up; None writes samples.

    Returns:
        The text.

    Raises:
        ValueError: if the schedule grows for ever, has no start, or needs the size of a data set.

    Example:
        >>> write_steps(read_steps("0:768 250B:1536"), tokens_per_sample=4000)
        '0:768 250B:1536'
        >>> write_steps(linear_ramp(64, over=Duration(3000, "samples"), start=16, increment=16))
        '0:16 1K:32 2K:48 3K:64'
    """
    plan = schedule.plan(dataset_size=None, tokens_per_sample=tokens_per_sample)
    per = 1 if tokens_per_sample is None else tokens_per_sample
    return " ".join(
        f"{short(start * per)}:{size}" for start, size in zip(plan.starts_samples, plan.batch_sizes, strict=True)
    )


def read_rampup(text: str | Sequence[int], *, batch_size: int) -> linear_ramp:
    """Reads a linear ramp: NeMo's `rampup_batch_size` or the older `--rampup-batch-size` of Megatron-LM.

    Args:
        text: first size, increment and samples of the ramp, as `"[256, 128, 50000000]"`, `"256 128 50000000"` or
            numbers.
        batch_size: the size that it ends with, `global_batch_size` there.

    Raises:
        ValueError: if it is not three whole numbers, or the increment does not lead up from the first size to the last.
        TypeError: if it is neither text nor a sequence, or `batch_size` is not a whole number.

    Example:
        >>> read_rampup("[256, 128, 50000000]", batch_size=1024).describe()
        'from 256 to 1,024 in increments of 128 over 50,000,000 samples'
    """
    _checks.whole("batch_size", batch_size)
    if not isinstance(text, Iterable):
        raise ArgumentTypeError("text", "must be text or three numbers such as '[256, 128, 50000000]'", value=text)
    words = re.split(r"[\s,]+", text.strip(" \t\n[]()")) if isinstance(text, str) else [str(item) for item in text]
    if len(words) != 3 or not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        rule = "must be first size, increment and samples such as '[256, 128, 50000000]'"
        raise ArgumentError("text", rule, value=text)
    start, increment, over = (int(word) for word in words)
    if start > batch_size:
        raise ArgumentError(
            "text", f"must start at most at the last size {batch_size:,}", got=f"{start:,}", remedy="a ramp grows"
        )
    return linear_ramp(batch_size, over=Duration(over, "samples"), start=start, increment=increment)


def write_rampup(ramp: linear_ramp) -> str:
    """Writes a linear ramp as NeMo's `rampup_batch_size`; its end goes into `global_batch_size`.

    Args:
        ramp: a growing ramp in samples, with a start of its own.

    Raises:
        ValueError: if it is counted in something else, has no start, or shrinks.

    Example:
        >>> write_rampup(read_rampup("256 128 50000000", batch_size=1024))
        '[256, 128, 50000000]'
    """
    if ramp.start is None or ramp.over.unit != "samples" or ramp.end < ramp.start:
        rule, remedy = "must grow from a start of its own over samples", "other schedules go with `write_steps`"
        raise ArgumentError("ramp", rule, value=ramp.describe(), remedy=remedy)
    return f"[{ramp.start}, {ramp.increment}, {ramp.over.count}]"


def short(count: int) -> str:
    """A number as Megatron-LM reads it, in thousands to trillions where it is a multiple of them."""
    for letter, multiple in _MULTIPLES:
        if count and count % multiple == 0:
            return f"{count // multiple}{letter}"
    return str(count)


def _tokens(count: Fraction) -> Duration:
    return tokens(count.numerator if count.denominator == 1 else float(count))


_MIB: Final = 2**20
RAMPS: Final[dict[str, Ramp]] = {
    ramp.name: ramp
    for ramp in (
        Ramp(
            name="deepseek-v2",
            schedule=linear_ramp(9216, over=tokens(225_000_000_000), start=2304, increment=768),
            tokens_per_sample=4096,
            source="DeepSeek-V2, 2024, arXiv 2405.04434: 2304 to 9216 sequences over the first 225B tokens; quoted in"
            " https://github.com/huggingface/transformers/issues/31222",
            recalled=("nine even increments of 768: the source only says that it is gradual", "the sequence length"),
        ),
        Ramp(
            name="minimax-01",
            schedule=steps(
                (
                    (tokens(0), 16 * _MIB // 8192),
                    (tokens(69_000_000_000), 32 * _MIB // 8192),
                    (tokens(790_000_000_000), 64 * _MIB // 8192),
                    (tokens(4_700_000_000_000), 128 * _MIB // 8192),
                )
            ),
            tokens_per_sample=8192,
            source="MiniMax-01, 2025, arXiv 2501.08313: 16M to 128M tokens, doubled where a power law of the critical"
            " batch size against the loss asks for it",
            recalled=("the thresholds of 69B, 790B and 4.7T tokens", "the sequence length", "that 16M is 16 * 2**20"),
        ),
        small_gpt(),
        nanochat(),
    )
}
