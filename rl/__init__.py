"""A reinforcement-learning platform: one config from a laptop to a cluster.

Names are imported when they are first used, so that `import rl` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl.algorithms.algorithm import Algorithm
    from rl.algorithms.dqn import DQN
    from rl.algorithms.ppo import PPO
    from rl.algorithms.sac import SAC
    from rl.algorithms.td3 import TD3
    from rl.configs.algorithm_config import AlgorithmConfig
    from rl.configs.base import config
    from rl.configs.dqn import DQNConfig
    from rl.configs.ppo import PPOConfig
    from rl.configs.sac import SACConfig
    from rl.configs.td3 import TD3Config
    from rl.core.models.policy import Policy
    from rl.core.runtime import Runtime
    from rl.env_runners.environments import register_env
    from rl.errors import ConfigError, RLError
    from rl.version import __version__

__all__ = [
    "DQN",
    "PPO",
    "SAC",
    "TD3",
    "Algorithm",
    "AlgorithmConfig",
    "ConfigError",
    "DQNConfig",
    "PPOConfig",
    "Policy",
    "RLError",
    "Runtime",
    "SACConfig",
    "TD3Config",
    "__version__",
    "config",
    "register_env",
]

_SOURCES = {
    "Algorithm": "rl.algorithms.algorithm",
    "AlgorithmConfig": "rl.configs.algorithm_config",
    "ConfigError": "rl.errors",
    "DQN": "rl.algorithms.dqn",
    "DQNConfig": "rl.configs.dqn",
    "PPO": "rl.algorithms.ppo",
    "PPOConfig": "rl.configs.ppo",
    "Policy": "rl.core.models.policy",
    "RLError": "rl.errors",
    "Runtime": "rl.core.runtime",
    "SAC": "rl.algorithms.sac",
    "SACConfig": "rl.configs.sac",
    "TD3": "rl.algorithms.td3",
    "TD3Config": "rl.configs.td3",
    "__version__": "rl.version",
    "config": "rl.configs.base",
    "register_env": "rl.env_runners.environments",
}


def __getattr__(name: str) -> object:
    if name not in _SOURCES:
        raise AttributeError(f"module 'rl' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_SOURCES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
