"""Environments that raise and are made anew: what is kept, what others see, where it ends."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rl.configs.ppo import PPOConfig
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.runtime import Runtime
from rl.env_runners.env_runner import EnvRunner
from rl.env_runners.group import EnvRunnerGroup
from rl.env_runners.runner_state import RunnerState
from rl.errors import EnvironmentFault
from tests.env_runners.helpers import NUM_ACTIONS, Counting, Scripted

WIDTH = 3


class Failing(Counting):
    """Raises in the third step of some episodes and in some resets; in which, their seeds say."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        if self._tag % 13 == 0:
            raise OSError("no map")
        return result

    def step(self, action: Any) -> Any:
        if self._steps == 2 and self._tag % 3 == 0:
            raise RuntimeError("the rope broke")
        return super().step(action)


class Sometimes(Failing):
    """Fails in the second of a runner's environments alone."""

    def __init__(self) -> None:
        self.innocent = type(self).made in (0, 2)
        super().__init__()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return (Counting if self.innocent else Failing).reset(self, seed=seed, options=options)

    def step(self, action: Any) -> Any:
        return (Counting if self.innocent else Failing).step(self, action)


class Never(Counting):
    """Cannot take a step."""

    def step(self, action: Any) -> Any:
        raise RuntimeError("no legs")


class NoReset(Counting):
    """Cannot begin."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        raise RuntimeError("no floor")


class Once(Failing):
    """Cannot be made a second time."""

    def __init__(self) -> None:
        if type(self).made >= WIDTH:
            raise RuntimeError("out of licences")
        super().__init__()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    for kind in (Failing, Sometimes, Once):
        kind.made = 0


def runner_of(make: Callable[[], Any], forgiving: bool = True) -> EnvRunner:
    return EnvRunner(make, "Probe-v0", WIDTH, Scripted, 4, 2, forgiving)


def follow(rollout: Rollout, before: Any) -> Any:
    """Checks a rollout against what the environments tell of themselves; returns the last row."""
    rollout.check()
    seen = rollout.observations
    assert isinstance(seen, np.ndarray)
    finals = rollout.next_observations()
    ended = rollout.terminated | rollout.truncated
    failed = {(f.step - 1, f.environment) for f in rollout.failures if f.ended}
    afresh = {f.environment for f in rollout.failures if f.step == 0}
    if before is not None:
        for b in range(WIDTH):
            assert (seen[0, b] == before[b]).all() != (b in afresh)
    assert isinstance(finals, np.ndarray)
    for t, b in np.ndindex(rollout.rewards.shape):
        tag, steps, _ = seen[t, b]
        if (t, b) in failed:
            assert rollout.truncated[t, b]
            assert steps == 1, "the third step raised: the second is the last"
        assert finals[t, b, 0] == tag, "of the same episode"
        assert finals[t, b, 1] == steps + 1
        if ended[t, b]:
            assert seen[t + 1, b, 1] == 0
        else:
            assert (seen[t + 1, b] == finals[t, b]).all()
    assert (rollout.actions < NUM_ACTIONS).all()
    return seen[-1]


@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_an_environment_that_raises_ends_its_episode_and_is_made_anew(length: int) -> None:
    runner, last, failures = runner_of(Failing), None, []
    for _ in range(64 // length):
        rollout = runner.sample(length)
        last = follow(rollout, last)
        failures += rollout.failures
    texts = [failure.text for failure in failures]
    assert sum("raised RuntimeError: the rope broke" in text for text in texts) >= 3
    assert sum("raised OSError: no map" in text for text in texts) >= 2
    assert any("runner 2, environment 1), step 3 of its episode" in text for text in texts)
    assert all(
        'raise RuntimeError("the rope' in f.traceback or "no map" in f.text for f in failures
    )
    assert Failing.made == WIDTH + len(failures)
    if length == 5:
        assert {failure.ended for failure in failures} == {True, False}


@pytest.mark.parametrize("length", [1, 3, 8])
def test_a_runner_is_restored_behind_failures_to_the_bit(length: int) -> None:
    runner, state = runner_of(Failing), RunnerState()
    for _ in range(40 // length):
        rollout = runner.sample(length)
        state = state.after(rollout)
        other = runner_of(Failing)
        assert other.set_state(state) == 0
    assert state.failures >= 5
    following = runner.sample(length)
    other = runner_of(Failing)
    assert other.set_state(state) == 0
    restored = other.sample(length)
    for name in ("observations", "actions", "rewards", "truncated"):
        assert np.array_equal(getattr(restored, name), getattr(following, name)), name
    assert [f[:3] for f in restored.failures] == [f[:3] for f in following.failures]


def test_others_are_not_disturbed() -> None:
    disturbed, alone = runner_of(Sometimes), runner_of(Counting, forgiving=False)
    failures = 0
    for _ in range(12):
        one, two = disturbed.sample(7), alone.sample(7)
        failures += len(one.failures)
        for name in ("observations", "actions", "rewards", "terminated", "truncated"):
            others = [getattr(rollout, name)[:, [0, 2]] for rollout in (one, two)]
            assert np.array_equal(*others), name
        assert np.array_equal(one.extras["log_prob"], two.extras["log_prob"])
    assert failures >= 3


@pytest.mark.parametrize(
    ("make", "forgiving", "words"),
    [
        (Failing, False, "no map|the rope broke"),
        (Never, True, "no legs"),
        (NoReset, True, "no floor"),
        (Once, True, "its constructor raised RuntimeError: out of licences|out of licences"),
    ],
)
def test_where_another_would_be_no_better_it_is_an_error(
    make: Any, forgiving: bool, words: str
) -> None:
    with pytest.raises((EnvironmentFault, RuntimeError), match=words) as caught:
        _sample_many(runner_of(make, forgiving))
    if isinstance(caught.value, EnvironmentFault):
        assert "raise " in caught.value.user_traceback


def _sample_many(runner: EnvRunner | EnvRunnerGroup) -> None:
    for _ in range(20):
        runner.sample(5)


def test_what_breaks_the_contract_is_never_forgiven() -> None:
    class Wrong(Counting):
        def step(self, action: Any) -> Any:
            return np.zeros(7), *super().step(action)[1:]

    with pytest.raises(EnvironmentFault, match=r"shape \(7,\)"):
        runner_of(Wrong).sample(2)


def test_the_replay_never_joins_two_episodes() -> None:
    runner = runner_of(Failing)
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    replay = ReplayBuffer(Spaces(box, spaces.Discrete(NUM_ACTIONS, start=5)), WIDTH, 600, 0)
    cut_between = 0
    for _ in range(60):
        rollout = runner.sample(3)
        cut_between += any(f.step == 0 and not f.ended for f in rollout.failures)
        replay.add(rollout)
    assert cut_between >= 3
    for n in (1, 3):
        found = replay.gather(replay.draw(2000), n, 0.5)
        before, after = found.observations, found.next_observations
        assert isinstance(before, np.ndarray)
        assert isinstance(after, np.ndarray)
        assert (before[:, 0] == after[:, 0]).all(), "the tag of its episode"
        assert (after[:, 1] > before[:, 1]).all()


def group_of(allowed: int) -> EnvRunnerGroup:
    config = PPOConfig(
        env=Failing,
        env_runners={"num": 2, "envs_per_runner": 2, "max_env_failures": allowed},  # type: ignore[arg-type]
    )
    return EnvRunnerGroup(Runtime(engine="inline"), config, Scripted)


def test_failures_are_told_counted_and_limited(caplog: pytest.LogCaptureFixture) -> None:
    group = group_of(1000)
    with caplog.at_level(logging.WARNING, "rl"):
        for _ in range(10):
            group.sample(5)
    count = int(group.health()["sampler/env_failures"])
    assert count == sum(state.failures for state in group.states) >= 6
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == count
    assert f"failure {count} of the 1000 that env_runners.max_env_failures allows" in told[-1]
    places = [text for text in told if "Traceback" in text]
    assert len(places) == 2, "a place is shown once"
    assert sum("in step\n    raise RuntimeError" in text for text in places) == 1

    strict = group_of(count)
    strict.set_states(group.states)
    with pytest.raises(EnvironmentFault, match=f"more often than the {count} times") as caught:
        _sample_many(strict)
    assert "raise " in caught.value.user_traceback


def test_none_allowed_is_an_error_at_once() -> None:
    with pytest.raises(EnvironmentFault, match=r"environment \d\).* raised (OSError|RuntimeError)"):
        _sample_many(group_of(0))
