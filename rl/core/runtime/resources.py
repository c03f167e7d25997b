"""Who has which share of the machine: a ledger, without clocks or processes."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from rl.errors import ResourcesUnavailable, UsageError

__all__ = ["ResourceLedger", "available_cpus", "check_amounts"]

SLACK = 1e-9
"""Sums of fractions such as 0.1 + 0.2 may miss the total by rounding."""


CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Cores this process may use; fewer than the machine has in a container or under taskset.

    A container's share of time, `docker run --cpus 1.5`, counts as that many cores, rounded up.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas(CGROUPS, MEMBERSHIP))])


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Cores' worth of time that each control group above this process is limited to."""
    with contextlib.suppress(OSError, ValueError):  # no Linux, or none of it mounted
        for line in membership.read_text().splitlines():
            _, controllers, inside = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue  # version 2 names none, version 1 those of the hierarchy
            top = root / "cpu" if controllers else root
            group = top / inside.lstrip("/")
            for directory in (group, *group.parents):
                yield from _quota(directory)
                if directory == top:
                    break


def _quota(group: Path) -> Iterator[float]:
    """The limit of one control group, if it has one."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is none
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


class ResourceLedger:
    """Lends named amounts and takes them back; never lends more than there is."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        self.total: dict[str, float] = {"cpu": float(available_cpus()), **resources}
        check_amounts(self.total, "Runtime(resources=...)")
        self._lent: dict[str, float] = dict.fromkeys(self.total, 0.0)

    def check(self, request: Mapping[str, float], actor: str) -> None:
        """Raises `ResourcesUnavailable` for a request that can never be met."""
        check_amounts(request, f"actor {actor!r}")
        lacking = [
            f"{amount:g} {name}, but there are {self.total.get(name, 0.0):g}"
            for name, amount in request.items()
            if amount > self.total.get(name, 0.0) + SLACK
        ]
        if lacking:
            raise ResourcesUnavailable(
                f"actor {actor!r} asks for {'; and for '.join(lacking)}; it could never start. "
                "Ask for less, or tell Runtime(resources=...) what the machine has."
            )

    def lacking(self, request: Mapping[str, float]) -> str | None:
        """What of the request is not free now, in words; None if all is."""
        short = [
            f"{amount:g} {name} (free: {self.free(name):g} of {self.total[name]:g})"
            for name, amount in request.items()
            if amount > self.free(name) + SLACK
        ]
        return ", ".join(short) or None

    def take(self, request: Mapping[str, float]) -> None:
        """Lends a request that `lacking` has nothing against."""
        assert self.lacking(request) is None
        for name, amount in request.items():
            self._lent[name] += amount

    def give_back(self, request: Mapping[str, float]) -> None:
        """Takes back what `take` lent."""
        for name, amount in request.items():
            self._lent[name] = max(0.0, self._lent[name] - amount)

    def free(self, name: str) -> float:
        """How much of one resource is not lent."""
        return self.total[name] - self._lent[name]


def check_amounts(amounts: Mapping[str, float], where: str) -> None:
    """Raises `UsageError` for an amount that makes no sense."""
    for name, amount in amounts.items():
        if not (amount >= 0 and amount < float("inf")):
            raise UsageError(
                f"{where}: resource {name!r} is {amount}; it must be a number of 0 or more."
            )
