"""B environments stepped by code of their own: a `gymnasium.vector.VectorEnv`, taken as it is.

A step is one call for all of them and no Python for each; only where an episode ended is that one
environment looked at. The three ways in which such environments go on are read from
`metadata["autoreset_mode"]`:

    SAME_STEP  `step` returns the first observation of the next episode, infos["final_obs"] the last
    NEXT_STEP  the next `step` ignores the action and resets: its row is no step, `valid` says so
    DISABLED   we reset those that ended, with options={"reset_mask": ...}
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl.core.data.rollout import Episode
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.models.actor import Actor, FragmentNoise
from rl.core.seeding import stream_seed
from rl.env_runners.atari import LIFE_LOST
from rl.env_runners.faults import raised, score_of, success_of
from rl.env_runners.fragment import NOTHING, Fragment, Origin, arrays_of
from rl.env_runners.runner_state import RunnerState
from rl.env_runners.vectors import (
    autoreset_mode,
    batched_actions,
    check_observations,
    check_vector_step,
    info_of,
)
from rl.errors import EnvironmentFault

__all__ = ["NativeEnvironments", "vector_seed"]

SEEDS = 1 << 30
"""Seeds are below it: vector environments add the index of each of theirs, some in 32 bits."""


def vector_seed(root_seed: int, runner: int, fragment: int) -> int:
    """What a vector environment that begins with this fragment is seeded with, in [0, 2**30)."""
    return stream_seed(root_seed, "vector environment", runner, fragment) % SEEDS


class NativeEnvironments:
    """A vector environment of a runner, seeded once.

    Its episodes cannot be brought back one by one, so a runner that was lost begins fresh ones,
    with a seed that is a function of the fragment it begins with.
    """

    def __init__(self, env: Any, name: str, seed: int, runner: int) -> None:
        """Takes a vector environment over, as `check_vector` finds it sound; it is not reset yet.

        Args:
            env: The vector environment.
            name: What messages call it.
            seed: Root seed of the run.
            runner: Index of the runner.
        """
        self.env = env
        self.mode = autoreset_mode(env, name)
        self.width = int(env.num_envs)
        self.layout = ObservationLayout(env.single_observation_space)
        self.actions = ActionLayout(env.single_action_space)
        self.where = f"env {name} (runner {runner})"
        self._seed, self._runner = seed, runner
        self._set_out()

    def _set_out(self) -> None:
        self.returns = np.zeros(self.width)
        self.first_rows = np.zeros(self.width, np.int64)
        """Of the current episodes, counted from the next fragment's first row."""
        self.ended = np.zeros(self.width, np.bool_)
        """Those whose next row is no step, but their reset."""

    def start(self, fragment: int) -> Tree:
        """Begins an episode in every environment; returns their observations [B, *obs]."""
        self._set_out()
        seed = vector_seed(self._seed, self._runner, fragment)
        rows = self.layout.allocate(self.width)
        leaves = self.reset(f"reset(seed={seed})", seed=seed)
        for row, leaf in zip(arrays_of(rows), leaves, strict=True):
            row[:] = leaf
        return rows

    def reset(self, call: str, **named: Any) -> list[Array]:
        """The leaves [B, *shape] of what a reset returns, checked."""
        result: Any = NOTHING
        try:
            result = self.env.reset(**named)
            observations, _ = result
        except Exception as error:
            if result is not NOTHING:
                raise EnvironmentFault(
                    f"{self.where}: {call} returned a {type(result).__name__}, expected the tuple"
                    " (observations, infos)"
                ) from error
            raise raised(self.where, call, error) from error
        leaves = check_observations(observations, self.layout, self.width, self.where, call)
        return [np.asarray(leaf) for leaf in leaves]

    def rows(
        self,
        actor: Actor,
        noise: FragmentNoise,
        first: Tree,
        memory: Array | None,
        origin: Origin,
    ) -> Fragment:
        """The next fragment, ready to be run."""
        return NativeFragment(self, actor, noise, first, memory, origin)

    def restore(self, state: RunnerState) -> tuple[Tree, list[int]]:
        """Begins fresh episodes, all steps of the unfinished ones being lost."""
        return self.start(state.fragment), [lane.steps for lane in state.lanes]

    def close(self) -> None:
        """Closes the environment; `EnvironmentFault` when that raises."""
        try:
            self.env.close()
        except Exception as error:
            raise raised(self.where, "close()", error) from error


class NativeFragment(Fragment):
    """T steps of a vector environment."""

    replayable = False

    def __init__(
        self,
        environments: NativeEnvironments,
        actor: Actor,
        noise: FragmentNoise,
        first: Tree,
        memory: Array | None,
        origin: Origin,
    ) -> None:
        self._environments = environments
        self.gap = int(environments.mode is AutoresetMode.NEXT_STEP)
        layouts = (environments.layout, environments.actions)
        super().__init__([], actor, layouts, noise, first, memory, origin)
        self._returns, self._ended = environments.returns, environments.ended
        self._plain = None if self._layout.nested else (self.width, *self._layout.leaves[0].shape)
        if self._layout.leaves[0].sizes:
            self._plain = None  # categories are looked at: an impossible one has no code
        if self.gap:
            self._valid = np.ones((self.length, self.width), np.bool_)

    def _first_rows(self) -> Any:
        return self._environments.first_rows.copy()

    def _leave(self) -> None:
        self._environments.first_rows = self._began - self.length
        self._environments.ended = self._ended

    def _check_choice(self, t: int, mask: Array) -> None:
        if self.gap and self._ended.any():
            mask = mask | self._ended[:, None]  # nothing is chosen where they are only reset
        super()._check_choice(t, mask)

    def _where(self, b: int) -> str:
        return f"{self._environments.where[:-1]}, environment {b})"

    def _step(self, t: int) -> None:
        """The hot loop: one call for all environments."""
        actions = batched_actions(self._action_layout, self._actions[t])
        result: Any = NOTHING
        try:
            result = self._environments.env.step(actions)
            observations, rewards, terminated, truncated, infos = result
            done = np.logical_or(terminated, truncated)
            row = (self.width,)
            if t == 0 or np.shape(rewards) != row or done.shape != row:
                check_vector_step(result, self._layout, self.width, self._environments.where)
            if self._plain is not None and np.shape(observations) == self._plain:
                # In its own kind only: a float would be no image any more.
                np.copyto(self._leaves[0][t + 1], observations, casting="same_kind")
            else:
                self._put_checked_batch(t + 1, result)
            self._rewards[t] = rewards
            self._returns += rewards
            if self.gap and self._ended.any():
                self._pass_resets(t, done)
            if done.any():
                self._terminated[t] = terminated
                np.greater(truncated, terminated, out=self._truncated[t])  # terminated wins
                self._end_all(t, np.flatnonzero(done), infos)
            self._ended = done
        except Exception as error:
            self._fail_batch(t, result, error)

    def _put_checked_batch(self, row: int, result: Any) -> None:
        check_vector_step(result, self._layout, self.width, self._environments.where)
        for leaf, value in zip(self._leaves, self._layout.split(result[0]), strict=True):
            leaf[row] = value

    def _pass_resets(self, t: int, done: Array) -> None:
        """Marks the rows in which a finished environment was only reset."""
        assert self._valid is not None
        self._valid[t] = ~self._ended
        self._rewards[t, self._ended] = 0.0  # a wrapper may have made something of the 0
        self._returns[self._ended] = 0.0
        wrong = np.flatnonzero(self._ended & done)
        if len(wrong):
            raise EnvironmentFault(
                f"{self._where(int(wrong[0]))}: declares the autoreset mode NEXT_STEP, but the step"
                " after an episode's end ended one too, where it should only reset; declare the"
                " mode that it has in metadata['autoreset_mode']"
            )

    def _end_all(self, t: int, ended: Array, infos: Any) -> None:
        """Keeps the observations that episodes ended on, and resets where that is our part."""
        mode = self._environments.mode
        for b in ended.tolist():
            self._final_steps.append((t, b))
            info = info_of(infos, b)
            if mode is AutoresetMode.SAME_STEP:
                last = self._final_leaves_of(infos, b)
                if "final_info" in info:  # the rest is of the next episode, but for the statistics
                    info = {"episode": info.get("episode"), **info["final_info"]}
            else:
                last = [leaf[t + 1, b].copy() for leaf in self._leaves]
            for finals, value in zip(self._final_leaves, last, strict=True):
                finals.append(value)
            if not info.get(LIFE_LOST):
                self._finish(t, b, info)
        if mode is AutoresetMode.DISABLED:
            self._reset_those(t + 1, ended)

    def _finish(self, t: int, b: int, info: dict[str, Any]) -> None:
        score = score_of(info, float(self._returns[b]))
        length = t + 1 - int(self._began[b])
        seconds = time.perf_counter() - self._origin.clock
        self._episodes.append(Episode(t, score, length, seconds, success_of(info)))
        self._began[b] = t + 1 + self.gap
        self._returns[b] = 0.0

    def _reset_those(self, row: int, ended: Array) -> None:
        mask = np.zeros(self.width, np.bool_)
        mask[ended] = True
        call = "reset(options={'reset_mask': ...})"
        fresh = self._environments.reset(call, options={"reset_mask": mask})
        for leaf, first in zip(self._leaves, fresh, strict=True):
            leaf[row, ended] = first[ended]

    def _final_leaves_of(self, infos: Any, b: int) -> list[Array]:
        """The observation that environment b ended on, from the infos of a SAME_STEP environment.

        `final_obs` holds one observation for each environment, or is a batch of them.
        """
        finals = infos.get("final_obs") if isinstance(infos, dict) else None
        try:
            if isinstance(finals, dict) or (isinstance(finals, tuple) and self._layout.nested):
                parts = [part[b] for part in self._layout.split(finals)]
            else:
                parts = self._layout.split(finals[b])  # type: ignore[index]
            return [
                np.array(part, leaf.dtype).reshape(leaf.shape)
                for part, leaf in zip(parts, self._layout.leaves, strict=True)
            ]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise EnvironmentFault(
                f"{self._where(b)}: an episode ended, and infos['final_obs'] does not tell the"
                " observation it ended on; an environment that declares the autoreset mode"
                " SAME_STEP must return it there"
            ) from error

    def _fail_batch(self, t: int, result: Any, error: Exception) -> None:
        """Finds out whose fault an error in the loop is, and raises it."""
        self.check_finite(t)
        if isinstance(error, EnvironmentFault):
            raise error
        where = self._environments.where
        if result is NOTHING:
            raise raised(where, f"step({self._actions[t]!r})", error) from error
        check_vector_step(result, self._layout, self.width, where)
        raise error
