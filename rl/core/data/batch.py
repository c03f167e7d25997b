"""Batches: typed tensor columns of equal length on one device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rl.core.data.tree import Array, first_leaf, tree_map
from rl.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TensorBatch", "on_host", "to_tensor"]


SMALLEST_PINNED = 1 << 16
"""Bytes. A GPU's driver takes less than this without being waited for."""


def to_tensor(array: Array, device: torch.device | str = "cpu") -> Tensor:
    """A numpy array as a tensor; shares memory on CPU unless the array is read-only."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if array.nbytes >= SMALLEST_PINNED and torch.device(device).type == "cuda":
        return _copied_beside(tensor, torch.device(device))
    return tensor.to(device)


def _copied_beside(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on a GPU, made while it computes; what it is asked for next waits for the copy."""
    beside, computing = _copy_stream(device), torch.cuda.current_stream(device)
    # From memory that stays in its place; torch gives it to nobody else before the copy is done.
    pinned = tensor.pin_memory()
    with torch.cuda.stream(beside):
        copy = pinned.to(device, non_blocking=True)
    computing.wait_stream(beside)
    copy.record_stream(computing)  # nor its room on the GPU, before what computes is done with it
    return copy


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_host(values: Array | Tensor) -> Array:
    """An array, or a tensor as one; it may share memory."""
    return values if isinstance(values, np.ndarray) else values.numpy(force=True)


@dataclass(frozen=True)
class TensorBatch:
    """Base of a batch: every field is a tensor [N, ...], a dictionary of them, or None."""

    def _each(self, function: Callable[[Tensor], Tensor]) -> Self:
        columns: dict[str, Any] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            columns[column.name] = None if value is None else tree_map(function, value)
        return type(self)(**columns)

    def columns(self) -> list[Any]:
        """All fields, in order."""
        return [getattr(self, column.name) for column in fields(self)]

    def __len__(self) -> int:
        return int(first_leaf(getattr(self, fields(self)[0].name)).shape[0])

    def take(self, rows: Tensor) -> Self:
        """The rows of these indices, [M, ...]."""
        return self._each(lambda column: column.index_select(0, rows))

    def part(self, rows: slice) -> Self:
        """Consecutive rows, without a copy."""
        return self._each(lambda column: column[rows])

    def minibatches(self, size: int) -> Iterator[Self]:
        """Consecutive parts of `size` rows; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self.part(slice(start, start + size))
