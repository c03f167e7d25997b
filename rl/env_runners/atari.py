"""Atari as it is always preprocessed, and the game's own score kept from before it.

Up to 30 no-ops at the start, 4 frames a step with a maximum over the last two, 84x84 grey, the last
4 stacked, the sign of the reward (Mnih et al. 2015, Nature 518; Machado et al. 2018,
arXiv:1709.06009): observations [4, 84, 84] uint8. `ale_py.AtariVectorEnv` does that in C++, many
games at once and without the interpreter's lock.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from rl.core.data.spaces import FrameStack
from rl.core.data.tree import Array
from rl.errors import UsageError

__all__ = ["LIFE_LOST", "AtariVector", "make_atari", "make_rendered_atari"]

FRAME_STACK = 4
"""Frames of an observation, the newest last."""
LIFE_LOST = "life_lost"
"""In the infos of an end that is only the loss of a life: the game, and its score, go on."""
OWN_SETTINGS = {"terminal_on_life_loss": False, "reward_clipping": True}
"""Arguments that are ours, with their defaults; the rest goes to `ale_py.AtariVectorEnv`."""
SET_BY_US = ("game", "num_envs", "autoreset_mode", "batch_size", "episodic_life", "life_loss_info")


class AtariVector(VectorWrapper[Any, Any, Any]):
    """Signs of the rewards; lives lost as ends where asked for; the unchanged score at the end."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        terminal_on_life_loss: bool = False,
        reward_clipping: bool = True,
    ) -> None:
        """Wraps a vector environment in the autoreset mode SAME_STEP that leaves rewards alone.

        Args:
            env: The games.
            terminal_on_life_loss: A lost life ends what is learnt from; the game itself goes on.
            reward_clipping: Give the signs of the rewards.
        """
        super().__init__(env)
        self._life_loss, self._clip = terminal_on_life_loss, reward_clipping
        frames = env.single_observation_space.shape
        # After a lost life the frames before it stand in the stack, so it begins as no other does.
        whole = not terminal_on_life_loss and frames is not None and frames[0] > 1
        self.stack = FrameStack(frames[0], "zero") if frames is not None and whole else None
        self._scores = np.zeros(env.num_envs)
        self._lives = np.zeros(env.num_envs, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self._scores[:] = 0.0
        self._lives = np.array(infos["lives"])
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        observations, raw, terminated, truncated, infos = self.env.step(actions)
        self._scores += raw
        over = terminated | truncated
        lives = np.array(infos["lives"])
        lost = np.zeros_like(over)
        if self._life_loss:
            lost = (lives < self._lives) & (lives > 0) & ~over
        self._lives = lives
        if (over | lost).any():
            finals = np.array(infos.get("final_obs", observations))
            finals[lost] = observations[lost]
            told = {"episode": {"r": self._scores.copy()}, LIFE_LOST: lost}
            infos = {**infos, "final_obs": finals, "final_info": told}
            self._scores[over] = 0.0
            terminated = terminated | lost
        rewards = np.sign(raw) if self._clip else raw
        return observations, rewards.astype(np.float32), terminated, truncated, infos


def make_atari(
    env_id: str, num_envs: int, env_kwargs: Mapping[str, Any], *, training: bool
) -> AtariVector:
    """The games of an id, `ALE/Pong-v5`, preprocessed.

    Args:
        env_id: Of Gymnasium's registry; its own settings hold, such as sticky actions.
        num_envs: Games played side by side.
        env_kwargs: Settings in place of the defaults.
        training: False plays whole games, whatever `terminal_on_life_loss` says.

    Raises:
        UsageError: A setting is none of these, or is ours to make.
    """
    vector_env = importlib.import_module("ale_py.vector_env").AtariVectorEnv
    own = {name: env_kwargs.get(name, default) for name, default in OWN_SETTINGS.items()}
    theirs = {name: value for name, value in env_kwargs.items() if name not in own}
    _refuse_unknown(env_id, theirs, vector_env)
    spec = gymnasium.spec(env_id)
    settings = {**spec.kwargs, "frameskip": 4, "stack_num": FRAME_STACK, **theirs}
    games = vector_env(
        num_envs=num_envs,
        autoreset_mode=AutoresetMode.SAME_STEP,
        **{**settings, "reward_clipping": False},
    )
    own["terminal_on_life_loss"] &= training
    return AtariVector(games, **own)


def _refuse_unknown(env_id: str, theirs: Mapping[str, Any], vector_env: Any) -> None:
    known = [name for name in inspect.signature(vector_env).parameters if name not in SET_BY_US]
    unknown = [name for name in theirs if name not in known]
    if unknown:
        raise UsageError(
            f"env {env_id}: env_kwargs {', '.join(unknown)} cannot be set; what can:"
            f" {', '.join(sorted({*known, *OWN_SETTINGS}))}"
        )


class Fire(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Presses the button that games which wait for it begin with."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        emulator: Any = self.env.unwrapped
        if "FIRE" not in emulator.get_action_meanings():
            return result
        observation, _, terminated, truncated, info = self.env.step(1)
        return (observation, info) if not (terminated or truncated) else result


def make_rendered_atari(
    env_id: str, env_kwargs: Mapping[str, Any], render_mode: str
) -> gymnasium.Env[Any, Any]:
    """One game that can be looked at: the same observations, frame for frame, in Python.

    Rewards are the game's own, and whole games are played.
    """
    settings = dict(env_kwargs)
    for name in OWN_SETTINGS:
        settings.pop(name, None)
    skip, noops = settings.pop("frameskip", 4), settings.pop("noop_max", 30)
    stack, fire = settings.pop("stack_num", FRAME_STACK), settings.pop("use_fire_reset", True)
    env = gymnasium.make(
        env_id, disable_env_checker=True, frameskip=1, render_mode=render_mode, **settings
    )
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=noops, frame_skip=skip)
    if fire:
        env = Fire(env)
    return gymnasium.wrappers.FrameStackObservation(env, stack, padding_type="zero")
