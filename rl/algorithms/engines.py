"""Which engine a run lives on, who samples there, and where actions are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rl.algorithms.workers import begin_workers, choose_engine
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.spaces import Spaces
from rl.core.lazy import LazyModule
from rl.core.learning.devices import acting_device, devices_of_ranks, learns_there
from rl.core.learning.learner import Learner
from rl.core.learning.learner_actors import LearnerActors
from rl.core.learning.learner_group import LearnerGroup
from rl.core.learning.threads import LearningThreads
from rl.core.models.actor import ActorFactory, actor_factory
from rl.core.runtime import Runtime
from rl.core.runtime.resources import available_cpus
from rl.env_runners.elastic import ElasticEnvRunnerGroup
from rl.env_runners.group import EnvRunnerGroup

if TYPE_CHECKING:
    from rl.algorithms.algorithm import Algorithm
    from rl.core.models import device_actor
else:
    device_actor = LazyModule("rl.core.models.device_actor")

__all__ = ["free_cores", "make_actors", "make_env_runners", "make_learners", "make_runtime"]

MOST_THREADS = 2
"""Of compiled passes where nobody says a number; what more of them give was not measured."""


def make_runtime(config: AlgorithmConfig) -> Runtime:
    """The runtime of a run. Raises `UsageError` where Ray is missing or cannot be joined."""
    engine, settings = choose_engine(config), config.runtime
    begin_workers(config)  # unless the command has
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


def make_learners(algorithm: Algorithm[Any]) -> LearnerGroup | LearnerActors:
    """The learners of an algorithm that has its config, spaces and runtime."""
    config = algorithm.config
    if config.learners.num == 0:
        threads = LearningThreads.of(config.learners, free_cores(config, algorithm.runtime.engine))
        return LearnerGroup(algorithm.make_learner, threads)
    clustered = algorithm.runtime.engine == "ray"
    makers: list[Callable[[], Learner[Any]]] = []
    for device in devices_of_ranks(config.learners, clustered):
        bare = object.__new__(type(algorithm))  # the algorithm as `make_learner` knows it
        bare.config = config.with_learners(device=device)
        bare.spaces = algorithm.spaces
        makers.append(bare.make_learner)
    preload = ("torch", type(algorithm).__module__)  # once, and not in every learner
    return LearnerActors(algorithm.runtime, makers, config, preload)


def make_actors(algorithm: Algorithm[Any]) -> ActorFactory:
    """What every runner of an algorithm acts with; it has its learners.

    Where `env_runners.device` is a GPU, what is acted on stays there if the learner takes it there.
    """
    config, learners = algorithm.config, algorithm.learners
    device = acting_device(config)
    if device is None:
        return actor_factory(learners.network)
    keeps = (
        isinstance(learners, LearnerGroup)
        and learners.reads_on_device
        and learns_there(config, algorithm.runtime.engine, device)
    )
    return device_actor.device_actor_factory(learners.network, device, keeps)


def free_cores(config: AlgorithmConfig, engine: str) -> int:
    """For the learner in the driver, at most `MOST_THREADS`.

    Runners need theirs only while they sample beside it.
    """
    runners = config.env_runners
    hosts = runners.max or runners.num if engine != "inline" else 0
    busy = hosts if runners.overlap else 0
    return max(1, min(MOST_THREADS, available_cpus() - busy))


def make_env_runners(
    runtime: Runtime, config: AlgorithmConfig, make_actor: ActorFactory, spaces: Spaces
) -> EnvRunnerGroup | ElasticEnvRunnerGroup:
    """The runners of a run; `env_runners.min` says whether their processes may come and go."""
    group = ElasticEnvRunnerGroup if config.env_runners.min else EnvRunnerGroup
    return group(runtime, config, make_actor, spaces)
