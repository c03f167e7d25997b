"""Policy: what a trained agent is to its user, loadable without the training code."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from rl.core.data.masks import has_choice
from rl.core.data.spaces import MASK, Leaf
from rl.core.data.tree import Array, Tree, first_leaf, tree_map
from rl.core.data.weights import Weights
from rl.core.models.actor import draw_noise, memory_size_of, parameter_noise_of
from rl.core.models.distributions import Distribution
from rl.core.models.encoders import check_named_encoder
from rl.core.models.modules import ActorCritic, Module
from rl.core.models.policy_network import (
    CategoricalPolicy,
    DeterministicPolicy,
    PolicyNetwork,
    SquashedPolicy,
)
from rl.core.models.q_network import QNetwork
from rl.core.models.spec import NetworkSpec, PolicySpec, QNetworkSpec
from rl.core.models.threads import torch_threads
from rl.core.models.torch_actor import actor_factory
from rl.errors import CheckpointError, UsageError

__all__ = ["Policy", "policy_files", "register_module"]

FORMAT = 1
LARGEST_FILE = 4 << 30
"""Bytes; a policy file that claims more is not read."""

_builders: dict[str, Callable[[Mapping[str, Any]], Module]] = {
    "actor_critic": lambda description: ActorCritic(NetworkSpec.from_json(description)),
    "q_network": lambda description: QNetwork(QNetworkSpec.from_json(description)),
    "squashed_policy": lambda description: _policy(SquashedPolicy, description),
    "deterministic_policy": lambda description: _policy(DeterministicPolicy, description),
    "categorical_policy": lambda description: _policy(CategoricalPolicy, description),
}


def _policy(kind: type[PolicyNetwork], description: Mapping[str, Any]) -> Module:
    spec = PolicySpec.from_json(description)
    if not isinstance(
        spec.action_space, spaces.Discrete if kind is CategoricalPolicy else spaces.Box
    ):
        raise CheckpointError(f"not the description of a network: {kind.kind} cannot act there")
    return kind(spec)


def register_module(name: str, build: Callable[[Mapping[str, Any]], Module]) -> None:
    """Lets policy files whose module describes itself as `{"module": name, ...}` be loaded.

    Files name modules through this registry only: a file cannot make the program import anything.
    """
    if name in _builders and _builders[name] is not build:
        raise UsageError(f"register_module: {name!r} is taken; choose another name")
    _builders[name] = build


def policy_files(module: Module) -> dict[str, bytes]:
    """The files of a policy directory by name; the description holds the sum of the weights.

    Raises:
        UsageError: The module does not describe itself, so nothing could load it again.
    """
    description = module.describe()
    if description is None:
        raise UsageError(
            f"{type(module).__name__}.describe() gives None: return JSON from which it"
            " can be built again, and register the builder with rl.register_module"
        )
    arrays = {name: t.cpu().numpy().copy() for name, t in module.state_dict().items()}
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

    def __init__(self, module: Module, seed: int = 0) -> None:
        """Copies the module.

        Args:
            module: What acts.
            seed: Of the noise of `act(..., deterministic=False)`.
        """
        self._module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        self._layout = self._module.observation_layout
        self._actions = self._module.action_layout
        self._generator = np.random.default_rng(seed)
        self._actor = actor_factory(self._module)()
        vectors = [p.reshape(-1) for p in self._module.parameters()]
        buffers = {name: b.numpy().copy() for name, b in self._module.named_buffers()}
        self._actor.set_weights(Weights(0, torch.cat(vectors).numpy().copy(), buffers))
        self._memory: Array | None = None  # [N, S], of a policy that has some and has acted

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
        if not isinstance(self._module, ActorCritic):
            raise UsageError("this policy has no value function")
        inputs, single = self._tensors(observation)
        with torch.inference_mode(), torch_threads(1):
            values = self._module.value(inputs, *self._given_memory(inputs)).numpy()
        return float(values[0]) if single else values

    def q_values(self, observation: Any) -> Any:
        """The value of every action in one observation, [A] float32, or in each of a batch."""
        if not isinstance(self._module, QNetwork):
            raise UsageError("this policy has no action values")
        inputs, single = self._tensors(observation)
        with torch.inference_mode(), torch_threads(1):
            values = self._module.q_values(inputs, None, *self._given_memory(inputs)).numpy()
        return values[0] if single else values

    def distribution(self, observation: Any) -> Distribution:
        """The distribution over actions; a single observation is a batch of one."""
        if not isinstance(self._module, ActorCritic | SquashedPolicy | CategoricalPolicy):
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
        return policy_files(self._module)

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
        if not isinstance(name, str) or name not in _builders:
            raise CheckpointError(
                f"{directory}: its module is {name!r}, which this program does not know; call"
                " rl.register_module for it first"
            )
        check_named_encoder(description, imports, directory)
        module = _builders[name](description)
        _load_state(module, weights, directory)
        return cls(module, seed)


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


def _load_state(module: Module, weights: bytes, directory: Path) -> None:
    try:
        arrays = load_safetensors(weights)
        module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    except (RuntimeError, SafetensorError) as error:
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
