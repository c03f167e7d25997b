"""How many environment steps a second does PPO learn from on CartPole-v1, beside Stable-Baselines3?

8 environments x 128 steps, 4 epochs x 4 minibatches of 256 (or --settings sb3, its defaults: 1
environment x 2048 steps, 10 epochs of minibatches of 64), two hidden layers of 64, the other
settings equal. Import and set-up are not counted. The peer's Python: `python -m venv PATH`, then
`PATH/bin/pip install torch==2.13.0 stable-baselines3`.

    python benchmarks/ppo_cartpole.py --peer-python PATH/bin/python
    python benchmarks/ppo_cartpole.py --peer-python PATH/bin/python --settings sb3
"""

from __future__ import annotations

import json
from pathlib import Path

import _pairs

SETTINGS = {"wide": (128, 8, 4, 256), "sb3": (2048, 1, 10, 64)}
"""Steps, environments, epochs, minibatch."""


def ours(steps: int, seed: int, threads: int, settings: str) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    length, environments, epochs, minibatch = SETTINGS[settings]
    config = rl.PPOConfig(
        env="CartPole-v1",
        seed=seed,
        total_steps=steps,
        rollout_length=length,
        num_epochs=epochs,
        minibatch_size=minibatch,
    ).with_env_runners(envs_per_runner=environments)
    with config.with_learners(threads=threads).build() as algorithm:
        return _pairs.learn(algorithm)


def sb3(steps: int, seed: int, threads: int, settings: str) -> dict[str, object]:
    """Trains with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    length, count, epochs, minibatch = SETTINGS[settings]
    torch.set_num_threads(threads)
    environments = make_vec_env("CartPole-v1", count, seed=seed)
    model = stable_baselines3.PPO(
        "MlpPolicy",
        environments,
        n_steps=length,
        batch_size=minibatch,
        n_epochs=epochs,
        seed=seed,
        device="cpu",
    )
    return _pairs.learn_sb3(model, steps)


def main() -> None:
    """Compares, or runs one side when asked to by the comparison."""
    parser = _pairs.parser(__doc__)
    parser.add_argument("--settings", choices=list(SETTINGS), default="wide")
    flags = parser.parse_args()
    if flags.run:
        side = {"ours": ours, "sb3": sb3}[flags.run]
        print(json.dumps(side(flags.steps, flags.seed, flags.threads, flags.settings)))
    else:
        own = ("--settings", flags.settings)
        question = f"PPO CartPole-v1, settings {flags.settings}, steps/s"
        _pairs.compare(question, Path(__file__), flags, peer="sb3", own=own)


if __name__ == "__main__":
    main()
