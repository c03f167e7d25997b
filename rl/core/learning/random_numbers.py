"""The random numbers of a learner: one stream, from which numpy draws, and torch where it is used.

Both have the Mersenne Twister. The state of the stream is kept in the layout that torch gives it,
so that the two can take turns, and checkpoints do not show who drew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.core.data.tree import Array
from rl.core.lazy import torch

if TYPE_CHECKING:
    from torch import Generator

__all__ = ["RandomNumbers"]

WORDS = 624
"""Of the twister."""
_LAYOUT = np.dtype(
    [
        ("seed", np.uint64),
        ("left", np.int32),  # words until the next twist, and the one at hand
        ("seeded", np.int32),
        ("next", np.uint64),  # the word that is drawn next
        ("words", np.uint64, (WORDS,)),
        ("normals", np.uint8, (40,)),  # that torch has drawn ahead
    ]
)


class RandomNumbers:
    """A stream that begins as `torch.Generator().manual_seed(seed)` does."""

    def __init__(self, seed: int) -> None:
        self._twister = np.random.MT19937()
        self._numpy = np.random.Generator(self._twister)
        self._state = np.zeros((), _LAYOUT)
        self._state["seed"], self._state["seeded"] = seed, 1
        begun = np.random.RandomState(seed & 0xFFFFFFFF).get_state(legacy=False)
        assert isinstance(begun, dict)
        self._twister.state = {"bit_generator": "MT19937", "state": begun["state"]}
        self._torch: Generator | None = None

    @property
    def torch(self) -> Generator:
        """The stream as torch draws from it. From the first call on it is the one that counts."""
        if self._torch is None:
            state = torch.from_numpy(self.get_state())
            self._torch = torch.Generator()
            self._torch.set_state(state)
        return self._torch

    def permutation(self, size: int) -> Array:
        """Numbers from 0 to size - 1 in random order, [size] int64.

        In the order of a random word each; of equal words, one pair in 2**32, the first comes
        first. To sort them takes a third of the time of numpy's shuffle.
        """
        with self._drawing():
            keys = self._twister.random_raw(size)
        keys <<= np.uint64(32)
        keys |= np.arange(size, dtype=np.uint64)
        keys.sort()
        keys &= np.uint64(0xFFFFFFFF)
        return keys.view(np.int64)

    def normals(self, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers, float32."""
        with self._drawing() as numpy:
            return numpy.standard_normal(shape, np.float32)

    @contextmanager
    def _drawing(self) -> Iterator[np.random.Generator]:
        """Numpy's generator where the stream stands; where it stood afterwards goes to torch."""
        if self._torch is None:
            yield self._numpy
            return
        self._take(self._torch.get_state().numpy())
        yield self._numpy
        self._torch.set_state(torch.from_numpy(self._told()))

    def get_state(self) -> Array:
        """Where the stream stands, as `torch.Generator.get_state` tells it: uint8."""
        return self._told() if self._torch is None else self._torch.get_state().numpy()

    def set_state(self, state: Array) -> None:
        """Goes on from what `get_state` gave. Raises `ValueError` when it is something else."""
        state = np.asarray(state)
        if state.dtype != np.uint8 or state.shape != (_LAYOUT.itemsize,):
            raise ValueError(f"the generator's state is {state.dtype} {state.shape}")
        self._take(state)
        if self._torch is not None:
            self._torch.set_state(torch.from_numpy(self._told()))

    def _take(self, state: Array) -> None:
        self._state = state.copy().view(_LAYOUT)[0]
        place = (
            WORDS + 1 - int(self._state["left"])
        )  # at first left is 1 and next 0: a twist is due
        key: Any = self._state["words"].astype(np.uint32)
        self._twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": place}}

    def _told(self) -> Array:
        found: Any = self._twister.state["state"]
        place = int(found["pos"])
        self._state["left"], self._state["next"] = WORDS + 1 - place, place
        self._state["words"] = found["key"]
        return np.frombuffer(self._state.tobytes(), np.uint8).copy()
