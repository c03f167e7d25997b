"""What a stretch of training came to."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rl.core.data.rollout import Episode
from rl.core.learning.learner import Metrics

__all__ = ["TrainResult", "warn_of_skipped"]

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
