from typing import Any

import numpy as np
import pytest

import rl.env_runners.runner_state
from rl.env_runners.runner_state import RunnerState
from rl.errors import EnvironmentFault
from tests.env_runners.helpers import Counting, lanes_of, make_runner


class Forgetful(Counting):
    """Its seed does not decide what happens: replaying it arrives somewhere else."""

    born = 0

    def __init__(self) -> None:
        super().__init__()
        Forgetful.born += 1
        self.number = Forgetful.born

    def _observe(self, action: int) -> Any:
        observation = super()._observe(action)
        observation[0] += 1000 * self.number
        return observation


def steps_in_progress(state: RunnerState) -> list[int]:
    return [lane.steps for lane in state.lanes]


def test_what_cannot_be_restored_starts_afresh_and_is_counted() -> None:
    runner, other = make_runner(Forgetful), make_runner(Forgetful)
    state = RunnerState().after(runner.sample(20))
    lost = steps_in_progress(state)
    assert sum(lost) > 0
    assert other.set_state(state) == sum(lost)
    for lane, before in zip(lanes_of(other), state.lanes, strict=True):
        assert lane.episode == before.episode + 1  # the next one, with a seed of its own
        assert lane.steps_before == 0
        assert lane.episode_return == 0
    other.sample(5).check()


class Shortened(Counting):
    """Played again it ends at once, and does not take a step after that."""

    born = 0

    def __init__(self) -> None:
        super().__init__()
        Shortened.born += 1
        self.short = Shortened.born > 1

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert not self.short or self._steps < 1, "stepped after its end"
        observation, reward, *_ = super().step(action)
        return observation, reward, self.short, False, {}


@pytest.mark.parametrize("length", [1, 4])
def test_a_replayed_episode_that_ends_early_is_lost_and_not_stepped_on(length: int) -> None:
    Shortened.born = 0
    runner = make_runner(Shortened, 1)
    state = RunnerState().after(runner.sample(length))
    other = make_runner(Shortened, 1)
    assert other.set_state(state) == length
    assert lanes_of(other)[0].episode == 1


def test_an_environment_that_raises_while_replayed_is_at_fault() -> None:
    class Breaking(Counting):
        broken = False

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            if self.broken:
                raise ZeroDivisionError("broken")
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    runner = make_runner(Breaking, 1)
    state = RunnerState().after(runner.sample(3))
    Breaking.broken = True
    with pytest.raises(EnvironmentFault, match=r"replaying an episode.*ZeroDivisionError") as fault:
        make_runner(Breaking, 1).set_state(state)
    assert isinstance(fault.value.__cause__, ZeroDivisionError)


def test_an_emulator_is_seeded_once_because_seeding_reloads_it() -> None:
    made: list[Counting] = []

    class Emulated(Counting):
        ale = "an emulator"

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    runner = make_runner(Emulated, 1)
    state = RunnerState().after(runner.sample(40))
    assert len(made[0].seeds) > 3
    assert made[0].seeds[0] is not None
    assert set(made[0].seeds[1:]) == {None}
    assert make_runner(Emulated, 1).set_state(state) == state.lanes[0].steps


def test_an_episode_too_long_to_replay_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Counting):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    monkeypatch.setattr(rl.env_runners.runner_state, "LONGEST_HISTORY", 10)
    runner = make_runner(Endless, 1)
    state = RunnerState().after(runner.sample(10))
    assert state.lanes[0].actions is not None
    state = state.after(runner.sample(1))
    assert state.lanes[0].actions is None
    other = make_runner(Endless, 1)
    assert other.set_state(state) == 11
    assert lanes_of(other)[0].episode == 1


def test_the_state_of_a_lane_is_what_was_done_since_its_reset() -> None:
    runner = make_runner(Counting, 2)
    rollouts, state = [], RunnerState()
    for _ in range(4):
        rollouts.append(runner.sample(7))
        state = state.after(rollouts[-1])
    done = np.concatenate([r.terminated | r.truncated for r in rollouts])
    actions = np.concatenate([r.actions for r in rollouts])
    for b, lane in enumerate(state.lanes):
        began = np.flatnonzero(done[:, b])[-1] + 1
        assert lane.actions is not None
        assert np.array_equal(lane.actions, actions[began:, b])
        assert lane.steps == len(lane.actions)
        assert lane.episode == done[:, b].sum()


def test_fragments_of_one_step_leave_few_pieces_of_an_episode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rl.env_runners.runner_state, "MOST_PIECES", 4)
    runner, state, taken, longest = make_runner(Counting, 2), RunnerState(), [], 0
    for _ in range(40):
        rollout = runner.sample(1)
        state = state.after(rollout)
        taken.append(rollout.actions)
        for b, lane in enumerate(state.lanes):
            assert lane.pieces is not None
            assert len(lane.pieces) < 4
            assert lane.actions is not None
            whole = np.concatenate(taken)[:, b]
            assert np.array_equal(lane.actions, whole[len(whole) - lane.steps :])
            longest = max(longest, lane.steps)
    assert longest > 4  # they were joined
