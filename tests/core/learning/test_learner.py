from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.configs.ppo import PPOConfig
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array
from rl.core.learning.learner import Averages, Learner, Metrics, choose_device
from rl.core.learning.learner_group import LearnerGroup
from rl.core.learning.threads import LearningThreads
from rl.core.models.modules import ActorCritic
from rl.core.models.spec import NetworkSpec
from rl.errors import CheckpointError, Diverged, UsageError

SPACES = Spaces(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
T, B = 4, 2


class Regression(Learner[PPOConfig]):
    """Pulls values to the rewards and actions to 0, with shuffled rows."""

    module: ActorCritic

    @staticmethod
    def make_module(config: PPOConfig, spaces: Spaces) -> ActorCritic:
        return ActorCritic(
            NetworkSpec(
                spaces.observation,
                spaces.action,
                config.hidden_sizes,
                normalize_observations=config.normalize_observations,
            )
        )

    def loss(self, observations: Tensor, rewards: Tensor) -> Tensor:
        policy, values = self.module(observations)
        loss: Tensor = (values - rewards).square().mean() - policy.log_prob(
            torch.zeros(len(observations), 2)
        ).mean()
        return loss

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        rate = self.set_learning_rate(env_steps)
        (rollout,) = rollouts
        observations = self.tensors(rollout.observations)
        assert isinstance(observations, Tensor)
        rows = observations[:-1].flatten(0, 1)
        rewards = self.rewards(rollout).flatten()
        averages = Averages()
        for part in torch.randperm(len(rows), generator=self.generator).split(3):
            loss = self.loss(rows[part], rewards[part])
            averages.add(loss=loss, norm=self.apply_gradients(loss))
        self.observe(rows)
        return averages.result() | {"train/learning_rate": rate, "train/loss": 1.0}


def rollout(seed: int = 0, scale: float = 1.0) -> Rollout:
    generator = np.random.default_rng(seed)
    terminated = np.zeros((T, B), bool)
    terminated[1, 0] = True
    return Rollout(
        observations=generator.normal(size=(T + 1, B, 3)).astype(np.float32),
        actions=np.zeros((T, B, 2), np.float32),
        rewards=(generator.normal(size=(T, B)) * scale).astype(np.float32),
        terminated=terminated,
        truncated=np.zeros((T, B), bool),
        extras={},
        final_steps=np.array([[1, 0]]),
        final_observations=np.zeros((1, 3), np.float32),
    )


def config_of(**settings: Any) -> PPOConfig:
    return PPOConfig(hidden_sizes=(8,), rollout_length=T, minibatch_size=2, **settings)


def learner_of(**settings: Any) -> Regression:
    return Regression(config_of(**settings), SPACES, B)


def test_parameters_are_views_of_one_vector_and_stay_so() -> None:
    learner = learner_of(learning_rate=0.1)
    learner.update([rollout()], 0)
    weights = learner.get_weights()
    views = learner.module.parameter_table().views(weights.parameters)
    for name, parameter in learner.module.named_parameters():
        assert np.array_equal(views[name], parameter.detach().numpy())
        storage = parameter.untyped_storage().data_ptr()
        assert storage == learner.flat.vector.untyped_storage().data_ptr()
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage().data_ptr()
        assert storage == learner.flat.gradient.untyped_storage().data_ptr()


@pytest.mark.parametrize("max_grad_norm", [None, 0.05, 0.5, 1e6])
def test_a_step_is_that_of_torchs_adam_with_its_clipping(max_grad_norm: float | None) -> None:
    learner = learner_of(learning_rate=0.01, max_grad_norm=max_grad_norm)
    ordinary = learner_of(learning_rate=0.01)
    plain = Regression.make_module(ordinary.config, SPACES)
    plain.load_state_dict(learner.module.state_dict())
    ordinary.module = plain  # of separate parameters
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, eps=learner.adam_epsilon)
    for step in range(20):
        batch = rollout(step)
        observations = torch.tensor(batch.observations)[:-1].flatten(0, 1)
        rewards = torch.tensor(batch.rewards).flatten()
        norm = learner.apply_gradients(learner.loss(observations, rewards))
        optimizer.zero_grad()
        ordinary.loss(observations, rewards).backward()  # type: ignore[no-untyped-call]
        limit = float("inf") if max_grad_norm is None else max_grad_norm
        expected = nn.utils.clip_grad_norm_(plain.parameters(), limit)
        optimizer.step()
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=1e-6)
    assert learner.num_updates == 20
    for mine, theirs in zip(learner.module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_the_first_network_depends_on_the_seed_alone() -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first = learner_of(seed=1).get_weights().parameters
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's numbers are drawn
    torch.manual_seed(9)
    assert np.array_equal(learner_of(seed=1).get_weights().parameters, first)
    assert not np.array_equal(learner_of(seed=2).get_weights().parameters, first)


NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}


@pytest.mark.parametrize("settings", [{}, NORMALIZED], ids=["plain", "normalized"])
def test_a_restored_learner_goes_on_with_the_same_bits(settings: dict[str, Any]) -> None:
    learner = learner_of(**settings)
    for step in range(3):
        learner.update([rollout(step)], step)
    learner.get_weights()
    state = learner.get_state()
    kept = {name: array.copy() for name, array in state.items()}
    other = learner_of(**settings, seed=5)
    other.update([rollout(77)], 0)
    other.set_state(state)
    for step in range(3, 6):
        assert learner.update([rollout(step)], step) == other.update([rollout(step)], step)
    mine, theirs = learner.get_state(), other.get_state()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].tobytes() == theirs[name].tobytes(), name
        assert state[name].tobytes() == kept[name].tobytes(), name  # a copy, not a view
    assert learner.get_weights().version == other.get_weights().version == 2
    assert other.num_updates == 6 * 3


def test_a_state_from_before_the_first_update_takes_the_optimizer_back() -> None:
    learner = learner_of()
    fresh = learner.get_state()
    first = learner.update([rollout()], 0)
    after = learner.get_weights().parameters
    learner.update([rollout(1)], 0)
    learner.set_state(fresh)
    assert learner.update([rollout()], 0) == first
    assert np.array_equal(learner.get_weights().parameters, after)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"normalize_observations": True}, "module.encoder.normalizer"),
        ({"normalize_rewards": True}, "extra.returns|extra.statistics"),
    ],
)
def test_a_state_of_other_settings_is_refused_either_way(
    settings: dict[str, Any], words: str
) -> None:
    plain, other = learner_of(), learner_of(**settings)
    for one, state in ((plain, other.get_state()), (other, plain.get_state())):
        before = one.get_weights().parameters
        with pytest.raises(CheckpointError, match=words):
            one.set_state(state)
        assert np.array_equal(one.get_weights().parameters, before)


def test_a_state_of_another_network_or_with_holes_is_refused() -> None:
    learner = learner_of()
    wider = Regression(PPOConfig(hidden_sizes=(9,)), SPACES, B)
    with pytest.raises(CheckpointError, match=r"policy_torso.0.weight should be \(8, 3\)"):
        learner.set_state(wider.get_state())
    state = learner.get_state()
    for missing in ("generator", "counters", "module.log_std"):
        with pytest.raises(CheckpointError, match=missing):
            learner.set_state({name: state[name] for name in state if name != missing})


def test_weights_are_numbered_copies() -> None:
    learner = learner_of(normalize_observations=True)
    first = learner.get_weights()
    kept = first.parameters.copy()
    learner.update([rollout()], 0)
    second, again = learner.get_weights(), learner.get_weights(again=True)
    assert [first.version, second.version, again.version] == [1, 2, 2]
    assert np.array_equal(first.parameters, kept)
    assert not np.array_equal(second.parameters, kept)
    assert np.array_equal(again.parameters, second.parameters)
    count = "encoder.normalizer.count"
    assert (first.buffers[count], second.buffers[count]) == (0, T * B)


def test_observations_are_learnt_from_only_where_the_settings_say_so() -> None:
    learner = learner_of(normalize_observations=False)
    learner.observe(torch.zeros(3, 3))  # no statistics, no complaint
    assert dict(learner.module.named_buffers()) == {}


def test_rewards_are_scaled_only_where_the_settings_say_so() -> None:
    one = rollout(scale=100.0)
    raw = learner_of().rewards(one)
    assert np.array_equal(raw.numpy(), one.rewards)
    scaled = learner_of(normalize_rewards=True, gamma=0.5).rewards(one)
    returns, running = [], np.zeros(B)
    for t in range(T):
        running = running * 0.5 + one.rewards[t]
        returns.append(running)
        running = running * ~one.terminated[t]
    expected = one.rewards / np.std(returns)
    np.testing.assert_allclose(scaled.numpy(), np.clip(expected, -10, 10), rtol=1e-5)


def test_the_learning_rate_follows_its_schedule_in_environment_steps() -> None:
    learner = learner_of(learning_rate=1.0, learning_rate_final=0.2, total_steps=100)
    rates = [learner.set_learning_rate(step) for step in (0, 50, 100, 200)]
    assert rates == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert learner.flat.learning_rate == 0.2
    assert rates[2] == 0.2  # exactly
    assert learner_of(learning_rate=0.5).set_learning_rate(10**9) == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_end_the_run(value: float) -> None:
    learner = learner_of()

    class Broken(Regression):
        def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
            metrics = super().update(rollouts, env_steps)
            self.flat.vector[0] = value
            return metrics | {"train/loss": 2.5}

    group = LearnerGroup(lambda: Broken(learner.config, SPACES, B), LearningThreads())
    with pytest.raises(Diverged, match=r"after update 3 \(.*train/loss 2.5.*lower learning_rate"):
        group.update([rollout()], 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_minibatch_whose_loss_is_not_finite_is_skipped_and_counted(value: float) -> None:
    group, other = (LearnerGroup(learner_of, LearningThreads()) for _ in range(2))
    group.update([rollout()], 0)
    broken = rollout(1)
    broken.rewards[0, 0] = value
    metrics = group.update([broken], 0)
    assert metrics["train/skipped_updates"] == 1
    assert metrics["train/n_updates"] == 6
    assert np.isfinite([metrics["loss"], metrics["norm"]]).all(), "means of what was learnt from"
    state = group.get_state()
    assert all(np.isfinite(array).all() for array in state.values())
    other.set_state(state)
    assert other.update([rollout(2)], 0) == group.update([rollout(2)], 0)
    assert other.update([broken], 0)["train/skipped_updates"] == 2


def test_three_skipped_in_a_row_end_the_run_however_updates_lie() -> None:
    group = LearnerGroup(learner_of, LearningThreads())
    group.update([rollout()], 0)
    before = group.get_weights().parameters
    broken = rollout()
    broken.rewards[:] = np.nan
    with pytest.raises(Diverged, match=r"3 updates in a row .* lower learning_rate"):
        group.update([broken], 0)
    assert np.array_equal(group.get_weights().parameters, before)

    class Single(Regression):
        """One step an update, as off-policy learners make them."""

        def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
            loss = self.loss(torch.zeros(1, 3), self.tensor(rollouts[0].rewards[0, :1]))
            return {"norm": float(self.apply_gradients(loss))}

    group = LearnerGroup(lambda: Single(config_of(), SPACES, B), LearningThreads())
    for parts in (broken, broken, rollout(), broken, broken):
        group.update([parts], 0)
    resumed = LearnerGroup(lambda: Single(config_of(), SPACES, B), LearningThreads())
    resumed.set_state(group.get_state())
    with pytest.raises(Diverged):
        resumed.update([broken], 0)


def test_the_group_is_its_learner_with_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    class Watching(Regression):
        def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
            seen.append(torch.get_num_threads())
            return super().update(rollouts, env_steps)

    def make() -> Learner[PPOConfig]:
        seen.append(torch.get_num_threads())
        return Watching(config_of(), SPACES, B)

    group = LearnerGroup(make, LearningThreads(before + 1))
    alone = learner_of()
    metrics = group.update([rollout()], 0)
    alone.update([rollout()], 0)
    assert seen == [1, before + 1]  # the first weights do not depend on it
    assert torch.get_num_threads() == before
    assert metrics["train/n_updates"] == 3
    assert np.allclose(group.get_weights().parameters, alone.get_weights().parameters)
    other = LearnerGroup(learner_of, LearningThreads())
    state: dict[str, Array] = group.get_state()
    other.set_state(state)
    for name, array in other.get_state().items():
        assert np.array_equal(array, state[name])
    assert group.network.state_arrays()["policy_head.bias"].shape == (2,)


def test_a_device_that_is_not_there_is_told() -> None:
    if torch.cuda.is_available():
        assert choose_device("auto").type == "cuda"
        return
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UsageError, match="'cuda:1', but torch sees no GPU"):
        choose_device("cuda:1")


def test_averages_are_means_over_the_minibatches() -> None:
    averages = Averages()
    assert averages.result() == {}
    averages.add(loss=torch.tensor(1.0, requires_grad=True), other=torch.tensor(5.0))
    averages.add(loss=torch.tensor(4.0), other=torch.tensor(7.0))
    assert averages.result() == {"loss": 2.5, "other": 6.0}


@pytest.mark.parametrize("of", [float, torch.tensor])
def test_averages_leave_out_what_was_not_learnt_from(of: Any) -> None:
    averages = Averages()
    averages.add(loss=of(float("nan")), other=of(1.0))
    assert np.isnan(averages.result()["loss"])
    averages.add(loss=of(2.0), other=of(5.0))
    averages.add(loss=of(3.0), other=of(float("inf")))
    assert averages.result() == {"loss": 2.0, "other": 5.0}


def test_what_learns_on_another_device_than_the_cpu_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meta = torch.device("meta")
    monkeypatch.setattr("rl.core.learning.learner.choose_device", lambda _: meta)
    settings = config_of(), SPACES, 1
    monkeypatch.setattr("rl.core.learning.learner.means_cpu", lambda _: False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rl.core.learning.learner.FlatParameters", lambda *_, **__: None)
        learner = Regression(*settings)
    assert learner.engine == "torch"
    (told,) = learner.engine_obstacles
    assert told.startswith("on a GPU auto takes torch; Regression has no gradient")
