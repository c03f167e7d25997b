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
    MaskedSuccessor           Q(start, any) = 0.9        9: a maximum over forbidden actions
    MaskedChoice              the best of what is        an error: an action that is forbidden
                              allowed, 7.56 an episode   5: any allowed one
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
    "MaskedChoice",
    "MaskedSuccessor",
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


class _Masked(gymnasium.Env[Any, Any]):
    """Constant observations of `num_states` states, and a mask; a forbidden action is an error."""

    num_states = 1
    num_actions = 2

    def __init__(self, where: Literal["observation", "info"] = "observation") -> None:
        self.where = where
        self.action_space = spaces.Discrete(self.num_actions)
        self.observation_space: spaces.Space[Any] = spaces.Box(0, 1, (self.num_states,), np.float32)
        if where == "observation":
            mask = spaces.MultiBinary(self.num_actions)
            self.observation_space = spaces.Dict(
                {"state": self.observation_space, "action_mask": mask}
            )
        self.mask = np.zeros(self.num_actions, np.int8)

    def answer(self, state: int, mask: Array) -> tuple[Any, dict[str, Any]]:
        """Observation and info."""
        self.mask = mask.astype(np.int8)
        one_hot = np.eye(self.num_states, dtype=np.float32)[state]
        if self.where == "info":
            return one_hot, {"action_mask": self.mask}
        return {"state": one_hot, "action_mask": self.mask}, {}

    def check(self, action: Any) -> None:
        """Raises when the action is forbidden."""
        if not self.mask[action]:
            raise ValueError(f"the action {action} is forbidden by {self.mask}")


class MaskedSuccessor(_Masked):
    """A state seen under two masks: one action is worth 1 in it, the other 10.

    The start leads there with reward 0, and then only the action worth 1 is allowed: the start is
    worth 0.9. Every other episode begins there with only the action worth 10 allowed. After the end
    nothing is allowed.
    """

    num_states = 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(2))
        return self.answer(self.state, np.array([True, True] if self.state == 0 else [False, True]))

    def step(self, action: Any) -> Any:
        self.check(action)
        over = self.state == 1
        self.state = 1
        reward = (1.0, 10.0)[int(action)] if over else 0.0
        observation, info = self.answer(1, np.array([not over, False]))
        return observation, reward, over, False, info


class MaskedChoice(_Masked):
    """Ten steps of choosing among what a random mask allows of four actions; action a pays a / 3.

    The mask is any subset but the empty one, so the best that is allowed pays 34 / 45 a step on
    average, any allowed one 1 / 2. Every other episode is truncated.
    """

    num_actions = 4

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.terminates = bool(self.np_random.integers(2))
        return self._next(over=False)

    def _next(self, over: bool) -> Any:
        subset = 0 if over else int(self.np_random.integers(1, 2**self.num_actions))
        return self.answer(0, (subset >> np.arange(self.num_actions)) & 1)

    def step(self, action: Any) -> Any:
        self.check(action)
        self.steps += 1
        over = self.steps == 10
        observation, info = self._next(over)
        ends = over and self.terminates, over and not self.terminates
        return observation, int(action) / 3, *ends, info
