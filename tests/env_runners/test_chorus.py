"""Runners of one process that act together sample what each would by itself, to the bit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from rl.algorithms.ppo import PPO
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.dqn import DQNConfig
from rl.configs.ppo import PPOConfig
from rl.configs.sac import SACConfig
from rl.configs.td3 import TD3Config
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array, Tree, first_leaf
from rl.core.data.weights import Weights
from rl.core.kernels.library import kernels
from rl.core.models.actor import actor_factory
from rl.core.runtime.resources import available_cpus
from rl.env_runners import elastic
from rl.env_runners.chorus import sample_all
from rl.env_runners.env_runner import EnvRunner, OutOfStep
from rl.env_runners.environments import EnvironmentFactory
from rl.errors import EnvironmentFault
from rl.testing.algorithms import weights_of
from rl.testing.probe_envs import MaskedChoice
from tests.env_runners.helpers import Counting, Scripted, assert_same
from tests.env_runners.test_failures import Failing

RUNNERS, LENGTH = 5, 9
joins = pytest.mark.skipif(kernels() is None, reason="nobody joins without kernels")


class Watched:
    """An actor that notes how many rows it was given."""

    def __init__(self, actor: Any, noted: list[int]) -> None:
        self._actor, self._noted = actor, noted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._actor, name)

    def act(self, observations: Tree, noise: Array | None) -> Any:
        self._noted.append(len(first_leaf(observations)))
        return self._actor.act(observations, noise)

    def act_with_memory(self, observations: Tree, noise: Array | None, memory: Array) -> Any:
        self._noted.append(len(first_leaf(observations)))
        return self._actor.act_with_memory(observations, noise, memory)


def _runners(
    make_environment: Any, width: int, make_actor: Callable[[], Any], noted: list[int]
) -> list[EnvRunner]:
    return [
        EnvRunner(
            make_environment, "x", width, lambda: Watched(make_actor(), noted), 4, index, True
        )
        for index in range(RUNNERS)
    ]


QUICK: dict[str, Any] = {"seed": 3, "env_runners": {"num": 1, "envs_per_runner": 3}}
REPLAYED = QUICK | {"buffer_size": 1000}
JOINING: dict[str, AlgorithmConfig] = {
    "ppo": PPOConfig(env="CartPole-v1", normalize_observations=True, **QUICK),
    "ppo, silu, one torso": PPOConfig(
        env="CartPole-v1", activation="silu", shared_torso=True, **QUICK
    ),
    "ppo, normals": PPOConfig(env="Pendulum-v1", **QUICK),
    "ppo, masks": PPOConfig(env=MaskedChoice, **QUICK),
    "ppo, categories": PPOConfig(env="FrozenLake-v1", **QUICK),
    "dqn": DQNConfig(env="CartPole-v1", double=True, dueling=True, **REPLAYED),
    "dqn, masks": DQNConfig(env=partial(MaskedChoice, "info"), **REPLAYED),
    "sac": SACConfig(env="Pendulum-v1", **REPLAYED),
    "sac, categories": SACConfig(env="CartPole-v1", **REPLAYED),
    "td3": TD3Config(env="Pendulum-v1", **REPLAYED),
}
ALONE: dict[str, AlgorithmConfig] = {
    "noise on parameters": DQNConfig(env="CartPole-v1", noisy=True, **REPLAYED),
    "distributions": DQNConfig(
        env="CartPole-v1", distributional=True, v_min=0, v_max=9, **REPLAYED
    ),
    "memory": PPOConfig(env="CartPole-v1", memory="gru", **QUICK),
    "no kernel": PPOConfig(env="CartPole-v1", activation="gelu", **QUICK),
}


def _sampled(
    config: AlgorithmConfig, width: int = 3, vector: bool = False
) -> tuple[list[int], list[int]]:
    """Holds both ways beside each other; returns how many rows each act of either had."""
    with config.build() as algorithm:
        weights = [algorithm.learners.get_weights() for _ in range(3)]
        make_actor = actor_factory(algorithm.learners.network)
        factory = EnvironmentFactory.of(config, algorithm.spaces)
    for after in weights:  # out of its warm-up, which acts without a network
        if "warming_up" in after.buffers and after.version > weights[0].version:
            after.buffers["warming_up"] = np.zeros_like(after.buffers["warming_up"])
    assert factory.native == vector
    noted: tuple[list[int], list[int]] = [], []
    together, apart = (_runners(factory, width, make_actor, notes) for notes in noted)
    for number, given in enumerate(weights):
        rollouts = sample_all(together, LENGTH, given, [number] * RUNNERS)
        for runner, rollout in zip(apart, rollouts, strict=True):
            assert_same(rollout, runner.sample(LENGTH, given, number))
    return noted


@joins
@pytest.mark.parametrize("name", JOINING)
def test_together_they_sample_what_each_would_alone(name: str) -> None:
    rows, alone = _sampled(JOINING[name])
    assert set(rows) == {3 * RUNNERS}, "one act for all"
    assert set(alone) == {3}
    assert len(rows) * RUNNERS == len(alone)


@joins
def test_vector_environments_join_too() -> None:
    config = PPOConfig(env="CartPole-v1", env_kwargs={}, **QUICK)
    config = config.with_env_runners(vectorization="native")
    assert set(_sampled(config, vector=True)[0]) == {3 * RUNNERS}


@pytest.mark.parametrize("name", ALONE)
def test_who_might_compute_other_bits_in_company_acts_alone(name: str) -> None:
    assert set(_sampled(ALONE[name])[0]) == {3}


def test_a_row_that_is_alone_acts_alone() -> None:
    """It is computed in another way than one of several."""
    assert set(_sampled(JOINING["ppo"], width=1)[0]) == {1}


class Joining(Scripted):
    """Says that no row depends on the others, which is so."""

    row_by_row = True


def test_an_environment_that_raises_disturbs_nobody() -> None:
    noted: list[int] = []
    together, apart = (_runners(Failing, 3, Joining, noted) for _ in range(2))
    failures = 0
    for number in range(4):
        rollouts = sample_all(together, LENGTH, None, [number] * RUNNERS)
        failures += sum(len(rollout.failures) for rollout in rollouts)
        for runner, rollout in zip(apart, rollouts, strict=True):
            assert_same(rollout, runner.sample(LENGTH))
    assert failures > 5
    assert 3 * RUNNERS in noted


def test_nothing_is_sampled_where_one_is_elsewhere() -> None:
    runners = _runners(Counting, 2, Joining, [])
    runners[3].sample(LENGTH)
    with pytest.raises(OutOfStep, match="runner 3 is at fragment 1 and was asked for 0"):
        sample_all(runners, LENGTH, None, [0] * RUNNERS)
    assert len(sample_all(runners, LENGTH, None, [0, 0, 0, 1, 0])) == RUNNERS


class Choking(Joining):
    """Cannot act on what is no number."""

    def act(self, observations: Tree, noise: Array | None) -> Any:
        if not np.isfinite(first_leaf(observations)).all():
            raise ZeroDivisionError("not theirs")
        return super().act(observations, noise)


class Broken(Counting):
    """Observes NaN after a while."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        if self._steps == 3:
            observation[0] = np.nan
        return observation, *rest


def test_a_policy_that_chokes_on_a_nan_is_not_to_blame() -> None:
    with pytest.raises(EnvironmentFault, match=r"runner \d, environment \d.* returned the obs"):
        sample_all(_runners(Broken, 2, Choking, []), 20, None, [0] * RUNNERS)


def test_weights_of_the_request_act_for_all() -> None:
    runners = _runners(Counting, 2, Joining, [])
    given = Weights(7, np.zeros(0, np.float32), {})
    rollouts = sample_all(runners, LENGTH, given, [0] * RUNNERS)
    assert [rollout.weights_version for rollout in rollouts] == [7] * RUNNERS


@pytest.mark.parametrize(("room", "calls"), [(0, 4), (2 * 17 * 2 * 16, 2), (1 << 20, 1)])
def test_an_answer_holds_only_so_much(
    room: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many calls a process is asked for its runners' fragments, they are the same."""
    config = PPOConfig(
        env="CartPole-v1",
        seed=3,
        rollout_length=16,
        minibatch_size=64,
        env_runners={"num": 4, "envs_per_runner": 2},
    )

    def learnt(config: PPOConfig) -> Any:
        with PPO(config) as ppo:
            for _ in range(2):
                ppo.train()
            return weights_of(ppo)

    asked: list[int] = []
    gather = elastic.ElasticEnvRunnerGroup._gather

    def counted(group: Any, request: Any) -> list[Rollout]:
        asked.append(len(request.calls))
        return gather(group, request)

    monkeypatch.setattr(elastic, "LARGEST_ANSWER", room)
    monkeypatch.setattr(elastic.ElasticEnvRunnerGroup, "_gather", counted)
    hosted = config.with_env_runners(min=1, max=1).with_runtime(
        engine="process", runner_resources={"cpu": available_cpus()}
    )
    assert learnt(hosted) == learnt(config.with_runtime(engine="inline"))
    assert asked == [calls, calls]
