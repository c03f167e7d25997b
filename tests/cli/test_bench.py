"""`rl bench` finds the faster placement, leaves nothing behind and can be stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.cli.main import rl_main

ROOT = Path(__file__).parents[2]
SLOW = """
import time
import gymnasium
import numpy as np

class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        time.sleep(0.005)
        return np.zeros(2, np.float32), 0.0, False, False, {}

gymnasium.register("Slow-v0", Slow)
"""
SMALL = (
    *("--rollout-length", "16"),
    *("--minibatch-size", "32"),
    *("--num-epochs", "1"),
    *("--hidden-sizes", "8"),
    *("--env-runners.envs-per-runner", "2"),
)
TWO_RUNNERS = "--env-runners.num 2 --env-runners.envs-per-runner 1 --runtime.engine process"


@pytest.fixture(autouse=True)
def _beside_a_slow_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_env.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("rl.core.runtime.resources.available_cpus", lambda: 2)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "__pycache__")


def test_two_processes_are_recommended_where_steps_take_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rl_main(["bench", "slow_env:Slow-v0", "--seconds", "1.5", *SMALL]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert f"add to train: {TWO_RUNNERS}" in lines
    assert "The fastest: 2 x 1, process." in lines
    assert any("changes the batch" in line for line in lines)
    rows = [line.split() for line in lines if line.split()[:1] in (["1"], ["2"])]
    assert [row[:3] for row in rows] == [
        ["1", "2", "inline"],
        ["1", "2", "process"],
        ["2", "1", "process"],
    ]
    assert all(int(row[-4].rstrip("%")) > 50 for row in rows)  # in the environment
    assert said.err.startswith("1/9: 1 x 2, inline\n")
    assert left(tmp_path) == ["slow_env.py"]


def test_what_is_recommended_can_be_pasted() -> None:
    words = ["train", "--env", "CartPole-v1", "--total-steps", "32", *SMALL[:-2]]
    ends = ["--run-dir", "run", "--evaluation.num-episodes", "1"]
    assert rl_main([*words, *ends, *TWO_RUNNERS.split()]) == 0


def test_other_numbers_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    inline = ["--runtime.engine", "inline", "--vary-environments"]
    assert rl_main(["bench", "CartPole-v1", "--seconds", "0.1", *SMALL, *inline]) == 0
    said = capsys.readouterr().out
    assert "add to train: --env-runners.num 1 --env-runners.envs-per-runner 2" in said
    assert "learns something else" in said or "learn something else, gains none" in said
    assert "Each was measured once" in said


def test_a_replay_buffer_is_learnt_from_early(capsys: pytest.CaptureFixture[str]) -> None:
    line = "CartPole-v1 --algo dqn --no-preset --learning-starts 50000 --runtime.engine inline"
    assert rl_main(["bench", *line.split(), "--seconds", "0.2"]) == 0
    assert "learning starts after 64 steps here, not after 50000" in capsys.readouterr().out


BAD = {
    "CartPol-v1": ["did you mean CartPole-v1?"],
    "CartPole-v1 --gama 1 --seconds 0": ["did you mean --gamma?", "--seconds: must be a number"],
    "CartPole-v1 --seconds soon --gamma 2": ["got 'soon'", "at most 1; got '2'"],
    "--seconds 0": ["needs an environment first", "--seconds: must be"],
    "CartPole-v1 --runtime.engine ray --seconds nan": ["ray cannot be tried", "--seconds"],
    "CartPole-v1 Pendulum-v1": ["Pendulum-v1: belongs to no flag"],
    "CartPole-v1 --run-dir here": ["--run-dir: there is no such flag"],
    "CartPole-v1 --preset CartPole-v1 --no-preset": ["contradicts --preset"],
    "CartPole-v1 --config nothing.yaml": ["no such file"],
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_ends_with_code_2_and_one_message(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rl_main(["bench", *line.split()]) == 2
    said = capsys.readouterr()
    for part in BAD[line]:
        assert part in said.err
    assert said.err.count("error: ") == 1
    assert said.out == ""
    assert left(tmp_path) == ["slow_env.py"]


def command(program: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from rl.cli.main import rl_main; " + program]


def test_help_costs_no_torch() -> None:
    program = "code = rl_main(['bench', '--help']); assert 'torch' not in sys.modules; exit(code)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(program), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("--seconds", "--vary-environments", "--env-runners.num", "Nothing is kept"):
        assert word in done.stdout


def of_session(session: int) -> list[int]:
    """Processes alive that belong to it."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(file.parent.name))
    return found


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("imports", signal.SIGINT),
        ("inline", signal.SIGINT),
        ("process", signal.SIGINT),
        ("process", signal.SIGTERM),
    ],
)
def test_a_signal_ends_it_without_a_traceback_and_nothing_runs_on(
    moment: str, number: signal.Signals, tmp_path: Path
) -> None:
    words = ["bench", "slow_env:Slow-v0", "--seconds", "60", *SMALL]
    words += ["--runtime.engine", "process" if moment == "process" else "inline"]
    program = f"print('here', file=sys.stderr, flush=True); sys.exit(rl_main({words!r}))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    process = subprocess.Popen(
        command(program),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    awaited = "here" if moment == "imports" else f"2, {moment}"
    while awaited not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.8 if moment != "imports" else 0.25)
    os.killpg(process.pid, number)  # as a terminal does
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert said.count("error: stopped") == 1
    deadline = time.monotonic() + 5
    while of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert of_session(process.pid) == []
    assert left(tmp_path) == ["slow_env.py"]
