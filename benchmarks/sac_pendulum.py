"""How many environment steps a second does SAC learn from on Pendulum-v1, beside Stable-Baselines3?

One update a step on a batch of 256, policy and both critics with two hidden layers of 256 and ReLU,
1000 steps of warm-up, the other settings equal; one thread. `learning reached` is the mean of 20
greedy episodes afterwards, which is not timed; neither are import and set-up. The peer's Python:
`python -m venv PATH`, then `PATH/bin/pip install torch==2.13.0 stable-baselines3`.

    python benchmarks/sac_pendulum.py --peer-python PATH/bin/python --steps 5000
"""

from __future__ import annotations

import json
from pathlib import Path

import _pairs

WARM_UP, BATCH, HIDDEN, RATE, EPISODES = 1000, 256, (256, 256), 1e-3, 20


def ours(steps: int, seed: int) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    config = rl.SACConfig(
        env="Pendulum-v1",
        seed=seed,
        total_steps=steps,
        learning_rate=RATE,
        hidden_sizes=HIDDEN,
        batch_size=BATCH,
        learning_starts=WARM_UP,
    )
    with config.build() as algorithm:
        told = _pairs.learn(algorithm)
        return {**told, "return": algorithm.evaluate(EPISODES).mean}


def sb3(steps: int, seed: int) -> dict[str, object]:
    """Trains with Stable-Baselines3."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    model = stable_baselines3.SAC(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 1, seed=seed),
        learning_rate=RATE,
        batch_size=BATCH,
        learning_starts=WARM_UP,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=seed,
        device="cpu",
    )
    told = _pairs.learn_sb3(model, steps)
    reached, _ = evaluate_policy(model, make_vec_env("Pendulum-v1", 1, seed=seed), EPISODES)
    return {**told, "return": reached}


def main() -> None:
    """Compares, or runs one side when asked to by the comparison."""
    flags = _pairs.parser(__doc__).parse_args()
    if flags.run:
        side = {"ours": ours, "sb3": sb3}[flags.run]
        print(json.dumps(side(flags.steps, flags.seed)))
    else:
        _pairs.compare(
            "SAC Pendulum-v1, steps/s, learning reached", Path(__file__), flags, peer="sb3"
        )


if __name__ == "__main__":
    main()
