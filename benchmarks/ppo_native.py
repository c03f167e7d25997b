"""How many steps a second does PPO learn from on 64 CartPoles in one vector environment?

Ours steps Gymnasium's own vectorised CartPole (the `vector_entry_point` that `gymnasium.make_vec`
takes), Stable-Baselines3, which has no use for it, its own vector environment. 64 environments x 32
steps, 4 epochs x 4 minibatches of 512, two hidden layers of 64, the other settings equal. Import
and set-up are not counted. `make peers` makes the peer's Python.

    python benchmarks/ppo_native.py --peer-python PATH/bin/python
    python benchmarks/ppo_native.py --peer-python PATH/bin/python --pipeline
"""

from __future__ import annotations

import json
from pathlib import Path

import _pairs

LENGTH, ENVIRONMENTS, EPOCHS, MINIBATCH = 32, 64, 4, 512


def ours(steps: int, seed: int, threads: int, pipeline: bool) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    config = rl.PPOConfig(
        env="CartPole-v1",
        seed=seed,
        total_steps=steps,
        rollout_length=LENGTH,
        num_epochs=EPOCHS,
        minibatch_size=MINIBATCH,
    ).with_env_runners(envs_per_runner=ENVIRONMENTS, vectorization="native", overlap=pipeline)
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
        make_vec_env("CartPole-v1", ENVIRONMENTS, seed=seed),
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
    parser.set_defaults(steps=200_000)
    parser.add_argument(
        "--pipeline", action="store_true", help="ours samples while it learns, one rollout behind"
    )
    flags = parser.parse_args()
    if flags.run == "ours":
        print(json.dumps(ours(flags.steps, flags.seed, flags.threads, flags.pipeline)))
    elif flags.run:
        print(json.dumps(sb3(flags.steps, flags.seed, flags.threads)))
    else:
        question = "PPO CartPole-v1, 64 x 32, native vector environment, steps/s"
        question += ", pipeline" * flags.pipeline
        own = ["--pipeline"] if flags.pipeline else []
        _pairs.compare(question, Path(__file__), flags, peer="sb3", own=own)


if __name__ == "__main__":
    main()
