"""DQN: golden targets, updates counted, settings that all count, runs that go on to the bit."""

import math
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl.algorithms.dqn import DQN, DQNConfig, DQNLearner, q_targets
from rl.algorithms.training import Interrupted
from rl.cli.main import train_main
from rl.core.data import memory
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
    "env": "CartPole-v1",
    "hidden_sizes": (16,),
    "total_steps": 400,
    "learning_starts": 40,
    "buffer_size": 200,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "rollout_length": 4,
    "target_update_interval": 24,
    "exploration_fraction": 0.5,
    "env_runners": {"num": 2, "envs_per_runner": 2},
}
C51: dict[str, Any] = {"distributional": True, "v_min": 0.0, "v_max": 60.0}
NOISY: dict[str, Any] = {"noisy": True, "exploration_fraction": 0.1}
RAINBOW = {"double": True, "dueling": True, "prioritized": True, "n_step": 3, **C51, **NOISY}


def _learner_of(dqn: DQN) -> DQNLearner:
    learner = dqn.learners._learner
    assert isinstance(learner, DQNLearner)
    return learner


def test_golden_targets() -> None:
    online, target = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[10.0, 4.0, 7.0]])
    returns, discounts = torch.tensor([0.5]), torch.tensor([0.99])
    assert q_targets(returns, discounts, target, online).item() == pytest.approx(4.46)
    assert q_targets(returns, discounts, target, target).item() == pytest.approx(10.4)
    assert q_targets(returns, 0 * discounts, target, target).item() == 0.5


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_distributions_are_compared_as_their_definitions_say(double: bool, dueling: bool) -> None:
    """One transition at a time, one atom at a time, in plain Python."""
    options = {"double": double, "dueling": dueling, "n_step": 3, "prioritized": True}
    with DQN(DQNConfig(**QUICK | C51 | options, num_atoms=13)) as dqn:
        for _ in range(8):
            dqn.train()
        learner = _learner_of(dqn)
        head = learner.target.advantage_head
        head.weight.neg_(), head.bias.neg_()  # so that it prefers other actions
        batch = learner.experience.draw()
        losses, errors, values = learner.compare_distributions(batch)
        module, target = learner.module, learner.target
        support = module.support.tolist()
        differing = 0
        for i in range(8):
            ahead = batch.next_observations[i]  # type: ignore[index]
            chances = target.logits(ahead).softmax(-1)
            online, frozen = module.q_values(ahead).argmax(), (chances @ module.support).argmax()
            differing += int(online != frozen)
            chosen = chances[online if double else frozen].tolist()
            expected = [0.0] * 13
            for atom, mass in zip(support, chosen, strict=True):
                moved = min(60.0, max(0.0, float(batch.returns[i] + batch.discounts[i] * atom)))
                below = min(11, int(moved / 5))
                expected[below] += mass * (1 - (moved / 5 - below))
                expected[below + 1] += mass * (moved / 5 - below)
            logits = module.logits(batch.observations[i])[batch.actions[i]]  # type: ignore[index]
            own = logits.softmax(-1).tolist()
            loss = -sum(t * math.log(p) for t, p in zip(expected, own, strict=True))
            entropy = -sum(t * math.log(t) for t in expected if t > 0)
            assert losses[i].item() == pytest.approx(loss, rel=1e-4)
            assert errors[i].item() == pytest.approx(loss - entropy, abs=1e-4)
            mean = sum(z * p for z, p in zip(support, own, strict=True))
            assert values[i].item() == pytest.approx(mean, rel=1e-4)
        assert differing, "the two networks never disagree, so nothing tells who chose"
        assert {round(d, 6) for d in batch.discounts.tolist()} - {0.99}, "n steps, or an end"
        learner.experience.note_errors(errors)
        noted = learner.experience.replay._priorities.get(batch.indices)  # type: ignore[attr-defined]
        assert noted.tolist() == pytest.approx(((errors.abs() + 1e-6) ** 0.6).tolist())


def test_golden_moves_of_the_target() -> None:
    with DQN(DQNConfig(**QUICK | {"tau": 0.005, "target_update_interval": 2})) as dqn:
        learner = _learner_of(dqn)
        learner.target_parameters.zero_()
        with torch.no_grad():
            learner.flat.vector.fill_(1)
        learner.move_target(0, 6)  # three multiples of 2
        assert learner.target_parameters.unique().tolist() == pytest.approx([0.014925125])
        learner.move_target(6, 7)
        assert learner.target_parameters.unique().tolist() == pytest.approx([0.014925125])
        observation = torch.zeros(1, 4)
        assert learner.target.q_values(observation).max() < 0.1, "the module sees its vector"


def test_a_copy_is_made_exactly_where_the_interval_ends() -> None:
    with DQN(DQNConfig(**QUICK)) as dqn:
        learner, equal = _learner_of(dqn), []
        for _ in range(9):  # 16 steps each: a multiple of 24 lies in two of three
            before = learner.flat.vector.clone()
            dqn.train()
            equal.append(torch.equal(learner.target_parameters, before))
        assert equal[3:] == [False, True, True] * 2


@pytest.mark.parametrize(
    ("ratio", "starts", "updates"), [(0.25, 40, 90), (1.0, 0, 400), (0.1, 399, 0), (0.3, 17, 114)]
)
def test_updates_keep_their_ratio_to_steps(ratio: float, starts: int, updates: int) -> None:
    made = []
    for runners in ({"num": 1, "envs_per_runner": 1}, {"num": 2, "envs_per_runner": 4}):
        changed = {"updates_per_step": ratio, "learning_starts": starts, "env_runners": runners}
        with DQN(DQNConfig(**QUICK | changed)) as dqn:
            result = dqn.learn()
        assert result.env_steps == 400, "the budget is kept exactly"
        made.append(result.metrics["train/n_updates"])
        assert result.metrics["train/update_credit"] == pytest.approx(
            ratio * (400 - starts) - updates, abs=1e-6
        )
        assert result.metrics["train/updates_per_step"] == updates / (400 - starts)
    assert made == [updates, updates]


@pytest.mark.parametrize(("length", "budget"), [(256, 400), (7, 100), (3, 41)])
def test_the_last_fragment_is_as_short_as_the_budget_asks(length: int, budget: int) -> None:
    runners = {"num": 1, "envs_per_runner": 1}
    changed = {"rollout_length": length, "total_steps": budget, "env_runners": runners}
    with DQN(DQNConfig(**QUICK | changed | {"buffer_size": 300})) as dqn:
        assert dqn.learn().env_steps == budget


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1.0), (39, 1.0), (40, 0.72), (150, 0.225), (200, 0.0), (399, 0.0)]
)
def test_exploration_falls_to_its_end_exactly(step: int, rate: float) -> None:
    with DQN(DQNConfig(**QUICK, exploration_initial=0.9, exploration_final=0.0)) as dqn:
        found = _learner_of(dqn).exploration_rate(step)
    assert found == (pytest.approx(rate) if rate else 0.0)


def test_runners_act_with_the_rate_of_their_step() -> None:
    with DQN(DQNConfig(**QUICK)) as dqn:
        rates = [dqn.train().metrics["rollout/exploration_rate"] for _ in range(14)]
    steps = np.arange(14) * 16
    expected = np.where(steps < 40, 1.0, np.maximum(0.05, 1 - 0.95 * steps / 200))
    assert rates == pytest.approx(expected.tolist(), abs=1e-6)


def test_warming_up_is_random_and_learns_nothing() -> None:
    with DQN(DQNConfig(**QUICK | {"learning_starts": 300, "exploration_initial": 0.0})) as dqn:
        before = weights_of(dqn)
        actions = [rollout.actions for _ in range(10) for rollout in dqn.sample(4)]
        assert 0.3 < np.mean(actions) < 0.7
        dqn.train()
        assert weights_of(dqn)["module.torso.0.weight"] == before["module.torso.0.weight"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        C51,
        NOISY,
        RAINBOW | {"tau": 0.01, "target_update_interval": 1},
        {"normalize_observations": True, "normalize_rewards": True, "n_step": 2},
        {"prioritized": True, "env": "Acrobot-v1", "buffer_size": 60},
    ],
)
def test_dqn_does_what_every_algorithm_must(settings: dict[str, Any]) -> None:
    check_algorithm(DQNConfig(**QUICK | settings), iterations=8)


def test_the_target_sees_observations_as_the_network_does(tmp_path: Path) -> None:
    config = DQNConfig(**QUICK, normalize_observations=True)
    with DQN(config) as first, DQN(config) as second:
        first.train()
        second.restore(read_checkpoint(first.save(tmp_path / "checkpoint")))
        for dqn in (first, second):
            dqn.train()
            learner = _learner_of(dqn)
            own, its = learner.module.encoder.normalizer, learner.target.encoder.normalizer
            assert own is not None
            assert its is not None
            assert torch.equal(own.mean, its.mean)
            assert own.count == its.count == 32, "every observation once"


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("atoms", [{}, C51], ids=["values", "distributions"])
def test_noise_is_drawn_anew_for_target_choice_and_update(
    double: bool, atoms: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with DQN(DQNConfig(**QUICK | NOISY | atoms, double=double)) as dqn:
        learner, drawn = _learner_of(dqn), []
        for _ in range(4):
            dqn.train()
        batch = learner.experience.draw()
        first, again = (learner.loss(batch)[0].item() for _ in range(2))
        assert first != again
        original = learner.parameter_noise

        def noted() -> torch.Tensor:
            noise = original()
            assert noise is not None
            drawn.append(noise)
            return noise

        monkeypatch.setattr(learner, "parameter_noise", noted)
        learner.step()
        learner.step()
    assert len(drawn) == (6 if double else 4)
    assert len({tuple(noise.tolist()) for noise in drawn}) == len(drawn)
    sizes = {"values": 4 + 16 + 16 + 2, "distributions": 4 + 16 + 16 + 2 * 51}
    assert drawn[0].shape == (sizes["distributions" if atoms else "values"],)


def test_a_noisy_network_explores_by_its_noise_and_is_judged_by_its_means() -> None:
    observation = np.array([0.1, 0.2, -0.1, 0.3], np.float32)
    with DQN(DQNConfig(**QUICK | NOISY | {"learning_starts": 16})) as dqn:
        rates = [dqn.train().metrics["rollout/exploration_rate"] for _ in range(3)]
        policy = dqn.policy
        rollout = dqn.sample(4)[0]
    assert rates == [1, 0, 0], "random actions until learning starts, then none"
    greedy = {int(policy.act(observation)) for _ in range(50)}
    assert greedy == {int(policy.q_values(observation).argmax())}
    many = np.tile(observation, (400, 1))
    drawn = policy.act(many, deterministic=False)
    assert set(drawn.tolist()) == {0, 1}, "each row has noise of its own"
    assert rollout.actions.shape == (4, 2)


@pytest.mark.parametrize("settings", [{}, RAINBOW, NOISY, {"normalize_observations": True}])
def test_processes_give_the_same_bits_as_inline(settings: dict[str, Any]) -> None:
    def learnt(engine: str) -> dict[str, bytes]:
        with DQN(DQNConfig(**QUICK | settings, runtime={"engine": engine})) as dqn:
            dqn.learn()
            return weights_of(dqn)

    assert learnt("process") == learnt("inline")


@pytest.mark.parametrize("settings", [{}, RAINBOW | {"normalize_rewards": True}])
def test_a_resumed_run_ends_like_one_that_never_stopped(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    quick = QUICK | {"metrics": {"interval": 0}}  # reports, and so is killed, each iteration
    config: Any = DQNConfig(**quick | settings)
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


def test_a_checkpoint_without_its_replay_is_refused(tmp_path: Path) -> None:
    with DQN(DQNConfig(**QUICK)) as dqn:
        dqn.train()
        checkpoint = read_checkpoint(dqn.save(tmp_path / "checkpoint"))
        del checkpoint.files["replay/state.safetensors"]  # type: ignore[attr-defined]
        with pytest.raises(CheckpointError, match="does not hold a run of this config"):
            dqn.restore(checkpoint)


def test_a_buffer_larger_than_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory.available_memory()
    assert free is not None
    assert free > 1 << 20
    monkeypatch.setattr(memory, "available_memory", lambda: 6000)
    with pytest.raises(UsageError, match=r"buffer_size 200: .* write \d+ or less") as refusal:
        DQN(DQNConfig(**QUICK))
    most = int(str(refusal.value).split()[-3])
    DQN(DQNConfig(**QUICK | {"buffer_size": most, "rollout_length": 1})).close()


def test_a_missing_range_of_returns_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--algo", "dqn", "--env", "CartPole-v1", "--run-dir", str(tmp_path / "run")]
    assert train_main([*words, "--distributional", "--v-max", "1"]) == 2
    assert "v_min: missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"actions are box.*dqn can act in discrete only"):
        DQN(DQNConfig(env="Pendulum-v1"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"buffer_size": 7}, "buffer_size: 7 is less than batch_size 8"),
        ({"learning_starts": 400}, "learning_starts: 400 is not before the end, total_steps 400"),
        ({"n_step": 51}, "n_step: 51 is more than the 50 transitions"),
        ({"rollout_length": 51}, "rollout_length: 51 is more than the 50 transitions"),
        ({"priority_alpha": 0.5}, "priority_alpha: 0.5 has no effect while prioritized is false"),
        ({"priority_beta": 0.5}, "priority_beta: 0.5 has no effect"),
        ({"distributional": True, "v_max": 1}, "v_min: missing: distributional needs the lowest"),
        ({"distributional": True, "v_min": 1}, "v_max: missing: distributional needs the highest"),
        (C51 | {"v_min": 60.0}, "v_min: 60.0 is not below v_max 60.0"),
        ({"v_min": 0.0}, "v_min: 0.0 has no effect while distributional is false"),
        ({"v_max": 1.0}, "v_max: 1.0 has no effect while distributional is false"),
        ({"noisy_sigma": 0.1}, "noisy_sigma: 0.1 has no effect while noisy is false"),
        ({"noisy": True}, "exploration_fraction: 0.5 has no effect while noisy is true; write"),
        (NOISY | {"exploration_final": 0.1}, "noisy: false, or leave it at 0.05"),
        (NOISY | {"exploration_initial": 0.9}, "exploration_initial: 0.9 has no effect"),
        ({"num_atoms": 11}, "num_atoms: 11 has no effect while distributional is false"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        DQNConfig(**QUICK | settings).checked()
    assert words in str(refusal.value)
    assert refusal.value.exit_code == 2


BASE: dict[str, Any] = QUICK | {
    "seed": 1,  # of which network and target prefer different actions so early
    "prioritized": True,
    "learning_rate": 5e-3,
    "learning_rate_final": 1e-3,
    "updates_per_step": 0.5,
    "target_update_interval": 64,
    "n_step": 2,
}
ATOMS: dict[str, Any] = BASE | C51 | {"num_atoms": 21}
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
    "double": True,
    "dueling": True,
    "noisy": NOISY,
    "noisy_sigma": NOISY | {"noisy_sigma": 0.2},
    "distributional": C51,
    "num_atoms": ATOMS | {"num_atoms": 31},
    "v_min": ATOMS | {"v_min": -10.0},
    "v_max": ATOMS | {"v_max": 30.0},
    "exploration_initial": 0.5,
    "exploration_final": 0.5,
    "exploration_fraction": 0.1,
    "total_steps": 300,
    "env_kwargs": {"sutton_barto_reward": True},
}
"""For each setting a value that must change what is learnt on CartPole in 192 steps.

A table stands for settings that go together; those of the distribution change `ATOMS`.
"""


def _weights(settings: dict[str, Any]) -> dict[str, bytes]:
    with DQN(DQNConfig(**settings)) as dqn:
        while dqn.env_steps < 192:
            dqn.train()
        found = weights_of(dqn)
    kept = {name: v for name, v in found.items() if name.startswith("module.")}
    del kept["module.epsilon"]
    return kept


@pytest.fixture(scope="module")
def base_weights() -> dict[str, bytes]:
    return _weights(BASE)


@pytest.fixture(scope="module")
def atoms_weights() -> dict[str, bytes]:
    return _weights(ATOMS)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_is_without_effect(
    name: str, base_weights: dict[str, bytes], atoms_weights: dict[str, bytes]
) -> None:
    value = SETTINGS[name]
    together = isinstance(value, dict) and name != "env_kwargs"
    changed = _weights(BASE | (value if together else {name: value}))
    assert changed not in (base_weights, atoms_weights)


def test_every_setting_of_the_learner_is_tried() -> None:
    elsewhere = {
        "env", "seed", "env_runners", "learners", "runtime", "evaluation", "checkpoints", "metrics",
        "image_encoder",  # by tests/algorithms/test_images.py
        "encoder", "encoder_kwargs",  # by test_custom_networks.py
        "memory", "memory_size", "sequence_length", "burn_in",  # by test_dqn_memory.py
    }  # fmt: skip
    assert {field.name for field in fields(DQNConfig)} - elsewhere == set(SETTINGS)
