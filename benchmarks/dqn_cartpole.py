"""How many environment steps a second does DQN learn from on CartPole-v1, beside Stable-Baselines3?

Two hidden layers of 64, batches of 64, one environment, the other settings equal; an update every 4
steps, then (--every 1) an update each step. Import and set-up are not counted, the steps before
learning starts are. The peer's Python: `python -m venv PATH`, then `PATH/bin/pip install
torch==2.13.0 stable-baselines3`.

    python benchmarks/dqn_cartpole.py --peer-python PATH/bin/python
    python benchmarks/dqn_cartpole.py --peer-python PATH/bin/python --every 1 --steps 25000
"""

from __future__ import annotations

import json
from pathlib import Path

import _pairs

STARTS, BUFFER, BATCH, RATE, TARGET, EXPLORE, LEAST = 1000, 50_000, 64, 1e-3, 500, 0.2, 0.04


def ours(steps: int, seed: int, threads: int, every: int) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    config = rl.DQNConfig(
        env="CartPole-v1",
        seed=seed,
        total_steps=steps,
        learning_rate=RATE,
        hidden_sizes=(64, 64),
        buffer_size=BUFFER,
        batch_size=BATCH,
        learning_starts=STARTS,
        rollout_length=every,
        updates_per_step=1 / every,
        target_update_interval=TARGET,
        exploration_fraction=EXPLORE,
        exploration_final=LEAST,
    )
    with config.with_learners(threads=threads).build() as algorithm:
        return _pairs.learn(algorithm)


def sb3(steps: int, seed: int, threads: int, every: int) -> dict[str, object]:
    """Trains with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(threads)
    model = stable_baselines3.DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 1, seed=seed),
        learning_rate=RATE,
        buffer_size=BUFFER,
        batch_size=BATCH,
        learning_starts=STARTS,
        train_freq=every,
        gradient_steps=1,
        target_update_interval=TARGET,
        exploration_fraction=EXPLORE,
        exploration_final_eps=LEAST,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
    return _pairs.learn_sb3(model, steps)


def main() -> None:
    """Compares, or runs one side when asked to by the comparison."""
    parser = _pairs.parser(__doc__)
    parser.add_argument("--every", type=int, default=4, help="environment steps for each update")
    flags = parser.parse_args()
    if flags.run:
        side = {"ours": ours, "sb3": sb3}[flags.run]
        print(json.dumps(side(flags.steps, flags.seed, flags.threads, flags.every)))
    else:
        question = f"DQN CartPole-v1, an update every {flags.every} steps, steps/s"
        _pairs.compare(
            question, Path(__file__), flags, peer="sb3", own=("--every", str(flags.every))
        )


if __name__ == "__main__":
    main()
