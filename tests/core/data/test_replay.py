"""Replay holds exactly what was stepped, and gives every state's n-step transition."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rl.core.data import blocks
from rl.core.data.blocks import STATE
from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array
from rl.core.seeding import episode_seed
from tests.env_runners.helpers import Counting, make_runner

GAMMA = 0.5
SPACES = Spaces(Counting().observation_space, Counting().action_space)
SCALAR = Spaces(spaces.Box(-1, 999, (1,), np.float32), spaces.Discrete(2))
Row = tuple[Any, ...]


def stored(replay: ReplayBuffer) -> Array:
    """Indices of all transitions, environment by environment, oldest first."""
    found = []
    for lane, written in enumerate(replay._written):
        size = min(written, replay.capacity)
        rows = (written - np.arange(size, 0, -1)) % replay._rows
        found.append(rows * replay.num_environments + lane)
    return np.concatenate(found)


def contents(replay: ReplayBuffer, n_step: int) -> Counter[Row]:
    batch = replay.gather(stored(replay), n_step, GAMMA)
    assert isinstance(batch.observations, np.ndarray)
    assert isinstance(batch.next_observations, np.ndarray)
    columns = (
        batch.observations.tolist(),
        batch.actions.tolist(),
        batch.returns.tolist(),
        batch.next_observations.tolist(),
        batch.discounts.tolist(),
    )
    return Counter((tuple(o), a, r, tuple(n), d) for o, a, r, n, d in zip(*columns, strict=True))


def assert_pool_is_used_up(replay: ReplayBuffer) -> None:
    """Every slot is either free or held by one row."""
    pool, slots = replay._rings.pool, replay._records.slots
    assert sorted([*pool._free, *slots[slots >= 0]]) == list(range(len(pool)))


def bytes_of_a_row(spaces_of: Spaces) -> int:
    return ReplayBuffer.bytes_needed(spaces_of, 1)


Step = tuple[Array, int, float, Array, bool, bool]


def stepped_by_hand(actions: Array, seed: int, runner: int, lane: int) -> list[Step]:
    """(observation, action, reward, next observation, terminated, done), one by one."""
    env, episode, steps = Counting(), 0, []
    observation, _ = env.reset(seed=episode_seed(seed, runner, lane, episode))
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(env.action_space.start + action)
        done = terminated or truncated
        steps.append((observation, int(action), reward, following, terminated, done))
        observation = following
        if done:
            episode += 1
            observation, _ = env.reset(seed=episode_seed(seed, runner, lane, episode))
    return steps


def n_step_by_hand(steps: list[Step], n_step: int, capacity: int) -> Counter[Row]:
    found: Counter[Row] = Counter()
    for start in range(max(0, len(steps) - capacity), len(steps)):
        observation, action = steps[start][:2]
        total, discount = np.float32(0), 1.0
        for step in steps[start : start + n_step]:
            total += np.float32(discount) * np.float32(step[2])
            discount *= GAMMA
            if step[5]:
                break
        _, _, _, following, terminated, _ = step
        row = (
            tuple(np.float32(observation).tolist()),
            action,
            float(total),
            tuple(np.float32(following).tolist()),
            0.0 if terminated else discount,
        )
        found[row] += 1
    return found


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("length", [1, 7, 32])
@pytest.mark.parametrize("capacity", [40, 1000])
def test_what_is_stored_is_what_was_stepped(width: int, length: int, capacity: int) -> None:
    runner = make_runner(Counting, width, seed=4, index=2)
    replay = ReplayBuffer(SPACES, width, capacity * width + width - 1, seed=0)
    rollouts = [runner.sample(length) for _ in range(3 + 128 // length)]
    for rollout in rollouts:
        replay.add(rollout)
    actions = np.concatenate([rollout.actions for rollout in rollouts])
    ends = Rollout.concatenate(rollouts)
    assert ends.terminated.any()
    assert ends.truncated.any()
    lanes = [stepped_by_hand(actions[:, b], 4, 2, b) for b in range(width)]
    assert len(replay) == sum(min(len(lane), capacity) for lane in lanes)
    for n_step in range(1, 6):
        expected: Counter[Row] = Counter()
        for lane in lanes:
            expected += n_step_by_hand(lane, n_step, capacity)
        assert contents(replay, n_step) == expected, n_step


def chain(
    rewards: list[float], end: str = "", first: int = 0, valid: list[bool] | None = None
) -> Rollout:
    """One environment that counts its steps; the last of them may end an episode at 500."""
    length = len(rewards)
    flags = np.zeros((length, 1), np.bool_)
    last = flags.copy()
    last[-1] = True
    counted = np.arange(first, first + length + 1, dtype=np.float32).reshape(-1, 1, 1)
    return Rollout(
        observations=counted,
        actions=np.zeros((length, 1), np.int64),
        rewards=np.array(rewards, np.float32).reshape(-1, 1),
        terminated=last if end == "terminated" else flags,
        truncated=last if end == "truncated" else flags,
        extras={},
        final_steps=np.array([[length - 1, 0]] if end else np.zeros((0, 2)), np.int64),
        final_observations=np.full((1 if end else 0, 1), 500, np.float32),
        valid=None if valid is None else np.array(valid).reshape(-1, 1),
    )


@pytest.mark.parametrize(
    ("rollout", "total", "successor", "discount"),
    [
        (chain([1, 2, 3, 4, 5]), 2.75, 3, 0.125),
        (chain([1, 2], "truncated"), 2.0, 500, 0.25),
        (chain([1, 2], "terminated"), 2.0, 500, 0.0),
        (chain([1, 2]), 2.0, 2, 0.25),
    ],
    ids=["whole", "truncated", "terminated", "write head"],
)
def test_golden_n_step_returns(
    rollout: Rollout, total: float, successor: float, discount: float
) -> None:
    replay = ReplayBuffer(SCALAR, 1, 100, seed=0)
    replay.add(rollout)
    batch = replay.gather(np.array([0]), 3, 0.5)
    assert batch.returns.tolist() == [total]
    assert batch.next_observations.tolist() == [[successor]]  # type: ignore[union-attr]
    assert batch.discounts.tolist() == [discount]


def test_rewards_are_scaled_one_by_one() -> None:
    replay = ReplayBuffer(SCALAR, 1, 100, seed=0)
    replay.add(chain([1, 2, 3]))
    batch = replay.gather(np.array([0]), 3, 0.5, scale=lambda rewards: np.minimum(rewards, 2) * 10)
    assert batch.returns.tolist() == [10 + 10 + 5]


def test_rows_that_are_no_steps_never_enter() -> None:
    """A dummy row behind an end, as next-step autoreset makes it."""
    replay = ReplayBuffer(SCALAR, 1, 100, seed=0)
    replay.add(chain([1, 2], "truncated"))
    replay.add(chain([0, 7, 8], first=500, valid=[False, True, True]))
    batch = replay.gather(stored(replay), 1, 0.5)
    assert batch.returns.tolist() == [1, 2, 7, 8]
    assert batch.observations.ravel().tolist() == [0, 1, 501, 502]  # type: ignore[union-attr]
    assert batch.next_observations.ravel().tolist() == [1, 500, 502, 503]  # type: ignore[union-attr]


@pytest.mark.parametrize("n_step", [1, 3])
def test_an_environment_that_began_afresh_cuts_the_transition_before_off(n_step: int) -> None:
    """A runner that could not be restored: no end, but what follows is another episode."""
    replay = ReplayBuffer(SCALAR, 1, 100, seed=0)
    replay.add(chain([1, 2]))
    replay.add(chain([7, 8], first=40))
    batch = replay.gather(stored(replay), n_step, 0.5)
    last = n_step == 3  # both of the first rollout reach its end then
    assert batch.returns.tolist() == [2 if last else 1, 2, 11 if last else 7, 8]
    assert batch.next_observations.ravel().tolist() == [  # type: ignore[union-attr]
        2 if last else 1,
        2,
        42 if last else 41,
        42,
    ]
    assert (batch.discounts > 0).all()


def test_slots_of_overwritten_ends_are_used_again() -> None:
    replay = ReplayBuffer(SCALAR, 1, 20, seed=0)
    for _ in range(100):
        replay.add(chain([1, 2], "terminated"))
    assert len(replay._rings.pool) <= 20
    held = replay._records.slots[replay._records.slots >= 0]
    assert len(set(held)) == len(held) == 10


def test_composite_observations_are_stored_leaf_by_leaf() -> None:
    both = spaces.Dict({"a": spaces.Box(-1, 999, (1,), np.float32), "b": spaces.Discrete(600)})
    replay = ReplayBuffer(Spaces(both, spaces.Discrete(2)), 1, 10, seed=0)
    plain = chain([1, 2, 3], "truncated")
    assert isinstance(plain.observations, np.ndarray)
    assert isinstance(plain.final_observations, np.ndarray)
    tree = {"a": plain.observations, "b": plain.observations[..., 0].astype(np.int64)}
    finals = {"a": plain.final_observations, "b": plain.final_observations[..., 0].astype(np.int64)}
    replay.add(Rollout(**{**vars(plain), "observations": tree, "final_observations": finals}))
    found = replay.gather(np.array([1, 2]), 1, 0.9).next_observations
    assert isinstance(found, dict)
    assert found["a"].ravel().tolist() == found["b"].tolist() == [2, 500]


def test_draws_are_seeded_and_cover_every_environment_alike() -> None:
    def drawn(seed: int) -> Array:
        replay = ReplayBuffer(SPACES, 3, 300, seed)
        replay.add(make_runner(Counting).sample(20))
        return replay.draw(6000)

    assert np.array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))
    values, counts = np.unique(drawn(1), return_counts=True)
    assert len(values) == 60
    assert counts.min() > 50


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("prioritized", [False, True])
def test_what_is_drawn_is_all_that_is_stored(width: int, prioritized: bool) -> None:
    replay = (
        PrioritizedReplay(SPACES, width, 12 * width, 0, alpha=0.6)
        if prioritized
        else ReplayBuffer(SPACES, width, 12 * width, 0)
    )
    runner = make_runner(Counting, width)
    for _ in range(9):
        replay.add(runner.sample(5))
        assert set(replay.draw(1000)) == set(stored(replay))


def test_a_rollout_of_another_size_is_refused() -> None:
    replay = ReplayBuffer(SCALAR, 1, 4, seed=0)
    with pytest.raises(ValueError, match=r"\[5, 1\] does not go"):
        replay.add(chain([1] * 5))
    with pytest.raises(ValueError, match="cannot hold"):
        ReplayBuffer(SCALAR, 5, 4, seed=0)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("fragments", [2, 9, 40])
@pytest.mark.parametrize("block", [1, 4, 1000])
def test_a_restored_replay_goes_on_to_the_bit(
    prioritized: bool, fragments: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_BYTES", block * 3 * bytes_of_a_row(SPACES))

    def make(seed: int) -> ReplayBuffer:
        if prioritized:
            return PrioritizedReplay(SPACES, 3, 90, seed, alpha=0.6)
        return ReplayBuffer(SPACES, 3, 90, seed)

    runner, first = make_runner(Counting), make(0)
    for _ in range(fragments):
        first.add(runner.sample(7))
    if isinstance(first, PrioritizedReplay):
        first.set_priorities(first.draw(30), np.arange(30.0))
    second = make(1)
    for _ in range(4):
        second.add(runner.sample(7))  # forgotten
    second.set_state(first.get_state())
    assert_pool_is_used_up(second)
    for _ in range(8):
        indices = first.draw(5)
        assert np.array_equal(second.draw(5), indices)
        one, other = (vars(r.gather(indices, 3, 0.9)) for r in (first, second))
        for name, column in one.items():
            assert np.array_equal(other[name], column), name
        rollout = runner.sample(7)
        first.add(rollout)
        second.add(rollout)
    with pytest.raises(ValueError, match="another"):
        ReplayBuffer(SPACES, 2, 90, 0).set_state(first.get_state())


@pytest.mark.parametrize("block", [1, 4, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_that_are_had_already_are_never_another(
    block: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only blocks that are new are given, and old ones do for whatever comes later."""
    monkeypatch.setattr(blocks, "MOST_BYTES", block * 3 * bytes_of_a_row(SPACES))
    runner, replay = make_runner(Counting), ReplayBuffer(SPACES, 3, 90, 0)
    had: dict[str, Any] = {}
    given = 0
    for turn in range(60):
        rollout = runner.sample(5)
        if masked and turn == 3:  # environments write at different rows from now on
            valid = np.ones((5, 3), np.bool_)
            valid[4, 1] = rollout.final_steps[:, 1].tolist() == [1]
            rollout = replace(rollout, valid=valid)
        replay.add(rollout)
        if turn % 4:
            continue
        parts = replay.get_state(known=set(had))
        new = {name: part for name, part in parts.items() if part is not None}
        given += len(new) - 1
        had = {name: had.get(name) for name in parts} | new
        other = ReplayBuffer(SPACES, 3, 90, 1)
        other.set_state(dict(reversed(had.items())))  # in any order
        assert_pool_is_used_up(other)
        at = stored(replay)
        for n_step in (1, 4):
            one, two = (vars(r.gather(at, n_step, 0.9)) for r in (replay, other))
            assert all(np.array_equal(one[name], two[name]) for name in one)
        assert np.array_equal(other.draw(50), replay.draw(50))
        rows = sum(int(part["count"].sum()) for part in new.values())
        assert turn == 0 or rows <= 3 * (4 * 5 + block + 2), "only what is new"
    assert given >= 280 // block - 30


def test_a_step_that_may_yet_be_cut_off_is_in_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_BYTES", 1)  # a row
    replay, other = (ReplayBuffer(SCALAR, 1, 100, seed=0) for _ in range(2))
    replay.add(chain([1, 2]))
    had = replay.get_state()
    replay.add(chain([7, 8], first=40))  # another episode
    parts = replay.get_state(known=set(had))
    other.set_state({name: had.get(name) if part is None else part for name, part in parts.items()})
    batch = other.gather(stored(other), 3, 0.5)
    assert batch.returns.tolist() == [2, 2, 11, 8]


def test_what_does_not_fit_is_refused() -> None:
    replay = ReplayBuffer(SPACES, 3, 90, 0)
    replay.add(make_runner(Counting).sample(7))
    state = replay.get_state()[STATE]
    assert state is not None
    for name, value in {
        "first": state["first"] - 9,
        "count": state["count"] + 1,
        "written": state["written"] - 1,
        "records": state["records"].astype(np.int64),
        "finals/": state["finals/"][1:],
        "observations/": state["observations/"][:, :1],
        "block_length": np.array(1),
    }.items():
        with pytest.raises(ValueError):  # noqa: PT011 - all sorts
            ReplayBuffer(SPACES, 3, 90, 0).set_state({STATE: {**state, name: value}})
        missing = {key: part for key, part in state.items() if key != name}
        with pytest.raises(KeyError):
            ReplayBuffer(SPACES, 3, 90, 0).set_state({STATE: missing})
    with pytest.raises(ValueError, match="missing"):
        ReplayBuffer(SPACES, 3, 90, 0).set_state({STATE: state, "rows_000000000000": None})


def golden() -> PrioritizedReplay:
    replay = PrioritizedReplay(SCALAR, 1, 100, seed=0, alpha=0.6)
    replay.add(chain([1, 2, 3, 4]))
    replay.set_priorities(np.arange(4), np.array([1.0, -2.0, 3.0, -4.0]) * (1 - 1e-6))
    return replay


def test_golden_priorities() -> None:
    replay, indices = golden(), np.arange(4)
    expected = [0.148230, 0.224674, 0.286555, 0.340542]
    assert replay.probabilities(indices) == pytest.approx(expected, abs=1e-5)
    weights = [1, 0.846745, 0.768229, 0.716978]
    assert replay.weights(indices, 0.4) == pytest.approx(weights, abs=1e-5)
    drawn = np.bincount(replay.draw(100_000), minlength=4) / 100_000
    assert drawn == pytest.approx(expected, abs=1e-3)


def test_new_transitions_have_the_largest_priority_and_overwritten_ones_none() -> None:
    replay = golden()
    replay.add(chain([5]))
    fifth = replay.probabilities(np.arange(5))
    assert fifth[4] == pytest.approx(fifth[3], rel=1e-5)
    small = PrioritizedReplay(SCALAR, 1, 3, seed=0, alpha=1.0)
    for reward in range(10):
        small.add(chain([reward], first=reward))
        assert np.count_nonzero(small.probabilities(np.arange(4))) == len(small)
        assert set(small.draw(50)) <= set(stored(small))


def test_the_bytes_needed_are_those_allocated() -> None:
    replay = ReplayBuffer(SPACES, 1, 1000, seed=0)
    allocated = sum(column.nbytes for column in replay._blocks._columns.values())
    assert ReplayBuffer.bytes_needed(SPACES, 1001) == allocated
    prioritized = PrioritizedReplay(SPACES, 1, 1000, seed=0, alpha=0.6)
    allocated += sum(level.nbytes for level in prioritized._priorities._levels)
    assert PrioritizedReplay.bytes_needed(SPACES, 1001) == allocated
