"""What an id or a callable stands for, and what to say where it stands for nothing usable."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from rl.errors import UsageError

__all__ = [
    "import_ale",
    "missing_text",
    "not_an_environment",
    "required_extra",
    "spec_of",
    "takes",
    "unimportable_text",
    "unknown_text",
]

EXTRAS = (
    (re.compile(r"^ALE/"), "atari"),
    (re.compile(r"^(LunarLander|BipedalWalker|CarRacing)"), "box2d"),
    (
        re.compile(r"^(HalfCheetah|Hopper|Walker2d|Ant|Humanoid|Swimmer|Reacher|Pusher|Inverted)"),
        "mujoco",
    ),
)
"""Families of environments that need an extra of this package."""


def required_extra(env_id: str) -> str | None:
    """The extra of this package an environment comes with, as far as its name tells."""
    return next((extra for pattern, extra in EXTRAS if pattern.match(env_id)), None)


def spec_of(env: str) -> EnvSpec | None:
    """What is registered under an id; None: nothing, or its module cannot be imported."""
    module, _, env_id = env.rpartition(":")
    if module:
        with contextlib.suppress(Exception):  # making it will tell
            importlib.import_module(module)
    return gymnasium.registry.get(env_id)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a callable has a parameter of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some of C have no signature
        return False


def not_an_environment(env: Any) -> str:
    """What to say of what a callable gave in place of an environment."""
    if hasattr(env, "num_envs"):
        return (
            f"gave the vector environment {type(env).__name__}, and was not asked how many it"
            " should hold; give the callable a parameter num_envs"
        )
    return (
        f"gave a {type(env).__name__}, not a gymnasium.Env; return an environment whose class"
        " derives from gymnasium.Env"
    )


def import_ale(env_id: str) -> None:
    """Registers the Atari games; raises `UsageError` where they are not installed."""
    try:
        gymnasium.register_envs(importlib.import_module("ale_py"))
        importlib.import_module("cv2")
    except ImportError as error:
        raise UsageError(missing_text(env_id, str(error))) from error


def missing_text(env_id: str, reason: str) -> str:
    """What to say where something that an environment needs is not installed."""
    extra = required_extra(env_id)
    if extra is None:
        return f"env {env_id}: something it needs is not installed: {reason}"
    return (
        f"env {env_id}: needs the extra {extra!r}, which is not installed ({reason});"
        f" pip install 'rl-platform[{extra}]'"
    )


def unknown_text(env_id: str, known: list[str]) -> str:
    """What to say of an id that nothing is registered under, with what is near of `known`."""
    module, colon, own_id = env_id.rpartition(":")
    near = difflib.get_close_matches(own_id, known, n=1, cutoff=0.6)
    mend = f"did you mean {module}{colon}{near[0]}?" if near else "`rl envs` lists those there are"
    return f"env {env_id}: no such environment; {mend}"


def unimportable_text(env_id: str, error: Exception) -> str:
    """What to say where the module of an id cannot be imported."""
    if ":" not in env_id:
        return f"env {env_id}: {error}"
    module = env_id.partition(":")[0]
    return (
        f"env {env_id}: the module {module!r} cannot be imported ({error}); install it, or run"
        f" where Python finds it (looked in {', '.join(path or '.' for path in sys.path[:3])}, ...)"
    )
