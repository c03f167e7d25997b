"""A rollout: T consecutive steps of B environments, time-major, sealed.

With same-step reset `observations[t + 1]` after an end is already the first of the next episode.
The observation an episode really ended on is kept apart, because a truncated episode must be
bootstrapped from it (Pardo et al. 2018, arXiv:1712.00378) and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rl.core.data.tree import Array, Tree, concatenate_trees, first_leaf, tree_map
from rl.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Episode", "Failure", "Rollout"]


class Episode(NamedTuple):
    """A finished episode, before reward or observation wrappers changed it."""

    step: int
    """Row t of the rollout it ended in."""
    episode_return: float
    length: int
    """Environment steps."""
    seconds: float
    """Wall time since the runner began."""
    success: bool | None = None
    """`info["is_success"]` of the last step, where the environment says so."""


class Failure(NamedTuple):
    """An environment that raised, and was made anew."""

    step: int
    """Row t of the rollout in which its next episode begins; T: in the next fragment."""
    environment: int
    """Index b."""
    ended: bool
    """Whether the episode it broke off is marked as truncated, in row t - 1."""
    text: str
    """Who raised what, in one line."""
    traceback: str
    """The environment's own."""


@dataclass(frozen=True)
class Rollout:
    """Experience of one runner, or of several laid side by side."""

    observations: (
        Tree  # [T+1, B, *obs], native dtype; the last row is where the next fragment starts
    )
    actions: Array  # [T, B, *act], as sampled, before clipping to the space
    rewards: Array  # [T, B] float32
    terminated: Array  # [T, B] bool
    truncated: Array  # [T, B] bool; never together with terminated
    extras: dict[str, Array]  # what the algorithm asked for, each [T, B, ...]
    final_steps: Array  # [K, 2] int64, (t, b) where an episode ended
    final_observations: Tree  # [K, *obs], the observation it really ended on
    # [T, B] bool; None means every row is a step. A row that is none leads from the observation an
    # episode ended on to the first of the next: nothing may be learnt or carried over it.
    valid: Array | None = None
    # [T+1, B, S] float32, what a policy with memory remembered at each step; zero where an episode
    # begins, and the last row is where the next fragment starts. None without memory.
    memory: Array | None = None
    # `observations` on the device that acted on them, where that learns in this process, too, so
    # that nothing has to go there again. The arrays are what counts; this does not travel.
    on_device: Tensor | dict[str, Tensor] | None = None
    replayable: bool = True  # whether seeds and actions bring its episodes back
    weights_version: int = 0
    runner: int = 0
    fragment: int = 0
    episodes: tuple[Episode, ...] = field(default=())
    failures: tuple[Failure, ...] = field(default=())
    act_share: float = 0.0  # part of the time it took that went into choosing actions

    def __getstate__(self) -> dict[str, Any]:
        """What travels, and is copied."""
        return {**vars(self), "on_device": None}

    @property
    def length(self) -> int:
        """T, steps per environment."""
        return int(self.rewards.shape[0])

    @property
    def num_environments(self) -> int:
        """B."""
        return int(self.rewards.shape[1])

    @property
    def num_steps(self) -> int:
        """Environment steps in it; dummy rows are none."""
        return int(self.rewards.size if self.valid is None else np.count_nonzero(self.valid))

    @property
    def steps_by_row(self) -> Array:
        """Environment steps up to and including each row, all environments together, [T] int64."""
        if self.valid is None:
            return np.arange(1, self.length + 1) * self.num_environments
        counts: Array = np.cumsum(np.count_nonzero(self.valid, axis=1))
        return counts

    def next_observations(self) -> Tree:
        """The true successor of every step, [T, B, *obs]: the final observation where one ended."""
        following = tree_map(lambda leaf: leaf[1:].copy(), self.observations)
        t, b = self.final_steps.T
        if isinstance(following, dict):
            assert isinstance(self.final_observations, dict)
            for path, leaf in following.items():
                leaf[t, b] = self.final_observations[path]
        else:
            following[t, b] = self.final_observations
        return following

    @staticmethod
    def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
        """Lays rollouts of equal T side by side along B, in the order given."""
        if len(rollouts) == 1:
            return rollouts[0]
        first = rollouts[0]
        offsets = np.cumsum([0, *(rollout.num_environments for rollout in rollouts[:-1])])
        shifted = [
            rollout.final_steps + np.array([0, offset])
            for rollout, offset in zip(rollouts, offsets, strict=True)
        ]
        masked = any(rollout.valid is not None for rollout in rollouts)
        return Rollout(
            observations=concatenate_trees([r.observations for r in rollouts], axis=1),
            actions=np.concatenate([r.actions for r in rollouts], axis=1),
            rewards=np.concatenate([r.rewards for r in rollouts], axis=1),
            terminated=np.concatenate([r.terminated for r in rollouts], axis=1),
            truncated=np.concatenate([r.truncated for r in rollouts], axis=1),
            extras={
                name: np.concatenate([r.extras[name] for r in rollouts], axis=1)
                for name in first.extras
            },
            final_steps=np.concatenate(shifted),
            final_observations=concatenate_trees([r.final_observations for r in rollouts], axis=0),
            valid=np.concatenate([_validity(r) for r in rollouts], axis=1) if masked else None,
            memory=None
            if first.memory is None
            else np.concatenate([r.memory for r in rollouts if r.memory is not None], axis=1),
            on_device=_side_by_side([r.on_device for r in rollouts]),
            replayable=all(r.replayable for r in rollouts),
            weights_version=min(r.weights_version for r in rollouts),
            runner=first.runner,
            fragment=first.fragment,
            episodes=tuple(episode for r in rollouts for episode in r.episodes),
            act_share=sum(r.act_share for r in rollouts) / len(rollouts),
            failures=tuple(
                failure._replace(environment=failure.environment + int(offset))
                for r, offset in zip(rollouts, offsets, strict=True)
                for failure in r.failures
            ),
        )

    def check(self) -> None:
        """Asserts what every rollout must hold; for tests and for authors of runners."""
        time, width = self.rewards.shape
        assert first_leaf(self.observations).shape[:2] == (time + 1, width)
        assert self.actions.shape[:2] == (time, width)
        assert not (self.terminated & self.truncated).any(), "terminated wins"
        ends = np.argwhere(self.terminated | self.truncated)
        assert np.array_equal(ends, self.final_steps[np.lexsort(self.final_steps.T[::-1])])
        assert first_leaf(self.final_observations).shape[0] == len(ends)
        if self.valid is not None:
            assert self.valid.shape == (time, width)
            assert self.valid[ends[:, 0], ends[:, 1]].all(), "only a step ends an episode"
            assert not self.rewards[~self.valid].any(), "only a step is rewarded"
        if self.on_device is not None:
            assert tuple(first_leaf(self.on_device).shape[:2]) == (time + 1, width)
        if self.memory is not None:
            assert self.memory.shape[:2] == (time + 1, width)
            assert not self.memory[1:][_fresh(self)].any(), "nothing is remembered across an end"


def _side_by_side(trees: Sequence[Any]) -> Tensor | dict[str, Tensor] | None:
    """Tensors [T+1, B, *obs] joined along B; None where one is missing."""
    if any(tree is None for tree in trees):
        return None
    if isinstance(trees[0], dict):
        return {path: torch.cat([tree[path] for tree in trees], 1) for path in trees[0]}
    return torch.cat([*trees], 1)


def _fresh(rollout: Rollout) -> Array:
    """Rows [T, B] behind which an episode begins, or a row that is no step."""
    return rollout.terminated | rollout.truncated | ~_validity(rollout)


def _validity(rollout: Rollout) -> Array:
    return np.ones_like(rollout.terminated) if rollout.valid is None else rollout.valid
