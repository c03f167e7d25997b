"""Evaluation: whole episodes in environments of its own, greedily and without bias."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from rl.core.data.masks import has_choice
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.seeding import stream_seed
from rl.env_runners.faults import check_reset, check_step, no_choice, raised, score_of
from rl.errors import EnvironmentFault

__all__ = ["Evaluation", "evaluate_policy"]

logger = logging.getLogger(__name__)

MOST_ENVIRONMENTS = 16
"""Stepped side by side; more would cost memory and gain little."""


class Evaluated(Protocol):
    """What is evaluated: `rl.Policy`, or anything that acts on batches as it does."""

    def act_batch(self, observations: Tree, deterministic: bool = True) -> Array: ...
    def decode(self, actions: Array) -> list[Any]: ...
    def stack(self, observations: list[Any]) -> Tree: ...
    def reset(self, where: Array | None = None) -> None: ...


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of whole episodes, in the order of their seeds."""

    returns: tuple[float, ...]
    """Sums of the environment's own rewards."""
    lengths: tuple[int, ...]
    """Environment steps."""
    env_steps: int = 0
    """Training steps the policy had seen."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes (not over seeds)."""
        return float(np.std(self.returns))

    @property
    def mean_length(self) -> float:
        """Mean episode length."""
        return float(np.mean(self.lengths))


def evaluate_policy(
    policy: Evaluated,
    make_environment: Callable[[], gymnasium.Env[Any, Any]],
    num_episodes: int,
    seed: int,
    *,
    deterministic: bool = True,
    env_steps: int = 0,
    max_failures: int = 0,
) -> Evaluation:
    """Plays `num_episodes` whole episodes.

    Episode i is reset with a seed made of (seed, i). Each environment is given its episodes
    beforehand, so short ones are not favoured; and all are acted for as one batch to the end, so
    the bits do not depend on which ended first. An environment that raises is made anew, with a
    warning, and its episode played again from another seed.

    Args:
        policy: What acts.
        make_environment: Makes one environment.
        num_episodes: How many are played.
        seed: Of the episodes.
        deterministic: Whether the policy takes its best actions, or draws them.
        env_steps: What the result shall say of the policy's training.
        max_failures: How often environments may raise.

    Raises:
        EnvironmentFault: An environment raised once too often, or broke its contract.
    """
    width = min(num_episodes, MOST_ENVIRONMENTS)
    budget = _Budget(max_failures)
    seats: list[_Seat] = []
    try:
        seats.extend(
            _Seat(make_environment, budget, seed, range(b, num_episodes, width))
            for b in range(width)
        )
        _play(policy, seats, deterministic)
    finally:
        for seat in seats:
            seat.env.close()
    played = {episode: result for seat in seats for episode, result in seat.played.items()}
    returns, lengths = zip(*(played[i] for i in range(num_episodes)), strict=True)
    return Evaluation(returns, lengths, env_steps)


def _play(policy: Evaluated, seats: list[_Seat], deterministic: bool) -> None:
    layout, choices = seats[0].layout, ActionLayout(seats[0].env.action_space)
    for seat in seats:
        seat.begin()
    policy.reset()
    while any(seat.todo for seat in seats):
        begun = np.zeros(len(seats), np.bool_)
        batch = policy.stack([seat.observation for seat in seats])
        mask = layout.mask_of(batch)
        if mask is not None:
            for b in np.flatnonzero(~has_choice(choices, mask)).tolist():
                if seats[b].todo:  # else its last observation, which is kept for the batch's shape
                    raise no_choice(f"{seats[b].where}, step {seats[b].length + 1}")
        actions = policy.decode(policy.act_batch(batch, deterministic))
        for b, seat in enumerate(seats):
            if seat.todo:  # else its row stays, so that the batch keeps its shape
                begun[b] = seat.step(actions[b])
        policy.reset(begun)
    policy.reset()


class _Budget:
    """How often environments may raise in one evaluation."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._spent = 0

    def spend(self, fault: EnvironmentFault) -> None:
        """Warns of it; raises it where it is not the environment's error, or one too many."""
        self._spent += 1
        if fault.__cause__ is None or self._spent > self._allowed:
            raise fault
        logger.warning(
            "%s. It is made anew, and the episode played again from another seed: failure %d of"
            " the %d that env_runners.max_env_failures allows in an evaluation.",
            fault,
            self._spent,
            self._allowed,
        )


class _Seat:
    """One environment and the episodes it has to play."""

    observation: Any

    def __init__(
        self,
        make_environment: Callable[[], gymnasium.Env[Any, Any]],
        budget: _Budget,
        seed: int,
        episodes: Iterable[int],
    ) -> None:
        self.env = make_environment()
        spec = self.env.unwrapped.spec
        self._name = str(self.env) if spec is None else spec.id
        self.layout = ObservationLayout(self.env.observation_space)
        self.todo = list(episodes)
        """Episodes left; the first is under way."""
        self.played: dict[int, tuple[float, int]] = {}
        """Return and length of those that are over."""
        self.length = 0
        self._total = 0.0
        self._make_environment = make_environment
        self._budget = budget
        self._seed = seed
        self._attempt = 0

    @property
    def where(self) -> str:
        """Which episode, in words."""
        return f"env {self._name}, evaluation episode {self.todo[0]}"

    def begin(self) -> None:
        """Resets the environment for its next episode, if there is one."""
        self._total, self.length = 0.0, 0
        waiting = bool(self.todo)
        while waiting:
            try:
                self.observation = self._reset()
                waiting = False
            except EnvironmentFault as fault:
                self._renew(fault)

    def step(self, action: Any) -> bool:
        """Takes a step; returns whether what comes next belongs to another episode."""
        try:
            self.observation, reward, ended, info = _step(
                self.env, self.layout, action, f"{self.where}, step {self.length}"
            )
        except EnvironmentFault as fault:
            self._renew(fault)
            self.begin()
            return True
        self._total += reward
        self.length += 1
        if ended:
            self.played[self.todo.pop(0)] = (score_of(info, self._total), self.length)
            self._attempt = 0
            self.begin()
        return ended

    def _renew(self, fault: EnvironmentFault) -> None:
        """Makes the environment anew after a fault. Raises where that is no way out."""
        self._budget.spend(fault)
        with contextlib.suppress(Exception):  # it is broken
            self.env.close()
        self.env = self._make_environment()
        self._attempt += 1

    def _reset(self) -> Any:
        attempt = (self._attempt,) if self._attempt else ()
        own = stream_seed(self._seed, "evaluation", self.todo[0], *attempt) & 0xFFFFFFFF
        call = f"reset(seed={own})"
        try:
            result: Any = self.env.reset(seed=own)
        except Exception as error:
            raise raised(self.where, call, error) from error
        check_reset(result, self.layout, self.where, call)
        return result[0]


def _step(
    env: gymnasium.Env[Any, Any], layout: ObservationLayout, action: Any, where: str
) -> tuple[Any, float, bool, dict[str, Any]]:
    try:
        result: Any = env.step(action)
    except Exception as error:
        raise raised(where, f"step({action!r})", error) from error
    check_step(result, layout, where)
    observation, reward, terminated, truncated, info = result
    return observation, float(reward), bool(terminated or truncated), info
