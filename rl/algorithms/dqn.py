"""Deep Q-learning with a target network (Mnih et al. 2015, Nature 518).

With what was added since, each by a setting of its own: double (van Hasselt et al. 2016,
arXiv:1509.06461), dueling (Wang et al. 2016, arXiv:1511.06581), n-step returns (Hessel et al. 2018,
arXiv:1710.02298), prioritised replay (Schaul et al. 2016, arXiv:1511.05952), distributions of
returns (C51; Bellemare et al. 2017, arXiv:1707.06887), noisy networks (Fortunato et al. 2018,
arXiv:1706.10295). All of them together are Rainbow (Hessel et al.). Memory learns as in R2D2
(Kapturowski et al. 2019).

Read down: the order of sampling and learning, a round of updates, one update, its target and loss
as pure functions. The settings stand in `rl/configs/dqn.py`. Shapes: T steps per rollout, B
environments, M transitions of a batch, A actions, N atoms.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.algorithms.algorithm import Algorithm
from rl.configs.dqn import DQNConfig
from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.lazy import LazyModule, torch
from rl.core.learning.analytic_dqn import AnalyticDQN, dqn_obstacles
from rl.core.learning.engines import recording_obstacles
from rl.core.learning.experience import Experience, ReplayBatch
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.learning.schedules import linear
from rl.core.learning.target import TargetNetwork
from rl.core.models.plain import PlainNetwork, number_of, plain_obstacles, set_number
from rl.core.models.spec import QNetworkSpec
from rl.core.seeding import random_generator

if TYPE_CHECKING:  # who learns a plain MLP with analytic gradients imports none of these
    from torch import Tensor

    from rl.core.learning import distributional
    from rl.core.learning.window_batch import WindowBatch
    from rl.core.models import q_network
    from rl.core.models.modules import Module
    from rl.core.models.q_network import QNetwork
else:
    distributional = LazyModule("rl.core.learning.distributional")
    q_network = LazyModule("rl.core.models.q_network")

__all__ = ["DQN", "DQNConfig", "DQNLearner", "huber", "of_actions", "q_targets"]


class DQN(Algorithm[DQNConfig]):
    """Samples a little, learns in proportion from all it remembers, hands the weights back."""

    def make_learner(self) -> DQNLearner:
        return DQNLearner(self.config, self.spaces, self.config.num_environments)

    def training_step(self) -> Metrics:
        length = self.fragment_length(self.config.rollout_length, exact=True)
        rollouts = self.sample(length)  # one [T, B] from each runner
        if self.config.env_runners.overlap:
            self.publish_weights()  # before they learn: the next fragment lags by this update
            self.sample_ahead(self.fragment_length(self.config.rollout_length, exact=True))
            return self.learn_from(rollouts)
        metrics = self.learn_from(rollouts)
        self.publish_weights()
        return metrics


class DQNLearner(Learner[DQNConfig]):
    """Remembers transitions and regresses Q on targets that a slower copy of it makes."""

    module: QNetwork
    experience: Experience
    analytic: AnalyticDQN
    """There with analytic gradients alone."""

    def __init__(self, config: DQNConfig, spaces: Spaces, num_environments: int) -> None:
        super().__init__(config, spaces, num_environments)
        self.experience = Experience(self, config, spaces)
        self.slow = TargetNetwork(self.flat, lambda: self.module)
        set_number(self.network, "epsilon", self.exploration_rate(0))
        self.set_up_engine()

    def set_up_engine(self) -> None:
        super().set_up_engine()
        self.recorded = self.played(lambda columns: self._score(ReplayBatch.of(columns)))
        if self.by_hand:
            assert isinstance(self.network, PlainNetwork)
            place = self.network, self.flat, self.slow.array
            self.analytic = AnalyticDQN(self.config, *place, self.engine)

    @classmethod
    def make_network(cls, config: DQNConfig, spaces: Spaces) -> PlainNetwork | Module:
        spec = spec_of(config, spaces)
        if cls.make_module is not DQNLearner.make_module or any(plain_obstacles(spec)):
            return super().make_network(config, spaces)
        return PlainNetwork("q_network", spec, random_generator(config.seed, "module"))

    @staticmethod
    def make_module(config: DQNConfig, spaces: Spaces) -> QNetwork:
        return q_network.QNetwork(spec_of(config, spaces))

    @property
    def target(self) -> QNetwork:
        """The slower copy."""
        return self.slow.module

    @property
    def target_parameters(self) -> Tensor:
        """Of the slower copy, [P]."""
        return self.slow.vector

    def obstacles(self) -> Iterator[str]:
        if type(self) is DQNLearner:
            yield from dqn_obstacles(self.config, self.network)
        else:
            yield f"{type(self).__name__} may have another loss than DQNLearner"

    def recording_obstacles(self) -> Iterator[str]:
        if type(self) is not DQNLearner:
            yield f"{type(self).__name__} may have another loss than DQNLearner"
            return
        yield from recording_obstacles(self.network)
        if self.config.noisy:
            yield "noisy layers"

    def extra_state(self) -> dict[str, Any]:
        own = {"target": self.slow.state, "credit": self.experience.credit}
        return super().extra_state() | own

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        return self.experience.replay.get_state(known)

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        self.experience.replay.set_state(memory)

    def exploration_rate(self, env_steps: int) -> float:
        """Epsilon of the fragment that begins at this step; 1 before learning starts."""
        config = self.config
        if env_steps < config.learning_starts:
            return 1.0
        if config.noisy:
            return 0.0
        span = round(config.exploration_fraction * config.total_steps)
        return linear(config.exploration_initial, config.exploration_final, env_steps, span)

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        rollout = Rollout.concatenate(rollouts)
        steps_now = env_steps + rollout.num_steps
        learning_rate = self.set_learning_rate(env_steps)
        explored = number_of(self.network, "epsilon")
        metrics = {"rollout/exploration_rate": explored, "train/learning_rate": learning_rate}
        self.experience.remember(rollout, env_steps)
        self.move_target(env_steps, steps_now)
        averages = Averages(self.ranks)
        for _ in range(self.experience.due_updates(env_steps, steps_now)):
            averages.add(**self.step())
        rate = float(np.float32(self.exploration_rate(steps_now)))
        if rate != explored:  # it stays for most of a run, and torch takes its time for one number
            set_number(self.network, "epsilon", rate)
        metrics |= {f"train/{name}": value for name, value in averages.result().items()}
        return metrics | self.experience.report(steps_now)

    def move_target(self, before: int, now: int) -> None:
        """Moves the target once for each multiple of its interval in (before, now]."""
        interval = self.config.target_update_interval
        times = now // interval - before // interval
        if times:  # the network stands still meanwhile, so that many moves are one
            self.slow.follow(1 - (1 - self.config.tau) ** times, self.by_hand)

    def step(self) -> dict[str, Tensor | float]:
        """One update on a batch of M transitions. Returns scalars under their public names."""
        if self.by_hand:
            _, transitions, weights = self.experience.draw_arrays()
            terms, found = self.analytic.gradient(transitions, weights)
            if weights is not None:
                self.experience.note_errors(found)
            return terms | {"grad_norm": self.descend(terms["loss"])}
        batch = self.draw()
        if self.recorded is None or not isinstance(batch, ReplayBatch):
            scored = self._score(batch)
        else:
            scored = self.recorded(batch.columns())
        if batch.weights is not None:
            self.experience.note_errors(batch.per_draw(scored["errors"]))
        told = {name: scored[name] for name in ("loss", "q_value")}
        return {**told, "grad_norm": self.descend()}

    def _score(self, batch: ReplayBatch | WindowBatch) -> dict[str, Tensor]:
        """Loss, mean value and errors [M] of a batch; leaves the gradient."""
        loss, errors, values = self.loss(batch)
        self.flat.backward(loss)
        return {"loss": loss, "q_value": values.mean(), "errors": errors}

    def draw(self) -> ReplayBatch | WindowBatch:
        """This rank's part of a batch: single transitions, with memory whole windows of them."""
        if self.config.memory is None:
            return self.experience.draw()
        return self.experience.draw_windows(self.config.sequence_length, self.config.burn_in)

    def loss(self, batch: ReplayBatch | WindowBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, a scalar; error and value of every transition's action, each [M]."""
        compare = self.compare_distributions if self.config.distributional else self.compare_values
        losses, errors, values = compare(batch)
        if batch.weights is not None:
            losses = losses * batch.weights
        return losses.mean(), errors, values

    def parameter_noise(self) -> Tensor | None:
        """A draw for the parameters, the same for the whole batch, where they are noisy."""
        if not self.config.noisy:
            return None
        return torch.randn(self.module.parameter_noise, generator=self.generator).to(self.device)

    def compare_values(self, batch: ReplayBatch | WindowBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, error and value of every transition's action, each [M]; only the loss has a graph.

        The error is what priorities are made of. Noise is drawn anew for the target, for the choice
        and for what learns (arXiv:1706.10295, algorithm 1).
        """
        module = self.module
        now, following = batch.features(module, successors=self.config.double)
        with torch.no_grad():
            _, behind = batch.features(self.target, states=False)
            next_values = choosing = self.target.values_of(behind, self.parameter_noise())
            if self.config.double:
                choosing = module.values_of(following, self.parameter_noise())
            choosing = module.allowed(choosing, batch.next_observations)
            targets = q_targets(batch.returns, batch.discounts, next_values, choosing)
        values = of_actions(module.values_of(now, self.parameter_noise()), batch.actions)
        return huber(values, targets), targets - values.detach(), values.detach()

    def compare_distributions(
        self, batch: ReplayBatch | WindowBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `compare_values` gives, of distributions of returns over N atoms.

        The loss is the cross-entropy (arXiv:1707.06887, algorithm 1), the error the divergence
        KL(target || prediction), as Rainbow has it.
        """
        module = self.module
        now, following = batch.features(module, successors=self.config.double)
        with torch.no_grad():
            _, behind = batch.features(self.target, states=False)
            chances = self.target.logits_of(behind, self.parameter_noise()).softmax(-1)
            choosing = module.expected(chances)
            if self.config.double:
                choosing = module.values_of(following, self.parameter_noise())
            best = module.allowed(choosing, batch.next_observations).argmax(-1)
            chances = of_actions(chances, best)
            place = batch.returns, batch.discounts, module.support
            targets = distributional.project(chances, *place)
        logits = of_actions(module.logits_of(now, self.parameter_noise()), batch.actions)
        log_probs = logits.log_softmax(-1)
        with torch.no_grad():
            errors = distributional.divergence(targets, log_probs)
            values = module.expected(log_probs.exp())
        return distributional.cross_entropy(targets, log_probs), errors, values


def spec_of(config: DQNConfig, spaces: Spaces) -> QNetworkSpec:
    """The network that the settings ask for."""
    num_atoms, v_min, v_max = config.atoms  # one without `distributional`, whatever is set
    noisy_sigma = config.noisy_sigma if config.noisy else 0.0
    own = {"num_atoms": num_atoms, "v_min": v_min, "v_max": v_max, "noisy_sigma": noisy_sigma}
    return QNetworkSpec.of(config, spaces, **own)


def q_targets(
    returns: Tensor, discounts: Tensor, next_values: Tensor, choosing_values: Tensor
) -> Tensor:
    """R + gamma^m Q'(s_m, argmax_a Q(s_m, a)), without a gradient; [M].

    Q' is the target network and Q chooses: the network for double DQN (arXiv:1509.06461, eq. 4), Q'
    itself for DQN.

    Args:
        returns: Discounted rewards of m steps, [M].
        discounts: gamma^m, 0 where the episode terminated, [M].
        next_values: Q' of the successors, [M, A].
        choosing_values: Q of the successors, [M, A]; -inf for actions their mask forbids.
    """
    best = choosing_values.argmax(-1)
    return returns + discounts * of_actions(next_values, best)


def of_actions(rows: Tensor, actions: Tensor) -> Tensor:
    """What `rows` [M, A, ...] hold of one action each, [M, ...]."""
    index = actions.reshape(-1, *[1] * (rows.dim() - 1)).expand(-1, 1, *rows.shape[2:])
    return rows.gather(1, index).squeeze(1)


def huber(values: Tensor, targets: Tensor) -> Tensor:
    """The squared error, halved, where it is below 1, and linear from there; [M]."""
    return torch.nn.functional.smooth_l1_loss(values, targets, reduction="none")
