"""Policy: what a trained agent is to its user, loadable without the training code."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from rl.core.data.masks import has_choice
from rl.core.data.spaces import MASK, Leaf
from rl.core.data.tree import Array, Tree, first_leaf, tree_map
from rl.core.lazy import LazyModule, torch
from rl.core.models.actor import actor_factory, draw_noise, memory_size_of, parameter_noise_of
from rl.core.models.descriptions import (
    check_named_encoder,
    knows_module,
    network_of,
    register_module,
)
from rl.core.models.plain import PlainNetwork
from rl.core.models.threads import torch_threads
from rl.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from rl.core.models import modules, policy_network, q_network
    from rl.core.models.distributions import Distribution
    from rl.core.models.modules import Module
else:
    modules = LazyModule("rl.core.models.modules")
    policy_network = LazyModule("rl.core.models.policy_network")
    q_network = LazyModule("rl.core.models.q_network")

__all__ = ["Policy", "policy_files", "register_module"]

FORMAT = 1
LARGEST_FILE = 4 << 30
"""Bytes; a policy file that claims more is not read."""


def policy_files(network: Module | PlainNetwork) -> dict[str, bytes]:
    """The files of a policy directory by name; the description holds the sum of the weights.

    Raises:
        UsageError: The network does not describe itself, so nothing could load it again.
    """
    description = network.describe()
    if description is None:
        raise UsageError(
            f"{type(network).__name__}.describe() gives None: return JSON from which it"
            " can be built again, and register the builder with rl.register_module"
        )
    arrays = {name: np.array(a, order="C") for name, a in network.state_arrays().items()}
    weights = save_safetensors(arrays)
    head = {
        "format": FORMAT,
        "module": description,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(head, indent=2, allow_nan=False).encode()
    return {"policy.json": text, "weights.safetensors": weights}


class Policy:
    """Acts as a module did when the policy was made; later training does not change it.

    One with memory remembers from call to call: `reset` it where an episode begins.
    """

    def __init__(self, network: Module | PlainNetwork, seed: int = 0) -> None:
        """Copies the network.

        Args:
            network: What acts.
            seed: Of the noise of `act(..., deterministic=False)`.
        """
        self._network = network.frozen()
        self._layout = self._network.observation_layout
        self._actions = self._network.action_layout
        self._generator = np.random.default_rng(seed)
        self._actor = actor_factory(self._network)()
        self._actor.set_weights(self._network.acting_weights(0))
        self._memory: Array | None = None  # [N, S], of a policy that has some and has acted

    @functools.cached_property
    def _module(self) -> Module:
        if isinstance(self._network, PlainNetwork):
            module = self._network.build().frozen()
            for parameter in module.parameters():  # not beside each other: products take aligned
                parameter.data = parameter.data.clone()  # rows otherwise than others
            return module
        return self._network

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The space of one observation."""
        return self._layout.space

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The space of one action."""
        return self._actions.space

    def act(
        self, observation: Any, deterministic: bool = True, action_mask: Any | None = None
    ) -> Any:
        """Chooses an action for one observation, or one each for a batch.

        Args:
            observation: What the environment gave, or a batch of it: an array with one more axis in
                front, for a Dict or Tuple space a dictionary or tuple of such arrays.
            deterministic: The most likely action; else one drawn from the policy.
            action_mask: Which actions are allowed, where the observation does not say it itself:
                `info["action_mask"]`, [choices], or [N, choices] for a batch.

        Returns:
            An action as the environment takes it; for a batch an array of them, or a list where the
            action space is a Dict or Tuple.

        Raises:
            UsageError: The observation is not of the policy's space, or no action is allowed.
        """
        batch, single = self._batch(self._with_mask(observation, action_mask))
        mask = self._layout.mask_of(batch)
        if mask is not None and not has_choice(self._actions, mask).all():
            raise UsageError("policy.act: the action mask allows no action; there must be one")
        actions = self._actions.decode(self.act_batch(batch, deterministic))
        if single:
            return actions[0]
        composite = isinstance(self.action_space, spaces.Dict | spaces.Tuple)
        return actions if composite else np.stack(actions)

    def reset(self, where: Any | None = None) -> None:
        """Forgets what was seen: call it before the first `act` of every episode.

        A policy without memory has nothing to forget.

        Args:
            where: [N] bool, which rows of a batch begin an episode; None: all, and the next batch
                may be of another size.
        """
        if where is None:
            self._memory = None
        elif self._memory is not None:
            rows = np.asarray(where, np.bool_)
            if rows.shape != (len(self._memory),):
                raise UsageError(
                    f"policy.reset: {rows.shape} says not for each of {len(self._memory)} rows"
                    " whether it begins an episode"
                )
            self._memory = np.where(rows[:, None], np.float32(0), self._memory)

    def _remembered(self, size: int) -> Array:
        """What is remembered for a batch, [N, S]."""
        if self._memory is None:
            return np.zeros((size, memory_size_of(self._actor)), np.float32)
        if len(self._memory) != size:
            raise UsageError(
                f"policy.act: this policy has memory, of {len(self._memory)} episodes, and was now"
                f" given {size} observations; call policy.reset() first"
            )
        return self._memory

    def act_batch(self, observations: Tree, deterministic: bool = True) -> Array:
        """Action rows [N, *act] for observations [N, *obs], not yet decoded for the environment."""
        size = first_leaf(observations).shape[0]
        noise = None
        if not deterministic:
            more = parameter_noise_of(self._actor)
            noise = draw_noise(self._actions, self._generator, size, parameter_noise=more)
        if not memory_size_of(self._actor):
            return self._actor.act(observations, noise)[0]
        recurrent: Any = self._actor
        memory = self._remembered(size)
        actions, _, self._memory = recurrent.act_with_memory(observations, noise, memory)
        acted: Array = actions
        return acted

    def decode(self, actions: Array) -> list[Any]:
        """Turns stored rows into what each environment's `step` takes."""
        return self._actions.decode(actions)

    def stack(self, observations: list[Any]) -> Tree:
        """Puts single observations side by side, as `act_batch` takes them."""
        return self._layout.stack(observations)

    def value(self, observation: Any) -> Any:
        """The value of one observation, a float, or of a batch, [N] float32."""
        if not isinstance(self._module, modules.ActorCritic):
            raise UsageError("this policy has no value function")
        inputs, single = self._tensors(observation)
        with torch.inference_mode(), torch_threads(1):
            values = self._module.value(inputs, *self._given_memory(inputs)).numpy()
        return float(values[0]) if single else values

    def q_values(self, observation: Any) -> Any:
        """The value of every action in one observation, [A] float32, or in each of a batch."""
        if not isinstance(self._module, q_network.QNetwork):
            raise UsageError("this policy has no action values")
        inputs, single = self._tensors(observation)
        with torch.inference_mode(), torch_threads(1):
            values = self._module.q_values(inputs, None, *self._given_memory(inputs)).numpy()
        return values[0] if single else values

    def distribution(self, observation: Any) -> Distribution:
        """The distribution over actions; a single observation is a batch of one."""
        kinds = (
            modules.ActorCritic,
            policy_network.SquashedPolicy,
            policy_network.CategoricalPolicy,
        )
        if not isinstance(self._module, kinds):
            raise UsageError("this policy has no distribution over actions")
        inputs, _ = self._tensors(observation)
        with torch.inference_mode(), torch_threads(1):
            return self._module.distribution(inputs, *self._given_memory(inputs))

    def _given_memory(self, inputs: Any) -> tuple[Any, ...]:
        """What is remembered, for a module that takes it; looking at it changes nothing."""
        if not self._module.memory_size:
            return ()
        return (torch.tensor(self._remembered(first_leaf(inputs).shape[0])),)

    def _with_mask(self, observation: Any, mask: Any | None) -> Any:
        """The observation as the policy knows it, with the mask put where it has its place."""
        if mask is None:
            if self._layout.mask and not (isinstance(observation, dict) and MASK in observation):
                raise UsageError(
                    "policy.act: this policy needs to know which actions are allowed: pass"
                    ' action_mask=info["action_mask"], or observations with that part'
                )
            return observation
        if self._layout.mask is None:
            raise UsageError("policy.act: this policy was trained without action masks; pass none")
        if isinstance(observation, dict):
            return {**observation, MASK: mask}
        return {"observation": observation, MASK: mask}

    def _tensors(self, observation: Any) -> tuple[Any, bool]:
        batch, single = self._batch(observation)
        return tree_map(torch.tensor, batch), single

    def _batch(self, observation: Any) -> tuple[Tree, bool]:
        if isinstance(observation, tuple) and not isinstance(self.observation_space, spaces.Tuple):
            raise UsageError(
                "policy.act was given a tuple: env.reset() returns (observation, info); pass the"
                " first"
            )
        try:
            parts = [np.asarray(part) for part in self._layout.split(observation)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UsageError(
                f"policy.act: the observation is not of {self.observation_space}:"
                f" {type(error).__name__}: {error}"
            ) from error
        leaves: dict[str, Array] = {}
        singles = set()
        for leaf, array in zip(self._layout.leaves, parts, strict=True):
            single = array.shape == leaf.shape
            if not single and array.shape[1:] != leaf.shape:
                at = f" at {leaf.path!r}" if leaf.path else ""
                raise UsageError(
                    f"policy.act: the observation{at} has shape {array.shape}; expected"
                    f" {leaf.shape} for one observation or {('N', *leaf.shape)} for a batch"
                )
            _check_values(leaf, array)
            singles.add(single)
            leaves[leaf.path] = (array[None] if single else array).astype(leaf.dtype)
        if len(singles) != 1:
            raise UsageError(
                "policy.act: some parts of the observation are batches, others are not"
            )
        return leaves if self._layout.nested else leaves[""], singles.pop()

    def files(self) -> dict[str, bytes]:
        """The files of a policy directory by name, see `policy_files`."""
        return policy_files(self._network)

    def save(self, directory: str | Path) -> None:
        """Writes a policy directory. Raises `UsageError` when there is one already."""
        target = Path(directory)
        if (target / "policy.json").exists():
            raise UsageError(f"{target}: a policy is there already; nothing is overwritten")
        target.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (target / name).write_bytes(content)

    @classmethod
    def load(cls, path: str | Path, seed: int = 0, imports: Collection[str] = ()) -> Self:
        """Loads a policy directory, or that of a checkpoint or a run.

        Args:
            path: The directory.
            seed: Of the noise of `act(..., deterministic=False)`.
            imports: Modules that it may have imported, besides those that are already: of an
                encoder of one's own.

        Raises:
            UsageError: There is none, or it names a module that it may not.
            CheckpointError: It is damaged, of a newer format or of an unknown module.
        """
        directory = _find(Path(path))
        text, weights = _read(directory / "policy.json"), _read(directory / "weights.safetensors")
        try:
            head = json.loads(text)
            written, description = int(head["format"]), head["module"]
            expected, name = head["weights_sha256"], description["module"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{directory}/policy.json: not a policy: {error}") from error
        if written > FORMAT:
            raise CheckpointError(
                f"{directory}: written in format {written}, this version reads {FORMAT}; upgrade"
            )
        if hashlib.sha256(weights).hexdigest() != expected:
            raise CheckpointError(
                f"{directory}/weights.safetensors: damaged: its SHA-256 is not the one policy.json"
                f" names ({expected[:12]}...); take another copy"
            )
        if not knows_module(name):
            raise CheckpointError(
                f"{directory}: its module is {name!r}, which this program does not know; call"
                " rl.register_module for it first"
            )
        check_named_encoder(description, imports, directory)
        network = network_of(name, description)
        _load_state(network, weights, directory)
        return cls(network, seed)


def _check_values(leaf: Leaf, array: Array) -> None:
    """Refuses what would become another observation when stored in the leaf's dtype."""
    at = f" at {leaf.path!r}" if leaf.path else ""
    if leaf.kind == "mask":
        return  # 0 forbids, in whatever dtype
    if array.dtype.kind not in ("biuf" if leaf.dtype.kind == "f" else "biu"):
        raise UsageError(
            f"policy.act: the observation{at} is of dtype {array.dtype}, expected {leaf.dtype}"
        )
    if leaf.sizes:
        rows = array.reshape(-1, len(leaf.sizes)) - np.array(leaf.starts)
        if ((rows < 0) | (rows >= np.array(leaf.sizes))).any():
            raise UsageError(
                f"policy.act: the observation{at} has a category outside its space: from"
                f" {leaf.starts} there are {leaf.sizes} values"
            )


def _load_state(network: Module | PlainNetwork, weights: bytes, directory: Path) -> None:
    try:
        arrays = load_safetensors(weights)
        if isinstance(network, PlainNetwork):
            network.load_state_arrays(arrays)
        else:
            network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: weights do not fit the network: {error}") from error


def _find(path: Path) -> Path:
    for candidate in (path, path / "policy", path / "checkpoints" / "latest" / "policy"):
        if (candidate / "policy.json").is_file():
            return candidate
    raise UsageError(f"{path}: no policy, checkpoint or run with one is there")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError(f"{path}: larger than {LARGEST_FILE} bytes; not read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
