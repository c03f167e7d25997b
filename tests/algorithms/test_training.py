"""Whole runs: what they leave behind, how they go on, how they end early."""

import csv
import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rl
from rl.algorithms.algorithm import Algorithm, TrainResult
from rl.algorithms.ppo import PPOConfig
from rl.algorithms.training import Interrupted, RunResult, train_run
from rl.core.models.policy import Policy
from rl.core.records.checkpoint import read_checkpoint
from rl.core.records.run_directory import RunDirectory
from rl.env_runners.evaluation import Evaluation
from rl.errors import EnvironmentFault, UsageError
from rl.testing.algorithms import weights_of
from rl.testing.probe_envs import EndlessReward
from tests.by_hand import FASTEST

CONFIG = PPOConfig(
    env="CartPole-v1",
    seed=5,
    total_steps=600,
    rollout_length=32,
    minibatch_size=32,
    num_epochs=2,
    normalize_observations=True,
    normalize_rewards=True,
    env_runners={"num": 2, "envs_per_runner": 2},  # type: ignore[arg-type]
)


class RaisesInStep(EndlessReward):
    """Raises in its fifth step."""

    def step(self, action: Any) -> Any:
        if self.steps == 4:
            raise RuntimeError("the rope broke")
        return super().step(action)


class Quiet:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.results: list[TrainResult] = []
        self.evaluations: list[Evaluation] = []
        self.steps_done = -1

    def start(self, config: Any, run_dir: Path, steps_done: int) -> None:
        self.steps_done = steps_done

    def progress(self, result: TrainResult) -> None:
        self.results.append(result)

    def evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self, result: RunResult) -> None:
        pass


def _run(path: Path, config: PPOConfig = CONFIG, reporter: Any = None) -> RunResult:
    from rl.configs.yaml_io import to_yaml

    with RunDirectory.create(path, env=config.env_id, algo="ppo", seed=config.seed) as run:
        run.write_config(to_yaml(config))
        return train_run(config, run, resume=False, reporter=reporter or Quiet())


def _go_on(path: Path, config: PPOConfig, reporter: Any = None) -> RunResult:
    with RunDirectory.open(path) as run:
        return train_run(config, run, resume=True, reporter=reporter or Quiet())


def _table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _policy_bytes(path: Path) -> bytes:
    return (path / "policy" / "weights.safetensors").read_bytes()


def test_a_run_leaves_a_complete_directory(tmp_path: Path) -> None:
    reporter = Quiet()
    outcome = _run(tmp_path / "run", reporter=reporter)
    found = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    assert {"config.yaml", "progress.csv", "episodes.csv", "checkpoints", "policy"} <= found
    assert "result.json" in found
    assert "failure.json" not in found
    rows = _table(tmp_path / "run" / "progress.csv")
    steps = [int(float(row["time/total_timesteps"])) for row in rows if row["time/fps"]]
    assert steps == [128, 256, 384, 512, 640]
    assert outcome.env_steps == 640
    assert any("40 more, less than one fragment" in text for text in reporter.messages)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["evaluation"]["mean"] == outcome.evaluation.mean


def test_an_interval_of_metrics_changes_the_rows_and_nothing_else(tmp_path: Path) -> None:
    seldom = replace(
        CONFIG.with_metrics(interval=300).with_checkpoints(interval=250), total_steps=1000
    )
    often = replace(seldom, metrics=CONFIG.metrics)
    for path, config in ((tmp_path / "seldom", seldom), (tmp_path / "often", often)):
        _run(path, config)
    rows = _table(tmp_path / "seldom" / "progress.csv")
    # Iterations take 128 steps. A row ends after 300 more, or where a checkpoint is due.
    steps = [int(float(row["time/total_timesteps"])) for row in rows if row["time/fps"]]
    assert steps == [256, 512, 768, 1024]
    assert [float(row["time/iterations"]) for row in rows if row["time/fps"]] == [2, 4, 6, 8]
    for name in ("policy/weights.safetensors", "checkpoints/step_000000512/runners.safetensors"):
        assert (tmp_path / "seldom" / name).read_bytes() == (tmp_path / "often" / name).read_bytes()
    told = [
        [row[: row.rindex(",")] for row in (path / "episodes.csv").read_text().splitlines()]
        for path in (tmp_path / "seldom", tmp_path / "often")
    ]
    assert told[0] == told[1]


def test_a_request_to_stop_does_not_wait_for_the_interval(tmp_path: Path) -> None:
    class Signals(EndlessReward):
        def step(self, action: Any) -> Any:
            if self.steps == 100:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(action)

    config = replace(CONFIG.with_metrics(interval=600), env=partial(Signals, 400))
    config = config.with_env_runners(num=1, envs_per_runner=1)
    with (
        RunDirectory.create(tmp_path / "run", env="x", algo="ppo", seed=0) as run,
        pytest.raises(Interrupted) as interrupted,
    ):
        train_run(config, run, resume=False, reporter=Quiet())
    assert interrupted.value.checkpoint.name == "step_000000128"


def test_the_learning_engine_is_told_once_and_kept_in_checkpoints(tmp_path: Path) -> None:
    quick = rl.DQNConfig(total_steps=60, learning_starts=8, batch_size=4, hidden_sizes=(4,))
    for engine in ("auto", "torch"):
        reporter = Quiet()
        _run(tmp_path / engine, quick.with_learners(engine=engine), reporter)  # type: ignore[arg-type]
        used = "torch" if engine == "torch" else FASTEST
        assert sum(m.startswith(f"learning engine: {used}") for m in reporter.messages) == 1
        with rl.Algorithm.load(tmp_path / engine) as algorithm:
            assert algorithm.learners.engine == used
    reporter = Quiet()
    _run(tmp_path / "gelu", replace(quick, activation="gelu"), reporter)  # type: ignore[arg-type]
    assert any("torch" in text and "gelu" in text for text in reporter.messages)


@pytest.mark.parametrize("engine", ["torch", "numpy"])
def test_a_resumed_run_learns_with_the_engine_it_began_with(engine: str, tmp_path: Path) -> None:
    slower = rl.DQNConfig(total_steps=60, learning_starts=8, batch_size=4).with_learners(
        engine=engine  # type: ignore[arg-type]
    )
    with rl.DQN(slower) as first, rl.DQN(slower.with_learners(engine="auto")) as second:
        first.train()
        assert second.learners.engine == FASTEST
        second.restore(read_checkpoint(first.save(tmp_path / "checkpoint")))
        assert second.learners.engine == engine
        first.learn()
        second.learn()
        assert weights_of(first) == weights_of(second)


def test_every_training_episode_is_a_row(tmp_path: Path) -> None:
    reporter = Quiet()
    _run(tmp_path / "run", reporter=reporter)
    rows = _table(tmp_path / "run" / "episodes.csv")
    told = [(at, e.episode_return, e.length) for r in reporter.results for at, e in r.episodes]
    assert [(int(r["env_step"]), float(r["return"]), int(r["length"])) for r in rows] == told
    assert len(rows) > 5
    assert all(float(r["return"]) == int(r["length"]) for r in rows), "CartPole pays 1 a step"
    assert [int(r["env_step"]) for r in rows] == sorted(int(r["env_step"]) for r in rows)


def test_the_same_config_twice_gives_the_same_policy_file(tmp_path: Path) -> None:
    _run(tmp_path / "a")
    _run(tmp_path / "b")
    assert _policy_bytes(tmp_path / "a") == _policy_bytes(tmp_path / "b")


def test_a_resumed_run_ends_like_one_that_never_stopped(tmp_path: Path) -> None:
    whole = replace(CONFIG, total_steps=1024, learning_rate_final=0.0)
    _run(tmp_path / "whole", whole)
    # Stopped by a signal after two iterations, then resumed.
    with pytest.raises(Interrupted) as stopped:
        _run(tmp_path / "parts", whole, reporter=_KillAfter(2, signal.SIGTERM))
    assert stopped.value.exit_code == 143
    reporter = Quiet()
    _go_on(tmp_path / "parts", whole, reporter)
    assert reporter.steps_done == 256
    assert not [text for text in reporter.messages if "warning" in text]
    assert _policy_bytes(tmp_path / "parts") == _policy_bytes(tmp_path / "whole")
    for table in ("episodes.csv", "progress.csv"):
        wholes, parts = (_rows(tmp_path / name / table) for name in ("whole", "parts"))
        assert wholes == parts, table


class _KillAfter(Quiet):
    """Sends this process a signal when some iterations are done."""

    def __init__(self, iterations: int, number: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.number = number

    def progress(self, result: TrainResult) -> None:
        if result.iteration == self.iterations:
            os.kill(os.getpid(), self.number)


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows without what depends on the clock."""
    rows = _table(path)
    clocks = ("time/fps", "time/time_elapsed", "seconds")
    return [
        {k: v for k, v in row.items() if k not in clocks and not k.startswith("perf/")}
        for row in rows
    ]


def test_ctrl_c_finishes_the_iteration_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as stopped:
        _run(tmp_path / "run", reporter=_KillAfter(1, signal.SIGINT))
    assert stopped.value.exit_code == 130
    with Algorithm.load(tmp_path / "run") as algorithm:
        assert algorithm.env_steps == 128


def test_a_finished_run_says_that_it_is_finished(tmp_path: Path) -> None:
    _run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"already at 640 of 600.*--total-steps"):
        _go_on(tmp_path / "run", CONFIG)


def test_a_finished_run_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    _run(tmp_path / "run")
    before = _policy_bytes(tmp_path / "run")
    outcome = _go_on(tmp_path / "run", replace(CONFIG, total_steps=900))
    assert outcome.env_steps == 960, "60 more than asked, less than a fragment of 64"
    assert _policy_bytes(tmp_path / "run") != before
    assert Policy.load(tmp_path / "run")


def test_evaluations_and_checkpoints_come_at_their_intervals(tmp_path: Path) -> None:
    config = CONFIG.with_evaluation(interval=256, num_episodes=3).with_checkpoints(
        interval=200, keep=2
    )
    reporter = Quiet()
    _run(tmp_path / "run", config, reporter)
    assert [e.env_steps for e in reporter.evaluations] == [256, 512, 640]
    assert all(len(e.returns) == 3 for e in reporter.evaluations)
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert kept[-1] == "step_000000640"
    best = max(reporter.evaluations, key=lambda e: (e.mean, -e.env_steps))
    target = (tmp_path / "run" / "checkpoints" / "best").resolve().name
    assert target == f"step_{best.env_steps:09d}"
    assert len(set(kept) - {target}) <= 2


def test_a_broken_environment_leaves_a_failure_record(tmp_path: Path) -> None:
    config = replace(CONFIG, env=partial(RaisesInStep, 9))
    with (
        RunDirectory.create(tmp_path / "run", env="x", algo="ppo", seed=0) as run,
        pytest.raises(EnvironmentFault, match="step"),
    ):
        train_run(config, run, resume=False, reporter=Quiet())
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["exit_code"] == 3
    assert "the rope broke" in failure["traceback"]


def test_load_gives_back_the_algorithm_with_its_state(tmp_path: Path) -> None:
    with rl.PPO(CONFIG) as algorithm:
        algorithm.train()
        algorithm.save(tmp_path / "checkpoint")
        with rl.Algorithm.load(tmp_path / "checkpoint") as loaded:
            assert isinstance(loaded, rl.PPO)
            assert loaded.config == CONFIG
            assert weights_of(loaded) == weights_of(algorithm)
            assert loaded.evaluate(3) == algorithm.evaluate(3)


def test_learning_past_the_budget_is_refused() -> None:
    with rl.PPO(CONFIG) as algorithm:
        assert algorithm.learn(128).env_steps == 128
        with pytest.raises(UsageError, match="128"):
            algorithm.learn(128)
        assert algorithm.learn(200).env_steps == 256, (
            "56 more than asked, less than a fragment of 64"
        )


class SeededOnce(EndlessReward):
    """Says of itself what Atari's emulator does."""

    ale = None


@pytest.mark.parametrize("env", [EndlessReward, SeededOnce])
def test_whether_a_run_resumes_exactly_is_told(tmp_path: Path, env: Any) -> None:
    told = Quiet()
    config = replace(CONFIG, env=partial(env, 9), total_steps=256, normalize_rewards=False)
    with RunDirectory.create(tmp_path / "run", env="env", algo="ppo", seed=0) as run:
        result = train_run(config, run, resume=False, reporter=told)
    meta = read_checkpoint(result.checkpoint).meta
    exact = env is EndlessReward
    assert meta["exact_resume"] is exact
    line = next(message for message in told.messages if message.startswith("exact_resume"))
    assert line.startswith(f"exact_resume: {str(exact).lower()}")
    assert ("seeded once" in line) is not exact
    assert ("exact_resume_why" in meta) is not exact
    if not exact:
        assert "seeded once" in str(meta["exact_resume_why"])
