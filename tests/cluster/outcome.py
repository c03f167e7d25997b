"""The run that tests of clusters disturb, and what must have become of it."""

from __future__ import annotations

from pathlib import Path

from rl.cli.main import train_main
from tests.cluster.counted import VARIABLE, steps_taken
from tests.cluster.nodes import Run

LENGTH, WIDTH = 32, 4
FRAGMENT = LENGTH * WIDTH
"""Environment steps that a runner takes at a time."""
MIDDLE = 2 * LENGTH + LENGTH // 2
"""Steps of an environment up to the middle of its runner's third fragment."""


def settings(runners: int, steps: int, *more: str) -> list[str]:
    """Of `rl train`, for a run on any engine."""
    return (
        "--algo ppo --env tests.cluster.counted:Counted-v0 --seed 1 --num-epochs 1"
        f" --minibatch-size 64 --rollout-length {LENGTH} --env-runners.envs-per-runner {WIDTH}"
        f" --evaluation.num-episodes 1 --env-runners.num {runners} --total-steps {steps}"
    ).split() + list(more)


def on_ray(address: str, directory: Path, *more: str) -> list[str]:
    """The same, on a cluster and counted."""
    return [
        *("--runtime.engine", "ray", "--runtime.address", address),
        *("--runtime.placement-timeout", "200"),
        *("--runtime.env-vars", f"{VARIABLE}={directory}"),
        *more,
    ]


def calm(directory: Path, arguments: list[str]) -> bytes:
    """The weights of an undisturbed run in this process."""
    arguments = [*arguments, "--runtime.engine", "inline", "--run-dir", str(directory)]
    assert train_main(arguments) == 0
    return _weights(directory)


def check_outcome(run: Run, counted: Path, expected: bytes, steps: int, lost: int) -> None:
    """All the steps, the weights of a calm run, and a fragment at most for each lost runner."""
    assert _weights(run.directory) == expected
    assert run.last("time/total_timesteps") == steps
    assert run.last("sampler/discarded_steps") == 0
    restored = run.last("sampler/restored_steps")
    assert restored > 0, "who moves plays its unfinished episodes again"
    assert 0 < steps_taken(counted) - restored - steps <= lost * FRAGMENT


def _weights(directory: Path) -> bytes:
    return (directory / "policy" / "weights.safetensors").read_bytes()
