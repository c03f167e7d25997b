"""Every random stream of a run is derived from its one seed, by name.

Neither a process id nor a worker count nor the order of events enters, so the same config gives the
same bits on every engine. No two names share numbers, as neighbours of `seed + i` would.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

__all__ = ["NoiseStream", "episode_seed", "random_generator", "stream_seed"]


def _sequence(root_seed: int, stream: str, *indices: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(root_seed, spawn_key=(zlib.crc32(stream.encode()), *indices))


def stream_seed(root_seed: int, stream: str, *indices: int) -> int:
    """A 63-bit seed for a library that takes one number."""
    return int(_sequence(root_seed, stream, *indices).generate_state(1, np.uint64)[0] >> 1)


def random_generator(root_seed: int, stream: str, *indices: int) -> np.random.Generator:
    """A numpy generator for the stream of this name."""
    return np.random.default_rng(_sequence(root_seed, stream, *indices))


def episode_seed(root_seed: int, runner: int, environment: int, episode: int) -> int:
    """The seed of an episode, in [0, 2**32): a function of its place in the run alone."""
    return int(_sequence(root_seed, "episode", runner, environment, episode).generate_state(1)[0])


class NoiseStream:
    """Action noise of one runner: a counter-based generator, keyed by (root seed, runner).

    `fragment(n)` gives the generator of the n-th fragment without having drawn those before it, so
    a lost fragment is drawn again and resuming needs no generator state.
    """

    def __init__(self, root_seed: int, runner: int) -> None:
        key = _sequence(root_seed, "action noise", runner).generate_state(2, np.uint64)
        self._philox = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._philox)
        self._start: Any = self._philox.state  # a copy, of before the first draw

    def fragment(self, number: int) -> np.random.Generator:
        """The generator of one fragment, valid until the next call; they are 2**192 draws apart."""
        # The fragment stands in the highest of the counter's four words; drawing increments the
        # lowest. Setting the state takes a tenth of the time that a new generator does.
        self._start["state"]["counter"][3] = number
        self._philox.state = self._start
        return self._generator
