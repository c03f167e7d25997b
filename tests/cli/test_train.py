"""`train` refuses bad input before anything is written; it runs, repeats and resumes the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.algorithms.registry import load_config
from rl.cli.console import TerminalReporter
from rl.cli.main import rl_main, train_main
from rl.core.records.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
SHORT = (
    *("--total-steps", "256"),
    *("--evaluation.num-episodes", "1"),
    *("--hidden-sizes", "8"),
    *("--num-epochs", "1"),
    *("--rollout-length", "32"),
)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


BAD = {
    "--gama 0.5": "did you mean --gamma?",
    "--algo pp0": "did you mean 'ppo'?",
    "--env CartPol-v1": "did you mean CartPole-v1?",
    "--preset CartPol-v1": "did you mean 'CartPole-v1'?",
    "--config typo.yaml": "did you mean `clip_range`? (typo.yaml line 2)",
    "--config nothing.yaml": "no such file",
    "--gamma high": "must be a number greater than 0 and at most 1; got 'high'",
    "--gamma 2": "must be a number greater than 0 and at most 1; got '2'",
    "--gamma 2 --clip-range -1": "2 problems",
    "--minibatch-size 9999": "9999 is more than the 1024 steps",
    "--preset CartPole-v1 --no-preset": "contradict",
    "--seed": "--seed: needs a value",
    "--env no_such_module:Maze-v0": "no_such_module",
    "--algo discrete_only:DiscreteConfig --env Pendulum-v1": "can act in discrete only",
    "--env undeclared:Undeclared-v0": "declares the autoreset mode 'odd', which is none",
    "--env Acrobot-v1 --env-runners.vectorization native": "without a vector_entry_point",
    "--algo broken:Config": "broken raised ValueError: my wall",
    "--run-dir typo.yaml/below": "typo.yaml/below",
    "--run-dir taken": "nothing is ever overwritten",
    "--resume nowhere": "nowhere is not a run directory",
    "--resume taken --env CartPole-v1": "--env CartPole-v1 cannot stand beside --resume",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_ends_with_code_2_and_one_message_and_writes_nothing(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "typo.yaml").write_text("gamma: 0.9\nclip_rang: 0.2\n")
    (tmp_path / "broken.py").write_text("raise ValueError('my wall')")
    (tmp_path / "discrete_only.py").write_text(
        "from rl.configs import PPOConfig, config\n"
        "@config\nclass DiscreteConfig(PPOConfig):\n"
        "    supported_actions = frozenset({'discrete'})\n"
    )
    (tmp_path / "undeclared.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv\n"
        "class Odd(CartPoleVectorEnv):\n"
        "    metadata = {'autoreset_mode': 'odd'}\n"
        "gymnasium.register('Undeclared-v0', vector_entry_point=Odd)\n"
    )
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").touch()
    before = sorted(tmp_path.rglob("*"))
    assert train_main(line.split()) == 2
    said = capsys.readouterr()
    assert BAD[line] in said.err
    assert said.err.count("error: ") == 1
    assert said.out == ""
    after = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    assert after == before


@pytest.mark.parametrize("line", ["--help", "--gama 1 --gamma 2", "--env CartPol-v1"])
def test_an_answer_costs_no_torch_and_little_time(line: str, tmp_path: Path) -> None:
    program = (
        "import sys; from rl.cli.main import train_main; code = train_main();"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.perf_counter() - began < 5.0  # a loaded machine; alone it takes a third of a second
    assert done.returncode == (0 if line == "--help" else 2), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_what_it_was_and_how_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main(["--env", "CartPole-v1", "--run-dir", "first", "--seed", "5", *SHORT]) == 0
    assert "CartPole-v1" in capsys.readouterr().out
    run = tmp_path / "first"
    made = load_config(run / "config.yaml")
    assert (made.seed, made.total_steps, made.gamma) == (5, 256, 0.99)
    assert (run / "command.txt").read_text().startswith("train --env CartPole-v1 --run-dir first")
    assert "seed 5" in (run / "train.log").read_text()
    assert json.loads((run / "result.json").read_text())["env_steps"] == 256

    assert rl_main(["evaluate", "first", "--episodes", "3", "--seed", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"mean", "std", "returns", "lengths", "env", "checkpoint"}
    assert len(told["returns"]) == len(told["lengths"]) == 3
    assert told["mean"] == pytest.approx(sum(told["returns"]) / 3)
    assert told["env"] == "CartPole-v1"

    latest = run / "checkpoints" / "latest"
    assert rl_main(["evaluate", str(latest), "--episodes", "3", "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == told["returns"]

    assert train_main(["--config", "first/config.yaml", "--run-dir", "second"]) == 0
    weights = "policy/weights.safetensors"
    assert (tmp_path / "second" / weights).read_bytes() == (run / weights).read_bytes()


def test_a_run_is_continued_to_a_larger_budget_and_in_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main(["--run-dir", "first", *SHORT]) == 0
    assert train_main(["--resume", "first"]) == 2
    assert "has taken its 256 environment steps" in capsys.readouterr().err
    assert not (tmp_path / "first" / "failure.json").exists()
    assert train_main(["--resume", "first", "--gamma", "0.5"]) == 2
    assert "gamma cannot change" in capsys.readouterr().err
    assert train_main(["--resume", "first", "--total-steps", "100"]) == 2
    assert "can only be raised" in capsys.readouterr().err
    assert load_config("first/config.yaml").total_steps == 256
    elsewhere = ["--env-runners.step-timeout", "7", "--runtime.max-restarts", "1"]
    assert train_main(["--resume", "first", "--total-steps", "512", *elsewhere]) == 0
    config = load_config("first/config.yaml")
    assert (config.total_steps, config.env_runners.step_timeout) == (512, 7)
    assert config.runtime.max_restarts == 1
    assert json.loads((tmp_path / "first" / "result.json").read_text())["env_steps"] == 512
    assert len((tmp_path / "first" / "command.txt").read_text().splitlines()) == 2


def test_a_run_directory_in_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with RunDirectory.create("first", env="CartPole-v1", algo="ppo", seed=0):
        assert train_main(["--run-dir", "first", *SHORT]) == 2
    assert "in use" in capsys.readouterr().err
    assert sorted(path.name for path in Path("first").iterdir()) == [".lock"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("run_dir", ["", "--run-dir here/first"])
def test_a_device_that_is_not_there_leaves_nothing_behind(
    run_dir: str,
    there: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if there:
        (tmp_path / "here" / "first").mkdir(parents=True)
        (tmp_path / "runs").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert train_main([*run_dir.split(), "--learners.device", "cuda:77", *SHORT]) == 2
    assert "cuda:77" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_is_stopped_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_soon(shown: TerminalReporter, result: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(TerminalReporter, "progress", stop_soon)
        assert train_main(["--run-dir", "first", "--total-steps", "1024", *SHORT[2:]]) == 143
    said = capsys.readouterr()
    assert "continue with: train --resume first" in said.out
    assert said.err.startswith("error: stopped: SIGTERM")
    assert train_main(["--resume", "first"]) == 0
    assert train_main(["--run-dir", "whole", "--total-steps", "1024", *SHORT[2:]]) == 0
    weights = "policy/weights.safetensors"
    assert (Path("first") / weights).read_bytes() == (Path("whole") / weights).read_bytes()


def test_a_run_without_a_name_gets_one_that_tells_what_it_is() -> None:
    assert train_main(["--env", "CartPole-v1", "--seed", "3", *SHORT]) == 0
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("CartPole-v1__ppo__s3__")


def test_an_environment_of_ones_own_that_fails_is_shown_with_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_maze.py").write_text(
        "import gymnasium\n"
        "class Maze(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Discrete(3)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n        return 0, {}\n"
        "    def step(self, action):\n        raise ValueError('my wall')\n"
        "gymnasium.register('Maze-v0', Maze)\n"
    )
    assert train_main(["--env", "my_maze:Maze-v0", "--run-dir", "first", *SHORT[:-2]]) == 3
    said = capsys.readouterr().err
    assert "my_maze.py" in said
    assert said.splitlines()[-1].startswith("error: ")
    assert "my wall" in said.splitlines()[-1]
    assert json.loads((tmp_path / "first" / "failure.json").read_text())["exit_code"] == 3


BAD_EVALUATIONS = {
    "": "needs the directory",
    "nowhere": "nowhere is no directory",
    "empty": "neither a run nor a checkpoint",
    "empty --episodes 0": "at least 1",
    "empty --episode 3": "did you mean --episodes?",
    "empty empty": "belongs to no flag",
}


@pytest.mark.parametrize("line", BAD_EVALUATIONS)
def test_evaluating_what_is_no_run_is_refused(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert rl_main(["evaluate", *line.split()]) == 2
    assert BAD_EVALUATIONS[line] in capsys.readouterr().err
