"""Videos of evaluations, for TensorBoard and for the run's directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl.algorithms.algorithm import Algorithm
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.records.files import write_atomically
from rl.core.records.metrics import MetricsLogger
from rl.core.records.run_directory import RunDirectory
from rl.env_runners.environments import EnvironmentFactory, describe_env
from rl.env_runners.recording import as_gif, check_recordable, record_episodes

__all__ = ["TAG", "Video", "check_videos", "record_evaluation", "show_video", "video_due"]

TAG = "eval/video"
LONGEST_SIDE = 320
"""Pixels."""
MOST_STEPS = 500
"""Environment steps that are shown."""

Video = tuple[bytes, int, int]
"""A GIF, its height and width."""


def check_videos(config: AlgorithmConfig) -> None:
    """Raises `UsageError` where videos are asked for and cannot be made, before anything runs."""
    if config.evaluation.video_interval:
        factory = EnvironmentFactory.of(config, describe_env(config))
        check_recordable(factory.for_evaluation("rgb_array"))


def video_due(config: AlgorithmConfig, env_steps: int) -> bool:
    """Whether the evaluation at this step has a video; a function of the step, so resumes agree."""
    every, interval = config.evaluation.video_interval, config.evaluation.interval
    if not every:
        return False
    last = env_steps >= config.total_steps
    return last or (interval > 0 and env_steps // interval % every == 0)


def record_evaluation(algorithm: Algorithm[Any]) -> Video:
    """The first episode of an evaluation, played again to be seen; training is not disturbed."""
    factory = EnvironmentFactory.of(algorithm.config, algorithm.spaces)
    frames, _, rate = record_episodes(
        algorithm.policy,
        factory.for_evaluation("rgb_array"),
        1,
        algorithm.config.seed,
        MOST_STEPS,
    )
    return as_gif(frames, rate, LONGEST_SIDE)


def show_video(
    video: Video,
    env_steps: int,
    logger: MetricsLogger,
    run: RunDirectory,
    tell: Callable[[str], None],
) -> None:
    """Puts it into TensorBoard and into `videos/`; of a step there is one, also after a resume.

    A disk that refuses costs the file, and is told.
    """
    logger.log_video(TAG, *video, env_steps)
    path = run.videos / f"step_{env_steps:09d}.gif"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, video[0])
    except OSError as error:
        tell(f"warning: cannot write {path}: {error.strerror}; training goes on without it")
