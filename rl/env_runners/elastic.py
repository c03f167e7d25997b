"""Elastic collection: the processes come and go, what is computed stays.

`env_runners.num` runners are always sampled, each with its own seed and its own state; only where
varies. Each of up to `env_runners.max` processes hosts some of them, more when others are missing.
A runner whose host dies, or that moves to a new one, is brought to where it stood by playing its
unfinished episodes again. So the rollouts, and the weights, are those of a run on one machine, to
the bit.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ObservationLayout, Spaces
from rl.core.data.weights import Weights
from rl.core.models.actor import ActorFactory
from rl.core.runtime import ActorHandle, Future, ObjectRef, Runtime
from rl.env_runners.env_runner import EnvRunner, OutOfStep
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.failures import FailureBudget
from rl.env_runners.group import modules_of, result_of
from rl.env_runners.host import RunnerHost
from rl.env_runners.runner_state import RunnerState
from rl.errors import ActorDied, ResourcesUnavailable, RestartsExhausted, RuntimeFault

__all__ = ["ElasticEnvRunnerGroup"]

logger = logging.getLogger(__name__)

LOOK_S = 0.2
"""Between two looks at whether a process has come."""
LARGEST_ANSWER = 64 << 20
"""Bytes of observations in an answer, which stand in the process twice while it is given."""


@dataclass(frozen=True)
class _Asked:
    """A call that answers with a fragment of each of some runners of one process."""

    indices: tuple[int, ...]
    future: Future[list[Rollout]]
    attempts: int
    """How often their fragments were lost before."""


@dataclass(frozen=True)
class _Request:
    """A fragment of every runner that was asked for, with what it is asked for again."""

    num_steps: int
    weights: ObjectRef[Weights] | None
    calls: list[_Asked]


class _Host:
    """A process as the group keeps it."""

    def __init__(self, handle: ActorHandle[RunnerHost]) -> None:
        self.handle = handle
        self.coming: Future[None] | None = handle.call(RunnerHost.ready)
        self.lost = False

    @property
    def alive(self) -> bool:
        """Whether it has answered since it was made or made anew."""
        if self.coming is not None and not self.lost and self.coming.done():
            try:
                self.coming.result()
                self.coming = None
            except (RestartsExhausted, ResourcesUnavailable) as error:
                logger.warning("%s The run goes on without it.", error)
                self.lost = True
            except ActorDied:
                self.died()
        return self.coming is None

    def died(self) -> None:
        """Its process is gone; its runtime makes another as soon as there is room."""
        self.coming = self.handle.call(RunnerHost.ready)


class ElasticEnvRunnerGroup:
    """As `EnvRunnerGroup`, on however many processes there are, `env_runners.min` at least."""

    def __init__(
        self,
        runtime: Runtime,
        config: AlgorithmConfig,
        make_actor: ActorFactory,
        spaces: Spaces | None = None,
    ) -> None:
        """As of `EnvRunnerGroup`. Asks for `env_runners.max` processes, and waits for none."""
        environments = EnvironmentFactory.of(config, spaces)
        self._runtime = runtime
        each = 1 if spaces is None else ObservationLayout(spaces.observation).num_bytes
        self._row_bytes = each * config.env_runners.envs_per_runner
        self._least = config.env_runners.min
        self._patience = config.runtime.placement_timeout
        self._attempts = config.runtime.max_restarts * config.env_runners.num
        self._weights: ObjectRef[Weights] | None = None
        self._ahead: _Request | None = None
        self._states = [RunnerState()] * config.env_runners.num
        self._owners: list[_Host | None] = [None] * config.env_runners.num
        self._taken: dict[int, Future[int]] = {}
        """By runner, what its new host says of it; until its next rollout is here."""
        self._discarded = self._restored = 0
        self._budget = FailureBudget(config.env_runners.max_env_failures)
        make_runner = functools.partial(
            _make_runner,
            environments,
            config.env_runners.envs_per_runner,
            make_actor,
            config.seed,
            config.env_runners.max_env_failures > 0,
        )
        places = runtime.place(
            [config.runner_resources] * (config.env_runners.max or config.env_runners.num),
            config.runtime.placement,
            reserve=False,
        )
        self._hosts = [
            _Host(
                runtime.spawn(
                    RunnerHost,
                    make_runner,
                    name=f"host-{number}",
                    place=place,
                    max_restarts=config.runtime.max_restarts,
                    step_timeout=config.env_runners.step_timeout,
                    preload=modules_of(make_actor),
                )
            )
            for number, place in enumerate(places)
        ]

    def begin(self, num_steps: int) -> None:
        """As of `EnvRunnerGroup`; begins nothing while processes have to be waited for."""
        if sum(host.alive for host in self._hosts) >= self._least:
            self._ahead = self._request(num_steps)

    def sample(self, num_steps: int) -> list[Rollout]:
        """A fragment of `num_steps` steps per environment from each runner, in their order.

        Raises:
            EnvironmentFault: An environment broke its contract, or raised once too often.
            ResourcesUnavailable: Fewer processes than `env_runners.min` were there for longer than
                `runtime.placement_timeout`.
            RestartsExhausted: A runner's fragment was lost more often than it may.
        """
        request = self._ahead
        if request is None or request.num_steps != num_steps:
            request = self._request(num_steps)
        rollouts = self._gather(request)
        # All or none: who gives up waiting can still save where every runner stood.
        self._states = [
            state.after(rollout) for state, rollout in zip(self._states, rollouts, strict=True)
        ]
        self._ahead = None
        self._budget.check(rollouts, self._states)
        return rollouts

    def _request(self, num_steps: int) -> _Request:
        self._settle()
        everybody = range(len(self._states))
        return _Request(num_steps, self._weights, self._ask(everybody, num_steps, self._weights))

    def _settle(self) -> None:
        """Waits for enough processes, and deals the runners out evenly; as few as can be move."""
        alive = self._await_enough()
        shares = _shares(self._owners, alive)
        for index, owner in enumerate(self._owners):
            if owner is not None and shares.get(owner, 0) > 0:
                shares[owner] -= 1
                continue
            if owner in alive:
                assert owner is not None
                owner.handle.call(RunnerHost.drop, index)
            self._owners[index] = None
        free = [host for host, share in shares.items() for _ in range(share)]
        for index, owner in enumerate(self._owners):
            if owner is None:
                self._give(index, free.pop(0))

    def _give(self, index: int, host: _Host) -> None:
        """The host makes the runner and brings it to where it stands."""
        self._owners[index] = host
        self._taken[index] = host.handle.call(RunnerHost.take, index, self._states[index])

    def _ask(
        self,
        indices: Iterable[int],
        num_steps: int,
        weights: ObjectRef[Weights] | None,
        attempts: int = 0,
    ) -> list[_Asked]:
        """Asks the processes of these runners, each for as many at once as an answer may hold."""
        hosted: dict[_Host, list[int]] = {}
        for index in indices:
            owner = self._owners[index]
            assert owner is not None
            hosted.setdefault(owner, []).append(index)
        given: Any = weights  # a reference: the runners receive the weights themselves
        most = max(1, LARGEST_ANSWER // (self._row_bytes * (num_steps + 1)))
        calls = []
        for host, own in hosted.items():
            for first in range(0, len(own), most):
                part = tuple(own[first : first + most])
                fragments = [(index, self._states[index].fragment) for index in part]
                future = host.handle.call(RunnerHost.sample, num_steps, given, fragments)
                calls.append(_Asked(part, future, attempts))
        return calls

    def _gather(self, request: _Request) -> list[Rollout]:
        """Everybody's rollout, sampled again elsewhere as often as its process dies."""
        found: dict[int, Rollout] = {}
        calls = deque(request.calls)
        while calls:
            asked = calls.popleft()
            try:
                for index in asked.indices:
                    self._count(index)
                rollouts: list[Rollout] = result_of(asked.future)
            except (ActorDied, RestartsExhausted, OutOfStep) as error:
                attempts = asked.attempts + (not isinstance(error, OutOfStep))
                if attempts > self._attempts:
                    raise
                self._move(asked.indices, error)
                calls += self._ask(asked.indices, request.num_steps, request.weights, attempts)
            else:
                found.update(zip(asked.indices, rollouts, strict=True))
        return [found[index] for index in range(len(self._states))]

    def _move(self, indices: Sequence[int], error: Exception) -> None:
        """Gives runners that were lost to the processes there are."""
        told = ", ".join(str(index) for index in indices)
        logger.warning("%s Fragments are sampled again: those of runners %s.", error, told)
        owner = self._owners[indices[0]]
        assert owner is not None
        if not isinstance(error, OutOfStep) and owner.coming is None:
            owner.died()
        alive = self._await_enough()
        for index in indices:
            self._owners[index] = None
        for index in indices:
            load = Counter(self._owners)
            self._give(index, min(alive, key=lambda host: load[host]))

    def _count(self, index: int) -> None:
        taken = self._taken.pop(index, None)
        if taken is not None:
            lost: int = result_of(taken)
            self._discarded += lost
            self._restored += self._states[index].steps - lost

    def _await_enough(self) -> list[_Host]:
        deadline = time.monotonic() + self._patience
        told = False
        while True:
            alive = [host for host in self._hosts if host.alive]
            if len(alive) >= self._least:
                return alive
            if time.monotonic() > deadline or all(host.lost for host in self._hosts):
                raise ResourcesUnavailable(
                    f"env_runners.min is {self._least}, and after {self._patience:g} s there are "
                    f"{len(alive)} processes for the runners. Add nodes, ask for less, or raise "
                    "runtime.placement_timeout."
                )
            if not told:
                told = True
                logger.warning("waiting for processes: %d of %d", len(alive), self._least)
            coming = [host.coming for host in self._hosts if host.coming and not host.lost]
            self._runtime.wait(coming, timeout=LOOK_S)

    def set_weights(self, weights: Weights | ObjectRef[Weights]) -> None:
        """What every runner acts with from its next fragment on; it travels with the request."""
        if isinstance(weights, Weights):
            self._weights = self._runtime.put(weights)
        else:
            self._weights = weights

    def reference(self, rollout: Rollout) -> ObjectRef[Rollout]:
        """What stands for a rollout in calls of other actors."""
        return self._runtime.put(rollout)

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
        before = self._discarded
        self._states, self._ahead = list(states), None
        for index in range(len(self._owners)):
            self._owners[index] = None
        self._settle()
        for index in range(len(self._states)):
            self._count(index)
        return self._discarded - before

    def health(self) -> dict[str, float]:
        """The `sampler/` metrics."""
        return {
            "sampler/alive": float(sum(host.alive for host in self._hosts)),
            "sampler/restarts": float(sum(host.handle.restarts for host in self._hosts)),
            "sampler/restored_steps": float(self._restored),
            "sampler/discarded_steps": float(self._discarded),
            "sampler/env_failures": float(sum(state.failures for state in self._states)),
        }

    def close(self, patience: float = 10.0) -> None:
        """Closes the environments and ends the processes, after so many seconds in any case.

        A second call does nothing.
        """
        hosts, self._hosts = self._hosts, []
        deadline = time.monotonic() + patience
        try:
            alive = [host for host in hosts if host.alive]
            for future in [host.handle.call(RunnerHost.close) for host in alive]:
                # What is dead has nothing left to close; what hangs is killed.
                with contextlib.suppress(RuntimeFault):
                    result_of(future, max(0.0, deadline - time.monotonic()))
        finally:
            for host in hosts:
                host.handle.kill()


def _shares(owners: Sequence[_Host | None], alive: Sequence[_Host]) -> dict[_Host, int]:
    """How many runners each process hosts: as even as can be, those with more now have more."""
    load = Counter(owner for owner in owners if owner is not None)
    quota, extra = divmod(len(owners), len(alive))
    ranked = sorted(alive, key=lambda host: -load[host])  # stable: the earlier first
    return {host: quota + (place < extra) for place, host in enumerate(ranked)}


def _make_runner(
    environments: EnvironmentFactory,
    num_environments: int,
    make_actor: ActorFactory,
    seed: int,
    forgiving: bool,
    index: int,
) -> EnvRunner:
    name = environments.name
    return EnvRunner(environments, name, num_environments, make_actor, seed, index, forgiving)
