"""What the values in the files of runs, comparisons, plans and probes must be, so that a page can be made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

_LARGEST: Final = 1e300


class Kind(NamedTuple):
    """What a value must be, in words and as a question."""

    words: str
    fits: Callable[[Any], bool]


class Each(NamedTuple):
    """A record whose names are free, and what stands under each of them."""

    shape: Any


def _number(value: Any, above: float = -_LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value < _LARGEST


def _whole(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value < 2**63


def _maybe(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value))


def _rates(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        size.isdecimal() and 0 < len(size) < 19 and int(size) and _number(rate, 0) for size, rate in value.items()
    )


_TEXT: Final = Kind("text", lambda value: isinstance(value, str))
_RECORD: Final = Kind("a record", lambda value: isinstance(value, Mapping))
_LIST: Final = Kind("a list", lambda value: isinstance(value, list))
_NUMBER: Final = Kind("a finite number", _number)
_POSITIVE: Final = Kind("a number above 0", lambda value: _number(value, 0))
_AMOUNT: Final = Kind("a number from 0 on", lambda value: _number(value, -math.ulp(0.0)))
_COUNT: Final = Kind("a whole number from 0 on", lambda value: _whole(value, 0))
_SIZE: Final = Kind("a whole number from 1 on", lambda value: _whole(value, 1))
_LOSS: Final = Kind("a number or null", lambda value: value is None or isinstance(value, float) or _number(value))
_RATES: Final = Kind("batch sizes with their samples per second", _rates)

# A name with "?" may be missing; a list of one shape holds any number of it, but not none.
CONFIG: Final = {
    "task": _TEXT,
    "model": _TEXT,
    "batch_size": _SIZE,
    "epochs": _SIZE,
    "seed": _COUNT,
    "data?": _maybe(_TEXT),
}
EVALUATION: Final = {
    "samples": _COUNT,
    "updates": _COUNT,
    "seconds": _AMOUNT,
    "batch_size": _SIZE,
    "lr": _NUMBER,
    "test_accuracy": _NUMBER,
    "train_loss?": _LOSS,
    "test_loss?": _LOSS,
}
DECISION: Final = {"clock": _COUNT, "batch_size": _SIZE}
RESULT: Final = {
    "history": _LIST,
    "decisions": _LIST,
    "samples_per_second": _RATES,
    "samples?": _COUNT,
    "target?": _maybe(_NUMBER),
    "updates_to_target?": _maybe(_COUNT),
    "seconds_to_target?": _maybe(_AMOUNT),
    "chance?": _maybe(_AMOUNT),
}
_RATIO: Final = {name: _maybe(_POSITIVE) for name in ("median", "low", "high")}
_DIFFERENCE: Final = {"mean": _NUMBER, "low": _maybe(_NUMBER), "high": _maybe(_NUMBER)}
_OVER_SAMPLES: Final = Kind(
    "a difference with its interval and number of samples",
    lambda value: not any(faults(value, {**_DIFFERENCE, "samples": _SIZE})),
)
_AGAINST: Final = {
    "updates_ratio": _POSITIVE,
    "seconds_ratio": _RATIO,
    "seconds_to_target_ratio?": _RATIO,
    "accuracy_difference": _DIFFERENCE,
    "accuracy_difference_by_seed?": {"worst?": _maybe(_NUMBER), "unseen_failures?": _maybe(_AMOUNT)},
    "accuracy_difference_over_samples?": _maybe(_OVER_SAMPLES),
    "within_margin?": {"verdict?": _TEXT, "words?": _TEXT},
}
_ARM: Final = {
    "name": _TEXT,
    "batch_sizes": [_SIZE],
    "updates": _SIZE,
    "samples": _COUNT,
    "test_accuracy": {"mean": _NUMBER, "std?": _maybe(_NUMBER), "n": _SIZE, "values": [_NUMBER]},
    "train_seconds": {"median": _AMOUNT, "min": _AMOUNT, "max": _AMOUNT, "values": [_AMOUNT]},
    "samples_per_second": _RATES,
    "diverged?": _COUNT,
    "at_chance?": _COUNT,
    "updates_to_target?": _maybe(_AMOUNT),
    "seconds_to_target?": _maybe(_AMOUNT),
    "to_target?": {"reached": _COUNT, "n": _COUNT},
}
COMPARISON: Final = {
    "task": _TEXT,
    "model": _TEXT,
    "device": _TEXT,
    "versions?": _RECORD,
    "seeds": [_COUNT],
    "arms": [_ARM],
    "margin": _AMOUNT,
    "target?": _maybe(_NUMBER),
    "against_fixed_small": Each(_AGAINST),
    "against_fixed_large?": Each(_AGAINST),
}

NOTE: Final = {
    "task?": _TEXT,
    "model?": _TEXT,
    "arms?": [_TEXT],
    "seeds?": [_COUNT],
    "target?": _maybe(_NUMBER),
    "versions?": _RECORD,
}
PLAN: Final = {
    "updates_before": _SIZE,
    "updates_after": _SIZE,
    "dataset_size": _SIZE,
    "epochs": _SIZE,
    "starts_samples": [_COUNT],
    "sizes": [_SIZE],
    "lr": [_NUMBER],
    "lr_before": [_NUMBER],
    "noise_scale": [_NUMBER],
    "noise_scale_before": [_NUMBER],
    "seconds_before?": _maybe(_POSITIVE),
    "seconds_after?": _maybe(_POSITIVE),
    "coupling?": _TEXT,
    "title?": _TEXT,
    "settings?": _RECORD,
}
PROBE: Final = {
    "task": _TEXT,
    "model": _TEXT,
    "device": _TEXT,
    "versions?": _RECORD,
    "repeats": _SIZE,
    "curve": [
        {
            "batch_size": _SIZE,
            "samples_per_second": {"median": _POSITIVE, "min": _POSITIVE, "max": _POSITIVE},
            "against_first": _maybe(Kind("a ratio with its interval", lambda value: not any(faults(value, _RATIO)))),
        }
    ],
    "fastest": _SIZE,
    "speedup": _RATIO,
    "enough": _maybe(_SIZE),
    "out_of_memory_at": _maybe(_SIZE),
    "sentence": _TEXT,
}


def faults(values: Any, shape: Any, at: str = "") -> Iterator[str]:
    """What is wrong with values, each in words that follow "got FILE".

    Args:
        values: as JSON gave them.
        shape: one of this module.
        at: where the values stand, as a path of names.
    """
    if isinstance(shape, Kind):
        if not shape.fits(values):
            yield f"with {at or 'a value'} {repr(values)[:40]}, which must be {shape.words}"
    elif isinstance(shape, list):
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            yield f"with {at} {repr(values)[:40]}, which must be a list that is not empty"
            return
        for place, value in enumerate(values):
            yield from faults(value, shape[0], f"{at}[{place}]")
    elif not isinstance(values, Mapping):
        yield f"without {'a record' if not at else f'a record in {at}'}"
    else:
        named = dict.fromkeys(values, shape.shape) if isinstance(shape, Each) else shape
        for name, inner in named.items():
            key = name if isinstance(shape, Each) else name.removesuffix("?")
            path = f"{at}.{key}" if at else key
            if key in values:
                yield from faults(values[key], inner, path)
            elif key == name:
                yield f"without {path}"
