"""A run says what its time went into, and what to change."""

import re
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.algorithms.bottleneck import TimeSpent
from rl.algorithms.dqn import DQNConfig
from rl.algorithms.ppo import PPOConfig
from rl.cli.main import train_main


class Slow(gymnasium.Env[Any, Any]):
    """Takes two milliseconds a step."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(0.002)
        return np.zeros(2, np.float32), 0.0, False, False, {}


class Quick(Slow):
    """Takes next to none."""

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, {}


def shares(env: Any, **settings: Any) -> dict[str, float]:
    config = PPOConfig(
        env=env,
        **{"rollout_length": 128, "minibatch_size": 128, "num_epochs": 1} | settings,
    )
    with config.build() as ppo:
        ppo.train()  # the first imports and allocates
        found = ppo.train().metrics
    return {name.removeprefix("perf/"): v for name, v in found.items() if "share" in name}


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_time_goes_into_a_slow_environment(engine: str) -> None:
    runners = {"num": 2, "envs_per_runner": 1}
    found = shares(Slow, env_runners=runners, runtime={"engine": engine})
    assert found["env_share"] > 0.7
    assert found["env_share"] + found["inference_share"] == pytest.approx(found["sample_share"])


def test_time_goes_into_a_large_network() -> None:
    found = shares(Quick, hidden_sizes=(1024, 1024))
    assert found["inference_share"] > 3 * found["env_share"]


def test_time_goes_into_many_passes() -> None:
    assert shares(Quick, num_epochs=100)["learn_share"] > 0.7


def test_shares_add_up() -> None:
    found = shares(Quick)
    parts = ("env_share", "inference_share", "learn_share", "wait_share")
    assert sum(found[part] for part in parts) == pytest.approx(1, abs=0.01)


def lines_of(config: Any, share: str, **given: Any) -> list[str]:
    spent = TimeSpent()
    rest = {f"perf/{name}_share": 0.1 for name in ("env", "inference", "learn", "wait")}
    spent.add(rest | {f"perf/{share}_share": 0.7}, 3.0)
    return spent.lines(config, **{"engine": "numpy", "obstacles": (), "cores": 4} | given)


ONE, FOUR = (PPOConfig(env_runners={"num": n, "envs_per_runner": 8}) for n in (1, 4))


@pytest.mark.parametrize(
    ("config", "share", "given", "words"),
    [
        (ONE, "env", {}, r"bound by environment: .*--env-runners\.num 4"),
        (FOUR, "env", {}, r"all cores sample; .*ray\); or sample while .*--pipeline"),
        (
            FOUR.with_env_runners(vectorization="single"),
            "env",
            {},
            r"--env-runners\.vectorization auto",
        ),
        (ONE, "inference", {}, r"bound by inference: .*--env-runners\.num 4"),
        (FOUR, "inference", {}, r"--env-runners\.envs-per-runner 16"),
        (ONE, "learn", {}, r"bound by learning: .*--num-epochs, now 10.*--minibatch-size, now 64"),
        (
            ONE,
            "learn",
            {"engine": "torch", "obstacles": ("memory (gru)",)},
            r"compiled engine cannot do this run \(memory \(gru\)\).*--learners\.device auto",
        ),
        (
            ONE.with_learners(engine="torch"),
            "learn",
            {"engine": "torch"},
            r"--learners\.engine auto",
        ),
        (ONE.with_learners(device="auto"), "learn", {"engine": "torch"}, r": fewer passes"),
        (DQNConfig(), "learn", {}, r"--updates-per-step, now 0\.25.*learnt; or .*--pipeline"),
        (ONE, "learn", {}, r"--minibatch-size.*; or sample while .*--pipeline"),
        (ONE.with_learners(device="auto"), "learn", {}, r": fewer passes.*--pipeline"),
        (ONE, "wait", {}, r"bound by waiting: .*--metrics\.interval"),
    ],
)
def test_advice_is_of_what_took_longest(
    config: Any, share: str, given: dict[str, Any], words: str
) -> None:
    time_line, advice = lines_of(config, share, **given)
    assert time_line.count("10%") == 3
    assert "70%" in time_line
    assert re.search(words, advice), advice


class NeverAhead(PPOConfig):
    can_overlap = False


def test_sampling_meanwhile_is_advised_only_where_it_would_change_something() -> None:
    for share in ("env", "learn"):
        assert "--pipeline" in lines_of(FOUR, share)[1]
        assert "--pipeline" not in lines_of(FOUR.with_env_runners(overlap=True), share)[1]
        assert "--pipeline" not in lines_of(FOUR, share, cores=1)[1]
        assert "--pipeline" not in lines_of(NeverAhead(env_runners={"num": 4}), share)[1]


def test_a_run_without_an_iteration_says_nothing() -> None:
    assert TimeSpent().lines(ONE, "numpy", (), 4) == []


def test_a_run_says_it_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--algo", "ppo", "--env", "CartPole-v1", "--no-preset", "--total-steps", "256"]
    small = ["--rollout-length", "32", "--evaluation.num-episodes", "1"]
    run = tmp_path / "run"
    assert train_main([*flags, *small, "--minibatch-size", "32", "--run-dir", str(run)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^time: environment \d+%, inference \d+%, learning \d+%, wai", said, re.M)
    assert re.search(r"^bound by \w+: ", said, re.M)
    assert "perf/inference_share" in (run / "progress.csv").read_text().splitlines()[0]
