"""`rl record`: a video of a trained policy at play."""

from __future__ import annotations

from pathlib import Path

from rl.algorithms.registry import load_config
from rl.cli.evaluate import config_file, policy_directory, whole_number
from rl.cli.flags import Flag, parse, unknown_flags
from rl.cli.train import TRUST, trusted_modules
from rl.errors import ConfigError, Problem, UsageError

__all__ = ["main"]

FLAGS = (
    Flag("episodes", "Episodes to play, one after the other.", "INT", ("1",)),
    Flag("seed", "Root of the seeds of the episodes.", "INT", ("0",)),
    Flag("steps", "Environment steps of an episode that are shown at most.", "INT", ("1000",)),
    Flag("out", "File: .mp4 or .gif. (default: a new .mp4 in the run's videos/)", "FILE"),
    TRUST,
)


def main(arguments: list[str]) -> int:
    """Runs the command; raises `RLError`."""
    line = parse(
        "rl record RUN|CHECKPOINT",
        "Plays episodes with a trained policy and writes them as a video.",
        FLAGS,
        arguments,
    )
    problems = unknown_flags(line, FLAGS, words=1)
    episodes = whole_number(line.text("episodes"), "--episodes", 1, 1, problems)
    seed = whole_number(line.text("seed"), "--seed", 0, 0, problems)
    steps = whole_number(line.text("steps"), "--steps", 1000, 1, problems)
    if not line.words:
        problems.append(Problem("", "needs the directory of a run or a checkpoint"))
    if problems:
        raise ConfigError("rl record", problems)
    path = Path(line.words[0])
    if not path.is_dir():
        raise UsageError(f"{path} is no directory; give a run, such as runs/first")
    settings = config_file(path)
    trusted = trusted_modules(line)
    config, directory = load_config(settings, trusted), policy_directory(path)

    from rl.env_runners.recording import check_writer, record_episodes, write_video

    out = Path(line.text("out") or settings.parent / "videos" / f"{directory.name}-s{seed}.mp4")
    check_writer(out)

    from rl.core.models.policy import Policy
    from rl.env_runners.environments import EnvironmentFactory, describe_env

    factory = EnvironmentFactory.of(config, describe_env(config)).for_evaluation("rgb_array")
    policy = Policy.load(directory, imports=trusted)
    frames, returns, rate = record_episodes(policy, factory, episodes, seed, steps)
    write_video(out, frames, rate)
    told = ", ".join(f"{value:g}" for value in returns)
    print(f"{out}: {len(frames)} frames, returns {told} ({directory})")
    return 0
