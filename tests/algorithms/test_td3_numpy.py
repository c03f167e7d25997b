"""The analytic engines of TD3 are held to the torch losses, which are the definition."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.algorithms.td3 import TD3, TD3Config, TD3Learner
from rl.algorithms.training import Interrupted
from rl.core.data.replay import Transitions
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, tree_map
from rl.core.learning.averages import Averages
from rl.core.learning.experience import ReplayBatch
from rl.core.models.plain import PlainNetwork
from rl.errors import UsageError
from rl.testing.algorithms import weights_of
from tests.algorithms.test_training import Quiet, _go_on, _KillAfter, _policy_bytes, _run
from tests.by_hand import BY_HAND, FASTEST

VECTOR = spaces.Box(-1, 1, (4,))
NESTED = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.MultiDiscrete([2, 3]))
ACTIONS = spaces.Box(np.array([-2.0, 0.0, -1.0], np.float32), np.array([2.0, 0.4, 1.0], np.float32))
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prioritized": {"prioritized": True},
    "no noise on the target": {"target_noise": 0},
    "noise that is clipped": {"target_noise": 1.0, "target_noise_clip": 0.7},
    "tanh": {"activation": "tanh"},
    "elu": {"activation": "elu"},
    "silu": {"activation": "silu"},
    "three hidden layers": {"hidden_sizes": (9, 8, 7)},
    "wide": {"hidden_sizes": (130, 70), "batch_size": 100},
    "no hidden layer": {"hidden_sizes": ()},
    "normalised": {"normalize_observations": True},
    "nested": {"observation": NESTED, "normalize_observations": True},
    "discrete": {"observation": spaces.Discrete(5)},
    "a row": {"batch_size": 1},
}


def learner_of(
    observation: spaces.Space[Any] = VECTOR,
    action: spaces.Space[Any] = ACTIONS,
    engine: str = "numpy",
    **settings: Any,
) -> TD3Learner:
    settings = {"hidden_sizes": (16, 8), "batch_size": 16, "buffer_size": 200, **settings}
    config = TD3Config(seed=3, **settings).with_learners(engine=engine)  # type: ignore[arg-type]
    learner = TD3Learner(config, Spaces(observation, action), 1)
    if isinstance(learner.network, PlainNetwork):  # targets and statistics of their own
        generator = np.random.default_rng()
        for slow in (learner.twins.slow, learner.slow_policy):
            slow.array += generator.normal(0, 0.2, slow.array.shape).astype(np.float32)
        learner.flat.array *= 2
        for name, buffer in learner.network.buffers.items():
            if "normalizer" in name:
                buffer[...] = generator.uniform(0.5, 2, buffer.shape)
    return learner


def batch_of(learner: TD3Learner) -> tuple[Transitions, Array]:
    generator, size = np.random.default_rng(), learner.config.batch_size  # others every time
    layout, actions = learner.network.observation_layout, learner.network.action_layout
    layout.space.seed(int(generator.integers(1 << 30)))
    rows = [layout.stack([layout.space.sample() for _ in range(size)]) for _ in range(2)]
    found = Transitions(
        rows[0],
        np.stack([actions.space.sample() for _ in range(size)]),
        generator.normal(size=size).astype(np.float32),
        rows[1],
        (0.9 * (generator.random(size) < 0.8)).astype(np.float32),
    )
    return found, generator.random(size).astype(np.float32)


def torch_batch(found: Transitions, weights: Array | None) -> ReplayBatch:
    return ReplayBatch(
        np.arange(len(found.returns)),
        tree_map(torch.tensor, found.observations),
        torch.tensor(found.actions),
        torch.tensor(found.returns),
        tree_map(torch.tensor, found.next_observations),
        torch.tensor(found.discounts),
        None if weights is None else torch.tensor(weights),
    )


def compare(learner: TD3Learner) -> None:
    found, importance = batch_of(learner)
    weights = importance if learner.config.prioritized else None
    batch = torch_batch(found, weights)
    noise = learner.noise((len(found.returns), 3))
    critics = learner.others["critics"]
    loss, values, errors = learner.critic_loss(batch, torch.tensor(noise))
    critics.backward(loss)
    expected = critics.gradient.clone()
    actor_loss = learner.policy_loss(batch.observations)
    learner.flat.backward(actor_loss)
    expected_policy = learner.flat.gradient.clone()

    critics.gradient.fill_(torch.nan)  # every entry is written
    learner.flat.gradient.fill_(7)  # by the loss of its own network alone
    terms, ours = learner.analytic.critic_gradient(found, noise, weights)
    assert_close(critics.gradient, expected)
    np.testing.assert_allclose(ours, errors.numpy(), rtol=1e-4, atol=1e-5)
    assert terms["critic_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert terms["q_value"] == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-6)
    assert bool((learner.flat.gradient == 7).all())

    learner.flat.gradient.fill_(torch.nan)
    critics.gradient.fill_(7)
    assert learner.analytic.policy_gradient(found.observations) == pytest.approx(
        actor_loss.item(), rel=1e-4, abs=1e-5
    )
    assert_close(learner.flat.gradient, expected_policy)
    assert bool((critics.gradient == 7).all())


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_both_gradients_are_those_of_the_torch_losses(
    settings: dict[str, Any], engine: str
) -> None:
    compare(learner_of(engine=engine, **settings))


@pytest.mark.parametrize("engine", BY_HAND)
def test_it_computes_with_the_weights_and_statistics_of_now(engine: str) -> None:
    """Those of the module, too: it lives in the same memory."""
    learner = learner_of(engine=engine, normalize_observations=True)
    compare(learner)
    with torch.no_grad():
        for network in (learner.module, learner.critics, learner.target, learner.target_policy):
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    learner.observe(np.random.default_rng().normal(size=(20, 4)).astype(np.float32))
    compare(learner)
    compare(learner_of(engine=engine, batch_size=7))  # and again after another number of rows


def test_what_it_cannot_do_is_refused_when_asked_for_and_left_to_torch_otherwise() -> None:
    pixels = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for settings, word in (({"observation": pixels}, "images"), ({"activation": "gelu"}, "gelu")):
        assert learner_of(**settings, engine="auto").engine == "torch"
        with pytest.raises(UsageError, match=word):
            learner_of(**settings)
    assert learner_of(engine="auto").engine == FASTEST


def test_a_learner_with_other_losses_is_left_to_torch() -> None:
    class Mine(TD3Learner):
        pass

    config = TD3Config(hidden_sizes=(8,), buffer_size=64, batch_size=4)
    learner = Mine(config, Spaces(VECTOR, ACTIONS), 1)
    assert learner.engine == "torch"
    assert "Mine may have other losses" in learner.engine_obstacles[0]


OPTIONS: dict[str, Any] = {
    "prioritized": True,
    "n_step": 3,
    "normalize_observations": True,
    "normalize_rewards": True,
    "max_grad_norm": 0.02,
    "policy_delay": 3,
    "target_update_interval": 1,
}


def config_of(engine: str, settings: dict[str, Any], **more: Any) -> TD3Config:
    config = TD3Config(
        env="Pendulum-v1",
        seed=1,
        total_steps=160,
        learning_starts=40,
        buffer_size=100,
        batch_size=16,
        hidden_sizes=(16,),
        **settings,
        **more,
    )
    return config.with_learners(engine=engine)  # type: ignore[arg-type]


def trained(engine: str, settings: dict[str, Any]) -> dict[str, Array]:
    with TD3(config_of(engine, settings)) as algorithm:
        algorithm.learn()
        state: dict[str, Array] = algorithm.learners.get_state()
        return state


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", [{}, OPTIONS], ids=["plain", "options"])
def test_engines_stay_together_and_each_repeats_itself(
    settings: dict[str, Any], engine: str
) -> None:
    first, again, torchs = (trained(name, settings) for name in (engine, engine, "torch"))
    assert {k: v.tobytes() for k, v in first.items()} == {k: v.tobytes() for k, v in again.items()}
    assert first.keys() == torchs.keys()
    assert first["counters"][0] == torchs["counters"][0] == 120
    for name in ("generator", "extra.credit"):
        assert first[name].tolist() == torchs[name].tolist()
    for name in ("critics.vector", "module.head.weight", "extra.target", "extra.target_policy"):
        assert not np.array_equal(first[name], torchs[name]), "one engine gave both"
        np.testing.assert_allclose(first[name], torchs[name], rtol=0, atol=2e-3)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize(("delay", "interval"), [(2, 2), (3, 1), (1, 4)])
def test_policy_and_targets_move_when_their_turn_comes(
    delay: int, interval: int, engine: str
) -> None:
    settings = {"policy_delay": delay, "target_update_interval": interval, "tau": 0.25}
    with TD3(config_of(engine, settings)) as algorithm:
        algorithm.learn(60)
        learner: Any = algorithm.learners._learner
    critics = learner.others["critics"].array
    learner.num_updates = 0
    arrays = [critics, learner.flat.array, learner.twins.slow.array, learner.slow_policy.array]
    for update in range(1, 7):
        before = [array.copy() for array in arrays]
        learner.step(Averages(), Averages())
        moved = [not np.array_equal(*pair) for pair in zip(arrays, before, strict=True)]
        turn = update % interval == 0
        assert moved == [True, update % delay == 0, turn, turn]
        if turn:
            for slow, old, fast in zip(arrays[2:], before[2:], arrays[:2], strict=True):
                np.testing.assert_allclose(slow, old + 0.25 * (fast - old), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", BY_HAND)
def test_priorities_follow_the_errors(engine: str) -> None:
    with TD3(config_of(engine, {"prioritized": True, "priority_alpha": 1.0})) as algorithm:
        algorithm.learn(60)
        learner: Any = algorithm.learners._learner
    noted: list[Array] = []
    learner.experience.note_errors = noted.append
    _, found, weights = learner.experience.draw_arrays()
    generator = learner.numbers.get_state()
    noise = torch.tensor(learner.noise((16, 1)))
    learner.numbers.set_state(generator)
    errors = learner.critic_loss(torch_batch(found, weights), noise)[2].abs().mean(0)
    learner.fit_critics_by_hand(found, weights)
    np.testing.assert_allclose(noted[0], errors.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", [{}, OPTIONS], ids=["plain", "options"])
def test_processes_give_the_same_bits_as_inline(settings: dict[str, Any], engine: str) -> None:
    def learnt(runtime: str) -> dict[str, bytes]:
        own = {"env_runners": {"num": 2, "envs_per_runner": 2}, "rollout_length": 4}
        with TD3(config_of(engine, settings, runtime={"engine": runtime}, **own)) as algorithm:
            algorithm.learn()
            return weights_of(algorithm)

    assert learnt("process") == learnt("inline")


@pytest.mark.parametrize("engine", BY_HAND)
def test_a_resumed_run_ends_like_one_that_never_stopped(tmp_path: Path, engine: str) -> None:
    own = {"metrics": {"interval": 0}, "rollout_length": 4}
    config: Any = config_of(engine, OPTIONS, **own)
    _run(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        _run(tmp_path / "parts", config, reporter=_KillAfter(21, signal.SIGTERM))
    reporter = Quiet()
    _go_on(tmp_path / "parts", config, reporter)
    assert 40 < reporter.steps_done < 160
    assert _policy_bytes(tmp_path / "parts") == _policy_bytes(tmp_path / "whole")


@pytest.mark.parametrize("engine", BY_HAND)
def test_a_loss_that_is_not_finite_moves_nothing(engine: str) -> None:
    with TD3(config_of(engine, {"policy_delay": 1, "target_update_interval": 1})) as algorithm:
        algorithm.learn(60)
        learner: Any = algorithm.learners._learner
    _, found, _ = learner.experience.draw_arrays()
    found.returns[3] = np.inf
    critics = learner.others["critics"]
    before = critics.array.copy(), critics.optimizer_state()["exp_avg"].copy()
    with np.errstate(invalid="ignore", over="ignore"):
        learner.fit_critics_by_hand(found, None)
    assert critics.skipped == critics.skipped_in_a_row == 1
    assert np.array_equal(critics.array, before[0])
    assert np.array_equal(critics.optimizer_state()["exp_avg"], before[1])
    found.returns[3] = 0
    learner.fit_critics_by_hand(found, None)
    assert critics.skipped_in_a_row == 0
    assert not np.array_equal(critics.array, before[0])

    kept = learner.flat.array.copy()
    critics.array[-1] = np.nan  # of the second, which the policy does not climb
    learner.fit_policy_by_hand(found.observations)
    assert learner.flat.skipped == 0
    assert not np.array_equal(learner.flat.array, kept)
    kept = learner.flat.array.copy()
    critics.array[0] = np.nan
    learner.fit_policy_by_hand(found.observations)
    assert learner.flat.skipped == 1
    assert np.array_equal(learner.flat.array, kept)
