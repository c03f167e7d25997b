"""Settings, as data: all of a run's are one frozen value, checked when it is made."""

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
