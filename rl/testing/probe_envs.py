"""Probe environments: tiny ones whose values are known, each of which isolates one kind of mistake.

True values at discount 0.9, and what a wrong learner finds instead:

    EndlessReward truncated   V = 10                     1 to 2.71: a time limit taken for an end
    EndlessReward terminated  V = 2.71, 1.9, 1           10: an end taken for a time limit
    WrongSuccessor            V(start) = 4, V(on) = 10   about -5, -1: bootstrapped from the reset
    TwoStep                   V(0) = 0.9, V(1) = 1       equal values: no credit over time
    ActionReward              action 1, V = 1            indifference: the gradient's sign
    ObservationReward         V(o) = o                   0.5: observations out of step
    MatchObservation          action = o, V = 1          V = 0.5: actions out of step
    ReachTarget               action = 0.5               drift: the continuous log-probability
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.core.data.tree import Array

__all__ = [
    "ActionReward",
    "EndlessReward",
    "MatchObservation",
    "ObservationReward",
    "ReachTarget",
    "TwoStep",
    "WrongSuccessor",
]

StepResult = tuple[Array, float, bool, bool, dict[str, Any]]


class _Probe(gymnasium.Env[Array, Any]):
    """A probe with one-hot observations of `num_states` states."""

    num_states = 1
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (self.num_states,), np.float32)
        self.state = 0
        self.steps = 0

    def first_state(self) -> int:
        """Where an episode begins."""
        return 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.first_state()
        self.steps = 0
        return self.observe(self.state), {}

    def observe(self, state: int) -> Array:
        """One-hot [num_states] float32."""
        one_hot: Array = np.eye(self.num_states, dtype=np.float32)[state]
        return one_hot


class EndlessReward(_Probe):
    """Reward 1 a step: worth 1 / (1 - gamma) when truncated, what is left when terminated.

    Truncated, the observation is constant, as the time limit is none of the task's business;
    terminated, it tells the step.
    """

    def __init__(
        self, length: int = 3, ends: Literal["truncated", "terminated"] = "truncated"
    ) -> None:
        self.length = length
        self.terminates = ends == "terminated"
        self.num_states = length + 1 if self.terminates else 1
        super().__init__()

    def step(self, action: Any) -> StepResult:
        self.steps += 1
        over = self.steps == self.length
        observation = self.observe(self.steps if self.terminates else 0)
        return observation, 1.0, over and self.terminates, over and not self.terminates, {}


class WrongSuccessor(_Probe):
    """Reward -5 for leaving the start, then 1 a step; truncated after 5.

    Whoever bootstraps the truncated step from the observation after the reset takes the start for
    its successor, and finds values far below the true ones.
    """

    num_states = 2

    def step(self, action: Any) -> StepResult:
        reward = -5.0 if self.state == 0 else 1.0
        self.state = 1
        self.steps += 1
        return self.observe(1), reward, False, self.steps == 5, {}


class TwoStep(_Probe):
    """Nothing at first, reward 1 at the second and last step."""

    num_states = 3

    def step(self, action: Any) -> StepResult:
        reward = float(self.state == 1)
        self.state += 1
        return self.observe(self.state), reward, self.state == 2, False, {}


class ActionReward(_Probe):
    """One step: action 1 is rewarded with 1, action 0 with -1."""

    def step(self, action: Any) -> StepResult:
        return self.observe(0), 1.0 if action == 1 else -1.0, True, False, {}


class _CoinToss(_Probe):
    """One step from one of two states, equally likely."""

    num_states = 2

    def first_state(self) -> int:
        return int(self.np_random.integers(2))


class ObservationReward(_CoinToss):
    """One step: the reward is the state, 0 or 1, whatever is done."""

    def step(self, action: Any) -> StepResult:
        return self.observe(self.state), float(self.state), True, False, {}


class MatchObservation(_CoinToss):
    """One step: the action that equals the state is rewarded with 1."""

    def step(self, action: Any) -> StepResult:
        return self.observe(self.state), float(action == self.state), True, False, {}


class ReachTarget(_Probe):
    """One step: the reward is minus the squared distance of a continuous action from 0.5."""

    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def step(self, action: Any) -> StepResult:
        return self.observe(0), -float((action[0] - 0.5) ** 2), True, False, {}
