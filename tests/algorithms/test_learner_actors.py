"""Learners in processes of their own: the same weights as one, whatever dies."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.dqn import DQNConfig
from rl.algorithms.ppo import PPOConfig
from rl.algorithms.sac import SACConfig
from rl.algorithms.td3 import TD3Config
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.learning.devices import devices_of_ranks
from rl.core.learning.learner_actors import LearnerActors
from rl.core.learning.learner_rank import LearnerRank
from rl.core.learning.ranks import GroupBroken
from rl.core.learning.threads import LearningThreads
from rl.errors import ConfigError, RuntimeFault
from rl.testing.algorithms import weights_of

State = dict[str, np.ndarray[Any, Any]]


CONTINUOUS: dict[str, Any] = {
    "env": "Pendulum-v1",
    "seed": 3,
    "hidden_sizes": (32, 32),
    "rollout_length": 4,
    "buffer_size": 300,
    "batch_size": 31,
    "learning_starts": 50,
    "updates_per_step": 0.25,
    "env_runners": {"num": 2, "envs_per_runner": 4},
}


def _learners(learners: int | dict[str, Any]) -> dict[str, Any]:
    return {"num": learners} if isinstance(learners, int) else learners


def ppo_config(learners: int | dict[str, Any], **settings: Any) -> PPOConfig:
    return PPOConfig(
        **{
            "env": "Pendulum-v1",
            "seed": 3,
            "rollout_length": 32,
            "minibatch_size": 60,  # 256 = 4 * 60 + 16
            "num_epochs": 2,
            "normalize_observations": True,
            "normalize_rewards": True,
            "env_runners": {"num": 2, "envs_per_runner": 4},
            "learners": _learners(learners),
            **settings,
        }
    )


def dqn_config(learners: int | dict[str, Any], **settings: Any) -> DQNConfig:
    return DQNConfig(
        **{
            "env": "CartPole-v1",
            "seed": 3,
            "rollout_length": 4,
            "buffer_size": 300,  # the ring goes round
            "batch_size": 31,
            "learning_starts": 50,
            "updates_per_step": 0.5,
            "n_step": 3,
            "prioritized": True,
            "normalize_observations": True,
            "env_runners": {"num": 2, "envs_per_runner": 4},
            "learners": _learners(learners),
            **settings,
        }
    )


def sac_config(learners: int | dict[str, Any], **settings: Any) -> SACConfig:
    return SACConfig(**CONTINUOUS | {"learners": _learners(learners), **settings})


def td3_config(learners: int | dict[str, Any], **settings: Any) -> TD3Config:
    return TD3Config(**CONTINUOUS | {"learners": _learners(learners), **settings})


def learnt(config: AlgorithmConfig, iterations: int) -> State:
    with config.build() as algorithm:
        for _ in range(iterations):
            algorithm.train()
        state: State = algorithm.learners.get_state()
        return state


def group_of(algorithm: Algorithm[Any]) -> LearnerActors:
    assert isinstance(algorithm.learners, LearnerActors)
    return algorithm.learners


def pid_of(algorithm: Algorithm[Any], rank: int) -> int:
    pid = group_of(algorithm)._ranks[rank].pid
    assert pid is not None
    return pid


def kill(algorithm: Algorithm[Any], rank: int, after: float = 0.0) -> threading.Thread:
    pid = pid_of(algorithm, rank)

    def later() -> None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=later)
    thread.start()
    return thread


def assert_close(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(
            other[name].astype(np.float64), values, rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("config_of", [ppo_config, dqn_config])
def test_one_learner_elsewhere_gives_the_bits_of_the_driver_and_two_almost(config_of: Any) -> None:
    here = learnt(config_of(0), 4)
    elsewhere = learnt(config_of(1), 4)
    assert {k: v.tobytes() for k, v in elsewhere.items()} == {
        k: v.tobytes() for k, v in here.items()
    }
    two = learnt(config_of(2), 4)
    assert_close(here, two)
    assert two["counters"].tolist() == here["counters"].tolist()
    assert two["generator"].tobytes() == here["generator"].tobytes()


@pytest.mark.parametrize(
    "config_of", [sac_config, pytest.param(td3_config, marks=pytest.mark.slow)]
)
def test_two_learners_of_an_actor_and_its_critics_are_almost_one(config_of: Any) -> None:
    here, two = learnt(config_of(0), 4), learnt(config_of(2), 4)
    assert here["counters"].tolist() == two["counters"].tolist()
    assert here["counters"].max() > 10, "something was learnt"
    assert_close(here, two)
    assert two["generator"].tobytes() == here["generator"].tobytes()


@pytest.mark.parametrize(
    "config_of",
    [
        ppo_config,
        dqn_config,
        pytest.param(sac_config, marks=pytest.mark.slow),
        pytest.param(td3_config, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("victims", [(1, 0)])
def test_killed_learners_change_nothing(config_of: Any, victims: tuple[int, ...]) -> None:
    iterations = 9
    with config_of(2).build() as calm:
        for _ in range(iterations):
            calm.train()
        expected = weights_of(calm)
    with config_of(2).build() as algorithm:
        for iteration in range(iterations):
            if iteration in (3, 6):
                rank = victims[iteration // 3 - 1]
                kill_in_update(algorithm, rank)
            algorithm.train()
        restarts = group_of(algorithm).health()["learners/restarts"]
        assert restarts == 2
        assert weights_of(algorithm) == expected


def test_a_learner_made_anew_between_two_calls_never_answers_for_the_run() -> None:
    """It is as the run began: its weights must not act, nor become a checkpoint."""
    with ppo_config(2).build() as algorithm:
        for _ in range(2):
            algorithm.train()
        group = group_of(algorithm)
        state, weights = group.get_state(), group.get_weights().result()
        asks: list[Callable[[], Any]] = [
            group.get_state,
            lambda: group.get_weights(again=True).result().parameters,
            lambda: group._ask(LearnerRank.get_network).result().vector,
            lambda: group.set_state(state),
            lambda: group.use_engine(group.engine),
        ]
        for count, ask in enumerate(asks, 1):
            kill(algorithm, 0).join()
            wait_until(lambda count=count: group._ranks[0].restarts == count)
            answer = ask()
            if isinstance(answer, np.ndarray):
                assert np.array_equal(answer, weights.parameters)
            after = group.get_state()
            assert {k: v.tobytes() for k, v in after.items() if k != "counters"} == {
                k: v.tobytes() for k, v in state.items() if k != "counters"
            }
            assert after["counters"][0] == state["counters"][0], "updates"
        algorithm.train()
        assert group.health()["learners/restarts"] == len(asks)


def test_a_learner_made_anew_does_not_meet_the_others(tmp_path: Path) -> None:
    with ppo_config(0).build() as algorithm:
        rank = LearnerRank(algorithm.make_learner, 1, 2, LearningThreads(), 1, lambda: None)
    with pytest.raises(GroupBroken, match="does not stand where the others do"):
        rank.join(tmp_path / "ranks", 1.0, "")
    assert rank.step_back(None) is False
    rank.begin(None)
    assert rank.step_back(None) is True
    with pytest.raises(GroupBroken, match="has not met the others"):
        rank.update(1, 0)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_in_update(algorithm: Algorithm[Any], rank: int) -> None:
    """Has a rank killed once the next update is under way."""
    group = group_of(algorithm)
    together = group._together

    def killing(number: Any, method: Any, *args: Any) -> Any:
        group._together = together  # type: ignore[method-assign]
        kill(algorithm, rank, after=0.003)
        return together(number, method, *args)

    group._together = killing  # type: ignore[method-assign]


def test_a_learner_that_hangs_is_replaced_and_one_that_strays_ends_the_run() -> None:
    here = learnt(ppo_config(0), 3)
    two = {"num": 2, "timeout": 2.0, "check_interval": 1}
    with ppo_config(two).build() as algorithm:
        algorithm.train()
        group, stopped = group_of(algorithm), pid_of(algorithm, 1)
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        algorithm.train()
        assert 2 < time.monotonic() - began < 60, "as long as learners.timeout, about"
        algorithm.train()
        assert group.health()["learners/restarts"] == 1
        assert pid_of(algorithm, 1) != stopped
        state = group.get_state()
        assert_close(here, state)

        name = next(name for name in state if name.endswith("weight"))
        strayed = dict(state) | {name: np.nextafter(state[name], np.float32(9))}
        group._ranks[1].call(LearnerRank.set_state, strayed).result()
        with pytest.raises(
            RuntimeFault, match=r"no longer hold the same weights .* 1 has \w+"
        ) as end:
            algorithm.train()
        assert end.value.exit_code == 4
        assert group.health()["learners/restarts"] == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ppo_config(2, runtime={"engine": "inline"}), "learners.num: 2 learners must run"),
        (ppo_config(3, minibatch_size=2), "minibatch_size: 2 leaves 1 of 3 learners"),
        (dqn_config(40), "batch_size: 31 leaves 9 of 40 learners"),
        (ppo_config({"timeout": 5.0}), "learners.timeout: 5.0 has no effect"),
        (ppo_config({"num": 1, "check_interval": 5}), "learners.check_interval: 5 has"),
        (
            ppo_config({"num": 2, "device": "cuda:1"}),
            "learners.device: 'cuda:1' is one",
        ),
        (ppo_config({"num": 2, "device": "cuda"}), "torch sees 0 here"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(
    config: AlgorithmConfig, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError) as told:
        config.build()
    assert words in str(told.value)
    assert told.value.exit_code == 2


def test_all_that_cannot_be_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    config = ppo_config(
        {"num": 2, "device": "cuda"},
        minibatch_size=1,
        runtime={"engine": "inline"},
        normalize_advantages=False,
    )
    with pytest.raises(ConfigError) as told:
        config.build()
    assert {problem.path for problem in told.value.problems} == {"learners.num", "minibatch_size"}
    assert len(told.value.problems) == 3


def test_every_learner_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    three = {"num": 3, "device": "auto"}
    two = three | {"num": 2}
    assert devices_of_ranks(ppo_config(two).learners, False) == ["cuda:0", "cuda:1"]
    assert devices_of_ranks(ppo_config(two).learners, True) == ["cuda", "cuda"]
    assert devices_of_ranks(ppo_config(three).learners, False) == ["cpu"] * 3
