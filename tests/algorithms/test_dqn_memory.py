"""DQN with memory: what a batch of windows is seen as, from which states, with which gradients."""

import os
import signal
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch

from rl.algorithms.dqn import DQN, DQNConfig, DQNLearner
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array
from rl.core.learning.window_batch import WindowBatch
from rl.core.models.memory import Packed
from rl.core.models.q_network import QNetwork
from rl.core.records.checkpoint import read_checkpoint
from rl.errors import ConfigError
from rl.testing import check_algorithm
from rl.testing.algorithms import weights_of
from rl.testing.memory_envs import TMaze
from rl.testing.probe_envs import MaskedChoice
from tests.algorithms.test_memory import KINDS, NATIVE_MODES, Drifting

QUICK: dict[str, Any] = {
    "env": Drifting,
    "seed": 3,
    "hidden_sizes": (8,),
    "memory_size": 5,
    "sequence_length": 4,
    "burn_in": 3,
    "batch_size": 32,
    "rollout_length": 12,
    "buffer_size": 6 * 40,
    "learning_starts": 60,
    "updates_per_step": 0.05,
    "target_update_interval": 100,
    "total_steps": 2000,
    "env_runners": {"num": 2, "envs_per_runner": 3},
    "runtime": {"engine": "inline"},
}
EVERYTHING: dict[str, Any] = {
    "double": True,
    "dueling": True,
    "prioritized": True,
    "n_step": 3,
    "noisy": True,
    "distributional": True,
    "num_atoms": 11,
    "v_min": 0.0,
    "v_max": 9.0,
}


def config_of(kind: Any, **settings: Any) -> DQNConfig:
    return DQNConfig(**QUICK | {"memory": kind} | settings)


def learner_of(dqn: DQN) -> DQNLearner:
    return cast("DQNLearner", dqn.learners._learner)  # type: ignore[union-attr]


def stir(dqn: DQN, seed: int = 1) -> None:
    """Weights with which the memory matters."""
    vector = learner_of(dqn).flat.vector
    vector.add_(torch.randn(len(vector), generator=torch.Generator().manual_seed(seed)) * 0.5)
    dqn.publish_weights()


def filled(dqn: DQN, rollouts: int = 4) -> list[Rollout]:
    """Samples into the replay, all by the same weights."""
    stir(dqn)
    found = [Rollout.concatenate(dqn.sample(12)) for _ in range(rollouts)]
    for rollout in found:
        rollout.check()
        learner_of(dqn).experience.remember(rollout, 0)
    return found


@torch.no_grad()
def seen_by_hand(network: QNetwork, rollouts: list[Rollout]) -> dict[bytes, list[float]]:
    """Q of every observation given all of its episode before it, one at a time; they differ."""
    found = {}
    memory = torch.zeros(rollouts[0].rewards.shape[1], network.memory_size)
    for rollout in rollouts:
        observations, finals = (
            cast("Array", rows) for rows in (rollout.observations, rollout.final_observations)
        )
        ends = {(int(t), int(b)): k for k, (t, b) in enumerate(rollout.final_steps)}
        for t, b in np.ndindex(rollout.rewards.shape):
            own = memory[b : b + 1]
            for row in [observations[t, b]]:
                found[row.tobytes()] = network.q_values(torch.tensor(row[None]), None, own)[0]
            features = network.encoder(torch.tensor(observations[t, b][None]))
            memory[b] = network.remember(features, Packed.single(own))[1][0]
            if (t, b) in ends:
                row = finals[ends[t, b]]
                after = memory[b : b + 1]
                found[row.tobytes()] = network.q_values(torch.tensor(row[None]), None, after)[0]
                memory[b] = 0
    for b, row in enumerate(observations[-1]):
        own = memory[b : b + 1]
        found[row.tobytes()] = network.q_values(torch.tensor(row[None]), None, own)[0]
    return {key: values.tolist() for key, values in found.items()}


def rows_of(batch: WindowBatch, places: Array) -> list[bytes]:
    seen: Any = batch._windows.seen.observations
    return [row.tobytes() for row in seen[places]]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_learner_sees_what_the_runner_saw(kind: Any, burn_in: int, n_step: int) -> None:
    """While weights stand still, burn-in comes to the state that the runner stored."""
    with config_of(kind, burn_in=burn_in, n_step=n_step, batch_size=128).build() as dqn:
        by_hand = seen_by_hand(learner_of(dqn).module, filled(dqn))
        learner = learner_of(dqn)
        batch = learner.draw()
        assert isinstance(batch, WindowBatch)
        now, then = batch.features(learner.module)
        windows = batch._windows
        for features, places in ((now, windows.states), (then, windows.successors)):
            values = learner.module.values_of(features).detach().numpy()
            hand = np.array([by_hand[row] for row in rows_of(batch, places)])
            assert np.abs(values - hand).max() < 1e-5
        assert (batch.discounts == 0).any()
        assert windows.memory.any(1).any()
        assert (windows.before is not None) == (burn_in > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_burn_in_to_the_first_step_forgets_the_weights_that_acted(kind: Any) -> None:
    with config_of(kind, burn_in=50, batch_size=128).build() as dqn:
        rollouts = filled(dqn, 3)  # all of it is still there
        stir(dqn, seed=2)
        learner = learner_of(dqn)
        by_hand = seen_by_hand(learner.module, rollouts)
        batch = learner.draw()
        assert isinstance(batch, WindowBatch)
        values = learner.module.values_of(batch.features(learner.module)[0]).detach().numpy()
        hand = np.array([by_hand[row] for row in rows_of(batch, batch._windows.states)])
        assert np.abs(values - hand).max() < 1e-5
        shorter = learner.experience._windows(learner.experience._drawn)
        stale = WindowBatch(
            learner.experience.replay.gather_windows(learner.experience._drawn, (4, 0), 1, 0.99),
            None,
            learner.device,
        )
        old = learner.module.values_of(stale.features(learner.module)[0]).detach().numpy()
        assert shorter.owners.tolist() == stale._windows.owners.tolist()
        assert np.abs(old - hand).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_goes_through_what_leads_up_to_a_window(kind: Any) -> None:
    """With weights that stand still the state is the same with it and without: so is the rest."""
    found = []
    for burn_in in (0, 3):
        with config_of(kind, burn_in=burn_in, double=True).build() as dqn:
            filled(dqn)
            learner = learner_of(dqn)
            learner.target_parameters.copy_(learner.flat.vector)  # it too comes to the same state
            batch = learner.draw()
            assert isinstance(batch, WindowBatch)
            loss, _, _ = learner.loss(batch)
            loss.backward()
            found.append(torch.cat([p.grad.flatten() for p in learner.module.parameters()]))
    assert found[0].abs().max() > 1e-3
    assert (found[0] - found[1]).abs().max() < 1e-5


def test_a_loss_is_the_mean_over_transitions_by_the_targets_of_the_paper() -> None:
    """Each transition by hand: double, three steps, importance weights of its window."""
    settings = {"double": True, "n_step": 3, "prioritized": True}
    with config_of("lstm", **settings).build() as dqn:
        rollouts = filled(dqn)
        learner = learner_of(dqn)
        learner.target_parameters.mul_(0.7)
        learner.experience.replay.set_priorities(  # type: ignore[attr-defined]
            learner.experience.replay.draw(64), np.linspace(0, 3, 64)
        )
        online = seen_by_hand(learner.module, rollouts)
        batch = learner.draw()
        assert isinstance(batch, WindowBatch)
        windows = batch._windows
        # The target begins with the state that the network stored, not with one of its own.
        _, behind = batch.features(learner.target, states=False)
        slow = learner.target.values_of(behind).detach().numpy()
        losses = []
        for i, (state, successor) in enumerate(
            zip(rows_of(batch, windows.states), rows_of(batch, windows.successors), strict=True)
        ):
            best = int(np.argmax(online[successor]))
            target = windows.returns[i] + windows.discounts[i] * slow[i, best]
            error = abs(online[state][int(windows.actions[i])] - target)
            losses.append(0.5 * error**2 if error < 1 else error - 0.5)
        replay: Any = learner.experience.replay
        drawn = learner.experience._drawn
        weights = replay.weights(drawn, learner.experience._beta)[windows.owners]
        assert len(set(weights.tolist())) > 1
        loss, errors, _ = learner.loss(batch)
        assert loss.item() == pytest.approx(float(np.mean(np.array(losses) * weights)), rel=1e-4)
        per_window = batch.per_draw(errors).numpy()
        sizes = errors.abs().numpy()
        for window in range(len(drawn)):
            own = sizes[windows.owners == window]
            assert per_window[window] == pytest.approx(0.9 * own.max() + 0.1 * own.mean())
        learner.experience.note_errors(batch.per_draw(errors))
        last = {int(index): size for index, size in zip(drawn, per_window, strict=True)}
        noted = replay._priorities.get(np.array(list(last)))
        assert noted == pytest.approx((np.array(list(last.values())) + 1e-6) ** 0.6, rel=1e-4)


def learnt(config: DQNConfig, kills: int = 0, iterations: int = 6) -> dict[str, bytes]:
    with config.build() as dqn:
        for iteration in range(iterations):
            dqn.train()
            if iteration < kills:
                runners: Any = dqn.env_runners._runners
                os.kill(runners[iteration].pid, signal.SIGKILL)
        assert learner_of(dqn).num_updates > 5
        return weights_of(dqn)


@pytest.mark.parametrize("settings", [{}, EVERYTHING])
def test_engines_and_kills_change_nothing(settings: dict[str, Any]) -> None:
    inline = learnt(config_of("gru", **settings))
    processes = config_of("gru", **settings, runtime={"engine": "process"})
    assert learnt(processes, kills=2) == inline


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        {"normalize_observations": True, "normalize_rewards": True},
        {"env": MaskedChoice, "double": True},
        {"env": partial(MaskedChoice, "info"), "dueling": True},
        {"env_runners": QUICK["env_runners"] | {"overlap": True}},
        {
            "env": NATIVE_MODES["NEXT_STEP"][0],
            "env_runners": {"num": 2, "envs_per_runner": 3, "vectorization": "native"},
        },
    ],
)
def test_it_does_what_every_algorithm_must(settings: dict[str, Any], kind: Any) -> None:
    check_algorithm(config_of(kind, **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_in_mid_episode_goes_on_with_the_same_bits(kind: Any, tmp_path: Any) -> None:
    config = config_of(kind, prioritized=True)
    with config.build() as dqn, config.build() as resumed:
        stir(dqn)
        for _ in range(3):
            dqn.train()
        dqn.save(tmp_path / "checkpoint")
        assert resumed.restore(read_checkpoint(tmp_path / "checkpoint")) == 0
        for _ in range(2):
            dqn.train()
            resumed.train()
        assert weights_of(resumed) == weights_of(dqn)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": None}, "burn_in: 3 has no effect without memory; write gru or lstm"),
        ({"memory": None}, "sequence_length: 4 has no effect without memory"),
        ({"batch_size": 30}, "batch_size: 30 is not made of whole sequences of 4 .* write 32"),
        (
            {"batch_size": 8, "learners": {"num": 3}},
            "8 is 2 sequences of 4 steps .* each of 3 learners .* write 12 or more",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DQNConfig(**QUICK | {"memory": "gru"} | settings).checked()


@pytest.mark.parametrize("name", ["memory", "memory_size", "sequence_length", "burn_in"])
def test_no_setting_of_it_is_without_effect(name: str) -> None:
    changed = {"memory": "lstm", "memory_size": 6, "sequence_length": 8, "burn_in": 1}
    assert learnt(config_of("gru", **{name: changed[name]})) != learnt(config_of("gru"))


def test_the_batch_of_a_failure_is_that_of_windows() -> None:
    with config_of("gru").build() as dqn:
        filled(dqn)
        learner_of(dqn).draw()
        found = learner_of(dqn).experience.batch_at_hand()
    assert {"indices", "memory", "seen/observations", "before/observations"} <= set(found)
    assert len(found["indices"]) == 8


def found_right(kind: Any, seed: int) -> float:
    """Share of 200 greedy episodes that turned the right way."""
    memory: dict[str, Any] = {"memory": kind, "memory_size": 32} if kind else {}
    if kind:
        memory |= {"sequence_length": 16, "burn_in": 8}
    config = DQNConfig(
        env=TMaze,
        seed=seed,
        total_steps=40_000,
        gamma=0.98,
        learning_rate=1e-3,
        hidden_sizes=(32,),
        rollout_length=8,
        buffer_size=20_000,
        batch_size=256,
        learning_starts=1000,
        updates_per_step=0.125,
        target_update_interval=400,
        double=True,
        exploration_fraction=0.5,
        env_runners={"num": 1, "envs_per_runner": 8},
        **memory,
    )
    with config.build() as dqn:
        dqn.learn()
        return float(np.mean(np.array(dqn.evaluate(200).returns) > 0.5))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_a_maze_that_needs_memory_is_solved_with_it(kind: Any) -> None:
    assert sorted(found_right(kind, seed) for seed in (1, 2, 3))[1] >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_maze_that_needs_memory_is_not_solved_without() -> None:
    assert all(found_right(None, seed) <= 0.6 for seed in (1, 2, 3))
