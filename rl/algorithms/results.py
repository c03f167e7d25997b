"""What a stretch of training came to."""

from __future__ import annotations

from dataclasses import dataclass

from rl.core.data.rollout import Episode
from rl.core.learning.learner import Metrics

__all__ = ["TrainResult"]


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
