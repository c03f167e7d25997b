"""How many environment steps a second does SAC learn from, beside Stable-Baselines3?

One update a step on a batch of 256, policy and both critics with two hidden layers of 256 and ReLU,
1000 steps of warm-up, the other settings equal; both sides with so many threads. `learning reached`
is the mean of some greedy episodes afterwards, which are not timed; neither are import and set-up.
`make peers` makes the peer's Python.

    python benchmarks/sac.py --peer-python PATH/bin/python --steps 6000
    python benchmarks/sac.py --peer-python PATH/bin/python --steps 6000 --threads 2
    python benchmarks/sac.py --peer-python PATH/bin/python --steps 6000 --env HalfCheetah-v5
"""

from __future__ import annotations

import json
from pathlib import Path

import _pairs

WARM_UP, BATCH, HIDDEN, RATE = 1000, 256, (256, 256), 1e-3
EPISODES = {"Pendulum-v1": 20, "HalfCheetah-v5": 5}
"""Environments, and of how many greedy episodes the mean is told."""


def ours(env: str, steps: int, seed: int, threads: int) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    config = rl.SACConfig(
        env=env,
        seed=seed,
        total_steps=steps,
        learning_rate=RATE,
        hidden_sizes=HIDDEN,
        batch_size=BATCH,
        learning_starts=WARM_UP,
    ).with_learners(threads=threads)
    with config.build() as algorithm:
        told = _pairs.learn(algorithm)
        return {**told, "return": algorithm.evaluate(EPISODES[env]).mean}


def sb3(env: str, steps: int, seed: int, threads: int) -> dict[str, object]:
    """Trains with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(threads)
    model = stable_baselines3.SAC(
        "MlpPolicy",
        make_vec_env(env, 1, seed=seed),
        learning_rate=RATE,
        batch_size=BATCH,
        learning_starts=WARM_UP,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=seed,
        device="cpu",
    )
    told = _pairs.learn_sb3(model, steps)
    reached, _ = evaluate_policy(model, make_vec_env(env, 1, seed=seed), EPISODES[env])
    return {**told, "return": reached}


def main() -> None:
    """Compares, or runs one side when asked to by the comparison."""
    parser = _pairs.parser(__doc__)
    parser.add_argument("--env", choices=list(EPISODES), default="Pendulum-v1")
    flags = parser.parse_args()
    if flags.run:
        side = {"ours": ours, "sb3": sb3}[flags.run]
        print(json.dumps(side(flags.env, flags.steps, flags.seed, flags.threads)))
    else:
        _pairs.compare(
            f"SAC {flags.env}, threads {flags.threads}, steps/s, learning reached",
            Path(__file__),
            flags,
            peer="sb3",
            own=("--env", flags.env),
        )


if __name__ == "__main__":
    main()
