"""What a trained agent is to its user: a `Policy`, saved and loaded without the training code.

python examples/use_a_policy.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import gymnasium

import rl


def main(total_steps: int = 50_000) -> float:
    """Trains, saves, loads, plays one episode; returns its return."""
    config = rl.PPOConfig(
        env="CartPole-v1",
        total_steps=total_steps,
        rollout_length=64,
    ).with_env_runners(envs_per_runner=8)
    with tempfile.TemporaryDirectory() as folder, config.build() as ppo:
        ppo.learn()
        ppo.save(Path(folder) / "checkpoint")
        policy = rl.Policy.load(Path(folder) / "checkpoint")

    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=7)
    print(f"value of the first observation: {policy.value(observation):.1f}")
    total, over = 0.0, False
    while not over:
        action = policy.act(observation)  # one observation; a batch works as well
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
    env.close()
    return total


if __name__ == "__main__":
    print(f"return {main():.0f}")
