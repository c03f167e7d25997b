"""Episodes of a policy as pictures, and pictures as a video."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium.error import DependencyNotInstalled

from rl.core.data.tree import Array
from rl.core.seeding import stream_seed
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.faults import raised
from rl.env_runners.single import SingleEnvironment
from rl.errors import EnvironmentFault, StorageError, UsageError

__all__ = ["as_gif", "check_recordable", "check_writer", "record_episodes", "write_video"]

MEND = (
    'a video needs the render mode "rgb_array": list it in metadata["render_modes"], let the'
    " constructor take render_mode, and return a picture [H, W, 3] of bytes from render()"
)
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
    check_library(str(path), needs)


def check_library(what: str, needs: tuple[str, ...] = ("imageio",)) -> None:
    """Raises `UsageError` where the libraries are missing that a video needs."""
    for module in needs:
        try:
            importlib.import_module(module)
        except ImportError as error:
            instead = ", or give --out x.gif" if module == "imageio_ffmpeg" else ""
            raise UsageError(
                f"{what}: writing it needs the extra 'video', which is not installed ({error});"
                f" pip install 'rl-platform[video]'{instead}"
            ) from error


def make_rendered(factory: EnvironmentFactory) -> Any:
    """An environment to play and to look at.

    Raises:
        UsageError: It cannot be rendered to pictures.
        EnvironmentFault: It raised.
    """
    where = f"env {factory.name}"
    env = replace(factory, render_mode=None)()
    modes = (env.metadata or {}).get("render_modes", [])
    of_a_vector = isinstance(env, SingleEnvironment)  # which says it otherwise, or not at all
    env.close()
    if "rgb_array" not in modes and not of_a_vector:
        raise UsageError(f"{where}: its metadata['render_modes'] is {list(modes)}; {MEND}")
    try:
        return factory()
    except EnvironmentFault as fault:
        if isinstance(fault.__cause__, TypeError) and "render_mode" in str(fault.__cause__):
            raise UsageError(
                f"{where}: its constructor does not take render_mode; {MEND}"
            ) from fault
        raise


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
    env = make_rendered(factory)
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
    except DependencyNotInstalled as error:  # such as pygame, which is asked for in render()
        raise UsageError(
            f"{where}: cannot be rendered: {error}; pip install 'rl-platform[video]' has what"
            " Gymnasium's own environments need"
        ) from error
    except Exception as error:
        raise raised(where, "playing an episode to record it", error) from error
    finally:
        env.close()
    return frames, returns, min(max(rate, SLOWEST), FASTEST)


def check_recordable(factory: EnvironmentFactory) -> None:
    """Looks at the first picture of an episode; raises as `record_episodes`, before anything runs.

    Also where the library is missing that makes GIFs.
    """
    check_library("a video (evaluation.video_interval)")
    record_episodes(_Nobody(), factory, 1, 0, 0)


class _Nobody:
    """Takes no step."""

    def act(self, observation: Any, deterministic: bool = True) -> Any:
        raise NotImplementedError

    def reset(self) -> None:
        pass


def _picture(env: Any, where: str) -> Array:
    picture = env.render()
    array: Array = np.asarray(0 if picture is None else picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        kind = type(picture).__name__ if picture is None else f"{array.dtype}{array.shape}"
        raise UsageError(f"{where}: render() gave {kind}, not a picture [H, W, 3] of bytes; {MEND}")
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


def as_gif(frames: list[Array], rate: float, longest: int) -> tuple[bytes, int, int]:
    """Frames as a GIF, with its height and width: pixels left out until no side is over `longest`.

    GIFs count hundredths of a second, so the rate is met about.
    """
    imageio: Any = importlib.import_module("imageio.v2")
    skip = -(-max(frames[0].shape[:2]) // longest)
    smaller = [np.ascontiguousarray(frame[::skip, ::skip]) for frame in frames]
    found = io.BytesIO()
    imageio.mimsave(found, smaller, format="gif", duration=1000 / rate, loop=0)
    height, width = smaller[0].shape[:2]
    return found.getvalue(), height, width
