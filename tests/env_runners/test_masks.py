"""Masks from the environment to the actor: found, put into observations, checked."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rl.configs.dqn import DQNConfig
from rl.configs.ppo import PPOConfig
from rl.core.runtime import Runtime
from rl.env_runners.environments import EnvironmentFactory, describe_env
from rl.env_runners.evaluation import evaluate_policy
from rl.env_runners.group import EnvRunnerGroup
from rl.env_runners.masks import InfoMask
from rl.errors import EnvironmentFault, UsageError
from rl.testing import check_env
from rl.testing.probe_envs import MaskedChoice, MaskedSuccessor

INFO = partial(MaskedChoice, "info")


class FirstAllowed:
    """An actor, and a policy, that takes the first action it may."""

    def set_weights(self, weights: Any) -> None: ...

    def act(self, observations: Any, noise: Any) -> Any:
        return self.act_batch(observations), {}

    def act_batch(self, observations: Any, deterministic: bool = True) -> Any:
        masked = isinstance(observations, dict)
        return observations["action_mask"].argmax(1) if masked else np.zeros(3, np.int64)

    def decode(self, actions: Any) -> Any:
        return list(actions)

    def reset(self, where: Any = None) -> None: ...

    def stack(self, observations: list[Any]) -> Any:
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}


class Stuck(MaskedChoice):
    """Forgets in its third step to allow anything."""

    def _next(self, over: bool) -> Any:
        return super()._next(over or self.steps == 3)


class Forgetful(MaskedChoice):
    """Tells a mask in `info` at some times only; takes any action."""

    def __init__(self, told: tuple[str, ...]) -> None:
        super().__init__("info")
        self.told = told

    def check(self, action: Any) -> None: ...

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return observation, info if "reset" in self.told else {}

    def step(self, action: Any) -> Any:
        *answer, terminated, truncated, info = super().step(action)
        when = "end" if terminated or truncated else "step"
        return (*answer, terminated, truncated, info if when in self.told else {})


def sampled(env: Any, steps: int = 32, num: int = 3) -> Any:
    config = DQNConfig(env=env, env_runners={"num": 1, "envs_per_runner": num}, seed=5)
    group = EnvRunnerGroup(Runtime("inline"), config, FirstAllowed, describe_env(config))
    try:
        return group.sample(steps)[0]
    finally:
        group.close()


def test_a_mask_in_info_becomes_a_part_of_the_observation() -> None:
    inside, told = sampled(MaskedChoice), sampled(INFO)
    assert told.observations.keys() == {"observation", "action_mask"}
    assert told.observations["action_mask"].dtype == np.bool_
    masks = inside.observations["action_mask"]
    assert np.array_equal(told.observations["action_mask"], masks)
    assert np.array_equal(told.final_observations["action_mask"], np.zeros((9, 4)))
    assert np.array_equal(told.actions, inside.actions)
    assert masks.any(-1).all()
    taken = np.take_along_axis(masks[:-1], told.actions[..., None], -1)
    assert taken.all()


def test_what_is_found_is_told_and_found_again_by_evaluation() -> None:
    spaces_ = describe_env(PPOConfig(env=INFO))
    assert spaces_.mask_in_info
    assert spaces_.observation["action_mask"] == spaces.MultiBinary(4)
    made = EnvironmentFactory.of(PPOConfig(env=INFO), spaces_)()
    assert made.observation_space == spaces_.observation
    assert isinstance(made, InfoMask)
    for name in ("CartPole-v1", "Pendulum-v1", MaskedChoice):
        assert not describe_env(PPOConfig(env=name)).mask_in_info
    lengths = evaluate_policy(
        FirstAllowed(), EnvironmentFactory.of(PPOConfig(env=INFO), spaces_), 20, 0
    ).lengths
    assert lengths == (10,) * 20, "environments that have finished keep a mask that forbids all"


def test_a_mask_that_allows_nothing_names_environment_and_step() -> None:
    where = r"env Stuck \(runner 0, environment 0\), step 4 of its episode"
    with pytest.raises(EnvironmentFault, match=f"{where}: the action mask allows no action"):
        sampled(Stuck)
    with pytest.raises(EnvironmentFault, match=r"evaluation episode 0, step 4: the action mask"):
        evaluate_policy(FirstAllowed(), Stuck, 2, 0)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("reset",), "step returned an info without 'action_mask', which the first reset's had"),
        (("step", "end"), "step returned an info with 'action_mask', which the first reset"),
        (("end",), "step returned an info with 'action_mask'"),
    ],
)
def test_a_mask_is_told_always_or_never(told: tuple[str, ...], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        sampled(partial(Forgetful, told))


def test_a_mask_may_be_left_out_where_the_episode_ends() -> None:
    rollout = sampled(partial(Forgetful, ("reset", "step")))
    assert rollout.num_steps == 96
    assert not rollout.final_observations["action_mask"].any()


class Short(MaskedChoice):
    """Its mask has an entry too few."""

    def __init__(self, where: Any = "observation") -> None:
        super().__init__(where)
        self.action_space = spaces.Discrete(5)


def test_a_mask_of_the_wrong_length_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"shape \(4,\), but the actions Discrete\(5\) need"):
        describe_env(DQNConfig(env=Short))
    words = r"info\['action_mask'\] has the shape \(4,\), but the actions Discrete\(5\) need"
    with pytest.raises(UsageError, match=words):
        describe_env(DQNConfig(env=partial(Short, "info")))


@pytest.mark.parametrize("env", [MaskedChoice, INFO, MaskedSuccessor])
def test_checking_an_environment_keeps_to_its_masks(env: Any) -> None:
    check_env(env)


def test_checking_finds_a_mask_that_allows_nothing() -> None:
    with pytest.raises(EnvironmentFault, match="the action mask allows no action"):
        check_env(Stuck)
    with pytest.raises(EnvironmentFault, match=r"need \(5,\)"):
        check_env(Short)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_masks_of_vector_environments_are_kept_to_in_every_mode(mode: AutoresetMode) -> None:
    def vector(make: Any) -> Any:
        return lambda num_envs: SyncVectorEnv([make] * num_envs, autoreset_mode=mode)

    inside, told = sampled(vector(MaskedChoice), 64), sampled(vector(INFO), 64)
    assert np.array_equal(inside.actions, told.actions)
    assert len(inside.final_steps) > 3
    steps = np.ones_like(inside.terminated) if inside.valid is None else inside.valid
    for one, other in (("state", "observation"), ("action_mask", "action_mask")):
        first, second = inside.observations[one], told.observations[other]
        assert np.array_equal(first[:-1][steps], second[:-1][steps])
    chosen = np.take_along_axis(told.observations["action_mask"][:-1], told.actions[..., None], -1)
    assert chosen[steps].all()
    with pytest.raises(EnvironmentFault, match="action mask allows no action"):
        sampled(vector(Stuck))
    with pytest.raises(EnvironmentFault, match="step returned infos without 'action_mask' for env"):
        sampled(vector(partial(Forgetful, ("reset", "end"))))
