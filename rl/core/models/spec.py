"""What a network looks like, without building it and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gymnasium import spaces

from rl.core.data.space_json import space_from_json, space_to_json
from rl.errors import CheckpointError

__all__ = ["LOG_STD_BOUNDS", "Activation", "NetworkSpec", "PolicySpec", "QNetworkSpec"]

Activation = Literal["tanh", "relu", "elu", "gelu", "silu"]
ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "silu")

ImageEncoderName = Literal["nature", "impala"]
IMAGE_ENCODERS = ("nature", "impala")

LOG_STD_BOUNDS = (-20.0, 2.0)
"""Of a squashed Gaussian before squashing, as in the paper's code."""

MOST_UNITS = 1 << 16
"""Widest layer a file may ask for; more is damage or malice."""


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that shapes an `ActorCritic` but its numbers."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    shared_torso: bool = False
    """One torso for policy and value; convolutions are shared in any case."""
    normalize_observations: bool = False
    orthogonal_init: bool = True
    log_std_init: float = 0.0
    image_encoder: ImageEncoderName = "nature"

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "shared_torso": self.shared_torso,
            "normalize_observations": self.normalize_observations,
            "orthogonal_init": self.orthogonal_init,
            "log_std_init": self.log_std_init,
            "image_encoder": self.image_encoder,
        }

    @staticmethod
    def from_json(data: Any) -> NetworkSpec:
        """Reads what `to_json` wrote. Raises `CheckpointError` for anything else."""
        try:
            sizes, activation = _layers(data)
            return NetworkSpec(
                space_from_json(data["observation_space"]),
                space_from_json(data["action_space"]),
                sizes,
                activation,
                bool(data["shared_torso"]),
                bool(data["normalize_observations"]),
                bool(data["orthogonal_init"]),
                float(data["log_std_init"]),
                _image_encoder(data),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"not the description of a network: {error}") from error


@dataclass(frozen=True)
class QNetworkSpec:
    """Everything that shapes a `QNetwork` but its numbers."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"
    dueling: bool = False
    """Value and advantages apart, each with a last hidden layer of its own."""
    normalize_observations: bool = False
    num_atoms: int = 1
    """Points of an action's distribution of returns; 1: its mean alone."""
    v_min: float = 0.0
    """The lowest of them; they lie evenly up to `v_max`."""
    v_max: float = 0.0
    noisy_sigma: float = 0.0
    """Initial scale of the noise on all linear layers behind the encoder; 0: they have none."""
    image_encoder: ImageEncoderName = "nature"

    @property
    def torso_sizes(self) -> tuple[int, ...]:
        """Units of the hidden layers that all outputs share."""
        return self.hidden_sizes[:-1] if self.dueling else self.hidden_sizes

    @property
    def stream_sizes(self) -> tuple[int, ...]:
        """Units of the hidden layers that value and advantages have each for themselves."""
        return self.hidden_sizes[-1:] if self.dueling else ()

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "dueling": self.dueling,
            "normalize_observations": self.normalize_observations,
            "num_atoms": self.num_atoms,
            "v_min": self.v_min,
            "v_max": self.v_max,
            "noisy_sigma": self.noisy_sigma,
            "image_encoder": self.image_encoder,
        }

    @staticmethod
    def from_json(data: Any) -> QNetworkSpec:
        """Reads what `to_json` wrote. Raises `CheckpointError` for anything else."""
        try:
            sizes, activation = _layers(data)
            num_atoms = int(data["num_atoms"])
            if not 0 < num_atoms <= MOST_UNITS:
                raise ValueError("an impossible number of atoms")
            return QNetworkSpec(
                space_from_json(data["observation_space"]),
                space_from_json(data["action_space"]),
                sizes,
                activation,
                bool(data["dueling"]),
                bool(data["normalize_observations"]),
                num_atoms,
                float(data["v_min"]),
                float(data["v_max"]),
                float(data["noisy_sigma"]),
                _image_encoder(data),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"not the description of a network: {error}") from error


@dataclass(frozen=True)
class PolicySpec:
    """Everything that shapes a `PolicyNetwork` but its numbers."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    normalize_observations: bool = False
    image_encoder: ImageEncoderName = "nature"

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "hidden_sizes": list(self.hidden_sizes),
            "activation": self.activation,
            "normalize_observations": self.normalize_observations,
            "image_encoder": self.image_encoder,
        }

    @staticmethod
    def from_json(data: Any) -> PolicySpec:
        """Reads what `to_json` wrote. Raises `CheckpointError` for anything else."""
        try:
            sizes, activation = _layers(data)
            return PolicySpec(
                space_from_json(data["observation_space"]),
                space_from_json(data["action_space"]),
                sizes,
                activation,
                bool(data["normalize_observations"]),
                _image_encoder(data),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"not the description of a network: {error}") from error


def _layers(data: Any) -> tuple[tuple[int, ...], Activation]:
    sizes = tuple(int(size) for size in data["hidden_sizes"])
    if data["activation"] not in ACTIVATIONS or not all(0 < n <= MOST_UNITS for n in sizes):
        raise ValueError("an unknown activation or layer size")
    activation: Activation = data["activation"]
    return sizes, activation


def _image_encoder(data: Any) -> ImageEncoderName:
    name: ImageEncoderName = data["image_encoder"]
    if name not in IMAGE_ENCODERS:
        raise ValueError(f"an unknown image encoder: {name!r}")
    return name
