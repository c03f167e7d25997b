"""The compiled rows of a replay buffer hold and give what those of numpy do, to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ActionLayout, Spaces
from rl.core.data.tree import Array
from tests.by_hand import needs_kernels

pytestmark = needs_kernels
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
OBSERVATIONS = {
    "vector": spaces.Box(-1, 1, (3,), np.float32),
    "bytes": spaces.Box(0, 255, (2, 3), np.uint8),
    "category": spaces.Discrete(5),
}


class Steps:
    """Rollouts of B environments with random numbers in them, each going on from the last."""

    def __init__(self, spaces_of: Spaces, width: int, generator: np.random.Generator) -> None:
        self.actions, self.width = ActionLayout(spaces_of.action), width
        self.space, self.generator = spaces_of.observation, generator
        self.space.seed(int(generator.integers(1 << 30)))
        self.now = self.rows(1)

    def rows(self, *leading: int) -> Array:
        count = int(np.prod(leading)) * self.width
        sampled = np.stack([np.asarray(self.space.sample()) for _ in range(count)])
        return sampled.reshape(*leading, self.width, *sampled.shape[1:])

    def next(self, length: int, afresh: bool = False) -> Rollout:
        generator, shape = self.generator, (length, self.width)
        begins = self.rows(1) if afresh else self.now
        observations = np.concatenate((begins, self.rows(length)))
        self.now = observations[-1:]
        ends = generator.random(shape) < 0.1
        terminated = ends & (generator.random(shape) < 0.5)
        columns = *shape, *self.actions.shape
        actions = (
            generator.normal(size=columns)
            if self.actions.continuous
            else generator.integers(0, 3, columns)
        )
        return Rollout(
            observations,
            actions.astype(self.actions.dtype),
            generator.normal(size=shape).astype(np.float32),
            terminated,
            ends & ~terminated,
            {},
            np.argwhere(ends),
            self.rows(int(ends.sum()) + 1)[:-1, 0],
        )


def both(kind: Any, *arguments: Any, **settings: Any) -> tuple[Any, Any]:
    """A buffer that is compiled, and one that is not."""
    compiled, plain = kind(*arguments, **settings), kind(*arguments, **settings)
    assert compiled._compiled is not None
    plain._compiled = None
    return compiled, plain


def assert_alike(one: ReplayBuffer, other: ReplayBuffer) -> None:
    """Same content, same draws, same transitions."""
    assert one.position() == other.position()
    for name, part in one.get_state().items():
        theirs = other.get_state()[name]
        assert part is not None
        assert theirs is not None
        assert part.keys() == theirs.keys()
        for key, array in part.items():
            assert np.array_equal(array, theirs[key]), (name, key)
    indices = one.draw(70)
    assert np.array_equal(indices, other.draw(70))
    for n_step, scale in ((1, None), (1, lambda rewards: 2 * rewards), (3, None)):
        found, expected = (b.gather(indices, n_step, 0.97, scale) for b in (one, other))
        for name, array in vars(found).items():
            theirs = vars(expected)[name]
            assert array.dtype == theirs.dtype, name
            assert np.array_equal(array, theirs), name


@pytest.mark.parametrize("observation", OBSERVATIONS.values(), ids=list(OBSERVATIONS))
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["category", "numbers"])
@pytest.mark.parametrize("width", [1, 3])
def test_what_goes_in_comes_out_as_from_numpy(
    observation: spaces.Space[Any], action: spaces.Space[Any], width: int
) -> None:
    spaces_of = Spaces(observation, action)
    generator = np.random.default_rng()  # other steps every time
    steps = Steps(spaces_of, width, generator)
    compiled, plain = both(ReplayBuffer, spaces_of, width, 50 * width, 7)
    in_one_call = 0
    for turn in range(60):
        rollout = steps.next(int(generator.integers(1, 9)), afresh=turn % 10 == 3)
        before = compiled._compiled.put
        compiled._compiled.put = lambda *arrays: calls.append(before(*arrays)) or calls[-1]  # noqa: B023
        calls: list[bool] = []
        for buffer in (compiled, plain):
            buffer.add(rollout)
        compiled._compiled.put = before
        in_one_call += sum(calls)
        assert_alike(compiled, plain)
    assert 10 < in_one_call < 55  # some rollouts begin afresh, some overwrite an end


def test_environments_that_are_not_level_any_more_go_on_as_with_numpy() -> None:
    spaces_of = Spaces(OBSERVATIONS["vector"], DISCRETE)
    generator = np.random.default_rng()
    steps = Steps(spaces_of, 3, generator)
    compiled, plain = both(ReplayBuffer, spaces_of, 3, 60, 7)
    for turn in range(30):
        rollout = steps.next(4)
        if turn == 10:
            valid = np.ones((4, 3), np.bool_)
            valid[1, 2] = False
            kept = rollout.final_steps
            there = valid[kept[:, 0], kept[:, 1]]
            rollout = replace(
                rollout,
                valid=valid,
                terminated=rollout.terminated & valid,
                truncated=rollout.truncated & valid,
                rewards=rollout.rewards * valid,
                final_steps=kept[there],
                final_observations=rollout.final_observations[there],  # type: ignore[index]
            )
        for buffer in (compiled, plain):
            buffer.add(rollout)
        assert_alike(compiled, plain)
    assert len(set(compiled._written.tolist())) == 2


def test_priorities_and_resumed_buffers_are_the_same() -> None:
    spaces_of = Spaces(OBSERVATIONS["vector"], BOX)
    generator = np.random.default_rng()
    steps = Steps(spaces_of, 2, generator)
    compiled, plain = both(PrioritizedReplay, spaces_of, 2, 60, 7, alpha=0.6)
    for turn in range(40):
        rollout = steps.next(3)
        for buffer in (compiled, plain):
            buffer.add(rollout)
        indices = compiled.draw(8)
        assert np.array_equal(indices, plain.draw(8))
        errors = generator.normal(size=8)
        for buffer in (compiled, plain):
            buffer.set_priorities(indices, errors)
        if turn % 10 == 7:
            state = plain.get_state()
            compiled, plain = both(PrioritizedReplay, spaces_of, 2, 60, 8, alpha=0.6)
            for buffer in (compiled, plain):
                buffer.set_state(state)
        assert_alike(compiled, plain)


def test_arrays_that_lie_otherwise_are_stored_all_the_same() -> None:
    spaces_of = Spaces(OBSERVATIONS["vector"], DISCRETE)
    steps = Steps(spaces_of, 2, np.random.default_rng())
    compiled, plain = both(ReplayBuffer, spaces_of, 2, 60, 7)
    for turn in range(12):
        rollout = steps.next(4)
        frozen = rollout.observations.copy()  # type: ignore[union-attr]
        frozen.flags.writeable = False
        others = (
            {"observations": rollout.observations.astype(np.float64)},  # type: ignore[union-attr]
            {"rewards": np.asfortranarray(rollout.rewards)},
            {"observations": frozen},
            {"rewards": rollout.rewards.astype(np.float64)},
        )
        compiled.add(replace(rollout, **others[turn % 4]))
        plain.add(rollout)
        assert_alike(compiled, plain)


def test_rollouts_that_are_none_are_refused_before_memory_is_read() -> None:
    spaces_of = Spaces(OBSERVATIONS["vector"], DISCRETE)
    steps = Steps(spaces_of, 2, np.random.default_rng())
    compiled, _ = both(ReplayBuffer, spaces_of, 2, 60, 7)
    compiled.add(steps.next(4))
    rollout = steps.next(4)
    for name in ("observations", "actions", "terminated"):
        with pytest.raises((ValueError, IndexError)):
            compiled.add(replace(rollout, **{name: getattr(rollout, name)[:3]}))


def test_an_index_that_is_none_is_refused_before_memory_is_read() -> None:
    spaces_of = Spaces(OBSERVATIONS["vector"], DISCRETE)
    compiled, _ = both(ReplayBuffer, spaces_of, 1, 10, 7)
    compiled.add(Steps(spaces_of, 1, np.random.default_rng()).next(4))
    for index in (-1, 11):
        with pytest.raises(IndexError, match="none of a row"):
            compiled.gather(np.array([0, index]), 1, 0.9)
