"""The rows of a replay buffer in parts: blocks that never change again, and the rest.

Steps of an environment are counted from its first ever. Block j holds the steps [j K, (j + 1) K) of
every environment, as far as their rows are still there; once all of them have been taken it is as
it will always be, so a checkpoint that has written it need not do so again. Rows newer than the
last whole block, with the observation at the write head, are the tail.

Shapes: B environments, R rows of each, N rows of a part, environment by environment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from rl.core.data.records import HEAD, NONE, SLOT, Records
from rl.core.data.rings import Rings, leaves_of
from rl.core.data.tree import Array, tree_map

__all__ = ["STATE", "Blocks", "Part", "Parts"]

Part = Mapping[str, Array]
"""Arrays by name."""
Parts = dict[str, Part | None]
"""Parts by name. None stands for a block that the caller has already; only `STATE` ever changes."""

STATE = "state"
"""Name of the part that is another one every time."""

SHARE = 64
LEAST_BYTES, MOST_BYTES = 64 << 10, 16 << 20
"""A block is a 64th of all rows, within these bounds: the tail is written again every time."""


class Blocks:
    """Takes rows out of rings and puts them back."""

    def __init__(self, records: Records, rings: Rings) -> None:
        self._records, self._rings = records, rings
        self._columns = {"records": records.words, **rings.columns}
        self._size, self._width = records.slots.shape
        total = sum(column.nbytes for column in self._columns.values())
        wanted = min(max(total // SHARE, LEAST_BYTES), MOST_BYTES)
        self.length = max(1, wanted * self._size // total)
        """K."""

    def get(self, written: Array, known: Collection[str]) -> tuple[Parts, Part]:
        """Blocks by name, None for those that are known, and the tail.

        Args:
            written: Steps of each environment so far, [B].
            known: Names of blocks.
        """
        oldest = self._oldest(written)
        # The newest step may still be cut off from what follows it: its block is not yet whole.
        whole = max(0, int(written.min()) - 1) // self.length
        blocks: Parts = {}
        for index in range(int(oldest.min()) // self.length, whole):
            name = f"rows_{index:012d}"
            first = index * self.length
            blocks[name] = (
                None if name in known else self._rows(np.maximum(oldest, first), first, written)
            )
        return blocks, self._rows(np.maximum(oldest, whole * self.length), None, written)

    def clear(self) -> None:
        """Forgets where episodes ended, before parts are put."""
        self._records.slots[:] = NONE
        self._rings.pool.clear()

    def put(self, part: Part, written: Array) -> None:
        """Puts the rows of a part back; `KeyError` or `ValueError` when it does not fit.

        Args:
            part: A block or a tail.
            written: Steps of each environment when the newest part was taken, [B].
        """
        steps, lanes = self._places(part["first"], part["count"])
        if (steps < 0).any() or (steps > written[lanes]).any():
            raise ValueError("rows of steps that were never taken")
        there = steps >= self._oldest(written)[lanes]
        rows, lanes = steps[there] % self._size, lanes[there]
        for name, column in self._columns.items():
            stored = _checked(part, name, (len(there), *column.shape[2:]), column.dtype)
            column[rows, lanes] = stored[there]
        ended, pool = part["records"][:, SLOT] >= 0, self._rings.pool
        kept = {}
        for path, leaf in leaves_of(pool.rows).items():
            shape = (int(ended.sum()), *leaf.shape[1:])
            kept[path] = _checked(part, f"finals/{path}", shape, leaf.dtype)[there[ended]]
        slots = pool.keep(kept if isinstance(pool.rows, dict) else kept[""])
        self._records.slots[rows[ended[there]], lanes[ended[there]]] = slots

    def _oldest(self, written: Array) -> Array:
        """The first step of each environment whose row has not been taken over, [B]."""
        oldest: Array = np.maximum(written - (self._size - 1), 0)
        return oldest

    def _rows(self, begin: Array, first: int | None, written: Array) -> Part:
        """Rows of the steps from `begin` [B], up to the end of the block or to the write head."""
        end = written + 1 if first is None else np.full_like(begin, first + self.length)
        count = np.maximum(end - begin, 0)
        steps, lanes = self._places(begin, count)
        rows = steps % self._size
        part = {name: column[rows, lanes] for name, column in self._columns.items()}
        slots = part["records"][:, SLOT]
        ended = slots >= 0
        finals = leaves_of(tree_map(lambda leaf: leaf[slots[ended]], self._rings.pool.rows))
        slots[ended] = 0  # which one it was is nobody's business
        part["records"][slots == HEAD, :SLOT] = 0  # nor what was in a row before it is a step
        named = {f"finals/{path}": leaf for path, leaf in finals.items()}
        return part | named | {"first": begin.astype(np.int64), "count": count.astype(np.int64)}

    def _places(self, begin: Array, count: Array) -> tuple[Array, Array]:
        """Steps and environments [N] of so many rows of each environment."""
        if begin.shape != (self._width,) or count.shape != begin.shape or (count < 0).any():
            raise ValueError(f"rows of {len(begin)} environments, and there are {self._width}")
        if (count > self._size).any():
            raise ValueError("more rows than there are")
        lanes = np.repeat(np.arange(self._width), count)
        steps = np.concatenate([np.arange(b, b + n) for b, n in zip(begin, count, strict=True)])
        return steps, lanes


def _checked(part: Part, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of a part; raises `ValueError` when it is of another shape or dtype."""
    array = part[name]
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} is {array.shape} {array.dtype}, and should be {shape} {dtype}")
    return array
