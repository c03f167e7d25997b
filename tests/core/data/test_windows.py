"""Windows hold what happened, in the order it happened, and nothing of another episode."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array
from rl.core.data.windows import Unrolled
from tests.core.data.test_replay import GAMMA, SCALAR, SPACES, stepped_by_hand
from tests.env_runners.helpers import Counting, make_runner

WIDTH = 3


class Past(NamedTuple):
    replay: ReplayBuffer
    steps: list[list[Any]]  # of each environment, (observation, action, reward, next, ended, done)


def past(capacity: int, length: int = 11, rollouts: int = 9) -> Past:
    """A buffer of environments side by side; step s of environment b remembers [b, s]."""
    runner = make_runner(Counting, WIDTH, seed=4, index=2)
    replay = ReplayBuffer(SPACES, WIDTH, capacity * WIDTH, seed=0, memory_size=2)
    actions = []
    for index in range(rollouts):
        rollout: Rollout = runner.sample(length)
        remembered = np.zeros((length + 1, WIDTH, 2), np.float32)
        remembered[:, :, 0] = np.arange(WIDTH)
        remembered[:, :, 1] = (index * length + np.arange(length + 1))[:, None]
        replay.add(replace(rollout, memory=remembered))
        actions.append(rollout.actions)
    played = np.concatenate(actions)
    return Past(replay, [stepped_by_hand(played[:, b], 4, 2, b) for b in range(WIDTH)])


def in_order(unrolled: Unrolled) -> dict[int, list[list[float]]]:
    """The observations of each window, one after the other."""
    assert isinstance(unrolled.observations, np.ndarray)
    found: dict[int, list[list[float]]] = {int(window): [] for window in unrolled.windows}
    assert len(found) == len(unrolled.windows)
    at = 0
    for size in unrolled.batch_sizes:
        for window in unrolled.windows[:size]:
            found[int(window)].append(unrolled.observations[at].tolist())
            at += 1
    assert at == len(unrolled.observations)
    return found


def rows_of(observations: list[Array]) -> list[list[float]]:
    return [np.float32(observation).tolist() for observation in observations]


@pytest.mark.parametrize("capacity", [40, 1000])  # with rows taken over, and without
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("lengths", [(1, 0), (4, 0), (4, 3), (6, 50), (30, 2)])
def test_a_window_is_what_was_stepped(lengths: tuple[int, int], n_step: int, capacity: int) -> None:
    replay, steps = past(capacity)
    total, rows = len(steps[0]), replay._rows
    indices = np.concatenate(
        [
            [(s % rows) * WIDTH + b for s in range(max(0, total - capacity), total)]
            for b in range(WIDTH)
        ]
    )
    found = replay.gather_windows(indices, lengths, n_step, GAMMA)
    seen = in_order(found.seen)
    before = in_order(found.before) if found.before is not None else {}
    packed: Any = found.seen.observations
    windows = [(b, s) for b in range(WIDTH) for s in range(max(0, total - capacity), total)]
    ended, led_up = 0, 0
    for window, (b, start) in enumerate(windows):
        own = steps[b]
        stop = start + 1  # behind the window
        while stop < min(start + lengths[0], total) and not own[stop - 1][5]:
            stop += 1
        begin = start
        while begin > max(0, total - capacity, start - lengths[1]) and not own[begin - 1][5]:
            begin -= 1
        assert found.memory[window].tolist() == [b, begin]
        assert before.get(window, []) == rows_of([step[0] for step in own[begin:start]])
        last = stop  # behind the steps that the last transition counts
        while last < min(stop + n_step - 1, total) and not own[last - 1][5]:
            last += 1
        states = [step[0] for step in own[start:last]]
        assert seen[window] == rows_of([*states, own[last - 1][3]])
        mine = np.flatnonzero(found.owners == window)
        assert replay.window_lengths(indices, lengths)[window] == len(mine) == stop - start
        for at, s in zip(mine, range(start, stop), strict=True):
            span = min(n_step, last - s)
            assert found.actions[at] == own[s][1]
            rewards = [own[s + k][2] * GAMMA**k for k in range(span)]
            assert found.returns[at] == pytest.approx(sum(rewards), rel=1e-6)
            carries_on = not own[s + span - 1][4]
            assert found.discounts[at] == pytest.approx(carries_on * GAMMA**span, rel=1e-6)
            assert packed[found.states[at]].tolist() == rows_of([own[s][0]])[0]
            assert packed[found.successors[at]].tolist() == rows_of([own[s + span - 1][3]])[0]
        ended += own[stop - 1][5]
        led_up += begin < start
    assert ended
    assert bool(led_up) == bool(lengths[1])


def test_single_transitions_are_those_of_gather() -> None:
    replay, _ = past(40)
    indices = replay.draw(64)
    for n_step in (1, 3):
        one = replay.gather(indices, n_step, GAMMA, lambda r: r * 3)
        found = replay.gather_windows(indices, (1, 0), n_step, GAMMA, lambda r: r * 3)
        packed: Any = found.seen.observations
        assert found.owners.tolist() == list(range(64))
        assert packed[found.states].tolist() == one.observations.tolist()
        assert packed[found.successors].tolist() == one.next_observations.tolist()
        assert found.actions.tolist() == one.actions.tolist()
        assert np.allclose(found.returns, one.returns, rtol=1e-6)
        assert found.discounts.tolist() == one.discounts.tolist()


def test_what_was_remembered_goes_into_checkpoints() -> None:
    replay, _ = past(40)
    other = ReplayBuffer(SPACES, WIDTH, 40 * WIDTH, seed=1, memory_size=2)
    other.set_state(replay.get_state())
    indices = replay.draw(64)
    assert other.draw(64).tolist() == indices.tolist()
    mine, theirs = (r.gather_windows(indices, (5, 2), 2, GAMMA) for r in (replay, other))
    assert mine.memory.tolist() == theirs.memory.tolist()
    assert mine.memory.any()
    without = ReplayBuffer(SPACES, WIDTH, 40 * WIDTH, seed=1)
    with pytest.raises(ValueError, match="the replay is of another"):
        without.set_state(replay.get_state())


@pytest.mark.parametrize("kind", [ReplayBuffer, PrioritizedReplay])
def test_what_is_remembered_counts_as_memory(kind: type[ReplayBuffer]) -> None:
    more = kind.bytes_needed(SCALAR, 1000, memory_size=64) - kind.bytes_needed(SCALAR, 1000)
    assert more == 1000 * 64 * 4
