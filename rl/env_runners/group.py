"""EnvRunnerGroup: n runners behind one face; all are called, their answers gathered in order."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.weights import Weights
from rl.core.models.actor import ActorFactory
from rl.core.runtime import ActorHandle, Future, ObjectRef, Runtime
from rl.core.runtime.failures import RemoteTraceback
from rl.env_runners.env_runner import EnvRunner, OutOfStep
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.failures import FailureBudget
from rl.env_runners.runner_state import RunnerState
from rl.errors import ActorDied, ActorError, EnvironmentFault, RLError, RuntimeFault

__all__ = ["EnvRunnerGroup", "Request", "modules_of", "result_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A fragment of every runner that was asked for, with what it is asked for again."""

    num_steps: int
    weights: ObjectRef[Weights] | None
    futures: list[Future[Rollout]]


class EnvRunnerGroup:
    """Spawns the runners of a run and speaks to all of them."""

    def __init__(
        self,
        runtime: Runtime,
        config: AlgorithmConfig,
        make_actor: ActorFactory,
        spaces: Spaces | None = None,
    ) -> None:
        """Spawns `config.env_runners.num` runners; their errors arrive with the first call.

        Args:
            runtime: Where they live.
            config: Of the run.
            make_actor: Makes each one's copy of the policy.
            spaces: Of the environment, as `describe_env` found them.

        Raises:
            ResourcesUnavailable: There is no room for them.
        """
        environments = EnvironmentFactory.of(config, spaces)
        self._runtime = runtime
        self._max_restarts = config.runtime.max_restarts
        self._weights: ObjectRef[Weights] | None = None
        self._ahead: Request | None = None
        self._sampled: list[tuple[Rollout, Future[Rollout]]] = []
        self._states = [RunnerState()] * config.env_runners.num
        self._discarded = self._restored = 0
        self._budget = FailureBudget(config.env_runners.max_env_failures)
        places = runtime.place(
            [config.runner_resources] * config.env_runners.num, config.runtime.placement
        )
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
                    config.env_runners.max_env_failures > 0,
                ),
                name=f"runner-{index}",
                place=places[index],
                max_restarts=config.runtime.max_restarts,
                step_timeout=config.env_runners.step_timeout,
                preload=modules_of(make_actor),
            )
            for index in range(config.env_runners.num)
        ]

    def begin(self, num_steps: int) -> None:
        """Begins what the next `sample` returns, if it asks for as many steps; returns at once.

        The weights are those set last; what is set in between acts from the fragment after.
        """
        asked = [self._ask(index, num_steps, self._weights) for index in range(len(self._runners))]
        self._ahead = Request(num_steps, self._weights, asked)

    def sample(self, num_steps: int) -> list[Rollout]:
        """A fragment of `num_steps` steps per environment from each runner, in their order.

        A runner that dies is made anew, brought to where it stood and asked for the same fragment
        again: same weights, same noise, same bits, if its environments can be restored.

        Raises:
            EnvironmentFault: An environment broke its contract, or raised once too often.
            RestartsExhausted: A runner died more often than it may.
        """
        self._sampled = []  # or the memory of the last ones could not be used again
        if self._ahead is None or self._ahead.num_steps != num_steps:
            self.begin(num_steps)  # whoever is ahead by another number is taken back
        request = self._ahead
        assert request is not None
        sampled = [self._answer(index, request) for index in range(len(self._runners))]
        # All or none: who gives up waiting can still save where every runner stood.
        self._ahead = None
        self._states = [
            state.after(rollout) for state, (rollout, _) in zip(self._states, sampled, strict=True)
        ]
        self._sampled = sampled
        rollouts = [rollout for rollout, _ in sampled]
        self._budget.check(rollouts, self._states)
        return rollouts

    def reference(self, rollout: Rollout) -> ObjectRef[Rollout]:
        """What stands for a rollout in calls of other actors; it costs no copy if `sample` gave it.

        References to the fragments sampled last are kept until the next.
        """
        for sampled, future in self._sampled:
            if sampled is rollout:
                return future
        return self._runtime.put(rollout)

    def _ask(
        self, index: int, num_steps: int, weights: ObjectRef[Weights] | None
    ) -> Future[Rollout]:
        given: Any = weights  # a reference: the runner receives the weights themselves
        return self._runners[index].call(
            EnvRunner.sample, num_steps, given, self._states[index].fragment
        )

    def _answer(self, index: int, request: Request) -> tuple[Rollout, Future[Rollout]]:
        """The rollout, asked for again as often as the runner dies and comes back; its future."""
        future = request.futures[index]
        restored: Future[int] | None = None
        attempts = 0
        while True:
            try:
                rollout: Rollout = result_of(future)
                break
            except (ActorDied, OutOfStep) as error:
                attempts += isinstance(error, ActorDied)
                if attempts > self._max_restarts:
                    raise
                logger.info("%s Its fragment is sampled again.", error)  # the runtime has warned
                restored = self._runners[index].call(EnvRunner.set_state, self._states[index])
                future = self._ask(index, request.num_steps, request.weights)
        if restored is not None:
            lost = result_of(restored)
            self._discarded += lost
            self._restored += self._states[index].steps - lost
        return rollout, future

    def set_weights(self, weights: Weights | ObjectRef[Weights]) -> None:
        """What every runner acts with from its next fragment on; it travels with the request."""
        if isinstance(weights, Weights):
            self._weights = self._runtime.put(weights)
        else:
            self._weights = weights

    @property
    def weights(self) -> Weights:
        """What was set last."""
        assert self._weights is not None
        return self._weights.result()

    @property
    def states(self) -> list[RunnerState]:
        """Where each runner stands."""
        return list(self._states)

    def set_states(self, states: Sequence[RunnerState]) -> int:
        """Takes every runner back to where it stood; returns how many steps were lost."""
        calls = [
            runner.call(EnvRunner.set_state, state)
            for runner, state in zip(self._runners, states, strict=True)
        ]
        lost: int = sum(result_of(call) for call in calls)
        self._states, self._ahead = list(states), None
        self._discarded += lost
        return lost

    def health(self) -> dict[str, float]:
        """The `sampler/` metrics."""
        return {
            "sampler/alive": float(len(self._runners)),
            "sampler/restarts": float(sum(runner.restarts for runner in self._runners)),
            "sampler/restored_steps": float(self._restored),
            "sampler/discarded_steps": float(self._discarded),
            "sampler/env_failures": float(sum(state.failures for state in self._states)),
        }

    def close(self, patience: float = 10.0) -> None:
        """Closes the environments and ends the runners, after so many seconds in any case.

        A second call does nothing.
        """
        runners, self._runners = self._runners, []
        deadline = time.monotonic() + patience
        try:
            for future in [runner.call(EnvRunner.close) for runner in runners]:
                # What is dead has nothing left to close; what hangs is killed.
                with contextlib.suppress(RuntimeFault):
                    result_of(future, max(0.0, deadline - time.monotonic()))
        finally:
            for runner in runners:
                runner.kill()


def modules_of(make_actor: ActorFactory) -> tuple[str, ...]:
    """What a worker should have imported before it starts, so that it starts in milliseconds.

    The policy decides whether torch is among it: one that acts in numpy lives without.
    """
    target = make_actor.func if isinstance(make_actor, functools.partial) else make_actor
    return (__name__.rpartition(".")[0] + ".env_runner", target.__module__)


def result_of(future: Future[Any], timeout: float | None = None) -> Any:
    """The result; an error of ours comes out as itself, with what the environment raised."""
    try:
        return future.result(timeout)
    except ActorError as error:
        ours = error.__cause__
        if not isinstance(ours, RLError):
            raise
        if isinstance(ours, EnvironmentFault) and isinstance(ours.__cause__, RemoteTraceback):
            theirs = ours.user_traceback  # the rest of the remote traceback is our own frames
            raise ours from (RemoteTraceback(theirs) if theirs else None)
        raise ours from ours.__cause__
