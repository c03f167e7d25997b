"""Episodes of a policy as pictures, and pictures as a video."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rl.core.data.tree import Array
from rl.core.seeding import stream_seed
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.faults import raised
from rl.errors import EnvironmentFault, StorageError, UsageError

__all__ = ["check_writer", "record_episodes", "write_video"]

SLOWEST, FASTEST = 5.0, 60.0
"""Frames a second of a video, whatever the environment claims."""


class Acts(Protocol):
    """What is recorded: `rl.Policy`."""

    def act(self, observation: Any, deterministic: bool = True) -> Any: ...
    def reset(self) -> None: ...


def check_writer(path: Path) -> None:
    """Raises `UsageError` where a video of this name cannot be written."""
    needs = {".mp4": ("imageio", "imageio_ffmpeg"), ".gif": ("imageio",)}.get(path.suffix.lower())
    if needs is None:
        raise UsageError(f"{path}: a video ends in .mp4 or .gif")
    if path.exists():
        raise UsageError(f"{path}: is there already; nothing is ever overwritten, choose another")
    for module in needs:
        try:
            importlib.import_module(module)
        except ImportError as error:
            instead = (
                "" if path.suffix == ".gif" or module == "imageio" else ", or give --out x.gif"
            )
            raise UsageError(
                f"{path}: writing it needs the extra 'video', which is not installed ({error});"
                f" pip install 'rl-platform[video]'{instead}"
            ) from error


def record_episodes(
    policy: Acts, factory: EnvironmentFactory, num_episodes: int, seed: int, most_steps: int
) -> tuple[list[Array], list[float], float]:
    """Plays episodes greedily, seeded as `evaluate_policy` seeds them.

    Returns:
        Frames [H, W, 3] uint8; the return of each episode, or of what was seen of it; frames a
        second.

    Raises:
        UsageError: The environment cannot be rendered to pictures.
        EnvironmentFault: It raised.
    """
    env = factory()
    where = f"env {factory.name}"
    frames: list[Array] = []
    returns = []
    try:
        for episode in range(num_episodes):
            own = stream_seed(seed, "evaluation", episode) & 0xFFFFFFFF
            observation, _ = env.reset(seed=own)
            policy.reset()
            frames.append(_picture(env, where))
            total = 0.0
            for _ in range(most_steps):
                answer = env.step(policy.act(observation))
                observation, reward, terminated, truncated, _ = answer
                total += float(reward)
                frames.append(_picture(env, where))
                if terminated or truncated:
                    break
            returns.append(total)
        rate = float(env.metadata.get("render_fps") or 30)
    except (UsageError, EnvironmentFault):
        raise
    except Exception as error:
        raise raised(where, "playing an episode to record it", error) from error
    finally:
        env.close()
    return frames, returns, min(max(rate, SLOWEST), FASTEST)


def _picture(env: Any, where: str) -> Array:
    picture = env.render()
    array: Array = np.asarray(0 if picture is None else picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        kind = type(picture).__name__ if picture is None else f"{array.dtype}{array.shape}"
        raise UsageError(
            f"{where}: render() gave {kind}, not a picture [H, W, 3] of bytes; a video needs the"
            ' render mode "rgb_array": list it in metadata["render_modes"], and let the constructor'
            " take render_mode"
        )
    return array


def write_video(path: Path, frames: list[Array], rate: float) -> None:
    """Writes frames [H, W, 3] uint8; `check_writer` has found that it can be done."""
    imageio: Any = importlib.import_module("imageio.v2")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix.lower() == ".gif":
            imageio.mimsave(path, frames, duration=1000 / rate, loop=0)
        else:
            imageio.mimsave(path, frames, fps=rate, macro_block_size=2)
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error
