"""Checks an environment against what training needs of it, and tells everything in one report.

`problems` are what a run would end with, or learn wrongly from; `notes` are what one should know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from rl.core.data.spaces import ObservationLayout
from rl.errors import EnvironmentFault
from rl.testing.env_player import EnvironmentReport, Inspection, Player, Step, StoppedError, same

__all__ = ["EnvironmentReport", "check_env", "inspect_env"]

Environment = gymnasium.Env[Any, Any]

COMPARED_STEPS = 200
"""Steps of an episode that is played again to compare it."""


def _play_episode(
    player: Player, seed: int, actions: Sequence[Any] | None = None
) -> tuple[list[Step], list[Any]]:
    """A seeded reset, then the actions, or random ones, until the episode ends; returns them."""
    played, taken = [Step(player.reset(seed), 0.0, False)], []
    limit = COMPARED_STEPS if actions is None else len(actions)
    for number in range(1, limit + 1):
        taken.append(player.sample() if actions is None else actions[number - 1])
        played.append(player.step(taken[-1], number))
        if played[-1].ended:
            break
    return played, taken


def _difference(first: list[Step], second: list[Step]) -> str | None:
    """Where two episodes part; None when they are the same in every bit."""
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        place = f"step {number}" if number else "reset"
        for what in ("observation", "reward", "ended"):
            if not same(getattr(one, what), getattr(other, what)):
                return f"the {what} of {place}"
    return None if len(first) == len(second) else "their lengths"


def _check_repeatable(
    inspection: Inspection, player: Player, layout: ObservationLayout, seed: int
) -> None:
    """Plays one episode in a fresh environment, again in another, and again in one with a past."""
    first, actions = _play_episode(player, seed)
    fresh = inspection.make()
    try:
        again, _ = _play_episode(Player(inspection, fresh, layout), seed, actions)
    finally:
        inspection.call("close()", fresh.close)
    parted = _difference(first, again)
    if parted is not None:
        inspection.problem(
            "seeding",
            f"reset(seed={seed}) and the same actions differ in two environments, in {parted}: runs"
            " cannot be repeated; draw every random number from self.np_random, after"
            " super().reset(seed=seed)",
        )
        inspection.report.facts["restorable"] = "no: not even repeatable"
        return
    if same(first[0].observation, player.reset(seed + 1)):
        inspection.note("seeds", "two seeds give the same first observation; is that meant?")
    for number in range(1, 20):
        if player.step(player.sample(), number).ended:
            break
    again, _ = _play_episode(player, seed, actions)
    parted = _difference(first, again)
    unwrapped = player.env.unwrapped
    if hasattr(unwrapped, "get_state") and hasattr(unwrapped, "set_state"):
        inspection.report.facts["restorable"] = "yes: it offers get_state and set_state"
    elif hasattr(unwrapped, "ale"):
        inspection.report.facts["restorable"] = "yes: the emulator's state can be copied"
    elif parted is None:
        inspection.report.facts["restorable"] = "yes: its episodes can be played again"
    else:
        inspection.report.facts["restorable"] = (
            f"no: after another episode the same seed and actions differ in {parted}"
        )


def _check_play(inspection: Inspection, player: Player, seed: int, steps: int) -> None:
    """Plays on, across the ends of episodes, against the clock."""
    player.reset(seed)
    player.reset(None)  # a second reset, in the middle of an episode
    lengths, length, before = [], 0, player.seconds
    for number in range(1, steps + 1):
        action = player.sample()
        length += 1
        step = player.step(action, number)
        if step.ended:
            lengths.append(length)
            length = 0
            player.reset(None)
    inspection.report.facts["speed"] = f"{steps / max(player.seconds - before, 1e-9):,.0f} steps/s"
    if lengths:
        mean = sum(lengths) / len(lengths)
        inspection.report.facts["episodes"] = f"{len(lengths)} ended, {mean:.0f} steps on average"
    else:
        inspection.note(
            "endless",
            f"no episode ended in {steps} steps; if none ever does, give a limit:"
            " gymnasium.register(..., max_episode_steps=...)",
        )


def _check_actions(inspection: Inspection, space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and not space.is_bounded():
        inspection.note(
            "unbounded actions",
            "the action space has no bounds, so nothing clips what the policy does; give it bounds",
        )


def inspect_env(
    make_env: Callable[[], Environment], *, steps: int = 1000, seed: int = 0
) -> EnvironmentReport:
    """Finds out all it can about an environment with random actions.

    Args:
        make_env: Makes a fresh one at each call.
        steps: Environment steps to watch, besides some hundreds for comparisons.
        seed: Of episodes and actions.

    Raises:
        UsageError: There is no such environment, or something it needs is not installed.
    """
    name = getattr(make_env, "name", None) or getattr(make_env, "__qualname__", "environment")
    report = EnvironmentReport(str(name))
    inspection = Inspection(make_env, report)
    env = None
    try:
        env = inspection.make()
        observations, _ = inspection.layouts(env)
        _check_actions(inspection, env.action_space)
        env.action_space.seed(seed)
        player = Player(inspection, env, observations)
        _check_repeatable(inspection, player, observations, seed)
        _check_play(inspection, player, seed, steps)
    except StoppedError:
        pass
    try:
        if env is not None:
            inspection.call("close()", env.close)
    except StoppedError:
        pass
    return report


def check_env(make_env: Callable[[], Environment], *, steps: int = 1000, seed: int = 0) -> None:
    """Raises `EnvironmentFault` with the whole report when an environment is not sound."""
    report = inspect_env(make_env, steps=steps, seed=seed)
    if not report.sound:
        raise EnvironmentFault(str(report))
