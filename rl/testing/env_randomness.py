"""Where the randomness of an environment comes from that its seed does not reach."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

__all__ = ["seeding_mend"]

OWN = "draw every random number from self.np_random, after super().reset(seed=seed)"


def _shared() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[int], Any]]]:
    """Generators of the whole process by name: how to get, set and seed their state."""
    found: dict[str, Any] = {
        "np.random": (np.random.get_state, np.random.set_state, np.random.seed),
        "random": (random.getstate, random.setstate, random.seed),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = (torch.get_rng_state, torch.set_rng_state, torch.manual_seed)
    return found


def seeding_mend(env: Any, seed: int, repeats: Callable[[Callable[[], None]], bool]) -> str:
    """Says how to mend an environment of which the same seed gives different episodes.

    Args:
        env: One that was reset with the seed last.
        seed: Its.
        repeats: Plays an episode twice in fresh environments, calls what it is given before each,
            and says whether they were the same.
    """
    shared = _shared()
    for names in (*[(name,) for name in shared], tuple(shared)):
        with ExitStack() as after:
            for name in names:
                get, put, _ = shared[name]
                after.callback(put, get())

            def pin(names: tuple[str, ...] = names) -> None:
                for name in names:
                    shared[name][2](seed)

            if repeats(pin):
                which = " and ".join(names)
                return (
                    f"it draws from the generator of the whole process, {which}, which reset does"
                    f" not seed and others use too; {OWN}"
                )
    if getattr(env.unwrapped, "_np_random_seed", seed) != seed:
        return (
            f"reset() makes no use of its seed: begin it with super().reset(seed=seed), and {OWN}"
        )
    return OWN
