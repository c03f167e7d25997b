"""Gradients that a GPU plays from CUDA graphs, on the CPU by the stand-in of `test_recorded`."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rl
from rl.algorithms.dqn import DQNConfig, DQNLearner
from rl.core.data.spaces import Spaces
from rl.core.learning.engines import choose_gpu_engine
from rl.core.learning.recorded import Recorded
from rl.errors import UsageError
from tests.algorithms import test_dqn_numpy, test_ppo_numpy
from tests.core.learning.test_recorded import record_on_cpu

CPU = torch.device("cpu")
IMAGES = spaces.Box(0, 255, (2, 36, 36), np.uint8)


@pytest.mark.parametrize("settings", test_ppo_numpy.SETTINGS)
def test_the_gradient_of_ppo_is_the_same_played(settings: str) -> None:
    own = test_ppo_numpy.SETTINGS[settings]
    played_ppo(test_ppo_numpy.learner_of(engine="torch", **own))


@pytest.mark.parametrize("action", test_ppo_numpy.ACTIONS)
def test_ppo_on_all_actions(action: str) -> None:
    space, everything = test_ppo_numpy.ACTIONS[action], test_ppo_numpy.EVERYTHING
    played_ppo(test_ppo_numpy.learner_of(space, engine="torch", **everything))


def test_ppo_on_images_and_on_several_observations() -> None:
    mixed = spaces.Dict(camera=IMAGES, place=spaces.Box(-1, 1, (3,)))
    for observation in (IMAGES, mixed, *test_ppo_numpy.OBSERVATIONS.values()):
        played_ppo(test_ppo_numpy.learner_of(observation=observation, engine="torch"))


def played_ppo(learner: Any) -> None:
    recorded = Recorded(learner._score, CPU, record_on_cpu)
    batch = test_ppo_numpy.batch_of(learner, np.random.default_rng())
    for clip_range in (0.2, 0.1):
        for minibatch in learner.minibatches(batch):  # the last is smaller
            terms = learner.gradient(minibatch, clip_range)
            expected = {name: term.detach().clone() for name, term in terms.items()}
            gradient = learner.flat.gradient.clone()
            learner.flat.gradient.fill_(torch.nan)
            found = recorded(minibatch.columns(), clip_range, float(learner.kl_coef))
            torch.testing.assert_close(learner.flat.gradient, gradient, rtol=1e-6, atol=1e-7)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
            learner.descend()
        learner.kl_coef *= 1.5


DQN: dict[str, dict[str, Any]] = {
    **test_dqn_numpy.SETTINGS,
    "distributional": {"distributional": True, "v_min": -3, "v_max": 3},
    "rainbow but for noise": {
        "distributional": True,
        "v_min": -3,
        "v_max": 3,
        "double": True,
        "dueling": True,
        "prioritized": True,
    },
}


@pytest.mark.parametrize(
    ("observation", "settings"),
    [
        *(("vector", settings) for settings in DQN),
        *((space, "everything") for space in [*test_dqn_numpy.OBSERVATIONS, "images"]),
    ],
)
def test_the_gradient_of_dqn_is_the_same_played(settings: str, observation: str) -> None:
    space = {**test_dqn_numpy.OBSERVATIONS, "images": IMAGES}[observation]
    learner = test_dqn_numpy.learner_of(space, engine="torch", **DQN[settings])
    generator = np.random.default_rng()
    recorded = Recorded(
        lambda columns: learner._score(test_dqn_numpy.ReplayBatch.of(columns)), CPU, record_on_cpu
    )
    for _ in range(3):
        found, weights = test_dqn_numpy.batch_of(learner, generator)
        used = weights if learner.config.prioritized else None
        batch = test_dqn_numpy.torch_batch(learner, found, used)
        expected = {k: v.detach().clone() for k, v in learner._score(batch).items()}
        gradient = learner.flat.gradient.clone()
        learner.flat.gradient.fill_(torch.nan)
        played = recorded(batch.columns())
        torch.testing.assert_close(learner.flat.gradient, gradient)
        for name, value in expected.items():
            torch.testing.assert_close(played[name], value)
        learner.descend()
        learner.target_parameters.lerp_(learner.flat.vector, 0.5)


def test_a_whole_update_takes_what_is_played() -> None:
    """`update` of both learners with and without: the same weights and metrics."""

    def weights(play: bool) -> list[float]:
        config = rl.PPOConfig(
            env="CartPole-v1", seed=1, rollout_length=40, minibatch_size=16, num_epochs=2
        )
        return trained(config.with_learners(engine="torch"), "ppo", play)

    torch.testing.assert_close(weights(True), weights(False))

    def dqn_weights(play: bool) -> list[float]:
        config = rl.DQNConfig(env="CartPole-v1", seed=1, learning_starts=16, rollout_length=40)
        return trained(config.with_learners(engine="torch"), "dqn", play)

    torch.testing.assert_close(dqn_weights(True), dqn_weights(False))


def trained(config: Any, kind: str, play: bool) -> list[float]:
    with config.build() as algorithm:
        learner: Any = algorithm.learners._learner
        calls = []
        if play:
            if kind == "ppo":
                recorded = Recorded(learner._score, CPU, record_on_cpu)
            else:
                recorded = Recorded(
                    lambda columns: learner._score(test_dqn_numpy.ReplayBatch.of(columns)),
                    CPU,
                    record_on_cpu,
                )

            def counted(*inputs: Any) -> Any:
                calls.append(1)
                return recorded(*inputs)

            learner.recorded = counted
        for _ in range(2):
            algorithm.train()
        assert bool(calls) == play
        found: list[float] = algorithm.learners.get_weights().parameters.tolist()
        return found


def test_on_a_gpu_auto_takes_torch_and_says_what_else_there_is() -> None:
    assert choose_gpu_engine("torch", ()) == ("torch", ())
    assert choose_gpu_engine("compiled", ()) == ("compiled", ())
    engine, told = choose_gpu_engine("auto", ())
    assert engine == "torch"
    assert "learners.engine compiled" in told[0]
    engine, told = choose_gpu_engine("auto", ("noisy layers",))
    assert (engine, told) == ("torch", ("on a GPU auto takes torch; noisy layers",))
    for asked, reason in (("compiled", "noisy layers"), ("numpy", "does not compute on a GPU")):
        with pytest.raises(UsageError, match=reason):
            choose_gpu_engine(asked, ("noisy layers",))


def test_what_cannot_be_recorded_is_named() -> None:
    def obstacles(**settings: Any) -> list[str]:
        config = DQNConfig(buffer_size=64, **settings)
        place = Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
        return list(DQNLearner(config, place, 1).recording_obstacles())

    assert obstacles() == []
    assert obstacles(noisy=True) == ["noisy layers"]
    memory = obstacles(memory="gru", sequence_length=4, batch_size=32)
    assert memory == ["memory (gru)"]
    with rl.SACConfig(env="Pendulum-v1").build() as algorithm:
        told = list(algorithm.learners._learner.recording_obstacles())
    assert told == ["SACLearner has no gradient that can be recorded"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_gpu_learns_the_same_from_graphs(algo: str) -> None:
    def weights(engine: str) -> list[float]:
        config: Any = (
            rl.PPOConfig(env="CartPole-v1", seed=1, rollout_length=40, minibatch_size=16)
            if algo == "ppo"
            else rl.DQNConfig(env="CartPole-v1", seed=1, learning_starts=16, rollout_length=40)
        )
        with config.with_learners(engine=engine, device="cuda").build() as algorithm:
            algorithm.train()
            found: list[float] = algorithm.learners.get_weights().parameters.tolist()
            return found

    torch.testing.assert_close(weights("compiled"), weights("torch"), rtol=1e-4, atol=1e-5)
