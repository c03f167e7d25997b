"""What every Algorithm must do; for authors of algorithms."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rl.algorithms.algorithm import Algorithm
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.spaces import MASK
from rl.core.models.policy import Policy
from rl.core.records.checkpoint import read_checkpoint

__all__ = ["check_algorithm", "weights_of"]


def weights_of(algorithm: Algorithm[Any]) -> dict[str, bytes]:
    """All the algorithm has learnt, to the bit: parameters, statistics, optimizer, generator."""
    return {name: array.tobytes() for name, array in algorithm.learners.get_state().items()}


def check_algorithm(config: AlgorithmConfig, iterations: int = 3) -> None:
    """Asserts what users rely on, with a few iterations of a config (choose a quick one).

    Equal configs give equal weights; another seed does not; a checkpoint goes on as if nothing had
    happened; evaluating changes nothing; the budget is kept; metrics are finite numbers under
    public names; the policy acts, and acts the same when loaded from its files.

    Raises:
        AssertionError: A rule is broken; the message says which.
    """
    with config.build() as algorithm, tempfile.TemporaryDirectory() as folder:
        for _ in range(iterations):
            result = algorithm.train()
            for name, value in result.metrics.items():
                assert "/" in name, f"metric {name!r} has no group: write train/{name}"
                assert isinstance(value, float), f"metric {name!r} is {value!r}, not a float"
        assert result.iteration == iterations
        assert result.env_steps == algorithm.env_steps > 0
        before = weights_of(algorithm)
        _check_same_again(config, iterations, before)
        first = algorithm.evaluate(num_episodes=2)
        assert algorithm.evaluate(num_episodes=2) == first, "two evaluations of one policy differ"
        assert weights_of(algorithm) == before, "evaluating changed what was learnt"
        checkpoint = algorithm.save(Path(folder) / "checkpoint")
        _check_policy(algorithm, checkpoint)
        _check_resume(config, algorithm, checkpoint)
    algorithm.close()  # a second close does nothing


def _check_same_again(config: AlgorithmConfig, iterations: int, expected: dict[str, bytes]) -> None:
    with config.build() as twin:
        for _ in range(iterations):
            twin.train()
        assert weights_of(twin) == expected, "the same config twice gave different weights"


def _check_policy(algorithm: Algorithm[Any], checkpoint: Path) -> None:
    loaded, live = Policy.load(checkpoint), algorithm.policy
    space = live.observation_space
    space.seed(0)
    for _ in range(5):
        observation = space.sample()
        if isinstance(observation, dict) and MASK in observation:
            observation[MASK] = np.ones_like(observation[MASK])
        action = live.act(observation)
        assert live.action_space.contains(action), f"{action} is not in {live.action_space}"
        same = np.array_equal(np.asarray(action), np.asarray(loaded.act(observation)))
        assert same, "a policy loaded from its files acts differently"


def _check_resume(config: AlgorithmConfig, algorithm: Algorithm[Any], checkpoint: Path) -> None:
    with config.build() as resumed:
        lost = resumed.restore(read_checkpoint(checkpoint))
        assert resumed.env_steps == algorithm.env_steps, "a restored run counts other steps"
        algorithm.train()
        resumed.train()
        if lost == 0:
            same = weights_of(resumed) == weights_of(algorithm)
            assert same, "a run that went on from a checkpoint learnt something else"
