"""Environments and an actor whose every number can be told beforehand."""

from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array, Tree, first_leaf
from rl.core.data.weights import Weights
from rl.env_runners.env_runner import EnvRunner, MakeEnvironment
from rl.env_runners.lane import Lane
from rl.env_runners.lanes import Lanes

NUM_ACTIONS = 3


class Counting(gymnasium.Env[Any, Any]):
    """Observes [the reset's seed, steps, last action]; ends after a few steps in one of 3 ways."""

    def __init__(self, dtype: Any = np.float64) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype)
        self.action_space = spaces.Discrete(NUM_ACTIONS, start=5)
        self.seeds: list[int | None] = []

    def _observe(self, action: int) -> Any:
        return np.array([self._tag, self._steps, action], self.observation_space.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self._tag = self.np_random.integers(1000)
        self._length = self.np_random.integers(1, 9)
        self._ending = self.np_random.integers(3)
        self._steps = 0
        return self._observe(-1), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._steps += 1
        reward = self._steps + float(action) / 8 + float(self.np_random.random())
        end = self._steps == self._length
        terminated, truncated = end and self._ending != 1, end and self._ending != 0
        return self._observe(int(action)), reward, bool(terminated), bool(truncated), {}


class Scripted:
    """An actor of no parameters: the observation and the noise say what it does."""

    def set_weights(self, weights: Weights) -> None:
        self.version = weights.version

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        assert noise is not None
        rows = first_leaf(observations)
        seen = rows.reshape(len(rows), -1).sum(1).astype(np.int64)
        actions = (seen + (noise[:, 0] * 100).astype(np.int64)) % NUM_ACTIONS
        return actions, {"log_prob": noise[:, 0].copy()}


def make_runner(
    make_environment: MakeEnvironment, width: int = 3, seed: int = 4, index: int = 2
) -> EnvRunner:
    return EnvRunner(make_environment, "Probe-v0", width, Scripted, seed, index)


def lanes_of(runner: EnvRunner) -> list[Lane]:
    """The single environments of a runner."""
    environments = runner._environments
    assert isinstance(environments, Lanes)
    return environments._lanes


def assert_same(one: Rollout, other: Rollout) -> None:
    """All but what the clock says."""
    for field in fields(Rollout):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "episodes":
            assert [episode._replace(seconds=0) for episode in a] == [
                episode._replace(seconds=0) for episode in b
            ]
        elif isinstance(a, dict):
            assert a.keys() == b.keys()
            assert all(a[name].tobytes() == b[name].tobytes() for name in a)
        elif isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
        elif field.name != "act_share":
            assert a == b, field.name
