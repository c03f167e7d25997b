"""Frames stored one a step: every stack comes back as the environment gave it."""

from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from rl.core.data import blocks
from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import FrameStack, Spaces
from rl.core.data.tree import Array, Tree
from rl.core.seeding import episode_seed
from rl.env_runners.environments import frame_stack_of
from rl.errors import EnvironmentFault
from tests.core.data.test_replay import stored
from tests.env_runners.helpers import make_runner

GAMMA = 0.5
SEED, RUNNER = 4, 2
PADDINGS = ["reset", "zero"]


class Pictures(gymnasium.Env[Any, Any]):
    """Random pictures, sometimes the same twice; ends after a few steps in either way."""

    observation_space: spaces.Space[Any] = spaces.Box(0, 255, (3, 2), np.uint8)
    action_space = spaces.Discrete(3)

    def _frame(self) -> Any:
        return self.np_random.integers(0, 2, (3, 2)).astype(np.uint8) * 7

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = self.np_random.integers(1, 9)
        self._truncated = bool(self.np_random.integers(2))
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        over = self._left == 0
        ends = over and not self._truncated, over and self._truncated
        return self._frame(), float(self.np_random.random()), *ends, {}


class Both(Pictures):
    """Two pictures at once."""

    observation_space = spaces.Dict({"a": Pictures.observation_space, "b": spaces.Discrete(250)})

    def _frame(self) -> Any:
        return {"a": super()._frame(), "b": self.np_random.integers(250)}


class Reused(Pictures):
    """Answers in the same array again and again."""

    _kept = np.zeros((3, 2), np.uint8)

    def _frame(self) -> Any:
        self._kept[:] = super()._frame()
        return self._kept


def stacking(size: int, padding: str, kind: type[Pictures] = Pictures) -> FrameStackObservation:
    return FrameStackObservation(kind(), size, padding_type=padding)


def replay_of(env: gymnasium.Env[Any, Any], width: int, size: int) -> ReplayBuffer:
    stack = frame_stack_of(env)
    assert stack is not None
    return ReplayBuffer(Spaces(env.observation_space, env.action_space, stack), width, size, 0)


def as_bytes(tree: Tree, index: int) -> bytes:
    leaves = tree.values() if isinstance(tree, dict) else [tree]
    return b"".join(leaf[index].tobytes() for leaf in leaves)


def contents(replay: ReplayBuffer, n_step: int) -> Counter[Any]:
    batch = replay.gather(stored(replay), n_step, GAMMA)
    return Counter(
        (
            as_bytes(batch.observations, i),
            int(batch.actions[i]),
            float(batch.returns[i]),
            as_bytes(batch.next_observations, i),
            float(batch.discounts[i]),
        )
        for i in range(len(batch.actions))
    )


def by_hand(
    env: gymnasium.Env[Any, Any], actions: Array, lane: int, n_step: int, capacity: int
) -> Counter[Any]:
    """What the stacking environment itself gave, step by step."""

    def packed(observation: Any) -> bytes:
        parts = observation.values() if isinstance(observation, dict) else [observation]
        return b"".join(np.asarray(part).tobytes() for part in parts)

    steps, episode = [], 0
    observation, _ = env.reset(seed=episode_seed(SEED, RUNNER, lane, episode))
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        steps.append((packed(observation), reward, packed(following), terminated, done))
        observation = following
        if done:
            episode += 1
            observation, _ = env.reset(seed=episode_seed(SEED, RUNNER, lane, episode))
    found: Counter[Any] = Counter()
    for start in range(max(0, len(steps) - capacity), len(steps)):
        total, discount = np.float32(0), 1.0
        for step in steps[start : start + n_step]:
            total += np.float32(discount) * np.float32(step[1])
            discount *= GAMMA
            if step[4]:
                break
        _, _, following, terminated, _ = step
        end = 0.0 if terminated else discount
        found[steps[start][0], int(actions[start]), float(total), following, end] += 1
    return found


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("width", "length"), [(1, 1), (1, 7), (3, 7), (3, 32)])
@pytest.mark.parametrize("capacity", [40, 200])
def test_every_stack_is_the_one_the_environment_gave(
    padding: str, size: int, width: int, length: int, capacity: int
) -> None:
    runner = make_runner(lambda: stacking(size, padding), width, SEED, RUNNER)
    replay = replay_of(stacking(size, padding), width, capacity * width)
    rollouts = []
    for _ in range(130 // length):
        rollouts.append(runner.sample(length))
        replay.add(rollouts[-1])
    actions = np.concatenate([rollout.actions for rollout in rollouts])
    for n_step in (1, 3):
        expected: Counter[Any] = Counter()
        for b in range(width):
            expected += by_hand(stacking(size, padding), actions[:, b], b, n_step, capacity)
        assert contents(replay, n_step) == expected, n_step


def test_every_part_of_a_composite_observation_is_a_stack() -> None:
    runner = make_runner(lambda: stacking(3, "zero", Both), 2, SEED, RUNNER)
    replay = replay_of(stacking(3, "zero", Both), 2, 80)
    rollouts = [runner.sample(9) for _ in range(9)]
    for rollout in rollouts:
        replay.add(rollout)
    actions = np.concatenate([rollout.actions for rollout in rollouts])
    expected: Counter[Any] = Counter()
    for b in range(2):
        expected += by_hand(stacking(3, "zero", Both), actions[:, b], b, 2, 40)
    assert contents(replay, 2) == expected


def picture_rows(frames: list[int], first: int | None = None, **changes: Any) -> Rollout:
    """One environment that shows 1 pixel; `first` is the frame of an episode's beginning."""
    stack = [first if first is not None else frames[0]] * 3
    shown = []
    for frame in frames:
        stack = [*stack[1:], frame]
        shown.append(stack)
    length = len(frames) - 1
    flags = np.zeros((length, 1), np.bool_)
    columns: dict[str, Any] = {
        "observations": np.array(shown, np.uint8).reshape(length + 1, 1, 3, 1),
        "actions": np.zeros((length, 1), np.int64),
        "rewards": np.ones((length, 1), np.float32),
        "terminated": flags,
        "truncated": flags,
        "extras": {},
        "final_steps": np.zeros((0, 2), np.int64),
        "final_observations": np.zeros((0, 3, 1), np.uint8),
    }
    return Rollout(**columns | changes)


PIXEL = Spaces(spaces.Box(0, 255, (3, 1), np.uint8), spaces.Discrete(2), FrameStack(3))


def test_an_environment_that_began_afresh_begins_a_stack() -> None:
    replay = ReplayBuffer(PIXEL, 1, 20, seed=0)
    replay.add(picture_rows([1, 2, 3]))
    replay.add(picture_rows([8, 9]))
    batch = replay.gather(np.array([0, 1, 2]), 1, GAMMA)
    assert np.squeeze(batch.observations).tolist() == [[1, 1, 1], [1, 1, 2], [8, 8, 8]]  # type: ignore[arg-type]
    following = np.squeeze(batch.next_observations)  # type: ignore[arg-type]
    assert following.tolist() == [[1, 1, 2], [1, 2, 3], [8, 8, 9]]


def test_rows_between_two_episodes_leave_no_frame() -> None:
    """The dummy row of next-step autoreset: it shows the old episode's end, then a new one begins.

    Once in the middle of a rollout, once between two.
    """
    replay = ReplayBuffer(PIXEL, 1, 20, seed=0)
    for shown, ended, valid in (
        ([[1, 1, 1], [1, 1, 2], [5, 5, 5], [5, 5, 6]], 0, [True, False, True]),
        ([[5, 5, 6], [5, 6, 7]], 0, [True]),
        ([[5, 6, 7], [8, 8, 8], [8, 8, 9]], None, [False, True]),
    ):
        length = len(valid)
        seen = np.array(shown, np.uint8).reshape(length + 1, 1, 3, 1)
        truncated = (np.arange(length) == ended).reshape(length, 1)
        finals = np.argwhere(truncated)
        replay.add(
            picture_rows(
                [0] * (length + 1),
                observations=seen,
                truncated=truncated,
                final_steps=finals,
                final_observations=seen[finals[:, 0] + 1, 0],
                valid=np.array(valid).reshape(length, 1),
            )
        )
    batch = replay.gather(stored(replay), 1, GAMMA)
    assert np.squeeze(batch.observations).tolist() == [[1, 1, 1], [5, 5, 5], [5, 5, 6], [8, 8, 8]]  # type: ignore[arg-type]
    following = np.squeeze(batch.next_observations)  # type: ignore[arg-type]
    assert following.tolist() == [[1, 1, 2], [5, 5, 6], [5, 6, 7], [8, 8, 9]]


def test_what_is_no_stack_is_refused() -> None:
    env = stacking(3, "reset", Reused)
    replay = replay_of(env, 1, 20)
    with pytest.raises(EnvironmentFault, match=r"no stack of the last 3 frames.*return a copy"):
        replay.add(make_runner(lambda: env, 1).sample(9))
    for shown in ([[1, 2, 3], [2, 3, 4]], [[1, 1, 1], [1, 2, 2]]):  # filled up, moved on wrongly
        replay = ReplayBuffer(PIXEL, 1, 20, seed=0)
        seen = np.array(shown, np.uint8).reshape(2, 1, 3, 1)
        with pytest.raises(EnvironmentFault, match="no stack"):
            replay.add(picture_rows([0, 0], observations=seen))


@pytest.mark.parametrize("prioritized", [False, True])
def test_oldest_stacks_are_drawn_whole_and_frames_behind_them_never(prioritized: bool) -> None:
    env = stacking(4, "reset")
    spaces_of = Spaces(env.observation_space, env.action_space, frame_stack_of(env))
    replay = (
        PrioritizedReplay(spaces_of, 2, 30, 0, alpha=0.6)
        if prioritized
        else ReplayBuffer(spaces_of, 2, 30, 0)
    )
    runner = make_runner(lambda: stacking(4, "reset"), 2)
    for _ in range(12):
        replay.add(runner.sample(5))
        assert set(replay.draw(1000)) == set(stored(replay))
        assert len(replay) == len(stored(replay))


@pytest.mark.parametrize("size", [2, 4])
def test_single_frames_are_what_is_allocated(size: int) -> None:
    env = stacking(size, "reset")
    replay = replay_of(env, 1, 1000)
    allocated = sum(column.nbytes for column in replay._blocks._columns.values())
    of_the_env = Spaces(env.observation_space, env.action_space, frame_stack_of(env))
    assert ReplayBuffer.bytes_needed(of_the_env, 1000 + size) == allocated
    whole = Spaces(env.observation_space, env.action_space)
    assert ReplayBuffer.bytes_needed(whole, 1000) > 1000 * 6 * size
    assert ReplayBuffer.bytes_needed(of_the_env, 1000) < 1000 * (6 + 1 + 4 * 4 + 1)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("block", [1, 3, 50])
def test_restored_stacks_are_the_same(
    padding: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = stacking(4, padding)
    row = ReplayBuffer.bytes_needed(
        Spaces(env.observation_space, env.action_space, frame_stack_of(env)), 1
    )
    monkeypatch.setattr(blocks, "MOST_BYTES", block * 2 * row)
    replay, had = replay_of(env, 2, 40), dict[str, Any]()
    runner = make_runner(lambda: stacking(4, padding), 2)
    for _ in range(20):
        replay.add(runner.sample(5))
        parts = replay.get_state(known=set(had))
        had = {name: had.get(name) if part is None else part for name, part in parts.items()}
        other = replay_of(env, 2, 40)
        other.set_state(had)
        assert contents(other, 2) == contents(replay, 2)
    following = runner.sample(3)
    replay.add(following)
    other.add(following)
    assert contents(other, 3) == contents(replay, 3)
