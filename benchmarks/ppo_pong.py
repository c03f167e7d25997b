"""How many agent steps a second does PPO learn from on Pong, beside Stable-Baselines3?

8 environments x 128 steps, 4 epochs x 4 minibatches of 256, Nature CNN, the usual preprocessing (no
sticky actions, life loss ends an episode, sign rewards, 4 frames stacked), the other settings
equal. Import and set-up are not counted. The peer's Python: `python -m venv PATH`, then
`PATH/bin/pip install torch==2.13.0 stable-baselines3 ale-py opencv-python-headless`.

    python benchmarks/ppo_pong.py --peer-python PATH/bin/python --pairs 2
    python benchmarks/ppo_pong.py --peer-python PATH/bin/python --pairs 2 --pipeline
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _pairs


def ours(steps: int, seed: int, threads: int, pipeline: bool) -> dict[str, object]:
    """Trains with this package, as `learn` does."""
    import rl

    config = rl.PPOConfig(
        env="ALE/Pong-v5",
        env_kwargs={"terminal_on_life_loss": True, "repeat_action_probability": 0.0},
        seed=seed,
        total_steps=steps,
        learning_rate=2.5e-4,
        clip_range=0.1,
        entropy_coef=0.01,
        rollout_length=128,
        num_epochs=4,
        minibatch_size=256,
        shared_torso=True,
        hidden_sizes=(),
        env_runners={"num": 1, "envs_per_runner": 8, "overlap": pipeline},
        learners={"threads": threads},
    )
    with config.build() as algorithm:
        return _pairs.learn(algorithm)


def sb3(steps: int, seed: int, threads: int) -> dict[str, object]:
    """Trains with Stable-Baselines3."""
    import ale_py
    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(threads)
    plain: dict[str, Any] = {"frameskip": 1, "repeat_action_probability": 0.0}
    environments = VecFrameStack(make_atari_env("ALE/Pong-v5", 8, seed=seed, env_kwargs=plain), 4)
    model = stable_baselines3.PPO(
        "CnnPolicy",
        environments,
        n_steps=128,
        batch_size=256,
        n_epochs=4,
        learning_rate=2.5e-4,
        clip_range=0.1,
        ent_coef=0.01,
        seed=seed,
        device="cpu",
    )
    return _pairs.learn_sb3(model, steps)


def main() -> None:
    """Compares, or runs one side when asked to by the comparison."""
    parser = _pairs.parser(__doc__)
    parser.set_defaults(steps=60_000, pairs=2, threads=2)
    parser.add_argument(
        "--pipeline", action="store_true", help="ours samples while it learns, one rollout behind"
    )
    flags = parser.parse_args()
    if flags.run == "ours":
        print(json.dumps(ours(flags.steps, flags.seed, flags.threads, flags.pipeline)))
    elif flags.run:
        print(json.dumps(sb3(flags.steps, flags.seed, flags.threads)))
    else:
        question = "PPO ALE/Pong-v5, agent steps/s"
        question += ", pipeline" * flags.pipeline
        own = ["--pipeline"] if flags.pipeline else []
        _pairs.compare(question, Path(__file__), flags, peer="sb3", own=own)


if __name__ == "__main__":
    main()
