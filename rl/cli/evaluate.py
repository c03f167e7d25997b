"""`rl evaluate`: plays whole episodes with a trained policy and says how they went."""

from __future__ import annotations

import json
from pathlib import Path

from rl.algorithms.registry import load_config
from rl.cli.flags import Flag, parse, unknown_flags
from rl.cli.train import TRUST, trusted_modules
from rl.errors import ConfigError, Problem, UsageError

__all__ = ["config_file", "main", "policy_directory", "whole_number"]

FLAGS = (
    Flag("episodes", "Episodes to play.", "INT", ("10",)),
    Flag("seed", "Root of the seeds of the episodes.", "INT", ("0",)),
    Flag(
        "stochastic", "Draw actions instead of taking the likeliest.", default=False, paired=False
    ),
    Flag("json", "Print one JSON object.", default=False, paired=False),
    TRUST,
)


def whole_number(text: str | None, flag: str, default: int, least: int, out: list[Problem]) -> int:
    """The number a flag was given, or its default; adds to `out` what is wrong with it."""
    if text is None:
        return default
    if text.isdecimal() and int(text) >= least:
        return int(text)
    out.append(Problem(flag, f"must be a whole number of at least {least}; got {text!r}"))
    return default


def config_file(path: Path) -> Path:
    """The settings that belong to a run, to one of its checkpoints or to its policy."""
    resolved = path.resolve()
    for directory in (resolved, *list(resolved.parents)[:2]):
        if (directory / "config.yaml").is_file():
            return directory / "config.yaml"
    raise UsageError(f"{path} is neither a run nor a checkpoint of one: there is no config.yaml")


def policy_directory(path: Path) -> Path:
    """What to load: a run's final policy, else its best checkpoint, else its latest."""
    for inside in ("policy", "checkpoints/best", "checkpoints/latest"):
        if (path / inside).is_dir():
            return (path / inside).resolve()
    if (path / "config.yaml").is_file() and (path / "command.txt").is_file():
        raise UsageError(
            f"the run {path} has neither a policy nor a checkpoint yet; continue it with"
            f" train --resume {path}"
        )
    return path.resolve()


def main(arguments: list[str]) -> int:
    """Runs the command; raises `RLError`."""
    line = parse(
        "rl evaluate RUN|CHECKPOINT",
        "Plays whole episodes with a trained policy, in environments of their own.",
        FLAGS,
        arguments,
    )
    problems = unknown_flags(line, FLAGS, words=1)
    episodes = whole_number(line.text("episodes"), "--episodes", 10, 1, problems)
    seed = whole_number(line.text("seed"), "--seed", 0, 0, problems)
    if not line.words:
        problems.append(Problem("", "needs the directory of a run or a checkpoint"))
    if problems:
        raise ConfigError("rl evaluate", problems)
    path = Path(line.words[0])
    if not path.is_dir():
        raise UsageError(f"{path} is no directory; give a run, such as runs/first")
    config = load_config(config_file(path), trusted_modules(line))
    directory = policy_directory(path)

    from rl.core.models.policy import Policy
    from rl.env_runners.environments import EnvironmentFactory, describe_env
    from rl.env_runners.evaluation import evaluate_policy

    evaluation = evaluate_policy(
        Policy.load(directory, imports=trusted_modules(line)),
        EnvironmentFactory.of(config, describe_env(config)).for_evaluation(),
        episodes,
        seed,
        deterministic="stochastic" not in line.values,
        max_failures=config.env_runners.max_env_failures,
    )
    if "json" in line.values:
        told = {
            "mean": evaluation.mean,
            "std": evaluation.std,
            "returns": list(evaluation.returns),
            "lengths": list(evaluation.lengths),
            "env": config.env_id,
            "checkpoint": str(directory),
        }
        print(json.dumps(told))
    else:
        print(
            f"{config.env_id}: return {evaluation.mean:.2f} +- {evaluation.std:.2f},"
            f" length {evaluation.mean_length:.1f} over {episodes} episodes ({directory})"
        )
    return 0
