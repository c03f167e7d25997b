"""Evaluation: whole episodes in environments of its own, greedily and without bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from rl.core.data.masks import has_choice
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.seeding import stream_seed
from rl.env_runners.faults import check_reset, check_step, no_choice, raised, score_of

__all__ = ["Evaluation", "evaluate_policy"]

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
) -> Evaluation:
    """Plays `num_episodes` whole episodes.

    Episode i is reset with a seed made of (seed, i). Each environment is given its episodes
    beforehand, so short ones are not favoured; and all are acted for as one batch to the end, so
    the bits do not depend on which ended first.

    Raises:
        EnvironmentFault: An environment raised or broke its contract.
    """
    width = min(num_episodes, MOST_ENVIRONMENTS)
    environments: list[gymnasium.Env[Any, Any]] = []
    try:
        environments.extend(make_environment() for _ in range(width))
        played = _play(policy, environments, num_episodes, seed, deterministic)
    finally:
        for env in environments:
            env.close()
    returns, lengths = zip(*(played[i] for i in range(num_episodes)), strict=True)
    return Evaluation(returns, lengths, env_steps)


def _play(
    policy: Evaluated,
    environments: list[gymnasium.Env[Any, Any]],
    num_episodes: int,
    seed: int,
    deterministic: bool,
) -> dict[int, tuple[float, int]]:
    width = len(environments)
    layout = ObservationLayout(environments[0].observation_space)
    choices = ActionLayout(environments[0].action_space)
    names = [f"env {env}" for env in environments]
    todo = [list(range(b, num_episodes, width)) for b in range(width)]
    current = [_reset(env, layout, seed, todo[b][0]) for b, env in enumerate(environments)]
    totals, lengths = [0.0] * width, [0] * width
    played: dict[int, tuple[float, int]] = {}
    policy.reset()
    while len(played) < num_episodes:
        begun = np.zeros(width, np.bool_)
        batch = policy.stack(current)
        mask = layout.mask_of(batch)
        if mask is not None:
            for b in np.flatnonzero(~has_choice(choices, mask)).tolist():
                if todo[b]:  # else its last observation, which is kept for the batch's shape
                    place = f"evaluation episode {todo[b][0]}, step {lengths[b] + 1}"
                    raise no_choice(f"{names[b]}, {place}")
        actions = policy.decode(policy.act_batch(batch, deterministic))
        for b, env in enumerate(environments):
            if not todo[b]:
                continue  # its row stays, so that the batch keeps its shape
            where = f"{names[b]}, evaluation episode {todo[b][0]}, step {lengths[b]}"
            current[b], reward, ended, info = _step(env, layout, actions[b], where)
            totals[b] += reward
            lengths[b] += 1
            if ended:
                played[todo[b].pop(0)] = (score_of(info, totals[b]), lengths[b])
                totals[b], lengths[b] = 0.0, 0
                begun[b] = True
                if todo[b]:
                    current[b] = _reset(env, layout, seed, todo[b][0])
        policy.reset(begun)
    policy.reset()
    return played


def _reset(env: gymnasium.Env[Any, Any], layout: ObservationLayout, seed: int, episode: int) -> Any:
    where = f"env {env}, evaluation episode {episode}"
    own = stream_seed(seed, "evaluation", episode) & 0xFFFFFFFF
    call = f"reset(seed={own})"
    try:
        result: Any = env.reset(seed=own)
    except Exception as error:
        raise raised(where, call, error) from error
    check_reset(result, layout, where, call)
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
