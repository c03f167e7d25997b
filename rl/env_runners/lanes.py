"""Lanes: B single environments stepped one after the other, as a runner sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium

from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.models.actor import Actor, FragmentNoise
from rl.env_runners.fragment import Fragment, Origin, arrays_of
from rl.env_runners.lane import Lane
from rl.env_runners.runner_state import RunnerState
from rl.errors import EnvironmentFault, UsageError

__all__ = ["Lanes"]


class Lanes:
    """B environments, each reset with a seed of its own for every episode."""

    def __init__(
        self,
        make_environment: Callable[[], gymnasium.Env[Any, Any]],
        name: str,
        width: int,
        seed: int,
        runner: int,
        *,
        forgiving: bool = False,
    ) -> None:
        """Makes the environments.

        Args:
            make_environment: Called B times; each call makes a new environment.
            name: What messages call the environment.
            width: B.
            seed: Root seed of the run.
            runner: Index of the runner.
            forgiving: Whether one that raises is made anew.

        Raises:
            UsageError: `make_environment` gave the same object twice.
            EnvironmentFault: A constructor raised.
        """
        environments = [make_environment() for _ in range(width)]
        if len({id(env.unwrapped) for env in environments}) < width:
            raise UsageError(
                f"env {name}: the callable returned the same environment twice; every call must"
                " make a new one, or steps of one would overwrite another's"
            )
        self.width = width
        self.layout = ObservationLayout(environments[0].observation_space)
        self.actions = ActionLayout(environments[0].action_space)
        self._lanes = [
            Lane(
                env,
                name,
                (seed, runner, place),
                self.layout,
                self.actions,
                make_environment if forgiving else None,
            )
            for place, env in enumerate(environments)
        ]

    def start(self, fragment: int) -> Tree:
        """Begins the first episodes; returns their observations [B, *obs]."""
        # One after the other: environments may share the array they answer in.
        return self._side_by_side(lane.reset() for lane in self._lanes)

    def rows(
        self,
        actor: Actor,
        noise: FragmentNoise,
        first: Tree,
        memory: Array | None,
        origin: Origin,
    ) -> Fragment:
        """The next fragment, ready to be run."""
        layouts = self.layout, self.actions
        return Fragment(self._lanes, actor, layouts, noise, first, memory, origin)

    def restore(self, state: RunnerState) -> tuple[Tree, list[int]]:
        """Plays the unfinished episodes of a state again.

        Returns:
            The observations [B, *obs] it stands at, and how many steps of each environment are
            lost: of one that, replayed, arrived somewhere else and so began a fresh episode.
        """
        restored = [lane.restore(at) for lane, at in zip(self._lanes, state.lanes, strict=True)]
        lost = [steps for _, steps in restored]
        return self._side_by_side([leaves for leaves, _ in restored]), lost

    def _side_by_side(self, leaves: Iterable[list[Any]]) -> Tree:
        rows = self.layout.allocate(self.width)
        for b, values in enumerate(leaves):
            for row, value in zip(arrays_of(rows), values, strict=True):
                row[b] = value
        return rows

    def close(self) -> None:
        """Closes every environment, then raises the first fault of those that would not."""
        faults = []
        for lane in self._lanes:
            try:
                lane.close()
            except EnvironmentFault as fault:
                faults.append(fault)
        if faults:
            raise faults[0]
