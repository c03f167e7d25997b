"""SAC: golden losses, gradients that go where they should, settings that all count, exact runs."""

import math
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.algorithms.sac import SAC, SACConfig, SACLearner, default_target_entropy, soft_value
from rl.algorithms.training import Interrupted
from rl.core.learning.experience import ReplayBatch
from rl.core.models.policy_network import CategoricalPolicy, SquashedPolicy
from rl.core.records.checkpoint import read_checkpoint
from rl.errors import CheckpointError, ConfigError, UsageError
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
DISCRETE: dict[str, Any] = {"env": "CartPole-v1"}
OPTIONS: dict[str, Any] = {
    "prioritized": True,
    "n_step": 3,
    "normalize_observations": True,
    "normalize_rewards": True,
    "max_grad_norm": 1.0,
    "target_update_interval": 3,
}


def _learner_of(sac: SAC) -> SACLearner:
    learner = sac.learners._learner
    assert isinstance(learner, SACLearner)
    return learner


def _filled(**settings: Any) -> SACLearner:
    """A learner that remembers something and has learnt a little."""
    sac = SAC(SACConfig(**QUICK | settings))
    with sac:
        while sac.env_steps < 80:
            sac.train()
        return _learner_of(sac)


def test_golden_target() -> None:
    values = torch.tensor([[5.0], [4.0]])
    found = soft_value(values, torch.tensor([-1.5]), torch.tensor(0.2))
    assert float(1 + 0.99 * found) == pytest.approx(5.257)
    discrete = soft_value(torch.tensor([[[5.0, 1]], [[4.0, 2]]]), torch.zeros(1, 2), torch.ones(()))
    assert discrete.tolist() == [[4, 1]]


def test_the_target_is_that_of_the_paper() -> None:
    """R + gamma^m (min Q(s, a) - alpha log pi), with an action drawn anew; R where it ended."""
    learner = _filled(n_step=2, ent_coef=0.3)
    batch = learner.experience.draw()
    batch = ReplayBatch(**{**vars(batch), "discounts": torch.tensor([0.0, 0.5] * 4)})
    noise_at = learner.numbers.get_state()
    loss, value = learner.fit_critics(batch, torch.tensor(0.3))
    learner.numbers.set_state(noise_at)
    fresh = _filled(n_step=2, ent_coef=0.3)  # as it was before that step
    assert isinstance(fresh.module, SquashedPolicy)
    mean, log_std = fresh.module.parameters_of(batch.next_observations)
    noise = torch.from_numpy(learner.numbers.normals(tuple(mean.shape)))
    before = mean + log_std.exp() * noise
    normal = torch.distributions.Normal(mean, log_std.exp())
    log_prob = normal.log_prob(before) - torch.log(1 - torch.tanh(before) ** 2)
    following = fresh.target(batch.next_observations, torch.tanh(before)).squeeze(-1).amin(0)
    targets = batch.returns + batch.discounts * (following - 0.3 * log_prob.squeeze(-1))
    assert targets[::2].tolist() == batch.returns[::2].tolist()
    values = fresh.critics(batch.observations, batch.actions / 2).squeeze(-1)  # of [-2, 2]
    expected = 0.5 * ((values - targets) ** 2).mean(1).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value, values.mean())


def test_discrete_values_are_expectations() -> None:
    learner = _filled(**DISCRETE)
    batch = learner.experience.draw()
    assert isinstance(learner.module, CategoricalPolicy)
    values, log_probs = learner.soft_values(
        learner.critics, batch.observations, torch.tensor(0.2), None
    )
    policy = learner.module.distribution(batch.observations)
    both = learner.critics(batch.observations).amin(0)
    chances = policy.log_prob(torch.zeros(8)).exp(), policy.log_prob(torch.ones(8)).exp()
    expected = sum(chance * (both[:, a] - 0.2 * chance.log()) for a, chance in enumerate(chances))
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(-log_probs, policy.entropy())


@pytest.mark.parametrize("settings", [{}, DISCRETE], ids=["continuous", "discrete"])
def test_every_loss_moves_its_own_network_alone(settings: dict[str, Any]) -> None:
    learner = _filled(**settings)
    batch, ent_coef = learner.experience.draw(), learner.temperature()
    parts = {
        "policy": learner.flat.vector,
        "critics": learner.others["critics"].vector,
        "temperature": learner.others["temperature"].vector,
        "target": learner.target_parameters,
    }

    def moved(step: Any) -> set[str]:
        before = {name: vector.clone() for name, vector in parts.items()}
        step()
        return {name for name, vector in parts.items() if not torch.equal(vector, before[name])}

    critic_gradient = learner.others["critics"].gradient
    assert moved(lambda: learner.fit_critics(batch, ent_coef)) == {"critics"}
    kept = critic_gradient.clone()
    assert kept.any()
    assert moved(lambda: learner.fit_policy(batch, ent_coef)) == {"policy"}
    assert torch.equal(critic_gradient, kept), "the policy's loss left gradients in the critics"
    assert moved(lambda: learner.fit_temperature(torch.tensor(-0.3))) == {"temperature"}
    assert moved(learner.step) == set(parts)


def test_the_policy_is_judged_by_the_critics_as_they_are() -> None:
    learner = _filled()
    batch = learner.experience.draw()
    actions = torch.zeros(8, 1)
    learner.others["critics"].vector.mul_(1.5)
    torch.testing.assert_close(
        learner.judges(batch.observations, actions), learner.critics(batch.observations, actions)
    )


def test_golden_moves_of_the_temperature() -> None:
    learner = _filled(ent_coef="auto_0.1", learning_rate=0.5, learning_starts=79)
    first = learner.others["temperature"].vector
    assert float(learner.temperature()) == pytest.approx(0.1, rel=0.7)
    with torch.no_grad():
        first.fill_(math.log(0.1))
    learner.others["temperature"].set_optimizer_state({})
    loss = learner.fit_temperature(torch.tensor(1.5))  # entropy -1.5, less than the target -1
    assert float(loss) == pytest.approx(-math.log(0.1) * (1.5 - 1.0))
    assert float(first) == pytest.approx(math.log(0.1) + 0.5, abs=1e-4), "more is asked for"


def test_the_target_moves_after_every_interval_of_updates() -> None:
    learner = _filled(target_update_interval=3, tau=0.005)
    learner.num_updates = 0
    moves = []
    for _ in range(7):
        before = learner.target_parameters.clone()
        learner.step()
        moves.append(not torch.equal(before, learner.target_parameters))
    assert moves == [False, False, True, False, False, True, False]
    learner.target_parameters.zero_()
    learner.others["critics"].vector.fill_(1)
    for _ in range(3):
        learner.target_parameters.lerp_(learner.others["critics"].vector, 0.005)
    assert learner.target_parameters.unique().tolist() == pytest.approx([0.014925125])


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-2, 2, (3, 2)), -6.0),
        (spaces.Box(0, 0.4, ()), -1.0),
        (spaces.Discrete(4), 0.89 * math.log(4)),
    ],
)
def test_the_entropy_that_auto_keeps(space: spaces.Space[Any], expected: float) -> None:
    observations = spaces.Box(-1, 1, (3,))
    from rl.core.data.spaces import Spaces

    config = SACConfig(**QUICK)
    policy = SACLearner.make_module(config, Spaces(observations, space))
    assert default_target_entropy(policy) == pytest.approx(expected)


def test_the_temperature_keeps_the_entropy_asked_for() -> None:
    changed = {
        "target_entropy": 0.2,
        "learning_rate": 1e-2,
        "total_steps": 1500,
        "ent_coef": "auto",
    }
    with SAC(SACConfig(**QUICK | DISCRETE | changed)) as sac:
        entropies = []
        while sac.env_steps < 1500:
            metrics = sac.train().metrics
            entropies.append(metrics.get("train/entropy", math.nan))
    assert np.mean(entropies[-30:]) == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize(
    ("ratio", "starts", "updates"), [(0.25, 40, 90), (1.0, 0, 400), (0.1, 399, 0), (0.3, 17, 114)]
)
def test_updates_keep_their_ratio_to_steps(ratio: float, starts: int, updates: int) -> None:
    made = []
    for runners in ({"num": 1, "envs_per_runner": 1}, {"num": 2, "envs_per_runner": 4}):
        changed = {"updates_per_step": ratio, "learning_starts": starts, "env_runners": runners}
        with SAC(SACConfig(**QUICK | changed)) as sac:
            result = sac.learn()
        assert result.env_steps == 400, "the budget is kept exactly"
        made.append(result.metrics["train/n_updates"])
    assert made == [updates, updates]


def test_warming_up_is_even_and_learns_nothing() -> None:
    with SAC(SACConfig(**QUICK | {"learning_starts": 300, "buffer_size": 400})) as sac:
        before = weights_of(sac)
        actions = np.concatenate([r.actions.ravel() for _ in range(8) for r in sac.sample(8)])
        share, _ = np.histogram(actions, bins=4, range=(-2, 2))
        assert (share / len(actions)).tolist() == pytest.approx([0.25] * 4, abs=0.08)
        sac.train()
        assert weights_of(sac)["module.torso.0.weight"] == before["module.torso.0.weight"]
    with SAC(SACConfig(**QUICK)) as sac:
        warm = [float(_learner_of(sac).module.warming_up)]
        for _ in range(5):  # 16 steps each, learning starts at 40
            sac.train()
            warm.append(float(_learner_of(sac).module.warming_up))
    assert warm == [1, 1, 1, 0, 0, 0]


class Rescaled(gymnasium.ActionWrapper[Any, Any, Any]):
    """Pendulum whose torque is asked for in other bounds, rounded to 2^-10 of the whole."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(gymnasium.make("Pendulum-v1"))
        self.bounds = (low + high) / 2, (high - low) / 2
        self.action_space = spaces.Box(low, high, (1,))

    def action(self, action: Any) -> Any:
        middle, radius = self.bounds
        return 2 * np.round((action.astype(np.float64) - middle) / radius * 1024) / 1024


def test_the_result_does_not_depend_on_the_bounds_of_the_actions() -> None:
    found = []
    for low, high in ((-1.0, 1.0), (-2.0, 2.0), (0.0, 0.4)):
        with SAC(
            SACConfig(**QUICK | {"env": lambda low=low, high=high: Rescaled(low, high)})
        ) as sac:
            result = sac.learn()
            found.append((weights_of(sac), _learner_of(sac), result))
    for state, learner, result in found[1:]:
        assert result.metrics["train/n_updates"] == 180
        torch.testing.assert_close(
            learner.flat.vector, found[0][1].flat.vector, rtol=1e-3, atol=1e-4
        )
        entropy = found[0][2].metrics["train/entropy"]
        assert result.metrics["train/entropy"] == pytest.approx(entropy, abs=1e-3)
        assert state.keys() == found[0][0].keys()
    # Powers of two are scaled without rounding: there it is the same to the bit.
    assert found[1][0] == found[0][0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        DISCRETE,
        OPTIONS,
        DISCRETE | OPTIONS,
        {"ent_coef": 0.1, "rollout_length": 1, "learning_rate_final": 1e-5},
    ],
)
def test_sac_does_what_every_algorithm_must(settings: dict[str, Any]) -> None:
    check_algorithm(SACConfig(**QUICK | settings), iterations=8)


def test_critics_see_observations_as_the_policy_does(tmp_path: Path) -> None:
    config = SACConfig(**QUICK, normalize_observations=True)
    with SAC(config) as first, SAC(config) as second:
        first.train()
        second.restore(read_checkpoint(first.save(tmp_path / "checkpoint")))
        for sac in (first, second):
            sac.train()
            learner = _learner_of(sac)
            own = learner.module.encoder.normalizer
            assert own is not None
            assert own.count == 32, "every observation once"
            for other in (learner.critics, learner.target, learner.judges):
                its = other.encoder.normalizer
                assert its is not None
                assert torch.equal(own.mean, its.mean)


@pytest.mark.parametrize("settings", [{}, DISCRETE, OPTIONS])
def test_processes_give_the_same_bits_as_inline(settings: dict[str, Any]) -> None:
    def learnt(engine: str) -> dict[str, bytes]:
        with SAC(SACConfig(**QUICK | settings, runtime={"engine": engine})) as sac:
            sac.learn()
            return weights_of(sac)

    assert learnt("process") == learnt("inline")


@pytest.mark.parametrize("settings", [{}, DISCRETE, OPTIONS])
def test_a_resumed_run_ends_like_one_that_never_stopped(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    quick = QUICK | {"metrics": {"interval": 0}}  # reports, and so is killed, each iteration
    config: Any = SACConfig(**quick | settings)
    _run(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        _run(tmp_path / "parts", config, reporter=_KillAfter(9, signal.SIGTERM))
    reporter = Quiet()
    _go_on(tmp_path / "parts", config, reporter)
    assert reporter.steps_done == 144
    assert not [text for text in reporter.messages if "warning" in text]
    assert _policy_bytes(tmp_path / "parts") == _policy_bytes(tmp_path / "whole")
    for table in ("episodes.csv", "progress.csv"):
        wholes, parts = (_rows(tmp_path / name / table) for name in ("whole", "parts"))
        assert wholes == parts, table


def test_a_checkpoint_of_a_fixed_temperature_is_not_one_of_a_learnt(tmp_path: Path) -> None:
    with SAC(SACConfig(**QUICK, ent_coef=0.1)) as fixed, SAC(SACConfig(**QUICK)) as learnt:
        fixed.train()
        checkpoint = read_checkpoint(fixed.save(tmp_path / "checkpoint"))
        with pytest.raises(CheckpointError, match="does not hold a run of this config"):
            learnt.restore(checkpoint)


def test_metrics_have_the_names_of_stable_baselines() -> None:
    with SAC(SACConfig(**QUICK)) as sac:
        result = sac.learn(80)
    names = {"actor_loss", "critic_loss", "ent_coef", "ent_coef_loss", "learning_rate", "n_updates"}
    assert {f"train/{name}" for name in names} <= result.metrics.keys()
    with SAC(SACConfig(**QUICK, ent_coef=0.1)) as sac:
        result = sac.learn(80)
    assert result.metrics["train/ent_coef"] == pytest.approx(0.1)
    assert "train/ent_coef_loss" not in result.metrics


@pytest.mark.parametrize("high", [np.inf, np.finfo(np.float64).max])
def test_actions_without_bounds_are_refused(high: float) -> None:
    class Unbounded(gymnasium.ActionWrapper[Any, Any, Any]):
        action_space = spaces.Box(-high, high, (1,), np.float64)

        def __init__(self) -> None:
            super().__init__(gymnasium.make("Pendulum-v1"))

    with pytest.raises(UsageError, match=r"1 of its 1 continuous actions.*TransformAction") as told:
        SAC(SACConfig(**QUICK | {"env": Unbounded}))
    assert told.value.exit_code == 2


def test_actions_of_other_kinds_are_refused() -> None:
    class Bits(gymnasium.ActionWrapper[Any, Any, Any]):
        action_space = spaces.MultiBinary(2)

        def __init__(self) -> None:
            super().__init__(gymnasium.make("Pendulum-v1"))

    with pytest.raises(UsageError, match="sac can act in box, discrete only"):
        SAC(SACConfig(**QUICK | {"env": Bits}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"buffer_size": 7}, "buffer_size: 7 is less than batch_size 8"),
        ({"learning_starts": 400}, "learning_starts: 400 is not before the end, total_steps 400"),
        ({"n_step": 51}, "n_step: 51 is more than the 50 transitions"),
        ({"rollout_length": 51}, "rollout_length: 51 is more than the 50 transitions"),
        ({"priority_alpha": 0.5}, "priority_alpha: 0.5 has no effect while prioritized is false"),
        ({"ent_coef": 0.1, "target_entropy": -2}, "target_entropy: -2.0 has no effect while ent"),
        ({"ent_coef": "auto_"}, "ent_coef: must be a number of at least 0, or auto, or auto_0.1"),
        ({"ent_coef": "auto_0"}, "got 'auto_0'"),
        ({"ent_coef": "automatic"}, "got 'automatic'"),
        ({"ent_coef": -0.1}, "got -0.1"),
        ({"ent_coef": True}, "ent_coef"),
        ({"ent_coef": math.inf}, "ent_coef"),
        ({"target_entropy": "high"}, "target_entropy: must be a number or auto; got 'high'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        SACConfig(**QUICK | settings).checked()
    assert words in str(refusal.value)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "first", "learns"),
    [("auto", 1.0, True), ("auto_0.1", 0.1, True), (0.2, 0.2, False), ("0.2", 0.2, False)],
)
def test_the_entropy_coefficient_may_be_learnt(given: Any, first: float, learns: bool) -> None:
    config = SACConfig(ent_coef=given)
    assert (config.first_ent_coef, config.learns_ent_coef) == (first, learns)


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
    "target_update_interval": 16,
    "tau": 0.5,
    "prioritized": False,
    "priority_alpha": 0.2,
    "priority_beta": 0.9,
    "ent_coef": 0.05,
    "target_entropy": -3,
    "total_steps": 300,
    "env_kwargs": {"g": 5.0},
}
"""For each setting a value that must change what is learnt on Pendulum in 192 steps."""


def _weights(settings: dict[str, Any]) -> dict[str, bytes]:
    with SAC(SACConfig(**settings)) as sac:
        while sac.env_steps < 192:
            sac.train()
        found = weights_of(sac)
    return {name: v for name, v in found.items() if name.startswith("module.")}


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
    assert {field.name for field in fields(SACConfig)} - elsewhere == set(SETTINGS)
