"""How near is an update of SAC to the time that its matrix products alone take?

Policy and both critics have two hidden layers of 256, batches are of 256. The floor is
every product of the update and nothing else: `np.dot` into arrays that are there already. An update
is all that `SACLearner.step` does: it draws the batch, draws noise, computes both losses and their
gradients, takes three steps of Adam and moves the target. Blocks of updates and blocks of floors
follow each other; the share, floor / update, is the median over neighbours. Before each block the
process rests: threads of OpenBLAS look for work on their cores for some 100 ms after a product.

    python benchmarks/sac_floor.py [--env Pendulum-v1 HalfCheetah-v5] [--engines compiled numpy]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _pairs import commit

import rl
from rl.core.models.blas import BlasThreads

BATCH, HIDDEN, ROWS = 256, 256, 2000
REST = 0.2
"""Seconds before a block: what the one before it used is asleep by then."""


class Product:
    """a b into an array of its own."""

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b
        self.out = np.empty((a.shape[0], b.shape[1]), np.float32)

    def __call__(self) -> None:
        """Computes it once more."""
        np.dot(self.a, self.b, self.out)

    @property
    def operations(self) -> int:
        """Additions and multiplications."""
        return 2 * self.a.shape[0] * self.a.shape[1] * self.b.shape[1]


class Layers:
    """The products of one network, forward and backward; activations and biases are left out."""

    def __init__(self, widths: tuple[int, ...], rng: np.random.Generator) -> None:
        """`widths`: of the inputs, of each layer, [1 + layers]."""
        sizes = list(itertools.pairwise(widths))
        self.weights = [_normal(rng, *size) / np.float32(size[0] ** 0.5) for size in sizes]
        self.rows = [_normal(rng, BATCH, width) for width in widths]
        self.slopes = [_normal(rng, BATCH, width) for width in widths]

    def forward(self) -> list[Product]:
        """The outputs of each layer."""
        return [Product(x, w) for x, w in zip(self.rows, self.weights, strict=False)]

    def to_parameters(self) -> list[Product]:
        """The gradients of all weights, and on the way those at the hidden layers."""
        own = [Product(x.T, g) for x, g in zip(self.rows, self.slopes[1:], strict=False)]
        return own + self._back(1)

    def to_inputs(self, columns: int) -> list[Product]:
        """The gradient at the last `columns` inputs."""
        return [*self._back(1), Product(self.slopes[1], self.weights[0][-columns:].T)]

    def _back(self, first: int) -> list[Product]:
        pairs = zip(self.slopes[first + 1 :], self.weights[first:], strict=True)
        return [Product(g, w.T) for g, w in pairs]


def _normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


def floor(inputs: int, actions: int) -> list[Product]:
    """The products of one update.

    Args:
        inputs: Numbers of an observation.
        actions: Numbers of an action.
    """
    rng = np.random.default_rng(0)
    policy = Layers((inputs, HIDDEN, HIDDEN, 2 * actions), rng)
    found = policy.forward() + policy.forward() + policy.to_parameters()
    for _ in range(2):
        shape = inputs + actions, HIDDEN, HIDDEN, 1
        target, critic = Layers(shape, rng), Layers(shape, rng)
        found += target.forward()
        found += critic.forward() + critic.to_parameters()
        found += critic.forward() + critic.to_inputs(actions)
    return found


def seconds(call: Callable[[], object], times: int) -> float:
    """Of one call, the mean over a block after a rest and one call that does not count."""
    time.sleep(REST)
    call()
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def measure(env: str, engine: str, threads: int, blocks: int, updates: int) -> dict[str, Any]:
    """The shares of all blocks, after one that does not count."""
    config = rl.SACConfig(env=env, learning_starts=ROWS, rollout_length=ROWS, buffer_size=ROWS)
    with config.with_learners(engine=engine, threads=threads).build() as algorithm:
        learner: Any = algorithm.make_learner()
        learner.update(algorithm.sample(ROWS), 0)  # something to draw from
        spec = learner.module.spec
        (inputs,), (actions,) = spec.observation_space.shape, spec.action_space.shape
        products = floor(inputs, actions)

        def multiply() -> None:
            for product in products:
                product()

        blas, found = BlasThreads(), []
        for _ in range(blocks):
            with blas.limited(threads):
                least = seconds(multiply, updates)
            with algorithm.learners.computing():
                found.append((least, seconds(learner.step, updates)))
    shares = [least / own for least, own in found[1:]]
    least, own = (statistics.median(column) for column in zip(*found[1:], strict=True))
    return {
        "question": f"SAC {env}, products alone / update",
        "engine": engine,
        "threads": threads,
        "floor_ms": round(1e3 * least, 2),
        "floor_gflops": round(sum(product.operations for product in products) / least / 1e9, 1),
        "update_ms": round(1e3 * own, 2),
        "updates_per_second": round(1 / own, 1),
        "share": round(statistics.median(shares), 3),
        "share_range": [round(min(shares), 3), round(max(shares), 3)],
    }


def main() -> None:
    """Prints a JSON line for each environment and engine."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--env", nargs="+", default=["Pendulum-v1", "HalfCheetah-v5"])
    flags.add_argument("--engines", nargs="+", default=["compiled", "numpy"])
    flags.add_argument("--threads", type=int, default=1, help="of the products and of the update")
    flags.add_argument("--blocks", type=int, default=41, help="the first does not count")
    flags.add_argument("--updates", type=int, default=20, help="of each block")
    options = flags.parse_args()
    head = {"commit": commit(), "cores": os.cpu_count(), "blocks": options.blocks - 1}
    for env in options.env:
        for engine in options.engines:
            told = measure(env, engine, options.threads, options.blocks, options.updates)
            print(json.dumps(head | told), flush=True)


if __name__ == "__main__":
    main()
