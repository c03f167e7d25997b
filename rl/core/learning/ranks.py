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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rl.core.data.tree import Array
from rl.core.lazy import torch
from rl.errors import RuntimeFault

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GroupBroken", "ProcessRanks", "Ranks", "zeros"]


Numbers = TypeVar("Numbers", Array, "Tensor")
"""An array, or a tensor."""


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

    def average_(self, values: Numbers) -> Numbers:
        """Makes a mean over this rank's rows the mean over the whole batch, in place.

        Raises:
            GroupBroken: Another rank is gone.
        """
        if self._on_progress is not None:
            self._on_progress()
        return values

    def sum_(self, values: Numbers) -> Numbers:
        """Adds up what every rank has, in place.

        Raises:
            GroupBroken: Another rank is gone.
        """
        return values

    def whole(self, part: Array | Tensor) -> Any:
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
            torch.distributed.init_process_group,
            backend,
            init_method=meeting.as_uri(),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
        self._joined = True
        self.sum_(torch.zeros(1, device=device))  # nccl connects at its first word

    def average_(self, values: Numbers) -> Numbers:
        super().average_(values)
        values *= self.share
        return self.sum_(values)

    def whole(self, part: Array | Tensor) -> Any:
        rows = zeros(part, self.rows)
        if self.share > 0:
            rows[self._own(self.rows)] = part
        self.sum_(rows)  # all but one of the terms are 0
        return rows

    def sum_(self, values: Numbers) -> Numbers:
        given: Any = values
        own = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
        carried = own.to(self._device)
        _try(torch.distributed.all_reduce, carried)
        if carried is not own:
            own.copy_(carried)
        return values

    def leave(self) -> None:
        if self._joined:
            self._joined = False
            torch.distributed.destroy_process_group()


def zeros(like: Array | Tensor, rows: int) -> Any:
    """Of the kind and the dtype of [m, ...], with so many rows."""
    if isinstance(like, np.ndarray):
        return np.zeros((rows, *like.shape[1:]), like.dtype)
    return like.new_zeros(rows, *like.shape[1:])


def _try(collective: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        collective(*args, **kwargs)
    except (RuntimeError, ValueError) as error:  # what torch.distributed raises derives from these
        raise GroupBroken(f"a learner lost the others: {error}") from error
