"""TD3: golden targets, gradients that go where they should, settings that all count, exact runs."""

import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl.algorithms.td3 import TD3, TD3Config, TD3Learner, smoothed
from rl.algorithms.training import Interrupted
from rl.core.learning.experience import ReplayBatch
from rl.core.learning.learner import Averages
from rl.errors import ConfigError, UsageError
from rl.testing import check_algorithm
from rl.testing.algorithms import weights_of
from tests.algorithms.test_training import (
    Quiet,
    _go_on,
    _KillAfter,
    _policy_bytes,
    _rows,
    _run,
)

QUICK: dict[str, Any] = {
    "env": "Pendulum-v1",
    "hidden_sizes": (16,),
    "total_steps": 400,
    "learning_starts": 40,
    "buffer_size": 200,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "rollout_length": 4,
    "updates_per_step": 0.5,
    "env_runners": {"num": 2, "envs_per_runner": 2},
}
OPTIONS: dict[str, Any] = {
    "prioritized": True,
    "n_step": 3,
    "normalize_observations": True,
    "normalize_rewards": True,
    "max_grad_norm": 1.0,
    "policy_delay": 3,
}


def _filled(**settings: Any) -> TD3Learner:
    """A learner that remembers something and has learnt a little."""
    with TD3(TD3Config(**QUICK | settings)) as td3:
        while td3.env_steps < 80:
            td3.train()
        learner = td3.learners._learner
    assert isinstance(learner, TD3Learner)
    return learner


def test_golden_smoothing() -> None:
    actions, noise = torch.tensor([0.9, 0.9, -0.2, 0.0]), torch.tensor([0.7, -0.7, 0.3, -0.5])
    assert smoothed(actions, noise, 0.5).tolist() == pytest.approx([1.0, 0.4, 0.1, -0.5])


def test_the_target_is_that_of_the_paper() -> None:
    """R + gamma^m min Q'(s, mu'(s) + noise); R where it ended."""
    settings = {"n_step": 2, "target_noise": 0.4, "target_noise_clip": 0.3}
    learner = _filled(**settings)
    batch = learner.experience.draw()
    batch = ReplayBatch(**{**vars(batch), "discounts": torch.tensor([0.0, 0.5] * 4)})
    noise_at = learner.numbers.get_state()
    loss, value = learner.fit_critics(batch)
    learner.numbers.set_state(noise_at)
    noise = torch.from_numpy(learner.numbers.normals((8, 1)))
    assert (noise.abs() * 0.4 > 0.3).any(), "no noise is clipped, so nothing tells"
    fresh = _filled(**settings)  # as it was before that step
    with torch.no_grad():
        actions = fresh.target_policy.best(batch.next_observations)
        actions = (actions + (0.4 * noise).clamp(-0.3, 0.3)).clamp(-1, 1)
        following = fresh.target(batch.next_observations, actions).squeeze(-1).amin(0)
        targets = batch.returns + batch.discounts * following
        assert targets[::2].tolist() == batch.returns[::2].tolist()
        values = fresh.critics(batch.observations, batch.actions / 2).squeeze(-1)  # of [-2, 2]
        expected = ((values - targets) ** 2).mean(1).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value, values.mean())


def test_every_loss_moves_its_own_network_alone() -> None:
    learner = _filled()
    batch = learner.experience.draw()
    parts = {
        "policy": learner.flat.vector,
        "critics": learner.others["critics"].vector,
        "target": learner.target_parameters,
        "target policy": learner.target_policy_parameters,
    }

    def moved(step: Any) -> set[str]:
        before = {name: vector.clone() for name, vector in parts.items()}
        step()
        return {name for name, vector in parts.items() if not torch.equal(vector, before[name])}

    gradient = learner.others["critics"].gradient
    assert moved(lambda: learner.fit_critics(batch)) == {"critics"}
    kept = gradient.clone()
    assert kept.any()
    assert moved(lambda: learner.fit_policy(batch)) == {"policy"}
    assert torch.equal(gradient, kept), "the policy's loss left gradients in the critics"


def test_the_policy_climbs_the_first_critic() -> None:
    learner = _filled()
    batch = learner.experience.draw()

    def value() -> float:
        with torch.no_grad():
            actions = learner.module.best(batch.observations)
            return float(learner.critics.first(batch.observations, actions).mean())

    with torch.no_grad():
        for weight in learner.critics.parameters():
            weight[1] = torch.nan  # the second is of no account
    before = value()
    assert float(learner.fit_policy(batch).detach()) == pytest.approx(-before)
    assert value() > before


@pytest.mark.parametrize(("delay", "interval"), [(2, 2), (3, 1), (1, 4)])
def test_policy_and_targets_move_when_their_turn_comes(delay: int, interval: int) -> None:
    learner = _filled(policy_delay=delay, target_update_interval=interval)
    learner.num_updates = 0
    vectors = [learner.flat.vector, learner.target_parameters, learner.target_policy_parameters]
    for update in range(1, 7):
        before = [vector.clone() for vector in vectors]
        learner.step(Averages(), Averages())
        moved = [not torch.equal(*pair) for pair in zip(vectors, before, strict=True)]
        turn = update % interval == 0
        assert moved == [update % delay == 0, turn, turn]


def test_runners_explore_with_the_noise_asked_for() -> None:
    quiet = {"learning_starts": 0, "updates_per_step": 1e-9}
    drawn = []
    for noise in (0.0, 0.3):
        with TD3(TD3Config(**QUICK | quiet, exploration_noise=noise)) as td3:
            (rollout, _) = td3.sample(40)
            greedy = td3.policy.act_batch(rollout.observations[:-1].reshape(-1, 3))
            drawn.append((rollout.actions.ravel() - greedy.ravel()) / 2)
    assert np.abs(drawn[0]).max() < 1e-6
    assert drawn[1].std() == pytest.approx(0.3, rel=0.25)


@pytest.mark.parametrize("settings", [{}, OPTIONS, {"rollout_length": 1, "exploration_noise": 0}])
def test_td3_does_what_every_algorithm_must(settings: dict[str, Any]) -> None:
    check_algorithm(TD3Config(**QUICK | settings), iterations=8)


@pytest.mark.parametrize("settings", [{}, OPTIONS])
def test_processes_give_the_same_bits_as_inline(settings: dict[str, Any]) -> None:
    def learnt(engine: str) -> dict[str, bytes]:
        with TD3(TD3Config(**QUICK | settings, runtime={"engine": engine})) as td3:
            td3.learn(200)
            return weights_of(td3)

    assert learnt("process") == learnt("inline")


def test_a_resumed_run_ends_like_one_that_never_stopped(tmp_path: Path) -> None:
    quick = QUICK | OPTIONS | {"metrics": {"interval": 0}, "total_steps": 240}
    config: Any = TD3Config(**quick)
    _run(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        _run(tmp_path / "parts", config, reporter=_KillAfter(9, signal.SIGTERM))
    reporter = Quiet()
    _go_on(tmp_path / "parts", config, reporter)
    assert reporter.steps_done == 144
    assert _policy_bytes(tmp_path / "parts") == _policy_bytes(tmp_path / "whole")
    wholes, parts = (_rows(tmp_path / name / "progress.csv") for name in ("whole", "parts"))
    assert wholes == parts


def test_metrics_have_the_names_of_stable_baselines() -> None:
    with TD3(TD3Config(**QUICK)) as td3:
        result = td3.learn(80)
    names = {"actor_loss", "critic_loss", "learning_rate", "n_updates"}
    assert {f"train/{name}" for name in names} <= result.metrics.keys()


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"actions are discrete.*td3 can act in box only") as told:
        TD3(TD3Config(env="CartPole-v1"))
    assert told.value.exit_code == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"buffer_size": 7}, "buffer_size: 7 is less than batch_size 8"),
        ({"learning_starts": 400}, "learning_starts: 400 is not before the end"),
        ({"n_step": 51}, "n_step: 51 is more than the 50 transitions"),
        ({"target_noise": 0, "target_noise_clip": 0.1}, "target_noise_clip: 0.1 has no effect"),
        ({"exploration_noise": -1}, "exploration_noise: must be a number of at least 0; got -1"),
        ({"policy_delay": 0}, "policy_delay"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        TD3Config(**QUICK | settings).checked()
    assert words in str(refusal.value)
    assert refusal.value.exit_code == 2


BASE: dict[str, Any] = QUICK | {
    "prioritized": True,
    "learning_rate": 5e-3,
    "learning_rate_final": 1e-3,
    "n_step": 2,
}
SETTINGS: dict[str, Any] = {
    "gamma": 0.9,
    "learning_rate": 1e-2,
    "learning_rate_final": 0.0,
    "hidden_sizes": (8,),
    "activation": "tanh",
    "max_grad_norm": 0.01,
    "normalize_observations": True,
    "normalize_rewards": True,
    "rollout_length": 2,
    "buffer_size": 80,
    "batch_size": 16,
    "learning_starts": 60,
    "updates_per_step": 0.75,
    "n_step": 3,
    "policy_delay": 1,
    "target_update_interval": 5,
    "tau": 0.5,
    "prioritized": False,
    "priority_alpha": 0.2,
    "priority_beta": 0.9,
    "exploration_noise": 0.5,
    "target_noise": 0.5,
    "target_noise_clip": 0.1,
    "total_steps": 300,
    "env_kwargs": {"g": 5.0},
}
"""For each setting a value that must change what is learnt on Pendulum in 128 steps."""


def _weights(settings: dict[str, Any]) -> dict[str, bytes]:
    with TD3(TD3Config(**settings)) as td3:
        while td3.env_steps < 128:
            td3.train()
        found = weights_of(td3)
    kept = {name: v for name, v in found.items() if name.startswith("module.")}
    del kept["module.exploration_noise"]
    return kept


@pytest.fixture(scope="module")
def base_weights() -> dict[str, bytes]:
    return _weights(BASE)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_is_without_effect(name: str, base_weights: dict[str, bytes]) -> None:
    assert _weights(BASE | {name: SETTINGS[name]}) != base_weights


def test_every_setting_of_the_learner_is_tried() -> None:
    elsewhere = {
        "env", "seed", "env_runners", "learners", "runtime", "evaluation", "checkpoints", "metrics",
        "image_encoder",  # by tests/algorithms/test_images.py
        "encoder", "encoder_kwargs",  # by test_custom_networks.py
    }  # fmt: skip
    assert {field.name for field in fields(TD3Config)} - elsewhere == set(SETTINGS)
