"""`check_env` finds what is wrong with an environment, each defect planted by itself."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.cli.main import rl_main
from rl.errors import EnvironmentFault, UsageError
from rl.testing.environments import EnvironmentReport, check_env, inspect_env


class Corridor(gymnasium.Env[Any, Any]):
    """Sound: walk to the right end of eight cells, with a slippery floor."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 8.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.place = 0.0

    def observe(self) -> Any:
        return np.array([self.place, 1.0], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = float(self.np_random.random())
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        slip = 0.1 * self.np_random.random()
        self.place = float(np.clip(self.place + (0.9 if action else -0.3) - slip, 0, 8))
        return self.observe(), -1.0, self.place > 7, False, {}


def report_of(defect: type[Corridor], steps: int = 200) -> EnvironmentReport:
    return inspect_env(defect, steps=steps)


def test_a_sound_environment_is_called_sound() -> None:
    report = report_of(Corridor, 2000)
    assert report.sound
    assert report.notes == []
    assert report.facts["restorable"].startswith("yes")
    assert "steps/s" in report.facts["speed"]
    assert "ended" in report.facts["episodes"]
    check_env(Corridor)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Blackjack-v1", "FrozenLake-v1"])
def test_gymnasiums_own_environments_are_sound(env_id: str) -> None:
    assert inspect_env(lambda: gymnasium.make(env_id), steps=300).problems == []


class WrongShape(Corridor):
    def observe(self) -> Any:
        return np.full(3, self.place, np.float32)


class WrongDtype(Corridor):
    def observe(self) -> Any:
        return ["left", str(self.place)]


class NotANumber(Corridor):
    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        observation[1] = np.nan
        return (observation, *rest)


class NotANumberReward(Corridor):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return (observation, float("nan"), *rest)


class ListedReward(Corridor):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return (observation, [reward], *rest)


class FourValues(Corridor):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class NumberForFlag(Corridor):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, int(terminated), truncated, info


class BareReset(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class ForeignRandomness(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = float(np.random.default_rng().random())
        return self.observe(), {}


class RaisingStep(Corridor):
    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("my wall")


class RaisingReset(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        raise KeyError("level")


class OnlyOneReset(Corridor):
    resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.resets += 1
        if self.resets > 3:
            raise RuntimeError("already running")
        return super().reset(seed=seed)


class RaisingClose(Corridor):
    def close(self) -> None:
        raise OSError("window is gone")


class NoSpace(Corridor):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = None  # type: ignore[assignment]


class TextSpace(Corridor):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Text(5)


class RaisingConstructor(Corridor):
    def __init__(self) -> None:
        raise FileNotFoundError("level.txt")


class NoReward(Corridor):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return (observation, None, *rest)


class NoInfo(Corridor):
    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], None)


class NoInfoAtReset(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], None


class BytesForFloats(Corridor):
    """Numbers from 0 to 1 in a space of bytes: each would be rounded to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (2,), np.uint8)

    def observe(self) -> Any:
        return np.array([self.place / 8, 1.0], np.float32)


class GlobalRandomness(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = np.random.rand()  # noqa: NPY002
        return self.observe(), {}


class StandardRandomness(Corridor):
    def step(self, action: Any) -> Any:
        self.place += random.random() / 10
        return super().step(action)


class IgnoredSeed(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=None)


class StaleCounter(Corridor):
    """Counts the steps of an episode, and does not count anew in the next."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.steps >= 9, False, info


class BothFlags(Corridor):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, terminated, info


class TimeAsTermination(Corridor):
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.steps += 1
        late = self.steps >= 9
        observation, reward, *_ = super().step(action)
        return observation, reward, late, False, {"TimeLimit.truncated": late}


class SharedBuffer(Corridor):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(2, np.float32)

    def observe(self) -> Any:
        self.buffer[:] = self.place, 1.0
        return self.buffer


class OutOfBounds(Corridor):
    def observe(self) -> Any:
        return np.array([self.place, 9.0], np.float32)


DEFECTS: list[tuple[type[Corridor], str]] = [
    (WrongShape, r"shape \(3,\)"),
    (WrongDtype, "holds no numbers"),
    (NotANumber, r"returned nan in the observation, index \[1\]"),
    (NotANumberReward, "returned the reward nan"),
    (ListedReward, "expected one number"),
    (FourValues, "tuple of 4, expected the tuple"),
    (NumberForFlag, r"terminated=\d; write bool"),
    (BareReset, r"not the tuple \(observation, info\)"),
    (ForeignRandomness, "self.np_random"),
    (RaisingStep, r"step 1, step\(.*\) raised ZeroDivisionError: my wall"),
    (RaisingReset, r"reset\(seed=0\) raised KeyError"),
    (OnlyOneReset, "RuntimeError: already running"),
    (RaisingClose, r"close\(\) raised OSError"),
    (NoSpace, "action_space is None"),
    (TextSpace, "Text"),
    (RaisingConstructor, "constructor raised FileNotFoundError"),
    (NoReward, r"step 1, .* returned the reward None of type NoneType.*; return float"),
    (NoInfo, r"step 1, .* returned info=None of type NoneType, expected a dict; write `{}`"),
    (NoInfoAtReset, r"reset\(seed=0\) returned info=None .*`return observation, {}`"),
    (BytesForFloats, r"of dtype float32, its space says uint8"),
    (GlobalRandomness, r"whole process, np\.random, .* draw .* from self\.np_random"),
    (StandardRandomness, r"whole process, random, .* draw .* from self\.np_random"),
    (IgnoredSeed, r"makes no use of its seed: begin it with super\(\)\.reset\(seed=seed\)"),
    (StaleCounter, r"first episode took 9 steps, each of the next 200 ended in its first"),
    (BothFlags, r"episodes ended with terminated=True and truncated=True at once"),
    (TimeAsTermination, r"step 9, .* only the time was over; return terminated=False"),
    (SharedBuffer, r"changed by the next step: .*; return observation\.copy\(\)"),
    (
        OutOfBounds,
        r"returned 9\.0 in the observation, index \[1\], outside its bounds 0\.0 to 8\.0",
    ),
]


@pytest.mark.parametrize(("defect", "said"), DEFECTS, ids=[kind.__name__ for kind, _ in DEFECTS])
def test_a_defect_is_a_problem_told_once(defect: type[Corridor], said: str) -> None:
    report = report_of(defect)
    assert len(report.problems) == 1
    assert "\n  note: " not in str(report)
    with pytest.raises(EnvironmentFault, match=said):
        check_env(defect, steps=200)


@pytest.mark.parametrize("defect", [RaisingStep, RaisingReset, RaisingConstructor])
def test_what_the_environment_raised_is_shown_whole(defect: type[Corridor]) -> None:
    assert "test_environments.py" in report_of(defect).traceback
    assert report_of(Corridor).traceback == ""


def test_several_problems_come_in_one_report() -> None:
    class All(NotANumber, NumberForFlag, NoReward, NoInfo, NoInfoAtReset, IgnoredSeed):
        pass

    report = report_of(All)
    assert len(report.problems) == 6
    assert "6 problems" in str(report)


class Endless(Corridor):
    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class AlwaysTheSame(Corridor):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0.5
        return self.observe(), {}


class Unbounded(Corridor):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(action[0] > 0)


class Doubles(Corridor):
    def observe(self) -> Any:
        return np.array([self.place, 1.0])


class Limit(Corridor):
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.steps >= 9, False, info


class Swapped(Corridor):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, truncated, terminated, info


class Meddling(Unbounded):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        action[:] = 0
        return result


NOTES: list[tuple[type[Corridor], str]] = [
    (Endless, "max_episode_steps"),
    (AlwaysTheSame, "two seeds"),
    (Unbounded, "has no finite bounds, .* SAC and TD3 refuse it; give it bounds"),
    (Doubles, r"as float64, its space says float32: .*; write \.astype\(np\.float32\)"),
    (Limit, r"terminated after 9 steps, as a time limit ends them"),
    (Swapped, r"were truncated, after \d+ to \d+ steps; an end of the task itself is terminated"),
    (Meddling, "changed the action"),
]


@pytest.mark.parametrize(("oddity", "said"), NOTES, ids=[kind.__name__ for kind, _ in NOTES])
def test_an_oddity_is_a_note(oddity: type[Corridor], said: str) -> None:
    report = report_of(oddity, 500)
    assert report.sound
    with pytest.raises(AssertionError, match=said):
        raise AssertionError("\n".join(report.notes))


class BelowBounds(Corridor):
    def observe(self) -> Any:
        return np.array([self.place, -0.1], np.float32)


class Rounded(Corridor):
    """A sum that is 8 but for its last bit."""

    def observe(self) -> Any:
        return np.array([self.place, np.nextafter(np.float32(8), np.float32(9))], np.float32)


class OldWords(TimeAsTermination):
    """Tells the same twice, as Gym did it and as Gymnasium does."""

    def step(self, action: Any) -> Any:
        observation, reward, late, _, info = super().step(action)
        return observation, reward, False, late, info


def test_what_lies_outside_by_more_than_rounding_is_seen_on_either_side() -> None:
    (problem,) = report_of(BelowBounds).problems
    assert "returned -0.10000000149011612 in the observation, index [1], outside" in problem
    assert report_of(Rounded).problems == []


def test_a_time_limit_that_is_told_as_one_is_sound() -> None:
    assert report_of(OldWords).problems == []


def test_the_shared_generators_are_left_as_they_were() -> None:
    def states() -> str:
        return repr((random.getstate(), list(np.random.get_state()[1])))  # type: ignore[arg-type]  # noqa: NPY002

    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = states()
    report_of(IgnoredSeed)
    assert states() == before


def test_what_cannot_travel_to_a_runner_is_told() -> None:
    lock = threading.Lock()

    def make() -> Corridor:
        with lock:
            return Corridor()

    report = inspect_env(make, steps=50)
    assert len(report.problems) == 1
    assert "cannot pickle '_thread.lock' object" in report.problems[0]
    assert "create what it needs when it is called" in report.problems[0]


def test_the_memory_of_a_replay_buffer_is_told_and_must_be_there() -> None:
    # An observation of 8 bytes; an action, a reward and two marks of 4.
    assert report_of(Corridor).facts["replay"].startswith("1,000,000 transitions take 0.02 GB")
    report = inspect_env(Corridor, steps=200, buffer_size=10**13)
    assert report.facts["replay"].startswith("10,000,000,000,000 transitions take 240000.00 GB")
    assert len(report.problems) == 1
    assert "buffer_size 10000000000000: its transitions need 240000.0 GB" in report.problems[0]


class LongMemory(Corridor):
    """Its floor wears out, episode after episode."""

    worn = 0.0

    def step(self, action: Any) -> Any:
        self.worn += 1e-3
        observation, *rest = super().step(action)
        return (np.clip(observation + np.float32(self.worn), 0, 8), *rest)


def test_an_environment_that_remembers_cannot_be_restored() -> None:
    report = report_of(LongMemory)
    assert report.sound
    assert report.facts["restorable"].startswith("no: after another episode")


def test_an_environment_that_offers_its_state_can_be_restored() -> None:
    class Offering(LongMemory):
        def get_state(self) -> Any: ...
        def set_state(self, state: Any) -> None: ...

    assert "get_state" in report_of(Offering).facts["restorable"]


def test_only_allowed_actions_are_tried() -> None:
    class Masked(Corridor):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=seed)[0], {"action_mask": np.array([0, 1], np.int8)}

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, _ = super().step(1)
            if self.steps_are_watched and action == 0:
                raise ValueError("not allowed")
            return observation, reward, terminated, truncated, {"action_mask": np.array([0, 1])}

        steps_are_watched = True

    assert report_of(Masked).problems == []


def test_an_unknown_environment_is_the_users_mistake() -> None:
    def make() -> Any:
        raise UsageError("no such environment")

    with pytest.raises(UsageError):
        inspect_env(make)


def run_doctor(line: str) -> int:
    return rl_main(["doctor", *line.split()])


def test_the_doctor_says_what_it_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register: Callable[..., None] = gymnasium.register
    register("Sound-v0", Corridor)
    register("Broken-v0", NotANumber)
    try:
        assert run_doctor("Sound-v0 --steps 300 --seed 3") == 0
        assert "Sound-v0: sound" in capsys.readouterr().out
        assert run_doctor("Broken-v0 --steps 300") == 3
        assert "returned nan" in capsys.readouterr().out
    finally:
        del gymnasium.registry["Sound-v0"], gymnasium.registry["Broken-v0"]


@pytest.mark.parametrize(("defect", "said"), DEFECTS, ids=[kind.__name__ for kind, _ in DEFECTS])
def test_the_doctor_names_each_fault_and_no_other(
    defect: type[Corridor], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium.register("Broken-v0", defect)
    try:
        assert run_doctor("Broken-v0 --steps 200") == 3
    finally:
        del gymnasium.registry["Broken-v0"]
    told = capsys.readouterr().out
    assert "Broken-v0: 1 problem\n" in told
    assert told.count("\n  problem: ") == 1
    assert "\n  note: " not in told
    assert re.search(said, told)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "needs an environment"),
        ("CartPol-v1", "did you mean CartPole-v1"),
        ("CartPole-v1 --steps 0", "--steps: must be"),
        ("CartPole-v1 --env-kwargs x", "not KEY=VALUE"),
        ("CartPole-v1 --buffer-size many", "--buffer-size: must be"),
        ("CartPole-v1 --vectorization sometimes", "auto, native or single"),
    ],
)
def test_a_mistake_in_asking_the_doctor(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(line) == 2
    assert said in capsys.readouterr().err
