"""What a stretch of training came to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl.core.data.rollout import Episode, Rollout
from rl.core.learning.learner import Metrics

__all__ = ["TrainResult", "count_sampling", "ended_in", "shares_of", "warn_of_skipped"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What an iteration, or a stretch of them, came to."""

    env_steps: int
    """Environment steps of the run so far, all environments together."""
    total_steps: int
    """The budget."""
    iteration: int
    """Calls of `training_step` so far."""
    episode_return_mean: float
    """Over the last `metrics.window` training episodes; nan before the first has ended."""
    episode_length_mean: float
    steps_per_second: float
    """Of the last iteration."""
    metrics: Metrics
    """Scalars by their public name."""
    episodes: tuple[tuple[int, Episode], ...] = ()
    """Training episodes that ended in it, each with the run's environment step at that moment."""
    whole: bool = True
    """False when it was asked to stop before its row of metrics was over."""


def warn_of_skipped(metrics: Metrics, before: float, env_steps: int) -> float:
    """Tells of updates that were skipped for want of a finite loss; returns how many in all."""
    skipped = metrics.get("train/skipped_updates", 0.0)
    if skipped > before:
        logger.warning(
            "step %d: %d of the updates had a loss or gradient that is not finite, and were skipped"
            " (train/skipped_updates: %d)",
            env_steps,
            skipped - before,
            skipped,
        )
    return skipped


def ended_in(rollouts: Sequence[Rollout], before: int) -> list[tuple[int, Episode]]:
    """Episodes that ended in rollouts sampled side by side, in order of time, then of runners.

    Each with the run's environment step at that moment; `before` is that of their beginning.
    """
    if not any(rollout.episodes for rollout in rollouts):
        return []
    taken = before + np.sum([rollout.steps_by_row for rollout in rollouts], axis=0)
    ended = [
        (int(taken[episode.step]), episode) for rollout in rollouts for episode in rollout.episodes
    ]
    return sorted(ended, key=lambda entry: entry[0])  # stable


def count_sampling(seconds: dict[str, float], waited: float, rollouts: Sequence[Rollout]) -> None:
    """Adds what was waited for rollouts, and how much of it went into choosing actions.

    Runners work side by side: it is split in the proportions of what they did meanwhile.
    """
    seconds["sample"] += waited
    seconds["act"] += waited * sum(rollout.act_share for rollout in rollouts) / len(rollouts)


def shares_of(elapsed: float, steps: int, *, sample: float, act: float, learn: float) -> Metrics:
    """The `perf/` metrics of `elapsed` seconds: so many went into waiting for rollouts, learning.

    While it was waited for rollouts, runners chose actions (`act` seconds) or stepped environments.

    What is sampled while the learner learns is not waited for, and makes `perf/sample_fps` large.
    """
    return {
        "perf/sample_fps": steps / sample if sample else 0.0,
        "perf/learner_fps": steps / learn if learn else 0.0,
        "perf/sample_share": sample / elapsed,
        "perf/inference_share": act / elapsed,
        "perf/env_share": (sample - act) / elapsed,
        "perf/learn_share": learn / elapsed,
        "perf/wait_share": max(0.0, 1 - (sample + learn) / elapsed),
    }
