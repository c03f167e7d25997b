"""Files hold data: which modules a settings file may cause to be imported.

A module runs when it is imported, so a file that came from elsewhere must not choose one. It may
name what the program has imported already, and what its user has allowed by name.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.yaml_io import SettingsFile
from rl.errors import UsageError

__all__ = ["check_imports", "imports_of", "may_import"]


def may_import(reference: str, allowed: Collection[str] = ()) -> bool:
    """Whether a file may name `package.module:Class`: it is imported already, or allowed."""
    module = _module(reference)
    return module is not None and _allowed(module, allowed)


def _module(reference: object) -> str | None:
    """What `package.module:Name` would import."""
    if not isinstance(reference, str):
        return None
    module, colon, _ = reference.partition(":")
    return module if colon else None


def _allowed(module: str, allowed: Collection[str]) -> bool:
    known = module in sys.modules
    return known or any(module == name or module.startswith(f"{name}.") for name in allowed)


def check_imports(
    file: SettingsFile, allowed: Collection[str] = (), *, replaced: Collection[str] = ()
) -> None:
    """Checks the algorithm, the environment and the encoder that a file names.

    Args:
        file: What was read.
        allowed: Modules and packages that it may name.
        replaced: Of `algo`, `env` and `encoder` what something stronger than the file says.

    Raises:
        UsageError: It names a module that is neither imported yet nor allowed.
    """
    named = (file.algo, file.values.get("env"), file.values.get("encoder"))
    for key, value in zip(("algo", "env", "encoder"), named, strict=True):
        module = _module(value)
        if module is None or key in replaced or _allowed(module, allowed):
            continue
        raise UsageError(
            f"{file.where(key)}: {key} is {value!r}, and a file does not get to import a module by"
            f" itself: that would run its code; if you trust {module}, add --trust {module}, or"
            " in Python import it first"
        )


def imports_of(config: AlgorithmConfig) -> list[str]:
    """The modules that a file with this config needs to have allowed."""
    named = map(_module, (config.reference(), config.env, config.encoder))
    return sorted({module for module in named if module is not None})
