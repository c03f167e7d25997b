"""Environments by id, by `module:Id`, by a registered name or by any callable."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

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

from rl.core.data.masks import check_mask, with_mask
from rl.core.data.spaces import ActionLayout, FrameStack, ObservationLayout, Spaces
from rl.env_runners.atari import make_atari, make_rendered_atari
from rl.env_runners.faults import raised
from rl.env_runners.lookup import (
    import_ale,
    missing_text,
    not_an_environment,
    required_extra,
    spec_of,
    takes,
    unimportable_text,
    unknown_text,
)
from rl.env_runners.masks import InfoMask, VectorInfoMask, tells_mask
from rl.env_runners.single import SingleEnvironment
from rl.env_runners.vectors import check_vector
from rl.errors import RLError, UsageError

if TYPE_CHECKING:  # workers do without its validator, which is long to import
    from rl.configs.algorithm_config import AlgorithmConfig

__all__ = [
    "EnvironmentFactory",
    "describe_env",
    "known_ids",
    "register_env",
    "required_extra",
]

Environment = gymnasium.Env[Any, Any]

_registered: dict[str, Callable[..., Environment]] = {}
_made: weakref.WeakValueDictionary[int, Environment] = weakref.WeakValueDictionary()
"""Environments alive in this process, by identity, to notice one that is handed out twice."""

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


@dataclass(frozen=True)
class EnvironmentFactory:
    """Makes one environment each time it is called; picklable when what it calls is."""

    env: str | Callable[..., Environment]
    """An id of Gymnasium's registry, `module:Id`, or a callable."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    vectorization: str = "auto"
    """As `env_runners.vectorization`."""
    training: bool = True
    """False: environments that play what people call an episode, such as a whole game."""
    render_mode: str | None = None
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
        return EnvironmentFactory(
            target,
            dict(config.env_kwargs),
            config.env_runners.vectorization,
            mask_in_info=masked,
        )

    def for_evaluation(self, render_mode: str | None = None) -> EnvironmentFactory:
        """The factory of environments to evaluate in, or to look at."""
        return replace(self, training=False, render_mode=render_mode)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__qualname__", "env")

    @property
    def native(self) -> bool:
        """Whether runners ask for B environments at once, as a vector environment.

        `auto` asks for them where there are no others, and for Atari games.
        """
        if self.vectorization != "auto":
            return self.vectorization == "native"
        return self._only_vector or self._is_atari

    @property
    def _is_atari(self) -> bool:
        return isinstance(self.env, str) and self.env.startswith("ALE/")

    @property
    def _only_vector(self) -> bool:
        """Whether it has no form but the vectorised."""
        if not isinstance(self.env, str):
            return takes(self.env, "num_envs")
        spec = spec_of(self.env)
        return spec is not None and spec.entry_point is None and bool(spec.vector_entry_point)

    def __call__(self) -> Environment:
        """Makes one environment; one that is only there vectorised is played alone.

        Raises:
            UsageError: There is no such environment, or something it needs is not installed.
            EnvironmentFault: Its own constructor raised.
        """
        if self.native or self._only_vector or self._is_atari:
            if self._is_atari and self.render_mode is not None:
                rendered: Environment = self._make(self._rendered_atari)
                return rendered
            if self.vectorization == "single" and self.env_kwargs.get("terminal_on_life_loss"):
                raise UsageError(
                    f"env {self.name}: env_kwargs terminal_on_life_loss needs games that go on"
                    " where a life was lost, and env_runners.vectorization 'single' begins each"
                    " episode anew; leave one of the two out"
                )
            return SingleEnvironment(self.vector(1))
        env = self._make(self._single)
        if not isinstance(env, gymnasium.Env):
            raise UsageError(f"env {self.name}: {not_an_environment(env)}")
        self._note_new(env)
        return InfoMask(env) if self.mask_in_info else env

    def vector(self, num_envs: int, *, checked: bool = True) -> Any:
        """Makes `num_envs` environments that are stepped together, in code of their own.

        Args:
            num_envs: B.
            checked: False hands out also what is not sound, to whoever looks for himself.

        Raises:
            UsageError: There is none of that kind, it lacks something, or it does not say how it
                goes on where an episode ends.
            EnvironmentFault: Its own constructor raised.
        """
        env = self._make(lambda: self._vector(num_envs))
        if not checked:
            return env
        check_vector(env, self.name, num_envs)
        self._note_new(env)
        return VectorInfoMask(env) if self.mask_in_info else env

    def _note_new(self, env: Any) -> None:
        """Raises when the environment was handed out before and still lives."""
        own = getattr(env, "unwrapped", env)
        if _made.get(id(own)) is not None:
            raise UsageError(
                f"env {self.name}: the callable returned the same environment twice; every call"
                " must make a new one: training and evaluation have several, and steps of one"
                " would overwrite another's"
            )
        _made[id(own)] = own

    def _make(self, maker: Callable[[], Any]) -> Any:
        try:
            return maker()
        except RLError:
            raise
        except gymnasium_error.DependencyNotInstalled as error:
            raise UsageError(missing_text(self.name, str(error))) from error
        except gymnasium_error.UnregisteredEnv as error:
            raise UsageError(unknown_text(self.name, known_ids())) from error
        except (ModuleNotFoundError, gymnasium_error.Error) as error:
            if isinstance(self.env, str):
                raise UsageError(unimportable_text(self.env, error)) from error
            raise raised(f"env {self.name}", "its constructor", error) from error
        except Exception as error:
            if self.env_kwargs and "unexpected keyword argument" in str(error):
                raise UsageError(
                    f"env {self.name}: env_kwargs {dict(self.env_kwargs)} do not suit it: {error}"
                ) from error
            raise raised(f"env {self.name}", "its constructor", error) from error

    @property
    def _arguments(self) -> dict[str, Any]:
        """`env_kwargs`, and the render mode where one is wanted and can be said."""
        can = isinstance(self.env, str) or takes(self.env, "render_mode")
        rendering = {"render_mode": self.render_mode} if self.render_mode and can else {}
        return {**self.env_kwargs, **rendering}

    def _single(self) -> Any:
        if isinstance(self.env, str):
            return gymnasium.make(self.env, disable_env_checker=True, **self._arguments)
        return self.env(**self._arguments)

    def _vector(self, num_envs: int) -> Any:
        if not isinstance(self.env, str):
            if not takes(self.env, "num_envs"):
                raise UsageError(
                    f"env {self.name}: env_runners.vectorization is 'native', but the callable has"
                    " no parameter num_envs; give it one, or leave the setting out"
                )
            return self.env(num_envs=num_envs, **self._arguments)
        if self._is_atari:
            import_ale(self.env)
            return make_atari(self.env, num_envs, self.env_kwargs, training=self.training)
        spec = spec_of(self.env)
        if spec is not None and spec.vector_entry_point is None:
            raise UsageError(
                f"env {self.env}: env_runners.vectorization is 'native', but it is registered"
                " without a vector_entry_point; leave the setting out"
            )
        with warnings.catch_warnings():  # what is warned of here is refused by `check_vector`
            warnings.filterwarnings("ignore", message=".*(?i:autoreset_?mode)")
            return gymnasium.make_vec(
                self.env,
                num_envs=num_envs,
                vectorization_mode="vector_entry_point",
                **self._arguments,
            )

    def _rendered_atari(self) -> Environment:
        assert isinstance(self.env, str)
        assert self.render_mode is not None
        import_ale(self.env)
        return make_rendered_atari(self.env, self.env_kwargs, self.render_mode)


def frame_stack_of(env: Environment) -> FrameStack | None:
    """How an environment stacks frames, as far as its wrappers tell.

    Looks through those that leave observations alone; behind any other the stack may be none any
    more. Frames of its own to fill up with, `FrameStackObservation(padding_type=array)`, are not
    told apart either: such observations are kept whole.
    """
    while isinstance(env, UNSEEING):
        env = env.env
    if isinstance(env, SingleEnvironment):
        told: FrameStack | None = getattr(env.vector, "stack", None)
        return told
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
        spaces = replace(spaces, unrestorable=_unrestorable(factory, env))
    finally:
        env.close()
    observations = ObservationLayout(spaces.observation)
    check_mask(observations, actions)
    if config.image_encoder != "nature" and not observations.has_images:
        raise UsageError(
            f"image_encoder {config.image_encoder!r} has no effect: env {factory.name} observes no"
            f" images ({spaces.observation}); leave it out"
        )
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


def _unrestorable(factory: EnvironmentFactory, env: Environment) -> str:
    """Why an unfinished episode cannot be played again; empty where it can, if it is repeatable."""
    if factory.native:
        return "a vector environment is seeded once, so its episodes cannot be played again"
    if hasattr(env.unwrapped, "ale"):
        return "an Atari emulator is seeded once, so its episodes cannot be played again"
    return ""


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
