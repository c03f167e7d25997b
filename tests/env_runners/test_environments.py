import functools
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    FlattenObservation,
    FrameStackObservation,
    TimeLimit,
    TransformReward,
)

from rl.configs.ppo import PPOConfig
from rl.core.data.spaces import FrameStack
from rl.env_runners.environments import (
    EnvironmentFactory,
    describe_env,
    frame_stack_of,
    known_ids,
    register_env,
    required_extra,
)
from rl.errors import EnvironmentFault, UsageError
from tests.env_runners.helpers import Counting

MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Maze(CartPoleEnv):
    def __init__(self, size=3):
        super().__init__()
        self.size = size

gymnasium.register("{name}-v0", entry_point=Maze, max_episode_steps=7)
"""


class Sized(Counting):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size = size


def size_of(env: gymnasium.Env[Any, Any]) -> int:
    return int(env.unwrapped.size)  # type: ignore[attr-defined]


def test_an_environment_is_made_by_its_id_with_its_arguments() -> None:
    config = PPOConfig(env="CartPole-v1", env_kwargs={"sutton_barto_reward": True})
    env = EnvironmentFactory.of(config)()
    assert env.spec is not None
    assert env.spec.id == "CartPole-v1"
    assert env.spec.kwargs["sutton_barto_reward"] is True
    assert env.spec.max_episode_steps == 500


def test_an_environment_is_made_from_a_module_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mazes_of_a_test.py").write_text(MODULE.format(name="TestMaze"))
    monkeypatch.syspath_prepend(tmp_path)
    factory = EnvironmentFactory("mazes_of_a_test:TestMaze-v0", {"size": 5})
    env = pickle.loads(pickle.dumps(factory))()
    assert size_of(env) == 5
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    with pytest.raises(UsageError, match="did you mean mazes_of_a_test:TestMaze-v0"):
        EnvironmentFactory("mazes_of_a_test:TestMase-v0")()


def test_a_registered_name_means_its_callable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.env_runners.environments._registered", {})
    register_env("my-maze", Sized)
    assert "my-maze" in known_ids()
    config = PPOConfig(env="my-maze", env_kwargs={"size": 9})
    factory = EnvironmentFactory.of(config)
    assert size_of(factory()) == 9
    assert size_of(pickle.loads(pickle.dumps(factory))()) == 9  # the registry need not travel
    with pytest.raises(UsageError, match="expected a callable, got 3"):
        register_env("my-maze", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Sized, "Sized"),
        (lambda size: Sized(size + 0), "<lambda>"),
        (functools.partial(Sized), "env"),
    ],
)
def test_any_callable_makes_environments(make: Any, name: str) -> None:
    factory = EnvironmentFactory(make, {"size": 4})
    one, two = factory(), factory()
    assert size_of(one) == size_of(two) == 4
    assert one is not two
    assert name in factory.name


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("CartPol-v1", "env CartPol-v1: no such environment; did you mean CartPole-v1"),
        ("CartPole-v99", "no such environment"),
        ("Zzyzx-v0", "no such environment; `rl envs` lists"),
        ("no_such_module_here:Maze-v0", "the module 'no_such_module_here' cannot be imported"),
        ("GymV21Environment-v9", "no such environment"),
    ],
)
def test_an_unknown_environment_is_told_with_what_is_near(env: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EnvironmentFactory(env)()


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [
        ("LunarLander-v3", "Box2D", "box2d"),
        ("HalfCheetah-v5", "mujoco", "mujoco"),
        ("ALE/Pong-v5", "ale_py", "atari"),
    ],
)
def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    env: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it now fails
    for name in list(sys.modules):
        if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco")):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=rf"needs the extra '{extra}'.*rl-platform\[{extra}\]"):
        EnvironmentFactory(env)()
    assert required_extra(env) == extra
    assert required_extra("CartPole-v1") is None


def test_a_constructor_that_raises_is_the_environments_fault() -> None:
    def broken() -> gymnasium.Env[Any, Any]:
        raise ZeroDivisionError("in its constructor")

    with pytest.raises(EnvironmentFault, match=r"broken: its constructor raised ZeroDiv") as fault:
        EnvironmentFactory(broken)()
    assert isinstance(fault.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("env", [Sized, "CartPole-v1"])
def test_arguments_an_environment_does_not_take_are_the_users_mistake(env: Any) -> None:
    words = r"env_kwargs {'sise': 3} do not suit it: .*unexpected keyword argument 'sise'"
    with pytest.raises(UsageError, match=words):
        EnvironmentFactory(env, {"sise": 3})()


def test_a_module_missing_in_a_callable_is_the_callables_fault() -> None:
    def lacking() -> gymnasium.Env[Any, Any]:
        raise ModuleNotFoundError("No module named 'their_engine'")

    with pytest.raises(EnvironmentFault, match="their_engine"):
        EnvironmentFactory(lacking)()


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gave a int, not a gymnasium\.Env"):
        EnvironmentFactory(lambda: 3)()  # type: ignore[arg-type, return-value]


def test_a_callable_that_hands_out_one_environment_twice_is_refused() -> None:
    env = Counting()
    factory = EnvironmentFactory(lambda: gymnasium.wrappers.TimeLimit(env, 5))
    assert factory().unwrapped is env
    with pytest.raises(UsageError, match="the same environment twice"):
        factory()
    with pytest.raises(UsageError, match="the same environment twice"):
        EnvironmentFactory(lambda: env)()
    for _ in range(50):  # new ones, some in the memory of those before
        EnvironmentFactory(Counting)()


def test_a_run_is_described_by_the_spaces_of_its_environment() -> None:
    closed = []

    class Closing(Counting):
        def close(self) -> None:
            closed.append(self)

    found = describe_env(PPOConfig(env=Closing))
    assert found.action == Counting().action_space
    assert found.observation == Counting().observation_space
    assert len(closed) == 1


def test_spaces_nobody_can_learn_from_are_refused() -> None:
    class Talking(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Text(4)

    class Integers(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(0, 4, (2,), np.int64)  # type: ignore[assignment]

    with pytest.raises(UsageError, match="observation space is Text"):
        describe_env(PPOConfig(env=Talking))
    with pytest.raises(UsageError, match="action space is Box"):
        describe_env(PPOConfig(env=Integers))


def test_an_algorithm_is_told_of_actions_it_cannot_take() -> None:
    class BoxOnlyConfig(PPOConfig):
        supported_actions = frozenset({"box"})

    words = "its actions are discrete (Discrete(3, start=5)), and boxonly can act in box only"
    with pytest.raises(UsageError, match=re.escape(words)):
        describe_env(BoxOnlyConfig(env=Counting))


def test_stacked_frames_are_seen_behind_wrappers_that_leave_them_alone() -> None:
    stacked = FrameStackObservation(Counting(), 4)
    assert frame_stack_of(stacked) == FrameStack(4, "first")
    assert frame_stack_of(TimeLimit(TransformReward(stacked, float), 9)) == FrameStack(4, "first")
    assert describe_env(PPOConfig(env=lambda: stacked)).stack == FrameStack(4, "first")
    zeros = FrameStackObservation(Counting(), 3, padding_type="zero")
    assert frame_stack_of(zeros) == FrameStack(3, "zero")


def test_what_may_be_no_stack_any_more_is_kept_whole() -> None:
    assert frame_stack_of(Counting()) is None
    assert frame_stack_of(FlattenObservation(FrameStackObservation(Counting(), 4))) is None
    assert frame_stack_of(FrameStackObservation(Counting(), 1)) is None
    own = FrameStackObservation(Counting(), 4, padding_type=np.ones(3))
    assert frame_stack_of(own) is None


def test_atari_frames_are_kept_one_by_one() -> None:
    pytest.importorskip("ale_py")
    spaces_of = describe_env(PPOConfig(env="ALE/Pong-v5"))
    assert spaces_of.stack == FrameStack(4, "zero")
    assert spaces_of.observation.shape == (4, 84, 84)


def test_convolutions_are_chosen_where_there_are_images() -> None:
    with pytest.raises(UsageError, match="image_encoder 'impala' has no effect: env CartPole-v1"):
        describe_env(PPOConfig(image_encoder="impala"))

    class Camera(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    describe_env(PPOConfig(env=Camera, image_encoder="impala"))
