"""`rl doctor`: checks an environment against what training needs of it, in one report."""

from __future__ import annotations

from rl.cli.flags import Flag, parse, unknown_flags
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.yaml_io import read_scalar
from rl.errors import ConfigError, Problem

__all__ = ["main"]

FLAGS = (
    Flag("steps", "Environment steps to watch.", "INT", ("1000",)),
    Flag("seed", "Seed of the episodes and the actions.", "INT", ("0",)),
    Flag("env_kwargs", "Arguments the environment is made with.", "KEY=VALUE ...", many=True),
)


def main(arguments: list[str]) -> int:
    """Runs the command: 0 when the environment is sound, 3 when it is not; raises `RLError`."""
    line = parse("rl doctor ENV", "Checks an environment.", FLAGS, arguments)
    problems = unknown_flags(line, FLAGS, words=1)
    if not line.words:
        problems.append(Problem("", "needs an environment, such as CartPole-v1"))
    numbers = {"steps": 1000, "seed": 0}
    for name in numbers:
        text = line.text(name)
        if text is not None and not (text.isdecimal() and int(text) >= (name == "steps")):
            problems.append(Problem(f"--{name}", f"must be a whole number; got {text!r}"))
        elif text is not None:
            numbers[name] = int(text)
    words = line.values.get("env_kwargs", ())
    pairs = [word.partition("=") for word in words] if isinstance(words, tuple) else []
    problems += [Problem("--env-kwargs", f"{k!r} is not KEY=VALUE") for k, eq, _ in pairs if not eq]
    if problems:
        raise ConfigError("rl doctor", problems)
    config = AlgorithmConfig(
        env=line.words[0], env_kwargs={key: read_scalar(text) for key, _, text in pairs}
    )

    from rl.env_runners.environments import EnvironmentFactory
    from rl.testing.environments import inspect_env

    report = inspect_env(EnvironmentFactory.of(config), **numbers)
    print(report)
    return 0 if report.sound else 3
