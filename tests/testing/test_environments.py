"""`check_env` finds what is wrong with an environment, each defect planted by itself."""

from __future__ import annotations

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
        return np.zeros(3, np.float32)


class WrongDtype(Corridor):
    def observe(self) -> Any:
        return ["left", "right"]


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
]


@pytest.mark.parametrize(("defect", "said"), DEFECTS, ids=[kind.__name__ for kind, _ in DEFECTS])
def test_a_defect_is_a_problem_told_once(defect: type[Corridor], said: str) -> None:
    report = report_of(defect)
    assert len(report.problems) == 1
    with pytest.raises(EnvironmentFault, match=said):
        check_env(defect, steps=200)


@pytest.mark.parametrize("defect", [RaisingStep, RaisingReset, RaisingConstructor])
def test_what_the_environment_raised_is_shown_whole(defect: type[Corridor]) -> None:
    assert "test_environments.py" in report_of(defect).traceback
    assert report_of(Corridor).traceback == ""


def test_several_problems_come_in_one_report() -> None:
    class Both(NotANumber, NumberForFlag):
        pass

    report = report_of(Both)
    assert len(report.problems) == 2
    assert "2 problems" in str(report)


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


class Meddling(Unbounded):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        action[:] = 0
        return result


NOTES: list[tuple[type[Corridor], str]] = [
    (SharedBuffer, "return a copy"),
    (
        OutOfBounds,
        r"returned 9\.0 in the observation, index \[1\], outside its bounds 0\.0 to 8\.0",
    ),
    (Endless, "max_episode_steps"),
    (AlwaysTheSame, "two seeds"),
    (Unbounded, "has no bounds"),
    (Meddling, "changed the action"),
]


@pytest.mark.parametrize(("oddity", "said"), NOTES, ids=[kind.__name__ for kind, _ in NOTES])
def test_an_oddity_is_a_note(oddity: type[Corridor], said: str) -> None:
    report = report_of(oddity, 500)
    assert report.sound
    with pytest.raises(AssertionError, match=said):
        raise AssertionError("\n".join(report.notes))


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "needs an environment"),
        ("CartPol-v1", "did you mean CartPole-v1"),
        ("CartPole-v1 --steps 0", "--steps: must be"),
        ("CartPole-v1 --env-kwargs x", "not KEY=VALUE"),
    ],
)
def test_a_mistake_in_asking_the_doctor(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(line) == 2
    assert said in capsys.readouterr().err
