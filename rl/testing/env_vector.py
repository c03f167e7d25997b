"""Checks a vector environment: what it returns, and how it goes on where an episode ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array

from rl.core.data.masks import with_mask
from rl.core.data.spaces import MASK, ActionLayout, ObservationLayout, Spaces
from rl.core.data.tree import Array
from rl.env_runners.vectors import PARTS, autoreset_mode, check_observations, check_vector_step
from rl.errors import EnvironmentFault, UsageError
from rl.testing.env_player import allowed_action, check_values, same
from rl.testing.env_report import Inspection, StoppedError

__all__ = ["inspect_vector"]

COMPARED_STEPS = 200
"""Rows that are played again to compare them."""

Row = tuple[list[Array], Array, Array, Array]
"""Observations, rewards, terminated and truncated of one step of all environments."""


def inspect_vector(
    inspection: Inspection, env: Any, num_envs: int | None, steps: int, seed: int
) -> Spaces:
    """Plays a vector environment with random actions and reports what is wrong with it.

    Args:
        inspection: What asks and reports; it makes others like `env`.
        env: The environment.
        num_envs: How many it was asked for; None: nobody asked.
        steps: Environment steps to watch.
        seed: Of episodes and actions.
    """
    lacking = [part for part in PARTS if not hasattr(env, part)]
    if lacking:
        inspection.problem(
            "parts",
            f"the environment is a {type(env).__name__} without {', '.join(lacking)}; derive it"
            " from gymnasium.Env, or from gymnasium.vector.VectorEnv where it holds several",
        )
        raise StoppedError
    if num_envs is not None and env.num_envs != num_envs:
        inspection.problem(
            "width",
            f"asked for num_envs={num_envs} it made {env.num_envs}; let it make as many as it is"
            " asked for",
        )
    observations, actions = inspection.layouts(env, "single_")
    mode: AutoresetMode | None = None
    try:
        mode = autoreset_mode(env, inspection.report.name)
    except UsageError as error:
        inspection.problem("mode", str(error))
    inspection.report.facts["vectorized"] = (
        f"{env.num_envs} environments, autoreset mode {mode.name if mode else 'unknown'}"
    )
    env.single_action_space.seed(seed)
    player = VectorPlayer(inspection, env, mode, observations, actions)
    _check_repeatable(inspection, player, seed)
    if mode is not None:
        _check_play(inspection, player, seed, steps)
    inspection.report.facts["restorable"] = (
        "no: a vector environment is seeded once, so its episodes cannot be played again"
    )
    observed = env.single_observation_space
    if player.tells_mask:
        observed = with_mask(observed, actions)
    return Spaces(observed, env.single_action_space, getattr(env, "stack", None))


class VectorPlayer:
    """Plays a vector environment, checking everything it returns."""

    def __init__(
        self,
        inspection: Inspection,
        env: Any,
        mode: AutoresetMode | None,
        observations: ObservationLayout,
        actions: ActionLayout,
    ) -> None:
        self.env = env
        self.width = int(env.num_envs)
        self.seconds = 0.0
        """Spent in the environment's `step`."""
        self.steps = 0
        """Environment steps since the last seeded reset, without rows that only reset."""
        self.lengths: list[int] = []
        """Of the episodes that ended since then."""
        self.tells_mask = False
        self._inspection, self.mode = inspection, mode
        self.layout, self.actions = observations, actions
        self._seen: list[Array] = []
        self._infos: Mapping[str, Any] = {}
        self._over = np.zeros(self.width, np.bool_)
        self._began = np.zeros(self.width, np.int64)

    def reset(self, seed: int | None = None, mask: Array | None = None) -> list[Array]:
        """Resets all environments, or those of a mask; returns the leaves [B, *shape]."""
        call = f"reset(seed={seed})"
        named: dict[str, Any] = {"seed": seed}
        if mask is not None:
            call, named = "reset(options={'reset_mask': ...})", {"options": {"reset_mask": mask}}
        result = self._inspection.call(call, self.env.reset, **named)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            self._inspection.problem(
                "reset",
                f"{call} returned a {type(result).__name__}, not the tuple (observations, infos)"
                " with a dict last; write `return observations, {}`",
            )
            raise StoppedError
        if mask is None:
            self._over[:] = False
            self._began[:] = 0
            self.steps, self.lengths = 0, []
        observations, self._infos = result
        self.tells_mask |= MASK in self._infos
        self._seen = self._leaves(observations, call)
        return self._seen

    def _leaves(self, observations: Any, call: str) -> list[Array]:
        """Copies of the leaves, looked through."""
        try:
            leaves = check_observations(
                observations, self.layout, self.width, "the vector environment", call
            )
        except EnvironmentFault as fault:
            self._inspection.problem("observations", f"{fault}; mend it or its spaces")
            raise StoppedError from fault
        for leaf, values in zip(self.layout.leaves, leaves, strict=True):
            check_values(self._inspection, self.layout, leaf, np.asarray(values), call)
        return [np.array(leaf) for leaf in leaves]

    def sample(self) -> Any:
        """A batch of random actions, allowed ones where the environment tells."""
        masks = self._infos.get(MASK)
        if self.layout.mask is not None:
            masks = self._seen[self.layout.leaves.index(self.layout.mask)]
        chosen = []
        for b in range(self.width):
            mask = None if masks is None or self._over[b] else masks[b]
            chosen.append(allowed_action(self._inspection, self.actions, mask))
        space = self.actions.space
        room: Any = create_empty_array(space, self.width)
        return concatenate(space, chosen, room)

    def step(self, actions: Any, number: int) -> Row:
        """Takes a step of all environments; resets those that ended where that is our part."""
        call = f"step {number}"
        began = time.perf_counter()
        result = self._inspection.call(call, self.env.step, actions)
        self.seconds += time.perf_counter() - began
        try:
            check_vector_step(result, self.layout, self.width, call)
        except EnvironmentFault as fault:
            self._inspection.problem("step", f"{fault}; mend step or the spaces")
            raise StoppedError from fault
        observations, rewards, terminated, truncated, self._infos = result
        leaves = self._leaves(observations, call)
        rewards = np.array(rewards)
        if not np.isfinite(rewards).all():
            b = int(np.flatnonzero(~np.isfinite(rewards))[0])
            self._inspection.problem(
                "reward",
                f"{call} returned the reward {rewards[b]} of environment {b}; find where it arises,"
                " or clip it",
            )
        row = leaves, rewards, np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        self._seen = leaves
        self._go_on(row[2] | row[3], number)
        return row

    def _go_on(self, done: Array, number: int) -> None:
        """Counts steps and checks that the environment goes on as its mode says."""
        passed = self._over if self.mode is AutoresetMode.NEXT_STEP else np.zeros_like(done)
        wrong = np.flatnonzero(passed & done)
        if len(wrong):
            self._inspection.problem(
                "mode",
                f"step {number}: environment {wrong[0]} ended in the step before, and this one ends"
                " it again, where the autoreset mode NEXT_STEP, which it declares, only resets; set"
                " metadata['autoreset_mode'] to the mode that it has",
            )
        self.steps += int((~passed).sum())
        finals = "final_obs" in self._infos
        for b in np.flatnonzero(done & ~passed).tolist():
            self.lengths.append(number - int(self._began[b]))
            self._began[b] = number + (self.mode is AutoresetMode.NEXT_STEP)
        if done.any():
            self._check_finals(finals, done, number)
        self._over = done & ~passed
        if self.mode is AutoresetMode.DISABLED and done.any():
            self._reset_ended(done)

    def _check_finals(self, finals: bool, done: Array, number: int) -> None:
        b = int(np.flatnonzero(done)[0])
        if self.mode is AutoresetMode.SAME_STEP and not finals:
            self._inspection.problem(
                "final_obs",
                f"step {number}: the episode of environment {b} ended, and infos has no"
                " 'final_obs'; the autoreset mode SAME_STEP, which it declares, returns there the"
                " observation that each episode ended on: give it, or declare another mode",
            )
        elif self.mode is not AutoresetMode.SAME_STEP and self.mode is not None and finals:
            self._inspection.problem(
                "final_obs",
                f"step {number}: the episode of environment {b} ended, and infos has 'final_obs',"
                f" as SAME_STEP has it; but metadata['autoreset_mode'] is {self.mode.name}: set it"
                " to AutoresetMode.SAME_STEP, if it resets in the same step",
            )
        elif finals:
            self._check_final_rows(done, number)

    def _check_final_rows(self, done: Array, number: int) -> None:
        """Whether the observations that episodes ended on can be read, each by its environment."""
        told = self._infos["final_obs"]
        for b in np.flatnonzero(done).tolist():
            try:
                if self.layout.nested and isinstance(told, dict | tuple):
                    parts = [part[b] for part in self.layout.split(told)]
                else:
                    parts = self.layout.split(told[b])
                shapes = [np.shape(part) for part in parts]
            except (TypeError, KeyError, IndexError):
                shapes = []
            if shapes != [leaf.shape for leaf in self.layout.leaves]:
                self._inspection.problem(
                    "final_obs",
                    f"step {number}: the episode of environment {b} ended, and"
                    f" infos['final_obs'][{b}] is no observation of its space; put there what the"
                    " episode ended on",
                )

    def _reset_ended(self, done: Array) -> None:
        """Resets those that ended, and sees that the others stay as they are."""
        before = self._seen
        after = self.reset(mask=done.copy())
        for b in np.flatnonzero(~done).tolist():
            if not all(same(one[b], other[b]) for one, other in zip(before, after, strict=True)):
                self._inspection.problem(
                    "reset_mask",
                    "reset(options={'reset_mask': mask}) changed the observation of environment"
                    f" {b}, where the mask is False; reset those alone where it is True",
                )
        self._over[:] = False


def _check_repeatable(inspection: Inspection, player: VectorPlayer, seed: int) -> None:
    """Plays the same rows in two fresh vector environments."""
    actions: list[Any] = []

    def play(by: VectorPlayer) -> list[Row]:
        first = by.reset(seed)
        nothing = np.zeros(by.width)
        rows: list[Row] = [(first, nothing, nothing, nothing)]
        for number in range(1, COMPARED_STEPS + 1):
            if len(actions) < number:
                actions.append(by.sample())
            rows.append(by.step(actions[number - 1], number))
            if by.mode is None and by.lengths:
                break  # nobody knows how it goes on
        return rows

    once = play(player)
    if not player.lengths:
        inspection.note("endless", f"no episode ended in {COMPARED_STEPS} rows")
    fresh = inspection.make()
    try:
        again = play(VectorPlayer(inspection, fresh, player.mode, player.layout, player.actions))
    finally:
        inspection.call("close()", fresh.close)
    for number, (one, other) in enumerate(zip(once, again, strict=True)):
        if not same(one, other):
            names = ("observations", "rewards", "terminations", "truncations")
            part = next(n for n, a, b in zip(names, one, other, strict=True) if not same(a, b))
            inspection.problem(
                "seeding",
                f"reset(seed={seed}) and the same actions differ in two vector environments, in the"
                f" {part} of {f'step {number}' if number else 'reset'}: runs cannot be repeated;"
                f" give environment i the seed + i, and draw from its generator alone",
            )
            return
    _check_seeds(inspection, player, once[0][0], seed)


def _check_seeds(
    inspection: Inspection, player: VectorPlayer, first: list[Array], seed: int
) -> None:
    """Whether seeds matter, and each environment has its own."""
    other = player.reset(seed + player.width)
    if same(first, other):
        inspection.note("seeds", "two seeds give the same first observations; is that meant?")
    elif player.width > 1 and all(same(leaf[:1].repeat(len(leaf), 0), leaf) for leaf in first):
        inspection.problem(
            "alike",
            f"reset(seed={seed}) begins all {player.width} environments alike, though another seed"
            " begins them otherwise: they share one seed; give environment i the seed + i",
        )


def _check_play(inspection: Inspection, player: VectorPlayer, seed: int, steps: int) -> None:
    """Plays on, across the ends of episodes, against the clock."""
    player.reset(seed)
    before, number = player.seconds, 0
    while player.steps < steps:
        number += 1
        player.step(player.sample(), number)
    taken = player.seconds - before
    inspection.report.facts["speed"] = f"{player.steps / max(taken, 1e-9):,.0f} steps/s"
    if player.lengths:
        mean = sum(player.lengths) / len(player.lengths)
        inspection.report.facts["episodes"] = (
            f"{len(player.lengths)} ended, {mean:.0f} steps on average"
        )
