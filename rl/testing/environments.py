"""Checks an environment against what training needs of it, and tells everything in one report.

`problems` are what a run would end with, or learn wrongly from; `notes` are what one should know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from rl.core.data.masks import with_mask
from rl.core.data.memory import available_memory, check_replay_fits
from rl.core.data.replay import ReplayBuffer
from rl.core.data.spaces import ObservationLayout, Spaces
from rl.core.runtime.wire import dump
from rl.env_runners.environments import EnvironmentFactory, frame_stack_of
from rl.env_runners.lookup import takes
from rl.env_runners.masks import tells_mask
from rl.errors import EnvironmentFault, UsageError
from rl.testing.env_player import Player, Step, same
from rl.testing.env_randomness import seeding_mend
from rl.testing.env_report import EnvironmentReport, Inspection, StoppedError
from rl.testing.env_vector import inspect_vector

__all__ = ["EnvironmentReport", "check_env", "inspect_env"]

Environment = gymnasium.Env[Any, Any]

COMPARED_STEPS = 200
"""Steps of an episode that is played again to compare it."""
REPLAY_SIZE = 1_000_000
"""Transitions whose memory is told where nobody asks for a number; as DQN and SAC have it."""
ENOUGH_EPISODES = 5
"""Episodes after which the way in which all of them ended is no accident."""


def _play_episode(
    player: Player, seed: int, actions: Sequence[Any] | None = None
) -> tuple[list[Step], list[Any]]:
    """A seeded reset, then the actions, or random ones, until the episode ends; returns them."""
    played, taken = [Step(player.reset(seed), 0.0, False, False)], []
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
        for what in ("observation", "reward", "terminated", "truncated"):
            if not same(getattr(one, what), getattr(other, what)):
                return f"the {what} of {place}"
    return None if len(first) == len(second) else "their lengths"


def _check_repeatable(
    inspection: Inspection, player: Player, layout: ObservationLayout, seed: int
) -> int:
    """Plays one episode in a fresh environment, again in another, and again in one with a past.

    Returns the steps of the first.
    """

    def play_fresh() -> list[Step]:
        fresh = inspection.make()
        try:
            return _play_episode(Player(inspection, fresh, layout), seed, actions)[0]
        finally:
            inspection.call("close()", fresh.close)

    def repeats(prepare: Callable[[], None]) -> bool:
        prepare()
        once = play_fresh()
        prepare()
        return _difference(once, play_fresh()) is None

    first, actions = _play_episode(player, seed)
    parted = _difference(first, play_fresh())
    if parted is not None:
        mend = seeding_mend(player.env, seed, repeats)
        inspection.problem(
            "seeding",
            f"reset(seed={seed}) and the same actions differ in two environments, in {parted}: runs"
            f" cannot be repeated; {mend}",
        )
        inspection.report.facts["restorable"] = "no: not even repeatable"
        return len(first) - 1
    if same(first[0].observation, player.reset(seed + 1)):
        inspection.note("seeds", "two seeds give the same first observation; is that meant?")
    for number in range(1, 20):
        if player.step(player.sample(), number).ended:
            break
    again, _ = _play_episode(player, seed, actions)
    inspection.report.facts["restorable"] = _restorable(player.env, _difference(first, again))
    return len(first) - 1


def _restorable(env: Environment, parted: str | None) -> str:
    """Whether an unfinished episode can be brought back, and by what or why not."""
    unwrapped = env.unwrapped
    if hasattr(unwrapped, "get_state") and hasattr(unwrapped, "set_state"):
        return "yes: it offers get_state and set_state"
    if hasattr(unwrapped, "ale"):
        return "yes: the emulator's state can be copied"
    if parted is None:
        return "yes: its episodes can be played again"
    return f"no: after another episode the same seed and actions differ in {parted}"


def _check_play(inspection: Inspection, player: Player, seed: int, steps: int, first: int) -> None:
    """Plays on, across the ends of episodes, against the clock; `first` steps took the very first.

    It begins with a reset in the middle of an episode.
    """
    player.reset(seed)
    player.reset(None)
    ends: list[tuple[int, Step]] = []
    length, before = 0, player.seconds
    for number in range(1, steps + 1):
        step = player.step(player.sample(), number)
        length += 1
        if step.ended:
            ends.append((length, step))
            length = 0
            player.reset(None)
    inspection.report.facts["speed"] = f"{steps / max(player.seconds - before, 1e-9):,.0f} steps/s"
    if ends:
        mean = sum(length for length, _ in ends) / len(ends)
        inspection.report.facts["episodes"] = f"{len(ends)} ended, {mean:.0f} steps on average"
        _check_ends(inspection, ends, first)
    else:
        inspection.note(
            "endless",
            f"no episode ended in {steps} steps; if none ever does, give a limit:"
            " gymnasium.register(..., max_episode_steps=...)",
        )


def _check_ends(inspection: Inspection, ends: Sequence[tuple[int, Step]], first: int) -> None:
    """Looks at how episodes ended, where there are enough of them to tell a habit."""
    lengths = {length for length, _ in ends}
    if len(ends) < ENOUGH_EPISODES:
        return
    if lengths == {1} and first > 1:
        inspection.problem(
            "reset leaves",
            f"the first episode took {first} steps, each of the next {len(ends)} ended in its first"
            " step: reset() leaves something of the episode before in place; set everything that"
            " step() changes anew in it, such as a count of steps",
        )
    elif all(step.terminated and step.truncated for _, step in ends):
        inspection.problem(
            "both",
            f"all {len(ends)} episodes ended with terminated=True and truncated=True at once:"
            " terminated is an end of the task itself, beyond which nothing is worth anything,"
            " truncated one from outside, such as a time limit; return one of them",
        )
    elif all(step.terminated for _, step in ends) and len(lengths) == 1 and first > 1:
        inspection.note(
            "limit",
            f"all {len(ends)} episodes terminated after {max(lengths)} steps, as a time limit ends"
            " them; if it is one, return terminated=False, truncated=True",
        )
    elif all(step.truncated for _, step in ends) and len(lengths) > 1:
        inspection.note(
            "truncated",
            f"all {len(ends)} episodes were truncated, after {min(lengths)} to {max(lengths)}"
            " steps; an end of the task itself is terminated=True (the third of the five values)",
        )


def _check_actions(inspection: Inspection, space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and not space.is_bounded():
        inspection.note(
            "unbounded actions",
            f"the action space {space} has no finite bounds, so nothing clips what the policy does,"
            " and SAC and TD3 refuse it; give it bounds",
        )


def _check_travels(inspection: Inspection, make_env: Callable[..., Any]) -> None:
    """Whether runners in other processes can be told how to make the environment."""
    try:
        dump(make_env)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        inspection.problem(
            "travels",
            f"what makes the environment cannot be pickled ({type(error).__name__}: {reason}), and"
            " runners in other processes make theirs by it; let it create what it needs when it is"
            " called, in place of carrying it along",
        )


def _tell_replay(inspection: Inspection, spaces_of: Spaces, buffer_size: int | None) -> None:
    """The memory that a replay buffer needs, and whether it is there."""
    size = REPLAY_SIZE if buffer_size is None else buffer_size
    needed, free = ReplayBuffer.bytes_needed(spaces_of, size), available_memory()
    have = "" if free is None else f" of {free / 1e9:.1f} GB that are free"
    inspection.report.facts["replay"] = f"{size:,} transitions take {needed / 1e9:.2f} GB{have}"
    if buffer_size is None:
        return
    try:
        check_replay_fits(ReplayBuffer, spaces_of, size)
    except UsageError as error:
        inspection.problem("replay", str(error))


def inspect_env(
    make_env: Callable[..., Any],
    *,
    steps: int = 1000,
    seed: int = 0,
    buffer_size: int | None = None,
    num_envs: int = 3,
) -> EnvironmentReport:
    """Finds out all it can about an environment with random actions.

    Args:
        make_env: Makes a fresh one at each call; one with a parameter `num_envs` makes a vector
            environment of so many.
        steps: Environment steps to watch, besides some hundreds for comparisons.
        seed: Of episodes and actions.
        buffer_size: Transitions of a replay buffer that must fit into memory.
        num_envs: Environments of a vector environment.

    Raises:
        UsageError: There is no such environment, or something it needs is not installed.
    """
    name = getattr(make_env, "name", None) or getattr(make_env, "__qualname__", "environment")
    report = EnvironmentReport(str(name))
    make, vectorized = make_env, takes(make_env, "num_envs")
    if isinstance(make_env, EnvironmentFactory) and make_env.native:
        factory, vectorized = make_env, True
        make = lambda num_envs: factory.vector(num_envs, checked=False)  # noqa: E731
    inspection = Inspection((lambda: make(num_envs=num_envs)) if vectorized else make, report)
    _check_travels(inspection, make_env)
    env = None
    try:
        env = inspection.make()
        if vectorized or not isinstance(env, gymnasium.Env):
            found = inspect_vector(inspection, env, num_envs if vectorized else None, steps, seed)
        else:
            found = _inspect_single(inspection, env, steps, seed)
        _tell_replay(inspection, found, buffer_size)
    except StoppedError:
        pass
    with contextlib.suppress(StoppedError):
        if env is not None and hasattr(env, "close"):
            inspection.call("close()", env.close)
    return report


def _inspect_single(inspection: Inspection, env: Environment, steps: int, seed: int) -> Spaces:
    observations, actions = inspection.layouts(env)
    _check_actions(inspection, env.action_space)
    env.action_space.seed(seed)
    player = Player(inspection, env, observations)
    first = _check_repeatable(inspection, player, observations, seed)
    _check_play(inspection, player, seed, steps, first)
    if tells_mask(env):
        return Spaces(with_mask(env.observation_space, actions), env.action_space)
    return Spaces(env.observation_space, env.action_space, frame_stack_of(env))


def check_env(
    make_env: Callable[..., Any],
    *,
    steps: int = 1000,
    seed: int = 0,
    buffer_size: int | None = None,
    num_envs: int = 3,
) -> None:
    """Raises `EnvironmentFault` with the whole report when an environment is not sound.

    Args:
        make_env: See `inspect_env`, as for the others.
        steps: To watch.
        seed: Of episodes and actions.
        buffer_size: Transitions that must fit into memory.
        num_envs: Environments of a vector environment.
    """
    report = inspect_env(
        make_env, steps=steps, seed=seed, buffer_size=buffer_size, num_envs=num_envs
    )
    if not report.sound:
        raise EnvironmentFault(str(report))
