"""`rl algos`: the algorithms, what they are and which actions they take."""

from __future__ import annotations

import inspect

from rl.algorithms.registry import algorithm_names, config_class
from rl.cli.flags import parse, unknown_flags
from rl.configs.algorithm_config import ALL_ACTIONS
from rl.configs.presets import preset_names
from rl.errors import ConfigError

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Runs the command; raises `RLError`."""
    line = parse("rl algos", "Lists the algorithms.", (), arguments)
    if problems := unknown_flags(line, ()):
        raise ConfigError("rl algos", problems)
    for name in algorithm_names():
        settings = config_class(name)
        able = settings.supported_actions
        actions = "all actions" if able == ALL_ACTIONS else "actions: " + ", ".join(sorted(able))
        module = inspect.getmodule(settings)
        about = (inspect.getdoc(module) or "").partition("\n")[0]
        about = about.removeprefix("Settings of ").rstrip(".")
        print(f"{name}  {about}; {actions}; {len(preset_names(name))} presets")
    return 0
