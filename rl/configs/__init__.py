"""Settings, as data: all of a run's are one frozen value, checked when it is made.

A config is imported when its name is first used: a class of settings takes a while to be made, and
a run needs those of its own algorithm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl.configs.algorithm_config import (
        AlgorithmConfig,
        CheckpointsConfig,
        EnvRunnersConfig,
        EvaluationConfig,
        LearnersConfig,
        MetricsConfig,
        RuntimeConfig,
    )
    from rl.configs.base import config
    from rl.configs.dqn import DQNConfig
    from rl.configs.ppo import PPOConfig

__all__ = [
    "AlgorithmConfig",
    "CheckpointsConfig",
    "DQNConfig",
    "EnvRunnersConfig",
    "EvaluationConfig",
    "LearnersConfig",
    "MetricsConfig",
    "PPOConfig",
    "RuntimeConfig",
    "config",
]

_HOMES = {"DQNConfig": "rl.configs.dqn", "PPOConfig": "rl.configs.ppo", "config": "rl.configs.base"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES.get(name, "rl.configs.algorithm_config"))
    value: object = getattr(home, name)
    return value
