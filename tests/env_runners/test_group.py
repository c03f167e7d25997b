import os
import signal
from typing import Any, cast

import numpy as np
import pytest

from rl.configs.ppo import PPOConfig
from rl.core.data.tree import Array
from rl.core.data.weights import Weights
from rl.core.runtime import Runtime
from rl.env_runners.env_runner import EnvRunner
from rl.env_runners.group import EnvRunnerGroup
from rl.errors import EnvironmentFault
from tests.env_runners.helpers import Counting, Scripted


def group_of(config: PPOConfig) -> EnvRunnerGroup:
    return EnvRunnerGroup(Runtime("inline"), config, Scripted)


def config_of(env: Any, num: int = 3) -> PPOConfig:
    return PPOConfig(env=env, seed=4).with_env_runners(num=num, envs_per_runner=2)


def test_runners_answer_in_their_order_and_as_they_would_alone() -> None:
    group = group_of(config_of(Counting))
    group.set_weights(Weights(9, np.zeros(0, np.float32), {}))
    rollouts = group.sample(6)
    assert [rollout.runner for rollout in rollouts] == [0, 1, 2]
    assert [rollout.weights_version for rollout in rollouts] == [9, 9, 9]
    for index, rollout in enumerate(rollouts):
        alone = EnvRunner(Counting, "Counting", 2, Scripted, 4, index).sample(6)
        assert np.array_equal(
            cast("Array", rollout.observations), cast("Array", alone.observations)
        )
    assert not np.array_equal(rollouts[0].rewards, rollouts[1].rewards)
    group.close()


def test_a_group_goes_on_where_another_stood() -> None:
    group, other = group_of(config_of(Counting)), group_of(config_of(Counting))
    group.sample(6)
    assert other.set_states(group.states) == 0
    for one, two in zip(group.sample(6), other.sample(6), strict=True):
        assert np.array_equal(one.rewards, two.rewards)
    assert other.health() == {
        "sampler/alive": 3.0,
        "sampler/restarts": 0.0,
        "sampler/restored_steps": 0.0,
        "sampler/discarded_steps": 0.0,
        "sampler/env_failures": 0.0,
    }


def test_lost_steps_are_counted() -> None:
    class Emulated(Counting):
        ale = "seeded once, so not replayed"

    group, other = group_of(config_of(Emulated)), group_of(config_of(Emulated))
    group.sample(9)
    lost = other.set_states(group.states)
    assert lost > 0
    assert other.health()["sampler/discarded_steps"] == lost


def test_an_environments_fault_arrives_with_its_cause() -> None:
    class Breaking(Counting):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError("theirs")

    with pytest.raises(EnvironmentFault, match=r"runner 0, environment 0.*theirs") as fault:
        group_of(config_of(Breaking)).sample(3)
    assert isinstance(fault.value.__cause__, ZeroDivisionError)


def test_a_fragment_begun_ahead_keeps_its_weights_also_when_its_runner_dies() -> None:
    def weights(version: int) -> Weights:
        return Weights(version, np.zeros(0, np.float32), {})

    alone = EnvRunner(Counting, "Counting", 2, Scripted, 4, 1)
    expected = [alone.sample(4) for _ in range(3)][1]
    config = config_of(Counting, 2).with_runtime(max_restarts=1)
    with Runtime("process") as runtime:
        group = EnvRunnerGroup(runtime, config, Scripted)
        group.set_weights(weights(1))
        group.sample(4)
        group.begin(4)
        group.set_weights(weights(2))
        pid = group._runners[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        ahead = group.sample(4)
        assert [rollout.weights_version for rollout in ahead] == [1, 1]
        assert np.array_equal(ahead[1].rewards, expected.rewards)
        assert [rollout.weights_version for rollout in group.sample(4)] == [2, 2]
        group.close()
