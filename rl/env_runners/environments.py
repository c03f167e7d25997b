"""Environments by id, by `module:Id`, by a registered name or by any callable."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error as gymnasium_error
from gymnasium.wrappers import (
    FrameStackObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
)

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.masks import check_mask, with_mask
from rl.core.data.spaces import ActionLayout, FrameStack, ObservationLayout, Spaces
from rl.env_runners.atari import RawScore, preprocess_atari
from rl.env_runners.faults import raised
from rl.env_runners.masks import InfoMask, tells_mask
from rl.errors import RLError, UsageError

__all__ = ["EnvironmentFactory", "describe_env", "known_ids", "register_env"]

Environment = gymnasium.Env[Any, Any]

_registered: dict[str, Callable[..., Environment]] = {}
_made: weakref.WeakValueDictionary[int, Environment] = weakref.WeakValueDictionary()
"""Environments alive in this process, by identity, to notice one that is handed out twice."""

EXTRAS = (
    (re.compile(r"^ALE/"), "atari"),
    (re.compile(r"^(LunarLander|BipedalWalker|CarRacing)"), "box2d"),
    (
        re.compile(r"^(HalfCheetah|Hopper|Walker2d|Ant|Humanoid|Swimmer|Reacher|Pusher|Inverted)"),
        "mujoco",
    ),
)
"""Families of environments that need an extra of this package."""


UNSEEING = (
    gymnasium.RewardWrapper,
    gymnasium.ActionWrapper,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
)
"""Wrappers that pass observations on as they are."""


def register_env(name: str, make_env: Callable[..., Environment]) -> None:
    """Lets `env=name` (and `--env name` in the same process) mean `make_env(**env_kwargs)`."""
    if not callable(make_env):
        raise UsageError(f"register_env({name!r}, ...): expected a callable, got {make_env!r}")
    _registered[name] = make_env


def known_ids() -> list[str]:
    """Ids that can be asked for now, without those that still need an extra or a module."""
    return sorted({*gymnasium.registry, *_registered})


def required_extra(env_id: str) -> str | None:
    """The extra of this package an environment comes with, as far as its name tells."""
    return next((extra for pattern, extra in EXTRAS if pattern.match(env_id)), None)


@dataclass(frozen=True)
class EnvironmentFactory:
    """Makes one environment each time it is called; picklable when what it calls is."""

    env: str | Callable[..., Environment]
    """An id of Gymnasium's registry, `module:Id`, or a callable."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    mask_in_info: bool = False
    """Puts `info["action_mask"]` into the observation."""

    @staticmethod
    def of(config: AlgorithmConfig, spaces: Spaces | None = None) -> EnvironmentFactory:
        """The factory of a run; a registered name becomes the callable behind it.

        Args:
            config: Of the run.
            spaces: As `describe_env` found them; None gives the environment as it is.
        """
        env = config.env
        target = _registered.get(env, env) if isinstance(env, str) else env
        masked = spaces is not None and spaces.mask_in_info
        return EnvironmentFactory(target, dict(config.env_kwargs), masked)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__qualname__", "env")

    def __call__(self) -> Environment:
        """Makes it.

        Raises:
            UsageError: There is no such environment, or something it needs is not installed.
            EnvironmentFault: Its own constructor raised.
        """
        try:
            env = self._make()
        except RLError:
            raise
        except gymnasium_error.DependencyNotInstalled as error:
            raise UsageError(_missing(self.name, str(error))) from error
        except gymnasium_error.UnregisteredEnv as error:
            raise UsageError(_unknown(self.name, str(error))) from error
        except (ModuleNotFoundError, gymnasium_error.Error) as error:
            if isinstance(self.env, str):
                raise UsageError(_unimportable(self.env, error)) from error
            raise raised(f"env {self.name}", "its constructor", error) from error
        except Exception as error:
            if self.env_kwargs and "unexpected keyword argument" in str(error):
                raise UsageError(
                    f"env {self.name}: env_kwargs {dict(self.env_kwargs)} do not suit it: {error}"
                ) from error
            raise raised(f"env {self.name}", "its constructor", error) from error
        if not isinstance(env, gymnasium.Env):
            raise UsageError(
                f"env {self.name}: gave a {type(env).__name__}, not a gymnasium.Env; return an"
                " environment whose class derives from gymnasium.Env"
            )
        if _made.get(id(env.unwrapped)) is not None:
            raise UsageError(
                f"env {self.name}: the callable returned the same environment twice; every call"
                " must make a new one: training and evaluation have several, and steps of one"
                " would overwrite another's"
            )
        _made[id(env.unwrapped)] = env.unwrapped
        return InfoMask(env) if self.mask_in_info else env

    def _make(self) -> Environment:
        if not isinstance(self.env, str):
            return self.env(**self.env_kwargs)
        if self.env.startswith("ALE/"):
            _import_ale(self.env)
            raw = gymnasium.make(
                self.env, disable_env_checker=True, **{"frameskip": 1, **self.env_kwargs}
            )
            return preprocess_atari(RawScore(raw))
        return gymnasium.make(self.env, disable_env_checker=True, **self.env_kwargs)


def _import_ale(env_id: str) -> None:
    try:
        gymnasium.register_envs(importlib.import_module("ale_py"))
        importlib.import_module("cv2")
    except ImportError as error:
        raise UsageError(_missing(env_id, str(error))) from error


def _missing(env_id: str, reason: str) -> str:
    extra = required_extra(env_id)
    if extra is None:
        return f"env {env_id}: something it needs is not installed: {reason}"
    return (
        f"env {env_id}: needs the extra {extra!r}, which is not installed ({reason});"
        f" pip install 'rl-platform[{extra}]'"
    )


def _unknown(env_id: str, reason: str) -> str:
    module, colon, own_id = env_id.rpartition(":")
    near = difflib.get_close_matches(own_id, known_ids(), n=1, cutoff=0.6)
    mend = f"did you mean {module}{colon}{near[0]}?" if near else "`rl envs` lists those there are"
    return f"env {env_id}: no such environment; {mend}"


def _unimportable(env_id: str, error: Exception) -> str:
    if ":" not in env_id:
        return f"env {env_id}: {error}"
    module = env_id.partition(":")[0]
    return (
        f"env {env_id}: the module {module!r} cannot be imported ({error}); install it, or run"
        f" where Python finds it (looked in {', '.join(path or '.' for path in sys.path[:3])}, ...)"
    )


def frame_stack_of(env: Environment) -> FrameStack | None:
    """How an environment stacks frames, as far as its wrappers tell.

    Looks through those that leave observations alone; behind any other the stack may be none any
    more. Frames of its own to fill up with, `FrameStackObservation(padding_type=array)`, are not
    told apart either: such observations are kept whole.
    """
    while isinstance(env, UNSEEING):
        env = env.env
    if type(env) is not FrameStackObservation or env.stack_size < 2:
        return None
    paddings: dict[str, FrameStack] = {
        "reset": FrameStack(env.stack_size, "first"),
        "zero": FrameStack(env.stack_size, "zero"),
    }
    return paddings.get(env.padding_type)


def describe_env(config: AlgorithmConfig) -> Spaces:
    """Makes the environment of a run once, to see that it can be learnt from; without torch.

    Where actions can be masked it is reset, to see whether its `info` tells a mask.

    Returns:
        Its spaces.

    Raises:
        UsageError: It does not exist, lacks a dependency, or its spaces do not suit the algorithm.
        EnvironmentFault: Its constructor raised.
    """
    factory = EnvironmentFactory.of(config)
    env = factory()
    try:
        actions = ActionLayout(env.action_space)
        if tells_mask(env):  # which is not stacked, whatever else is
            observed = with_mask(env.observation_space, actions)
            spaces = Spaces(observed, env.action_space, mask_in_info=True)
        else:
            spaces = Spaces(env.observation_space, env.action_space, frame_stack_of(env))
    finally:
        env.close()
    check_mask(ObservationLayout(spaces.observation), actions)
    if actions.kind not in config.supported_actions:
        able = ", ".join(sorted(config.supported_actions))
        raise UsageError(
            f"env {factory.name}: its actions are {actions.kind} ({spaces.action}), and"
            f" {config.label()} can act in {able} only; choose another algorithm (`rl algos`) or"
            " wrap the environment"
        )
    if config.bounded_actions and isinstance(spaces.action, gymnasium.spaces.Box):
        _check_bounds(spaces.action, factory.name, config.label())
    return spaces


def _check_bounds(actions: gymnasium.spaces.Box, name: str, algorithm: str) -> None:
    """Refuses continuous actions without finite bounds: they cannot be scaled to [-1, 1]."""
    finite = np.isfinite(actions.low) & np.isfinite(actions.high)
    # Half the distance between the bounds must be a float32 too.
    with np.errstate(over="ignore"):
        finite &= np.isfinite((actions.high / 2 - actions.low / 2).astype(np.float32))
    if not finite.all():
        raise UsageError(
            f"env {name}: {np.count_nonzero(~finite)} of its {finite.size} continuous actions have"
            f" no finite bounds ({actions}), and {algorithm} scales actions to theirs; bound them"
            " with gymnasium.wrappers.TransformAction(env, lambda a: a, Box(-1, 1, shape)), or"
            " choose ppo, which needs no bounds"
        )
