"""Branching: how much larger a batch may be at some moment of a training, by short branches from an ordinary run.

One run is trained at the base batch size and a constant LR. At some places, the forks, branches go off: each trains
the same samples, a window, at k times the batch size, the second half of it a cooldown. So all branches of a window
spend the same samples, and the one with k = 1 is the measure of the others. A larger batch lags by as many samples as
the base branch may be shorter and still reach its loss.

This is a measure of its own, not a cheap sweep over batch sizes: the answer depends on the window and on the loss of
progress that is tolerated, so it is given over a grid of both.

Source: McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, section 2: the gain of one update against its batch
    size. Departures: branches of many updates with a cooldown, LR tuned among them, a test of non-inferiority.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

from adabatch import _checks, _files, memory
from adabatch._errors import ArgumentError
from adabatch.lab.study.cooled import first_samples
from adabatch.lab.study.grid import OTHERWISE, differences
from adabatch.lab.study.trainee import Trainee
from adabatch.lab.tasks import Data
from adabatch.lab.training import RunConfig, lock, writing
from adabatch.lab.training import device as devices
from adabatch.lab.training.branching import cooled
from adabatch.lab.training.interrupt import Interrupted, Interrupts

FORKS: Final = (0.05, 0.15, 0.35, 0.65)
WINDOWS: Final = (1 / 64, 1 / 32, 1 / 16)
POWERS: Final = (0.0, 0.5, 1.0)  # of the couplings none, sqrt and linear
SHORTER: Final = (0.5, 0.625, 0.75, 0.875, 1.0, 1.125)  # lengths of base branches, as shares of the window
FEWEST_UPDATES: Final = 4  # of a branch
FORMAT: Final = 2  # 1 cooled by the LR at an update's beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Branching:
    """The settings of a measurement by branching.

    Attributes:
        base: of the ordinary run, with its batch size, LR and epochs.
        factors: how many times as large batches are tried, each above 1, increasing.
        forks: places at which branches go off, as shares of the training in (0, 1), increasing.
        windows: samples of a branch, as shares of the training, increasing.
        powers: the LR of a branch is that of the run times `k ** power`.
        seeds: of runs; the test needs two or more.
        train_samples: of the training set, the first ones are taken; None: all.
        test_samples: of the test set; None: all.

    Raises:
        ValueError: if a value is out of range, or a fork's longest branch would go beyond the end of the training.
    """

    base: RunConfig
    factors: tuple[int, ...]
    forks: tuple[float, ...] = FORKS
    windows: tuple[float, ...] = WINDOWS
    powers: tuple[float, ...] = POWERS
    seeds: tuple[int, ...] = (0, 1, 2)
    train_samples: int | None = None
    test_samples: int | None = None

    def __post_init__(self) -> None:
        for name in ("factors", "forks", "windows", "powers", "seeds"):
            values = getattr(self, name)
            if not values or sorted(set(values)) != list(values):
                raise ArgumentError(name, "must hold at least one value, increasing, each once", value=list(values))
        for factor in self.factors:
            _checks.whole("factors", factor, minimum=2)
        for name in ("forks", "windows"):
            for share in getattr(self, name):
                _checks.finite(name, share, above=0, below=1)
        for name in ("train_samples", "test_samples"):
            if getattr(self, name) is not None:
                _checks.whole(name, getattr(self, name))
        longest = self.forks[-1] + SHORTER[-1] * self.windows[-1]
        if longest > 1:
            got = f"{self.forks[-1]:g} and a window of {self.windows[-1]:g}"
            raise ArgumentError("forks", "must leave room for the longest branch", got=got, remedy="end earlier")

    def updates_to(self, fork: float, dataset_size: int) -> int:
        """The updates of the run before a fork."""
        return round(fork * self._updates(dataset_size))

    def window(self, share: float, dataset_size: int) -> int:
        """The samples of a window: a multiple of eight base batches, so that lengths and factors come out even."""
        eighths = max(1, round(share * self._updates(dataset_size) / 8))
        return 8 * eighths * self.base.batch_size

    def _updates(self, dataset_size: int) -> int:
        return self.base.epochs * (dataset_size // self.base.batch_size)

    def usable(self, factor: int, window: int) -> bool:
        """Whether a branch is of enough updates."""
        return window // (factor * self.base.batch_size) >= FEWEST_UPDATES

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """The settings in which branches that `other` describes differ, in words; seeds may be added at any time."""
        return differences(_settings(self.to_json()), _settings(other))


class Branch(NamedTuple):
    """One branch, measured.

    Attributes:
        fork: number of the fork, from 0 on.
        window: number of the window, from 0 on.
        share: its samples, as a share of the window.
        factor: k.
        power: of its LR.
        train_loss: after it; None if it is not finite.
        test_loss: after it; None if it is not finite.
    """

    fork: int
    window: int
    share: float
    factor: int
    power: float
    train_loss: float | None
    test_loss: float | None


def branches_of(setting: Branching, dataset_size: int) -> Iterator[tuple[int, float, int, float]]:
    """The branches of a fork: window, share, factor and power of each."""
    for number, share in enumerate(setting.windows):
        window = setting.window(share, dataset_size)
        for length in SHORTER:
            yield number, length, 1, 0.0
        for factor, power in product(setting.factors, setting.powers):
            if setting.usable(factor, window):
                yield number, 1.0, factor, power


def measure(
    setting: Branching,
    data: Data,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[int, int, Trainee], None] | None = None,
) -> dict[int, list[Branch]]:
    """Trains the runs and their branches; what is measured is kept in the folder, and the same call goes on.

    Args:
        setting: the settings.
        data: of the task, whole.
        out: the folder.
        progress: called with the number of branches measured and in all.
        watch: called at each fork with its seed, its number and the training.

    Returns:
        The branches of each seed.

    Raises:
        ValueError: if no branch of a factor has enough updates, the data have fewer samples than are asked for, or the
            folder holds other settings or data.
        BlockingIOError: if another process measures in the folder.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP.
        OSError: if the folder cannot be written.
    """
    fingerprint = data.fingerprint()
    data = first_samples(data, train=setting.train_samples, test=setting.test_samples)
    size, device = data.dataset_size, devices.pick_device(setting.base.device)
    windows = [setting.window(share, size) for share in setting.windows]
    if not any(setting.usable(factor, windows[-1]) for factor in setting.factors):
        least = FEWEST_UPDATES * setting.factors[0] * setting.base.batch_size
        rule = f"must hold at least {FEWEST_UPDATES} updates of a branch, {least:,} samples"
        raise ArgumentError("windows", rule, got=f"{windows[-1]:,}", remedy="train longer or take a longer window")
    if device.type == "cpu":
        memory.tune_allocator()
    total = len(setting.seeds) * len(setting.forks) * len(list(branches_of(setting, size)))
    found: dict[int, list[Branch]] = {}
    with ExitStack() as around:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        around.enter_context(lock.held(out))
        before = _kept(setting, out, fingerprint)
        around.enter_context(devices.threads(setting.base.threads))
        around.enter_context(devices.entered(device))
        interrupts = around.enter_context(Interrupts())

        def look(_: int = 0) -> None:
            if interrupts.seen:
                raise Interrupted(None, interrupts.number or 0, kept="what is measured is kept")

        for seed in setting.seeds:
            there = before.get(seed, [])

            def tell(branches: Sequence[Branch], now: int = seed) -> None:
                found[now] = list(branches)
                if progress is not None:
                    progress(sum(map(len, found.values())), total)
                with writing(out), interrupts.held():
                    _keep(setting, out, fingerprint, {**before, **found})

            found[seed] = there
            done = 1 + max((branch.fork for branch in there), default=-1)
            if done < len(setting.forks) or watch is not None:
                trainee = Trainee(replace(setting.base, seed=seed, drop_last=True), data, device)
                seen = None if watch is None else (lambda fork, now=trainee, of=seed: watch(of, fork, now))
                _run(setting, trainee, size, there, done=done, tell=tell, look=look, watch=seen)
    return found


def _run(
    setting: Branching,
    trainee: Trainee,
    size: int,
    there: Sequence[Branch],
    *,
    done: int,
    tell: Callable[[Sequence[Branch]], None],
    look: Callable[[int], None],
    watch: Callable[[int], None] | None,
) -> None:
    """One run with its branches; the first `done` forks are measured already."""
    base, found = setting.base, list(there)
    for fork, share in enumerate(setting.forks):
        updates = setting.updates_to(share, size) - trainee.updates
        trainee.train(updates, batch_size=base.batch_size, lr=lambda _: base.lr, after=look)
        if watch is not None:
            watch(fork)
        if fork < done:
            continue
        mark = trainee.here()
        for window, length, factor, power in branches_of(setting, size):
            samples = setting.window(setting.windows[window], size)
            losses = _branch(setting, trainee, samples, length, factor, power, look)
            found.append(Branch(fork, window, length, factor, power, *losses))
            trainee.back(mark)
        tell(found)


def _branch(
    setting: Branching,
    trainee: Trainee,
    window: int,
    length: float,
    factor: int,
    power: float,
    look: Callable[[int], None],
) -> tuple[float | None, float | None]:
    """The losses after a branch."""
    size = factor * setting.base.batch_size
    lrs = branch_lrs(setting.base.lr * math.pow(factor, power), window=window, length=length, batch_size=size)
    trainee.train(len(lrs), batch_size=size, lr=lambda number: lrs[number], after=look)
    return trainee.losses()


def branch_lrs(lr: float, *, window: int, length: float, batch_size: int) -> list[float]:
    """The LR of each update of a branch: constant, then linearly to 0 over half a window.

    Args:
        lr: before the cooldown.
        window: in samples.
        length: of the branch, as a share of the window, at least 0.5.
        batch_size: of the branch.

    Example:
        >>> branch_lrs(1.0, window=64, length=1.0, batch_size=16)
        [1.0, 1.0, 0.75, 0.25]
    """
    total = round(length * window / batch_size)
    return [lr * cooled(window - (total - number - 0.5) * batch_size, window) for number in range(total)]


def expected_branches(
    setting: Branching, dataset_size: int, expected_loss: Callable[..., Any]
) -> tuple[Callable[[int, int, Trainee], None], dict[int, list[Branch]]]:
    """A `watch` for `measure`, and the branches with expected losses that it fills in.

    Args:
        setting: the settings; the optimizer is SGD.
        dataset_size: samples in an epoch.
        expected_loss: of the task, see `tasks.Task`; its network has one parameter.
    """
    found: dict[int, list[Branch]] = {}

    def watch(seed: int, fork: int, trainee: Trainee) -> None:
        (theta,) = trainee.setup.model.parameters()
        velocity = trainee.setup.optimizer.state[theta].get("momentum_buffer")
        state = {"start": theta.detach().double().cpu().numpy(), "momentum": setting.base.momentum}
        state["velocity"] = 0.0 if velocity is None else velocity.double().cpu().numpy()
        for window, length, factor, power in branches_of(setting, dataset_size):
            samples, size = setting.window(setting.windows[window], dataset_size), factor * setting.base.batch_size
            lr = setting.base.lr * math.pow(factor, power)
            lrs = branch_lrs(lr, window=samples, length=length, batch_size=size)
            loss = float(expected_loss(lrs, size, **state)[-1])
            found.setdefault(seed, []).append(Branch(fork, window, length, factor, power, loss, loss))

    return watch, found


# What is measured, in the folder.


def _file(out: Path) -> Path:
    return out / "branches.json"


def _keep(setting: Branching, out: Path, fingerprint: str, found: Mapping[int, Sequence[Branch]]) -> None:
    runs = {str(seed): [list(branch) for branch in branches] for seed, branches in found.items()}
    content = {"format": FORMAT, "settings": setting.to_json(), "data": fingerprint, "runs": runs}
    _files.write_json(_file(out), content)


def _kept(setting: Branching, out: Path, fingerprint: str) -> dict[int, list[Branch]]:
    """The branches in the folder, whole forks only.

    Raises:
        ValueError: if the file is damaged, or of other settings or data.
    """
    if not _file(out).exists():
        return {}
    try:
        content = _files.json_of(_file(out))
        runs = {int(seed): [Branch(*branch) for branch in branches] for seed, branches in content["runs"].items()}
        differing, data = setting.differences(content["settings"]), content["data"]
        if content["format"] != FORMAT:
            differing = [f"format {content['format']} there and {FORMAT} here", *differing]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        remedy = "delete it or take another folder"
        raise ArgumentError("out", "must hold whole branches", got=f"a damaged {_file(out)}", remedy=remedy) from error
    if differing:
        rule = f"must hold branches of the same settings, and {_file(out)} holds some with"
        raise ArgumentError("out", f"{rule} {'; '.join(differing)}", remedy=OTHERWISE)
    if data != fingerprint:
        remedy = "give the former data, in whatever folder, or take another folder"
        raise ArgumentError("data", f"must hold what {_file(out)} was measured on", got="other samples", remedy=remedy)
    return runs


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which branches depend, those of the run among them; seeds may be added at any time."""
    found = {**values, **{name: value for name, value in values["base"].items() if name not in _FREE}}
    found = {name: value for name, value in found.items() if name not in ("base", "seeds")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


_FREE: Final = ("seed", "data", "device", "threads", "workers", "save_every")
