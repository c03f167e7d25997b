"""Tuned settings as data: a file for an algorithm and an environment, `presets/<algo>/<env>.yaml`.

A file is a settings file whose `env` may be a pattern: `ALE/*`. A new one needs no code. Other
settings for an environment stand in a file of their own under a name behind an `@`,
`CartPole-v1@rainbow`; they are taken only when asked for by that name.
"""

from __future__ import annotations

import fnmatch
import functools
from pathlib import Path
from typing import Any

from rl.configs.near import near_name
from rl.configs.yaml_io import SettingsFile, read_settings_file
from rl.errors import UsageError

__all__ = ["find_preset", "load_preset", "preset_for", "preset_names"]

DIRECTORY = Path(__file__).parent / "presets"
VARIANT = "@"


@functools.cache
def _presets(algo: str) -> dict[str, SettingsFile]:
    """Environment id or pattern, with `@variant` where there is one -> what its file says."""
    found = {}
    for path in sorted((DIRECTORY / algo).glob("*.yaml")):
        file = read_settings_file(path)
        _, at, variant = path.stem.partition(VARIANT)
        found[str(file.values["env"]) + at + variant] = file
    return found


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def preset_names(algo: str) -> list[str]:
    """Environment ids, patterns and `id@variant`s that `algo`, a short name, has presets for."""
    return list(_presets(algo))


def preset_for(algo: str, env_id: str) -> SettingsFile | None:
    """The preset of an environment; a pattern counts when no file names the environment itself.

    `values["env"]` is the environment asked for, without the variant.
    """
    presets = _presets(algo)
    matching = [name for name in presets if fnmatch.fnmatchcase(env_id, name)]
    if env_id not in presets and not matching:
        return None
    name = env_id if env_id in presets else matching[0]
    file = presets[name]
    source = f"preset {algo}/{name}"
    own_id = env_id.partition(VARIANT)[0]
    return SettingsFile(source, file.algo, {**file.values, "env": own_id}, dict(file.lines))


def load_preset(algo: str, name: str) -> SettingsFile:
    """The preset of a name that a person gave.

    Raises:
        UsageError: There is none; with a near name, or all there are. Or the name is a pattern,
            which names no environment.
    """
    if _is_pattern(name):
        raise UsageError(f"the preset {name!r} is a pattern; name an environment, as ALE/Pong-v5")
    found = preset_for(algo, name)
    if found is None:
        names = preset_names(algo)
        meant = near_name(name, names)
        mend = f"did you mean {meant!r}?" if meant else f"there are {', '.join(names) or 'none'}"
        raise UsageError(f"{algo} has no preset {name!r}; {mend}")
    return found


def find_preset(algo: str, env_id: str) -> dict[str, Any] | None:
    """The settings of the preset of an environment, `env` among them; None when it has none."""
    file = preset_for(algo, env_id)
    return None if file is None else dict(file.values)
