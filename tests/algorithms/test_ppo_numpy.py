"""The analytic engines of PPO is held to the torch loss, which is the definition."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rl.algorithms.ppo import PPO, PPOBatch, PPOConfig, PPOLearner
from rl.core.data.batch import on_host
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, tree_map
from rl.core.learning.analytic_ppo import PPOArrays, ScoredSteps
from rl.core.learning.ranks import Ranks
from rl.core.models.actor import draw_noise
from rl.errors import Diverged, UsageError
from tests.by_hand import BY_HAND, FASTEST

VECTOR = spaces.Box(-1, 1, (4,))
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "category": spaces.Discrete(5, start=-2),
    "nested": spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.MultiDiscrete([2, 3])),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "one category": spaces.MultiDiscrete([4]),
    "categories": spaces.MultiDiscrete([2, 5, 3]),
    "bits": spaces.MultiBinary(4),
    "box": spaces.Box(-1, 1, (3,)),
    "everything": spaces.Dict(
        a=spaces.Discrete(3), b=spaces.Box(-2, 2, (2,)), c=spaces.MultiBinary(2), d=spaces.Box(0, 1)
    ),
}
EVERYTHING: dict[str, Any] = {
    "dual_clip": 1.5,
    "value_clip_range": 0.3,
    "entropy_coef": 0.05,
    "value_coef": 0.7,
    "kl_coef": 0.3,
    "shared_torso": True,
    "normalize_observations": True,
    "normalize_rewards": True,
    "max_grad_norm": 0.01,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "raw advantages": {"normalize_advantages": False},
    "entropy": {"entropy_coef": 0.1},
    "value coefficient": {"value_coef": 1.3},
    "value clipping": {"value_clip_range": 0.3},
    "dual clipping": {"dual_clip": 1.5},
    "wide clipping": {"clip_range": 0.6},
    "penalty": {"kl_coef": 0.5, "kl_target": 0.1},
    "shared": {"shared_torso": True},
    "relu": {"activation": "relu"},
    "elu": {"activation": "elu", "shared_torso": True},
    "silu": {"activation": "silu"},
    "no hidden layer": {"hidden_sizes": ()},
    "no hidden layer, shared": {"hidden_sizes": (), "shared_torso": True},
    "three hidden layers": {"hidden_sizes": (9, 8, 7)},
    "normalised": {"normalize_observations": True},
    "unclipped": {"max_grad_norm": None},
    "everything": EVERYTHING,
}
N, M = 40, 16  # the last minibatch is smaller


def learner_of(
    action: spaces.Space[Any] = ACTIONS["discrete"],
    observation: spaces.Space[Any] = VECTOR,
    engine: str = "numpy",
    **settings: Any,
) -> PPOLearner:
    settings = {"hidden_sizes": (16, 8), "minibatch_size": M, "rollout_length": N, **settings}
    config = PPOConfig(seed=3, **settings).with_learners(engine=engine)  # type: ignore[arg-type]
    learner = PPOLearner(config, Spaces(observation, action), 1)
    with torch.no_grad():  # a policy of some decision, statistics of its own
        learner.flat.vector.add_(0.3 * torch.randn_like(learner.flat.vector))
        for name, buffer in learner.module.named_buffers():
            if "normalizer" in name:
                buffer.uniform_(0.5, 2)
    return learner


def batch_of(learner: PPOLearner, generator: np.random.Generator) -> PPOBatch:
    """Steps of another policy, near enough that some ratios are clipped and others not."""
    module, layout = learner.module, learner.module.observation_layout
    layout.space.seed(int(generator.integers(1 << 30)))
    observations = tree_map(
        torch.from_numpy, layout.stack([layout.space.sample() for _ in range(N)])
    )
    noise = torch.from_numpy(draw_noise(module.action_layout, generator, N))
    with torch.no_grad():
        actions, extras = module.act(observations, noise)

    def drawn(scale: float) -> Tensor:
        return torch.from_numpy((scale * generator.normal(size=N)).astype(np.float32))

    old = module.value(observations).detach() + drawn(0.4)
    return PPOBatch(
        observations, actions, extras["log_prob"] + drawn(0.4), drawn(2), old + drawn(1), old
    )


def steps_of(batch: PPOBatch) -> ScoredSteps:
    return ScoredSteps(
        *(tree_map(on_host, getattr(batch, column)) for column in ScoredSteps._fields)
    )


def pairs(learner: PPOLearner, batch: PPOBatch) -> Iterator[tuple[PPOBatch, PPOArrays]]:
    """The same minibatches, as torch and as numpy take them."""
    steps = steps_of(batch)
    learner.analytic.load(steps)
    state = learner.numbers.get_state()
    arrays = list(learner.minibatches(steps))
    learner.numbers.set_state(state)
    tensors = list(learner.minibatches(batch))
    assert len(tensors) == len(arrays) == 3
    for tensor, array in zip(tensors, arrays, strict=True):
        assert isinstance(tensor, PPOBatch)
        assert isinstance(array, PPOArrays)
        yield tensor, array


def compare(learner: PPOLearner) -> None:
    batch = batch_of(learner, np.random.default_rng())  # other inputs every time
    clip_range = learner.config.clip_range
    for tensors, arrays in pairs(learner, batch):
        loss, terms = learner.loss(tensors, clip_range)
        learner.flat.backward(loss)
        expected = learner.flat.gradient.clone()
        learner.flat.gradient.fill_(torch.nan)  # every entry is written
        found = learner.gradient(arrays, clip_range)
        assert expected.abs().max() > 1e-3
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            learner.flat.gradient / scale, expected / scale, rtol=1e-5, atol=1e-5
        )
        assert found.keys() == {"loss", *terms}
        for name, value in {"loss": loss, **terms}.items():
            assert found[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_the_gradient_is_that_of_the_torch_loss_for_every_setting(
    settings: dict[str, Any], action: str, engine: str
) -> None:
    compare(learner_of(ACTIONS[action], engine=engine, **settings))


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
def test_the_gradient_is_that_of_torch_for_every_action_space(
    action: spaces.Space[Any], settings: dict[str, Any], engine: str
) -> None:
    compare(learner_of(action, engine=engine, **settings))


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("observation", OBSERVATIONS.values(), ids=list(OBSERVATIONS))
@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_is_that_of_torch_for_every_observation(
    observation: spaces.Space[Any], normalize: bool, engine: str
) -> None:
    compare(learner_of(observation=observation, normalize_observations=normalize, engine=engine))


def rollout_of(generator: np.random.Generator, length: int, width: int) -> Rollout:
    ends = generator.random((length, width)) < 0.1
    steps = np.argwhere(ends)
    return Rollout(
        observations=generator.normal(size=(length + 1, width, 4)).astype(np.float32),
        actions=generator.integers(0, 3, (length, width)),
        rewards=generator.normal(size=(length, width)).astype(np.float32),
        terminated=ends & (generator.random((length, width)) < 0.5),
        truncated=np.zeros((length, width), np.bool_),
        extras={"log_prob": np.full((length, width), -1.1, np.float32)},
        final_steps=steps,
        final_observations=generator.normal(size=(len(steps), 4)).astype(np.float32),
    )


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("width", [1, 3])
def test_steps_are_scored_as_torch_scores_them(width: int, engine: str) -> None:
    rollout = rollout_of(np.random.default_rng(), 20, width)
    ours, theirs = (
        learner_of(normalize_observations=True, engine=engine),
        learner_of(normalize_observations=True, engine="torch"),
    )
    theirs.set_state(ours.get_state())
    found, expected = ours.prepare(rollout), theirs.prepare(rollout)
    for name in ("values", "advantages", "value_targets"):
        torch.testing.assert_close(
            torch.as_tensor(getattr(found, name)), getattr(expected, name), rtol=1e-5, atol=1e-5
        )


class Half(Ranks):
    """The first of two learners, as far as rows are concerned."""

    size = 2


def test_a_rank_takes_its_rows_of_minibatches_normalised_whole() -> None:
    learner = learner_of()
    learner.analytic.load(steps_of(batch_of(learner, np.random.default_rng(0))))
    order = np.random.default_rng(1).permutation(N)
    whole = list(learner.analytic.minibatches(order, M, Ranks()))
    parts = list(learner.analytic.minibatches(order, M, Half()))
    assert [len(part.features) for part in parts] == [8, 8, 4]
    for mine, all_rows in zip(parts, whole, strict=True):
        rows = len(mine.features)
        assert np.array_equal(mine.columns, all_rows.columns[:, :rows])
        assert np.array_equal(mine.actions, all_rows.actions[:rows])


class Doubled(PPOLearner):
    def loss(self, batch: PPOBatch, clip_range: float) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(batch, clip_range)
        return 2 * loss, terms


def test_what_it_cannot_do_is_refused_when_asked_for_and_left_to_torch_otherwise() -> None:
    image = spaces.Box(0, 255, (40, 40), np.uint8)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"activation": "gelu"}, "gelu"),
        ({"observation": image}, "images"),
    )
    for settings, word in cases:
        assert learner_of(**settings, engine="auto").engine == "torch"
        with pytest.raises(UsageError, match=word):
            learner_of(**settings)
    assert learner_of(engine="auto").engine == FASTEST
    own = Doubled(PPOConfig(), Spaces(VECTOR, ACTIONS["box"]), 1)
    assert own.engine == "torch"
    assert "Doubled" in own.engine_obstacles[0]


def trained(engine: str, **settings: Any) -> Array:
    config = PPOConfig(
        env="CartPole-v1",
        seed=1,
        total_steps=512,
        rollout_length=64,
        num_epochs=2,
        hidden_sizes=(16,),
        **settings,
    ).with_learners(engine=engine)  # type: ignore[arg-type]
    with PPO(config.with_env_runners(envs_per_runner=2)) as algorithm:
        algorithm.learn()
        return algorithm.learners.get_weights().parameters


def test_all_engines_begin_with_the_same_weights_and_take_the_same_minibatches() -> None:
    made = [learner_at_start(engine) for engine in ("torch", "numpy", FASTEST)]
    for other in made[1:]:
        assert made[0].flat.array.any()
        for name, array in made[0].get_state().items():
            assert np.array_equal(array, other.get_state()[name]), name
    assert not np.array_equal(made[0].flat.array, learner_at_start("torch", seed=4).flat.array)


def learner_at_start(engine: str, seed: int = 3) -> PPOLearner:
    config = PPOConfig(seed=seed).with_learners(engine=engine)  # type: ignore[arg-type]
    return PPOLearner(config, Spaces(VECTOR, ACTIONS["box"]), 1)


@pytest.mark.parametrize("engine", BY_HAND)
def test_engines_stay_together_and_each_repeats_itself(engine: str) -> None:
    first, again, torchs = trained(engine), trained(engine), trained("torch")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, torchs)
    np.testing.assert_allclose(first, torchs, rtol=0, atol=1e-3)


def test_a_step_that_starts_too_far_away_is_not_taken() -> None:
    learner = learner_of(target_kl=1e-9, num_epochs=5)
    generator = np.random.default_rng(2)
    metrics = learner.update([rollout_of(generator, 40, 1)], 0)
    assert learner.num_updates < 15
    assert "train/approx_kl" not in metrics or metrics["train/approx_kl"] < 1e-6


@pytest.mark.parametrize("engine", BY_HAND)
def test_a_run_that_diverges_says_so_and_warns_of_nothing_else(engine: str) -> None:
    config = PPOConfig(learning_rate=1e30, rollout_length=64, max_grad_norm=None)
    with PPO(config.with_learners(engine=engine)) as ppo, pytest.raises(Diverged, match="finite"):
        ppo.learn(1000)
