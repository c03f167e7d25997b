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


QUICK: dict[str, Any] = {
    "seed": 1,
    "learning_starts": 16,
    "rollout_length": 8,
    "batch_size": 16,
    "buffer_size": 200,
    "hidden_sizes": (16,),
}
EVERYTHING: dict[str, Any] = {
    "prioritized": True,
    "n_step": 3,
    "normalize_observations": True,
    "normalize_rewards": True,
    "max_grad_norm": 1.0,
    "target_update_interval": 3,
}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (
        rl.PPOConfig,
        {
            "env": "CartPole-v1",
            "seed": 1,
            "rollout_length": 40,
            "minibatch_size": 16,
            "num_epochs": 2,
        },
    ),
    "dqn": (rl.DQNConfig, {**QUICK, "env": "CartPole-v1", "rollout_length": 40}),
    "sac": (rl.SACConfig, {**QUICK, "env": "Pendulum-v1"}),
    "sac, everything": (rl.SACConfig, {**QUICK, **EVERYTHING, "env": "Pendulum-v1"}),
    "sac, a fixed temperature": (rl.SACConfig, {**QUICK, "env": "Pendulum-v1", "ent_coef": 0.1}),
    "sac, discrete": (rl.SACConfig, {**QUICK, "env": "CartPole-v1"}),
    "sac, discrete, everything": (rl.SACConfig, {**QUICK, **EVERYTHING, "env": "CartPole-v1"}),
    "td3": (rl.TD3Config, {**QUICK, "env": "Pendulum-v1"}),
    "td3, everything": (rl.TD3Config, {**QUICK, **EVERYTHING, "env": "Pendulum-v1"}),
}
STEPS = {"PPOConfig": 1, "DQNConfig": 1, "SACConfig": 2, "TD3Config": 2}
"""Networks that are learnt, a gradient each."""


@pytest.mark.parametrize("run", RUNS)
def test_whole_updates_take_what_is_played(run: str) -> None:
    """With and without: the same weights, of all networks, and the same metrics."""
    kind, settings = RUNS[run]
    expected, plain = trained(kind(**settings), play=False)
    found, recorded = trained(kind(**settings), play=True)
    assert plain == 0
    assert recorded == STEPS[kind.__name__]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7, msg=name)


def trained(config: Any, play: bool) -> tuple[dict[str, Any], int]:
    """What a learner holds and tells after a few updates; how many of its gradients were played."""
    played = set()

    def of_function(function: Any) -> Any:
        recorded = Recorded(function, CPU, record_on_cpu)

        def counted(*inputs: Any) -> Any:
            played.add(recorded)
            return recorded(*inputs)

        return counted

    with config.with_learners(engine="torch").build() as algorithm:
        learner: Any = algorithm.learners._learner
        if play:
            # A GPU has these from the beginning.
            for name in ("module", "target", "judges", "target_policy"):
                getattr(learner, name, None)
            learner.played = of_function
            learner.set_up_engine()
        told: dict[str, Any] = {}
        for _ in range(8):
            told |= {k: v for k, v in algorithm.train().metrics.items() if k.startswith("train/")}
        state = {k: torch.from_numpy(v) for k, v in learner.get_state().items()}
        return told | state, len(played)


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


@pytest.mark.parametrize("run", [run for run in RUNS if "everything" not in run])
def test_another_loss_is_not_taken_for_one_that_can_be_recorded(run: str) -> None:
    kind, settings = RUNS[run]
    with kind(**settings).build() as algorithm:
        learner: Any = algorithm.learners._learner
    assert list(learner.recording_obstacles()) == []
    learner.__class__ = type("Mine", (type(learner),), {})
    (told,) = learner.recording_obstacles()
    assert told.startswith("Mine may have ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("run", RUNS)
def test_a_gpu_learns_the_same_from_graphs(run: str) -> None:
    kind, settings = RUNS[run]

    def weights(engine: str) -> list[float]:
        config = kind(**settings).with_learners(engine=engine, device="cuda")
        with config.build() as algorithm:
            for _ in range(4):
                algorithm.train()
            found: list[float] = algorithm.learners.get_weights().parameters.tolist()
            return found

    torch.testing.assert_close(weights("compiled"), weights("torch"), rtol=1e-4, atol=1e-5)
