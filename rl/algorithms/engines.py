"""Which engine a run lives on, and who samples there."""

from __future__ import annotations

import os

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.spaces import Spaces
from rl.core.models.actor import ActorFactory
from rl.core.runtime import Runtime
from rl.env_runners.elastic import ElasticEnvRunnerGroup
from rl.env_runners.group import EnvRunnerGroup

__all__ = ["choose_engine", "make_env_runners", "make_runtime"]


def choose_engine(config: AlgorithmConfig) -> str:
    """The engine asked for; `auto` takes processes where runners can work side by side."""
    if config.runtime.engine != "auto":
        return config.runtime.engine
    cores = len(os.sched_getaffinity(0))
    return "process" if config.env_runners.num > 1 and cores > 1 else "inline"


def make_runtime(config: AlgorithmConfig) -> Runtime:
    """The runtime of a run. Raises `UsageError` where Ray is missing or cannot be joined."""
    engine, settings = choose_engine(config), config.runtime
    if engine != "ray":
        return Runtime(engine)
    return Runtime(
        engine,
        address=settings.address,
        namespace=settings.namespace,
        working_dir=settings.working_dir,
        env_vars=dict(settings.env_vars),
        placement_timeout=settings.placement_timeout,
    )


def make_env_runners(
    runtime: Runtime, config: AlgorithmConfig, make_actor: ActorFactory, spaces: Spaces
) -> EnvRunnerGroup | ElasticEnvRunnerGroup:
    """The runners of a run; `env_runners.min` says whether their processes may come and go."""
    group = ElasticEnvRunnerGroup if config.env_runners.min else EnvRunnerGroup
    return group(runtime, config, make_actor, spaces)
