"""Ranks: learners side by side that hold the same weights and share the work of each update.

Every rank sees the same experience and draws the same random numbers, so that statistics, replay
and the order of minibatches are the same on all of them without a word between them. They differ in
one thing: of a batch of M rows each computes the losses of its own part only. Before an optimizer
step the gradients are summed, weighted by each part's share of the rows, which is the gradient of
the whole batch but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rl.errors import RuntimeFault

__all__ = ["GroupBroken", "ProcessRanks", "Ranks"]


class GroupBroken(RuntimeFault):
    """Another rank is gone, or this one is new and does not know yet where the others stand."""


class Ranks:
    """A learner alone: it has all the rows, and nobody to agree with."""

    rank = 0
    size = 1

    def __init__(self, on_progress: Callable[[], object] | None = None) -> None:
        """Makes a group of one.

        Args:
            on_progress: Called once an update: a sign of life.
        """
        self._on_progress = on_progress
        self.rows = 0
        """M, rows of the batch at hand."""
        self.share = 1.0
        """Part of the batch at hand that is this rank's; losses and gradients weigh so much."""

    def part(self, rows: int) -> slice:
        """This rank's rows of a batch of M, which is from now on the batch at hand.

        Parts differ by one row at most. A rank for which there is none gets a row of another, and a
        share of 0.
        """
        self.rows = rows
        own = self._own(rows)
        self.share = (own.stop - own.start) / rows
        return own if self.share > 0 else slice(0, 1)

    def _own(self, rows: int) -> slice:
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def average_(self, values: Tensor) -> Tensor:
        """Makes a mean over this rank's rows the mean over the whole batch, in place.

        Raises:
            GroupBroken: Another rank is gone.
        """
        if self._on_progress is not None:
            self._on_progress()
        return values

    def sum_(self, values: Tensor) -> Tensor:
        """Adds up what every rank has, in place.

        Raises:
            GroupBroken: Another rank is gone.
        """
        return values

    def whole(self, part: Tensor) -> Tensor:
        """All rows [M, ...] of the batch at hand from this rank's own [m, ...], to the bit.

        Raises:
            GroupBroken: Another rank is gone.
        """
        return part

    def leave(self) -> None:
        """Ends the group; the others notice at once. A second call does nothing."""


class ProcessRanks(Ranks):
    """One of several processes that agree by `torch.distributed`: gloo on the CPU, nccl on GPUs."""

    def __init__(
        self,
        rank: int,
        size: int,
        device: torch.device,
        meeting: Path,
        timeout: float,
        on_progress: Callable[[], object] | None = None,
    ) -> None:
        """Waits until all are there.

        Args:
            rank: In [0, size).
            size: Of the group.
            device: Of the learner.
            meeting: A file that all of them can open, new for this group.
            timeout: Seconds after which a rank that does not answer is given up.
            on_progress: Called once an update: a sign of life.

        Raises:
            GroupBroken: Not all of them came.
        """
        super().__init__(on_progress)
        self.rank, self.size = rank, size
        self.share = 1 / size  # of who never asks for its part: all compute the same
        self._device = device
        backend = "nccl" if device.type == "cuda" else "gloo"
        _try(
            dist.init_process_group,
            backend,
            init_method=meeting.as_uri(),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
        self._joined = True
        self.sum_(torch.zeros(1, device=device))  # nccl connects at its first word

    def average_(self, values: Tensor) -> Tensor:
        super().average_(values)
        return self.sum_(values.mul_(self.share))

    def whole(self, part: Tensor) -> Tensor:
        rows = torch.zeros(self.rows, *part.shape[1:], dtype=part.dtype, device=part.device)
        if self.share > 0:
            rows[self._own(self.rows)] = part
        return self.sum_(rows)  # all but one of the terms are 0

    def sum_(self, values: Tensor) -> Tensor:
        carried = values.to(self._device)
        _try(dist.all_reduce, carried)
        return values if carried is values else values.copy_(carried)

    def leave(self) -> None:
        if self._joined:
            self._joined = False
            dist.destroy_process_group()


def _try(collective: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        collective(*args, **kwargs)
    except (RuntimeError, ValueError) as error:  # what torch.distributed raises derives from these
        raise GroupBroken(f"a learner lost the others: {error}") from error
