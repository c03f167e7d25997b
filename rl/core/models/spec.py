"""What a network looks like, without building it and without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self

from gymnasium import spaces

from rl.configs.references import name_of
from rl.core.data.space_json import space_from_json, space_to_json
from rl.errors import CheckpointError

if TYPE_CHECKING:
    from rl.configs.algorithm_config import AlgorithmConfig
    from rl.core.data.spaces import Spaces

__all__ = [
    "LOG_STD_BOUNDS",
    "Activation",
    "EncoderClass",
    "MemoryKind",
    "NetworkSpec",
    "PolicySpec",
    "QNetworkSpec",
]

Activation = Literal["tanh", "relu", "elu", "gelu", "silu"]
ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "silu")

ImageEncoderName = Literal["nature", "impala"]
IMAGE_ENCODERS = ("nature", "impala")

MemoryKind = Literal["gru", "lstm"]
MEMORIES = ("gru", "lstm")

EncoderClass = str | type[Any]
"""`package.module:Class`, or the class itself."""

LOG_STD_BOUNDS = (-20.0, 2.0)
"""Of a squashed Gaussian before squashing, as in the paper's code."""

MOST_UNITS = 1 << 16
"""Widest layer a file may ask for; more is damage or malice."""


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in value)
    if not all(0 < size <= MOST_UNITS for size in sizes):
        raise ValueError("an impossible layer size")
    return sizes


def _atoms(value: Any) -> int:
    if not 0 < int(value) <= MOST_UNITS:
        raise ValueError("an impossible number of atoms")
    return int(value)


def _units(value: Any) -> int:
    return _sizes([value])[0]


def _memory(value: Any) -> str | None:
    return None if value is None else _one_of("memory", *MEMORIES)(value)


def _one_of(what: str, *names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(f"an unknown {what}: {value!r}; known are {', '.join(names)}")
        return str(value)

    return read


def _encoder(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"an encoder named {value!r}")


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "observation_space": space_from_json,
    "action_space": space_from_json,
    "hidden_sizes": _sizes,
    "activation": _one_of("activation", *ACTIVATIONS),
    "image_encoder": _one_of("image encoder", *IMAGE_ENCODERS),
    "num_atoms": _atoms,
    "memory": _memory,
    "memory_size": _units,
    "encoder": _encoder,
    "encoder_kwargs": dict,
}
"""How what comes from a file is read and checked; other fields by the type of their default."""

ADDED = ("memory", "memory_size", "encoder", "encoder_kwargs")
"""Fields that older files do not have; networks were then what their defaults say."""


def _state_size(memory: MemoryKind | None, units: int) -> int:
    """Of one memory: outputs, and the cells of an LSTM."""
    return 0 if memory is None else units * (2 if memory == "lstm" else 1)


@dataclass(frozen=True)
class PolicySpec:
    """Everything that shapes a `PolicyNetwork` but its numbers."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    normalize_observations: bool = False
    image_encoder: ImageEncoderName = "nature"
    encoder: EncoderClass | None = field(default=None, kw_only=True)
    """A `torch.nn.Module` of the user's own, from observations to features; None: ours."""
    encoder_kwargs: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """What it is made with besides the observation space."""

    @classmethod
    def of(cls, config: AlgorithmConfig, env: Spaces, **own: Any) -> Self:
        """The network that a config asks for.

        Each field is the setting of its name, if there is one; `own` goes before settings.
        """
        names = [each.name for each in fields(cls) if hasattr(config, each.name)]
        told = {name: getattr(config, name) for name in names} | own
        return cls(env.observation, env.action, **told)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        return values | {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "hidden_sizes": list(self.hidden_sizes),
            "encoder": name_of(self.encoder),
            "encoder_kwargs": dict(self.encoder_kwargs),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what `to_json` wrote. Raises `CheckpointError` for anything else."""
        try:
            known = {
                own.name: _READERS.get(own.name, type(own.default))(data[own.name])
                for own in fields(cls)
                if own.name in data or own.name not in ADDED
            }
            return cls(**known)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"not the description of a network: {error}") from error


@dataclass(frozen=True)
class NetworkSpec(PolicySpec):
    """Everything that shapes an `ActorCritic` but its numbers."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    shared_torso: bool = False
    """One torso for policy and value; convolutions are shared in any case."""
    orthogonal_init: bool = True
    log_std_init: float = 0.0
    memory: MemoryKind | None = None
    """Between the encoder and each torso."""
    memory_size: int = 64
    """Units of each."""

    @property
    def state_size(self) -> int:
        """Numbers that are remembered from step to step; 0 without memory."""
        return _state_size(self.memory, self.memory_size) * (2 - self.shared_torso)


@dataclass(frozen=True)
class QNetworkSpec(PolicySpec):
    """Everything that shapes a `QNetwork` but its numbers."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    dueling: bool = False
    """Value and advantages apart, each with a last hidden layer of its own."""
    num_atoms: int = 1
    """Points of an action's distribution of returns; 1: its mean alone."""
    v_min: float = 0.0
    """The lowest of them; they lie evenly up to `v_max`."""
    v_max: float = 0.0
    noisy_sigma: float = 0.0
    """Initial scale of the noise on all linear layers behind the encoder; 0: they have none."""
    memory: MemoryKind | None = None
    """Between the encoder and the hidden layers."""
    memory_size: int = 64
    """Units of it."""

    @property
    def state_size(self) -> int:
        """Numbers that are remembered from step to step; 0 without memory."""
        return _state_size(self.memory, self.memory_size)

    @property
    def torso_sizes(self) -> tuple[int, ...]:
        """Units of the hidden layers that all outputs share."""
        return self.hidden_sizes[:-1] if self.dueling else self.hidden_sizes

    @property
    def stream_sizes(self) -> tuple[int, ...]:
        """Units of the hidden layers that value and advantages have each for themselves."""
        return self.hidden_sizes[-1:] if self.dueling else ()
