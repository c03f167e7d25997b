"""The analytic engines of DQN is held to the torch loss, which is the definition."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rl.algorithms.dqn import DQN, DQNConfig, DQNLearner
from rl.core.data.replay import Transitions
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, Tree, tree_map
from rl.core.learning.experience import ReplayBatch
from rl.errors import UsageError
from tests.by_hand import BY_HAND, FASTEST

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1, 1, (4,)),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "category": spaces.Discrete(5, start=-2),
    "nested": spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.MultiDiscrete([2, 3])),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "everything": {
        "double": True,
        "dueling": True,
        "prioritized": True,
        "n_step": 3,
        "normalize_observations": True,
        "normalize_rewards": True,
        "max_grad_norm": 0.01,
    },
    "prioritized": {"prioritized": True},
    "normalized": {"normalize_observations": True},
    "tanh": {"activation": "tanh"},
    "elu": {"activation": "elu"},
    "silu": {"activation": "silu"},
    "no hidden layer": {"hidden_sizes": ()},
    "no hidden layer, dueling": {"hidden_sizes": (), "dueling": True},
    "one hidden layer, dueling": {"hidden_sizes": (6,), "dueling": True},
    "three hidden layers": {"hidden_sizes": (9, 8, 7), "dueling": True},
    "unclipped": {"max_grad_norm": None},
}
M = 16


def learner_of(
    observation: spaces.Space[Any] = OBSERVATIONS["vector"], **settings: Any
) -> DQNLearner:
    engine = settings.pop("engine", "numpy")
    settings = {"hidden_sizes": (16, 8), "batch_size": M, "buffer_size": 64, **settings}
    config = DQNConfig(seed=3, **settings).with_learners(engine=engine)
    learner = DQNLearner(config, Spaces(observation, spaces.Discrete(3)), 1)
    with torch.no_grad():  # a target of its own, statistics of its own
        learner.target_parameters.add_(0.1 * torch.randn_like(learner.target_parameters))
        for name, buffer in learner.module.named_buffers():
            if "normalizer" in name:
                buffer.uniform_(0.5, 2)
    return learner


def batch_of(learner: DQNLearner, generator: np.random.Generator) -> tuple[Transitions, Array]:
    layout = learner.module.observation_layout
    learner.module.observation_layout.space.seed(int(generator.integers(1 << 30)))

    def rows() -> Tree:
        return layout.stack([layout.space.sample() for _ in range(M)])

    found = Transitions(
        rows(),
        generator.integers(0, 3, M),
        (3 * generator.normal(size=M)).astype(np.float32),  # on both sides of Huber's bend
        rows(),
        (0.9 * (generator.random(M) < 0.8)).astype(np.float32),
    )
    return found, generator.random(M).astype(np.float32)


def torch_batch(learner: DQNLearner, found: Transitions, weights: Array | None) -> ReplayBatch:
    return ReplayBatch(
        np.arange(M),
        tree_map(torch.tensor, found.observations),
        torch.tensor(found.actions),
        torch.tensor(found.returns),
        tree_map(torch.tensor, found.next_observations),
        torch.tensor(found.discounts),
        None if weights is None else torch.tensor(weights),
    )


def compare(learner: DQNLearner, generator: np.random.Generator) -> None:
    assert learner.by_hand
    found, weights = batch_of(learner, generator)
    used = weights if learner.config.prioritized else None
    loss, errors, values = learner.loss(torch_batch(learner, found, used))
    learner.flat.backward(loss)
    expected = learner.flat.gradient.clone()
    learner.flat.gradient.fill_(torch.nan)  # every entry is written
    terms, our_errors = learner.analytic.gradient(found, used)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(learner.flat.gradient, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(our_errors, errors.numpy(), rtol=1e-5, atol=1e-5)
    assert terms["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    assert terms["q_value"] == pytest.approx(values.mean().item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_the_gradient_is_that_of_the_torch_loss_for_every_setting(
    settings: dict[str, Any], engine: str
) -> None:
    generator = np.random.default_rng()  # other inputs every time
    learner = learner_of(engine=engine, **settings)
    for _ in range(5):
        compare(learner, generator)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("observation", OBSERVATIONS.values(), ids=list(OBSERVATIONS))
@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_is_that_of_torch_for_every_observation(
    observation: spaces.Space[Any], normalize: bool, engine: str
) -> None:
    learner = learner_of(observation, normalize_observations=normalize, engine=engine)
    compare(learner, np.random.default_rng())


class Cubed(DQNLearner):
    def loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, Tensor]:
        loss, errors, values = super().loss(batch)
        return loss**3, errors, values


def test_what_it_cannot_do_is_refused_when_asked_for_and_left_to_torch_otherwise() -> None:
    image = spaces.Box(0, 255, (40, 40), np.uint8)
    atoms = {"distributional": True, "v_min": -1.0, "v_max": 1.0}
    for settings, word in (
        ({"activation": "gelu"}, "gelu"),
        ({"observation": image}, "images"),
        (atoms, "distributional"),
    ):
        assert learner_of(**settings, engine="auto").engine == "torch"
        with pytest.raises(UsageError, match=word):
            learner_of(**settings)
    assert learner_of(engine="auto").engine == FASTEST
    assert learner_of(engine="torch").engine == "torch"


def test_a_learner_with_a_loss_of_its_own_is_left_to_torch() -> None:
    config = DQNConfig(buffer_size=64)
    learner = Cubed(config, Spaces(OBSERVATIONS["vector"], spaces.Discrete(3)), 1)
    assert learner.engine == "torch"
    assert "Cubed" in learner.engine_obstacles[0]


def trained(engine: str, **settings: Any) -> tuple[DQN, Array]:
    config = DQNConfig(
        env=lambda: gymnasium.make("CartPole-v1"),
        seed=1,
        total_steps=400,
        learning_starts=50,
        batch_size=32,
        learning_rate=1e-3,
        hidden_sizes=(16,),
        target_update_interval=50,
        **settings,
    ).with_learners(engine=engine)
    with config.build() as algorithm:
        algorithm.learn()
        return algorithm, algorithm.learners.get_weights().parameters


@pytest.mark.parametrize("engine", BY_HAND)
def test_engines_stay_together_and_each_repeats_itself(engine: str) -> None:
    _, first = trained(engine, double=True, dueling=True)
    _, again = trained(engine, double=True, dueling=True)
    _, torchs = trained("torch", double=True, dueling=True)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, torchs)
    np.testing.assert_allclose(first, torchs, rtol=0, atol=1e-3)
