"""Sampling while the learner learns: one fragment of lag, whatever the engine and whoever dies."""

import itertools
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.dqn import DQNConfig, DQNLearner
from rl.algorithms.ppo import PPOConfig
from rl.algorithms.sac import SACConfig
from rl.algorithms.td3 import TD3Config
from rl.algorithms.training import Interrupted
from rl.algorithms.workers import choose_engine
from rl.cli.main import train_main
from rl.configs import base
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.rollout import Rollout
from rl.core.data.weights import Weights
from rl.core.models.plain import PlainNetwork
from rl.core.models.policy_network import DeterministicPolicy
from rl.core.records.checkpoint import read_checkpoint, write_checkpoint
from rl.errors import CheckpointError, ConfigError
from rl.testing import check_algorithm
from rl.testing.algorithms import weights_of
from rl.testing.probe_envs import MatchObservation
from tests.algorithms.test_training import (
    Quiet,
    _go_on,
    _KillAfter,
    _policy_bytes,
    _rows,
    _run,
)

WIDTH, LENGTH = 4, 4
FRAGMENT = WIDTH * LENGTH
SHARED: dict[str, Any] = {
    "hidden_sizes": (16,),
    "total_steps": 400,
    "learning_rate": 1e-2,
    "rollout_length": LENGTH,
    "normalize_observations": True,
    "normalize_rewards": True,
    "seed": 6,
    "env_runners": {"num": 2, "envs_per_runner": WIDTH // 2, "overlap": True},
    "runtime": {"engine": "process", "max_restarts": 100},
}
QUICK: dict[str, Any] = SHARED | {
    "learning_starts": 40,
    "buffer_size": 200,
    "batch_size": 8,
    "updates_per_step": 0.3,
    "n_step": 2,
    "prioritized": True,
}
PROXIMAL: dict[str, Any] = SHARED | {
    "num_epochs": 2,
    "minibatch_size": 8,
    "learning_rate_final": 0.0,
    "clip_range_final": 0.0,
    "value_clip_range": 0.2,
    "kl_coef": 0.2,
    "kl_target": 0.01,
}
CONFIGS: dict[str, AlgorithmConfig] = {
    "dqn": DQNConfig(env="CartPole-v1", exploration_fraction=0.5, **QUICK),
    "sac": SACConfig(env="Pendulum-v1", **QUICK),
    "discrete sac": SACConfig(env="CartPole-v1", **QUICK),
    "td3": TD3Config(env="Pendulum-v1", **QUICK),
    "ppo": PPOConfig(env="Pendulum-v1", **PROXIMAL),
    "ppo with memory": PPOConfig(
        env="CartPole-v1", memory="gru", memory_size=8, sequence_length=4, **PROXIMAL
    ),
}
INLINE = {name: config.with_runtime(engine="inline") for name, config in CONFIGS.items()}
ALL = pytest.mark.parametrize("name", CONFIGS)


def _learnt(
    config: AlgorithmConfig, meanwhile: Callable[[Algorithm[Any]], None] = lambda _: None
) -> dict[str, bytes]:
    with config.build() as algorithm:
        while algorithm.env_steps < config.total_steps:
            algorithm.train_within(config.total_steps)
            meanwhile(algorithm)
        return weights_of(algorithm)


@pytest.fixture(scope="module")
def inline() -> dict[str, dict[str, bytes]]:
    """What each config learns inline, undisturbed."""
    return {name: _learnt(config) for name, config in INLINE.items()}


# -- the same bits ---------------------------------------------------------------------------------


@ALL
def test_processes_give_the_same_bits_as_inline(name: str, inline: Any) -> None:
    assert _learnt(CONFIGS[name]) == inline[name]


@ALL
def test_the_same_config_twice_gives_the_same_bits(name: str, inline: Any) -> None:
    assert _learnt(INLINE[name]) == inline[name]


@ALL
def test_it_has_an_effect(name: str, inline: Any) -> None:
    assert _learnt(INLINE[name].with_env_runners(overlap=False)) != inline[name]


@ALL
def test_it_does_what_every_algorithm_must(name: str) -> None:
    check_algorithm(CONFIGS[name], iterations=5)


@ALL
def test_runners_killed_ahead_change_nothing(name: str, inline: Any) -> None:
    def kill(algorithm: Algorithm[Any]) -> None:
        if algorithm.iteration % 5 == 0:
            # Its fragment may be under way, or be there and not be fetched yet.
            pid = algorithm.env_runners._runners[algorithm.iteration % 2].pid  # type: ignore[union-attr]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed.append(algorithm.env_runners.health())

    killed: list[dict[str, float]] = []
    config = CONFIGS[name].with_metrics(interval=0)
    assert _learnt(config, kill) == inline[name]
    assert len(killed) == 5
    assert killed[-1]["sampler/restarts"] >= 3
    assert killed[-1]["sampler/restored_steps"] > 0
    assert killed[-1]["sampler/discarded_steps"] == 0


def test_elastic_runners_that_lose_their_process_change_nothing(inline: Any) -> None:
    def kill(algorithm: Algorithm[Any]) -> None:
        hosts = algorithm.env_runners._hosts  # type: ignore[union-attr]
        if algorithm.iteration in (6, 12, 18):
            os.kill(hosts[algorithm.iteration // 6 % 2].handle.pid, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while algorithm.env_runners.health()["sampler/restarts"] < algorithm.iteration // 6:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    config = CONFIGS["dqn"].with_metrics(interval=0)
    assert _learnt(config.with_env_runners(min=1), kill) == inline["dqn"]
    assert _learnt(config.with_env_runners(min=1, max=1)) == inline["dqn"]


def test_rows_of_metrics_evaluations_and_pauses_change_nothing(inline: Any) -> None:
    def disturb(algorithm: Algorithm[Any]) -> None:
        algorithm.evaluate(1)
        if algorithm.iteration % 4 == 0:
            time.sleep(0.02)

    assert _learnt(CONFIGS["sac"].with_metrics(interval=64), disturb) == inline["sac"]


# -- the lag ---------------------------------------------------------------------------------------


class _Watched:
    """Notes which weights each fragment was sampled with, and what was learnt from it."""

    def __init__(self, algorithm: Algorithm[Any]) -> None:
        self.published: dict[int, Weights] = {}
        self.fragments: list[Weights] = []
        self.rollouts: list[list[Rollout]] = []
        self.learnt = [algorithm.learners.get_weights(again=True)]
        """Before the first update, after the first, ..."""
        self._set_weights = algorithm.env_runners.set_weights
        self._learn_from = algorithm.learn_from
        self._algorithm = algorithm
        self._set(algorithm.env_runners.weights)
        algorithm.env_runners.set_weights = self._set  # type: ignore[assignment, method-assign]
        algorithm.learn_from = self._learn  # type: ignore[method-assign]

    def _set(self, weights: Any) -> None:
        self.published[weights.version] = weights
        self._set_weights(weights)

    def _learn(self, rollouts: Any) -> Any:
        versions = {rollout.weights_version for rollout in rollouts}
        assert len(versions) == 1
        self.fragments.append(self.published[versions.pop()])
        self.rollouts.append(rollouts)
        metrics = self._learn_from(rollouts)
        self.learnt.append(self._algorithm.learners.get_weights(again=True))
        return metrics


def _equal(one: Weights, two: Weights) -> bool:
    return np.array_equal(one.parameters, two.parameters) and all(
        np.array_equal(one.buffers[name], two.buffers[name]) for name in one.buffers
    )


@pytest.mark.parametrize(
    ("overlap", "engine"), [(False, "inline"), (True, "inline"), (True, "process")]
)
@ALL
def test_every_fragment_lags_by_exactly_one_update_round(
    name: str, overlap: bool, engine: str
) -> None:
    config = CONFIGS[name].with_runtime(engine=engine).with_env_runners(overlap=overlap)
    with config.build() as algorithm:
        watched = _Watched(algorithm)
        for _ in range(12):
            algorithm.train()
    learnt = watched.learnt
    assert len(learnt) == 13
    assert not any(_equal(*pair) for pair in itertools.pairwise(learnt)), "all differ"
    for number, weights in enumerate(watched.fragments):
        known = max(0, number - overlap)
        assert [_equal(weights, one) for one in learnt].index(True) == known, number


def test_what_is_done_is_what_those_weights_do() -> None:
    """The actions themselves tell by which policy they were chosen."""
    config = CONFIGS["td3"].values() | {
        "learning_starts": 0,
        "exploration_noise": 0.0,
        "normalize_observations": False,
    }
    with TD3Config(**config).build() as td3:
        watched = _Watched(td3)
        for _ in range(8):
            td3.train()
        network = td3.learners.network
        assert isinstance(network, PlainNetwork)
        module = network.build()
        assert isinstance(module, DeterministicPolicy)
        by_policy = []
        for weights in watched.learnt:
            torch.nn.utils.vector_to_parameters(
                torch.tensor(weights.parameters), module.parameters()
            )
            with torch.no_grad():
                seen = torch.tensor(watched.rollouts[7][0].observations[:-1])  # type: ignore[index]
                chosen = module.act(seen.flatten(0, 1), torch.zeros(8, 1))[0]
            by_policy.append(chosen.numpy())
    done = watched.rollouts[7][0].actions.reshape(8, 1)
    distances = [float(np.abs(chosen - done).max()) for chosen in by_policy]
    assert distances[6] < 1e-5
    assert min(distances[:6] + distances[7:]) > 1e-3


def test_exploration_and_warming_up_lag_with_the_weights() -> None:
    with INLINE["dqn"].build() as dqn:
        learner = dqn.learners._learner
        assert isinstance(learner, DQNLearner)
        watched = _Watched(dqn)
        told = [dqn.train().metrics["rollout/exploration_rate"] for _ in range(12)]
        rates = [float(weights.buffers["epsilon"]) for weights in watched.fragments]
        begins = [FRAGMENT * max(0, number - 1) for number in range(12)]
        assert rates == pytest.approx([learner.exploration_rate(step) for step in begins])
        assert told[:-1] == rates[1:], "a row tells how it was explored while it was learnt"
    with INLINE["sac"].build() as sac:
        watched = _Watched(sac)
        for _ in range(6):
            sac.train()
    flags = [bool(weights.buffers["warming_up"]) for weights in watched.fragments]
    assert flags == [True, True, True, True, False, False], "40 steps end in the third fragment"


class Counted(MatchObservation):
    """Its every step adds a byte to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def step(self, action: Any) -> Any:
        os.write(self.file, b".")
        return super().step(action)


@pytest.mark.parametrize(("name", "beyond"), [("dqn", 8), ("ppo", 12)])
def test_runners_sample_while_the_learner_learns_and_one_fragment_at_most(
    name: str, beyond: int, tmp_path: Path
) -> None:
    """PPO's last fragment may overshoot the budget, as it may without the setting."""
    steps = tmp_path / "steps"
    total = 10 * FRAGMENT + beyond
    changed = {"env": partial(Counted, steps), "total_steps": 10 * FRAGMENT + 8}
    with type(CONFIGS[name])(**CONFIGS[name].values() | changed).build() as algorithm:
        learn_from = algorithm.learn_from
        seen = []

        def learn(rollouts: Any) -> Any:
            expected = min(algorithm.env_steps + FRAGMENT, total)
            deadline = time.monotonic() + 60
            while steps.stat().st_size < expected:
                assert time.monotonic() < deadline, "nobody samples meanwhile"
                time.sleep(0.005)
            time.sleep(0.02)
            seen.append(steps.stat().st_size)
            return learn_from(rollouts)

        algorithm.learn_from = learn  # type: ignore[method-assign]
        assert algorithm.learn().env_steps == total
    assert seen == [FRAGMENT * number for number in range(2, 11)] + [total, total]
    assert steps.stat().st_size == total, "the budget is met, and nothing is sampled beyond it"


# -- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [400, 399, 403, 3])
def test_steps_and_updates_are_those_of_a_run_without_it(budget: int) -> None:
    changed = CONFIGS["td3"].values() | {"total_steps": budget, "learning_starts": min(2, budget)}
    found = []
    for overlap in (False, True):
        with TD3Config(**changed).with_env_runners(overlap=overlap).build() as td3:
            result = td3.learn()
            found.append((td3.env_steps, result.metrics["train/n_updates"]))
            assert result.metrics["train/update_credit"] < 1
    assert found[0] == found[1]
    assert found[0][0] == -(-budget // WIDTH) * WIDTH
    assert found[0][1] == int(0.3 * (found[0][0] - 2) + 1e-9)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_a_run_in_two_parts_ends_like_one(name: str, inline: Any) -> None:
    """Also where nothing was sampled ahead, because the first budget was spent."""
    for config in (CONFIGS[name], INLINE[name]):
        with config.build() as algorithm:
            algorithm.learn(6 * FRAGMENT)
            algorithm.learn()
            assert weights_of(algorithm) == inline[name]


@pytest.mark.parametrize(
    ("name", "rows", "elastic"), [("dqn", 1, False), ("dqn", 1, True), ("ppo", 2, False)]
)
def test_what_was_sampled_ahead_too_long_is_taken_back(name: str, rows: int, elastic: bool) -> None:
    found = []
    for config in (CONFIGS[name].with_env_runners(min=int(elastic)), INLINE[name]):
        with config.build() as algorithm:
            for _ in range(5):
                algorithm.train()  # which knows no budget
            algorithm.learn(5 * FRAGMENT + WIDTH)
            assert algorithm.env_steps == 5 * FRAGMENT + rows * WIDTH
            algorithm.train()
            found.append(weights_of(algorithm))
            assert algorithm.env_runners.health()["sampler/discarded_steps"] == 0
    assert found[0] == found[1]


# -- going on from a checkpoint --------------------------------------------------------------------


@ALL
def test_a_checkpoint_with_a_fragment_ahead_goes_on_to_the_bit(
    name: str, inline: Any, tmp_path: Path
) -> None:
    def save(algorithm: Algorithm[Any]) -> None:
        if algorithm.iteration == 9:
            algorithm.save(tmp_path / "half")

    assert _learnt(CONFIGS[name].with_metrics(interval=0), save) == inline[name]
    with Algorithm.load(tmp_path / "half") as resumed:
        assert resumed.iteration == 9
        resumed.learn()
        assert weights_of(resumed) == inline[name]
        resumed.restore(read_checkpoint(tmp_path / "half"))  # and back, with one more ahead
        resumed.train()
        resumed.restore(read_checkpoint(tmp_path / "half"))
        resumed.learn()
        assert weights_of(resumed) == inline[name]


@pytest.mark.parametrize(
    ("name", "engine"),
    [("dqn", "inline"), ("sac", "process"), ("td3", "inline"), ("ppo", "process")],
)
def test_a_resumed_run_ends_like_one_that_never_stopped(
    name: str, engine: str, tmp_path: Path
) -> None:
    config: Any = CONFIGS[name].with_runtime(engine=engine).with_metrics(interval=0)
    _run(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        _run(tmp_path / "parts", config, reporter=_KillAfter(9, signal.SIGTERM))
    reporter = Quiet()
    _go_on(tmp_path / "parts", config, reporter)
    assert reporter.steps_done == 9 * FRAGMENT
    assert not [text for text in reporter.messages if "warning" in text]
    assert _policy_bytes(tmp_path / "parts") == _policy_bytes(tmp_path / "whole")
    for table in ("episodes.csv", "progress.csv"):
        wholes, parts = (_rows(tmp_path / part / table) for part in ("whole", "parts"))
        assert wholes == parts, table


def test_a_checkpoint_without_the_weights_that_act_is_refused(tmp_path: Path) -> None:
    with INLINE["dqn"].build() as dqn:
        dqn.train()
        path = dqn.save(tmp_path / "checkpoint")
    with INLINE["dqn"].with_env_runners(overlap=False).build() as dqn:
        dqn.restore(read_checkpoint(path))  # it needs them not
        other = dqn.save(tmp_path / "other")
    missing = pytest.raises(CheckpointError, match=r"has no file acting\.safetensors")
    with INLINE["dqn"].build() as dqn, missing:
        dqn.restore(read_checkpoint(other))
    with DQNConfig(**INLINE["dqn"].values() | {"hidden_sizes": (17,)}).build() as larger:
        foreign = larger.checkpoint_files()[0]["acting.safetensors"]
    with INLINE["dqn"].build() as dqn:
        files, meta = dqn.checkpoint_files()
        write_checkpoint(tmp_path / "mixed", files | {"acting.safetensors": foreign}, meta)
        with pytest.raises(CheckpointError, match=r"parameters is float32 \(121,\)"):
            dqn.restore(read_checkpoint(tmp_path / "mixed"))


# -- settings --------------------------------------------------------------------------------------


@base.config
class OnlyInTurn(PPOConfig):
    """An algorithm of somebody's own, whose training_step knows nothing of sampling ahead."""

    can_overlap: ClassVar[bool] = False


@pytest.mark.parametrize("flag", ["--pipeline", "--env-runners.overlap"])
def test_an_algorithm_that_cannot_refuses_it(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = r"env_runners\.overlap: the training_step of onlyinturn samples nothing ahead"
    with pytest.raises(ConfigError, match=words):
        OnlyInTurn().with_env_runners(overlap=True).checked()
    run = tmp_path / "run"
    algo = f"{__name__}:{OnlyInTurn.__name__}"
    assert train_main(["--algo", algo, "--run-dir", str(run), flag]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not run.exists()


def test_auto_takes_a_process_to_sample_beside_the_learner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = CONFIGS["sac"].with_runtime(engine="auto").with_env_runners(num=1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert choose_engine(alone) == "process"
    assert choose_engine(alone.with_env_runners(overlap=False)) == "inline"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert choose_engine(alone) == "inline"
