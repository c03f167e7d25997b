"""What a run does not import: it would be waited for before the first step of the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl.algorithms.registry import algorithm_names
from tests.by_hand import BY_HAND

TRAIN = """
import sys
from rl.algorithms.registry import config_class

name = sys.argv[1]
env = "CartPole-v1" if name in ("ppo", "dqn") else "Pendulum-v1"
small = dict(buffer_size=300, learning_starts=32, batch_size=8) if name != "ppo" else {}
if name == "ppo":
    small = dict(rollout_length=32, minibatch_size=32)
config = config_class(name)(env=env, hidden_sizes=(8,), **small)
with config.with_env_runners(num=1, envs_per_runner=1).build() as algorithm:
    metrics = {}
    while algorithm.env_steps < 64:
        metrics |= algorithm.train().metrics
assert any(name.endswith("loss") for name in metrics), metrics
print(*[name for name in ("torch._dynamo", "sympy", "tensorboard") if name in sys.modules])
"""


@pytest.mark.parametrize("name", list(algorithm_names()))
def test_learning_imports_no_compiler(name: str) -> None:
    """torch's optimizers import its compiler when they are made: two seconds."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


WHOLE = """
import sys
from rl.cli.main import rl_main

HEAVY = "torch", "tensorboard.compat.tensorflow_stub", "rl.configs.dqn", "typeguard"
where, algo, env, *settings = sys.argv[1:]
first = ["--algo", algo, "--env", env, "--total-steps", "300", "--run-dir", f"{where}/run"]
first += ["--checkpoints.interval", "128", "--evaluation.num-episodes", "1", *settings]
first += ["--rollout-length", "32"]
for arguments in (
    ["train", *first],
    ["train", "--resume", f"{where}/run", "--total-steps", "900"],
    ["evaluate", f"{where}/run", "--episodes", "1"],
):
    assert rl_main(arguments) == 0, arguments
assert "numpy" in sys.modules
print(*[name for name in HEAVY if name in sys.modules])
"""


def imported(tmp_path: Path, *arguments: str) -> list[str]:
    """What of `HEAVY` a run imports that is trained, resumed and evaluated."""
    command = [sys.executable, "-c", WHOLE, str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2].split()


BOTH = ["--normalize-observations", "--normalize-rewards"]
PROCESSES = ["--env-runners.num", "2", "--env-runners.envs-per-runner", "4"]
REPLAY = ["--learning-starts", "32", "--buffer-size", "600", "--batch-size", "8"]
OFF_POLICY = [*REPLAY, *BOTH, "--prioritized", "--n-step", "3"]


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize(
    ("algo", "env", "settings"),
    [
        ("ppo", "CartPole-v1", []),
        ("ppo", "CartPole-v1", [*BOTH, "--target-kl", "1", "--shared-torso"]),
        ("ppo", "CartPole-v1", PROCESSES),
        ("dqn", "CartPole-v1", REPLAY),
        ("dqn", "CartPole-v1", [*OFF_POLICY, "--double", "--dueling"]),
        ("dqn", "CartPole-v1", [*REPLAY, *PROCESSES, "--tau", "0.5"]),
        ("sac", "Pendulum-v1", REPLAY),
        ("sac", "Pendulum-v1", [*OFF_POLICY, "--ent-coef", "0.1"]),
        ("sac", "Pendulum-v1", [*REPLAY, *PROCESSES]),
        ("td3", "Pendulum-v1", REPLAY),
        ("td3", "Pendulum-v1", [*OFF_POLICY, "--policy-delay", "3"]),
        ("td3", "Pendulum-v1", [*REPLAY, *PROCESSES]),
    ],
)
def test_a_run_of_plain_networks_never_imports_torch(
    tmp_path: Path, engine: str, algo: str, env: str, settings: list[str]
) -> None:
    """It takes longer than everything else before the first step."""
    arguments = algo, env, "--learners.engine", engine, *settings
    assert set(imported(tmp_path, *arguments)) <= {f"rl.configs.{algo}"}


def test_what_needs_torch_imports_it(tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    assert imported(tmp_path, "ppo", "CartPole-v1", "--learners.engine", "torch") == ["torch"]


SAMPLED = """
import functools
import os
import sys
from pathlib import Path

import gymnasium
from rl.algorithms.registry import config_class


class Listed(gymnasium.Wrapper):
    def __init__(self, env, where):
        super().__init__(env)
        self.where = Path(where)

    def step(self, action):
        (self.where / str(os.getpid())).write_text(" ".join(sys.modules))
        return super().step(action)


def make_env(env, where):
    return Listed(gymnasium.make(env), where)


name, where = sys.argv[1:]
env = "CartPole-v1" if name in ("ppo", "dqn") else "Pendulum-v1"
config = config_class(name)(env=functools.partial(make_env, env, where), hidden_sizes=(8,))
config = config.with_runtime(engine="process").with_env_runners(num=2, envs_per_runner=1)
with config.build() as algorithm:
    algorithm.sample(8)
"""


@pytest.mark.parametrize("name", list(algorithm_names()))
def test_a_worker_imports_no_validator(tmp_path: Path, name: str) -> None:
    """It takes as long as what a worker needs."""
    command = [sys.executable, "-c", SAMPLED, name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    workers = [path.read_text().split() for path in tmp_path.iterdir()]
    assert len(workers) == 2
    for modules in workers:
        assert "numpy" in modules
        assert not {"pydantic", "torch", "yaml"} & {*modules}


BORN = """
import sys
from rl.cli.main import rl_main
from rl.core.runtime import nursery

started = []
start = nursery.Forkserver.start
nursery.Forkserver.start = lambda preload: started.append(start(preload)) or started[-1]
begin = nursery.begin
early = []
nursery.begin = lambda preload: early.append("gymnasium" not in sys.modules) or begin(preload)
assert rl_main(["train", *sys.argv[2:]]) == int(sys.argv[1])
assert not nursery._spare
assert all(each.process.returncode is not None for each in started)
print(len(started), early[0] if early else None)
"""


@pytest.mark.parametrize(
    ("env", "runners", "code", "said"),
    [
        ("CartPole-v1", 2, 0, "1 True"),
        ("NoSuch-v1", 2, 2, "1 True"),
        ("CartPole-v1", 1, 0, "0 None"),
    ],
    ids=["processes", "refused", "inline"],
)
def test_one_forkserver_starts_while_the_driver_imports(
    tmp_path: Path, env: str, runners: int, code: int, said: str
) -> None:
    """It is used, or ended where the environment is refused; without workers there is none."""
    arguments = ["--algo", "ppo", "--env", env, "--run-dir", str(tmp_path / "run")]
    arguments += ["--total-steps", "64", "--rollout-length", "16", "--minibatch-size", "16"]
    arguments += ["--env-runners.num", str(runners), "--evaluation.num-episodes", "1"]
    command = [sys.executable, "-c", BORN, str(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == said
