"""EnvRunnerGroup: n runners behind one face; all are called, their answers gathered in order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.rollout import Rollout
from rl.core.data.weights import Weights
from rl.core.models.actor import ActorFactory
from rl.core.runtime import ActorHandle, Future, Runtime
from rl.env_runners.env_runner import EnvRunner, RunnerState
from rl.env_runners.environments import EnvironmentFactory
from rl.errors import ActorError, RLError

__all__ = ["EnvRunnerGroup"]


class EnvRunnerGroup:
    """Spawns the runners of a run and speaks to all of them."""

    def __init__(self, runtime: Runtime, config: AlgorithmConfig, make_actor: ActorFactory) -> None:
        """Spawns `config.env_runners.num` runners; their errors arrive with the first call."""
        environments = EnvironmentFactory.of(config)
        self._discarded = 0
        self._runners: list[ActorHandle[EnvRunner]] = [
            runtime.spawn(
                functools.partial(
                    EnvRunner,
                    environments,
                    environments.name,
                    config.env_runners.envs_per_runner,
                    make_actor,
                    config.seed,
                    index,
                ),
                name=f"runner-{index}",
                # The actor's own needs decide: one that acts in numpy lives without torch.
                preload=() if _torch_free(make_actor) else ("torch",),
            )
            for index in range(config.env_runners.num)
        ]

    def sample(self, num_steps: int) -> list[Rollout]:
        """A fragment of `num_steps` steps per environment from each runner, in their order.

        Raises:
            EnvironmentFault: An environment raised or broke its contract.
        """
        return _gather([r.call(EnvRunner.sample, num_steps=num_steps) for r in self._runners])

    def set_weights(self, weights: Weights) -> None:
        """Gives every runner the weights to act with next."""
        _gather([runner.call(EnvRunner.set_weights, weights) for runner in self._runners])

    def get_states(self) -> list[RunnerState]:
        """Where each runner stands."""
        return _gather([runner.call(EnvRunner.get_state) for runner in self._runners])

    def set_states(self, states: Sequence[RunnerState]) -> int:
        """Takes every runner back to where it stood; returns how many steps were lost."""
        calls = [
            runner.call(EnvRunner.set_state, state)
            for runner, state in zip(self._runners, states, strict=True)
        ]
        lost: int = sum(_gather(calls))
        self._discarded += lost
        return lost

    def health(self) -> dict[str, float]:
        """The `sampler/` metrics."""
        return {
            "sampler/alive": float(len(self._runners)),
            "sampler/restarts": float(sum(runner.restarts for runner in self._runners)),
            "sampler/discarded_steps": float(self._discarded),
        }

    def close(self) -> None:
        """Closes the environments and ends the runners. A second call does nothing."""
        runners, self._runners = self._runners, []
        try:
            _gather([runner.call(EnvRunner.close) for runner in runners])
        finally:
            for runner in runners:
                runner.kill()


def _torch_free(make_actor: ActorFactory) -> bool:
    target = make_actor.func if isinstance(make_actor, functools.partial) else make_actor
    return target.__module__ == "rl.core.models.numpy_mlp"


def _gather(futures: Sequence[Future[Any]]) -> list[Any]:
    """The results in the order given; an error of ours comes out as itself, cause and all."""
    try:
        return [future.result() for future in futures]
    except ActorError as error:
        if isinstance(error.__cause__, RLError):
            raise error.__cause__ from error.__cause__.__cause__
        raise
