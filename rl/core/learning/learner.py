"""Learner: one module, its optimizer, and how experience changes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.batch import on_host, to_tensor
from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, Tree, first_leaf, tree_map
from rl.core.data.weights import Weights
from rl.core.lazy import torch
from rl.core.learning.averages import Averages, Metrics
from rl.core.learning.devices import choose_device, means_cpu
from rl.core.learning.engines import (
    LearningEngine,
    choose_gpu_engine,
    choose_learning_engine,
    engine_can,
)
from rl.core.learning.flat import FlatParameters
from rl.core.learning.random_numbers import RandomNumbers
from rl.core.learning.ranks import Ranks
from rl.core.learning.recorded import Recorded
from rl.core.learning.schedules import linear
from rl.core.models.plain import PlainNetwork
from rl.core.models.statistics import RewardScaler
from rl.core.models.threads import torch_threads
from rl.core.seeding import stream_seed
from rl.errors import CheckpointError, Diverged

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch import device as Device

    from rl.core.learning.experience import Experience
    from rl.core.models.modules import Module, TensorTree

__all__ = ["Averages", "Learner", "Metrics", "choose_device"]

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)


class Learner(ABC, Generic[ConfigT]):
    """Base of the learners: owns parameters, optimizer and generator; the subclass owns the maths.

    `flat` holds the parameters of the module, what acts. A subclass that trains other networks
    apart from it puts theirs into `others`, by name: they get the same schedule and checks, and
    stand in the state.
    """

    adam_epsilon: float = 1e-8
    reads_on_device: bool = False
    """Whether `update` takes `Rollout.on_device` in place of the arrays, where it is there."""

    def __init__(self, config: ConfigT, spaces: Spaces, num_environments: int) -> None:
        """Makes the module and its optimizer.

        Args:
            config: Settings of the run.
            spaces: Of one environment.
            num_environments: B summed over all runners; rollouts come side by side in their order.
        """
        self.config = config
        self.num_environments = num_environments
        self.on_cpu = means_cpu(config.learners.device)
        network = self.make_network(config, spaces)
        if isinstance(network, PlainNetwork) and not self.on_cpu:
            network = network.build()
        self.network: PlainNetwork | Module
        """What acts: arrays, or a torch module."""
        if isinstance(network, PlainNetwork):
            self.network = network
            self.flat = FlatParameters(network.vector, config.learning_rate, self.adam_epsilon)
        else:
            self._take_module(network.to(self.device))
        self.numbers = RandomNumbers(stream_seed(config.seed, "learner"))
        """What the update draws: the order of minibatches, noise."""
        self.others: dict[str, FlatParameters] = {}
        scales = config.normalize_rewards
        self.reward_scaler = RewardScaler(num_environments, config.gamma) if scales else None
        asked = config.learners.engine
        stands_in_the_way = self.obstacles if self.on_cpu else self.recording_obstacles
        told = () if asked == "torch" else tuple(stands_in_the_way())
        if self.on_cpu:
            self.engine, self.engine_obstacles = choose_learning_engine(asked, told), told
        else:
            self.engine, self.engine_obstacles = choose_gpu_engine(asked, told)
        self.num_updates = 0
        self.ranks = Ranks()
        self.experience: Experience | None = None
        self.version = 0

    @classmethod
    def make_network(cls, config: ConfigT, spaces: Spaces) -> PlainNetwork | Module:
        """Makes what acts: a learner with an analytic form does without torch where it can."""
        with torch_threads(1), torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "module"))
            return cls.make_module(config, spaces)

    @staticmethod
    @abstractmethod
    def make_module(config: ConfigT, spaces: Spaces) -> Module:
        """Builds the network, on the CPU, with torch's generator already seeded."""

    def _take_module(self, module: Module) -> None:
        self.network = self.module = module
        # Walking through the modules for every publication would cost more than the copy.
        self._buffers = [
            (f"{name}." if name else "", part._buffers)  # noqa: SLF001
            for name, part in module.named_modules()
            if part._buffers  # noqa: SLF001
        ]
        self.flat = FlatParameters(
            module.parameters(), self.config.learning_rate, self.adam_epsilon
        )

    @cached_property
    def module(self) -> Module:
        """The network as a torch module; its parameters are views of `flat.vector`."""
        assert isinstance(self.network, PlainNetwork)
        with torch_threads(1):
            module = self.network.build()
        self.flat.adopt(list(module.parameters()))
        return module

    @cached_property
    def device(self) -> Device:
        """Where torch computes."""
        return choose_device(self.config.learners.device)

    @property
    def generator(self) -> Generator:
        """`numbers` as torch draws from them."""
        return self.numbers.torch

    @abstractmethod
    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        """Learns from experience.

        Args:
            rollouts: One of each runner, in their order.
            env_steps: Environment steps taken before these; schedules are functions of it.
        """

    def extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides module and optimizer; it is only ever changed in place."""
        return {} if self.reward_scaler is None else dict(self.reward_scaler.state_dict())

    def obstacles(self) -> Iterator[str]:
        """Yields why only torch can learn this run; a learner with an analytic form says less."""
        yield f"{type(self).__name__} has no analytic gradient"

    def recording_obstacles(self) -> Iterator[str]:
        """Yields why gradients of this run cannot be played from CUDA graphs."""
        yield f"{type(self).__name__} has no gradient that can be recorded"

    def use_engine(self, name: str) -> None:
        """Goes on with the engine a checkpoint was made with, where `auto` leaves the choice.

        Where it cannot be had, the one chosen here stays: the run goes on, in other last bits.
        """
        known: tuple[LearningEngine, ...] = ("torch", "compiled", "numpy")
        for engine in known:
            free = self.config.learners.engine == "auto"
            if free and name == engine and engine_can(engine, self.engine_obstacles):
                self.engine = engine
                self.set_up_engine()

    def set_up_engine(self) -> None:
        """Makes what the engine computes with: at the end of construction, and for another engine.

        Who overrides it calls this, too.
        """
        for flat in self._all_parameters():
            flat.compiled = self.by_hand and self.engine == "compiled"

    @property
    def by_hand(self) -> bool:
        """Whether gradients are analytic, in arrays, rather than torch's."""
        return self.engine != "torch" and self.on_cpu

    def played(self, function: Callable[..., dict[str, Tensor]]) -> Recorded | None:
        """What plays a function from CUDA graphs, where the engine is `compiled` on a GPU."""
        if self.engine != "compiled" or self.by_hand:
            return None
        return Recorded(function, self.device)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [T, B] to learn from: scaled where `normalize_rewards` says so, else raw."""
        return self.tensor(self.reward_arrays(rollout))

    def reward_arrays(self, rollout: Rollout) -> Array:
        """`rewards` as an array."""
        self.observe_rewards(rollout)
        return self.scaled(rollout.rewards)

    def observe_rewards(self, rollout: Rollout) -> None:
        """Merges a rollout's rewards into the statistics, where `normalize_rewards` says so."""
        if self.reward_scaler is not None:
            done = rollout.terminated | rollout.truncated
            self.reward_scaler.update(rollout.rewards, done, rollout.valid)

    def scaled(self, rewards: Array) -> Array:
        """Raw rewards of any shape as they are learnt from."""
        return rewards if self.reward_scaler is None else self.reward_scaler.scale(rewards)

    def observe(self, observations: TensorTree | Tree) -> None:
        """Merges observations [N, *obs] into the statistics, where the config wants them.

        Call it after the update: log-probabilities of a rollout belong to the statistics it was
        sampled with.
        """
        if not self.config.normalize_observations:
            return
        given: Any = observations
        if not isinstance(first_leaf(given), np.ndarray):
            self.module.observe(given)
        elif isinstance(self.network, PlainNetwork):
            self.network.observe(given)
        else:
            self.module.observe(self.tensors(given))

    def tensors(self, tree: Tree) -> TensorTree:
        """Observations on the learner's device."""
        return tree_map(self.tensor, tree)

    def tensor(self, array: Array) -> Tensor:
        """One array on the learner's device."""
        return to_tensor(array, self.device)

    def join(self, ranks: Ranks) -> None:
        """Learns from now on with others, each from its part of every batch."""
        self.ranks = ranks
        for flat in self._all_parameters():
            flat.ranks = ranks

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers [m, ...] float32 for this rank's rows of the batch at hand.

        They are what these rows would get if one learner had them all.
        """
        rows = self.ranks.rows if self.ranks.size > 1 and self.ranks.rows else shape[0]
        return self.numbers.normals((rows, *shape[1:]))[self.ranks.part(rows)]

    def set_learning_rate(self, env_steps: int) -> float:
        """Puts the scheduled learning rate into every optimizer and returns it."""
        config = self.config
        rate = linear(
            config.learning_rate, config.learning_rate_final, env_steps, config.total_steps
        )
        for flat in self._all_parameters():
            flat.set_learning_rate(rate)
        return rate

    def _all_parameters(self) -> list[FlatParameters]:
        return [self.flat, *self.others.values()]

    def apply_gradients(self, loss: Tensor) -> Tensor | float:
        """Descends the loss of the module by one step of Adam, gradient clipped by its global norm.

        Returns:
            The norm before clipping, a scalar on the device.
        """
        self.flat.backward(loss)
        return self.descend()

    def descend(self, loss: Tensor | float = 0.0) -> Tensor | float:
        """`apply_gradients` of the gradient that stands in `flat.gradient` already.

        Args:
            loss: Whose gradient it is, where numpy computed it.
        """
        self.num_updates += 1
        limit = self.config.max_grad_norm
        if self.by_hand:
            return self.flat.step_array(limit, float(loss))
        return self.flat.step(limit)

    def learn(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        """`update`, and a look at what it left; adds how many optimizer steps there were.

        Raises:
            Diverged: Three steps in a row were skipped, or a parameter is not finite. It holds the
            batch drawn last, of learners that draw theirs from a replay.
        """
        try:
            metrics = self.update(rollouts, env_steps)
            for flat in self._all_parameters():
                flat.count_skipped()
            self._check_finite(metrics)
        except Diverged as error:
            if self.experience is not None:
                error.batch = self.experience.batch_at_hand()
            raise
        skipped = sum(flat.skipped for flat in self._all_parameters())
        return metrics | {
            "train/n_updates": float(self.num_updates),
            "train/skipped_updates": float(skipped),
        }

    def _check_finite(self, metrics: Metrics) -> None:
        """Raises `Diverged` when the update left a parameter that is not finite."""
        if not all(flat.is_finite() for flat in self._all_parameters()):
            losses = ", ".join(f"{k} {v:g}" for k, v in metrics.items() if k.endswith("loss"))
            raise Diverged(
                f"parameters are no longer finite after update {self.num_updates} ({losses});"
                " lower learning_rate or max_grad_norm, or look for rewards that explode"
            )

    def get_weights(self, again: bool = False) -> Weights:
        """A copy of what acting needs, under the next version number, or the last one `again`."""
        self.version += not again
        if isinstance(self.network, PlainNetwork):
            return self.network.acting_weights(self.version)
        buffers = {
            prefix + name: buffer.numpy(force=True).copy()
            for prefix, owned in self._buffers
            for name, buffer in owned.items()
            if buffer is not None
        }
        return Weights(self.version, self.flat.copied(), buffers)

    def _own_state(self) -> dict[str, Any]:
        """Arrays and tensors that a state is copied from, and into."""
        if isinstance(self.network, PlainNetwork):
            module: Mapping[str, Any] = self.network.state_arrays()
        else:
            module = self.module.state_dict()
        state = {f"module.{k}": v for k, v in module.items()}
        return state | {f"extra.{k}": v for k, v in self.extra_state().items()}

    def get_state(self) -> dict[str, Array]:
        """Everything learning goes on from, as arrays by name; `module.*` is the policy."""
        state = self._own_state()
        state |= {f"optimizer.{k}": v for k, v in self.flat.optimizer_state().items()}
        for name, flat in self.others.items():
            state |= {f"{name}.{k}": v for k, v in flat.state().items()}
        state["generator"] = self.numbers.get_state()
        state["counters"] = np.array([self.num_updates, self.version])
        state["skipped"] = np.array(
            [[flat.skipped, flat.skipped_in_a_row] for flat in self._all_parameters()]
        )
        return {name: on_host(value).copy() for name, value in state.items()}

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        """The experience that is kept, in parts; nothing where none is.

        Args:
            known: Names of parts that the caller has: those that never change come as None.
        """
        return {}

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        """Goes on from what `get_memory` gave; `KeyError` or `ValueError` when it does not fit."""

    def set_state(self, state: dict[str, Array]) -> None:
        """Goes on from what `get_state` gave. Raises `CheckpointError` when it does not fit."""
        own = self._own_state()
        for name, tensor in own.items():
            if name not in state or tuple(state[name].shape) != tuple(tensor.shape):
                found = state[name].shape if name in state else "nothing"
                raise CheckpointError(
                    f"{name} should be {tuple(tensor.shape)}, the checkpoint has {found}:"
                    " it is of another network; check env, hidden_sizes and the algorithm"
                )
        foreign = [k for k in state if k.startswith(("module.", "extra.")) and k not in own]
        absent = [k for k in ("generator", "counters", "skipped") if k not in state]
        if foreign or absent:
            raise CheckpointError(
                f"the checkpoint is of other settings: {', '.join(foreign or absent)}"
                f" {'has no place here' if foreign else 'is not in it'}; check"
                " normalize_observations, normalize_rewards and the algorithm"
            )
        for name, place in own.items():
            if isinstance(place, np.ndarray):
                place[...] = state[name]
            else:
                place.detach().copy_(to_tensor(state[name]))
        self.flat.set_optimizer_state(_part(state, "optimizer"))
        for name, flat in self.others.items():
            flat.set_state(_part(state, name))
        self.numbers.set_state(state["generator"])
        self.num_updates, self.version = (int(n) for n in state["counters"])
        for flat, counts in zip(self._all_parameters(), state["skipped"], strict=True):
            flat.skipped, flat.skipped_in_a_row = (int(n) for n in counts)


def _part(state: dict[str, Array], name: str) -> dict[str, Array]:
    """The entries of one part, `name.*`, without their first word."""
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
