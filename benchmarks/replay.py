"""What a batch of replay costs: packed rows of vectors, single frames stacked when sampled.

Draws and gathers transitions of n_step 1 at the shapes of CartPole and HalfCheetah, from buffers
that are full, and tells microseconds a batch, the best and the median of several rounds. A buffer
of a million 84x84 frames tells the memory it took and how many batches of 32 transitions, two
stacks of 4 each, come out of it in a minute. That needs 8 GB; `--frames` asks for fewer.

Times are of this process on its processor, so others that run beside it count less.

    python benchmarks/replay.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from typing import Any

import numpy as np
from _pairs import commit
from gymnasium import spaces

from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import FrameStack, Spaces

ROUNDS = 9
LANES = 8


def rollout_of(observations: Any, actions: Any) -> Rollout:
    """Steps [T, B] in which no episode ends."""
    shape = actions.shape[:2]
    flags = np.zeros(shape, np.bool_)
    return Rollout(
        observations=observations,
        actions=actions,
        rewards=np.ones(shape, np.float32),
        terminated=flags,
        truncated=flags,
        extras={},
        final_steps=np.zeros((0, 2), np.int64),
        final_observations=np.zeros((0, *observations.shape[2:]), observations.dtype),
    )


def rounds(sample: Any, seconds: float = 0.2) -> list[float]:
    """Microseconds a call, one number a round."""
    found = []
    for _ in range(ROUNDS):
        calls, began = 0, time.process_time()
        while time.process_time() - began < seconds:
            for _ in range(20):
                sample()
            calls += 20
        found.append((time.process_time() - began) / calls * 1e6)
    return found


def vectors(size: int, features: int, action: spaces.Space[Any], batch: int, n_step: int) -> Any:
    """A full buffer of one environment with vectors of so many features."""
    of = Spaces(spaces.Box(-1, 1, (features,), np.float32), action)
    generator = np.random.default_rng(0)
    replay, length = ReplayBuffer(of, 1, size, 0), size // 10
    seen = generator.standard_normal((length + 1, 1, features)).astype(np.float32)
    shape = action.shape or ()
    steps = rollout_of(seen, np.zeros((length, 1, *shape), np.float32 if shape else np.int64))
    for _ in range(11):
        replay.add(steps)
    took = rounds(lambda: replay.gather(replay.draw(batch), n_step, 0.99))
    return {
        "transitions": size,
        "features": features,
        "batch": batch,
        "n_step": n_step,
        "best_us": round(min(took), 1),
        "median_us": round(statistics.median(took), 1),
    }


def priorities(size: int, batch: int) -> Any:
    """Draws, weights and new priorities of a prioritised batch."""
    of = Spaces(spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2))
    replay, length = PrioritizedReplay(of, 1, size, 0, alpha=0.6), size // 10
    seen = np.zeros((length + 1, 1, 1), np.float32)
    for _ in range(11):
        replay.add(rollout_of(seen, np.zeros((length, 1), np.int64)))
    errors = np.random.default_rng(0).standard_normal(batch)

    def sample() -> None:
        indices = replay.draw(batch)
        replay.weights(indices, 0.4)
        replay.set_priorities(indices, errors)

    took = rounds(sample)
    return {
        "leaves": size,
        "batch": batch,
        "best_us": round(min(took), 1),
        "median_us": round(statistics.median(took), 1),
    }


def frames(count: int) -> Any:
    """Single frames in memory, stacks out of it."""
    of = Spaces(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), FrameStack(4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    replay, length = ReplayBuffer(of, LANES, count, 0), 128
    shown = np.random.default_rng(0).integers(0, 255, (length + 1, LANES, 84, 84), np.uint8)
    back = np.maximum(np.arange(length + 1)[:, None] - np.arange(3, -1, -1), 0)
    steps = rollout_of(np.swapaxes(shown[back], 1, 2), np.zeros((length, LANES), np.int64))
    began = time.process_time()
    while len(replay) < count // LANES * LANES:
        replay.add(steps)
    added = time.process_time() - began
    took = rounds(lambda: replay.gather(replay.draw(32), 1, 0.99), seconds=1.0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "frames": count,
        "gigabytes": round(grown * 1024 / 1e9, 2),
        "promised_gigabytes": round(ReplayBuffer.bytes_needed(of, count) / 1e9, 2),
        "add_us_a_step": round(added / count * 1e6, 1),
        "batches_a_minute": round(60e6 / statistics.median(took)),
    }


def main() -> None:
    """Prints one JSON line for each case."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--frames", type=int, default=1_000_000)
    options = flags.parse_args()
    box = spaces.Box(-1, 1, (6,), np.float32)
    cases = (
        ("stacked frames", lambda: frames(options.frames)),
        ("CartPole", lambda: vectors(100_000, 4, spaces.Discrete(2), 64, 1)),
        ("HalfCheetah", lambda: vectors(100_000, 17, box, 256, 1)),
        ("HalfCheetah", lambda: vectors(1_000_000, 17, box, 256, 1)),
        ("HalfCheetah", lambda: vectors(100_000, 17, box, 256, 3)),
        ("priorities", lambda: priorities(1_000_000, 256)),
    )
    for name, measure in cases:
        told = {"question": f"replay: {name}", "commit": commit(), "cores": os.cpu_count()}
        print(json.dumps(told | measure()), flush=True)


if __name__ == "__main__":
    main()
