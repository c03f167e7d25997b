"""PPO that samples while it learns: what it makes of a policy one update behind."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import rl
from rl.algorithms.ppo import PPO, PPOLearner
from rl.core.data.rollout import Rollout
from rl.core.data.weights import Weights
from rl.core.models.modules import ActorCritic
from rl.core.models.plain import PlainNetwork
from rl.testing.algorithms import weights_of
from tests.algorithms.test_images import Camera

LENGTH, WIDTH = 16, 4


def _config(**changed: Any) -> rl.PPOConfig:
    quick: dict[str, Any] = {
        "env": "CartPole-v1",
        "hidden_sizes": (16,),
        "rollout_length": LENGTH,
        "minibatch_size": 16,
        "num_epochs": 3,
        "learning_rate": 1e-2,
        "total_steps": 20 * LENGTH * WIDTH,
        "seed": 3,
        "env_runners": {"num": 2, "envs_per_runner": WIDTH // 2, "overlap": True},
        "runtime": {"engine": "process"},
    }
    return rl.PPOConfig(**quick | changed)


def _watched(ppo: PPO, iterations: int) -> tuple[list[Weights], list[Rollout]]:
    """The weights before each update and after the last; what each learnt from, one runner's."""
    learnt = [ppo.learners.get_weights(again=True)]
    rollouts = []
    learn_from = ppo.learn_from

    def learn(given: Any) -> Any:
        rollouts.append(given[0])
        metrics = learn_from(given)
        learnt.append(ppo.learners.get_weights(again=True))
        return metrics

    ppo.learn_from = learn  # type: ignore[method-assign]
    for _ in range(iterations):
        ppo.train()
    return learnt, rollouts


def _take(module: ActorCritic, weights: Weights) -> None:
    torch.nn.utils.vector_to_parameters(torch.tensor(weights.parameters), module.parameters())


@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.parametrize("overlap", [False, True])
def test_log_probabilities_are_those_of_the_policy_one_update_behind(
    overlap: bool, engine: str
) -> None:
    config = _config().with_runtime(engine=engine).with_env_runners(overlap=overlap)
    with config.build() as ppo:
        learnt, rollouts = _watched(ppo, 6)
        network = ppo.learners.network
        assert isinstance(network, PlainNetwork)
        module = network.frozen().build()
        assert isinstance(module, ActorCritic)
        for number, rollout in enumerate(rollouts):
            distances = []
            for weights in learnt:
                _take(module, weights)
                with torch.no_grad():
                    policy, _ = module(torch.tensor(rollout.observations[:-1]))
                    found = policy.log_prob(torch.tensor(rollout.actions)).numpy()
                distances.append(float(np.abs(found - rollout.extras["log_prob"]).max()))
            acted = max(0, number - overlap)
            assert distances[acted] < 1e-5, number
            assert min(distances[:acted] + distances[acted + 1 :]) > 1e-4, number


@pytest.mark.parametrize("overlap", [False, True])
def test_values_are_those_of_the_weights_that_learn(overlap: bool) -> None:
    """What the acting network says of images lags behind them, and would meet newer bootstraps."""
    config = _config(env=Camera, rollout_length=12, minibatch_size=12, num_epochs=1)
    with config.with_env_runners(overlap=overlap).with_runtime(engine="inline").build() as ppo:
        learner: Any = ppo.learners._learner
        assert isinstance(learner, PPOLearner)
        prepared, prepare = [], learner.prepare

        def watch(rollout: Rollout) -> Any:
            others = {name: extra for name, extra in rollout.extras.items() if name != "value"}
            told = torch.tensor(rollout.extras["value"]).flatten()
            prepared.append((prepare(rollout), prepare(replace(rollout, extras=others)), told))
            return prepared[-1][0]

        learner.prepare = watch  # type: ignore[method-assign]
        for _ in range(3):
            ppo.train()
    for name in ("values", "advantages", "value_targets"):
        for found, computed, _ in prepared:
            torch.testing.assert_close(
                getattr(found, name), getattr(computed, name), atol=1e-5, rtol=1e-5
            )
    for found, _, told in prepared[1:]:
        lag = float((found.values - told).abs().max())
        assert (lag > 1e-4) == overlap


def test_the_early_stop_counts_how_far_the_last_update_went() -> None:
    """An iteration may find that the policy is too far from what sampled, and take no step."""
    config = _config(target_kl=0.0005)
    found = {}
    for engine in ("inline", "process"):
        with config.with_runtime(engine=engine).build() as ppo:
            steps = [ppo.train().metrics["train/n_updates"] for _ in range(20)]
            found[engine] = weights_of(ppo), steps
    assert found["inline"] == found["process"]
    taken = np.diff([0.0, *found["inline"][1]])
    assert taken[0] > 0, "the first rollout is sampled by the weights that learn from it"
    idle = np.flatnonzero(taken == 0)
    assert idle.size
    assert not np.any(np.diff(idle) == 1), "the rollout after that is sampled by the newest weights"


@pytest.mark.parametrize("budget", [20 * 64, 20 * 64 - 3, 5])
def test_steps_and_schedules_are_those_of_a_run_without_it(budget: int) -> None:
    told = []
    for overlap in (False, True):
        config = _config(
            total_steps=budget, learning_rate_final=0.0, clip_range_final=0.0
        ).with_env_runners(overlap=overlap)
        rows = []
        with config.build() as ppo:
            while ppo.env_steps < budget:
                metrics = ppo.train_within(budget).metrics
                rows.append(
                    [metrics[f"train/{name}"] for name in ("learning_rate", "clip_range")]
                    + [ppo.env_steps, metrics["time/total_timesteps"], metrics["time/iterations"]]
                )
        told.append(rows)
    assert told[0] == told[1]
    assert told[0][-1][2] - budget < LENGTH * WIDTH // 2


def test_a_learner_in_a_process_of_its_own_learns_the_same() -> None:
    found = []
    for learners in (0, 1):
        with _config().with_learners(num=learners).build() as ppo:
            for _ in range(6):
                ppo.train()
            found.append(weights_of(ppo))
    assert found[0] == found[1]
