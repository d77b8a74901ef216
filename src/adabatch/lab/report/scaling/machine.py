"""A machine's limits beside the borders of a study: where throughput stops growing, and where memory is full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from adabatch.lab.report.folders import Studies
from adabatch.lab.shapes import Json

PEAK: Final = 0.95  # of the highest throughput, from which on more is hardly to be had


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that trains one network of a task, by a probe.

    Attributes:
        fast: the smallest batch size with 95 % of the highest throughput; None: it still grew at the largest measured.
        largest: the largest batch size that was measured.
        full: the first batch size that memory did not hold; None: it held all.
        device: its name, else its kind.
    """

    fast: int | None
    largest: int
    full: int | None
    device: str

    @classmethod
    def of(cls, probe: Json) -> Self:
        """The machine of a `probe.json`."""
        rates = {point["batch_size"]: point["samples_per_second"]["median"] for point in probe["curve"]}
        largest, full, fast = max(rates), probe["out_of_memory_at"], fast_from(rates)
        device = probe.get("versions", {}).get("device_name") or probe["device"]
        return cls(None if fast == largest and full is None else fast, largest, full, str(device))

    @property
    def speed(self) -> str:
        """The batch size with 95 % of the highest throughput, in words."""
        return f"over {self.largest:,}" if self.fast is None else f"{self.fast:,}"

    @property
    def memory(self) -> str:
        """The batch sizes between which memory is full, in words."""
        return f"over {self.largest:,}" if self.full is None else f"{self.largest:,} to {self.full:,}"


Machines = Mapping[tuple[str, str], Machine]  # by task and network


def machines(found: Studies) -> Machines:
    """The machines of the probes beside studies."""
    probes = [probe.values for probe in found.probes]
    return {(probe["task"], probe["model"]): Machine.of(probe) for probe in probes}


def fast_from(rates: Mapping[int, float]) -> int:
    """The smallest batch size with 95 % of the highest throughput.

    Args:
        rates: samples per second by batch size.

    Example:
        >>> fast_from({16: 700.0, 32: 960.0, 64: 1000.0})
        32
    """
    return min(size for size, rate in rates.items() if rate >= PEAK * max(rates.values()))
