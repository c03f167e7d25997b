"""`rl envs`: the environments there are, with their presets and the extras they need."""

from __future__ import annotations

import importlib.util

from rl.algorithms.registry import algorithm_names
from rl.cli.flags import parse, unknown_flags
from rl.configs.presets import preset_for
from rl.errors import ConfigError

__all__ = ["main"]

PROVIDERS = {"atari": "ale_py", "box2d": "Box2D", "mujoco": "mujoco"}
"""Extra -> the module it brings."""


def _note(env_id: str, extra: str | None) -> str:
    notes = []
    presets = [algo for algo in algorithm_names() if preset_for(algo, env_id)]
    if presets:
        notes.append("preset: " + ", ".join(presets))
    if extra is not None:
        there = importlib.util.find_spec(PROVIDERS[extra]) is not None
        notes.append(f"extra {extra}" + ("" if there else f": pip install 'rl-platform[{extra}]'"))
    return "; ".join(notes)


def main(arguments: list[str]) -> int:
    """Runs the command; raises `RLError`."""
    description = "Lists the registered environments. WORD: only those whose id holds it."
    line = parse("rl envs [WORD]", description, (), arguments)
    if problems := unknown_flags(line, (), words=1):
        raise ConfigError("rl envs", problems)

    from rl.env_runners.environments import known_ids, required_extra

    word = line.words[0].lower() if line.words else ""
    for env_id in known_ids():
        if word in env_id.lower():
            print(f"{env_id:<40} {_note(env_id, required_extra(env_id))}".rstrip())
    return 0
