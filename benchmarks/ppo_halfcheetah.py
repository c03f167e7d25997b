"""How many environment steps a second does PPO learn from on HalfCheetah-v5, beside SB3?

8 environments x 256 steps, 10 epochs of minibatches of 64, two hidden layers of 64, the other
settings equal. Import and set-up are not counted. `make peers` makes the peer's Python.

    python benchmarks/ppo_halfcheetah.py --peer-python PATH/bin/python
"""

from __future__ import annotations

import json
from pathlib import Path

import _pairs

LENGTH, ENVIRONMENTS, EPOCHS, MINIBATCH = 256, 8, 10, 64


def ours(steps: int, seed: int, threads: int) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    config = rl.PPOConfig(
        env="HalfCheetah-v5",
        seed=seed,
        total_steps=steps,
        rollout_length=LENGTH,
        num_epochs=EPOCHS,
        minibatch_size=MINIBATCH,
    ).with_env_runners(envs_per_runner=ENVIRONMENTS)
    with config.with_learners(threads=threads).build() as algorithm:
        return _pairs.learn(algorithm)


def sb3(steps: int, seed: int, threads: int) -> dict[str, object]:
    """Trains with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(threads)
    model = stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("HalfCheetah-v5", ENVIRONMENTS, seed=seed),
        n_steps=LENGTH,
        batch_size=MINIBATCH,
        n_epochs=EPOCHS,
        seed=seed,
        device="cpu",
    )
    return _pairs.learn_sb3(model, steps)


def main() -> None:
    """Compares, or runs one side when asked to by the comparison."""
    parser = _pairs.parser(__doc__)
    parser.set_defaults(steps=60_000)
    flags = parser.parse_args()
    if flags.run:
        side = {"ours": ours, "sb3": sb3}[flags.run]
        print(json.dumps(side(flags.steps, flags.seed, flags.threads)))
    else:
        question = "PPO HalfCheetah-v5, 8 x 256, minibatch 64, 10 epochs, steps/s"
        _pairs.compare(question, Path(__file__), flags, peer="sb3")


if __name__ == "__main__":
    main()
