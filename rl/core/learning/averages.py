"""Means of what an update says of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.core.lazy import torch, torch_is_loaded
from rl.core.learning.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Averages", "Metrics"]

Metrics = dict[str, float]
"""Scalars by their public name, `train/value_loss`."""


class Averages:
    """Means of scalars over the minibatches of an update, read from the device once.

    Minibatches with one that is not finite are left out, unless all have: they were not learnt
    from.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        """Starts empty.

        Args:
            ranks: Who else computes means over other rows of the same minibatches.
        """
        self._ranks = Ranks() if ranks is None else ranks
        self._names: tuple[str, ...] = ()
        self._rows: list[Any] = []  # tensors, or tuples of numbers

    def add(self, **scalars: Tensor | float) -> None:
        """Adds the scalars of one minibatch; every call names the same ones, in the same kind."""
        self._names = tuple(scalars)
        values = tuple(scalars.values())
        share = self._ranks.share
        if torch_is_loaded() and isinstance(values[0], torch.Tensor):
            row = torch.stack([v.detach() for v in values if isinstance(v, torch.Tensor)])
            self._rows.append(row * share)
        else:
            self._rows.append(values if share == 1 else tuple(value * share for value in values))

    def result(self) -> Metrics:
        """The mean of each."""
        if not self._rows:
            return {}
        means = self._of_numbers() if isinstance(self._rows[0], tuple) else self._of_tensors()
        return dict(zip(self._names, means, strict=True))

    def _of_numbers(self) -> Sequence[float]:
        found = _column_means(self._rows)
        if not all(map(math.isfinite, found)):
            finite = [row for row in self._rows if all(map(math.isfinite, row))]
            found = _column_means(finite or self._rows)
        if self._ranks.size == 1:
            return found
        means: list[float] = self._ranks.sum_(np.array(found, np.float32)).tolist()
        return means

    def _of_tensors(self) -> Sequence[float]:
        table = torch.stack(self._rows)
        means = table.mean(0)
        if not means.isfinite().all() and len(known := table[table.isfinite().all(1)]):
            means = known.mean(0)
        told: list[float] = self._ranks.sum_(means).tolist()
        return told


def _column_means(rows: Sequence[tuple[float, ...]]) -> Sequence[float]:
    return rows[0] if len(rows) == 1 else [sum(c) / len(rows) for c in zip(*rows, strict=True)]
