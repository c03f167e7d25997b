"""Finds a config class by the name people give: `ppo`, or `package.module:Class`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.near import near_name
from rl.configs.references import load_named
from rl.configs.trust import check_imports
from rl.configs.yaml_io import SettingsFile, located, read_settings, read_settings_file
from rl.errors import ConfigError, UsageError

__all__ = [
    "ALGORITHMS",
    "algorithm_names",
    "config_class",
    "load_config",
    "read_config",
]

ALGORITHMS: Mapping[str, str] = {
    "ppo": "rl.configs.ppo:PPOConfig",
    "dqn": "rl.configs.dqn:DQNConfig",
    "sac": "rl.configs.sac:SACConfig",
    "td3": "rl.configs.td3:TD3Config",
}
"""Short name -> where its config class is. Imported when asked for."""


def algorithm_names() -> Iterator[str]:
    """Yields the short names."""
    yield from ALGORITHMS


def config_class(name: str) -> type[AlgorithmConfig]:
    """The config class that a short name or `package.module:Class` stands for.

    Raises:
        UsageError: There is none.
        UserImportError: Its module raised.
    """
    reference = ALGORITHMS.get(name, name)
    module, colon, attribute = reference.partition(":")
    if not colon or not module or not attribute:
        meant = near_name(name, ALGORITHMS)
        mend = f"did you mean {meant!r}?" if meant else f"there are {', '.join(ALGORITHMS)}."
        raise UsageError(
            f"there is no algorithm {name!r}; {mend} One of your own is named package.module:Class"
        )
    found = load_named("the algorithm", reference)
    if not (isinstance(found, type) and issubclass(found, AlgorithmConfig)):
        raise UsageError(f"{name} is {found!r}, not a subclass of rl.AlgorithmConfig")
    if "__pydantic_validator__" not in vars(found):
        raise UsageError(
            f"{name} is not marked as a config, so its own settings would not count; write"
            " @rl.config above `class " + found.__name__ + "`"
        )
    return found


def read_config(
    text: str,
    source: str = "the text",
    imports: Collection[str] = (),
    replaced: Collection[str] = (),
) -> AlgorithmConfig:
    """Makes a config, of whatever algorithm it names, from what `to_yaml` wrote.

    Args:
        text: YAML.
        source: Where it is from, for messages.
        imports: Modules that it may name and have imported, besides those that are already.
        replaced: `env`, where the caller puts another in its place.

    Raises:
        UsageError: Its algorithm cannot be found, or is of a module it may not name.
        ConfigError: It is damaged or does not fit its algorithm; with the lines.
    """
    return _made(read_settings(text, source), imports, replaced)


def load_config(path: str | Path, imports: Collection[str] = ()) -> AlgorithmConfig:
    """Reads a whole config, as a run or a checkpoint keeps it.

    Raises:
        UsageError: The file or its algorithm cannot be found, or it names a module it may not.
        ConfigError: It is damaged or does not fit its algorithm; with the lines.
    """
    return _made(read_settings_file(path), imports)


def _made(
    file: SettingsFile, imports: Collection[str], replaced: Collection[str] = ()
) -> AlgorithmConfig:
    if file.algo is None:
        raise UsageError(f"{file.source} has no `algo:` line, which says whose settings these are")
    check_imports(file, imports, replaced=replaced)
    try:
        return config_class(file.algo)(**file.values).checked()
    except ConfigError as error:
        raise located(error, file.where) from None
