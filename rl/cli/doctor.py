"""`rl doctor`: checks an environment against what training needs of it, in one report."""

from __future__ import annotations

from rl.cli.evaluate import whole_number
from rl.cli.flags import Flag, flag_name, parse, unknown_flags
from rl.configs.algorithm_config import AlgorithmConfig, EnvRunnersConfig
from rl.configs.yaml_io import read_scalar
from rl.errors import ConfigError, Problem

__all__ = ["main"]

FLAGS = (
    Flag("steps", "Environment steps to watch.", "INT", ("1000",)),
    Flag("seed", "Seed of the episodes and the actions.", "INT", ("0",)),
    Flag("buffer_size", "Transitions of a replay buffer that must fit into memory.", "INT"),
    Flag("vectorization", "auto, native or single, as env_runners.vectorization.", "NAME"),
    Flag("num_envs", "Environments of one that is vectorised.", "INT", ("3",)),
    Flag("env_kwargs", "Arguments the environment is made with.", "KEY=VALUE ...", many=True),
)


def main(arguments: list[str]) -> int:
    """Runs the command: 0 when the environment is sound, 3 when it is not; raises `RLError`."""
    line = parse("rl doctor ENV", "Checks an environment.", FLAGS, arguments)
    problems = unknown_flags(line, FLAGS, words=1)
    if not line.words:
        problems.append(Problem("", "needs an environment, such as CartPole-v1"))
    numbers: dict[str, int | None] = {"buffer_size": None}
    for name, default, least in (("steps", 1000, 1), ("seed", 0, 0), ("num_envs", 3, 1)):
        numbers[name] = whole_number(line.text(name), flag_name(name), default, least, problems)
    if (asked := line.text("buffer_size")) is not None:
        numbers["buffer_size"] = whole_number(asked, "--buffer-size", 1, 1, problems)
    native = line.text("vectorization") or "auto"
    if native not in ("auto", "native", "single"):
        problems.append(Problem("--vectorization", f"is auto, native or single; got {native!r}"))
    words = line.values.get("env_kwargs", ())
    pairs = [word.partition("=") for word in words] if isinstance(words, tuple) else []
    problems += [Problem("--env-kwargs", f"{k!r} is not KEY=VALUE") for k, eq, _ in pairs if not eq]
    if problems:
        raise ConfigError("rl doctor", problems)
    config = AlgorithmConfig(
        env=line.words[0],
        env_kwargs={key: read_scalar(text) for key, _, text in pairs},
        env_runners=EnvRunnersConfig(vectorization=native),  # type: ignore[arg-type]
    )

    from rl.env_runners.environments import EnvironmentFactory
    from rl.testing.environments import inspect_env

    report = inspect_env(EnvironmentFactory.of(config), **numbers)  # type: ignore[arg-type]
    print(report)
    return 0 if report.sound else 3
