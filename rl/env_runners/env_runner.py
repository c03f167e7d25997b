"""EnvRunner: B environments and one copy of the policy; the unit of determinism.

What it samples is a function of (root seed, its index, B, the weights it was given, fragment
number), on whatever engine it lives. Its inner loop allocates nothing it can avoid, logs nothing
and talks to nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import gymnasium
import numpy as np

from rl.core.data.rollout import Rollout
from rl.core.data.tree import Tree, tree_map
from rl.core.data.weights import Weights
from rl.core.models.actor import ActorFactory, FragmentNoise, memory_size_of
from rl.core.models.blas import BlasThreads
from rl.core.seeding import NoiseStream
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.fragment import Fragment, Origin
from rl.env_runners.lanes import Lanes
from rl.env_runners.native import NativeEnvironments
from rl.env_runners.runner_state import RunnerState
from rl.errors import RuntimeFault

__all__ = ["EnvRunner", "OutOfStep"]

MakeEnvironment = Callable[[], gymnasium.Env[Any, Any]]


class OutOfStep(RuntimeFault):
    """A runner was asked for another fragment than its next: it was made anew and knows nothing."""


class EnvRunner:
    """Samples fragments of T steps from B environments with the weights it was last given."""

    def __init__(
        self,
        make_environment: MakeEnvironment,
        name: str,
        num_environments: int,
        make_actor: ActorFactory,
        seed: int,
        index: int,
        forgiving: bool = False,
    ) -> None:
        """Makes the environments and the actor; nothing is reset before the first `sample`.

        Args:
            make_environment: Called B times, each call makes a new environment; or asked once for
                all B together, where it says that it makes them so.
            name: What messages call the environment.
            num_environments: B.
            make_actor: Makes the copy of the policy.
            seed: Root seed of the run.
            index: Of this runner in its group.
            forgiving: Whether an environment that raises is made anew, and the rollout tells of it.

        Raises:
            UsageError: `make_environment` gave the same object twice.
            EnvironmentFault: A constructor raised.
        """
        self._environments: Lanes | NativeEnvironments
        if isinstance(make_environment, EnvironmentFactory) and make_environment.native:
            vector = make_environment.vector(num_environments)
            self._environments = NativeEnvironments(vector, name, seed, index)
        else:
            self._environments = Lanes(
                make_environment, name, num_environments, seed, index, forgiving=forgiving
            )
        self._index = index
        self.actor = make_actor()
        self._noise = NoiseStream(seed, index)
        self._weights_version = 0
        self._weights_are_of_another_past = False
        self._fragment = 0
        self._current: Tree | None = None  # [B, *obs], what the next step is chosen from
        self.width = width = self._environments.width
        """B."""
        size = memory_size_of(self.actor)
        # [B, S], what is remembered then, where anything is.
        self._memory = np.zeros((width, size), np.float32) if size else None
        self._began = time.perf_counter()
        self._blas = BlasThreads()

    def set_weights(self, weights: Weights) -> None:
        """Acts with these from now on."""
        self.actor.set_weights(weights)
        self._weights_version = weights.version
        self._weights_are_of_another_past = False

    def sample(
        self, num_steps: int, weights: Weights | None = None, fragment: int | None = None
    ) -> Rollout:
        """Steps every environment `num_steps` times.

        Args:
            num_steps: T.
            weights: To act with, in place of those it has.
            fragment: Number of the fragment that is meant; by default the next.

        Returns:
            A rollout [T, B].

        Raises:
            EnvironmentFault: An environment raised or broke its contract; the runner is then
            unusable.
            OutOfStep: `fragment` is not the next.
        """
        self.check_next(fragment)
        with self.alone():
            return self.end(self.begin(num_steps, weights).run())

    def check_next(self, fragment: int | None) -> None:
        """Raises `OutOfStep` where this is not the number of the next fragment."""
        if fragment is not None and fragment != self._fragment:
            raise OutOfStep(
                f"runner {self._index} is at fragment {self._fragment} and was asked for {fragment}"
            )

    def alone(self) -> AbstractContextManager[None]:
        """Within it matrix products take one thread, on which bits depend."""
        return self._blas.limited(1)

    def begin(self, num_steps: int, weights: Weights | None = None) -> Fragment:
        """The next fragment, to be run and then given to `end`; as of `sample`."""
        if weights is not None and (
            weights.version != self._weights_version or self._weights_are_of_another_past
        ):
            self.set_weights(weights)
        if self._current is None:
            self._current = self._environments.start(self._fragment)
        worlds = self._environments
        generator = self._noise.fragment(self._fragment)
        noise = FragmentNoise(worlds.actions, generator, num_steps, worlds.width, self.actor)
        origin = Origin(self._index, self._fragment, self._weights_version, self._began)
        return worlds.rows(self.actor, noise, self._current, self._memory, origin)

    def end(self, rollout: Rollout) -> Rollout:
        """Takes up the next fragment where this one, which `begin` gave, has ended; returns it."""
        self._current = tree_map(lambda leaf: leaf[-1].copy(), rollout.observations)
        if rollout.memory is not None:
            self._memory = rollout.memory[-1].copy()
        self._fragment += 1
        return rollout

    def set_state(self, state: RunnerState) -> int:
        """Takes up where a state left off, by playing its unfinished episodes again.

        Returns:
            How many environment steps could not be restored, because fresh episodes had to begin
            in place of theirs.
        """
        self._fragment = state.fragment
        self._weights_are_of_another_past = True  # there the same version may have been others
        if not state.lanes:
            assert self._current is None, "only a fresh runner can be taken back to the beginning"
            return 0
        self._current, lost = self._environments.restore(state)
        if self._memory is not None:
            for row, lane, gone in zip(self._memory, state.lanes, lost, strict=True):
                # Of a fresh episode nothing is remembered.
                row[:] = 0 if gone or lane.memory is None else lane.memory
        return sum(lost)

    def close(self) -> None:
        """Closes every environment, then raises the first fault of those that would not."""
        self._environments.close()
